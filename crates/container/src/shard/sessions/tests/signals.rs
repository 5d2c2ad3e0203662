//! Sessions speak to each other, wherever they are: each signal is heard once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::{HeaderName, Message, RequestBuilder};

use super::SECOND;
use super::http::{get, key};
use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use crate::session::{
    HttpRequest, HttpResponse, SessionApplication, SessionEffect, SessionEvent, SessionId,
    SessionView, limits, signal,
};
use crate::shard::HttpOutcome;
use crate::shard::sessions::SessionApplications;

/// Told by HTTP whom to signal, and how often; counts the signals that it hears.
struct Teller(&'static str);

impl SessionApplication for Teller {
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
    let heard = session.attributes.get("heard").cloned().unwrap_or_default();
    let set = |value| SessionEffect::Set { name: "heard".to_owned(), value };
    match event {
        SessionEvent::Signal { name, payload, .. } => {
            vec![set([&heard[..], name.as_bytes(), &payload[..], b";"].concat().into())]
        }
        SessionEvent::Http(request) => {
            let mut effects = vec![
                set(heard.clone()),
                SessionEffect::HttpRespond(HttpResponse { body: heard, ..HttpResponse::new(200) }),
            ];
            if let Some((id, payload)) = request.body.split_first_chunk::<16>() {
                let count = request.path_with_query.len() - 1;
                effects.extend((0..count).map(|number| SessionEffect::Signal {
                    session: SessionId(*id),
                    name: format!("s{number}"),
                    payload: Bytes::copy_from_slice(payload),
                }));
            }
            effects
        }
        _ => Vec::new(),
    }
}

fn table(world: &World, name: &'static str) -> SessionApplications {
    SessionApplications::new(vec![Arc::new(Teller(name)), world.agent("agent@1")])
}

fn opened(fate: Fate) -> World {
    let mut world = World::new(Hangup::Nobody, fate);
    world.opens();
    world.hosts(table(&world, "web@1"));
    world
}

impl World {
    /// The session of a key, and what it has heard.
    fn asks_for(&mut self, number: usize, name: &'static str) -> (SessionId, String) {
        self.asks(number, key(name), get("/"));
        match self.outcomes.pop() {
            Some(HttpOutcome::Answered { session, response }) => {
                (session.unwrap(), String::from_utf8(response.body.to_vec()).unwrap())
            }
            other => panic!("{other:?}:\n{}", self.log.join("\n")),
        }
    }

    fn heard(&mut self, number: usize, name: &'static str) -> String {
        self.asks_for(number, name).1
    }

    /// The session of a key sends so many signals.
    fn tells(
        &mut self,
        number: usize,
        name: &'static str,
        to: SessionId,
        count: usize,
        more: &[u8],
    ) {
        let body = [&to.0[..], more].concat().into();
        let request = HttpRequest { body, ..get(&"/".repeat(count + 1)) };
        self.asks(number, key(name), request);
    }

    /// Nobody waits for a signal to be heard any more.
    fn is_all_heard(&self) -> bool {
        self.stored_sessions().iter().all(|session| !session.is_open())
    }
}

#[test]
fn signals_are_heard_once_in_any_container_and_in_their_order() {
    for (from, to) in [(0, 0), (0, 1), (1, 0)] {
        let mut world = opened(Fate::Lives);
        let (desk, _) = world.asks_for(to, "desk");
        world.tells(from, "door", desk, 2, b"!");
        assert_eq!(world.heard(to, "desk"), "s0!;s1!;", "{}", world.log.join("\n"));
        assert!(world.is_all_heard(), "{}", world.log.join("\n"));
        world.runs(10 * SECOND);
        assert_eq!(world.heard(to, "desk"), "s0!;s1!;");
        world.check_indexes();
    }
}

#[test]
fn session_may_signal_itself() {
    let mut world = opened(Fate::Lives);
    let (desk, _) = world.asks_for(0, "desk");
    world.tells(0, "desk", desk, 1, b"");
    assert_eq!(world.heard(0, "desk"), "s0;");
    assert!(world.is_all_heard());
}

#[test]
fn signal_is_heard_once_wherever_a_container_is_killed() {
    for (from, to) in [(0, 1), (1, 0), (0, 0)] {
        let steps = {
            let mut world = opened(Fate::Lives);
            let (desk, _) = world.asks_for(to, "desk");
            world.tells(from, "door", desk, 1, b"");
            world.steps
        };
        let mut told = 0;
        for at in 0..steps {
            let mut world = opened(Fate::DiesAfter(at));
            let desk = SessionId(world.keyed("desk"));
            world.asks(to, key("desk"), get("/"));
            world.runs(3 * SECOND);
            let is_there = world.stored_sessions().iter().any(|session| session.id == desk);
            world.tells(from, "door", desk, 1, b"");
            let is_told = matches!(world.outcomes.last(), Some(HttpOutcome::Answered { .. }));
            world.runs(5 * SECOND);
            let log = world.log.join("\n");
            let heard = world.heard(1, "desk");
            assert!(heard.is_empty() || heard == "s0;", "{at}: {heard}\n{log}");
            if is_there && is_told && world.outcomes.len() == 2 {
                told += 1;
                assert_eq!(heard, "s0;", "{from} {to} {at}:\n{log}");
            }
            assert!(world.is_all_heard(), "{from} {to} {at}:\n{log}");
            world.check_indexes();
        }
        assert!(told > 0, "{from} {to}");
    }
}

#[test]
fn commit_that_goes_wrong_makes_no_signal_come_twice() {
    let troubles = [
        Trouble::AppliedButUnknown,
        Trouble::LostAndUnknown,
        Trouble::AppliedAndUnreadable,
        Trouble::Conflict,
        Trouble::Busy,
    ];
    for (trouble, next) in troubles.into_iter().flat_map(|it| [0, 1, 2].map(|next| (it, next))) {
        let mut world = opened(Fate::Lives);
        let (desk, _) = world.asks_for(0, "desk");
        world.trouble = Some((world.commits + next, trouble));
        world.tells(0, "door", desk, 1, b"");
        let is_told = matches!(world.outcomes.pop(), Some(HttpOutcome::Answered { .. }));
        world.runs(10 * SECOND);
        let told = format!("{trouble:?} {next}:\n{}", world.log.join("\n"));
        assert_eq!(world.heard(0, "desk"), if is_told { "s0;" } else { "" }, "{told}");
        assert!(world.is_all_heard(), "{told}");
    }
}

#[test]
fn signal_waits_for_the_application_of_its_receiver() {
    let mut world = opened(Fate::Lives);
    let (desk, _) = world.asks_for(1, "desk");
    world.hosts(table(&world, "web@2"));
    world.tells(0, "door", desk, 1, b"");
    world.runs(10 * SECOND);
    assert!(!world.is_all_heard());
    let former: Vec<Arc<dyn SessionApplication>> = vec![Arc::new(Teller("web@1"))];
    world.hosts(SessionApplications { former, ..table(&world, "web@2") });
    world.runs(2 * SECOND);
    assert_eq!(world.heard(1, "desk"), "s0;", "{}", world.log.join("\n"));
    assert!(world.is_all_heard());
}

#[test]
fn signal_to_nobody_or_to_another_application_is_heard_by_nobody() {
    let mut world = opened(Fate::Lives);
    world.calls();
    let agents = world.stored_sessions()[0].id;
    let before = world.record();
    for nobody in [SessionId([7; 16]), agents] {
        world.tells(0, "door", nobody, 1, b"");
        assert!(world.outcomes.pop().is_some());
    }
    let door = world.asks_for(0, "door").0;
    let stored = world.stored_sessions();
    let is_open = |id| stored.iter().any(|session| session.id == id && session.is_open());
    assert!(!is_open(door), "{}", world.log.join("\n"));
    assert!(stored.iter().any(|session| session.id == agents && session.encode() == before));
}

#[test]
fn too_many_or_too_long_signals_are_not_sent() {
    let mut world = opened(Fate::Lives);
    let (desk, _) = world.asks_for(0, "desk");
    let status = |world: &mut World| match world.outcomes.pop() {
        Some(HttpOutcome::Answered { response, .. }) => response.status,
        other => panic!("{other:?}"),
    };
    world.tells(0, "door", desk, limits::SIGNALS_MAX + 1, b"");
    assert_eq!(status(&mut world), 500);
    world.tells(0, "door", desk, 1, &vec![0; limits::SIGNAL_BYTES_MAX + 1]);
    assert_eq!(status(&mut world), 500);
    assert_eq!(world.heard(0, "desk"), "");
    world.tells(0, "door", desk, limits::SIGNALS_MAX, &[b'x'; 10]);
    assert_eq!(status(&mut world), 200);
    assert!(world.heard(0, "desk").starts_with("s0xxxxxxxxxx;s1xxxxxxxxxx;"));
    assert!(world.is_all_heard());
}

#[test]
fn stranger_cannot_signal() {
    let mut world = opened(Fate::Lives);
    world.calls();
    world.runs(SECOND);
    let contact = world.caller.remote_target();
    let header = "00000000000000000000000000000001 1 d2Vi czA AAAAAAAAAAAAAAAAAAAA";
    for header in ["", header] {
        let request = RequestBuilder::new(signal::METHOD, contact.as_bytes())
            .header(HeaderName::Via, b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKstranger")
            .header(HeaderName::From, b"<sip:eve@example.com>;tag=eve")
            .header(HeaderName::To, b"<sip:bob@example.com>")
            .header(HeaderName::CallId, b"other-eve")
            .header(HeaderName::CSeq, b"1 SIGNAL")
            .header_named(b"X-Outlast-Signal", header.as_bytes());
        world.comes(std::str::from_utf8(&request.build()).unwrap());
        assert_eq!(world.others.pop().unwrap().status(), Some(403), "{header}");
    }
    assert!(world.others.is_empty());
}
