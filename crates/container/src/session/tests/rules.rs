//! What an application may ask for, timers, and the end of a session.

use std::time::Duration;

use super::bench::SDP;
use super::*;
use crate::application::{Body, Response};
use crate::session::receive::Input;
use crate::session::rules::BrokenRule;
use crate::session::{CALLER, LegName, LegState, RequestId, SessionEffect, limits};

const SECOND: Duration = Duration::from_secs(1);

fn start_timer(name: &str, after: Duration, every: Option<Duration>) -> SessionEffect {
    SessionEffect::StartTimer { name: name.to_owned(), after, every }
}

fn set(name: &str, value: &[u8]) -> SessionEffect {
    SessionEffect::Set { name: name.to_owned(), value: bytes::Bytes::copy_from_slice(value) }
}

#[test]
fn broken_rules_void_all_effects() {
    let leg = LegName::new("callee");
    let called = |target: &'static str, from: &'static str| match call() {
        SessionEffect::Call { leg, to, headers, body, .. } => {
            SessionEffect::Call { leg, target: target.into(), from: from.into(), to, headers, body }
        }
        other => other,
    };
    let respond = |id, response| SessionEffect::Respond { request: RequestId(id), response };
    let send = |leg: &str, method: &'static str| SessionEffect::Send {
        leg: LegName::new(leg),
        method: method.into(),
        headers: Vec::new(),
        body: None,
    };
    let via = Response::new(200).header(sip::HeaderName::Via, "x");
    let cases: Vec<(Vec<SessionEffect>, BrokenRule)> = vec![
        (vec![set("", b"")], BrokenRule::Name(String::new())),
        (vec![set("a", &[0; 64 * 1024])], BrokenRule::Attributes(64 * 1024 + 1)),
        (vec![start_timer("t", Duration::ZERO, None)], BrokenRule::Time(Duration::ZERO)),
        (vec![start_timer("t", SECOND, Some(Duration::ZERO))], BrokenRule::Time(Duration::ZERO)),
        (
            (0..33).map(|index| start_timer(&index.to_string(), SECOND, None)).collect(),
            BrokenRule::TooManyTimers(33),
        ),
        (vec![set("a", b""); 65], BrokenRule::TooManyEffects(65)),
        (vec![respond(99, Response::new(200))], BrokenRule::NoRequest(RequestId(99))),
        (vec![respond(1, Response::new(100))], BrokenRule::Status(100)),
        (vec![respond(1, Response::new(700))], BrokenRule::Status(700)),
        (vec![respond(1, via)], BrokenRule::Header("Via".to_owned())),
        (
            vec![respond(1, Response::new(200).header_named("m", "<sip:x>"))],
            BrokenRule::Header("Contact".to_owned()),
        ),
        (
            vec![respond(1, Response::new(200).header_named("Via ", "SIP/2.0/UDP evil"))],
            BrokenRule::HeaderName("Via ".into()),
        ),
        (vec![call(), call()], BrokenRule::NoLeg(leg.clone())),
        (vec![called("tel:1", "<sip:a@x>")], BrokenRule::Target("tel:1".into())),
        (vec![called("sips:a@x", "<sip:a@x>")], BrokenRule::Target("sips:a@x".into())),
        (vec![called("sip:a@x?X=y", "<sip:a@x>")], BrokenRule::Target("sip:a@x?X=y".into())),
        (vec![called("sip:a@x", "<sip:a@x>;tag=1")], BrokenRule::Address("<sip:a@x>;tag=1".into())),
        (vec![send(CALLER, "INFO")], BrokenRule::NoDialog(LegName::caller())),
        (vec![send("nobody", "BYE")], BrokenRule::NoDialog(LegName::new("nobody"))),
        (vec![send(CALLER, "ACK")], BrokenRule::Method("ACK".into())),
        (vec![send(CALLER, "a b")], BrokenRule::Method("a b".into())),
    ];
    for (effects, expected) in cases {
        let mut bench = Bench::new();
        let before = bench.session.clone();
        let mut all = vec![set("first", b"1")];
        all.extend(effects.into_iter().take(limits::EFFECTS_MAX + 1));
        let found = bench.apply(all).unwrap_err();
        let expected = match expected {
            BrokenRule::TooManyEffects(_) => BrokenRule::TooManyEffects(limits::EFFECTS_MAX + 2),
            BrokenRule::Attributes(found) => BrokenRule::Attributes(found + "first1".len()),
            other => other,
        };
        assert_eq!(found, expected);
        assert_eq!(bench.session, before);
        assert!(bench.words().is_empty());
    }
}

#[test]
fn effects_that_come_too_late_are_nothing() {
    let mut bench = Bench::new();
    bench.respond(Response::new(486));
    bench.words();
    let respond = SessionEffect::Respond { request: RequestId(1), response: ok() };
    let leg = LegName::caller();
    let (headers, body) = (Vec::new(), None);
    let acknowledge = SessionEffect::Acknowledge { leg: leg.clone(), headers, body };
    bench.apply(vec![respond, acknowledge, SessionEffect::Cancel { leg }]).unwrap();
    assert!(bench.words().is_empty());
}

#[test]
fn provisional_answers_are_for_invites_only() {
    let mut bench = Bench::talking();
    bench.requests("caller", "INFO", 8);
    let request = bench.session.incoming.last().unwrap().id;
    let respond =
        |status| vec![SessionEffect::Respond { request, response: Response::new(status) }];
    assert_eq!(bench.apply(respond(180)), Err(BrokenRule::Status(180)));
    bench.apply(respond(200)).unwrap();
    assert_eq!(bench.words(), ["200"]);
}

#[test]
fn redirection_brings_the_applications_contact() {
    let mut bench = Bench::new();
    bench.respond(Response::new(302).header(sip::HeaderName::Contact, "<sip:c@x>"));
    let contacts: Vec<&[u8]> = bench.answers[0].values(sip::HeaderName::Contact).collect();
    assert_eq!(contacts, [b"<sip:c@x>"]);
}

#[test]
fn timers_fire_in_order_and_periods_are_not_made_up_for() {
    let mut bench = Bench::talking();
    let periodic = start_timer("periodic", SECOND, Some(2 * SECOND));
    bench.apply(vec![start_timer("once", 2 * SECOND, None), periodic]).unwrap();
    let start = bench.now;
    assert_eq!(bench.waits(), "timer periodic");
    assert_eq!(bench.waits(), "timer once");
    assert_eq!(bench.now.saturating_since(start), 2 * SECOND);
    bench.passes(9 * SECOND);
    assert_eq!(bench.comes(Input::Deadline), "timer periodic");
    assert_eq!(bench.comes(Input::Deadline), "nothing");
    let due = bench.session.view(bench.now).timers[0].due;
    assert_eq!(due.saturating_since(start), 13 * SECOND, "the next of its own times");
    bench.apply(vec![SessionEffect::StopTimer { name: "periodic".to_owned() }]).unwrap();
    assert!(bench.session.view(bench.now).timers.is_empty());
}

#[test]
fn clock_set_forward_fires_nothing_for_a_while_and_then_a_period_once() {
    let mut bench = Bench::talking();
    let (hour, periodic) = (3_600 * SECOND, start_timer("periodic", SECOND, Some(2 * SECOND)));
    bench.apply(vec![start_timer("once", 60 * SECOND, None), periodic]).unwrap();
    bench.held_at = Some(bench.now);
    bench.passes(hour);
    assert_eq!(bench.comes(Input::Deadline), "nothing", "held back");
    bench.held_at = None;
    bench.passes(60 * SECOND);
    assert_eq!(bench.comes(Input::Deadline), "timer periodic", "missed periods count once");
    assert_eq!(bench.comes(Input::Deadline), "timer once");
    assert_eq!(bench.comes(Input::Deadline), "nothing");
    let before = bench.now;
    assert_eq!(bench.waits(), "timer periodic");
    assert!(bench.now.saturating_since(before) <= 2 * SECOND);
}

#[test]
fn clock_set_back_makes_nothing_wait_for_longer_than_its_whole_time() {
    let mut bench = Bench::new();
    bench.respond(ok());
    let timers = [("periodic", Some(2 * SECOND)), ("once", None)];
    let timers = timers.map(|(name, every)| start_timer(name, 10 * SECOND, every));
    bench.apply(timers.into()).unwrap();
    bench.now = bench.now.saturating_sub(100 * SECOND);
    assert!(bench.session.is_dated_ahead(bench.now));
    assert_eq!(bench.comes(Input::Deadline), "nothing");
    assert!(!bench.session.is_dated_ahead(bench.now));
    let start = bench.now;
    let mut told = |until: std::time::Duration, what: &str| {
        assert_eq!(bench.waits(), what);
        assert_eq!(bench.now.saturating_since(start), until, "{what}");
    };
    told(10 * SECOND, "timer once");
    for period in 0..11 {
        told((10 + 2 * period) * SECOND, "timer periodic");
    }
    told(32 * SECOND, "caller failed ACK 408");
}

#[test]
fn session_ends_at_its_time_unless_it_is_given_more() {
    let mut bench = Bench::talking();
    bench.passes(33 * SECOND);
    bench.comes(Input::Deadline);
    let longer = SessionEffect::ExpireAfter { after: 10 * SECOND };
    bench.apply(vec![longer.clone()]).unwrap();
    bench.now = bench.session.next_deadline(Default::default());
    bench.step(Input::Deadline, |_| vec![longer]).unwrap();
    assert!(matches!(bench.event, Some(crate::session::SessionEvent::Ending)));
    assert!(bench.words().is_empty(), "it has asked for more time");
    assert_eq!(bench.waits(), "ending");
    assert_eq!(bench.words(), ["BYE 1", "BYE 2"]);
    for (leg, tag) in [("caller", "alice"), ("callee", "bob")] {
        let bye =
            bench.started.iter().rev().find(|bye| bye.to().unwrap().tag() == Some(tag.as_bytes()));
        let response = response_to(&bye.unwrap().clone(), 200, tag);
        assert_eq!(bench.comes(Input::Response { response }), "nothing", "{leg}");
    }
    assert!(bench.session.is_over());
}

#[test]
fn end_closes_every_leg_as_it_stands() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    bench.words();
    bench.apply(vec![SessionEffect::End]).unwrap();
    assert_eq!(bench.words(), ["500", "CANCEL"]);
    assert_eq!(bench.responds("INVITE", 487, "bob"), "nothing", "nothing more is told");
    assert!(bench.session.is_over());
    let mut bench = Bench::new();
    bench.respond(ok());
    bench.apply(vec![SessionEffect::End]).unwrap();
    assert_eq!(bench.words(), ["200"]);
    assert_eq!(bench.acknowledges("caller", 7), "nothing");
    assert_eq!(bench.words(), ["BYE 1"]);
    assert_eq!(bench.responds("BYE", 481, "alice"), "nothing");
    assert!(bench.session.is_over());
}

#[test]
fn session_without_leg_or_timer_ends_by_itself() {
    let mut bench = Bench::new();
    bench.apply(vec![start_timer("later", SECOND, None)]).unwrap();
    bench.respond(Response::new(486));
    assert!(!bench.session.is_over());
    bench.passes(2 * SECOND);
    assert_eq!(bench.comes(Input::Deadline), "timer later");
    assert!(bench.session.is_over());
}

#[test]
fn answers_are_kept_for_a_while_and_bounded() {
    let mut bench = Bench::talking();
    for cseq in 8..8 + limits::ANSWERS_MAX as u32 + 5 {
        bench.requests("caller", "INFO", cseq);
        bench.respond(Response::new(200));
    }
    assert_eq!(bench.session.incoming.len(), limits::ANSWERS_MAX + 1, "and that to the INVITE");
    bench.words();
    assert_eq!(bench.repeats_invite(), "nothing");
    assert_eq!(bench.words(), ["200"]);
    bench.passes(32 * SECOND);
    assert_eq!(bench.comes(Input::Deadline), "nothing");
    assert!(bench.session.incoming.is_empty() && bench.session.outgoing.is_empty());
    assert!(!bench.session.is_open());
}

#[test]
fn unanswered_requests_are_bounded() {
    let mut bench = Bench::talking();
    for cseq in 8..8 + limits::UNANSWERED_MAX as u32 {
        assert_eq!(bench.requests("caller", "INFO", cseq), "caller INFO");
    }
    assert_eq!(bench.requests("caller", "INFO", 1_000), "nothing");
    assert_eq!(bench.words(), ["503"]);
}

#[test]
fn body_and_headers_of_the_application_are_sent() {
    let mut bench = Bench::talking();
    let body = Some(Body { content_type: "application/sdp".into(), content: SDP.into() });
    let headers = Response::new(200).header_named("X-A", "1\r\nRoute: <sip:evil>").headers;
    let (leg, method) = (LegName::new("callee"), "MESSAGE".into());
    bench.apply(vec![SessionEffect::Send { leg, method, headers, body }]).unwrap();
    let message = bench.last("MESSAGE");
    assert_eq!(message.body(), SDP);
    assert_eq!(message.field_named(b"X-A"), Some(&b"1  Route: <sip:evil>"[..]));
    assert_eq!(message.values(sip::HeaderName::Route).count(), 1);
}

#[test]
fn request_other_than_invite_begins_a_session_too() {
    let request = super::bench::parse(
        "MESSAGE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKm\r\nFrom: <sip:a@x>;tag=a\r\n\
         To: <sip:b@x>\r\nCall-ID: m\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
    );
    let mut bench = Bench::begun_by(request).unwrap();
    bench.respond(Response::new(200));
    assert_eq!(bench.words(), ["200"]);
    assert!(bench.session.is_over());
    assert_eq!(bench.session.view(bench.now).leg(CALLER).map(|leg| leg.state), None::<LegState>);
}
