//! Sessions whose messages leave before they are committed, and sessions that are stored nowhere.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sip::{Message, Method};

use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use super::{SECOND, call_of};
use crate::application::Response;
use crate::session::{
    LegName, Replication, SessionApplication, SessionEffect, SessionEvent, SessionView,
};
use crate::shard::sessions::SessionApplications;

const HANGUPS: [Hangup; 2] = [Hangup::Caller, Hangup::Callee];

/// A number of a dialog that was left out, as RFC 3261 §12.2.2 allows.
fn is_gap(fault: &str) -> bool {
    let numbers = fault.split_once("CSeq ").and_then(|(_, rest)| rest.split_once(" after "));
    numbers.is_some_and(|(number, before)| {
        number.parse::<u32>().unwrap() > before.parse::<u32>().unwrap()
    })
}

/// A call whose agent's messages leave first; says how many effects and commits the first container had.
fn after_reply(hangup: Hangup, fate: Fate, trouble: Option<(usize, Trouble)>) -> (usize, usize) {
    let mut world = World::new(hangup, fate);
    (world.replication, world.trouble) = (Replication::AfterReply, trouble);
    world.begins();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{hangup:?}, {fate:?}, {trouble:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "{told}");
    assert_eq!(world.callee.rings(), 1, "{told}");
    for phone in [&world.caller, &world.callee] {
        let faults: Vec<&String> = phone.faults.iter().filter(|fault| !is_gap(fault)).collect();
        assert_eq!(faults, Vec::<&String>::new(), "{told}");
    }
    // The successor of a container that died between message and commit sends it again.
    let is_quiet = fate == Fate::Lives && trouble.is_none();
    assert!(world.infos() == 1 || (!is_quiet && world.infos() <= 2), "{told}");
    world.check_indexes();
    world.runs(40 * SECOND);
    assert_eq!((world.store.records(), world.sessions()), (0, 0), "{told}");
    (world.steps, world.commits)
}

/// Commits before the caller has its answer.
fn commits_before_the_answer(replication: Replication) -> usize {
    let (_, world) = call_of(replication, Hangup::Caller, Fate::Lives, None);
    let answered = world.log.iter().position(|line| line.ends_with("c1 -> 200 to 7 INVITE"));
    world.log[..answered.unwrap()].iter().filter(|line| line.contains("commit")).count()
}

#[test]
fn messages_leave_before_the_commit_where_that_is_wanted() {
    let before = commits_before_the_answer(Replication::BeforeReply);
    assert_eq!(commits_before_the_answer(Replication::AfterReply), before - 1);
    assert_eq!(commits_before_the_answer(Replication::Nowhere), 0);
}

#[test]
fn call_outlives_its_container_although_its_messages_leave_first() {
    for hangup in HANGUPS {
        let (steps, _) = after_reply(hangup, Fate::Lives, None);
        for at in 0..steps {
            after_reply(hangup, Fate::DiesAfter(at), None);
        }
    }
}

#[test]
fn commit_that_goes_wrong_behind_its_messages_is_made_up_for() {
    let troubles = [
        Trouble::AppliedButUnknown,
        Trouble::LostAndUnknown,
        Trouble::AppliedAndUnreadable,
        Trouble::Conflict,
    ];
    for hangup in HANGUPS {
        let (_, commits) = after_reply(hangup, Fate::Lives, None);
        for at in 0..commits {
            for trouble in troubles {
                after_reply(hangup, Fate::Lives, Some((at, trouble)));
            }
        }
        // The store takes nothing for a while: what was said stands, and is committed later.
        for at in 1..commits {
            for trouble in [Trouble::Busy, Trouble::AppliedThenDeaf] {
                after_reply(hangup, Fate::Lives, Some((at, trouble)));
            }
        }
    }
}

fn not_stored(hangup: Hangup, fate: Fate) -> World {
    let mut world = World::new(hangup, fate);
    world.replication = Replication::Nowhere;
    world.begins();
    world
}

#[test]
fn session_that_is_stored_nowhere_is_a_call_like_others() {
    for hangup in HANGUPS {
        for fate in [Fate::Lives, Fate::IsMissed] {
            let (_, world) = call_of(Replication::Nowhere, hangup, fate, None);
            assert_eq!(world.commits, 0);
            assert_eq!(world.handed_on > 3, fate == Fate::IsMissed, "{}", world.handed_on);
        }
    }
}

#[test]
fn session_that_is_stored_nowhere_ends_with_its_container() {
    let mut world = not_stored(Hangup::Nobody, Fate::Lives);
    world.runs(SECOND);
    assert_eq!((world.sessions(), world.store.records()), (1, 0));
    world.kill();
    world.runs(10 * SECOND);
    assert_eq!((world.sessions(), world.infos()), (0, 0), "its timer died with it");
    world.caller_hangs_up();
    assert!(world.caller.is_over, "481: {}", world.log.join("\n"));
    assert!(world.log.last().unwrap().contains("481"), "{}", world.log.join("\n"));
}

#[test]
fn session_that_is_stored_nowhere_rests_as_its_record() {
    let mut world = not_stored(Hangup::Nobody, Fate::Lives);
    world.runs(100 * SECOND);
    assert!(world.octets_at_rest().is_some_and(|octets| octets > 100));
    world.caller_hangs_up();
    world.runs(40 * SECOND);
    assert_eq!(world.callee.requests("BYE"), 1, "{}", world.log.join("\n"));
    assert_eq!(world.sessions(), 0);
}

/// Lets it ring, and calls somebody else after a while.
struct Late;

impl SessionApplication for Late {
    fn name(&self) -> &str {
        "late@1"
    }

    fn accepts(&self, request: &Message) -> bool {
        request.method() == Some(Method::Invite)
    }

    fn replication(&self) -> Replication {
        Replication::AfterReply
    }

    fn on_event<'a>(
        &'a self,
        _: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        let effects = match event {
            SessionEvent::Request { request, .. } => {
                let (name, after) = ("later".to_owned(), SECOND);
                vec![
                    SessionEffect::Respond { request: *request, response: Response::new(180) },
                    SessionEffect::StartTimer { name, after, every: None },
                ]
            }
            SessionEvent::Timer { .. } => vec![SessionEffect::Call {
                leg: LegName::new("other"),
                target: "sip:bob@198.51.100.9".into(),
                from: "<sip:alice@example.com>".into(),
                to: "<sip:bob@example.com>".into(),
                headers: Vec::new(),
                body: None,
            }],
            _ => Vec::new(),
        };
        Box::pin(async move { effects })
    }
}

#[test]
fn beginning_waits_for_its_commit_whatever_its_application_wants() {
    let mut world = World::new(Hangup::Nobody, Fate::Lives);
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(Late)]));
    world.calls();
    world.runs(2 * SECOND);
    let told = world.log.join("\n");
    let at = |end| world.log.iter().position(|line| line.ends_with(end)).expect(&told);
    assert!(at("commit true") < at("c1 -> 180 to 7 INVITE"), "what begins a session: {told}");
    let called = at("c1 -> 1 INVITE");
    assert!(world.log[called - 1].ends_with("commit true"), "{told}");
}

#[test]
fn request_that_was_answered_already_is_not_refused_when_the_store_takes_nothing() {
    let mut world = World::new(Hangup::Caller, Fate::Lives);
    (world.replication, world.timer_after) = (Replication::AfterReply, 3 * SECOND);
    world.begins();
    world.runs(SECOND);
    let before = world.record();
    world.next_commit_goes_wrong(Trouble::Busy);
    world.caller_asks(100, 0);
    assert_eq!(world.record(), before);
    world.runs(SECOND * 9 / 4);
    assert_ne!(world.record(), before, "it is noted when the store takes it");
    // Not 503: the agent leaves it to the end of the call.
    let told = world.log.join("\n");
    assert_eq!(world.caller.faults, ["caller: INFO answered 487"], "{told}");
}
