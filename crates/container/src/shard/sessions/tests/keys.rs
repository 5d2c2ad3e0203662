//! All initial requests of one key come to one session, wherever they arrive and whoever dies.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::{Message, Method};

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use crate::application::Response;
use crate::session::{
    LegState, NoKey, Session, SessionApplication, SessionEffect, SessionEvent, SessionId,
    SessionView, limits,
};
use crate::shard::sessions::SessionApplications;

/// A conference: its key is the user part of the Request-URI. It answers `room…` and lets `ring…` ring; what else there is,
/// has no key, one that is too long, or cannot say.
pub(super) struct Room;

impl SessionApplication for Room {
    fn name(&self) -> &str {
        "room@1"
    }

    fn accepts(&self, request: &Message) -> bool {
        request.method() != Some(Method::Cancel)
    }

    fn is_keyed(&self) -> bool {
        true
    }

    fn session_key<'a>(
        &'a self,
        request: &'a Message,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NoKey>> {
        let uri = request.request_uri().unwrap();
        let user = uri.strip_prefix(b"sip:").unwrap().split(|octet| *octet == b'@').next().unwrap();
        let key = match user {
            b"busy" => return async move { Err(NoKey { status: 503 }) }.boxed(),
            b"alone" => None,
            b"long" => Some(vec![b'k'; limits::KEY_BYTES_MAX + 1].into()),
            user => Some(Bytes::copy_from_slice(user)),
        };
        async move { Ok(key) }.boxed()
    }

    fn on_event<'a>(
        &'a self,
        _: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        let effects = match event {
            SessionEvent::Request { request, message, .. } => {
                let rings = message.request_uri().unwrap().starts_with(b"sip:ring");
                let response = Response::new(if rings { 180 } else { 200 });
                vec![SessionEffect::Respond { request: *request, response }]
            }
            _ => Vec::new(),
        };
        async move { effects }.boxed()
    }
}

pub(super) fn request(method: &str, user: &str, caller: &str) -> String {
    format!(
        "{method} sip:{user}@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{caller}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{caller}@example.com>;tag={caller}\r\nTo: <sip:{user}@example.com>\r\n\
         Call-ID: other-{caller}\r\nCSeq: 7 {method}\r\nContact: <sip:{caller}@198.51.100.7>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn opened(fate: Fate) -> World {
    let mut world = World::new(Hangup::Nobody, fate);
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(Room)]));
    world
}

impl World {
    /// Statuses that a caller has got to this method, repetitions left out.
    fn was_answered(&self, caller: &str, method: &str) -> Vec<u16> {
        let is_of = |message: &&Message| {
            let cseq = message.cseq().unwrap();
            message.call_id().unwrap() == format!("other-{caller}").as_bytes()
                && cseq.method.as_bytes() == method.as_bytes()
        };
        let mut statuses: Vec<u16> =
            self.others.iter().filter(is_of).filter_map(Message::status).collect();
        statuses.dedup();
        statuses
    }

    /// The only session, and its legs.
    fn room(&self) -> Vec<(String, LegState)> {
        let told = self.log.join("\n");
        let sessions: Vec<Session> = self.stored_sessions();
        assert_eq!(sessions.len(), 1, "{told}");
        let view = sessions[0].view(self.wall());
        view.legs.iter().map(|leg| (leg.name.to_string(), leg.state)).collect()
    }
}

const BOTH: [(&str, LegState); 2] =
    [("caller", LegState::Confirmed), ("caller-2", LegState::Confirmed)];

fn named(legs: &[(&str, LegState)]) -> Vec<(String, LegState)> {
    legs.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

#[test]
fn requests_of_one_key_are_legs_of_one_session() {
    for second in [0, 1] {
        let mut world = opened(Fate::Lives);
        world.come_at_once(&[(0, request("INVITE", "room", "ann"))]);
        world.come_at_once(&[(second, request("INVITE", "room", "ben"))]);
        assert_eq!(world.room(), named(&BOTH));
        for caller in ["ann", "ben"] {
            assert_eq!(
                world.was_answered(caller, "INVITE"),
                [100, 200],
                "{}",
                world.log.join("\n")
            );
        }
        assert_eq!(world.handed_on, second);
        assert_eq!(world.stored_sessions()[0].view(world.wall()).key, Some("room".into()));
        world.check_indexes();
    }
}

#[test]
fn a_session_is_seen_at_each_step_of_its_beginning_and_until_its_record_is_gone() {
    for user in ["room", "alone", "ring"] {
        for number in [0, 1] {
            let mut world = opened(Fate::Lives);
            assert!(!world.has_sessions("room@1"));
            world.witnessed = Some(("room@1", 0));
            world.come_at_once(&[(number, request("INVITE", user, "ann"))]);
            let (_, turns) = world.witnessed.take().unwrap();
            assert!(turns > 4, "{turns}: {}", world.log.join("\n"));
            assert!(!world.has_sessions("room@2"));
        }
    }
}

#[test]
fn first_requests_that_come_to_two_containers_at_once_end_in_one_session() {
    let mut world = opened(Fate::Lives);
    world.takes_turns = true;
    let (ann, ben) = (request("INVITE", "room", "ann"), request("INVITE", "room", "ben"));
    world.come_at_once(&[(0, ann), (1, ben)]);
    let told = world.log.join("\n");
    assert!(told.contains("commit false"), "they do not meet: {told}");
    assert_eq!(world.room(), named(&BOTH));
    for caller in ["ann", "ben"] {
        assert_eq!(world.was_answered(caller, "INVITE"), [100, 200], "{told}");
    }
    assert_eq!(world.handed_on, 1, "{told}");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn repetitions_find_the_session_wherever_they_arrive_and_whoever_dies() {
    let steps = {
        let mut world = opened(Fate::Lives);
        let (ann, ben) = (request("INVITE", "room", "ann"), request("INVITE", "room", "ben"));
        world.takes_turns = true;
        world.come_at_once(&[(0, ann), (1, ben)]);
        world.steps
    };
    assert!(steps > 8, "{steps}");
    for at in 0..steps {
        let mut world = opened(Fate::DiesAfter(at));
        world.takes_turns = true;
        let invites =
            [(0, request("INVITE", "room", "ann")), (1, request("INVITE", "room", "ben"))];
        world.come_at_once(&invites);
        world.runs(3 * SECOND);
        for (_, invite) in invites {
            world.comes(&invite);
        }
        assert_eq!(world.room().len(), 2, "{at}: {}", world.log.join("\n"));
        for caller in ["ann", "ben"] {
            assert_eq!(world.was_answered(caller, "INVITE").last(), Some(&200), "{at}: {caller}");
        }
        world.check_indexes();
    }
}

#[test]
fn commit_that_goes_wrong_makes_no_second_session() {
    let troubles = [
        Trouble::AppliedButUnknown,
        Trouble::LostAndUnknown,
        Trouble::AppliedAndUnreadable,
        Trouble::Conflict,
    ];
    for (trouble, at) in troubles.into_iter().flat_map(|it| [0, 1, 2, 3].map(|at| (it, at))) {
        let is_for_alias = at == 0 || at == 2;
        if is_for_alias && trouble == Trouble::AppliedAndUnreadable {
            continue; // it is not read before the next one
        }
        let mut world = opened(Fate::Lives);
        world.trouble = Some((at, trouble));
        let callers = ["ann", "ben"];
        for caller in callers {
            world.come_at_once(&[(0, request("INVITE", "room", caller))]);
        }
        let told = format!("{trouble:?} {at}:\n{}", world.log.join("\n"));
        let answered: Vec<bool> = callers
            .iter()
            .map(|caller| world.was_answered(caller, "INVITE").last() == Some(&200))
            .collect();
        assert_eq!(world.room().len(), answered.iter().filter(|is| **is).count(), "{told}");
        // An alias of which nothing is known is no reason to begin.
        assert_eq!(answered.contains(&false), is_for_alias, "{told}");
    }
}

#[test]
fn cancel_finds_the_session_of_its_invite() {
    // Where the INVITE is, elsewhere, and where it was taken over.
    for (number, dies) in [(0, false), (1, false), (1, true)] {
        let mut world = opened(Fate::Lives);
        for caller in ["ann", "ben"] {
            world.come_at_once(&[(0, request("INVITE", "ring", caller))]);
        }
        if dies {
            world.kill();
            world.runs(3 * SECOND);
        }
        world.come_at_once(&[(number, request("CANCEL", "ring", "ben"))]);
        let told = world.log.join("\n");
        assert_eq!(world.was_answered("ben", "CANCEL"), [200], "{told}");
        assert_eq!(world.was_answered("ben", "INVITE").last(), Some(&487), "{told}");
        let ann = world.was_answered("ann", "INVITE");
        assert!(ann.iter().all(|status| *status < 200), "{ann:?}: {told}");
        assert_eq!(world.room(), named(&[("caller", LegState::Early)]), "{told}");
    }
}

#[test]
fn cancel_waits_while_its_session_is_sought() {
    let mut world = opened(Fate::Lives);
    let (invite, cancel) = (request("INVITE", "ring", "ann"), request("CANCEL", "ring", "ann"));
    world.come_at_once(&[(0, invite), (0, cancel)]);
    assert_eq!(world.was_answered("ann", "CANCEL"), [200]);
    assert_eq!(world.was_answered("ann", "INVITE").last(), Some(&487));
    world.runs(40 * SECOND);
    assert_eq!((world.sessions(), world.stored_sessions().len()), (0, 0));
}

#[test]
fn session_that_is_over_begins_anew_while_its_answers_are_kept() {
    let mut world = opened(Fate::Lives);
    world.come_at_once(&[(0, request("INVITE", "ring", "ann"))]);
    world.come_at_once(&[(0, request("CANCEL", "ring", "ann"))]);
    assert_eq!(world.was_answered("ann", "INVITE").last(), Some(&487));
    world.runs(SECOND);
    assert_eq!(world.stored_sessions().len(), 1, "its answers are kept");
    world.come_at_once(&[(0, request("INVITE", "ring", "ben"))]);
    assert_eq!(world.was_answered("ben", "INVITE"), [100, 180], "{}", world.log.join("\n"));
    assert_eq!(world.room(), named(&[("caller", LegState::Early)]));
    assert_eq!(world.stored_sessions()[0].view(world.wall()).key, Some("ring".into()));
    world.check_indexes();
}

#[test]
fn request_without_a_key_has_a_session_of_its_own() {
    let mut world = opened(Fate::Lives);
    for caller in ["ann", "ben"] {
        world.come_at_once(&[(0, request("INVITE", "alone", caller))]);
        assert_eq!(world.was_answered(caller, "INVITE"), [100, 200]);
    }
    assert_eq!((world.sessions(), world.stored_sessions().len()), (2, 2));
    assert_eq!(world.stored_sessions()[0].view(world.wall()).key, None);
}

#[test]
fn stored_session_is_seen_by_its_own_application_while_it_lives() {
    let mut world = opened(Fate::Lives);
    world.come_at_once(&[(0, request("INVITE", "ring", "ann"))]);
    let id = world.keyed_of("room", "ring");
    let seen = |world: &World, application: &str, id: SessionId| {
        let found = super::super::session(&*world.store, application, id).now_or_never().unwrap();
        found.unwrap().map(|session| session.id)
    };
    assert_eq!(seen(&world, "room", id), Some(id));
    assert_eq!(seen(&world, "rooms", id), None, "another application's");
    assert_eq!(seen(&world, "room", SessionId([1; 16])), None);
    let alias = world.stored("session").into_iter().map(|(key, _)| key.id[..].try_into().unwrap());
    let alias = alias.map(SessionId).find(|stored| *stored != id).unwrap();
    assert_eq!(seen(&world, "room", alias), None, "no session");
    world.come_at_once(&[(0, request("CANCEL", "ring", "ann"))]);
    world.runs(SECOND);
    assert_eq!((world.stored_sessions().len(), seen(&world, "room", id)), (1, None), "over");
}

#[test]
fn what_cannot_be_led_anywhere_is_refused() {
    let mut world = opened(Fate::Lives);
    world.come_at_once(&[(0, request("INVITE", "long", "ann"))]);
    assert_eq!(world.was_answered("ann", "INVITE"), [500]);
    world.come_at_once(&[(0, request("INVITE", "busy", "dan"))]);
    assert_eq!(world.was_answered("dan", "INVITE"), [503]);
    world.next_commit_goes_wrong(Trouble::LostAndUnknown);
    world.come_at_once(&[(0, request("INVITE", "room", "ben"))]);
    assert_eq!(world.was_answered("ben", "INVITE"), [503]);
    world.come_at_once(&[(0, request("OPTIONS", "room", "cat"))]);
    assert_eq!(world.was_answered("cat", "OPTIONS"), [200], "which needs no alias");
}
