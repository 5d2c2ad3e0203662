//! What there is too much of is refused, and calls go on all the same; what nobody knows is told so.

use sip::HeaderName;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::session::limits;

pub(super) fn invite(call_id: &str) -> String {
    let text = String::from_utf8(super::agent::invite().buffer().to_vec()).unwrap();
    text.replace("z9hG4bKcaller", &format!("z9hG4bK{call_id}"))
        .replace("Call-ID: c1", &format!("Call-ID: {call_id}"))
}

fn cancel(request_uri: &str, call_id: &str) -> String {
    format!(
        "CANCEL {request_uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKnever\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=caller\r\n\
         To: <sip:bob@b2b.example.com>\r\nCall-ID: {call_id}\r\nCSeq: 7 CANCEL\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn standing_call(hangup: Hangup) -> World {
    let mut world = World::new(hangup, Fate::Lives);
    world.begins();
    world.runs(SECOND);
    world
}

#[test]
fn new_session_over_the_bound_is_told_to_come_again_and_calls_go_on() {
    let mut world = standing_call(Hangup::Caller);
    world.first_container().weight_max = 1;
    world.comes(&invite("other-1"));
    let status = |world: &World| world.others.last().and_then(sip::Message::status);
    assert_eq!(status(&world), Some(503));
    let seconds = world.others[0].field(HeaderName::RetryAfter).unwrap().to_vec();
    assert!(String::from_utf8(seconds).unwrap().parse::<u8>().unwrap() > 0);
    assert_eq!(world.sessions(), 1);
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    assert_eq!(world.caller.faults, Vec::<String>::new());
    world.runs(40 * SECOND);
    assert_eq!((world.sessions(), world.first_container().weight), (0, 0));
    world.comes(&invite("other-2"));
    assert_eq!(status(&world), Some(180), "there is room again");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn session_over_the_bound_is_taken_over_all_the_same() {
    let mut world = standing_call(Hangup::Caller);
    world.second_container().weight_max = 0;
    world.kill();
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
}

#[test]
fn request_that_makes_a_record_too_long_is_refused_and_changes_nothing() {
    const OCTETS: usize = 60_000;
    let mut world = standing_call(Hangup::Nobody);
    let mut before = world.record();
    for number in 100.. {
        world.caller_asks(number, OCTETS);
        if !world.caller.faults.is_empty() {
            break;
        }
        assert!(world.record().len() > before.len() + OCTETS);
        before = world.record();
    }
    assert_eq!(world.caller.faults, ["caller: INFO answered 503"]);
    assert!(world.record() == before, "{} octets, then {}", before.len(), world.record().len());
    let room = limits::RECORD_BYTES_MAX - before.len();
    assert!(room < OCTETS + 1_000, "{room}");
    let weight = world.first_container().weight;
    assert_eq!(weight, 1 + before.len() / limits::USUAL_RECORD_BYTES);
    // What it cannot do without is heard; and with the call, what was asked in it is over.
    world.caller_hangs_up();
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    world.runs(40 * SECOND);
    assert_eq!((world.store.records(), world.first_container().weight), (0, 0));
}

// RFC 3261 §9.2
#[test]
fn cancel_of_what_nobody_asked_is_answered_481() {
    let mut world = standing_call(Hangup::Caller);
    world.comes(&cancel("sip:bob@b2b.example.com", "other-1"));
    let contact = world.caller.remote_target();
    world.comes(&cancel(&contact, "other-2"));
    let statuses: Vec<_> = world.others.iter().filter_map(sip::Message::status).collect();
    assert_eq!(statuses, [481, 481]);
    world.kill();
    world.comes(&cancel(&contact, "other-3"));
    world.runs(SECOND);
    assert_eq!(world.others.last().unwrap().status(), Some(481), "by who has taken it over");
    world.runs_until_hung_up(60 * SECOND);
    assert_eq!(world.caller.faults, Vec::<String>::new());
}
