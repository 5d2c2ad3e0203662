//! Requests that go on to others.

use std::time::Duration;

use sip::HeaderName;

use super::bench::{by_front_door, new_request, parse};
use super::*;
use crate::application::{Caller, ProxyPlan, RecordRoute, Response, Target};
use crate::proxy;
use crate::session::proxying::{Reply, Routed};
use crate::session::receive::Input;
use crate::session::rules::BrokenRule;
use crate::session::{LegName, LegState, ProxyOptions, RequestId, SessionEffect, Supervised};
use crate::setup::Event;

const FIRST: RequestId = RequestId(1);
const BOB: &str = "sip:bob@203.0.113.9";

fn options(record_route: RecordRoute, supervised: Supervised) -> ProxyOptions {
    ProxyOptions { record_route, supervised, timer_c: None, headers: Vec::new() }
}

fn to(targets: &[&'static str], options: ProxyOptions) -> SessionEffect {
    let targets = targets.iter().map(|uri| Target::new(*uri)).collect();
    SessionEffect::Proxy { request: FIRST, targets, options }
}

/// The INVITE has gone on to bob.
fn proxied(record_route: RecordRoute, supervised: Supervised) -> Bench {
    let mut bench = Bench::new();
    bench.apply(vec![to(&[BOB], options(record_route, supervised))]).unwrap();
    assert_eq!(bench.words(), [format!("INVITE to {BOB}")]);
    bench
}

impl Bench {
    /// What goes on is answered; the event, in words.
    fn answered(&mut self, status: u16) -> String {
        let method = self.session.incoming.last().unwrap().method.clone();
        let sent = self.last(std::str::from_utf8(&method).unwrap());
        let response = response_to(&sent, status, "bob").buffer().clone();
        let request = self.session.incoming.last().unwrap().id;
        self.comes(Input::Relay { request, reply: Reply::Received(response) })
    }

    fn leg_state(&self) -> Option<LegState> {
        self.session.view(self.now).leg("caller").map(|leg| leg.state)
    }

    /// A request in bob's dialog, by our entry in its route.
    fn through(&mut self, method: &str, by_caller: bool) -> String {
        let (alice, bob) = ("<sip:alice@example.com>;tag=alice", "<sip:bob@example.com>;tag=bob");
        let (from, to) = if by_caller { (alice, bob) } else { (bob, alice) };
        let entry = self.last("INVITE");
        let entry = entry.values(HeaderName::RecordRoute).next().unwrap().escape_ascii();
        let request = parse(&format!(
            "{method} sip:there@203.0.113.9 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{method}{by_caller}\r\nRoute: {entry}\r\n\
             Route: <sip:flow2@192.0.2.1;lr>\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: c1\r\n\
             CSeq: 8 {method}\r\nContent-Length: 0\r\n\r\n"
        ));
        match method {
            "ACK" => self.comes(Input::Acknowledged { ack: request }),
            _ => self.comes(Input::Request(new_request(request))),
        }
    }
}

#[test]
fn unheard_answer_ends_the_session_with_its_leg() {
    let mut bench = proxied(RecordRoute::No, Supervised::No);
    assert!(bench.session.view(bench.now).leg("caller").unwrap().unanswered.is_empty());
    assert_eq!(bench.last("INVITE").values(HeaderName::RecordRoute).count(), 1, "the edge's own");
    assert_eq!(bench.answered(200), "nothing");
    assert_eq!(bench.words(), ["200"]);
    assert!(bench.session.is_over() && bench.session.is_open(), "its 2xx may come again");
    assert_eq!(bench.answered(200), "nothing");
    assert_eq!(bench.words(), ["200"], "as often as the callee repeats it");
    bench.passes(Duration::from_secs(33));
    bench.comes(Input::Deadline);
    assert!(!bench.session.is_open(), "nothing is left");
}

#[test]
fn supervised_responses_are_heard_once() {
    let mut bench = proxied(RecordRoute::No, Supervised::Yes);
    for (status, word) in [(180, "caller 180"), (183, "caller 183"), (404, "caller 404")] {
        assert_eq!(bench.answered(status), word);
        assert_eq!(bench.words(), [status.to_string()]);
    }
    assert_eq!(bench.answered(404), "nothing");
    assert!(bench.session.is_over());
}

#[test]
fn only_the_request_of_the_event_can_go_on_and_only_once() {
    let refused = || Err(BrokenRule::NotProxied(FIRST));
    let effect = || to(&[BOB], options(RecordRoute::No, Supervised::No));
    let mut bench = Bench::new();
    let twice = vec![effect(), effect()];
    assert_eq!(bench.apply(twice), refused());
    bench.apply(Vec::new()).unwrap();
    assert_eq!(bench.apply(vec![effect()]), refused(), "its event is over");
    let mut bench = Bench::new();
    let response = Response::new(486);
    let respond = SessionEffect::Respond { request: FIRST, response };
    assert_eq!(bench.apply(vec![respond.clone(), effect()]), refused());
    assert_eq!(bench.apply(vec![effect(), respond]), Err(BrokenRule::Proxied(FIRST)));
    bench.apply(vec![effect()]).unwrap();
    assert!(matches!(bench.send("caller", "INFO"), Err(BrokenRule::NoDialog(_))));
}

#[test]
fn targets_and_options_are_checked() {
    let plain = || options(RecordRoute::No, Supervised::No);
    let timer = |seconds| ProxyOptions { timer_c: Some(Duration::from_secs(seconds)), ..plain() };
    let header = crate::application::Header {
        name: crate::application::FieldName::Known(HeaderName::RecordRoute),
        value: "<sip:x>".into(),
    };
    let wrong = [
        to(&["tel:+1"], plain()),
        to(&[BOB; 65], plain()),
        to(&[BOB], timer(180)),
        to(&[BOB], timer(3_601)),
        to(&[BOB], ProxyOptions { headers: vec![header], ..plain() }),
        SessionEffect::Proxy {
            request: FIRST,
            targets: vec![Target { route: vec!["x y".into()], ..Target::new(BOB) }],
            options: plain(),
        },
    ];
    for effect in wrong {
        assert!(Bench::new().apply(vec![effect.clone()]).is_err(), "{effect:?}");
    }
    Bench::new().apply(vec![to(&[BOB], timer(181))]).unwrap();
}

#[test]
fn without_targets_the_registrar_is_asked() {
    let mut bench = Bench::new();
    bench.apply(vec![to(&[], options(RecordRoute::No, Supervised::Yes))]).unwrap();
    assert_eq!(bench.words(), ["route"]);
    bench.moves_to(2);
    assert_eq!(bench.words(), ["route"], "a successor asks again");
    let plan = ProxyPlan::to_targets(vec![Target::new(BOB)]);
    let routed = Input::Routed { request: FIRST, outcome: Routed::To(plan) };
    assert_eq!(bench.comes(routed.clone()), "nothing");
    assert_eq!(bench.words(), [format!("INVITE to {BOB}")]);
    assert_eq!(bench.comes(routed), "nothing", "a late answer changes nothing");
    assert_eq!(bench.words(), [""; 0]);
}

#[test]
fn what_the_registrar_refuses_is_heard_and_passed_back() {
    let mut bench = Bench::new();
    bench.apply(vec![to(&[], options(RecordRoute::No, Supervised::Yes))]).unwrap();
    let outcome = Routed::Refused(Response::new(404));
    assert_eq!(bench.comes(Input::Routed { request: FIRST, outcome }), "caller 404");
    assert_eq!(bench.words(), ["route", "404"]);
    assert!(bench.session.is_over());
}

#[test]
fn cancel_goes_where_the_invite_went() {
    let mut bench = proxied(RecordRoute::No, Supervised::Yes);
    assert_eq!(bench.cancels(), "caller cancelled");
    assert_eq!(bench.words(), ["cancel forwarded"]);
    let (_, set_up, _) = bench.session.forwarded(&bench.session.incoming[0].key).unwrap();
    assert_eq!(set_up.events, [Event::Cancelled], "a successor cancels as well");
    assert_eq!(bench.answered(487), "caller 487");
    // Nobody was asked yet.
    let mut bench = Bench::new();
    bench.apply(vec![to(&[], options(RecordRoute::No, Supervised::Yes))]).unwrap();
    assert_eq!(bench.cancels(), "caller cancelled");
    assert_eq!(bench.words(), ["route", "487"]);
    let plan = ProxyPlan::to_targets(vec![Target::new(BOB)]);
    bench.comes(Input::Routed { request: FIRST, outcome: Routed::To(plan) });
    assert_eq!(bench.words(), [""; 0], "nobody rings");
}

#[test]
fn what_has_happened_is_noted_until_the_first_answer() {
    let mut bench = proxied(RecordRoute::No, Supervised::No);
    let note = |event| Input::Noted { request: FIRST, event };
    bench.comes(note(Some(Event::TimerC { branch: 0 })));
    bench.comes(note(None));
    bench.comes(note(Some(Event::Answered { branch: 0 })));
    bench.comes(note(Some(Event::Answered { branch: 1 })));
    let set_up = bench.session.set_up_of(FIRST).unwrap();
    assert_eq!(set_up.events, [Event::TimerC { branch: 0 }, Event::Answered { branch: 0 }]);
    bench.moves_to(2);
    assert_eq!(bench.words().last().unwrap(), &format!("again INVITE to {BOB}"));
    bench.answered(200);
    bench.words();
    bench.moves_to(3);
    assert_eq!(bench.words(), [format!("again INVITE to {BOB}")], "its 2xx comes again");
}

#[test]
fn end_of_the_session_takes_back_what_rings() {
    let mut bench = proxied(RecordRoute::Yes, Supervised::Yes);
    bench.apply(vec![SessionEffect::End]).unwrap();
    assert_eq!(bench.words(), ["cancel forwarded", "500"]);
    assert!(bench.session.is_over());
    bench.moves_to(2);
    assert_eq!(bench.words(), [format!("again INVITE to {BOB}")], "a successor takes it back, too");
}

#[test]
fn requests_of_a_record_routed_dialog_come_through_and_go_on() {
    let mut bench = proxied(RecordRoute::Yes, Supervised::No);
    let invite = bench.last("INVITE");
    let routes: Vec<&[u8]> = invite.values(HeaderName::RecordRoute).collect();
    assert_eq!(routes.len(), 2);
    assert!(routes[0].ends_with(b"@c1.n1.outlast.invalid;lr>"), "ours is on top");
    bench.answered(200);
    assert_eq!(bench.leg_state(), Some(LegState::Confirmed));
    bench.words();
    assert_eq!(bench.through("ACK", true), "nothing");
    assert_eq!(bench.words(), ["pass ACK 8"]);
    let ack = bench.acks.last().unwrap();
    assert_eq!(ack.values(HeaderName::Route).count(), 1, "our entry is off");
    bench.passes(Duration::from_secs(40));
    bench.comes(Input::Deadline);
    assert_eq!(bench.leg_state(), Some(LegState::Confirmed), "the call stands");
    for by_caller in [true, false] {
        assert_eq!(bench.through("INFO", by_caller), "caller INFO");
        assert_eq!(bench.words(), ["INFO to sip:there@203.0.113.9"]);
        assert_eq!(bench.last("INFO").values(HeaderName::Route).count(), 1);
        bench.moves_to(2);
        assert_eq!(bench.words(), ["again INFO to sip:there@203.0.113.9"]);
        assert_eq!(bench.answered(200), "nothing");
        assert_eq!(bench.words(), ["200"]);
    }
    assert_eq!(bench.through("BYE", false), "caller BYE");
    assert_eq!(bench.words(), ["BYE to sip:there@203.0.113.9"]);
    assert_eq!(bench.leg_state(), Some(LegState::Ended));
    assert!(!bench.session.is_over(), "its answer is waited for");
    bench.answered(200);
    assert!(bench.session.is_over());
    assert_eq!(bench.words(), ["200"], "no BYE of our own");
}

// RFC 3262 §4: a PRACK goes to and fro while the INVITE goes on.
#[test]
fn requests_of_an_early_dialog_leave_it_early_however_they_end() {
    for status in [Some(200), Some(481), None] {
        let mut bench = proxied(RecordRoute::Yes, Supervised::No);
        bench.answered(183);
        assert!(bench.session.has_an_open_invite());
        let invite = bench.session.incoming[0].id;
        bench.through("PRACK", true);
        match status {
            Some(status) => bench.answered(status),
            None => {
                let request = bench.session.incoming.last().unwrap().id;
                bench.comes(Input::Finished { request })
            }
        };
        assert_eq!(bench.leg_state(), Some(LegState::Early), "{status:?}");
        bench.through("UPDATE", false);
        assert!(bench.last("UPDATE").method().is_some(), "it goes on");
        let sent = bench.last("INVITE");
        let response = response_to(&sent, 200, "bob").buffer().clone();
        bench.comes(Input::Relay { request: invite, reply: Reply::Received(response) });
        assert_eq!(bench.leg_state(), Some(LegState::Confirmed), "{status:?}");
        assert!(!bench.session.has_an_open_invite());
    }
}

#[test]
fn handler_may_answer_a_request_in_a_proxied_dialog_itself() {
    let mut bench = proxied(RecordRoute::Yes, Supervised::Yes);
    bench.answered(200);
    bench.words();
    let text = "INFO sip:there@203.0.113.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKi\r\n\
        From: <sip:alice@example.com>;tag=alice\r\nTo: <sip:bob@example.com>;tag=bob\r\n\
        Call-ID: c1\r\nCSeq: 8 INFO\r\nContent-Length: 0\r\n\r\n";
    let input = Input::Request(new_request(parse(text)));
    let answer = |event: &crate::session::SessionEvent| match event {
        crate::session::SessionEvent::Request { request, .. } => {
            vec![SessionEffect::Respond { request: *request, response: Response::new(488) }]
        }
        other => panic!("{other:?}"),
    };
    bench.step(input, answer).unwrap();
    assert_eq!(bench.words(), ["488"]);
}

#[test]
fn bye_of_another_fork_ends_no_call() {
    let mut bench = proxied(RecordRoute::Yes, Supervised::No);
    bench.answered(200);
    let other = bench.through("BYE", true);
    assert_eq!((other.as_str(), bench.leg_state()), ("caller BYE", Some(LegState::Ended)));
    let mut bench = proxied(RecordRoute::Yes, Supervised::No);
    bench.answered(200);
    let text = "BYE sip:there@203.0.113.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKi\r\n\
        From: <sip:alice@example.com>;tag=alice\r\nTo: <sip:bob@example.com>;tag=other\r\n\
        Call-ID: c1\r\nCSeq: 8 BYE\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(bench.comes(Input::Request(new_request(parse(text)))), "caller BYE");
    assert_eq!(bench.leg_state(), Some(LegState::Confirmed));
    // Of another call altogether.
    let text = text.replace("Call-ID: c1", "Call-ID: c2");
    bench.comes(Input::Request(new_request(parse(&text.replace("z9hG4bKi", "z9hG4bKj")))));
    assert_eq!(bench.words().last().unwrap(), "481");
}

#[test]
fn silence_ends_the_leg_of_another_request() {
    let text = "MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKm\r\n\
        Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\n\
        Call-ID: m\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n";
    let mut bench = Bench::begun_by(parse(text)).unwrap();
    let effect = to(&[BOB], options(RecordRoute::Yes, Supervised::Yes));
    bench.apply(vec![effect]).unwrap();
    assert_eq!(bench.last("MESSAGE").values(HeaderName::RecordRoute).count(), 0);
    assert_eq!(bench.comes(Input::Finished { request: FIRST }), "caller failed MESSAGE 408");
    assert!(bench.session.is_over() && !bench.session.is_open());
}

/// A successor's name stands in its own Record-Route only: what went on keeps the first one's.
#[test]
fn what_went_on_is_known_as_the_application_s() {
    let bench = proxied(RecordRoute::No, Supervised::No);
    let context = bench.context();
    let sender = |request: &str| {
        let request = by_front_door(&parse(request));
        context.identity.sender(&request, ["first@1", "app@2"].into_iter())
    };
    let (_, set_up, _) = bench.session.forwarded(&bench.session.incoming[0].key).unwrap();
    let mark = bench.session.via_mark(context.identity, &invite(), Caller::Known);
    let token = context.identity.token_of(bench.session.id, &set_up.token);
    let key = topology::KeyRing::new([1; 32]).derive("branch");
    let deriver = proxy::BranchDeriver::new(&key, set_up.token, set_up.sent_by.clone());
    let mut asked = Vec::new();
    let now = std::time::Instant::now();
    proxy::ProxyContext::new(
        invite(),
        set_up.plan.clone(),
        &deriver.for_session(token, "app", mark),
        b"server",
        now,
        &mut asked,
    );
    let proxy::ProxyEffect::Start { request, .. } = &asked[0] else { panic!("{asked:?}") };
    let sent = String::from_utf8(request.to_vec()).unwrap();
    let by = sender(&sent).unwrap();
    assert_eq!((by.application, by.chain.depth), (1, 1), "whatever its version");
    assert_eq!(by.chain.origin, crate::session::chain::Origin::Retargeted);
    assert_eq!(by.caller, Caller::Known);
    assert_eq!(sender(&sent.replace("chain=1", "chain=2")), None);
    assert_eq!(bench.session.incoming[0].leg, LegName::caller());
}
