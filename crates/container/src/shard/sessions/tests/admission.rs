//! Who may begin a session: asked once, before any handler, and again by whoever goes on.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use sip::{HeaderName, Message, Method, NameAddr, Uri};
use state::engine::fake::FakeStore;
use state::{Batch, Expect, Key, Space, Store};

use super::SECOND;
use super::keys::{Room, request};
use super::phones::Hangup;
use super::proxying::Passing;
use super::world::{Fate, Trouble, World};
use crate::application::{Caller, Effects, RecordRoute, Response};
use crate::session::{Callers, Supervised};
use crate::shard::HandlerEnd;
use crate::shard::sessions::SessionApplications;

const MARKS: Space = Space::named("marks");
const CHALLENGED: &str = "stranger";

/// Knows everybody but the stranger, and marks whom it has let in, so that it has something to commit, once.
pub(super) fn gatekeeper(store: &FakeStore, request: &Message) -> (HandlerEnd, String) {
    let from = request.field(HeaderName::From).unwrap();
    let uri = Uri::parse(NameAddr::parse(from).unwrap().uri()).unwrap();
    let caller = String::from_utf8(uri.as_sip().unwrap().user.unwrap().to_vec()).unwrap();
    if caller == CHALLENGED && request.field(HeaderName::ProxyAuthorization).is_none() {
        return (HandlerEnd::Done(Effects::respond(Response::new(407))), caller);
    }
    let branch = request.top_via().unwrap().branch().unwrap().to_vec();
    let mark = Key::new(MARKS, Bytes::from(caller.clone()), branch);
    let admitted = match store.read(&mark).now_or_never().unwrap() {
        Ok(Some(_)) => Batch::new(),
        Ok(None) => Batch::new().put(mark, Expect::Absent, "used", None),
        Err(_) => return (HandlerEnd::Done(Effects::respond(Response::new(503))), caller),
    };
    (HandlerEnd::Admitted(admitted), caller)
}

fn guarded(fate: Fate) -> World {
    let mut world = World::new(Hangup::Caller, fate);
    world.is_guarded = true;
    world
}

/// A call through the agent, all of whose callers are admitted.
fn call(fate: Fate, trouble: Option<(usize, Trouble)>) -> World {
    let mut world = guarded(fate);
    world.trouble = trouble;
    world.begins();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{fate:?}, {trouble:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "the call did not end: {told}");
    assert_eq!(world.callee.rings(), 1, "{told}");
    for phone in [&world.caller, &world.callee] {
        assert_eq!(phone.faults, Vec::<String>::new(), "{told}");
    }
    world.check_indexes();
    world.runs(40 * SECOND);
    assert_eq!(world.store.records(), 1, "the mark, and nothing of the session: {told}");
    world
}

#[test]
fn call_that_was_admitted_outlives_its_container_wherever_it_is_killed() {
    let world = call(Fate::Lives, None);
    assert_eq!(world.asked_for, ["alice"], "once");
    for at in 0..world.steps {
        call(Fate::DiesAfter(at), None);
        call(Fate::IsTakenForDeadAfter(at), None);
    }
    for trouble in [Trouble::AppliedButUnknown, Trouble::LostAndUnknown, Trouble::Conflict] {
        for at in 0..world.commits {
            call(Fate::Lives, Some((at, trouble)));
        }
    }
}

const CREDENTIALS: &str = "Proxy-Authorization: Digest right\r\nContent-Length";

/// Statuses that the stranger has got, repetitions left out.
fn told(world: &World, method: &Method<'_>) -> Vec<u16> {
    let is_of = |message: &&Message| message.cseq().unwrap().method == *method;
    let mut statuses: Vec<u16> =
        world.others.iter().filter(is_of).filter_map(Message::status).collect();
    statuses.dedup();
    statuses
}

fn invite(user: &str) -> String {
    request("INVITE", user, CHALLENGED)
}

/// The same call once more, with credentials.
fn proven(user: &str) -> String {
    let again = invite(user).replace("CSeq: 7", "CSeq: 8").replace("z9hG4bK", "z9hG4bK8");
    again.replace("Content-Length", CREDENTIALS)
}

#[test]
fn stranger_is_challenged_before_any_handler_or_key_is_asked() {
    for user in ["room", "alone"] {
        let mut world = guarded(Fate::Lives);
        world.opens();
        world.hosts(SessionApplications::new(vec![Arc::new(Room)]));
        world.comes(&invite(user));
        assert_eq!(told(&world, &Method::Invite), [407], "{}", world.log.join("\n"));
        assert_eq!((world.sessions(), world.store.records()), (0, 0), "{}", world.log.join("\n"));
        assert!(!world.has_sessions("room@1") && world.registrar.is_empty());
        world.comes(&proven(user));
        assert_eq!(told(&world, &Method::Invite), [407, 100, 200]);
        assert_eq!(world.asked_for, [CHALLENGED, CHALLENGED]);
        // Its ACK and its BYE find the session, and are not asked for.
        assert_eq!(world.sessions(), 1);
    }
}

#[test]
fn container_dies_between_challenge_and_answer() {
    let mut world = guarded(Fate::Lives);
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(Room)]));
    world.comes(&invite("room"));
    world.kill();
    world.comes(&proven("room"));
    assert_eq!(told(&world, &Method::Invite), [407, 100, 200], "{}", world.log.join("\n"));
    // A repetition is admitted again, by the same mark.
    world.comes(&proven("room"));
    assert_eq!(world.sessions(), 1);
}

#[test]
fn version_is_used_while_the_gatekeeper_is_asked_for_it() {
    let mut world = guarded(Fate::Lives);
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(Room)]));
    world.witnessed = Some(("room@1", 0));
    world.comes(&proven("room"));
    let (_, turns) = world.witnessed.take().unwrap();
    assert!(turns > 6, "{turns}");
}

#[test]
fn call_that_is_given_up_while_the_gatekeeper_is_asked_is_cancelled() {
    for (user, offers) in [("ring", true), ("ring", false)] {
        let mut world = guarded(Fate::Lives);
        world.opens();
        world.hosts(SessionApplications::new(vec![Arc::new(Room)]));
        let text = if offers { proven(user) } else { invite(user) };
        let cancel = text.replace("INVITE", "CANCEL");
        world.come_at_once(&[(0, text), (0, cancel)]);
        world.runs(SECOND);
        let log = world.log.join("\n");
        assert_eq!(told(&world, &Method::Cancel), [200], "{log}");
        let last = if offers { 487 } else { 407 };
        assert_eq!(told(&world, &Method::Invite).last(), Some(&last), "{log}");
        assert!(!log.contains("panicked"));
    }
}

/// Two applications that let a call go on, the first of which takes these callers.
fn passed_on_twice(first: Callers, second: Callers) -> World {
    let passing = || Passing::new(RecordRoute::No, Supervised::No);
    let (first, second) = (passing().named("first@1", first), passing().named("second@1", second));
    let mut world = guarded(Fate::Lives);
    world.proxied = Some(Arc::clone(&first.heard));
    (world.callee.allows_gaps, world.caller.allows_gaps) = (true, true);
    world.caller.calls_whom = "sip:bob@example.com";
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(first), Arc::new(second)]));
    world.calls();
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    world
}

#[test]
fn request_that_goes_on_is_asked_for_once_and_known_as_well_as_when_it_came() {
    use Callers::{Admitted, Anybody};
    for (first, second, asked, caller) in [
        (Admitted, Admitted, 1, Caller::Known),
        (Admitted, Anybody, 1, Caller::Known),
        (Anybody, Admitted, 1, Caller::Known),
        (Anybody, Anybody, 0, Caller::Claimed),
    ] {
        let world = passed_on_twice(first, second);
        let told = world.log.join("\n");
        assert_eq!(world.asked_for.len(), asked, "{first:?}, {second:?}: {told}");
        assert_eq!(world.callers, [caller], "{first:?}, {second:?}: {told}");
    }
}

#[test]
fn session_answers_for_the_from_that_it_writes() {
    let world = super::chain::to_the_registrar(true);
    assert_eq!(world.asked_for, ["alice"], "as caller only");
    assert_eq!(world.callers, [Caller::Known], "{}", world.log.join("\n"));
}
