//! A call of an application that uses all there is: a key, a signal, a timer, a told end.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::{Message, Method};

use super::SECOND;
use super::agent::Agent;
use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use crate::session::{
    NoKey, Replication, SessionApplication, SessionEffect, SessionEvent, SessionView,
};
use crate::shard::sessions::SessionApplications;

/// The agent, with a key; it tells itself of the answer, counts what it is told, and leaves the count at the end.
struct Everything {
    agent: Agent,
    left: Arc<Mutex<Vec<Bytes>>>,
}

impl SessionApplication for Everything {
    fn name(&self) -> &str {
        self.agent.name()
    }

    fn accepts(&self, request: &Message) -> bool {
        self.agent.accepts(request)
    }

    fn replication(&self) -> Replication {
        self.agent.replication()
    }

    fn is_keyed(&self) -> bool {
        true
    }

    fn session_key<'a>(&'a self, _: &'a Message) -> BoxFuture<'a, Result<Option<Bytes>, NoKey>> {
        async { Ok(Some(Bytes::from_static(b"room"))) }.boxed()
    }

    fn hears_ended(&self) -> bool {
        true
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        async move {
            let told = session.attributes.get("told").cloned().unwrap_or_default();
            let mut effects = self.agent.on_event(session, event).await;
            match event {
                SessionEvent::Response { message, .. } if message.status() == Some(200) => {
                    let is_invite = message.cseq().unwrap().method == Method::Invite;
                    effects.extend(is_invite.then(|| SessionEffect::Signal {
                        session: session.id,
                        name: "answered".to_owned(),
                        payload: Bytes::from_static(b"+"),
                    }));
                }
                SessionEvent::Signal { payload, .. } => effects.push(SessionEffect::Set {
                    name: "told".to_owned(),
                    value: [&told[..], &payload[..]].concat().into(),
                }),
                SessionEvent::Ended => self.left.lock().unwrap().push(told),
                _ => {}
            }
            effects
        }
        .boxed()
    }
}

/// A call from beginning to end; says how many effects and commits the first container had.
fn call(replication: Replication, fate: Fate, trouble: Option<(usize, Trouble)>) -> (usize, usize) {
    let left = Arc::default();
    let agent = Agent {
        name: "everything@1",
        timer_after: SECOND * 19 / 10,
        callee: "sip:bob@198.51.100.9",
        replication,
    };
    let application = Everything { agent, left: Arc::clone(&left) };
    let mut world = World::new(Hangup::Caller, fate);
    world.trouble = trouble;
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(application)]));
    world.calls();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{replication:?}, {fate:?}, {trouble:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "the call did not end: {told}");
    assert_eq!(world.callee.rings(), 1, "{told}");
    world.check_indexes();
    world.runs(60 * SECOND);
    assert_eq!(world.sessions(), 0, "{told}");
    assert!(world.stored_sessions().is_empty(), "{told}");
    let left = left.lock().unwrap();
    assert!(!left.is_empty() && left.iter().all(|count| count == "+"), "{left:?}: {told}");
    if replication == Replication::BeforeReply {
        assert_eq!(world.infos(), 1, "{told}");
        for phone in [&world.caller, &world.callee] {
            assert_eq!(phone.faults, Vec::<String>::new(), "{told}");
        }
    }
    (world.steps, world.commits)
}

#[test]
fn what_a_call_has_said_and_heard_outlives_its_container_wherever_it_is_killed() {
    for replication in [Replication::BeforeReply, Replication::AfterReply] {
        let (steps, commits) = call(replication, Fate::Lives, None);
        assert!(steps > 40 && commits > 8, "{steps} {commits}");
        for at in 0..steps {
            call(replication, Fate::DiesAfter(at), None);
        }
        // Without its alias a request with a key is refused.
        for at in 1..commits {
            for trouble in [Trouble::AppliedButUnknown, Trouble::LostAndUnknown] {
                call(replication, Fate::Lives, Some((at, trouble)));
            }
        }
    }
}
