//! A call that an application lets go on, and single requests: whoever dies when, the callee rings once, the caller gets
//! one final answer, and who supervises has heard it before.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use sip::{Edits, HeaderName, Message, Method, ResponseBuilder};

use super::agent::edge_route;
use super::phones::Hangup;
use super::world::{Fate, Trouble, World};
use crate::application::{Effects, ProxyPlan, QValue, RecordRoute, Target};
use crate::session::{
    Callers, ProxyOptions, Replication, SessionApplication, SessionEffect, SessionEvent,
    SessionView, Supervised,
};
use crate::shard::sessions::SessionApplications;

const SECOND: Duration = Duration::from_secs(1);
const BOB: &str = "sip:bob@198.51.100.9";
const CAROL: &str = "sip:carol@198.51.100.10";

/// What an application has heard, in words.
pub(super) type Heard = Arc<Mutex<Vec<String>>>;

/// Where the registrar finds everybody.
pub(super) fn registrar() -> Effects {
    Effects::proxy(ProxyPlan::to_targets(vec![Target::new(BOB)]))
}

/// Lets every initial request go on.
#[derive(Clone)]
pub(super) struct Passing {
    targets: Vec<Target>,
    record_route: RecordRoute,
    supervised: Supervised,
    name: &'static str,
    /// An application that the request is offered to behind this one.
    behind: Option<Box<Passing>>,
    replication: Replication,
    callers: Callers,
    /// Ends its session when it hears of a response like this or a later one.
    ends: Option<u16>,
    pub(super) heard: Heard,
}

impl Passing {
    pub(super) fn new(record_route: RecordRoute, supervised: Supervised) -> Passing {
        let (targets, heard) = (Vec::new(), Heard::default());
        let (name, behind, ends) = ("passing@1", None, None);
        let (replication, callers) = (Replication::default(), Callers::default());
        Passing {
            targets,
            record_route,
            supervised,
            name,
            behind,
            replication,
            callers,
            ends,
            heard,
        }
    }

    /// Under this name, for these callers.
    pub(super) fn named(self, name: &'static str, callers: Callers) -> Passing {
        Passing { name, callers, ..self }
    }
}

impl SessionApplication for Passing {
    fn name(&self) -> &str {
        self.name
    }

    fn replication(&self) -> Replication {
        self.replication
    }

    fn callers(&self) -> Callers {
        self.callers
    }

    fn accepts(&self, _request: &Message) -> bool {
        true
    }

    fn on_event<'a>(
        &'a self,
        _session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        let mut effects = Vec::new();
        let word = match event {
            SessionEvent::Request { request, message, .. } => {
                if message.to().unwrap().tag().is_none() {
                    effects.push(SessionEffect::Proxy {
                        request: *request,
                        targets: self.targets.clone(),
                        options: ProxyOptions {
                            record_route: self.record_route,
                            supervised: self.supervised,
                            timer_c: None,
                            headers: Vec::new(),
                        },
                    });
                }
                message.method().unwrap().to_string()
            }
            SessionEvent::Response { message, .. } => {
                let status = message.status().unwrap();
                if self.ends.is_some_and(|from| status >= from) {
                    effects.push(SessionEffect::End);
                }
                format!("{status} to {}", message.cseq().unwrap().method)
            }
            SessionEvent::Cancelled { .. } => "CANCEL".to_owned(),
            other => format!("{other:?}"),
        };
        self.heard.lock().unwrap().push(word);
        Box::pin(std::future::ready(effects))
    }
}

impl World {
    fn with_passing(hangup: Hangup, fate: Fate, passing: &Passing) -> World {
        let mut world = World::new(hangup, fate);
        world.proxied = Some(Arc::clone(&passing.heard));
        world.callee.allows_gaps = true;
        world.caller.allows_gaps = true;
        world.opens();
        let mut applications: Vec<Arc<dyn SessionApplication>> = vec![Arc::new(passing.clone())];
        if let Some(behind) = &passing.behind {
            applications.push(Arc::new(Passing::clone(behind)));
            world.caller.calls_whom = "sip:bob@example.com";
        }
        world.hosts(SessionApplications::new(applications));
        world
    }

    /// A message on its way to a phone: by the edge of whichever it is for.
    pub(super) fn passes_edge(&mut self, message: Message) {
        let is_callers = match message.request_uri() {
            Some(uri) => uri.ends_with(b"@198.51.100.7"),
            None => !message.top_via().unwrap().branch().unwrap().starts_with(b"z9hG4bKcallee"),
        };
        if is_callers && message.status() == Some(200) && self.caller.answers.is_empty() {
            let heard = self.proxied.as_ref().unwrap().lock().unwrap().clone();
            let is_heard = heard.iter().any(|word| word == "200 to INVITE");
            let is_supervised = heard.iter().any(|word| word.starts_with("180"));
            assert!(is_heard || !is_supervised, "the caller hears of it first: {heard:?}");
        }
        let message = match message.method() {
            Some(Method::Invite) => {
                let mut edits = Edits::new();
                edits.push_front(HeaderName::RecordRoute, edge_route(2, "c1").as_bytes());
                let mut bytes = BytesMut::new();
                edits.render(&message, &mut bytes);
                Message::parse(bytes.freeze()).unwrap()
            }
            _ => message,
        };
        let now = self.now;
        let phone = if is_callers { &mut self.caller } else { &mut self.callee };
        for answer in phone.comes(message, now) {
            self.leaves_phone(answer);
        }
    }

    /// A message of a phone: to a container, if it names one, else to the other phone by edges alone.
    pub(super) fn leaves_phone(&mut self, message: Message) {
        let names_container = match message.is_request() {
            true => {
                let route = message.values(HeaderName::Route).next();
                let is_initial = message.to().unwrap().tag().is_none();
                is_initial || route.is_some_and(|route| route.ends_with(b".outlast.invalid;lr>"))
            }
            false => message.field(HeaderName::Via).unwrap().starts_with(b"SIP/2.0/TCP"),
        };
        match names_container {
            true => self.reaches_container(message.buffer().clone()),
            false => self.passes_edge(message),
        }
    }
}

/// A call from beginning to end; says how many effects the first container had.
fn call(
    passing: &Passing,
    hangup: Hangup,
    fate: Fate,
    trouble: Option<(usize, Trouble)>,
) -> (usize, World) {
    passing.heard.lock().unwrap().clear();
    let mut world = World::with_passing(hangup, fate, passing);
    let before = world.steps;
    world.trouble = trouble.map(|(at, what)| (at + world.commits, what));
    world.calls();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{hangup:?}, {fate:?}, {trouble:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "the call did not end: {told}");
    assert!(world.caller.answered_after.unwrap() < 2 * SECOND, "{told}");
    assert_eq!(world.callee.rings(), 1, "the callee rings once: {told}");
    for phone in [&world.caller, &world.callee] {
        assert_eq!(phone.faults, Vec::<String>::new(), "{told}");
    }
    let heard = passing.heard.lock().unwrap().clone();
    let has_heard = |word: &str| heard.iter().any(|known| known == word);
    let is_supervised = passing.supervised == Supervised::Yes;
    assert_eq!(has_heard("200 to INVITE"), is_supervised, "{heard:?} {told}");
    assert_eq!(has_heard("BYE"), passing.record_route == RecordRoute::Yes, "{heard:?} {told}");
    world.check_indexes();
    // Who was taken for dead while it rang hears of it when Timer C makes it write.
    world.runs(250 * SECOND);
    assert_eq!(world.store.records(), 0, "{told}");
    assert_eq!(world.sessions(), 0, "{told}");
    (world.steps - before, world)
}

fn kinds() -> [Passing; 3] {
    let targets = vec![Target::new(BOB)];
    [
        Passing::new(RecordRoute::Yes, Supervised::Yes),
        Passing::new(RecordRoute::No, Supervised::No),
        Passing { targets, ..Passing::new(RecordRoute::Yes, Supervised::No) },
    ]
}

#[test]
fn call_outlives_its_container_wherever_it_is_killed() {
    for passing in kinds() {
        for hangup in [Hangup::Caller, Hangup::Callee] {
            let (steps, _) = call(&passing, hangup, Fate::Lives, None);
            assert!(steps > 15, "{steps}");
            for at in 0..steps {
                call(&passing, hangup, Fate::DiesAfter(at), None);
            }
        }
    }
}

#[test]
fn applications_behind_are_asked_before_the_registrar_whoever_dies() {
    let behind = Passing { name: "behind@1", ..Passing::new(RecordRoute::Yes, Supervised::Yes) };
    let heard = Arc::clone(&behind.heard);
    let first = Passing::new(RecordRoute::No, Supervised::No);
    let first = Passing { behind: Some(Box::new(behind)), ..first };
    let (steps, _) = call(&first, Hangup::Callee, Fate::Lives, None);
    assert_eq!(*first.heard.lock().unwrap(), ["INVITE"]);
    assert_eq!(
        *heard.lock().unwrap(),
        ["INVITE", "180 to INVITE", "200 to INVITE", "BYE", "200 to BYE"]
    );
    for at in 0..steps {
        call(&first, Hangup::Callee, Fate::DiesAfter(at), None);
    }
}

#[test]
fn call_comes_up_wherever_its_session_is_kept() {
    for replication in [Replication::AfterReply, Replication::Nowhere] {
        for passing in kinds() {
            let passing = Passing { replication, ..passing };
            call(&passing, Hangup::Caller, Fate::Lives, None);
        }
    }
}

#[test]
fn container_that_was_taken_for_dead_drops_its_copy_without_a_word() {
    let [supervised, unheard, _] = kinds();
    for passing in [supervised, unheard] {
        let (steps, _) = call(&passing, Hangup::Caller, Fate::Lives, None);
        for at in 0..steps {
            call(&passing, Hangup::Caller, Fate::IsTakenForDeadAfter(at), None);
        }
    }
}

#[test]
fn call_goes_on_when_its_messages_reach_the_other_container() {
    for passing in kinds() {
        let (_, world) = call(&passing, Hangup::Callee, Fate::IsMissed, None);
        assert!(world.handed_on > 1, "{}", world.handed_on);
    }
}

#[test]
fn commit_that_goes_wrong_changes_nothing_of_a_call() {
    let [supervised, ..] = kinds();
    let (_, world) = call(&supervised, Hangup::Caller, Fate::Lives, None);
    for trouble in [Trouble::AppliedButUnknown, Trouble::LostAndUnknown, Trouble::Conflict] {
        for at in 0..world.commits {
            call(&supervised, Hangup::Caller, Fate::Lives, Some((at, trouble)));
        }
    }
}

/// A world in which single messages of the call `other` are looked at.
fn single(passing: &Passing) -> World {
    World::with_passing(Hangup::Nobody, Fate::Lives, passing)
}

fn other(method: &str, more: &str) -> String {
    format!(
        "{method} sip:bob@b2b.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKother\r\n\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: other\r\n\
         CSeq: 1 {method}\r\nContact: <sip:alice@198.51.100.7>\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

impl World {
    /// What has left since the last time: statuses, and methods with their targets.
    fn left(&mut self) -> Vec<String> {
        let word = |message: &Message| match message.status() {
            Some(status) => format!("{status} {}", message.cseq().unwrap().method),
            None => {
                let uri = message.request_uri().unwrap().escape_ascii();
                format!("{} {uri}", message.method().unwrap())
            }
        };
        std::mem::take(&mut self.others).iter().map(word).collect()
    }

    /// The last request of that method, answered.
    fn answers_other(&mut self, request: &Message, status: u16) {
        let response = ResponseBuilder::new(request, status).to_tag(b"there");
        let response = response.header(HeaderName::Contact, b"<sip:there@198.51.100.9>").build();
        self.comes(std::str::from_utf8(&response).unwrap());
    }

    fn sent_other(&self, method: &str) -> Message {
        let is_it = |message: &&Message| {
            message.method().is_some_and(|sent| sent.as_bytes() == method.as_bytes())
        };
        self.others.iter().rev().find(is_it).unwrap().clone()
    }
}

fn two_groups() -> Passing {
    let first = Target { q: QValue::from_thousandths(900), ..Target::new(BOB) };
    let second = Target { q: QValue::from_thousandths(100), ..Target::new(CAROL) };
    Passing { targets: vec![second, first], ..Passing::new(RecordRoute::No, Supervised::Yes) }
}

#[test]
fn targets_are_tried_by_falling_q_whoever_dies_between() {
    for dies in [false, true] {
        let passing = two_groups();
        let mut world = single(&passing);
        world.comes(&other("INVITE", ""));
        let invite = world.sent_other("INVITE");
        assert_eq!(world.left(), ["100 INVITE", &format!("INVITE {BOB}")]);
        world.answers_other(&invite, 486);
        let second = world.sent_other("INVITE");
        let word = format!("INVITE {CAROL}");
        assert_eq!(world.left(), [format!("ACK {BOB}"), word]);
        if dies {
            world.kill();
            world.runs(SECOND / 10);
            assert!(!world.left().contains(&format!("INVITE {BOB}")), "it has answered");
        }
        world.answers_other(&second, 180);
        world.answers_other(&second, 200);
        assert_eq!(world.left().last().unwrap(), "200 INVITE");
        let heard = passing.heard.lock().unwrap().clone();
        assert_eq!(heard, ["INVITE", "180 to INVITE", "200 to INVITE"], "of the best only");
    }
}

#[test]
fn cancel_reaches_who_rings_whoever_dies_between() {
    for dies in [false, true] {
        let passing = two_groups();
        let mut world = single(&passing);
        world.comes(&other("INVITE", ""));
        let invite = world.sent_other("INVITE");
        world.answers_other(&invite, 180);
        world.left();
        world.comes(&other("CANCEL", ""));
        assert_eq!(world.left(), ["200 CANCEL", &format!("CANCEL {BOB}")]);
        if dies {
            world.kill();
            world.runs(SECOND / 10);
            assert!(world.left().contains(&format!("CANCEL {BOB}")), "nobody knows that it left");
        }
        world.answers_other(&invite, 487);
        assert_eq!(world.left(), [&format!("ACK {BOB}"), "487 INVITE"], "carol is left in peace");
        let heard = passing.heard.lock().unwrap().clone();
        assert_eq!(heard, ["INVITE", "180 to INVITE", "CANCEL", "487 to INVITE"]);
    }
}

#[test]
fn a_request_outside_of_dialogs_goes_on_whoever_dies_between() {
    for dies in [false, true] {
        let passing = Passing::new(RecordRoute::Yes, Supervised::Yes);
        let mut world = single(&passing);
        world.comes(&other("MESSAGE", ""));
        let message = world.sent_other("MESSAGE");
        assert_eq!(world.left(), [format!("MESSAGE {BOB}")]);
        if dies {
            world.kill();
            world.runs(SECOND / 10);
            assert_eq!(world.sent_other("MESSAGE").buffer(), message.buffer(), "a repetition");
        }
        world.answers_other(&message, 200);
        assert_eq!(world.left().last().unwrap(), "200 MESSAGE");
        world.runs(80 * SECOND);
        assert_eq!((world.store.records(), world.sessions()), (0, 0));
    }
}

#[test]
fn request_without_hops_left_goes_nowhere() {
    let mut world = single(&Passing::new(RecordRoute::No, Supervised::No));
    world.comes(&other("INVITE", "Max-Forwards: 0\r\n"));
    assert_eq!(world.left(), ["100 INVITE", "483 INVITE"]);
}

#[test]
fn callee_that_cannot_be_reached_is_told_as_any_answer() {
    let passing = Passing::new(RecordRoute::No, Supervised::Yes);
    let targets = vec![Target::new("sip:bob@198.51.100.9;transport=tcp")];
    let passing = Passing { targets, ..passing };
    let mut world = single(&passing);
    world.comes(&other("INVITE", ""));
    world.runs(SECOND);
    assert_eq!(world.left().last().unwrap(), "500 INVITE", "RFC 3261 §16.7(6): no 503 of others");
    assert_eq!(*passing.heard.lock().unwrap(), ["INVITE", "500 to INVITE"]);
}

#[test]
fn requests_of_a_dialog_go_on_when_the_session_in_its_route_is_over() {
    let ends = Passing { ends: Some(200), ..Passing::new(RecordRoute::Yes, Supervised::Yes) };
    let mut world = World::with_passing(Hangup::Caller, Fate::Lives, &ends);
    world.calls();
    world.runs(SECOND);
    assert!(world.caller.answered_after.is_some(), "{}", world.log.join("\n"));
    world.runs_until_hung_up(60 * SECOND);
    assert!(world.is_hung_up(), "{}", world.log.join("\n"));
    assert!(!ends.heard.lock().unwrap().contains(&"BYE".to_owned()));
    assert_eq!(world.caller.faults, Vec::<String>::new());
}

#[test]
fn request_of_whatever_size_is_answered_or_goes_on() {
    for record_route in [RecordRoute::Yes, RecordRoute::No] {
        let sizes = (244..=251).map(|fields| "X: y\r\n".repeat(fields));
        let octets = [64_700, 64_900, 65_000, 65_100, 65_180];
        let sizes = sizes.chain(octets.map(|octets| format!("X: {}\r\n", "y".repeat(octets))));
        for more in sizes {
            let mut world = single(&Passing::new(record_route, Supervised::Yes));
            let Ok(request) = Message::parse(other("INVITE", &more).into()) else { continue };
            world.comes(std::str::from_utf8(request.buffer()).unwrap());
            world.runs(40 * SECOND);
            let left = world.left();
            let is_it = |word: &String| word.starts_with("INVITE") || word.starts_with("5");
            assert!(left.iter().any(is_it), "{} octets: {left:?}", request.buffer().len());
            if left.iter().any(|word| word.starts_with("5")) {
                world.runs(40 * SECOND);
                assert_eq!((world.store.records(), world.sessions()), (0, 0));
            }
        }
    }
}

#[test]
fn nothing_is_left_of_a_phone_that_rings_silently_when_its_session_is_over() {
    for dies in [false, true] {
        let passing = Passing::new(RecordRoute::Yes, Supervised::Yes);
        let targets = vec![Target::new(BOB), Target::new(CAROL)];
        let mut world = single(&Passing { ends: Some(180), targets, ..passing });
        world.comes(&other("INVITE", ""));
        let invite_to = |world: &World, whom: &str| {
            let is_it = |sent: &&Message| sent.request_uri() == Some(whom.as_bytes());
            world.others.iter().find(is_it).unwrap().clone()
        };
        let (bob, carol) = (invite_to(&world, BOB), invite_to(&world, CAROL));
        world.answers_other(&bob, 180);
        let left = world.left();
        assert!(left.contains(&"500 INVITE".to_owned()), "{left:?}");
        assert!(left.contains(&format!("CANCEL {BOB}")), "{left:?}");
        if dies {
            world.kill();
        }
        // Who has not rung yet cannot be cancelled.
        world.runs(20 * SECOND);
        world.answers_other(&carol, 180);
        let left = world.left();
        assert!(left.contains(&format!("CANCEL {CAROL}")), "{left:?}");
        world.runs(200 * SECOND);
        assert_eq!((world.store.records(), world.sessions()), (0, 0));
        assert_eq!(world.proxied_requests(), 0, "{}", world.log.join("\n"));
    }
}

#[test]
fn waiting_responses_of_a_callee_are_bounded_and_its_final_one_arrives() {
    let passing = Passing::new(RecordRoute::No, Supervised::Yes);
    let mut world = single(&passing);
    world.comes(&other("INVITE", ""));
    let invite = world.sent_other("INVITE");
    world.hosts(SessionApplications::default());
    for number in 0..500 {
        world.answers_other(&invite, 180 + number % 10);
    }
    let waiting = |world: &mut World| -> usize {
        let entries = world.first_container().entries.values();
        entries.filter_map(|entry| entry.live.as_ref()).map(|live| live.waiting.len()).sum()
    };
    let count = waiting(&mut world);
    assert!((1..=8).contains(&count), "{count}");
    for _ in 0..500 {
        world.answers_other(&invite, 200);
    }
    let count = waiting(&mut world);
    assert!(count <= 64, "{count}");
    world.left();
    world.hosts(SessionApplications::new(vec![Arc::new(passing.clone())]));
    world.runs(SECOND);
    let left = world.left();
    assert!(left.contains(&"189 INVITE".to_owned()), "the newest one: {left:?}");
    assert!(left.contains(&"200 INVITE".to_owned()), "{left:?}");
}

/// A request of another call by the entry of a session, and by these routes behind it.
fn routed(method: &str, call_id: &str, to_tag: &str, routes: &[&str]) -> String {
    let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    format!(
        "{method} sip:x@203.0.113.66 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{method}{call_id}{:x}\r\n{routes}\
         From: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>{to_tag}\r\n\
         Call-ID: {call_id}\r\nCSeq: 9 {method}\r\nContact: <sip:alice@198.51.100.7>\r\n\
         Content-Length: 0\r\n\r\n",
        routes.bytes().fold(7_u64, |hash, octet| hash.wrapping_mul(31).wrapping_add(octet.into()))
    )
}

// Whoever has seen a session's token could send anything to anywhere by it.
#[test]
fn nothing_goes_by_a_session_s_route_without_an_edge_s_token_of_its_dialog() {
    let mut world = single(&Passing::new(RecordRoute::Yes, Supervised::No));
    world.comes(&other("INVITE", ""));
    let invite = world.sent_other("INVITE");
    let entry = invite.values(HeaderName::RecordRoute).next().unwrap();
    let entry = entry.escape_ascii().to_string();
    world.answers_other(&invite, 200);
    world.left();
    const INSIDE: &str = ";tag=there";
    const EDGE: &str = "<sip:192.0.2.1;lr>";
    let of = |call_id: &str| edge_route(2, call_id);
    let elsewhere = |call_id: &str| of(call_id).replace("192.0.2.1", "203.0.113.67");
    let forged = of("other").replacen("<sip:F", "<sip:E", 1);
    // Of a session's call, and of one that no session knows.
    for (call_id, refused) in [("other", 403), ("other-one", 481)] {
        let (own, strange, away) = (of(call_id), of("c1"), elsewhere(call_id));
        let without: [&[&str]; 7] = [
            &[&entry],
            &[&entry, EDGE],
            &[&entry, &strange],
            &[&entry, &forged],
            &[&entry, &away],
            &[&entry, "<sip:203.0.113.67;lr>", &own],
            &[&entry, "<sip:flow2@192.0.2.1;lr>"],
        ];
        for routes in without {
            world.comes(&routed("INFO", call_id, INSIDE, routes));
            assert_eq!(world.left(), [format!("{refused} INFO")], "{routes:?}");
            world.comes(&routed("ACK", call_id, INSIDE, routes));
            assert_eq!(world.left(), [""; 0], "{routes:?}");
        }
        world.comes(&routed("MESSAGE", call_id, "", &[&entry, EDGE, &own]));
        assert_eq!(world.left(), ["481 MESSAGE"], "outside of a dialog");
        // An edge with two addresses stands there twice.
        let with: [&[&str]; 2] = [&[&entry, &own], &[&entry, EDGE, &own]];
        for routes in with {
            for method in ["INFO", "ACK"] {
                world.comes(&routed(method, call_id, INSIDE, routes));
                assert_eq!(world.left(), [format!("{method} sip:x@203.0.113.66")], "{routes:?}");
            }
        }
    }
}

// Else it would get by all applications before the one whose Via it has seen.
#[test]
fn vias_of_a_session_s_request_are_no_proof_in_the_hands_of_a_phone() {
    let passing = two_groups();
    let mut world = single(&passing);
    world.comes(&other("INVITE", ""));
    let invite = world.sent_other("INVITE");
    let vias: String = invite
        .values(HeaderName::Via)
        .map(|via| format!("Via: {}\r\n", via.escape_ascii()))
        .collect();
    assert!(vias.contains(";chain="), "{vias}");
    world.answers_other(&invite, 200);
    world.runs(80 * SECOND);
    assert_eq!(world.sessions(), 0);
    for (number, above) in [
        "",
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKedge1\r\n",
        "Via: SIP/2.0/UDP x;branch=z9hG4bKp\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        passing.heard.lock().unwrap().clear();
        let text = other("INVITE", "").replace(";tag=a", &format!(";tag=a{number}"));
        let via =
            format!("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKin{number};flow=x\r\n{above}{vias}");
        let (line, rest) = text.split_once("\r\n").unwrap();
        let (_own, rest) = rest.split_once("\r\n").unwrap();
        world.comes(&format!("{line}\r\n{via}{rest}"));
        assert_eq!(*passing.heard.lock().unwrap(), ["INVITE"], "under {above:?}");
    }
}
