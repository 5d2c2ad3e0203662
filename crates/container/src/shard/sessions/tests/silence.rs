//! The owner of a session is stopped, and does not count as dead yet: others do what is due by the clock, and nothing else.

use std::time::Duration;

use topology::Incarnation;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::session::Replication;

const TIMER_AFTER: Duration = Duration::from_secs(3);

/// A call whose owner is stopped shortly before its timer is due, and told to be silent a while after.
fn stopped_before_its_timer(replication: Replication) -> World {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    (world.timer_after, world.round) = (TIMER_AFTER, 5 * SECOND);
    world.replication = replication;
    world.begins();
    world.runs(TIMER_AFTER - SECOND / 10);
    world.stops();
    world.runs(SECOND * 3 / 5);
    assert_eq!(world.infos(), 0, "nobody knows yet");
    world
}

fn owner(world: &World) -> Incarnation {
    let [session] = &world.stored_sessions()[..] else { panic!("one session") };
    session.owner.incarnation
}

#[test]
fn due_timer_of_a_silent_owner_fires_elsewhere_and_once() {
    let mut world = stopped_before_its_timer(Replication::BeforeReply);
    world.falls_silent(true);
    world.runs(SECOND / 100);
    let late = world.wall().saturating_since(world.timer_due.unwrap());
    assert_eq!(world.infos(), 1, "{}", world.log.join("\n"));
    assert!(late <= SECOND * 3 / 5, "{late:?}");
    assert_eq!(owner(&world), Incarnation(2));
    // It goes on, fires the timer too, and finds that the session is another's.
    world.runs(SECOND / 5);
    world.wakes();
    world.runs(10 * SECOND);
    assert_eq!(world.infos(), 1, "{}", world.log.join("\n"));
    assert_eq!((owner(&world), world.sessions()), (Incarnation(2), 1), "it dropped its copy");
    world.caller_hangs_up();
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    world.runs(40 * SECOND);
    world.check_indexes();
    assert_eq!(world.store.records(), 0);
}

#[test]
fn timer_that_comes_due_while_its_owner_is_silent_is_taken_over_then() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    (world.timer_after, world.round) = (TIMER_AFTER, 30 * SECOND);
    world.begins();
    world.runs(TIMER_AFTER - SECOND);
    world.stops();
    world.falls_silent(true);
    world.runs(SECOND / 2);
    assert_eq!((world.infos(), owner(&world)), (0, Incarnation(1)), "nothing is due");
    world.runs(SECOND * 3 / 4);
    assert_eq!((world.infos(), owner(&world)), (1, Incarnation(2)), "{}", world.log.join("\n"));
}

#[test]
fn overdue_timer_of_an_owner_that_is_heard_of_is_left_to_it() {
    let mut world = stopped_before_its_timer(Replication::BeforeReply);
    world.runs(10 * SECOND);
    assert_eq!((world.infos(), owner(&world)), (0, Incarnation(1)), "its handler may take long");
    world.wakes();
    world.runs(SECOND);
    assert_eq!((world.infos(), owner(&world)), (1, Incarnation(1)), "{}", world.log.join("\n"));
}

#[test]
fn session_that_speaks_before_its_commits_is_left_to_an_owner_that_may_go_on() {
    let mut world = stopped_before_its_timer(Replication::AfterReply);
    world.falls_silent(true);
    world.runs(SECOND / 5);
    assert_eq!((world.infos(), owner(&world)), (0, Incarnation(1)));
    world.wakes();
    world.runs(SECOND);
    assert_eq!(world.infos(), 1, "{}", world.log.join("\n"));
}
