//! Random sequences of events: what must hold whatever happens, and that it ends.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Happening {
    Response(usize, u16),
    Failure(usize, TransportFailure),
    Cancel,
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let status = prop_oneof![
        3 => prop::sample::select(vec![100_u16, 180, 183]),
        1 => prop::sample::select(vec![200_u16, 202]),
        3 => prop::sample::select(vec![302_u16, 401, 404, 407, 408, 430, 486, 487, 500, 503]),
        1 => Just(603_u16),
    ];
    let failure = prop::sample::select(vec![
        TransportFailure::FlowGone,
        TransportFailure::Unreachable,
        TransportFailure::TimedOut,
    ]);
    prop_oneof![
        8 => (0..8_usize, status).prop_map(|(branch, status)| Happening::Response(branch, status)),
        2 => (0..8_usize, failure).prop_map(|(branch, failure)| Happening::Failure(branch, failure)),
        1 => Just(Happening::Cancel),
        1 => (0..200_u64).prop_map(Happening::Wait),
    ]
}

/// What must hold of all effects, whatever the events were.
#[derive(Default)]
struct Invariants {
    /// Branches that had a provisional response.
    provisional: Vec<bool>,
    cancelled: Vec<bool>,
    ended: Vec<bool>,
    /// Target of each branch, and the phones as lists of theirs.
    names: Vec<String>,
    phones: Vec<Vec<String>>,
    /// No branch may start any more.
    decided: bool,
    success: bool,
    failures: usize,
    finished: usize,
}

impl Invariants {
    fn of(targets: &str) -> Invariants {
        let phones = targets.split_whitespace();
        let flows = |phone: &str| phone.split('>').map(str::to_owned).collect();
        Invariants { phones: phones.map(flows).collect(), ..Invariants::default() }
    }

    fn observe(&mut self, effects: &[ProxyEffect]) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                ProxyEffect::Start { branch, .. } => {
                    prop_assert!(!self.decided, "start after the decision");
                    prop_assert_eq!(branch.0, self.names.len());
                    let started = show(effect);
                    let name = started.rsplit(' ').next().unwrap().to_owned();
                    let phone = self.phones.iter().find(|flows| flows.contains(&name)).unwrap();
                    for (known, ended) in self.names.iter().zip(&self.ended) {
                        prop_assert!(*ended || !phone.contains(known), "two flows of one phone");
                        prop_assert_ne!(known, &name, "a target is tried twice");
                    }
                    self.names.push(name);
                    self.provisional.push(false);
                    self.cancelled.push(false);
                    self.ended.push(false);
                }
                ProxyEffect::Cancel { branch } => {
                    prop_assert!(self.provisional[branch.0], "CANCEL before 1xx");
                    prop_assert!(!self.cancelled[branch.0], "second CANCEL");
                    self.cancelled[branch.0] = true;
                }
                ProxyEffect::Abandon { branch } => self.ended[branch.0] = true,
                ProxyEffect::Reply { response } => {
                    let status = Message::parse(response.clone()).unwrap().status().unwrap();
                    match status / 100 {
                        1 => prop_assert!(!self.success && self.failures == 0, "1xx after a final"),
                        2 => self.success = true,
                        _ => self.failure()?,
                    }
                }
                ProxyEffect::ReplyOwn { .. } => self.failure()?,
                ProxyEffect::Finished => self.finished += 1,
                ProxyEffect::Resume { .. }
                | ProxyEffect::Overdue { .. }
                | ProxyEffect::RingsTooLong { .. } => prop_assert!(false, "{}", show(effect)),
            }
            self.decided |= self.success || self.failures > 0;
        }
        prop_assert!(self.finished <= 1);
        Ok(())
    }

    fn failure(&mut self) -> Result<(), TestCaseError> {
        prop_assert!(!self.success, "a non-2xx final after a 2xx");
        prop_assert_eq!(self.failures, 0, "a second non-2xx final");
        self.failures += 1;
        Ok(())
    }
}

fn observe_everything(
    invite: bool,
    targets: &str,
    happenings: &[Happening],
) -> Result<(), TestCaseError> {
    let mut scene =
        Scene::begin(request(if invite { "INVITE" } else { "MESSAGE" }, ""), plan(targets));
    let mut invariants = Invariants::of(targets);
    invariants.observe(&scene.effects)?;
    for happening in happenings {
        let known = scene.sent.len();
        if scene.context.is_finished() {
            break;
        }
        match *happening {
            Happening::Response(branch, status) if branch < known => {
                invariants.provisional[branch] |= status < 200;
                invariants.decided |= status >= 600 && !invariants.ended[branch];
                invariants.ended[branch] |= status >= 200;
                scene.event(&format!("{branch}: {status}"));
                if invite && status / 100 == 2 {
                    let relayed = scene
                        .effects
                        .iter()
                        .any(|effect| show(effect) == format!("reply {status}"));
                    prop_assert!(relayed, "2xx swallowed");
                }
            }
            Happening::Failure(branch, _) if branch >= known => continue,
            Happening::Failure(branch, failure) => {
                let word = match failure {
                    TransportFailure::FlowGone => "gone",
                    TransportFailure::Unreachable => "unreachable",
                    TransportFailure::TimedOut => "timeout",
                };
                invariants.ended[branch] = true;
                scene.event(&format!("{branch}: {word}"));
            }
            Happening::Response(..) => continue,
            Happening::Cancel => {
                invariants.decided |= invite;
                scene.event("cancel");
            }
            Happening::Wait(seconds) => scene.event(&format!("+{seconds}")),
        }
        invariants.observe(&scene.effects)?;
    }
    // Nobody says anything any more: deadlines end an INVITE, Timer F the branches of anything else.
    for round in 0..64 {
        if scene.context.is_finished() {
            break;
        }
        match scene.context.next_timeout() {
            Some(at) => {
                scene.now = scene.now.max(at);
                scene.event("+0");
            }
            None => {
                let branch = round % scene.sent.len();
                invariants.ended[branch] = true;
                scene.event(&format!("{branch}: timeout"));
            }
        }
        invariants.observe(&scene.effects)?;
    }
    prop_assert!(scene.context.is_finished(), "never ends");
    prop_assert_eq!(scene.context.next_timeout(), None);
    prop_assert_eq!(invariants.finished, 1);
    prop_assert!(
        !invite || invariants.success || invariants.failures == 1,
        "INVITE without a final"
    );
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_the_caller_gets_one_outcome_and_the_context_ends(
        invite in prop::bool::weighted(0.8),
        targets in prop::sample::select(vec!["", "a", "a b", "a b c", "a | b | c", "a>b>c d | e>f"]),
        happenings in prop::collection::vec(happening(), 0..40),
    ) {
        observe_everything(invite, targets, &happenings)?;
    }
}
