//! What a successor does with a call, and that it is what the former owner would have done.

use proptest::prelude::*;

use super::*;
use crate::setup::Event;

/// A scene whose owner notes what changes the course of the call, as a shard does.
struct Noted {
    scene: Scene,
    targets: String,
    events: Vec<Event>,
}

impl Noted {
    fn begin(targets: &str) -> Noted {
        let scene = Scene::begin(request("INVITE", ""), plan(targets));
        Noted { scene, targets: targets.to_owned(), events: Vec::new() }
    }

    /// One event, in the words of [`Scene`]; unknown branches do nothing.
    fn event(&mut self, event: &str) {
        if let Some(seconds) = event.strip_prefix('+') {
            return self.wait(seconds.parse().unwrap());
        }
        let Some((branch, what)) = event.split_once(": ") else {
            if self.scene.context.is_cancellable() {
                self.events.push(Event::Cancelled);
            }
            return self.scene.event(event);
        };
        let branch: usize = branch.parse().unwrap();
        if branch >= self.scene.sent.len() {
            return;
        }
        let context = &self.scene.context;
        let progressed = context.has_progressed(BranchIndex(branch));
        let is_open = context.is_pending(BranchIndex(branch)) && !context.is_answered();
        let failed = |status| Event::Failed { branch, progressed, status };
        match what {
            _ if context.is_answered() => {}
            "gone" if is_open => self.events.push(failed(430)),
            "unreachable" if is_open => self.events.push(failed(503)),
            "timeout" if is_open => self.events.push(failed(408)),
            "gone" | "unreachable" | "timeout" => {}
            status => match status.parse().unwrap() {
                100..200_u16 => {}
                200..300 => self.events.push(Event::Answered { branch }),
                status if is_open => {
                    let response = response(&self.scene.sent[branch], status);
                    let response = response.buffer().clone();
                    self.events.push(Event::Ended { branch, progressed, response });
                }
                _ => {}
            },
        }
        self.scene.event(event);
    }

    fn wait(&mut self, seconds: u64) {
        let scene = &mut self.scene;
        scene.now += Duration::from_secs(seconds);
        scene.effects.clear();
        let mut asked = Vec::new();
        scene.context.timer(scene.now, &mut asked);
        for effect in asked {
            let is_noted = !scene.context.is_answered();
            match effect {
                ProxyEffect::Overdue { branch } => {
                    let progressed = scene.context.has_progressed(branch);
                    let event = Event::Failed { branch: branch.0, progressed, status: 408 };
                    self.events.extend(is_noted.then_some(event));
                    scene.context.give_up(branch, scene.now, &mut scene.effects);
                }
                ProxyEffect::RingsTooLong { branch } => {
                    self.events.extend(is_noted.then_some(Event::TimerC { branch: branch.0 }));
                    scene.context.stop_ringing(branch, scene.now, &mut scene.effects);
                }
                _ => {}
            }
        }
        scene.remember_sent();
    }

    /// The successor, and what it is asked to do.
    fn resumed(&self) -> (ProxyContext, Vec<ProxyEffect>) {
        let mut effects = Vec::new();
        let (request, plan) = (request("INVITE", ""), plan(&self.targets));
        let context = ProxyContext::resume(
            request,
            plan,
            &deriver(),
            b"z9hG4bKserver",
            &self.events,
            self.scene.now,
            &mut effects,
        );
        (context.unwrap(), effects)
    }
}

fn check(targets: &str, events: &[&str], expected: &str) {
    let mut noted = Noted::begin(targets);
    for event in events {
        noted.event(event);
    }
    let (_, effects) = noted.resumed();
    let effects: Vec<String> = effects.iter().map(show).collect();
    assert_eq!(effects.join(", "), expected, "{targets} after {events:?}");
}

#[test]
fn successor_does_what_is_left_to_do() {
    let cases: [(&str, &[&str], &str); 15] = [
        ("a b", &[], "start 0 a, start 1 b"),
        ("a b", &["0: 180"], "start 0 a, start 1 b"),
        ("a b", &["0: 486"], "acknowledge 0, start 1 b"),
        ("a b", &["0: 486", "1: 404"], "acknowledge 0, acknowledge 1, reply 486, finished"),
        ("a | b", &["0: 486"], "acknowledge 0, start 1 b"),
        ("a>b", &["0: gone"], "start 1 b"),
        ("a>b", &["0: 180", "0: timeout"], "own 408, finished"),
        ("a", &["0: 180", "cancel"], "cancel 0 again"),
        ("a", &["cancel"], "cancel 0 again"),
        ("a | b", &["0: 180", "cancel", "0: 487"], "acknowledge 0, reply 487, finished"),
        ("a b", &["0: 180", "1: 603"], "cancel 0 again, acknowledge 1"),
        ("a b c", &["0: 180", "2: 200"], "cancel 0 again, cancel 1 again, relay 2"),
        ("a", &["0: 180", "+182"], "cancel 0 again"),
        ("a", &["+182"], "own 408, finished"),
        ("", &[], "own 480, finished"),
    ];
    for (targets, events, expected) in cases {
        check(targets, events, expected);
    }
}

#[test]
fn record_that_contradicts_its_request_is_refused() {
    let response = Bytes::from_static(b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n");
    for event in [
        Event::Answered { branch: 1 },
        Event::TimerC { branch: 9 },
        Event::Failed { branch: 1, progressed: false, status: 408 },
        Event::Ended { branch: 0, progressed: false, response },
        Event::Ended { branch: 0, progressed: false, response: Bytes::from_static(b"none") },
    ] {
        let mut noted = Noted::begin("a");
        noted.events.push(event.clone());
        let resumed = ProxyContext::resume(
            request("INVITE", ""),
            plan("a"),
            &deriver(),
            b"z9hG4bKserver",
            &noted.events,
            noted.scene.now,
            &mut Vec::new(),
        );
        assert_eq!(resumed.err(), Some(Contradiction), "{event:?}");
    }
}

fn event() -> impl Strategy<Value = String> {
    let what = prop::sample::select(vec![
        "100",
        "180",
        "183",
        "200",
        "302",
        "404",
        "408",
        "430",
        "486",
        "487",
        "503",
        "603",
        "gone",
        "unreachable",
        "timeout",
    ]);
    prop_oneof![
        10 => (0..6_usize, what).prop_map(|(branch, what)| format!("{branch}: {what}")),
        1 => Just("cancel".to_owned()),
        1 => (0..200_u64).prop_map(|seconds| format!("+{seconds}")),
    ]
}

/// What of a context decides on all that follows.
fn course(context: &ProxyContext) -> String {
    let pending: Vec<bool> =
        context.branches.iter().map(|branch| branch.state.is_pending()).collect();
    let answered = context.branches.iter().filter(|b| b.state == BranchState::Accepted).count();
    let further: Vec<bool> =
        context.branches.iter().map(|branch| branch.callee.has_further_flow()).collect();
    format!(
        "{:?} {pending:?} {answered} {further:?} {:?} {:?}",
        context.progress,
        context.targets,
        context.outcomes.best(context.asked())
    )
}

proptest! {
    #[test]
    fn successor_stands_where_the_former_owner_stood(
        targets in prop::sample::select(vec!["a", "a b", "a b c", "a | b | c", "a>b>c d | e>f"]),
        events in prop::collection::vec(event(), 0..14),
    ) {
        let mut noted = Noted::begin(targets);
        for event in &events {
            noted.event(event);
            let former = &noted.scene.context;
            if former.is_answered() {
                break; // nothing more is noted
            }
            let (successor, effects) = noted.resumed();
            prop_assert_eq!(course(&successor), course(former), "after {}", event);
            // Who is asked again was asked before, byte for byte.
            for effect in &effects {
                if let ProxyEffect::Start { branch, request, .. }
                    | ProxyEffect::Resume { branch, request, .. } = effect
                {
                    prop_assert_eq!(request, noted.scene.sent[branch.0].buffer());
                }
            }
        }
    }
}
