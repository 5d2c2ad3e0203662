//! What an overlay lets a handler do, the container does: calls of which each was accepted are never thrown away as a whole,
//! and what the handler saw of its own writes is what the session is then.

use std::time::Duration;

use bytes::Bytes;
use container::application::{Body, FieldName, Header, Response};
use container::session::identity::Identity;
use container::session::receive::{Input, NewRequest};
use container::session::signal::Signal;
use container::session::state::{Action, Context};
use container::session::{
    HttpRequest, RequestId, Session, SessionEffect, SessionEvent, SessionId, SessionView, limits,
};
use guest::Limits;
use guest::overlay::{Beginning, Overlay, Refusal};
use proptest::prelude::*;
use sip::transaction::Timers;
use sip::{HeaderName, Message, ResponseBuilder};
use state::UnixMillis;
use topology::token::OwnerToken;
use topology::{Incarnation, KeyRing};
use transport::{Flow, Transport};

const ID: SessionId = SessionId([9; 16]);

/// Something that happens, or that a handler does: which, and of what.
type Choice = [u8; 4];

/// A session and what is needed to talk to it.
struct World {
    session: Session,
    identity: Identity,
    now: u64,
    /// Requests of the session.
    started: Vec<Message>,
    /// Its answers.
    answers: Vec<Message>,
    /// Keys of the requests that came.
    keys: Vec<Bytes>,
    cseq: u32,
}

fn parse(text: String) -> Message {
    Message::parse(text.into_bytes().into()).unwrap()
}

fn value(message: &Message, name: HeaderName) -> String {
    String::from_utf8(message.values(name).next().unwrap().to_vec()).unwrap()
}

fn nth<T>(all: &[T], choice: u8) -> Option<&T> {
    all.get(usize::from(choice) % all.len().max(1))
}

impl World {
    fn new() -> World {
        let owner = OwnerToken { incarnation: Incarnation(1), shard: 0 };
        let identity = Identity::new(&KeyRing::new([1; 32]), owner, "c1.n1.outlast.invalid");
        let now = UnixMillis(1_000_000);
        let context = Context { now, guarded: now, identity: &identity, timers: Timers::default() };
        let session = Session::open(ID, "app@1", context);
        let (started, answers, keys) = (Vec::new(), Vec::new(), Vec::new());
        World { session, identity, now: now.0, started, answers, keys, cseq: 100 }
    }

    /// A request of somebody else.
    fn request(&mut self, method: &str, from: &str, to: &str, call_id: &str, cseq: u32) -> Message {
        self.cseq += 1;
        let branch = self.cseq;
        parse(format!(
            "{method} sip:x@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{branch}\r\n\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:a@198.51.100.7>\r\nContent-Length: 0\r\n\r\n"
        ))
    }

    fn new_request(&mut self, request: Message) -> NewRequest {
        let key = Bytes::from(format!("key {}", self.cseq));
        self.keys.push(key.clone());
        let (local, remote) =
            ("192.0.2.1:5060".parse().unwrap(), "198.51.100.7:5060".parse().unwrap());
        NewRequest { request, key, flow: Flow::new(Transport::Udp, local, remote) }
    }

    fn comes(&mut self, [what, which, how, _]: Choice) -> Option<Input> {
        let methods = ["INFO", "INVITE", "BYE", "UPDATE"];
        Some(match what % 10 {
            0 | 1 => {
                let method = ["INVITE", "INVITE", "MESSAGE"][usize::from(how) % 3];
                let (from, call_id) =
                    (format!("<sip:a@x>;tag={}", self.cseq), format!("c{}", self.cseq));
                let request = self.request(method, &from, "<sip:b@x>", &call_id, 1);
                Input::Join(self.new_request(request))
            }
            2 | 3 => {
                let request = nth(&self.started, which)?;
                let status = [180, 200, 200, 302, 408, 481, 486, 487][usize::from(how) % 8];
                let response = ResponseBuilder::new(request, status).to_tag(b"callee");
                let response = response.header(HeaderName::Contact, b"<sip:b@203.0.113.9>");
                Input::Response { response: Message::parse(response.build()).unwrap() }
            }
            4 => {
                let request = nth(&self.started, which)?;
                let branch = Bytes::copy_from_slice(request.top_via().unwrap().branch().unwrap());
                Input::Failed { branch, status: if how % 2 == 0 { 408 } else { 503 } }
            }
            // In a dialog, of the caller or of the callee.
            5 => {
                let answer = nth(&self.answers, which)?.clone();
                let (from, to) = (value(&answer, HeaderName::From), value(&answer, HeaderName::To));
                let call_id = value(&answer, HeaderName::CallId);
                let cseq = self.cseq;
                let request =
                    self.request(methods[usize::from(how) % 4], &from, &to, &call_id, cseq);
                Input::Request(self.new_request(request))
            }
            6 => {
                let sent = nth(&self.started, which)?.clone();
                let from = value(&sent, HeaderName::To) + ";tag=callee";
                let to = value(&sent, HeaderName::From);
                let (call_id, cseq) = (value(&sent, HeaderName::CallId), self.cseq);
                let request =
                    self.request(methods[usize::from(how) % 4], &from, &to, &call_id, cseq);
                Input::Request(self.new_request(request))
            }
            7 => {
                let answer = nth(&self.answers, which)?.clone();
                let (from, to) = (value(&answer, HeaderName::From), value(&answer, HeaderName::To));
                let call_id = value(&answer, HeaderName::CallId);
                let cseq = answer.cseq().unwrap().number;
                Input::Acknowledged { ack: self.request("ACK", &from, &to, &call_id, cseq) }
            }
            8 if how % 2 == 0 => Input::Cancelled { key: nth(&self.keys, which)?.clone() },
            8 => {
                let signal = Signal {
                    application: "app".to_owned(),
                    sender: SessionId([which; 16]),
                    target: ID,
                    ordinal: u64::from(self.cseq),
                    name: "s".to_owned(),
                    payload: Bytes::new(),
                };
                Input::Signal { signal, response: Bytes::new() }
            }
            _ if how % 4 == 0 => {
                let (method, path_with_query) = ("GET".to_owned(), "/".to_owned());
                let request = HttpRequest {
                    method,
                    path_with_query,
                    headers: Vec::new(),
                    body: Bytes::new(),
                };
                Input::HttpByKey(request)
            }
            _ => {
                self.now += [10, 1_000, 40_000, 200_000][usize::from(how) % 4];
                Input::Deadline
            }
        })
    }

    /// One event, and what the handler does at it; what it was allowed must be done.
    fn step(&mut self, happens: Choice, does: &[Choice]) -> Result<(), TestCaseError> {
        let Some(input) = self.comes(happens) else { return Ok(()) };
        let now = UnixMillis(self.now);
        let identity = self.identity.clone();
        let context = Context { now, guarded: now, identity: &identity, timers: Timers::default() };
        let (mut draft, mut actions) = (self.session.clone(), Vec::new());
        let event = draft.receive(input, context, &mut actions);
        let mut effects = Vec::new();
        let mut seen = None;
        if let Some(event) = &event {
            let record_bytes = self.session.encode().len();
            let view = SessionView { record_bytes, ..draft.view(now) };
            let mut overlay = Overlay::new(view, Limits::default());
            let accepted: Vec<Choice> = does
                .iter()
                .copied()
                .filter(|choice| act(&mut overlay, event, *choice).is_ok())
                .collect();
            seen = Some((overlay.view().clone(), accepted));
            effects = overlay.into_effects();
        }
        let has_ended = effects.contains(&SessionEffect::End);
        let applied = draft.apply(effects.clone(), context, &mut actions);
        prop_assert_eq!(applied, Ok(()), "at {:?}: {:?}", event, effects);
        if let Some((seen, accepted)) = seen {
            check(&seen, &draft.view(now), has_ended, &accepted)?;
        }
        draft.settle(event.as_ref(), context, &mut actions);
        let record = draft.encode().len();
        prop_assert!(record <= limits::RECORD_BYTES_MAX, "{record} octets: {effects:?}");
        draft.bury();
        self.session = draft;
        for action in actions {
            match action {
                Action::Start { request, .. } => {
                    self.started.push(Message::parse(request).unwrap())
                }
                Action::Answer { response, .. } => {
                    self.answers.push(Message::parse(response).unwrap())
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What the handler saw last, and what the session is.
fn check(
    seen: &SessionView,
    is: &SessionView,
    has_ended: bool,
    accepted: &[Choice],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(&seen.attributes, &is.attributes, "{:?}", accepted);
    prop_assert_eq!(seen.expires, is.expires);
    if has_ended {
        return Ok(());
    }
    let timers = |view: &SessionView| {
        let mut timers = view.timers.clone();
        timers.sort_by(|one, other| one.name.cmp(&other.name));
        timers
    };
    prop_assert_eq!(timers(seen), timers(is));
    let legs = |view: &SessionView| {
        let legs = view.legs.iter();
        let leg = |leg: &container::session::LegView| {
            (leg.name.clone(), leg.direction, leg.state, leg.linked.clone(), leg.unanswered.clone())
        };
        legs.map(leg).collect::<Vec<_>>()
    };
    prop_assert_eq!(legs(seen), legs(is), "{:?}", accepted);
    // An INVITE in the dialog may have acknowledged it.
    let acknowledged =
        seen.legs.iter().zip(&is.legs).all(|(seen, is)| seen.wants_ack || !is.wants_ack);
    prop_assert!(acknowledged, "{:?}", accepted);
    prop_assert_eq!(seen.unheard_signals, is.unheard_signals);
    prop_assert!(seen.outgoing >= is.outgoing, "{} {}", seen.outgoing, is.outgoing);
    Ok(())
}

fn name(choice: u8) -> String {
    match choice % 24 {
        0 => String::new(),
        1 => "x".repeat(65),
        2..=5 => "caller".to_owned(),
        6 => "caller-2".to_owned(),
        number => number.to_string(),
    }
}

fn headers(choice: u8) -> Vec<Header> {
    let name: &'static str = ["X-A", "Via", "a b", "Contact", "Subject"][usize::from(choice) % 5];
    let header = Header { name: FieldName::Named(name.into()), value: "v".into() };
    if choice % 16 < 8 { Vec::new() } else { vec![header] }
}

fn body(choice: u8) -> Option<Body> {
    let octets = [0, 10, 1_000, 100_000][usize::from(choice) % 4];
    let content = Bytes::from(vec![b'b'; octets]);
    (octets > 0).then(|| Body { content_type: "text/plain".into(), content })
}

fn beginning(leg: u8, choice: u8) -> Beginning {
    let target = ["sip:b@x", "sip:b@x", "sip:b@x", "tel:1"][usize::from(choice) % 4];
    let to = ["<sip:b@x>", "<sip:b@x>", "nobody", "<sip:b@x>"][usize::from(choice >> 2) % 4];
    Beginning {
        leg: name(leg),
        target: target.into(),
        from: "<sip:a@x>".into(),
        to: to.into(),
        headers: headers(choice),
        body: body(choice >> 4),
    }
}

/// Does one thing as a guest would.
fn act(
    overlay: &mut Overlay,
    event: &SessionEvent,
    [what, one, two, three]: Choice,
) -> Result<(), Refusal> {
    let millis =
        |choice: u8| Duration::from_millis([0, 10, 1_000, u64::MAX / 2][usize::from(choice) % 4]);
    let method = |choice: u8| {
        ["INFO", "INVITE", "BYE", "ACK", "MESSAGE", "SIGNAL"][usize::from(choice) % 6].into()
    };
    match what % 20 {
        0 => overlay.set(name(one), vec![two; usize::from(two) * usize::from(three)]),
        1 => {
            overlay.remove(&name(one));
            Ok(())
        }
        2 => overlay.start_timer(name(one), millis(two), (three % 2 == 0).then(|| millis(three))),
        3 => overlay.start_timer(format!("t{one}"), millis(1), None),
        4 => {
            overlay.stop_timer(&name(one));
            Ok(())
        }
        5 => overlay.expire_after(millis(one)),
        6 => {
            overlay.end_when_ready(one % 2 == 0);
            Ok(())
        }
        7 if one % 8 == 0 => {
            overlay.invalidate();
            Ok(())
        }
        7 | 8 => overlay.signal(SessionId([one; 16]), name(two), vec![0; usize::from(three) * 40]),
        9 | 10 => {
            let unanswered: Vec<RequestId> = overlay
                .view()
                .legs
                .iter()
                .flat_map(|leg| &leg.unanswered)
                .map(|(id, _)| *id)
                .collect();
            let request = nth(&unanswered, one).copied().unwrap_or(RequestId(999));
            let status = [200, 200, 180, 183, 302, 486, 100, 700][usize::from(two) % 8];
            let response = Response {
                headers: headers(three),
                body: body(three >> 4),
                ..Response::new(status)
            };
            overlay.respond(request, response)
        }
        11 | 12 => overlay.call(beginning(one, two)),
        13 => overlay.send_outside(method(three), beginning(one, two)),
        14 => overlay.link(&name(one), &name(two)),
        15 => {
            overlay.unlink(&name(one));
            Ok(())
        }
        16 | 17 => overlay.send(&name(one), method(two), headers(three), body(three >> 4)),
        18 if one % 2 == 0 => overlay.acknowledge(&name(two), headers(three), body(three >> 4)),
        18 => overlay.cancel(&name(two)),
        _ => overlay.relay(event),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_is_accepted_is_done(
        steps in prop::collection::vec(
            (any::<Choice>(), prop::collection::vec(any::<Choice>(), 0..80)), 1..30),
    ) {
        let mut world = World::new();
        for (happens, does) in steps {
            world.step(happens, &does)?;
        }
    }
}

/// As many requests as may be sent, of calls that failed lately, and BYEs on top of them: the next event counts all the same.
#[test]
fn what_the_container_sends_of_its_own_voids_no_later_event() {
    let (joins, tick, starts_timer) = ([0, 0, 0, 0], [9, 0, 0, 0], [2, 7, 3, 1]);
    let (call, succeeds, fails) = (|leg| [11, leg, 0, 0], 2, 6);
    let mut world = World::new();
    world.step(joins, &[starts_timer]).unwrap();
    let answered = |world: &mut World, leg, how| {
        world.step(tick, &[call(leg)]).unwrap();
        let last = u8::try_from(world.started.len() - 1).unwrap();
        world.step([2, last, how, 0], &[[18, 0, leg, 0]]).unwrap();
    };
    let legs = 7..12;
    for leg in legs.clone() {
        answered(&mut world, leg, succeeds);
    }
    for _ in legs.len()..limits::OUTGOING_MAX {
        answered(&mut world, 12, fails);
    }
    let byes: Vec<Choice> = legs.clone().map(|leg| [16, leg, 2, 0]).collect();
    world.step(tick, &byes).unwrap();
    world.step(tick, &[[0, 20, 1, 1]]).unwrap();
    let view = world.session.view(UnixMillis(world.now));
    assert_eq!(view.outgoing, limits::OUTGOING_MAX + legs.len());
    assert!(view.attributes.contains_key("20"));
}
