//! What a handler may do to a session, and what it then sees.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use container::application::{Body, Header, RecordRoute, Response, Target};
use container::session::{
    CALLER, LegDirection, LegName, LegState, LegView, ProxyOptions, RequestId, SessionEvent,
    SessionId, Supervised, limits as most,
};
use state::UnixMillis;

use super::*;

const INVITE: RequestId = RequestId(1);
const INFO: RequestId = RequestId(2);

fn leg(name: &str, state: LegState, unanswered: &[(RequestId, &'static str)]) -> LegView {
    LegView {
        name: LegName::new(name),
        direction: if name == CALLER { LegDirection::Incoming } else { LegDirection::Outgoing },
        state,
        call_id: "c".into(),
        unanswered: unanswered.iter().map(|(id, method)| (*id, Bytes::from(*method))).collect(),
        waiting: Vec::new(),
        wants_ack: false,
        linked: None,
        is_proxied: false,
    }
}

fn session(legs: Vec<LegView>) -> Overlay {
    let view = SessionView {
        is_new: false,
        key: None,
        outgoing: 0,
        unheard_signals: 0,
        record_bytes: 0,
        id: SessionId([7; 16]),
        now: UnixMillis(1_000),
        created: UnixMillis(500),
        expires: UnixMillis(9_000),
        attributes: BTreeMap::from([("a".to_owned(), Bytes::from("1"))]),
        legs,
        timers: Vec::new(),
    };
    Overlay::new(view, Limits::default())
}

fn ringing() -> Overlay {
    session(vec![leg(CALLER, LegState::Early, &[(INVITE, "INVITE")])])
}

fn up() -> Overlay {
    session(vec![leg(CALLER, LegState::Confirmed, &[(INFO, "INFO")])])
}

fn onwards(timer_c: Option<Duration>) -> ProxyOptions {
    let (record_route, supervised) = (RecordRoute::No, Supervised::No);
    ProxyOptions { record_route, supervised, timer_c, headers: Vec::new() }
}

fn request(id: RequestId) -> SessionEvent {
    let text = b"INVITE sip:b@x SIP/2.0\r\nContent-Length: 0\r\n\r\n";
    let message = ::sip::Message::parse(Bytes::from_static(text)).unwrap();
    SessionEvent::Request { leg: LegName::new(CALLER), request: id, message }
}

#[test]
fn only_the_initial_request_of_the_event_goes_on() {
    let proxy = |mut overlay: Overlay, event: Option<SessionEvent>, id, targets, timer| {
        let outcome = overlay.proxy(event.as_ref(), id, targets, onwards(timer));
        (outcome, overlay)
    };
    let wrong_state = |outcome| matches!(outcome, Err(Refusal::WrongState(_)));
    let (first, none) = (|| Some(request(INVITE)), Vec::new);
    assert!(wrong_state(proxy(ringing(), None, INVITE, none(), None).0));
    assert!(wrong_state(proxy(ringing(), Some(request(INFO)), INVITE, none(), None).0));
    assert!(wrong_state(proxy(up(), Some(request(INFO)), INFO, none(), None).0));
    let unknown = proxy(ringing(), first(), INFO, none(), None).0;
    assert!(matches!(unknown, Err(Refusal::Unknown(_))));
    let short = proxy(ringing(), first(), INVITE, none(), Some(Duration::from_secs(180))).0;
    assert!(matches!(short, Err(Refusal::Invalid(_))));
    let many = vec![Target::new("sip:b@x"); 65];
    assert!(matches!(proxy(ringing(), first(), INVITE, many, None).0, Err(Refusal::Limit(_))));
    let no_uri = vec![Target::new("b@x")];
    assert!(matches!(proxy(ringing(), first(), INVITE, no_uri, None).0, Err(Refusal::Invalid(_))));

    let (outcome, mut overlay) = proxy(ringing(), first(), INVITE, none(), None);
    outcome.unwrap();
    assert!(overlay.view().leg(CALLER).unwrap().is_proxied);
    assert!(overlay.respond(INVITE, Response::new(486)).is_err(), "it gets its answer elsewhere");
    assert!(overlay.proxy(first().as_ref(), INVITE, none(), onwards(None)).is_err());
    let effects = overlay.into_effects();
    let targets = Vec::new();
    assert_eq!(
        effects,
        [SessionEffect::Proxy { request: INVITE, targets, options: onwards(None) }]
    );
    let mut stands = leg(CALLER, LegState::Confirmed, &[]);
    stands.is_proxied = true;
    let sent = session(vec![stands]).send(CALLER, "BYE".into(), Vec::new(), None);
    assert!(wrong_state(sent), "a proxy sends nothing of its own");
}

fn call(name: &str) -> Beginning {
    Beginning {
        leg: name.to_owned(),
        target: "sip:bob@example.com".into(),
        from: "<sip:desk@example.com>".into(),
        to: "<sip:bob@example.com>".into(),
        headers: Vec::new(),
        body: None,
    }
}

fn header(name: &'static str) -> Header {
    let name = container::application::FieldName::Named(name.into());
    Header { name, value: "x".into() }
}

/// The kind of a refusal; its text is for people.
fn kind<T: std::fmt::Debug>(refused: Result<T, Refusal>) -> &'static str {
    match refused.unwrap_err() {
        Refusal::Unknown(_) => "unknown",
        Refusal::WrongState(_) => "wrong-state",
        Refusal::Invalid(_) => "invalid",
        Refusal::Limit(_) => "limit",
        Refusal::Unavailable(_) => "unavailable",
    }
}

#[test]
fn own_writes_are_seen_and_queued_in_order() {
    let mut overlay = ringing();
    overlay.set("b".to_owned(), b"2".to_vec()).unwrap();
    overlay.set("a".to_owned(), b"3".to_vec()).unwrap();
    overlay.remove("b");
    overlay.remove("never there");
    let second = Duration::from_secs(1);
    overlay.start_timer("t".to_owned(), second, Some(second)).unwrap();
    overlay.start_timer("u".to_owned(), second, None).unwrap();
    overlay.stop_timer("u");
    overlay.stop_timer("never there");
    overlay.expire_after(second).unwrap();
    let view = overlay.view();
    assert_eq!(view.attributes, BTreeMap::from([("a".to_owned(), Bytes::from("3"))]));
    assert_eq!(view.timers.len(), 1);
    assert_eq!((view.timers[0].due, view.expires), (UnixMillis(2_000), UnixMillis(2_000)));
    let name = |name: &str| name.to_owned();
    assert_eq!(
        overlay.into_effects(),
        [
            SessionEffect::Set { name: name("b"), value: "2".into() },
            SessionEffect::Set { name: name("a"), value: "3".into() },
            SessionEffect::Remove { name: name("b") },
            SessionEffect::StartTimer { name: name("t"), after: second, every: Some(second) },
            SessionEffect::StartTimer { name: name("u"), after: second, every: None },
            SessionEffect::StopTimer { name: name("u") },
            SessionEffect::ExpireAfter { after: second },
        ]
    );
}

#[test]
fn an_answer_takes_the_request_away_and_moves_the_leg() {
    for (status, state) in
        [(180, LegState::Early), (200, LegState::Confirmed), (486, LegState::Ended)]
    {
        let mut overlay = ringing();
        overlay.respond(INVITE, Response::new(status)).unwrap();
        let leg = overlay.view().leg(CALLER).unwrap();
        assert_eq!((leg.state, leg.unanswered.is_empty()), (state, status >= 200), "{status}");
    }
    let mut overlay = ringing();
    overlay.respond(INVITE, Response::new(200)).unwrap();
    assert_eq!(kind(overlay.respond(INVITE, Response::new(486))), "unknown");
    let mut overlay = up();
    overlay.respond(INFO, Response::new(500)).unwrap();
    assert_eq!(overlay.view().leg(CALLER).unwrap().state, LegState::Confirmed);
}

// RFC 3262 §4, RFC 3311 §5.1.
#[test]
fn an_answer_beside_the_invites_leaves_the_leg_early() {
    for (status, state) in [(200, LegState::Confirmed), (486, LegState::Ended)] {
        let asked = [(INVITE, "INVITE"), (INFO, "PRACK")];
        let mut overlay = session(vec![leg(CALLER, LegState::Early, &asked)]);
        let stands = |overlay: &Overlay| overlay.view().leg(CALLER).unwrap().state;
        overlay.respond(INFO, Response::new(status)).unwrap();
        assert_eq!(stands(&overlay), LegState::Early, "{status}");
        overlay.respond(INVITE, Response::new(status)).unwrap();
        assert_eq!(stands(&overlay), state, "{status}");
    }
}

#[test]
fn an_answer_that_breaks_a_rule_is_refused() {
    for (request, response, why) in [
        (RequestId(99), Response::new(200), "unknown"),
        (INVITE, Response::new(100), "invalid"),
        (INVITE, Response::new(700), "invalid"),
        (INVITE, Response::new(200).header_named("Via", "x"), "invalid"),
        (INVITE, Response::new(200).header_named("Via ", "x"), "invalid"),
        (INVITE, Response::new(200).header_named("m", "<sip:x>"), "invalid"),
        (INVITE, Response::new(200).body("text/plain", vec![0; EFFECT_BYTES_MAX]), "limit"),
    ] {
        let mut overlay = ringing();
        assert_eq!(kind(overlay.respond(request, response.clone())), why, "{response:?}");
        assert_eq!(overlay.into_effects(), []);
    }
    assert_eq!(kind(up().respond(INFO, Response::new(180))), "invalid");
    assert!(ringing().respond(INVITE, Response::new(302).header_named("m", "<sip:x>")).is_ok());
}

#[test]
fn a_call_is_a_new_leg_at_once() {
    let mut overlay = ringing();
    overlay.call(call("callee")).unwrap();
    let leg = overlay.view().leg("callee").unwrap();
    assert_eq!((leg.direction, leg.state), (LegDirection::Outgoing, LegState::Early));
    assert_eq!(kind(overlay.call(call("callee"))), "wrong-state");
    assert_eq!(kind(overlay.call(call(""))), "invalid");
    assert_eq!(kind(overlay.call(call(&"x".repeat(65)))), "invalid");
    assert_eq!(kind(overlay.send("callee", "INFO".into(), Vec::new(), None)), "wrong-state");
    overlay.cancel("callee").unwrap();
    assert_eq!(kind(overlay.cancel(CALLER)), "wrong-state");
    assert_eq!(kind(overlay.cancel("nobody")), "unknown");
}

#[test]
fn a_call_that_breaks_a_rule_is_refused() {
    let refused = |change: fn(&mut Beginning)| {
        let mut call = call("callee");
        change(&mut call);
        kind(ringing().call(call))
    };
    assert_eq!(refused(|call| call.target = "tel:112".into()), "invalid");
    assert_eq!(refused(|call| call.target = "sip:a@x?Route=y".into()), "invalid");
    assert_eq!(refused(|call| call.from = "<sip:a@x>;tag=1".into()), "invalid");
    assert_eq!(refused(|call| call.to = "nobody".into()), "invalid");
    assert_eq!(refused(|call| call.headers.push(header("Route"))), "invalid");
    assert_eq!(
        refused(|call| call.body = Some(Body {
            content_type: "text/plain".into(),
            content: vec![0; EFFECT_BYTES_MAX].into()
        })),
        "limit"
    );
    let mut overlay = ringing();
    for number in 1..most::LEGS_MAX {
        overlay.call(call(&number.to_string())).unwrap();
    }
    assert_eq!(kind(overlay.call(call("one more"))), "limit");
}

#[test]
fn requests_in_a_dialog_need_one() {
    let mut overlay = up();
    overlay.send(CALLER, "INFO".into(), Vec::new(), None).unwrap();
    assert_eq!(overlay.view().leg(CALLER).unwrap().waiting, ["INFO"]);
    overlay.send(CALLER, "BYE".into(), Vec::new(), None).unwrap();
    assert_eq!(overlay.view().leg(CALLER).unwrap().state, LegState::Ended);
    let effects = overlay.effects.len();
    overlay.send(CALLER, "BYE".into(), Vec::new(), None).unwrap();
    assert_eq!(overlay.effects.len(), effects, "a second BYE is nothing");
    assert_eq!(kind(overlay.send(CALLER, "INFO".into(), Vec::new(), None)), "wrong-state");
    for method in ["ACK", "CANCEL", "", "a b"] {
        assert_eq!(kind(up().send(CALLER, method.into(), Vec::new(), None)), "invalid", "{method}");
    }
    assert_eq!(kind(ringing().send(CALLER, "BYE".into(), Vec::new(), None)), "wrong-state");
    assert_eq!(kind(up().send("nobody", "BYE".into(), Vec::new(), None)), "unknown");
}

#[test]
fn a_2xx_is_acknowledged_once() {
    let mut overlay = up();
    assert_eq!(kind(overlay.acknowledge(CALLER, Vec::new(), None)), "wrong-state");
    overlay.view.legs[0].wants_ack = true;
    overlay.acknowledge(CALLER, Vec::new(), None).unwrap();
    assert_eq!(kind(overlay.acknowledge(CALLER, Vec::new(), None)), "wrong-state");
}

#[test]
fn behind_the_end_there_is_nothing() {
    let mut overlay = ringing();
    overlay.invalidate();
    overlay.invalidate();
    assert_eq!(kind(overlay.set("b".to_owned(), Vec::new())), "wrong-state");
    overlay.remove("a");
    assert_eq!(overlay.view().attributes.len(), 1);
    assert_eq!(kind(overlay.respond(INVITE, Response::new(200))), "wrong-state");
    assert_eq!(overlay.into_effects(), [SessionEffect::End]);
}

#[test]
fn attributes_and_timers_have_limits_of_their_own() {
    let mut overlay = ringing();
    let room = most::ATTRIBUTE_BYTES_MAX - "a1".len() - "b".len();
    overlay.set("b".to_owned(), vec![0; room]).unwrap();
    assert_eq!(kind(overlay.set("c".to_owned(), Vec::new())), "limit");
    overlay.remove("a");
    overlay.set("c".to_owned(), vec![0; 1]).unwrap();
    assert_eq!(kind(overlay.set("b".to_owned(), vec![0; room + 1])), "limit");
    overlay.set("b".to_owned(), vec![0; room]).unwrap();
    assert_eq!(kind(overlay.set(String::new(), Vec::new())), "invalid");
    let second = Duration::from_secs(1);
    for number in 0..most::TIMERS_MAX {
        overlay.start_timer(number.to_string(), second, None).unwrap();
    }
    assert_eq!(kind(overlay.start_timer("more".to_owned(), second, None)), "limit");
    overlay.start_timer("0".to_owned(), second, None).unwrap();
    for wrong in [Duration::ZERO, most::TIMER_MAX + second] {
        assert_eq!(kind(overlay.start_timer("0".to_owned(), wrong, None)), "invalid");
        assert_eq!(kind(overlay.start_timer("0".to_owned(), second, Some(wrong))), "invalid");
        assert_eq!(kind(overlay.expire_after(wrong)), "invalid");
    }
}

#[test]
fn signals_are_counted_until_they_are_heard() {
    let mut overlay = ringing();
    overlay.view.unheard_signals = most::SIGNALS_MAX - 1;
    let signal = |overlay: &mut Overlay, name: &str, octets: usize| {
        overlay.signal(SessionId([1; 16]), name.to_owned(), vec![0; octets])
    };
    assert_eq!(kind(signal(&mut overlay, "", 0)), "invalid");
    assert_eq!(kind(signal(&mut overlay, "s", most::SIGNAL_BYTES_MAX + 1)), "limit");
    signal(&mut overlay, "s", most::SIGNAL_BYTES_MAX).unwrap();
    assert_eq!(kind(signal(&mut overlay, "s", 0)), "limit");
    let mut overlay = ringing();
    overlay.view.outgoing = most::OUTGOING_MAX;
    assert_eq!(kind(signal(&mut overlay, "s", 0)), "limit");
    assert_eq!(kind(overlay.call(call("callee"))), "limit");
    assert!(overlay.effects.is_empty());
}

#[test]
fn an_event_has_so_many_effects_and_always_room_for_the_end() {
    let mut overlay = ringing();
    let done = (0..1_000).take_while(|_| overlay.set("a".to_owned(), b"2".to_vec()).is_ok());
    assert_eq!(done.count(), most::EFFECTS_MAX - 1);
    overlay.remove("a");
    assert_eq!(overlay.view().attributes.len(), 1, "what could not be queued has not happened");
    overlay.invalidate();
    assert_eq!(overlay.into_effects().len(), most::EFFECTS_MAX);
}

#[test]
fn an_application_may_have_narrower_limits() {
    let limits = Limits { effects: 1, attribute_bytes: 4, ..Limits::default() };
    let mut overlay = Overlay::new(ringing().view.clone(), limits);
    assert_eq!(kind(overlay.set("b".to_owned(), vec![0; 2])), "limit");
    overlay.set("b".to_owned(), vec![0; 1]).unwrap();
    assert_eq!(kind(overlay.set("b".to_owned(), vec![0; 1])), "limit");
}

/// A session of two linked legs, both up; what comes on `caller` goes to `callee`.
fn linked() -> Overlay {
    let mut overlay = session(vec![
        leg(CALLER, LegState::Confirmed, &[(INFO, "INFO")]),
        leg("callee", LegState::Confirmed, &[]),
    ]);
    overlay.link(CALLER, "callee").unwrap();
    overlay.effects.clear();
    overlay
}

fn message(start: &str, cseq: &str) -> ::sip::Message {
    let text = format!(
        "{start}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\n\
         Call-ID: c\r\nCSeq: {cseq}\r\nContact: <sip:a@h>\r\nAuthorization: Digest a=b\r\nX-Account: 7\r\n\
         s: lunch\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    );
    ::sip::Message::parse(text.into_bytes().into()).unwrap()
}

fn asked(leg: &str, method: &str) -> SessionEvent {
    let message = message(&format!("{method} sip:x SIP/2.0"), &format!("2 {method}"));
    SessionEvent::Request { leg: LegName::new(leg), request: INFO, message }
}

fn answered(leg: &str, status: u16, method: &str) -> SessionEvent {
    let message = message(&format!("SIP/2.0 {status} Well"), &format!("2 {method}"));
    SessionEvent::Response { leg: LegName::new(leg), message }
}

fn named(name: &str) -> container::application::FieldName {
    container::application::FieldName::Named(Bytes::copy_from_slice(name.as_bytes()))
}

/// What goes on of such a message.
fn passed() -> (Vec<Header>, Option<Body>) {
    let headers = vec![
        Header { name: named("X-Account"), value: "7".into() },
        Header { name: named("s"), value: "lunch".into() },
    ];
    (headers, Some(Body { content_type: "text/plain".into(), content: "hi".into() }))
}

#[test]
fn a_request_goes_on_as_a_request_and_its_answer_back() {
    let mut overlay = linked();
    overlay.relay(&asked(CALLER, "INFO")).unwrap();
    let (headers, body) = passed();
    let callee = LegName::new("callee");
    let send = SessionEffect::Send { leg: callee, method: "INFO".into(), headers, body };
    assert_eq!(overlay.effects, [send]);
    assert_eq!(kind(overlay.relay(&asked(CALLER, "INFO"))), "wrong-state", "one at a time");
    let mut overlay = linked();
    overlay.relay(&answered("callee", 200, "INFO")).unwrap();
    let (headers, body) = passed();
    let response = Response { status: 200, reason: "Well".into(), headers, body };
    assert_eq!(overlay.effects, [SessionEffect::Respond { request: INFO, response }]);
    assert_eq!(kind(overlay.relay(&answered("callee", 200, "INFO"))), "wrong-state");
    assert_eq!(kind(linked().relay(&answered("callee", 200, "INVITE"))), "wrong-state");
}

#[test]
fn a_refusal_that_speaks_of_one_leg_goes_on_as_another() {
    for (status, told) in [(302, 480), (401, 403), (407, 403), (503, 500), (486, 486), (481, 481)] {
        let mut overlay = linked();
        overlay.relay(&answered("callee", status, "INFO")).unwrap();
        let [SessionEffect::Respond { response, .. }] = &overlay.effects[..] else { panic!() };
        assert_eq!((response.status, response.body.is_some()), (told, status == told), "{status}");
        let mut overlay = linked();
        let method = "INFO".into();
        overlay
            .relay(&SessionEvent::Failed { leg: LegName::new("callee"), method, status })
            .unwrap();
        let response = Response::new(told);
        assert_eq!(overlay.effects, [SessionEffect::Respond { request: INFO, response }]);
    }
}

#[test]
fn an_end_goes_on_as_the_other_leg_stands() {
    let callee = || LegName::new("callee");
    let no_ack = SessionEvent::Failed { leg: LegName::caller(), method: "ACK".into(), status: 408 };
    for end in [asked(CALLER, "BYE"), no_ack] {
        let mut overlay = linked();
        overlay.relay(&end).unwrap();
        let method = Bytes::from("BYE");
        let (headers, body) = (Vec::new(), None);
        assert_eq!(overlay.effects, [SessionEffect::Send { leg: callee(), method, headers, body }]);
        let mut overlay = linked();
        overlay.view.legs[1].state = LegState::Early;
        overlay.view.legs[1].waiting = vec!["INVITE".into()];
        overlay.relay(&end).unwrap();
        assert_eq!(overlay.effects, [SessionEffect::Cancel { leg: callee() }]);
    }
    let mut overlay = linked();
    overlay.view.legs[1].waiting = vec!["INVITE".into()];
    overlay.relay(&SessionEvent::Cancelled { leg: LegName::caller(), request: INVITE }).unwrap();
    assert_eq!(overlay.effects, [SessionEffect::Cancel { leg: callee() }]);
    let mut overlay = linked();
    overlay.view.legs[1].wants_ack = true;
    let message = message("ACK sip:x SIP/2.0", "2 ACK");
    overlay.relay(&SessionEvent::Acknowledged { leg: LegName::caller(), message }).unwrap();
    let (headers, body) = passed();
    assert_eq!(overlay.effects, [SessionEffect::Acknowledge { leg: callee(), headers, body }]);
}

#[test]
fn links_are_one_to_one_and_what_has_none_cannot_be_relayed() {
    let mut overlay = linked();
    overlay.call(call("third")).unwrap();
    overlay.link("callee", "third").unwrap();
    let linked_with =
        |overlay: &Overlay, leg: &str| overlay.view().leg(leg).unwrap().linked.clone();
    assert_eq!(linked_with(&overlay, CALLER), None);
    assert_eq!(linked_with(&overlay, "third"), Some(LegName::new("callee")));
    assert_eq!(kind(overlay.relay(&asked(CALLER, "INFO"))), "wrong-state");
    overlay.unlink("callee");
    overlay.unlink("callee");
    assert_eq!(linked_with(&overlay, "third"), None);
    assert_eq!(overlay.effects.len(), 3, "the second one is nothing");
    assert_eq!(kind(overlay.link(CALLER, CALLER)), "invalid");
    assert_eq!(kind(overlay.link(CALLER, "nobody")), "unknown");
    let timer = SessionEvent::Timer { name: "t".to_owned() };
    assert_eq!(kind(linked().relay(&timer)), "wrong-state");
}

#[test]
fn a_request_outside_of_dialogs_is_a_leg_of_its_own() {
    let mut overlay = ringing();
    overlay.send_outside("MESSAGE".into(), call("note")).unwrap();
    assert_eq!(overlay.view().leg("note").unwrap().waiting, ["MESSAGE"]);
    assert_eq!(kind(overlay.send_outside("MESSAGE".into(), call("note"))), "wrong-state");
    for method in ["INVITE", "BYE", "ACK", "SUBSCRIBE", "a b"] {
        assert_eq!(kind(overlay.send_outside(method.into(), call("other"))), "invalid", "{method}");
    }
    assert!(matches!(&overlay.effects[..], [SessionEffect::SendOutside { .. }]));
}

#[test]
fn a_session_lives_as_long_as_its_manifest_says_unless_it_is_told_otherwise() {
    let limits = Limits { session_time: Duration::from_secs(60), ..Limits::default() };
    let begun = |is_new: bool| {
        let view = SessionView { is_new, expires: UnixMillis(9_000_000), ..up().view().clone() };
        Overlay::new(view, limits)
    };
    let session_time = SessionEffect::ExpireAfter { after: limits.session_time };
    let new = begun(true);
    assert_eq!(new.view().expires, UnixMillis(61_000), "as its first handler sees it");
    assert_eq!(new.into_effects(), [session_time]);
    let mut told = begun(true);
    told.expire_after(Duration::from_secs(5)).unwrap();
    assert_eq!(told.into_effects(), [SessionEffect::ExpireAfter { after: Duration::from_secs(5) }]);
    let mut later = begun(false);
    assert!(matches!(later.expire_after(Duration::from_secs(61)), Err(Refusal::Invalid(_))));
    assert_eq!(later.view().expires, UnixMillis(9_000_000));
    assert_eq!(later.into_effects(), []);
}
