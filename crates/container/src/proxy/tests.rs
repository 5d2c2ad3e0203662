//! Sequences of events in virtual time, as scripts.
//!
//! Targets: `a b | c>d` = a and b in parallel, then c, with d as next flow of c's phone. A script line is
//! `event => effects`; events are `begin`, `N: STATUS` (response on branch N), `N: gone|unreachable|timeout`,
//! `cancel` and `+SECONDS` (time passes, one timer call at its end). Effects are `start N target`, `cancel N`,
//! `abandon N`, `reply STATUS` (relayed), `own STATUS` and `finished`.

#![allow(clippy::unwrap_used)]

use topology::KeyRing;
use topology::token::OWNER_TOKEN_CHARS;

use super::*;
use crate::application::{QValue, Target};

mod cancels;
mod replays;
mod whatever_happens;

const HEADERS: &str = "Via: SIP/2.0/UDP edge;branch=z9hG4bKserver\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
    To: <sip:bob@example.com>\r\nCall-ID: call-1\r\nContent-Length: 0\r\n";

fn request(method: &str, extra: &str) -> Message {
    let text =
        format!("{method} sip:bob@example.com SIP/2.0\r\n{HEADERS}CSeq: 1 {method}\r\n{extra}\r\n");
    Message::parse(text.into_bytes().into()).unwrap()
}

fn deriver() -> BranchDeriver {
    let key = KeyRing::new([7; 32]).derive("branch");
    BranchDeriver::new(&key, [b'o'; OWNER_TOKEN_CHARS], "c1.node1.outlast.invalid")
}

fn plan(targets: &str) -> ProxyPlan {
    let mut all = Vec::new();
    for (group, q) in targets.split('|').zip((0..1000).rev()) {
        for (phone, flows) in group.split_whitespace().enumerate() {
            for flow in flows.split('>') {
                all.push(Target {
                    q: QValue::from_thousandths(q),
                    instance: flows.contains('>').then(|| format!("{q} {phone}").into()),
                    ..Target::new(format!("sip:{flow}@phone"))
                });
            }
        }
    }
    ProxyPlan::to_targets(all)
}

/// A context, the requests it sent, and the time.
struct Scene {
    context: ProxyContext,
    sent: Vec<Message>,
    now: Instant,
    effects: Vec<ProxyEffect>,
}

impl Scene {
    fn begin(request: Message, plan: ProxyPlan) -> Scene {
        let (now, mut effects) = (Instant::now(), Vec::new());
        let context =
            ProxyContext::new(request, plan, &deriver(), b"z9hG4bKserver", now, &mut effects);
        let mut scene = Scene { context, sent: Vec::new(), now, effects };
        scene.remember_sent();
        scene
    }

    fn remember_sent(&mut self) {
        for effect in &self.effects {
            if let ProxyEffect::Start { request, .. } = effect {
                self.sent.push(Message::parse(request.clone()).unwrap());
            }
        }
    }

    fn event(&mut self, event: &str) {
        self.effects.clear();
        let (now, effects) = (self.now, &mut self.effects);
        if event == "begin" {
            return;
        } else if event == "cancel" {
            self.context.cancel(now, effects);
        } else if let Some(seconds) = event.strip_prefix('+') {
            self.now += Duration::from_millis((seconds.parse::<f64>().unwrap() * 1000.0) as u64);
            self.context.timer(self.now, effects);
            // As an owner that has nothing to note.
            for effect in std::mem::take(effects) {
                match effect {
                    ProxyEffect::Overdue { branch } => {
                        self.context.give_up(branch, self.now, effects);
                    }
                    ProxyEffect::RingsTooLong { branch } => {
                        self.context.stop_ringing(branch, self.now, effects);
                    }
                    other => effects.push(other),
                }
            }
        } else {
            let (branch, what) = event.split_once(": ").unwrap();
            let index = BranchIndex(branch.parse().unwrap());
            let failure = match what {
                "gone" => Some(TransportFailure::FlowGone),
                "unreachable" => Some(TransportFailure::Unreachable),
                "timeout" => Some(TransportFailure::TimedOut),
                _ => None,
            };
            match failure {
                Some(failure) => self.context.transport_failed(index, failure, now, effects),
                None => {
                    let response = response(&self.sent[index.0], what.parse().unwrap());
                    self.context.response(index, response, now, effects);
                }
            }
        }
        self.remember_sent();
    }

    fn seen(&self) -> String {
        self.effects.iter().map(show).collect::<Vec<_>>().join(", ")
    }
}

fn response(request: &Message, status: u16) -> Message {
    let vias: String = request
        .fields(HeaderName::Via)
        .map(|via| format!("Via: {}\r\n", String::from_utf8_lossy(via)))
        .collect();
    let text = format!(
        "SIP/2.0 {status} Said\r\n{vias}From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>;tag=2\r\n\
         Call-ID: call-1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    );
    Message::parse(text.into_bytes().into()).unwrap()
}

fn show(effect: &ProxyEffect) -> String {
    match effect {
        ProxyEffect::Start { branch, request, .. } => {
            let sent = Message::parse(request.clone()).unwrap();
            let uri = String::from_utf8_lossy(sent.request_uri().unwrap()).into_owned();
            let name = uri.trim_start_matches("sip:").trim_end_matches("@phone");
            format!("start {} {name}", branch.0)
        }
        ProxyEffect::Resume { branch, resumption, .. } => match resumption {
            Resumption::Cancel => format!("cancel {} again", branch.0),
            Resumption::Relay => format!("relay {}", branch.0),
            Resumption::Acknowledge(_) => format!("acknowledge {}", branch.0),
        },
        ProxyEffect::Overdue { branch } => format!("overdue {}", branch.0),
        ProxyEffect::RingsTooLong { branch } => format!("rings too long {}", branch.0),
        ProxyEffect::Cancel { branch } => format!("cancel {}", branch.0),
        ProxyEffect::Abandon { branch } => format!("abandon {}", branch.0),
        ProxyEffect::Reply { response } => {
            let relayed = Message::parse(response.clone()).unwrap();
            assert_eq!(relayed.top_via().unwrap().branch(), Some(&b"z9hG4bKserver"[..]));
            format!("reply {}", relayed.status().unwrap())
        }
        ProxyEffect::ReplyOwn { status } => format!("own {status}"),
        ProxyEffect::Finished => "finished".to_owned(),
    }
}

fn check_request(request: Message, targets: &str, script: &str) {
    let mut scene = Scene::begin(request, plan(targets));
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (event, expected) = line.split_once("=>").unwrap();
        if event.trim() != "begin" {
            scene.event(event.trim());
        }
        assert_eq!(scene.seen(), expected.trim(), "at `{line}` of {script}");
    }
}

fn check_invite(targets: &str, script: &str) {
    check_request(request("INVITE", ""), targets, script);
}

fn check_message(targets: &str, script: &str) {
    check_request(request("MESSAGE", ""), targets, script);
}

// Forking (RFC 3261 §16.6, §16.7)

#[test]
fn equal_q_is_tried_in_parallel_and_lower_q_after_all_have_failed() {
    check_invite(
        "a b | c",
        "begin  => start 0 a, start 1 b
         0: 486 =>
         1: 404 => start 2 c
         2: 500 => reply 486, finished",
    );
}

#[test]
fn nobody_to_ask_is_480() {
    check_invite("", "begin => own 480, finished");
    check_message("", "begin => own 480, finished");
}

#[test]
fn provisional_responses_go_on_at_once_but_100_does_not() {
    check_invite(
        "a b",
        "begin  => start 0 a, start 1 b
         0: 100 =>
         0: 180 => reply 180
         1: 183 => reply 183
         0: 180 => reply 180
         0: 486 =>
         1: 180 => reply 180",
    );
}

#[test]
fn first_2xx_is_relayed_at_once_and_cancels_the_other_branches() {
    check_invite(
        "a b c | d",
        "begin  => start 0 a, start 1 b, start 2 c
         0: 180 => reply 180
         1: 486 =>
         2: 200 => reply 200, cancel 0
         0: 487 =>
         +32    => finished",
    );
}

#[test]
fn every_2xx_to_invite_is_relayed_even_after_a_final() {
    check_invite(
        "a b",
        "begin  => start 0 a, start 1 b
         1: 180 => reply 180
         0: 200 => reply 200, cancel 1
         1: 200 => reply 200
         0: 200 => reply 200
         +31.9  =>
         0: 202 => reply 202
         +0.1   => finished",
    );
    let mut scene = Scene::begin(request("INVITE", ""), plan("a"));
    for (event, expected) in [("0: 486", "reply 486, finished"), ("0: 200", "reply 200")] {
        scene.event(event);
        assert_eq!(scene.seen(), expected);
        assert_eq!(scene.context.next_timeout(), None, "a finished context wants no timer");
    }
}

#[test]
fn no_other_final_follows_a_2xx() {
    check_invite(
        "a b c",
        "begin  => start 0 a, start 1 b, start 2 c
         0: 200 => reply 200
         1: 603 =>
         2: 401 =>
         +32    => finished",
    );
}

#[test]
fn no_provisional_response_follows_a_final() {
    check_invite(
        "a b",
        "begin  => start 0 a, start 1 b
         0: 200 => reply 200
         1: 180 => cancel 1
         1: 183 =>
         1: 487 =>
         +32    => finished",
    );
}

#[test]
fn decline_everywhere_stops_the_search_and_is_relayed_when_all_have_ended() {
    check_invite(
        "a b c | d",
        "begin  => start 0 a, start 1 b, start 2 c
         0: 180 => reply 180
         1: 603 => cancel 0
         0: 487 =>
         2: 100 => cancel 2
         2: 487 => reply 603, finished",
    );
}

#[test]
fn answer_after_a_decline_still_wins() {
    check_invite(
        "a b",
        "begin  => start 0 a, start 1 b
         0: 180 => reply 180
         1: 603 => cancel 0
         0: 200 => reply 200
         +32    => finished",
    );
}

#[test]
fn lone_redirection_is_passed_on() {
    check_invite("a", "begin => start 0 a\n 0: 302 => reply 302, finished");
}

#[test]
fn service_unavailable_of_one_branch_becomes_500() {
    check_invite("a", "begin => start 0 a\n 0: 503 => own 500, finished");
    check_invite("a", "begin => start 0 a\n 0: unreachable => own 500, finished");
}

#[test]
fn second_final_of_a_branch_is_ignored() {
    check_invite(
        "a b",
        "begin   => start 0 a, start 1 b
         0: 486  =>
         0: 603  =>
         0: gone =>
         1: 404  => reply 486, finished
         1: 404  =>",
    );
}

#[test]
fn final_response_without_upstream_via_counts_as_502() {
    let mut scene = Scene::begin(request("INVITE", ""), plan("a"));
    for (status, expected) in [(180, ""), (486, "own 502, finished")] {
        let text = String::from_utf8(response(&scene.sent[0], status).buffer().to_vec()).unwrap();
        let text = text.replace("Via: SIP/2.0/UDP edge;branch=z9hG4bKserver\r\n", "");
        let stripped = Message::parse(text.into_bytes().into()).unwrap();
        scene.effects.clear();
        scene.context.response(BranchIndex(0), stripped, scene.now, &mut scene.effects);
        assert_eq!(scene.seen(), expected);
    }
}

// Flows of one phone (RFC 5626 §5.3, §7)

#[test]
fn next_flow_of_a_phone_is_tried_when_one_has_failed() {
    for failure in ["430", "gone", "unreachable", "408", "timeout"] {
        check_invite(
            "a>b c",
            &format!(
                "begin        => start 0 a, start 1 c
                 0: {failure} => start 2 b
                 2: 180       => reply 180
                 2: 486       =>
                 1: 404       => reply 486, finished"
            ),
        );
    }
}

#[test]
fn next_flow_is_not_tried_when_the_phone_has_decided_or_rung() {
    check_invite("a>b", "begin => start 0 a\n 0: 486 => reply 486, finished");
    check_invite(
        "a>b",
        "begin  => start 0 a
         0: 180 => reply 180
         0: 408 => reply 408, finished",
    );
    // 100 is from the next hop, not from the phone.
    check_invite(
        "a>b",
        "begin  => start 0 a
         0: 100 =>
         0: 408 => start 1 b",
    );
}

#[test]
fn next_flow_is_not_tried_when_the_caller_has_its_answer() {
    check_invite(
        "a>b c",
        "begin   => start 0 a, start 1 c
         1: 200  => reply 200
         0: gone =>
         +32     => finished",
    );
}

#[test]
fn phone_whose_flows_are_all_gone_is_480() {
    check_invite(
        "a>b",
        "begin   => start 0 a
         0: 100  =>
         0: gone => start 1 b
         1: 430  => own 480, finished",
    );
}

// Anything but INVITE (RFC 4320)

#[test]
fn non_invite_gets_neither_provisional_responses_nor_408() {
    check_message(
        "a b",
        "begin      => start 0 a, start 1 b
         0: 183     =>
         0: 408     =>
         1: timeout => finished",
    );
}

#[test]
fn non_invite_gets_the_first_2xx_and_no_other() {
    check_message(
        "a b",
        "begin  => start 0 a, start 1 b
         0: 100 =>
         1: 200 => reply 200
         0: 200 => finished",
    );
}

#[test]
fn non_invite_has_no_timer_of_the_proxy() {
    let scene = Scene::begin(request("MESSAGE", ""), plan("a b"));
    assert_eq!(scene.context.next_timeout(), None);
}

// What is not forwarded at all

#[test]
fn no_hops_left_is_483() {
    let spent = request("INVITE", "Max-Forwards: 0\r\n");
    check_request(spent, "a", "begin => own 483, finished");
}

#[test]
fn loop_is_482_and_a_spiral_is_forwarded() {
    // RFC 5393 §4.2: what left for a comes back, unchanged or retargeted.
    let first = Scene::begin(request("INVITE", ""), plan("a"));
    let left = String::from_utf8(first.sent[0].buffer().to_vec()).unwrap();
    let returned = |uri: &str| {
        let text = left.replacen("sip:a@phone", uri, 1);
        Message::parse(text.into_bytes().into()).unwrap()
    };
    check_request(returned("sip:bob@example.com"), "a", "begin => own 482, finished");
    check_request(returned("sip:carol@example.com"), "a", "begin => start 0 a");
}

#[test]
fn more_branches_than_max_breadth_are_440() {
    let narrow = |breadth: &str| request("INVITE", &format!("Max-Breadth: {breadth}\r\n"));
    check_request(narrow("2"), "a b c", "begin => own 440, finished");
    check_request(narrow("0"), "a", "begin => own 440, finished");
    // One after the other, each may have all of it.
    check_request(
        narrow("1"),
        "a | b>c",
        "begin   => start 0 a
         0: 486  => start 1 b
         1: gone => start 2 c",
    );
    // A group too broad is passed over.
    check_request(
        narrow("1"),
        "a b | c",
        "begin  => start 0 c
         0: 486 => reply 486, finished",
    );
}

#[test]
fn max_breadth_is_split_over_parallel_branches() {
    let shares = |brought: &str, targets: &str| -> Vec<String> {
        Scene::begin(request("INVITE", brought), plan(targets))
            .sent
            .iter()
            .map(|sent| {
                String::from_utf8_lossy(sent.field(HeaderName::MaxBreadth).unwrap()).into_owned()
            })
            .collect()
    };
    assert_eq!(shares("", "a"), ["60"]);
    assert_eq!(shares("", "a b c d e f g"), ["9", "9", "9", "9", "8", "8", "8"]);
    assert_eq!(shares("Max-Breadth: 5\r\n", "a>x b>y"), ["3", "2"]);
    assert_eq!(shares("Max-Breadth: 5000000000\r\n", "a"), ["60"]);
    assert_eq!(shares("Max-Breadth: 61\r\n", "a b"), ["30", "30"]);

    // The next flow of a phone takes over the share of the failed one.
    let mut scene = Scene::begin(request("INVITE", "Max-Breadth: 5\r\n"), plan("a b>c"));
    scene.event("1: gone");
    assert_eq!(scene.sent[2].field(HeaderName::MaxBreadth), Some(&b"2"[..]));
}

#[test]
fn request_that_outgrows_a_message_is_513() {
    let long = format!("Subject: {}\r\n", "x".repeat(65_200));
    let many = "X-Field: 1\r\n".repeat(sip::FIELDS_MAX - 8);
    for extra in [long, many] {
        check_request(request("INVITE", &extra), "a>b | c", "begin => own 513, finished");
    }
}

#[test]
fn continued_set_up_resends_under_the_same_branches() {
    let (one, other) = (
        Scene::begin(request("INVITE", ""), plan("a b")),
        Scene::begin(request("INVITE", ""), plan("a b")),
    );
    assert_eq!(one.effects, other.effects);
}
