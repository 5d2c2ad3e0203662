//! The agent driven by hand: events in, effects out, and a view that changes as the container would change it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use container::application::{Body, Header};
use container::session::{LegDirection, LegView, SessionId};
use sip::ResponseBuilder;

use super::*;

/// A session and the agent; refuses effects that break the rules of the trait.
struct Driver {
    agent: BackToBack,
    view: SessionView,
    requests: u64,
    invite: Message,
    has_ended: bool,
}

const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 127.0.0.1\r\n";
const ANSWER: &str = "v=0\r\no=bob 2 1 IN IP4 127.0.0.1\r\n";

fn message(start: &str, cseq: &str, more: &str, body: &str) -> Message {
    let content = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let text = format!(
        "{start}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@b2b.example.com>\r\nCall-ID: c\r\nCSeq: {cseq}\r\nContact: <sip:alice@192.0.2.1>\r\n\
         {more}{content}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Message::parse(text.into_bytes().into()).unwrap()
}

fn invite(uri: &str, more: &str) -> Message {
    message(&format!("INVITE {uri} SIP/2.0"), "1 INVITE", more, OFFER)
}

fn answer(status: u16, method: &str, body: &str) -> Message {
    message(&format!("SIP/2.0 {status} Whatever"), &format!("1 {method}"), "", body)
}

fn leg(name: &str, direction: LegDirection, state: LegState) -> LegView {
    LegView {
        name: LegName::new(name),
        direction,
        state,
        call_id: "c".into(),
        unanswered: Vec::new(),
        waiting: Vec::new(),
        wants_ack: false,
        linked: None,
        is_proxied: false,
    }
}

impl Driver {
    fn new() -> Driver {
        let view = SessionView {
            id: SessionId([7; 16]),
            is_new: false,
            key: None,
            outgoing: 0,
            unheard_signals: 0,
            record_bytes: 0,
            now: state::UnixMillis(1_000),
            created: state::UnixMillis(1_000),
            expires: state::UnixMillis(9_000_000),
            attributes: BTreeMap::new(),
            legs: vec![leg(CALLER, LegDirection::Incoming, LegState::Early)],
            timers: Vec::new(),
        };
        let invite = invite("sip:bob@b2b.example.com", "Subject: lunch\r\n");
        Driver { agent: BackToBack::default(), view, requests: 0, invite, has_ended: false }
    }

    fn happens(&mut self, event: &SessionEvent) -> Vec<SessionEffect> {
        assert!(!self.has_ended, "nothing is told after the end");
        let effects = self.agent.on_event(&self.view, event).now_or_never().unwrap();
        for effect in &effects {
            self.apply(effect);
        }
        effects
    }

    fn apply(&mut self, effect: &SessionEffect) {
        match effect {
            SessionEffect::Set { name, value } => {
                self.view.attributes.insert(name.clone(), value.clone());
            }
            SessionEffect::Remove { name } => drop(self.view.attributes.remove(name)),
            SessionEffect::Respond { request, response } => {
                assert!(request.0 < self.requests, "answers a request that never came");
                if request.0 == 0 && (200..300).contains(&response.status) {
                    self.view.legs.iter_mut().for_each(|leg| leg.state = LegState::Confirmed);
                }
            }
            SessionEffect::Call { leg: name, .. } => {
                assert!(self.view.leg(name.as_str()).is_none(), "{name} is there already");
                self.view.legs.push(leg(name.as_str(), LegDirection::Outgoing, LegState::Early));
            }
            SessionEffect::Send { leg, .. } => {
                assert_eq!(self.view.leg(leg.as_str()).unwrap().state, LegState::Confirmed);
            }
            SessionEffect::End => self.has_ended = true,
            SessionEffect::StartTimer { .. }
            | SessionEffect::StopTimer { .. }
            | SessionEffect::Acknowledge { .. }
            | SessionEffect::Cancel { .. }
            | SessionEffect::ExpireAfter { .. }
            | SessionEffect::EndWhenReady { .. } => {}
            SessionEffect::SendOutside { .. }
            | SessionEffect::HttpRespond(_)
            | SessionEffect::Signal { .. }
            | SessionEffect::Link { .. }
            | SessionEffect::Proxy { .. }
            | SessionEffect::Unlink { .. } => panic!("the agent has no use for {effect:?}"),
        }
    }

    fn asks(&mut self, leg: &str, message: Message) -> Vec<SessionEffect> {
        let request = RequestId(self.requests);
        self.requests += 1;
        self.happens(&SessionEvent::Request { leg: LegName::new(leg), request, message })
    }

    fn answers(&mut self, leg: &str, message: Message) -> Vec<SessionEffect> {
        self.happens(&SessionEvent::Response { leg: LegName::new(leg), message })
    }

    fn fails(&mut self, leg: &str, method: &'static str, status: u16) -> Vec<SessionEffect> {
        let leg = LegName::new(leg);
        self.happens(&SessionEvent::Failed { leg, method: method.into(), status })
    }

    fn fires(&mut self, name: &str) -> Vec<SessionEffect> {
        self.happens(&SessionEvent::Timer { name: name.to_owned() })
    }

    fn calling() -> Driver {
        let mut driver = Driver::new();
        let invite = driver.invite.clone();
        driver.asks(CALLER, invite);
        driver
    }

    fn up() -> Driver {
        let mut driver = Driver::calling();
        driver.answers(CALLEE, answer(200, "INVITE", ANSWER));
        driver
    }
}

/// Status of the only answer among the effects, and the request it answers.
fn told(effects: &[SessionEffect]) -> Option<(u64, u16)> {
    let mut told = effects.iter().filter_map(|effect| match effect {
        SessionEffect::Respond { request, response } => Some((request.0, response.status)),
        _ => None,
    });
    let first = told.next();
    assert_eq!(told.next(), None, "one answer");
    first
}

fn ends(effects: &[SessionEffect]) -> bool {
    effects.contains(&SessionEffect::End)
}

fn sdp(content: &'static str) -> Option<Body> {
    Some(Body { content_type: "application/sdp".into(), content: content.into() })
}

#[test]
fn takes_calls_to_its_own_domain_only() {
    let agent = BackToBack::default();
    assert!(agent.accepts(&invite("sip:bob@b2b.example.com", "")));
    assert!(agent.accepts(&invite("sip:bob@B2B.localhost:5060;transport=tcp", "")));
    for other in [
        "sip:bob@example.com",
        "sip:b2b.example.com",
        "sip:bob@b2b",
        "sip:bob@b2bexample.com",
        "sip:b2b.bob@example.com",
        "sip:bob@192.0.2.1",
        "sips:bob@b2b.example.com",
        "tel:112",
    ] {
        assert!(!agent.accepts(&invite(other, "")), "{other}");
    }
    let options = message("OPTIONS sip:bob@b2b.example.com SIP/2.0", "1 OPTIONS", "", "");
    assert!(!agent.accepts(&options));
}

#[test]
fn a_call_becomes_another_one_with_the_same_offer() {
    let mut driver = Driver::new();
    let invite = driver.invite.clone();
    let effects = driver.asks(CALLER, invite);
    let call = effects.iter().find(|effect| matches!(effect, SessionEffect::Call { .. }));
    assert_eq!(
        call,
        Some(&SessionEffect::Call {
            leg: LegName::new(CALLEE),
            target: "sip:bob@example.com".into(),
            from: "<sip:alice@b2b.example.com>".into(),
            to: "<sip:bob@example.com>".into(),
            headers: vec![Header {
                name: container::application::FieldName::Known(HeaderName::Subject),
                value: "lunch".into()
            }],
            body: sdp(OFFER),
        })
    );
    assert_eq!(told(&effects), None);
    assert_eq!(started(&effects, NO_ANSWER), Some(Limits::default().ring_time_max));
}

/// After how long a timer is started among the effects.
fn started(effects: &[SessionEffect], timer: &str) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        SessionEffect::StartTimer { name, after, .. } if name == timer => Some(*after),
        _ => None,
    })
}

#[test]
fn extensions_that_the_caller_requires_are_refused() {
    let mut driver = Driver::new();
    let effects = driver.asks(CALLER, invite("sip:bob@b2b.example.com", "Require: 100rel\r\n"));
    assert_eq!(told(&effects), Some((0, 420)));
    assert!(ends(&effects));
}

#[test]
fn ringing_and_answer_go_back_and_the_ack_goes_on() {
    let mut driver = Driver::calling();
    assert_eq!(told(&driver.answers(CALLEE, answer(183, "INVITE", ANSWER))), Some((0, 183)));
    assert_eq!(told(&driver.answers(CALLEE, answer(180, "INVITE", ""))), Some((0, 180)));
    let effects = driver.answers(CALLEE, answer(200, "INVITE", ANSWER));
    assert_eq!(told(&effects), Some((0, 200)));
    let body = effects.iter().find_map(|effect| match effect {
        SessionEffect::Respond { response, .. } => response.body.clone(),
        _ => None,
    });
    assert_eq!(body, sdp(ANSWER), "the answer passes as it is");
    assert!(effects.contains(&SessionEffect::StopTimer { name: NO_ANSWER.to_owned() }));
    assert_eq!(driver.view.attributes[ANSWERED], "1000");
    assert_eq!(started(&effects, LIMIT), Some(Limits::default().call_time_max));
    let message = message("ACK sip:x SIP/2.0", "1 ACK", "", ANSWER);
    let leg = LegName::caller();
    assert_eq!(
        driver.happens(&SessionEvent::Acknowledged { leg, message }),
        [SessionEffect::Acknowledge {
            leg: LegName::new(CALLEE),
            headers: Vec::new(),
            body: sdp(ANSWER)
        }]
    );
}

#[test]
fn requests_in_the_call_are_asked_on_the_other_side_and_answered_from_there() {
    for (from, to) in [(CALLER, CALLEE), (CALLEE, CALLER)] {
        for method in ["INVITE", "INFO", "UPDATE", "MESSAGE", "OPTIONS"] {
            let mut driver = Driver::up();
            driver.view.now = state::UnixMillis(2_000);
            let start = format!("{method} sip:x SIP/2.0");
            let asked = message(&start, &format!("2 {method}"), "", OFFER);
            let effects = driver.asks(from, asked.clone());
            assert!(
                effects.iter().any(|effect| matches!(effect,
                    SessionEffect::Send { leg, method: sent, body, .. }
                        if leg.as_str() == to && sent == method && *body == sdp(OFFER))),
                "{method}: {effects:?}"
            );
            let again = driver.asks(from, asked);
            let busy = if method == "INVITE" { 491 } else { 500 };
            assert_eq!(told(&again), Some((2, busy)), "one at a time");
            let effects = driver.answers(to, answer(200, method, ANSWER));
            assert_eq!(told(&effects), Some((1, 200)), "{method}");
            assert!(
                !ends(&effects)
                    && waiting(&driver.view, &LegName::new(to), method.as_bytes()).is_none()
            );
            assert_eq!(driver.view.attributes[ANSWERED], "1000", "answered once");
        }
    }
}

#[test]
fn what_the_agent_does_not_know_is_refused() {
    let mut driver = Driver::up();
    let effects = driver.asks(CALLER, message("REFER sip:x SIP/2.0", "2 REFER", "", ""));
    assert_eq!(told(&effects), Some((1, 405)));
    // Before the other side has answered there is nobody to ask.
    let mut driver = Driver::calling();
    let effects = driver.asks(CALLER, message("UPDATE sip:x SIP/2.0", "2 UPDATE", "", ""));
    assert_eq!(told(&effects), Some((1, 481)));
}

#[test]
fn either_side_ends_both() {
    for side in [CALLER, CALLEE] {
        let mut driver = Driver::up();
        let effects = driver.asks(side, message("BYE sip:x SIP/2.0", "2 BYE", "", ""));
        assert_eq!(told(&effects), Some((1, 200)));
        assert!(ends(&effects));
    }
}

#[test]
fn a_call_given_up_is_ended_but_a_reinvite_given_up_is_cancelled_only() {
    let cancelled =
        |leg: &str, request| SessionEvent::Cancelled { leg: LegName::new(leg), request };
    let mut driver = Driver::calling();
    assert_eq!(driver.happens(&cancelled(CALLER, RequestId(0))), [SessionEffect::End]);
    let mut driver = Driver::up();
    driver.asks(CALLEE, message("INVITE sip:x SIP/2.0", "2 INVITE", "", OFFER));
    let effects = driver.happens(&cancelled(CALLEE, RequestId(1)));
    assert_eq!(effects, [SessionEffect::Cancel { leg: LegName::caller() }]);
    assert!(!ends(&driver.fails(CALLER, "INVITE", 487)), "the call goes on");
    let again = driver.asks(CALLEE, message("INVITE sip:x SIP/2.0", "3 INVITE", "", OFFER));
    assert_eq!(told(&again), None, "and may be asked again");
}

#[test]
fn refusals_go_back_as_far_as_they_concern_the_caller() {
    for (status, told_as) in [
        (486, 486),
        (404, 404),
        (603, 603),
        (302, 480),
        (407, 403),
        (401, 403),
        (503, 500),
        (482, 500),
    ] {
        let mut driver = Driver::calling();
        let effects = driver.answers(CALLEE, answer(status, "INVITE", ""));
        assert_eq!(told(&effects), Some((0, told_as)), "{status}");
        assert!(ends(&effects));
    }
    let mut driver = Driver::calling();
    let effects = driver.fails(CALLEE, "INVITE", 408);
    assert_eq!((told(&effects), ends(&effects)), (Some((0, 408)), true));
}

#[test]
fn a_failure_in_the_call_ends_it_only_when_the_other_side_is_gone() {
    for (status, is_over) in [(488, false), (491, false), (500, false), (481, true), (408, true)] {
        let mut driver = Driver::up();
        driver.asks(CALLER, message("INVITE sip:x SIP/2.0", "2 INVITE", "", OFFER));
        let effects = driver.answers(CALLEE, answer(status, "INVITE", ""));
        assert_eq!((told(&effects), ends(&effects)), (Some((1, status)), is_over), "{status}");
    }
    let mut driver = Driver::up();
    assert!(ends(&driver.fails(CALLER, "ACK", 408)), "an answer that nobody acknowledged");
}

#[test]
fn timers_count_give_up_and_end() {
    let mut driver = Driver::calling();
    let effects = driver.fires(NO_ANSWER);
    assert_eq!((told(&effects), ends(&effects)), (Some((0, 480)), true));
    let mut driver = Driver::up();
    driver.fires(MINUTE);
    driver.fires(MINUTE);
    assert_eq!(driver.view.attributes[MINUTES], "2");
    assert_eq!(driver.fires(LIMIT), [SessionEffect::End]);
    let mut driver = Driver::up();
    assert_eq!(driver.fires("of a later release"), []);
}

#[test]
fn a_late_or_foreign_response_is_nobodys() {
    let mut driver = Driver::up();
    assert_eq!(driver.answers(CALLEE, answer(200, "INVITE", ANSWER)), []);
    assert_eq!(driver.answers(CALLEE, answer(200, "INFO", "")), []);
}

#[test]
fn only_what_is_said_from_person_to_person_passes() {
    let more =
        "Subject: lunch\r\nRoute: <sip:x;lr>\r\nAuthorization: Digest a=b\r\nSupported: 100rel\r\n";
    let invite = invite("sip:bob@b2b.example.com", more);
    let names: Vec<_> = headers(&invite).into_iter().map(|header| header.name).collect();
    assert_eq!(names, [container::application::FieldName::Known(HeaderName::Subject)]);
    let ok = ResponseBuilder::new(&invite, 200).build();
    assert_eq!(body(&Message::parse(ok).unwrap()), None);
}
