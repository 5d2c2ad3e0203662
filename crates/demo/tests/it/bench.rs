//! A session of the agent, and a phone at each end of it. After every step the session goes on in another container
//! that has nothing but its record, so whatever the agent knew besides would be lost.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use container::session::identity::Identity;
use container::session::receive::{Input, NewRequest};
use container::session::state::{Action, Context};
use container::session::{Session, SessionApplication, SessionEvent, SessionId};
use demo::BackToBack;
use demo::webassembly::Version;
use guest::{Engine, Guest, Prepared, Settings};
use sip::transaction::Timers;
use sip::{HeaderName, Message, Method, RequestBuilder, ResponseBuilder};
use state::UnixMillis;
use topology::token::OwnerToken;
use topology::{Incarnation, KeyRing};
use transport::{Flow, Transport};

pub(crate) const OFFER: &[u8] = b"offer";
pub(crate) const ANSWER: &[u8] = b"answer";

/// The agents, which do the same.
pub(crate) const AGENTS: [fn() -> Arc<dyn SessionApplication>; 2] = [native, webassembly];

pub(crate) fn native() -> Arc<dyn SessionApplication> {
    Arc::new(BackToBack::default())
}

pub(crate) fn webassembly() -> Arc<dyn SessionApplication> {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new().unwrap());
    static PREPARED: LazyLock<Prepared> = LazyLock::new(|| {
        guest::prepare(&ENGINE, &Version::First.module(), guest::Limits::default()).unwrap()
    });
    let mut settings = Settings::new("demo-agent", Version::First.number());
    settings.accepts = Box::new(|_| true);
    // The machine may be slow: it is for its processor time only that a guest is late.
    settings.limits.wall_time = Duration::from_secs(60);
    let Prepared { component, code, .. } = &*PREPARED;
    Arc::new(Guest::load(&ENGINE, component, Some(code), settings).unwrap().0)
}

pub(crate) struct Bench {
    agent: Arc<dyn SessionApplication>,
    runtime: tokio::runtime::Runtime,
    session: Session,
    now: UnixMillis,
    lives: u64,
    /// What left, in words: requests by their method, answers by their status, since somebody asked.
    sent: Vec<String>,
    /// The last message of each word.
    messages: Vec<(String, Message)>,
}

fn identity(incarnation: u64) -> Identity {
    let owner = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
    Identity::new(&KeyRing::new([1; 32]), owner, "c1.n1.outlast.invalid")
}

fn parse(octets: impl Into<Bytes>) -> Message {
    Message::parse(octets.into()).unwrap()
}

fn new_request(request: Message) -> NewRequest {
    let flow = Flow::new(
        Transport::Udp,
        "192.0.2.1:5060".parse().unwrap(),
        "198.51.100.7:5060".parse().unwrap(),
    );
    let key = [request.top_via().unwrap().branch().unwrap(), request.method().unwrap().as_bytes()];
    NewRequest { key: key.concat().into(), flow, request }
}

fn invite() -> Message {
    let text = "INVITE sip:bob@b2b.example.com SIP/2.0\r\n\
                Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKone\r\nMax-Forwards: 70\r\n\
                From: <sip:alice@example.com>;tag=alice\r\nTo: <sip:bob@b2b.example.com>\r\n\
                Call-ID: c1\r\nCSeq: 7 INVITE\r\nContact: <sip:alice@198.51.100.7>\r\n\
                Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\noffer";
    parse(text.as_bytes())
}

impl Bench {
    /// The caller's INVITE has come.
    pub(crate) fn new(agent: Arc<dyn SessionApplication>) -> Bench {
        let (now, identity) = (UnixMillis(1_000_000), identity(1));
        let context = Context { now, guarded: now, identity: &identity, timers: Timers::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(agent.accepts(&invite()));
        let begun =
            Session::begin(SessionId([9; 16]), agent.name(), &new_request(invite()), context);
        let (session, event) = begun.unwrap();
        let (sent, messages) = (Vec::new(), Vec::new());
        let mut bench = Bench { agent, runtime, session, now, lives: 1, sent, messages };
        let draft = bench.session.clone();
        bench.decides(draft, Some(event), Vec::new());
        bench
    }

    fn comes(&mut self, input: Input) {
        let identity = identity(self.lives);
        let context = Context {
            now: self.now,
            guarded: self.now,
            identity: &identity,
            timers: Timers::default(),
        };
        let (mut draft, mut actions) = (self.session.clone(), Vec::new());
        let event = draft.receive(input, context, &mut actions);
        self.decides(draft, event, actions);
    }

    /// The agent hears of it, what it wants is done, and another container goes on.
    fn decides(
        &mut self,
        mut draft: Session,
        event: Option<SessionEvent>,
        mut actions: Vec<Action>,
    ) {
        let owner = identity(self.lives);
        let context = Context {
            now: self.now,
            guarded: self.now,
            identity: &owner,
            timers: Timers::default(),
        };
        if let Some(event) = &event {
            let view = draft.view(self.now);
            let effects = self.runtime.block_on(self.agent.on_event(&view, event));
            draft.apply(effects, context, &mut actions).expect("the agent keeps to the rules");
        }
        draft.settle(event.as_ref(), context, &mut actions);
        actions.into_iter().for_each(|action| self.leaves(action));
        self.lives += 1;
        self.session = Session::decode(draft.id, &draft.encode()).unwrap();
        // What it would send again is the container's, not the agent's.
        let _repetitions = self.session.resume(self.now);
        self.session.owner = identity(self.lives).owner();
    }

    fn leaves(&mut self, action: Action) {
        let (word, message) = match action {
            Action::Answer { status, response, .. } => (status.to_string(), Some(response)),
            Action::Start { method, request, .. } => {
                (String::from_utf8_lossy(&method).into_owned(), Some(request))
            }
            Action::Acknowledge { ack } => ("ACK".to_owned(), Some(ack)),
            Action::Cancel { .. } => ("CANCEL".to_owned(), None),
            Action::Abandon { .. }
            | Action::Accept { .. }
            | Action::HttpRespond(_)
            | Action::Route { .. }
            | Action::Forward { .. }
            | Action::Resume { .. }
            | Action::CancelForwarded { .. }
            | Action::ForwardAck { .. }
            | Action::Reply { .. } => return,
        };
        if let Some(octets) = message {
            self.messages.push((word.clone(), parse(octets)));
        }
        self.sent.push(word);
    }

    /// What has left since the last time.
    pub(crate) fn words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    /// The last message of that word.
    pub(crate) fn last(&self, word: &str) -> Message {
        self.messages.iter().rev().find(|(known, _)| known == word).unwrap().1.clone()
    }

    /// A response to the last request of that method that the agent sent.
    pub(crate) fn responds(&mut self, method: &str, status: u16, body: &'static [u8]) {
        let request = self.last(method);
        let mut response = ResponseBuilder::new(&request, status)
            .to_tag(b"bob")
            .header(HeaderName::Contact, b"<sip:bob@203.0.113.9>");
        if !body.is_empty() {
            response = response.body(b"application/sdp", body);
        }
        self.comes(Input::Response { response: parse(response.build()) });
    }

    /// From, To and Call-ID of what the phone at that end sends in its dialog.
    fn ends(&self, leg: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let of = |message: &Message, name| message.field(name).unwrap().to_vec();
        // The first INVITE of ours, and our first answer with a tag, to the caller's.
        let first = |wanted: fn(&Message) -> bool| {
            self.messages
                .iter()
                .map(|(_, message)| message)
                .find(|message| wanted(message))
                .unwrap()
        };
        if leg == "caller" {
            let answer = first(|message| message.status().is_some());
            let call_id = of(answer, HeaderName::CallId);
            (of(answer, HeaderName::From), of(answer, HeaderName::To), call_id)
        } else {
            let invite = first(|message| message.method() == Some(Method::Invite));
            let remote = [&of(invite, HeaderName::To)[..], b";tag=bob"].concat();
            (remote, of(invite, HeaderName::From), of(invite, HeaderName::CallId))
        }
    }

    fn in_dialog(&self, leg: &str, method: &str, cseq: u32, body: &'static [u8]) -> Message {
        let (from, to, call_id) = self.ends(leg);
        let method = Method::parse(method.as_bytes()).unwrap();
        let via = format!("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{leg}{method}{cseq}");
        let mut request = RequestBuilder::new(method, b"sip:us@c1.n1.outlast.invalid")
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::From, &from)
            .header(HeaderName::To, &to)
            .header(HeaderName::CallId, &call_id)
            .header(HeaderName::CSeq, format!("{cseq} {method}").as_bytes())
            .header(HeaderName::Contact, b"<sip:moved@198.51.100.8>");
        if !body.is_empty() {
            request = request.body(b"application/sdp", body);
        }
        parse(request.build())
    }

    /// A request of the phone at that end.
    pub(crate) fn requests(&mut self, leg: &str, method: &str, cseq: u32, body: &'static [u8]) {
        let request = new_request(self.in_dialog(leg, method, cseq, body));
        self.comes(Input::Request(request));
    }

    /// The ACK to our 2xx.
    pub(crate) fn acknowledges(&mut self, leg: &str, cseq: u32) {
        let ack = self.in_dialog(leg, "ACK", cseq, b"");
        self.comes(Input::Acknowledged { ack });
    }

    /// The caller gives up.
    pub(crate) fn cancels(&mut self) {
        let key = new_request(invite()).key;
        self.comes(Input::Cancelled { key });
    }

    /// Nothing comes until the session's next deadline.
    pub(crate) fn waits(&mut self) {
        self.now = self.session.next_deadline(Timers::default());
        self.comes(Input::Deadline);
    }

    /// What the agent remembers.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        let view = self.session.view(self.now);
        view.attributes.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// A call that stands; nothing of it is waited for.
    pub(crate) fn talking(agent: Arc<dyn SessionApplication>) -> Bench {
        let mut bench = Bench::new(agent);
        bench.responds("INVITE", 180, b"");
        bench.responds("INVITE", 200, ANSWER);
        bench.acknowledges("caller", 7);
        bench.words();
        bench
    }
}
