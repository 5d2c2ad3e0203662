//! What an application is told of the beginning and the end of its sessions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::Message;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::session::{SessionApplication, SessionEffect, SessionEvent, SessionView};
use crate::shard::sessions::SessionApplications;

/// Notes of each event whether the session was new, and of its end what it remembered.
struct Witness {
    agent: Arc<dyn SessionApplication>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    were_new: Vec<bool>,
    ends: Vec<Vec<String>>,
}

impl SessionApplication for Witness {
    fn name(&self) -> &str {
        self.agent.name()
    }

    fn accepts(&self, request: &Message) -> bool {
        self.agent.accepts(request)
    }

    fn hears_ended(&self) -> bool {
        true
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        let mut seen = self.seen.lock().unwrap();
        if matches!(event, SessionEvent::Ended) {
            seen.ends.push(session.attributes.keys().cloned().collect());
            // In vain.
            let after = Duration::from_secs(1);
            let timer = SessionEffect::StartTimer { name: "late".to_owned(), after, every: None };
            return async move { vec![timer] }.boxed();
        }
        seen.were_new.push(session.is_new);
        self.agent.on_event(session, event)
    }
}

fn witnessed(fate: Fate) -> (World, Arc<Mutex<Seen>>) {
    let mut world = World::new(Hangup::Caller, fate);
    let seen = Arc::new(Mutex::new(Seen::default()));
    world.opens();
    let witness = Witness { agent: world.agent("agent@1"), seen: Arc::clone(&seen) };
    world.hosts(SessionApplications::new(vec![Arc::new(witness)]));
    world.calls();
    world.runs_until_hung_up(60 * SECOND);
    world.runs(40 * SECOND);
    assert!(world.is_hung_up(), "{fate:?}: {}", world.log.join("\n"));
    assert_eq!((world.store.records(), world.sessions()), (0, 0), "{fate:?}");
    (world, seen)
}

#[test]
fn end_is_told_once_with_what_was_remembered() {
    let (world, seen) = witnessed(Fate::Lives);
    assert_eq!(seen.lock().unwrap().ends, [["first"]], "{}", world.log.join("\n"));
}

#[test]
fn end_is_told_again_only_if_its_commit_did_not_come_about() {
    let (world, _) = witnessed(Fate::Lives);
    let mut told_twice = 0;
    for at in 0..world.steps {
        let (_, seen) = witnessed(Fate::DiesAfter(at));
        let ends = seen.lock().unwrap().ends.len();
        assert!((1..=2).contains(&ends), "{at}: {ends}");
        told_twice += usize::from(ends == 2);
    }
    assert!(told_twice <= 2, "between its handler and its commit, but {told_twice}");
}

#[test]
fn session_is_new_at_its_first_event_only() {
    let (_, seen) = witnessed(Fate::Lives);
    let were_new = std::mem::take(&mut seen.lock().unwrap().were_new);
    assert!(were_new.len() > 4);
    assert_eq!(were_new.iter().position(|is_new| !is_new), Some(1));
    assert_eq!(were_new.iter().filter(|is_new| **is_new).count(), 1);
}
