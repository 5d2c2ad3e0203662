//! A session, and somebody at each end of it.

use std::time::Duration;

use bytes::Bytes;
use sip::transaction::Timers;
use sip::{HeaderName, Message, RequestBuilder, ResponseBuilder};
use state::UnixMillis;
use topology::token::OwnerToken;
use topology::{Incarnation, KeyRing};
use transport::{Flow, Transport};

use crate::application::Response;
use crate::session::identity::Identity;
use crate::session::receive::{Input, NewRequest, NoSession};
use crate::session::rules::BrokenRule;
use crate::session::state::{Action, Context, Session};
use crate::session::{LegName, SessionEffect, SessionEvent, SessionId};

pub(super) const SDP: &[u8] = b"v=0";

pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: UnixMillis,
    /// The guarded reading, while it is held back.
    pub(super) held_at: Option<UnixMillis>,
    identity: Identity,
    /// What has left, in words, since somebody asked.
    sent: Vec<String>,
    /// Every request of ours that was started, and every answer, as it left.
    pub(super) started: Vec<Message>,
    pub(super) answers: Vec<Message>,
    pub(super) acks: Vec<Message>,
    /// What the application was told last.
    pub(super) event: Option<SessionEvent>,
}

pub(super) fn identity(incarnation: u64) -> Identity {
    let owner = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
    Identity::new(&KeyRing::new([1; 32]), owner, "c1.n1.outlast.invalid")
}

pub(super) fn flow() -> Flow {
    let (local, remote) = ("192.0.2.1:5060".parse().unwrap(), "198.51.100.7:5060".parse().unwrap());
    Flow::new(Transport::Udp, local, remote)
}

pub(super) fn new_request(request: Message) -> NewRequest {
    let key = [request.top_via().unwrap().branch().unwrap(), request.method().unwrap().as_bytes()];
    NewRequest { key: key.concat().into(), flow: flow(), request }
}

pub(super) fn parse(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// A request as it comes from an edge to an edge.
pub(super) fn by_front_door(request: &Message) -> Message {
    let text = String::from_utf8(request.buffer().to_vec()).unwrap();
    let via = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKe";
    parse(&text.replacen("Via:", &format!("{via}in;flow=x\r\n{via}out\r\nVia:"), 1))
}

/// The caller's INVITE.
pub(super) fn invite() -> Message {
    parse(
        "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKone\r\n\
         Record-Route: <sip:flow1@192.0.2.1;lr>\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=alice\r\nTo: <sip:bob@example.com>\r\nCall-ID: c1\r\n\
         CSeq: 7 INVITE\r\nContact: <sip:alice@198.51.100.7>\r\nSubject: x\r\nContent-Type: application/sdp\r\n\
         Content-Length: 3\r\n\r\nv=0",
    )
}

pub(super) fn ok() -> Response {
    Response::new(200).body("application/sdp", SDP)
}

/// The leg to the callee.
pub(super) fn call() -> SessionEffect {
    SessionEffect::Call {
        leg: LegName::new("callee"),
        target: "sip:bob@example.com".into(),
        from: "\"A\" <sip:alice@example.com>".into(),
        to: "<sip:bob@example.com>".into(),
        headers: Vec::new(),
        body: None,
    }
}

/// The callee's response to a request of the session, under this To tag.
pub(super) fn response_to(request: &Message, status: u16, tag: &str) -> Message {
    let mut response = ResponseBuilder::new(request, status);
    if status > 100 {
        let contact = format!("<sip:bob@203.0.113.9;fork={tag}>");
        response = response
            .to_tag(tag.as_bytes())
            .header(HeaderName::RecordRoute, b"<sip:flow2@192.0.2.1;lr>")
            .header(HeaderName::Contact, contact.as_bytes());
    }
    Message::parse(response.build()).unwrap()
}

impl Bench {
    /// A session begun by [`invite`], its application having done nothing yet.
    pub(super) fn new() -> Bench {
        Bench::begun_by(invite()).unwrap()
    }

    pub(super) fn begun_by(request: Message) -> Result<Bench, NoSession> {
        let (now, identity) = (UnixMillis(1_000_000), identity(1));
        let context = Context { now, guarded: now, identity: &identity, timers: Timers::default() };
        let new = new_request(request);
        let (session, event) = Session::begin(SessionId([9; 16]), "app", &new, context)?;
        let sent = Vec::new();
        let (started, answers, acks) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Bench {
            session,
            now,
            held_at: None,
            identity,
            sent,
            started,
            answers,
            acks,
            event: Some(event),
        })
    }

    /// A session without a leg.
    pub(super) fn opened() -> Bench {
        let mut bench = Bench::new();
        bench.session = Session::open(SessionId([8; 16]), "app", bench.context());
        bench.event = None;
        bench
    }

    pub(super) fn context(&self) -> Context<'_> {
        let (now, guarded) = (self.now, self.held_at.unwrap_or(self.now));
        Context { now, guarded, identity: &self.identity, timers: Timers::default() }
    }

    /// Something comes in; the event it makes, in words, and no effects.
    pub(super) fn comes(&mut self, input: Input) -> String {
        self.step(input, |_| Vec::new()).unwrap();
        self.event.as_ref().map_or("nothing".to_owned(), event_word)
    }

    /// A whole step: input, handler, rest. As a shard does it, on a copy.
    pub(super) fn step(
        &mut self,
        input: Input,
        handler: impl FnOnce(&SessionEvent) -> Vec<SessionEffect>,
    ) -> Result<(), BrokenRule> {
        let (mut draft, mut actions) = (self.session.clone(), Vec::new());
        let event = draft.receive(input, self.context(), &mut actions);
        let effects = event.as_ref().map(handler).unwrap_or_default();
        draft.apply(effects, self.context(), &mut actions)?;
        draft.settle(event.as_ref(), self.context(), &mut actions);
        self.event = event;
        self.commit(draft, actions);
        Ok(())
    }

    /// Effects of the event last told.
    pub(super) fn apply(&mut self, effects: Vec<SessionEffect>) -> Result<(), BrokenRule> {
        let (mut draft, mut actions) = (self.session.clone(), Vec::new());
        draft.apply(effects, self.context(), &mut actions)?;
        draft.settle(None, self.context(), &mut actions);
        self.commit(draft, actions);
        Ok(())
    }

    fn commit(&mut self, mut draft: Session, actions: Vec<Action>) {
        draft.bury();
        let read = Session::decode(draft.id, &draft.encode()).unwrap();
        assert_eq!(read, draft, "a record holds all there is");
        self.session = draft;
        for action in actions {
            self.leaves(action);
        }
    }

    /// The session goes on in another container, with what the record says and under that container's name.
    pub(super) fn moves_to(&mut self, incarnation: u64) {
        self.identity = identity(incarnation);
        self.session = Session::decode(self.session.id, &self.session.encode()).unwrap();
        self.session.owner = self.identity.owner();
        for action in self.session.resume(self.now) {
            self.leaves(action);
        }
    }

    fn leaves(&mut self, action: Action) {
        let word = match action {
            Action::Answer { status, response, .. } => {
                self.answers.push(Message::parse(response).unwrap());
                status.to_string()
            }
            Action::Start { request, .. } => {
                let request = Message::parse(request).unwrap();
                assert_eq!(request.check_request(sip::Framing::Stream), Ok(()));
                let word =
                    format!("{} {}", request.method().unwrap(), request.cseq().unwrap().number);
                self.started.push(request);
                word
            }
            Action::Acknowledge { ack } => {
                let ack = Message::parse(ack).unwrap();
                assert_eq!(ack.check_request(sip::Framing::Stream), Ok(()));
                let word = format!("ACK {}", ack.cseq().unwrap().number);
                self.acks.push(ack);
                word
            }
            Action::Reply { response } => {
                format!("reply {}", Message::parse(response).unwrap().status().unwrap())
            }
            Action::Route { .. } => "route".to_owned(),
            Action::Forward { key } => self.goes_on(&key),
            Action::Resume { key } => format!("again {}", self.goes_on(&key)),
            Action::CancelForwarded { .. } => "cancel forwarded".to_owned(),
            Action::ForwardAck { ack } => {
                let word = format!("pass ACK {}", ack.cseq().unwrap().number);
                self.acks.push(*ack);
                word
            }
            Action::HttpRespond(response) => format!("HTTP {}", response.status),
            Action::Cancel { .. } => "CANCEL".to_owned(),
            Action::Abandon { .. } => "abandon".to_owned(),
            Action::Accept { response } => format!("accept {}", response.status().unwrap()),
        };
        self.sent.push(word);
    }

    /// What goes on, and where to.
    fn goes_on(&mut self, key: &[u8]) -> String {
        let (_, set_up, _) = self.session.forwarded(key).unwrap();
        let request = Message::parse(set_up.request.clone()).unwrap();
        let targets: Vec<_> = set_up
            .plan
            .targets
            .iter()
            .map(|target| target.uri.escape_ascii().to_string())
            .collect();
        let word = format!("{} to {}", request.method().unwrap(), targets.join(" "));
        self.started.push(request);
        word
    }

    /// What has left since the last time.
    pub(super) fn words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    pub(super) fn passes(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }

    /// Comes to the next deadline and says what happened.
    pub(super) fn waits(&mut self) -> String {
        self.now = self.session.next_deadline(Timers::default());
        self.comes(Input::Deadline)
    }

    /// The last request of ours with that method.
    pub(super) fn last(&self, method: &str) -> Message {
        let is_it = |request: &&Message| request.method().unwrap().as_bytes() == method.as_bytes();
        self.started.iter().rev().find(is_it).unwrap().clone()
    }

    /// A response to the last request of that method comes.
    pub(super) fn responds(&mut self, method: &str, status: u16, tag: &str) -> String {
        let response = response_to(&self.last(method), status, tag);
        self.comes(Input::Response { response })
    }

    /// Answers the caller's request, whichever it was last.
    pub(super) fn respond(&mut self, response: Response) {
        let request = self.session.incoming.last().unwrap().id;
        self.apply(vec![SessionEffect::Respond { request, response }]).unwrap();
    }

    /// A request of the caller or the callee in the dialog of `leg`.
    pub(super) fn request(&self, leg: &str, method: &str, cseq: u32) -> Message {
        let leg = self.session.legs.iter().find(|known| known.name.as_str() == leg).unwrap();
        let dialog = leg.dialog.as_ref().unwrap();
        let method = sip::Method::parse(method.as_bytes()).unwrap();
        let via = format!("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{}{method}{cseq}", leg.name);
        let cseq = format!("{cseq} {method}");
        let request = RequestBuilder::new(method, b"sip:us@c1.n1.outlast.invalid")
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::From, &dialog.remote)
            .header(HeaderName::To, &dialog.local)
            .header(HeaderName::CallId, &dialog.call_id)
            .header(HeaderName::CSeq, cseq.as_bytes())
            .header(HeaderName::Contact, b"<sip:moved@198.51.100.8>");
        Message::parse(request.build()).unwrap()
    }

    /// Such a request comes.
    pub(super) fn requests(&mut self, leg: &str, method: &str, cseq: u32) -> String {
        let request = new_request(self.request(leg, method, cseq));
        self.comes(Input::Request(request))
    }

    pub(super) fn acknowledges(&mut self, leg: &str, cseq: u32) -> String {
        let ack = self.request(leg, "ACK", cseq);
        self.comes(Input::Acknowledged { ack })
    }

    pub(super) fn cancels(&mut self) -> String {
        let key = new_request(invite()).key;
        self.comes(Input::Cancelled { key })
    }

    pub(super) fn repeats_invite(&mut self) -> String {
        self.comes(Input::Request(new_request(invite())))
    }

    pub(super) fn send(&mut self, leg: &str, method: &str) -> Result<(), BrokenRule> {
        let (leg, method) = (LegName::new(leg), Bytes::copy_from_slice(method.as_bytes()));
        self.apply(vec![SessionEffect::Send { leg, method, headers: Vec::new(), body: None }])
    }

    pub(super) fn acknowledge(&mut self, leg: &str) {
        let (leg, headers) = (LegName::new(leg), Vec::new());
        self.apply(vec![SessionEffect::Acknowledge { leg, headers, body: None }]).unwrap();
    }

    /// A call through the session that stands on both legs; nothing of it is waited for.
    pub(super) fn talking() -> Bench {
        let mut bench = Bench::new();
        bench.apply(vec![call()]).unwrap();
        bench.responds("INVITE", 180, "bob");
        bench.respond(Response::new(180));
        bench.responds("INVITE", 200, "bob");
        bench.respond(ok());
        bench.acknowledges("caller", 7);
        bench.acknowledge("callee");
        bench.words();
        bench
    }
}

pub(super) fn event_word(event: &SessionEvent) -> String {
    match event {
        SessionEvent::Request { leg, message, .. } => {
            format!("{leg} {}", message.method().unwrap())
        }
        SessionEvent::Cancelled { leg, .. } => format!("{leg} cancelled"),
        SessionEvent::Acknowledged { leg, .. } => format!("{leg} ACK"),
        SessionEvent::Response { leg, message } => format!("{leg} {}", message.status().unwrap()),
        SessionEvent::Failed { leg, method, status } => {
            format!("{leg} failed {} {status}", method.escape_ascii())
        }
        SessionEvent::Timer { name } => format!("timer {name}"),
        SessionEvent::Http(request) => format!("{} {}", request.method, request.path_with_query),
        SessionEvent::Signal { name, sender, .. } => format!("signal {name} of {sender}"),
        SessionEvent::Ended => "ended".to_owned(),
        SessionEvent::Ending => "ending".to_owned(),
    }
}
