//! Requests outside of dialogs, further callers, links, and sessions that no SIP request began.

use bytes::Bytes;

use super::bench::parse;
use super::*;
use crate::application::Response;
use crate::session::receive::{Input, NewRequest};
use crate::session::rules::BrokenRule;
use crate::session::{LegName, LegState, SessionEffect, SessionEvent, limits};

fn message(method: &'static str) -> SessionEffect {
    SessionEffect::SendOutside {
        leg: LegName::new("note"),
        method: method.into(),
        target: "sip:bob@example.com".into(),
        from: "<sip:reminder@example.com>".into(),
        to: "<sip:bob@example.com>".into(),
        headers: Vec::new(),
        body: None,
    }
}

fn link(a: &str, b: &str) -> SessionEffect {
    SessionEffect::Link { a: LegName::new(a), b: LegName::new(b) }
}

/// A further initial request, of a session's key.
fn joins(number: usize) -> Input {
    let text = format!(
        "INVITE sip:room@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKj{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:guest@example.com>;tag=g{number}\r\nTo: <sip:room@example.com>\r\n\
         Call-ID: j{number}\r\nCSeq: 1 INVITE\r\nContact: <sip:guest@198.51.100.9>\r\nContent-Length: 0\r\n\r\n",
    );
    let flow = bench::flow();
    Input::Join(NewRequest { request: parse(&text), key: format!("j{number}").into(), flow })
}

fn begun_by(event: &SessionEvent) -> &str {
    match event {
        SessionEvent::Request { leg, .. } => leg.as_str(),
        other => panic!("no request: {other:?}"),
    }
}

#[test]
fn a_request_outside_of_dialogs_ends_its_leg_with_its_answer() {
    for (status, word) in [(200, "note 200"), (404, "note 404")] {
        let mut bench = Bench::new();
        bench.apply(vec![message("MESSAGE")]).unwrap();
        assert_eq!(bench.words(), ["MESSAGE 1"]);
        let sent = bench.last("MESSAGE");
        assert!(sent.values(sip::HeaderName::Contact).next().is_none(), "RFC 3428 §4: no Contact");
        bench.moves_to(2);
        assert_eq!(
            bench.last("MESSAGE").buffer(),
            sent.buffer(),
            "a successor repeats it as it was"
        );
        assert_eq!(bench.responds("MESSAGE", status, "callee"), word);
        assert!(bench.session.view(bench.now).leg("note").is_none());
        bench.apply(vec![message("MESSAGE")]).unwrap();
    }
}

#[test]
fn a_request_outside_of_dialogs_that_nobody_answers_fails() {
    let mut bench = Bench::new();
    bench.apply(vec![message("MESSAGE")]).unwrap();
    let branch = Bytes::copy_from_slice(bench.last("MESSAGE").top_via().unwrap().branch().unwrap());
    assert_eq!(bench.comes(Input::Failed { branch, status: 408 }), "note failed MESSAGE 408");
    assert!(bench.session.view(bench.now).leg("note").is_none());
}

#[test]
fn what_belongs_into_a_dialog_is_not_sent_outside_of_one() {
    for method in ["INVITE", "SUBSCRIBE", "REFER", "BYE", "ACK", "CANCEL", "INFO", "SIGNAL", "a b"]
    {
        let refused = Bench::new().apply(vec![message(method)]).unwrap_err();
        assert_eq!(refused, BrokenRule::Method(method.into()));
    }
}

#[test]
fn links_are_mutual_and_end_with_either_leg() {
    let mut bench = Bench::new();
    bench.apply(vec![call(), link("caller", "callee")]).unwrap();
    let linked =
        |bench: &Bench, leg: &str| bench.session.view(bench.now).leg(leg).unwrap().linked.clone();
    assert_eq!(linked(&bench, "caller"), Some(LegName::new("callee")));
    assert_eq!(linked(&bench, "callee"), Some(LegName::caller()));
    bench.apply(vec![message("MESSAGE"), link("caller", "note")]).unwrap();
    assert_eq!(linked(&bench, "callee"), None, "a leg has one link");
    bench.responds("MESSAGE", 200, "callee");
    assert_eq!(linked(&bench, "caller"), None);
    for (a, b, missing) in
        [("caller", "caller", "caller"), ("x", "caller", "x"), ("caller", "x", "x")]
    {
        let refused = bench.apply(vec![link(a, b)]).unwrap_err();
        assert_eq!(refused, BrokenRule::NoLink(LegName::new(missing)));
    }
}

#[test]
fn further_callers_get_legs_of_their_own() {
    let mut bench = Bench::new();
    bench.comes(joins(1));
    assert_eq!(begun_by(bench.event.as_ref().unwrap()), "caller-2");
    bench.respond(ok());
    assert_eq!(bench.words(), ["200"]);
    assert_eq!(bench.comes(joins(1)), "nothing", "a repetition is no further caller");
    assert_eq!(bench.words(), ["200"]);
    let view = bench.session.view(bench.now);
    assert_eq!(view.leg("caller-2").unwrap().state, LegState::Confirmed);
    assert_eq!(view.leg("caller").unwrap().state, LegState::Early);
}

// RFC 3311 §5.1: an UPDATE may come while the INVITE has no final answer.
#[test]
fn answers_to_requests_of_an_early_dialog_leave_it_early() {
    for status in [200, 488] {
        let mut bench = Bench::new();
        let invite = bench.session.incoming[0].id;
        bench.respond(Response::new(180));
        assert_eq!(bench.requests("caller", "UPDATE", 8), "caller UPDATE");
        bench.respond(Response::new(status));
        let state = |bench: &Bench| bench.session.view(bench.now).leg("caller").unwrap().state;
        assert_eq!(state(&bench), LegState::Early, "{status}");
        bench.apply(vec![SessionEffect::Respond { request: invite, response: ok() }]).unwrap();
        assert_eq!(state(&bench), LegState::Confirmed, "{status}");
    }
}

#[test]
fn a_caller_too_many_is_told_to_try_again() {
    let mut bench = Bench::new();
    for number in 1..limits::LEGS_MAX {
        bench.comes(joins(number));
        bench.respond(ok());
    }
    bench.words();
    assert_eq!(bench.comes(joins(limits::LEGS_MAX)), "nothing");
    assert_eq!(bench.words(), ["503"]);
}

#[test]
fn a_session_that_nothing_began_lives_until_it_is_ready() {
    let mut bench = Bench::opened();
    bench.apply(vec![message("MESSAGE")]).unwrap();
    bench.responds("MESSAGE", 200, "callee");
    assert!(!bench.session.is_over(), "it lives until it expires");
    bench.apply(vec![SessionEffect::EndWhenReady { wanted: true }]).unwrap();
    assert!(bench.session.is_over());
}

#[test]
fn a_session_may_outlive_its_last_leg() {
    let mut bench = Bench::new();
    bench.apply(vec![SessionEffect::EndWhenReady { wanted: false }]).unwrap();
    bench.respond(Response::new(486));
    assert!(!bench.session.is_over());
    assert_eq!(bench.session.view(bench.now).legs, []);
}
