//! The duties of a user agent on both sides.

use std::time::Duration;

use sip::{HeaderName, Message};

use super::*;
use crate::application::{Caller, Response};
use crate::session::chain::{self, Chain, Origin, Sender};
use crate::session::identity::{ForwardedName, Opening};
use crate::session::receive::Input;
use crate::session::{LegName, LegState, SessionEffect};

fn tag(message: &Message, name: HeaderName) -> Option<Vec<u8>> {
    let value = message.field(name).unwrap();
    sip::NameAddr::parse(value).unwrap().tag().map(<[u8]>::to_vec)
}

#[test]
fn call_goes_through_and_is_hung_up_by_the_caller() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    assert_eq!(bench.words(), ["INVITE 1"]);
    assert_eq!(bench.responds("INVITE", 180, "bob"), "callee 180");
    bench.respond(Response::new(180));
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    bench.respond(ok());
    assert_eq!(bench.words(), ["180", "accept 200", "200"]);
    let answer = bench.answers.last().unwrap().clone();
    assert_eq!(answer.field(HeaderName::RecordRoute), Some(&b"<sip:flow1@192.0.2.1;lr>"[..]));
    let tags = bench.answers.iter().map(|answer| tag(answer, HeaderName::To).unwrap());
    let tags: Vec<Vec<u8>> = tags.collect();
    assert_eq!(tags[0], tags[1], "one dialog, one tag");
    assert_eq!(bench.acknowledges("caller", 7), "caller ACK");
    assert_eq!(bench.acknowledges("caller", 7), "nothing", "a repetition");
    bench.acknowledge("callee");
    assert_eq!(bench.words(), ["ACK 1"]);
    let ack = bench.acks[0].clone();
    assert_eq!(ack.request_uri(), Some(&b"sip:bob@203.0.113.9;fork=bob"[..]));
    assert_eq!(ack.field(HeaderName::Route), Some(&b"<sip:flow2@192.0.2.1;lr>"[..]));
    assert_eq!(bench.requests("caller", "BYE", 8), "caller BYE");
    bench.send("callee", "BYE").unwrap();
    assert_eq!(bench.words(), ["200", "BYE 2"], "an unanswered BYE is answered by itself");
    assert_eq!(bench.session.view(bench.now).leg("callee").unwrap().state, LegState::Ended);
    assert!(!bench.session.is_over());
    assert_eq!(bench.responds("BYE", 200, "bob"), "callee 200");
    assert!(bench.session.is_over());
}

#[test]
fn contact_names_the_session_and_a_message_of_ours_is_known_again() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    let invite = bench.last("INVITE");
    let contact = invite.field(HeaderName::Contact).unwrap();
    let token = &contact["<sip:".len()..][..52];
    let identity = bench::identity(1);
    assert_eq!(identity.read_token(token).unwrap().session, bench.session.id.0);
    assert!(contact.ends_with(b"@c1.n1.outlast.invalid>"));
    let response = response_to(&invite, 180, "bob");
    assert_eq!(identity.session_of_response(&response).unwrap().session, bench.session.id.0);
    let chain = Chain { depth: 1, origin: Origin::Same };
    let sender = Some(Sender { application: 1, chain, caller: Caller::Known });
    let sent = invite;
    let invite = bench::by_front_door(&sent);
    assert_eq!(identity.sender(&invite, ["other", "app"].into_iter()), sender);
    assert_eq!(identity.sender(&invite, ["other", "app@2"].into_iter()), sender, "any version");
    assert_eq!(identity.sender(&invite, ["other"].into_iter()), None);
    let others = bench::by_front_door(&super::invite());
    assert_eq!(identity.sender(&others, ["app"].into_iter()), None);
    let below = bench::by_front_door(&invite);
    assert_eq!(identity.sender(&below, ["app"].into_iter()), None, "somebody stands between");
    assert_eq!(identity.sender(&sent, ["app"].into_iter()), None, "it has come by no edge");
    let text = String::from_utf8(invite.buffer().to_vec()).unwrap();
    assert!(text.contains(";chain=1s\r\n"), "{text}");
    let sender = |message: &Message| identity.sender(message, ["app"].into_iter());
    assert_is_of_nobody_once_changed(&invite, sender);
    let forged = bench::parse(&text.replace(";chain=1s", ";chain=0s"));
    assert_eq!(identity.sender(&forged, ["app"].into_iter()), None, "under the MAC");
}

/// Whoever gets a request of ours and brings it back makes no other of it.
fn assert_is_of_nobody_once_changed(
    request: &Message,
    sender: impl Fn(&Message) -> Option<Sender>,
) {
    assert!(sender(request).is_some());
    let text = String::from_utf8(request.buffer().to_vec()).unwrap();
    let from = String::from_utf8(request.field(HeaderName::From).unwrap().to_vec()).unwrap();
    let forged = text.replace(&from, "<sip:mallory@example.com>;tag=f");
    assert_eq!(sender(&bench::parse(&forged)), None, "{forged}");
    let forged = text.replacen("INVITE sip:", "INVITE sip:x", 1);
    assert_eq!(sender(&bench::parse(&forged)), None, "{forged}");
}

#[test]
fn forwarded_request_says_by_whom_under_its_branch_and_call_id_only() {
    let identity = bench::identity(1);
    let chain = Chain { depth: 3, origin: Origin::Same };
    let asked = super::invite();
    let forwarded = |caller| {
        identity.forwarded(&ForwardedName {
            application: "app@1",
            chain,
            caller,
            call_id: b"c1",
            branch: b"z9hG4bKproxy",
            opening: Opening::of(&asked),
        })
    };
    let (mark, known) = (forwarded(Caller::Claimed), forwarded(Caller::Known));
    let text = |mark: &str, call_id: &str| {
        let via =
            format!("Via: SIP/2.0/TCP c1.n1.outlast.invalid;branch=z9hG4bKproxy{mark}\r\nVia:");
        let text = String::from_utf8(super::invite().buffer().to_vec()).unwrap();
        let text = text.replacen("Via:", &via, 1).replace("Call-ID: c1", call_id);
        bench::by_front_door(&bench::parse(&text))
    };
    let sender = |message: &Message| identity.sender(message, ["other", "app@2"].into_iter());
    assert_eq!(
        sender(&text(&mark, "Call-ID: c1")),
        Some(Sender { application: 1, chain, caller: Caller::Claimed })
    );
    assert_eq!(sender(&text(&mark, "Call-ID: c2")), None);
    assert_eq!(sender(&text(&mark.replace("3s", "2s"), "Call-ID: c1")), None);
    assert_eq!(sender(&text("", "Call-ID: c1")), None);
    let is_known = sender(&text(&known, "Call-ID: c1")).unwrap().caller == Caller::Known;
    assert!(is_known && known.ends_with(";caller=known"), "{known}");
    let claimed = known.replace(";caller=known", "");
    assert_eq!(sender(&text(&claimed, "Call-ID: c1")), None, "under the MAC");
    assert_eq!(sender(&text(&format!("{mark};caller=known"), "Call-ID: c1")), None);
    assert_is_of_nobody_once_changed(&text(&known, "Call-ID: c1"), sender);
    assert_eq!(chain::depth_of(&text(&mark, "Call-ID: c1")), 3);
}

#[test]
fn max_forwards_goes_down_from_leg_to_leg() {
    let text = String::from_utf8(invite().buffer().to_vec()).unwrap();
    let invite = bench::parse(&text.replace("Max-Forwards: 70", "Max-Forwards: 5"));
    let mut bench = Bench::begun_by(invite).unwrap();
    bench.apply(vec![call()]).unwrap();
    assert_eq!(bench.last("INVITE").max_forwards(), Ok(Some(4)));
}

#[test]
fn invite_without_contact_begins_no_session() {
    let text = String::from_utf8(invite().buffer().to_vec()).unwrap();
    let without = bench::parse(&text.replace("Contact: <sip:alice@198.51.100.7>\r\n", ""));
    assert_eq!(Bench::begun_by(without).err().map(|refused| refused.status), Some(400));
}

#[test]
fn cancel_of_the_caller_ends_its_leg_with_487() {
    // RFC 3261 §9.2
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    assert_eq!(bench.cancels(), "caller cancelled");
    bench.apply(vec![SessionEffect::Cancel { leg: LegName::new("callee") }]).unwrap();
    assert_eq!(bench.words(), ["INVITE 1", "487", "CANCEL"]);
    assert_eq!(bench.cancels(), "nothing");
    assert_eq!(bench.responds("INVITE", 487, "bob"), "callee failed INVITE 487");
    assert_eq!(bench.words(), ["accept 487"]);
    assert!(bench.session.is_over());
    assert_eq!(bench.repeats_invite(), "nothing");
    assert_eq!(bench.words(), ["487"], "kept for repetitions");
}

#[test]
fn own_cancel_waits_for_a_provisional_response() {
    // RFC 3261 §9.1
    let mut bench = Bench::new();
    bench.apply(vec![call(), SessionEffect::Cancel { leg: LegName::new("callee") }]).unwrap();
    assert_eq!(bench.words(), ["INVITE 1"]);
    assert_eq!(bench.responds("INVITE", 180, "bob"), "nothing");
    assert_eq!(bench.responds("INVITE", 180, "bob"), "nothing");
    assert_eq!(bench.words(), ["CANCEL"], "once");
    assert_eq!(bench.waits(), "callee failed INVITE 487", "the callee never answered");
    assert_eq!(bench.words(), ["abandon"]);
}

#[test]
fn callee_that_answers_a_cancelled_call_gets_ack_and_bye() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "bob");
    bench.apply(vec![SessionEffect::Cancel { leg: LegName::new("callee") }]).unwrap();
    bench.words();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee failed INVITE 487");
    assert_eq!(bench.words(), ["accept 200", "ACK 1", "BYE 2"]);
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
    assert_eq!(bench.words(), ["ACK 1"]);
    assert_eq!(bench.responds("BYE", 200, "bob"), "nothing", "nobody asked for that BYE");
}

#[test]
fn other_forks_that_answer_are_acknowledged_and_ended() {
    // RFC 3261 §13.2.2.4
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 180, "fork");
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    bench.acknowledge("callee");
    bench.words();
    assert_eq!(bench.responds("INVITE", 200, "fork"), "nothing");
    assert_eq!(bench.words(), ["ACK 1", "BYE 2"]);
    let fork_bye = bench.last("BYE");
    assert_eq!(fork_bye.request_uri(), Some(&b"sip:bob@203.0.113.9;fork=fork"[..]));
    for (fork, acks) in [("fork", 1), ("bob", 1)] {
        assert_eq!(bench.responds("INVITE", 200, fork), "nothing");
        assert_eq!(bench.words(), vec!["ACK 1"; acks], "{fork} repeats its answer");
    }
    let last = bench.acks.last().unwrap();
    assert_eq!(tag(last, HeaderName::To).unwrap(), b"bob");
    bench.send("callee", "BYE").unwrap();
    assert_eq!(bench.words(), ["BYE 2"], "the dialog's own numbers");
    let bye = bench.last("BYE");
    let branch = |message: &Message| message.top_via().unwrap().branch().unwrap().to_vec();
    assert_ne!(branch(&bye), branch(&fork_bye), "each has its own transaction");
    assert_eq!(
        bench.comes(Input::Response { response: response_to(&bye, 200, "bob") }),
        "callee 200"
    );
    let response = response_to(&fork_bye, 200, "fork");
    assert_eq!(bench.comes(Input::Response { response }), "nothing");
    assert!(bench.session.view(bench.now).leg("callee").is_none());
}

#[test]
fn answer_that_is_not_acknowledged_is_not_repeated_to_us_in_vain() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    bench.responds("INVITE", 200, "bob");
    bench.words();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "nothing");
    assert!(bench.words().is_empty(), "the application has not said what to acknowledge it with");
    assert!(bench.session.view(bench.now).leg("callee").unwrap().wants_ack);
    bench.send("callee", "BYE").unwrap();
    assert_eq!(bench.words(), ["ACK 1", "BYE 2"], "never a BYE before the ACK");
}

#[test]
fn bye_of_ours_waits_for_the_callers_ack() {
    // RFC 3261 §15
    let mut bench = Bench::new();
    bench.respond(ok());
    bench.send("caller", "BYE").unwrap();
    assert_eq!(bench.words(), ["200"]);
    assert_eq!(bench.acknowledges("caller", 7), "caller ACK");
    assert_eq!(bench.words(), ["BYE 1"]);
    let bye = bench.last("BYE");
    assert_eq!(tag(&bye, HeaderName::To).unwrap(), b"alice");
    assert_eq!(bye.field(HeaderName::Route), Some(&b"<sip:flow1@192.0.2.1;lr>"[..]));
    assert_eq!(bench.responds("BYE", 200, "alice"), "caller 200");
    assert!(bench.session.is_over());
}

#[test]
fn caller_that_never_acknowledges_is_told_bye() {
    // RFC 3261 §13.3.1.4
    let mut bench = Bench::new();
    bench.respond(ok());
    let before = bench.now;
    assert_eq!(bench.waits(), "caller failed ACK 408");
    assert_eq!(bench.now.saturating_since(before), Duration::from_secs(32));
    assert_eq!(bench.words(), ["200", "BYE 1"]);
}

#[test]
fn crossing_invites_are_refused_on_both_sides() {
    // RFC 3261 §14.1, §14.2
    let mut bench = Bench::talking();
    bench.send("caller", "INVITE").unwrap();
    assert_eq!(bench.requests("caller", "INVITE", 8), "nothing");
    assert_eq!(bench.words(), ["INVITE 1", "491"]);
    let target = bench.session.legs[0].dialog.as_ref().unwrap().remote_target.clone();
    assert_eq!(target, "sip:alice@198.51.100.7", "a refused INVITE moves nothing");
    assert_eq!(bench.responds("INVITE", 491, "alice"), "caller 491");
    assert_eq!(bench.requests("caller", "INVITE", 9), "caller INVITE");
    assert_eq!(bench.requests("caller", "INVITE", 10), "nothing");
    assert_eq!(bench.words(), ["accept 491", "500"], "the first is not answered yet");
    bench.send("caller", "INVITE").unwrap();
    assert_eq!(bench.comes(Input::Failure), "caller failed INVITE 491");
    assert!(bench.words().is_empty());
    assert_eq!(bench.session.failures.len(), 0);
}

#[test]
fn re_invite_follows_the_ack_that_is_still_owed() {
    // RFC 5407 §3.1.4: the caller's ACK is lost, its re-INVITE says that it had the 2xx.
    let mut bench = Bench::new();
    let SessionEffect::Call { leg, target, from, to, headers, .. } = call() else { unreachable!() };
    let body = ok().body;
    bench.apply(vec![SessionEffect::Call { leg, target, from, to, headers, body }]).unwrap();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    bench.respond(ok());
    assert_eq!(bench.requests("caller", "INVITE", 8), "caller INVITE");
    bench.send("callee", "INVITE").unwrap();
    assert_eq!(bench.words(), ["INVITE 1", "accept 200", "200", "ACK 1", "INVITE 2"]);
    bench.acknowledge("callee");
    assert!(bench.words().is_empty(), "the late ACK is nothing any more");
}

#[test]
fn re_invite_waits_for_the_ack_that_has_to_hold_the_answer() {
    // RFC 5407 §3.1.5: the call has no offer.
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    bench.send("callee", "INVITE").unwrap();
    assert_eq!(bench.words(), ["INVITE 1", "accept 200"]);
    assert_eq!(bench.comes(Input::Failure), "callee failed INVITE 491");
    bench.acknowledge("callee");
    bench.send("callee", "INVITE").unwrap();
    assert_eq!(bench.words(), ["ACK 1", "INVITE 2"]);
}

#[test]
fn re_invite_moves_the_target_and_keeps_the_dialog() {
    let mut bench = Bench::talking();
    assert_eq!(bench.requests("caller", "INVITE", 8), "caller INVITE");
    bench.send("callee", "INVITE").unwrap();
    assert_eq!(bench.responds("INVITE", 200, "bob"), "callee 200");
    bench.respond(ok());
    assert_eq!(bench.acknowledges("caller", 8), "caller ACK");
    bench.acknowledge("callee");
    assert_eq!(bench.words(), ["INVITE 2", "accept 200", "200", "ACK 2"]);
    bench.send("caller", "INFO").unwrap();
    assert_eq!(bench.last("INFO").request_uri(), Some(&b"sip:moved@198.51.100.8"[..]));
    assert_eq!(bench.requests("callee", "INVITE", 1), "callee INVITE");
    bench.respond(Response::new(488));
    let view = bench.session.view(bench.now);
    assert!(view.legs.iter().all(|leg| leg.state == LegState::Confirmed), "a refusal ends nothing");
}

#[test]
fn requests_out_of_order_or_out_of_any_dialog_are_refused() {
    // RFC 3261 §12.2.2
    let mut bench = Bench::talking();
    assert_eq!(bench.requests("caller", "INFO", 20), "caller INFO");
    assert_eq!(bench.requests("caller", "INFO", 19), "nothing");
    assert_eq!(bench.words(), ["500"]);
    let mut stranger = bench.request("caller", "INFO", 21).buffer().to_vec();
    let at = stranger.windows(5).position(|window| window == b"alice").unwrap();
    stranger[at..at + 5].copy_from_slice(b"mallo");
    let stranger = Message::parse(stranger.into()).unwrap();
    let tag_at =
        String::from_utf8(stranger.buffer().to_vec()).unwrap().replace("tag=alice", "tag=mallory");
    let request = super::bench::parse(&tag_at);
    let key = b"stranger".as_slice().into();
    let flow = bench.session.incoming[0].flow;
    let new = crate::session::receive::NewRequest { request, key, flow };
    assert_eq!(bench.comes(Input::Request(new)), "nothing");
    assert_eq!(bench.words(), ["481"]);
}

#[test]
fn failures_of_transactions_are_told() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    let branch = |bench: &Bench, method: &str| {
        let request = bench.last(method);
        bytes::Bytes::copy_from_slice(request.top_via().unwrap().branch().unwrap())
    };
    let failed = |bench: &mut Bench, method: &str, status| {
        let branch = branch(bench, method);
        bench.comes(Input::Failed { branch, status })
    };
    assert_eq!(failed(&mut bench, "INVITE", 503), "callee failed INVITE 503");
    assert_eq!(failed(&mut bench, "INVITE", 503), "nothing", "it is over");
    let mut bench = Bench::talking();
    bench.send("callee", "INFO").unwrap();
    assert_eq!(failed(&mut bench, "INFO", 503), "callee failed INFO 503");
    bench.send("callee", "INFO").unwrap();
    assert_eq!(bench.words(), ["INFO 2", "INFO 3"]);
}

#[test]
fn repeated_failure_reaches_its_transaction_for_another_ack() {
    let mut bench = Bench::new();
    bench.apply(vec![call()]).unwrap();
    assert_eq!(bench.responds("INVITE", 486, "bob"), "callee 486");
    assert_eq!(bench.responds("INVITE", 486, "bob"), "nothing");
    assert_eq!(bench.words(), ["INVITE 1", "accept 486", "accept 486"]);
}
