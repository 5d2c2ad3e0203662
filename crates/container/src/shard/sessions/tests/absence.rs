//! Applications come and go, and so do their versions; sessions stay.

use sip::HeaderName;
use std::time::Duration;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::shard::sessions::SessionApplications;

const MOMENT: Duration = Duration::from_millis(20);

/// A call through a session of `agent@1`; its timer is to fire in a second.
fn standing_call(hangup: Hangup) -> World {
    let mut world = World::new(hangup, Fate::Lives);
    world.begins();
    world.runs(SECOND);
    world
}

fn only(world: &World, names: &[&'static str]) -> SessionApplications {
    SessionApplications::new(names.iter().map(|name| world.agent(name)).collect())
}

#[test]
fn session_without_its_application_waits_for_it() {
    let mut world = standing_call(Hangup::Nobody);
    world.hosts(only(&world, &["agent@2"]));
    world.runs(30 * SECOND);
    assert_eq!((world.infos(), world.sessions()), (0, 1), "its timer waits");
    world.caller_asks(100, 0);
    assert_eq!(world.caller.faults, ["caller: INFO answered 503"]);
    world.caller.faults.clear();
    world.hosts(only(&world, &["agent@1"]));
    world.runs(MOMENT);
    assert_eq!(world.infos(), 1, "at once: {}", world.log.join("\n"));
    world.runs(60 * SECOND);
    assert_eq!(world.infos(), 1, "and once");
    assert_eq!(world.octets_at_rest(), Some(world.stored_octets()));
    world.check_indexes();
}

#[test]
fn refusal_for_want_of_an_application_says_when_to_come_again() {
    let mut world = standing_call(Hangup::Nobody);
    world.comes(&super::bounds::invite("other-1"));
    let ringing = world.others.pop().unwrap();
    let contact = String::from_utf8_lossy(ringing.field(HeaderName::Contact).unwrap());
    let contact = contact.trim_matches(['<', '>']);
    world.hosts(SessionApplications::default());
    world.comes(&format!(
        "INFO {contact} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKinfo\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=caller\r\nTo: {}\r\nCall-ID: other-1\r\nCSeq: 90 INFO\r\n\
         Content-Length: 0\r\n\r\n",
        String::from_utf8_lossy(ringing.field(HeaderName::To).unwrap()),
    ));
    let answer = world.others.pop().unwrap();
    assert_eq!(answer.status(), Some(503));
    assert!(answer.field(HeaderName::RetryAfter).is_some());
}

#[test]
fn bye_waits_for_the_application_and_ends_the_call_then() {
    let mut world = standing_call(Hangup::Nobody);
    world.hosts(SessionApplications::default());
    world.caller_hangs_up();
    assert!(!world.caller.is_over && !world.callee.is_over);
    world.hosts(only(&world, &["agent@1"]));
    world.runs(MOMENT);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    assert_eq!(world.caller.faults, Vec::<String>::new());
    world.runs(40 * SECOND);
    assert_eq!((world.store.records(), world.sessions()), (0, 0));
}

#[test]
fn phone_that_hangs_up_while_the_application_is_away_is_answered_in_time() {
    let mut world = standing_call(Hangup::Nobody);
    world.hosts(SessionApplications::default());
    world.caller_hangs_up();
    world.runs(16 * SECOND);
    assert!(!world.caller.is_over);
    world.runs(4 * SECOND);
    assert!(world.caller.is_over && !world.callee.is_over, "{}", world.log.join("\n"));
    world.check_indexes();
    world.runs(60 * SECOND);
    world.hosts(only(&world, &["agent@1"]));
    world.runs(MOMENT);
    assert!(world.is_hung_up(), "the other side, too: {}", world.log.join("\n"));
    // RFC 4320 §4.1: a request that takes long is told so.
    world.caller.faults.retain(|fault| fault != "caller: BYE answered 100");
    assert_eq!(world.caller.faults, Vec::<String>::new());
    world.runs(40 * SECOND);
    assert_eq!((world.store.records(), world.sessions()), (0, 0));
}

#[test]
fn caller_that_gives_up_while_the_application_is_away_is_answered_in_time() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.opens();
    world.comes(&super::bounds::invite("other-1"));
    world.others.clear();
    world.hosts(SessionApplications::default());
    world.comes(&super::bounds::invite("other-1").replace("INVITE", "CANCEL"));
    world.runs(19 * SECOND);
    let statuses = |world: &World| {
        let mut statuses: Vec<_> = world.others.iter().filter_map(|sent| sent.status()).collect();
        statuses.retain(|status| *status > 100);
        statuses.sort_unstable();
        statuses.dedup();
        statuses
    };
    assert_eq!(statuses(&world), Vec::<u16>::new());
    world.runs(2 * SECOND);
    assert_eq!(statuses(&world), [200, 487], "{}", world.log.join("\n"));
    world.hosts(only(&world, &["agent@1"]));
    world.runs(MOMENT);
    // It has answered meanwhile.
    assert_eq!(world.callee.requests("BYE"), 1, "{}", world.log.join("\n"));
}

#[test]
fn answer_that_comes_while_the_application_is_away_is_heard_later() {
    let mut world = World::new(Hangup::Caller, Fate::Lives);
    world.begins();
    world.hosts(SessionApplications::default());
    world.runs(5 * SECOND);
    assert_eq!(world.caller.answered_after, None);
    world.hosts(only(&world, &["agent@1"]));
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    assert_eq!((world.callee.rings(), world.infos()), (1, 1));
    world.runs(40 * SECOND);
    assert_eq!((world.store.records(), world.sessions()), (0, 0));
}

#[test]
fn session_of_a_dead_container_waits_where_it_is_taken_over() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.begins();
    world.runs(SECOND);
    world.hosts(SessionApplications::default());
    world.kill();
    world.runs(30 * SECOND);
    assert_eq!((world.infos(), world.sessions()), (0, 1));
    world.hosts(only(&world, &["agent@1"]));
    world.runs(MOMENT);
    assert_eq!(world.infos(), 1);
}

#[test]
fn sessions_keep_their_version_and_new_ones_get_the_current_one() {
    let mut world = standing_call(Hangup::Caller);
    let former = vec![world.agent("agent@1")];
    world.hosts(SessionApplications { former, ..only(&world, &["agent@2"]) });
    world.comes(&super::bounds::invite("other-1"));
    let stored = world.stored_sessions();
    let of = |name| stored.iter().filter(|session| session.application() == name).count();
    assert_eq!((of("agent@1"), of("agent@2")), (1, 1), "{stored:?}");
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
}
