//! Two containers on one store, a caller, a callee, and a back-to-back agent between them, in virtual time. The first
//! container dies after any one of its effects; the other goes on.

#![allow(clippy::unwrap_used)]

mod absence;
mod admission;
mod agent;
mod bounds;
mod chain;
mod claims;
mod edge;
mod ends;
mod everything;
mod front_door;
mod http;
mod keys;
mod phones;
mod proxying;
mod replication;
mod signals;
mod silence;
mod world;

use std::time::Duration;

use crate::session::Replication;
use phones::Hangup;
use world::{Fate, Trouble, World};

const SECOND: Duration = Duration::from_secs(1);

/// A call from beginning to end; says how many effects the first container had.
fn call(hangup: Hangup, fate: Fate) -> (usize, World) {
    call_with(hangup, fate, None)
}

fn call_with(hangup: Hangup, fate: Fate, trouble: Option<(usize, Trouble)>) -> (usize, World) {
    call_of(Replication::BeforeReply, hangup, fate, trouble)
}

fn call_of(
    replication: Replication,
    hangup: Hangup,
    fate: Fate,
    trouble: Option<(usize, Trouble)>,
) -> (usize, World) {
    let mut world = World::new(hangup, fate);
    (world.replication, world.trouble) = (replication, trouble);
    world.begins();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{hangup:?}, {fate:?}, {trouble:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "the call did not end: {told}");
    let answered = world.caller.answered_after.unwrap();
    assert!(
        answered < SECOND / 2,
        "the answer is repeated at once, but came after {answered:?}: {told}"
    );
    assert_eq!(world.callee.rings(), 1, "the callee rings once: {told}");
    for phone in [&world.caller, &world.callee] {
        assert_eq!(phone.faults, Vec::<String>::new(), "{told}");
    }
    assert_eq!(world.infos(), 1, "a timer fires once: {told}");
    world.check_indexes();
    // All that is kept for repetitions is forgotten, and so is the session.
    world.runs(40 * SECOND);
    assert_eq!(world.store.records(), 0, "{told}");
    assert_eq!(world.sessions(), 0, "{told}");
    (world.steps, world)
}

#[test]
fn call_outlives_its_container_wherever_it_is_killed() {
    for hangup in [Hangup::Caller, Hangup::Callee] {
        let (steps, _) = call(hangup, Fate::Lives);
        assert!(steps > 40, "{steps}");
        for at in 0..steps {
            call(hangup, Fate::DiesAfter(at));
        }
    }
}

#[test]
fn call_goes_on_when_its_messages_reach_the_other_container() {
    for hangup in [Hangup::Caller, Hangup::Callee] {
        let (_, world) = call(hangup, Fate::IsMissed);
        assert!(world.handed_on > 3, "{}", world.handed_on);
    }
}

#[test]
fn container_that_was_taken_for_dead_drops_its_copy_without_a_word() {
    for hangup in [Hangup::Caller, Hangup::Callee] {
        let (steps, _) = call(hangup, Fate::Lives);
        for at in 0..steps {
            call(hangup, Fate::IsTakenForDeadAfter(at));
        }
    }
}

#[test]
fn container_that_was_taken_for_dead_keeps_none_of_the_requests_that_it_sent() {
    let (steps, _) = call(Hangup::Caller, Fate::Lives);
    let mut lost = 0;
    for at in 0..steps {
        let mut world = World::new(Hangup::Nobody, Fate::IsTakenForDeadAfter(at));
        world.begins();
        world.runs(2 * SECOND);
        let first = world.first_container();
        if first.entries.is_empty() {
            assert!(first.clients.is_empty(), "{at}: {}", world.log.join("\n"));
            lost += 1;
        }
    }
    assert!(lost > 1, "{lost} of {steps}");
}

#[test]
fn commit_that_goes_wrong_changes_nothing_of_a_call() {
    let troubles = [
        Trouble::AppliedButUnknown,
        Trouble::LostAndUnknown,
        Trouble::AppliedAndUnreadable,
        Trouble::Conflict,
    ];
    for hangup in [Hangup::Caller, Hangup::Callee] {
        let (_, world) = call(hangup, Fate::Lives);
        assert!(world.commits > 6, "{}", world.commits);
        for trouble in troubles {
            for at in 0..world.commits {
                call_with(hangup, Fate::Lives, Some((at, trouble)));
            }
        }
    }
}

#[test]
fn step_of_which_nothing_is_known_is_undone_when_its_request_was_refused() {
    for hangup in [Hangup::Caller, Hangup::Callee] {
        let (_, world) = call(hangup, Fate::Lives);
        for at in 0..world.commits {
            let mut world = World::new(hangup, Fate::Lives);
            world.trouble = Some((at, Trouble::AppliedThenDeaf));
            world.begins();
            world.runs(10 * SECOND);
            let told = world.log.join("\n");
            world.check_indexes();
            let is_refused = world.caller.faults.iter().any(|fault| fault.ends_with("503"));
            assert!(is_refused || world.is_hung_up(), "commit {at}:\n{told}");
            assert_eq!(is_refused, world.callee.rings() == 0, "commit {at}:\n{told}");
            assert_eq!(is_refused, at == 0, "commit {at}:\n{told}");
            world.runs(40 * SECOND);
            assert_eq!((world.store.records(), world.sessions()), (0, 0), "commit {at}:\n{told}");
        }
    }
}

#[test]
fn refused_request_of_a_call_is_undone_and_the_call_goes_on() {
    let mut world = World::new(Hangup::Caller, Fate::Lives);
    world.timer_after = 3 * SECOND;
    world.begins();
    world.runs(SECOND);
    let before = world.record();
    world.next_commit_goes_wrong(Trouble::AppliedThenDeaf);
    world.caller_asks(100, 0);
    assert_eq!(world.caller.faults, ["caller: INFO answered 503"]);
    assert_ne!(world.record(), before, "the store has it, and nobody knows");
    world.runs(SECOND * 9 / 4);
    assert!(world.record() == before || world.is_hung_up(), "{}", world.log.join("\n"));
    world.check_indexes();
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    world.runs(40 * SECOND);
    world.check_indexes();
    assert_eq!(world.store.records(), 0);
}

/// Nobody repeats anything here: what a container lets go is gone.
#[test]
fn answer_by_a_stream_outlasts_a_store_that_takes_nothing() {
    let mut quiet = World::new(Hangup::Caller, Fate::Lives);
    quiet.callee.is_by_stream = true;
    quiet.begins();
    quiet.runs_until_hung_up(60 * SECOND);
    let mut refused = 0;
    for at in 0..quiet.commits {
        let mut world = World::new(Hangup::Caller, Fate::Lives);
        world.trouble = Some((at, Trouble::Busy));
        world.callee.is_by_stream = true;
        world.begins();
        world.runs_until_hung_up(60 * SECOND);
        let told = world.log.join("\n");
        // A request is refused, and that is an end too.
        let is_refused = world.caller.faults.iter().any(|fault| fault.ends_with("503"));
        refused += usize::from(is_refused);
        assert!(is_refused || world.is_hung_up(), "commit {at}:\n{told}");
        assert_eq!(world.callee.faults, Vec::<String>::new(), "commit {at}:\n{told}");
    }
    assert!(refused <= 1, "the INVITE, but {refused} were refused");
}

// RFC 3261 §13.3.1.4
#[test]
fn answer_is_repeated_with_doubled_pauses_until_its_ack() {
    let mut world = World::new(Hangup::Callee, Fate::Lives);
    world.caller.is_deaf_to_answers = true;
    world.begins();
    world.runs(12 * SECOND);
    let pauses: Vec<u128> =
        world.caller.answers.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
    assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 4_000]);
    world.caller.is_deaf_to_answers = false;
    world.runs(40 * SECOND);
    assert_eq!(world.caller.answers.len(), 7, "the next one is acknowledged");
}

#[test]
fn session_is_taken_over_once_all_edges_are_within_reach_or_were_waited_for() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.begins();
    world.runs(SECOND / 20);
    assert_eq!(world.sessions(), 1);
    world.kill();
    world.gets_another_edge();
    world.runs(SECOND * 3 / 2);
    assert_eq!(world.sessions(), 0, "a call might be out of reach");
    world.runs(SECOND);
    assert_eq!(world.sessions(), 1);
}

#[test]
fn idle_call_is_kept_as_its_record_only() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.begins();
    world.runs(100 * SECOND);
    assert_eq!(world.octets_at_rest(), Some(world.stored_octets()));
    let in_memory =
        world.octets_at_rest().unwrap() + size_of::<super::Entry>() + size_of::<[u8; 16]>();
    assert!(in_memory < 2_000, "{in_memory} octets of an idle session");
}

#[test]
fn due_timer_of_an_idle_session_fires_although_its_owner_is_dead() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.timer_after = 50 * SECOND;
    world.round = 5 * SECOND;
    world.begins();
    world.runs(45 * SECOND);
    assert_eq!(world.infos(), 0);
    world.kill();
    world.runs(4 * SECOND);
    assert_eq!(world.sessions(), 0, "nobody has asked for it yet");
    let before = world.wall();
    while world.infos() == 0 && world.wall().saturating_since(before) < 10 * SECOND {
        world.runs(Duration::from_millis(50));
    }
    let late = world.wall().saturating_since(world.timer_due.unwrap());
    assert!(late <= Duration::from_millis(500), "{late:?}");
    world.runs(20 * SECOND);
    assert_eq!(world.infos(), 1);
}
