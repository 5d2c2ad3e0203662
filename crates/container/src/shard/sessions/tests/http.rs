//! HTTP requests are events of sessions: one at a time, committed before they are answered, wherever the session is.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::Message;
use std::sync::Arc;

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use crate::application::Response;
use crate::session::{
    HttpRequest, HttpResponse, NoKey, SessionApplication, SessionEffect, SessionEvent, SessionId,
    SessionView, limits,
};
use crate::shard::sessions::SessionApplications;
use crate::shard::{HttpOutcome, SessionChoice};
use topology::Incarnation;

/// Counts what it is asked.
struct Web(&'static str);

impl SessionApplication for Web {
    fn name(&self) -> &str {
        self.0
    }

    fn accepts(&self, _: &Message) -> bool {
        false
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        async move { decide(session, event) }.boxed()
    }
}

fn decide(session: &SessionView, event: &SessionEvent) -> Vec<SessionEffect> {
    let SessionEvent::Http(request) = event else { return Vec::new() };
    let count = session.attributes.get("count").map_or(0, |count| count[0]);
    let respond = |count| {
        let body = Bytes::copy_from_slice(&[count]);
        SessionEffect::HttpRespond(HttpResponse { body, ..HttpResponse::new(200) })
    };
    let set = |count: u8| SessionEffect::Set {
        name: "count".to_owned(),
        value: Bytes::copy_from_slice(&[count]),
    };
    match request.path_with_query.as_str() {
        "/count" => vec![set(count + 1), respond(count + 1), respond(99)],
        "/look" => vec![respond(count)],
        "/end" => vec![respond(count), SessionEffect::End],
        "/broken" => vec![set(50), SessionEffect::HttpRespond(HttpResponse::new(100))],
        _ => Vec::new(),
    }
}

pub(super) fn get(path: &str) -> HttpRequest {
    let (method, path_with_query) = ("GET".to_owned(), path.to_owned());
    HttpRequest { method, path_with_query, headers: Vec::new(), body: Bytes::new() }
}

/// As [`Web`], and answers calls: all of one key.
struct Desk;

impl SessionApplication for Desk {
    fn name(&self) -> &str {
        "web@1"
    }

    fn accepts(&self, _: &Message) -> bool {
        true
    }

    fn is_keyed(&self) -> bool {
        true
    }

    fn session_key<'a>(&'a self, _: &'a Message) -> BoxFuture<'a, Result<Option<Bytes>, NoKey>> {
        async { Ok(Some("desk".into())) }.boxed()
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        let effects = match event {
            SessionEvent::Request { request, .. } => {
                let response = Response::new(200);
                vec![SessionEffect::Respond { request: *request, response }]
            }
            _ => decide(session, event),
        };
        async move { effects }.boxed()
    }
}

fn opened(fate: Fate) -> World {
    let mut world = World::new(Hangup::Nobody, fate);
    world.opens();
    let web: Arc<dyn SessionApplication> = Arc::new(Web("web@1"));
    let other: Arc<dyn SessionApplication> = Arc::new(Web("other"));
    world.hosts(SessionApplications::new(vec![web, other]));
    world
}

impl World {
    fn gets(&mut self, number: usize, session: SessionChoice, path: &str) -> HttpOutcome {
        self.asks(number, session, get(path));
        self.outcomes.pop().expect("an outcome")
    }

    /// Counts in a session, which is returned with what it has counted.
    fn counts(&mut self, number: usize, session: SessionChoice) -> (SessionId, u8) {
        match self.gets(number, session, "/count") {
            HttpOutcome::Answered { session, response } => (session.unwrap(), response.body[0]),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn key(text: &'static str) -> SessionChoice {
    SessionChoice::Key(text.into())
}

#[test]
fn session_is_found_again_and_is_told_of_where_it_lives() {
    let mut world = opened(Fate::Lives);
    let (id, count) = world.counts(0, SessionChoice::New);
    assert_eq!(count, 1);
    let other = world.counts(0, SessionChoice::New);
    assert!(other.0 != id && other.1 == 1, "each has its own");
    assert_eq!(world.counts(0, SessionChoice::Id(id)), (id, 2));
    let elsewhere = HttpOutcome::Elsewhere(Incarnation(1));
    assert_eq!(world.gets(1, SessionChoice::Id(id), "/count"), elsewhere);
    world.kill();
    assert_eq!(world.counts(1, SessionChoice::Id(id)), (id, 3), "taken over");
    world.check_indexes();
}

#[test]
fn key_leads_to_one_session_and_begins_it() {
    let mut world = opened(Fate::Lives);
    let (desk, _) = world.counts(0, key("desk"));
    assert_eq!(world.counts(0, key("desk")), (desk, 2));
    assert_eq!(world.stored_sessions()[0].view(world.wall()).key, Some("desk".into()));
    assert_ne!(world.counts(1, key("door")).0, desk);
    assert_eq!(world.gets(1, key("desk"), "/look"), HttpOutcome::Elsewhere(Incarnation(1)));
    let version: Arc<dyn SessionApplication> = Arc::new(Web("web@2"));
    let former: Arc<dyn SessionApplication> = Arc::new(Web("web@1"));
    world.hosts(SessionApplications { current: vec![version], former: vec![former] });
    assert_eq!(world.counts(0, key("desk")), (desk, 3), "of whatever version");
}

#[test]
fn session_that_remembers_nothing_is_not_stored() {
    let mut world = opened(Fate::Lives);
    for session in [SessionChoice::New, key("desk")] {
        for path in ["/look", "/end"] {
            match world.gets(0, session.clone(), path) {
                HttpOutcome::Answered { session: None, response } => {
                    assert_eq!(response.status, 200)
                }
                other => panic!("{path}: {other:?}"),
            }
            assert_eq!((world.store.records(), world.sessions(), world.commits), (0, 0, 0));
        }
    }
}

#[test]
fn session_that_ended_is_no_more() {
    let mut world = opened(Fate::Lives);
    let (id, _) = world.counts(0, SessionChoice::New);
    let HttpOutcome::Answered { session: None, .. } = world.gets(0, SessionChoice::Id(id), "/end")
    else {
        panic!("there is nothing to come back to")
    };
    assert_eq!((world.store.records(), world.sessions()), (0, 0));
    assert_eq!(world.gets(0, SessionChoice::Id(id), "/look"), HttpOutcome::NoSession);
}

#[test]
fn session_of_a_key_that_is_ending_is_waited_for() {
    let mut world = opened(Fate::Lives);
    world.hosts(SessionApplications::new(vec![Arc::new(Desk)]));
    world.comes(&super::bounds::invite("other-1"));
    let (desk, _) = world.counts(0, key("desk"));
    let ended = world.gets(0, key("desk"), "/end");
    assert!(matches!(ended, HttpOutcome::Answered { .. }), "{ended:?}");
    assert_eq!(world.sessions(), 1, "its call is still to be hung up");
    assert_eq!(world.gets(0, key("desk"), "/count"), HttpOutcome::Refused(503));
    assert_eq!(world.gets(0, SessionChoice::Id(desk), "/count"), HttpOutcome::NoSession);
    world.runs(200 * SECOND);
    assert_eq!(world.counts(0, key("desk")), (desk, 1), "it begins anew");
}

#[test]
fn session_of_another_application_is_none() {
    let mut world = opened(Fate::Lives);
    let (id, _) = world.counts(0, SessionChoice::New);
    world.hosts(SessionApplications::new(vec![world.agent("agent@1")]));
    world.calls();
    let agents = world.first_container().entries.keys().find(|known| **known != id).copied();
    let agents = SessionChoice::Id(agents.unwrap());
    assert_eq!(world.gets(0, agents, "/count"), HttpOutcome::NoSession);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let mut world = opened(Fate::Lives);
    let body = vec![0; limits::HTTP_BODY_BYTES_MAX + 1].into();
    world.asks(0, SessionChoice::New, HttpRequest { body, ..get("/count") });
    let headers = vec![(String::new(), Bytes::new()); limits::HTTP_HEADERS_MAX + 1];
    world.asks(0, SessionChoice::New, HttpRequest { headers, ..get("/count") });
    world.asks(0, SessionChoice::New, get("/silent"));
    let (id, _) = world.counts(0, SessionChoice::New);
    world.asks(0, SessionChoice::Id(id), get("/broken"));
    world.asks(0, SessionChoice::Id(id), get("/look"));
    world.hosts(SessionApplications::default());
    world.asks(0, SessionChoice::New, get("/count"));
    world.asks(0, SessionChoice::Id(id), get("/count"));
    let statuses: Vec<u16> = world
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            HttpOutcome::Refused(status) => *status,
            HttpOutcome::Answered { response, .. } => {
                response.status + response.body.first().map_or(0, |count| u16::from(*count))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(statuses, [413, 431, 500, 500, 201, 503, 503]);
}

#[test]
fn browsers_leave_half_of_the_room_to_calls() {
    let mut world = opened(Fate::Lives);
    world.first_container().weight_max = 4;
    let (id, _) = world.counts(0, SessionChoice::New);
    world.counts(0, SessionChoice::New);
    for more in [SessionChoice::New, key("desk")] {
        assert_eq!(world.gets(0, more, "/count"), HttpOutcome::Refused(503));
    }
    assert_eq!(world.counts(0, SessionChoice::Id(id)), (id, 2), "those that live go on");
    let sessions = world.first_container();
    assert!(sessions.are_half_full() && !sessions.are_full());
}

#[test]
fn answer_is_given_behind_its_commit_only() {
    let troubles = [
        Trouble::AppliedButUnknown,
        Trouble::LostAndUnknown,
        Trouble::AppliedAndUnreadable,
        Trouble::Conflict,
    ];
    for (trouble, at) in troubles.into_iter().flat_map(|trouble| [(trouble, 0), (trouble, 1)]) {
        let mut world = opened(Fate::Lives);
        world.trouble = Some((at, trouble));
        let (id, first) = world.counts(0, key("desk"));
        assert_eq!((first, world.counts(0, key("desk"))), (1, (id, 2)), "{trouble:?} {at}");
    }
    let mut world = opened(Fate::Lives);
    world.trouble = Some((0, Trouble::Busy));
    assert_eq!(world.gets(0, key("desk"), "/count"), HttpOutcome::Refused(503));
    assert_eq!((world.store.records(), world.sessions()), (0, 0));
    world.runs(2 * SECOND);
    assert_eq!(world.counts(0, key("desk")).1, 1, "nothing has happened before");
}

#[test]
fn what_was_answered_stands_wherever_its_container_is_killed() {
    let steps = {
        let mut world = opened(Fate::Lives);
        world.counts(0, key("desk"));
        world.steps
    };
    assert!(steps > 4, "{steps}");
    for at in 0..steps {
        let mut world = opened(Fate::DiesAfter(at));
        world.asks(0, key("desk"), get("/count"));
        let is_answered = world.outcomes.pop().is_some();
        world.runs(10 * SECOND);
        let (_, count) = world.counts(1, key("desk"));
        assert!(count == 2 || (count == 1 && !is_answered), "{at}: {count}, {is_answered}");
        world.check_indexes();
    }
}
