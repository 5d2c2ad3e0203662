//! Claims of a dead container's session that end otherwise than claims do.

use futures_util::FutureExt;
use state::engine::fake::CommitFault;
use state::{Batch, Expect, Store};
use topology::Incarnation;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::shard::sessions::records;

/// A call that stands, and whose timer is to fire in a while.
fn standing_call() -> World {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    (world.timer_after, world.round) = (100 * SECOND, 5 * SECOND);
    world.begins();
    world.runs(SECOND);
    world
}

#[test]
fn claim_that_stood_although_it_was_given_up_is_looked_at_again() {
    let mut world = standing_call();
    let lost = || CommitFault::LostAndUnknown;
    world.faults_of_second =
        [lost(), lost(), lost(), lost(), CommitFault::AppliedButUnknown].into();
    world.kill();
    world.runs(2 * SECOND);
    assert!(world.faults_of_second.is_empty(), "{}", world.log.join("\n"));
    let [session] = &world.stored_sessions()[..] else { panic!("one session") };
    assert_eq!((session.owner.incarnation, world.sessions()), (Incarnation(2), 0));
    world.runs(35 * SECOND);
    assert_eq!(world.sessions(), 1, "{}", world.log.join("\n"));
    world.check_indexes();
}

/// Whoever stands still may have been taken for dead, and its session may be somebody else's since.
#[test]
fn claim_is_read_again_by_whoever_stood_still_meanwhile() {
    for stood_still in [SECOND / 10, 2 * SECOND] {
        let mut world = standing_call();
        world.is_next_late = true;
        world.kill();
        world.runs(SECOND / 100);
        let [mut session] = <[_; 1]>::try_from(world.stored_sessions()).unwrap();
        assert_eq!((session.owner.incarnation, world.sessions()), (Incarnation(2), 0));
        let is_taken_away = stood_still > SECOND;
        if is_taken_away {
            // By a container that has died since.
            session.owner.incarnation = Incarnation(1);
            let key = records::key(session.id);
            let lifetime = Some(session.expires());
            let batch = Batch::new().put(key, Expect::Any, session.encode(), lifetime);
            world.store.commit(batch).now_or_never().unwrap().unwrap();
        }
        world.late_commit_ends(stood_still);
        world.runs(SECOND);
        world.caller_hangs_up();
        assert!(world.is_hung_up(), "{}", world.log.join("\n"));
        let is_refused = |line: &String| line.contains("c2 commit false");
        assert!(!world.log.iter().any(is_refused), "{}", world.log.join("\n"));
    }
}
