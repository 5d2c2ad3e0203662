//! What an application is to its container: a handler that turns a request into effects.
//!
//! A request has come from a phone through an edge, over the link, into a server transaction; here the
//! application decides what becomes of it. It reads the state store itself, and everything it wants to
//! happen it returns as [`Effects`]: a batch to commit, and what to do once the commit stands. So a
//! handler may run again: when its commit met a concurrent one, and then nothing has happened yet; or when
//! the commit's outcome is unknown, and then what it wrote may stand. No message has left in either case.
//!
//! The container turns [`Action::Respond`] into a response on the server transaction (RFC 3261 §17.2),
//! [`Action::Proxy`] into a transaction-stateful proxy context (RFC 3261 §16).
//!
//! Deliberately absent: sessions, dialogs, timers and outgoing requests of an application's own; they come
//! with the WebAssembly host. Sockets, flows and transactions are the container's business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
pub use sip::QValue;
use sip::{HeaderName, Message};
use state::{Batch, UnixMillis};
use topology::choice::{BucketTable, ChoiceHash, ChoiceKey};
use topology::{Incarnation, ProcessName};
use transport::Flow;

/// What a container hosts.
///
/// Handlers of different requests run interleaved on the shard's one thread: a handler awaits the store and
/// nothing slower, and never blocks.
pub trait Application: Send + Sync {
    /// Name in logs and in the console.
    fn name(&self) -> &str;

    /// Decides what becomes of one request that begins a server transaction (never a retransmission, a
    /// CANCEL, or an ACK to a non-2xx).
    ///
    /// [`Action::Proxy`] of an INVITE is noted in the store before anybody is called, so that another container can go
    /// on with the call. That is a commit of its own, behind the one of the batch: a container that dies between the
    /// two leaves a batch that stands and an INVITE that is handled again, here or elsewhere.
    ///
    /// An ACK has no transaction that could answer it: [`Action::Respond`] to one is dropped and
    /// [`Action::Proxy`] forwards it once to the first target, statelessly.
    ///
    /// Runs again, with a higher [`IncomingRequest::attempt`], when the returned batch met a concurrent
    /// commit or its outcome is unknown; so it has no side effect but the one it returns, and knows its own
    /// writes when it reads them. An application answers its own read errors
    /// (503 when a retry may help, 500 otherwise).
    fn handle<'a>(&'a self, request: &'a IncomingRequest) -> BoxFuture<'a, Effects>;

    /// Whether it is to [`admit`](Self::admit) what applications with sessions take.
    fn is_gatekeeper(&self) -> bool {
        false
    }

    /// Decides whether an application with sessions may have an initial request that it accepts, before any of its handlers
    /// sees it: the batch is committed first. `Err` is what becomes of the request instead.
    ///
    /// Asked if it [is the gatekeeper](Self::is_gatekeeper), of what no session of ours has sent, and runs again as
    /// [`handle`](Self::handle) does; and wherever a repetition of the request arrives.
    fn admit<'a>(&'a self, _request: &'a IncomingRequest) -> BoxFuture<'a, Result<Batch, Effects>> {
        Box::pin(std::future::ready(Ok(Batch::new())))
    }

    /// Periodic duties of this container, every few seconds ([`Tick::owns`] says for which keys).
    fn tick<'a>(&'a self, tick: &'a Tick) -> BoxFuture<'a, Vec<Duty>>;
}

/// A request, as the edge forwarded it, and the circumstances of its coming.
#[derive(Debug, Clone)]
pub struct IncomingRequest {
    /// The request; mandatory fields are present and well-formed, the edge's Via is topmost.
    pub message: Message,
    /// The flow between the phone and the edge that the request came by.
    pub flow: Flow,
    /// Whether somebody stands up for what From says.
    pub caller: Caller,
    /// Wall clock at the beginning of this run of the handler, for absolute expiries of what begins.
    pub now: UnixMillis,
    /// What was to end until then has ended. Behind `now` for a minute after the machine's clock was set forward.
    pub expiry_now: UnixMillis,
    /// 0 for the first run, one more after each commit that met a conflict or whose outcome is unknown.
    pub attempt: u32,
}

impl IncomingRequest {
    /// A request in its first run, of a caller that nobody knows.
    pub fn new(message: Message, flow: Flow, now: UnixMillis) -> IncomingRequest {
        let caller = Caller::Claimed;
        IncomingRequest { message, flow, caller, now, expiry_now: now, attempt: 0 }
    }
}

/// What is known of the one whom From names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The request says so, nobody else.
    Claimed,
    /// The gatekeeper has [admitted](Application::admit) the request before it went on, or a session of ours wrote it and
    /// answers for its From.
    Known,
}

/// What a handler wants to happen: the batch is committed first, then the action is carried out.
#[derive(Debug, Clone)]
pub struct Effects {
    /// Writes under one hash tag; empty = nothing to commit.
    pub batch: Batch,
    /// Carried out when, and only when, the batch is committed.
    pub action: Action,
}

impl Effects {
    /// An answer that changes no state.
    pub fn respond(response: Response) -> Effects {
        Effects { batch: Batch { writes: Vec::new() }, action: Action::Respond(response) }
    }

    /// Proxying that changes no state.
    pub fn proxy(plan: ProxyPlan) -> Effects {
        Effects { batch: Batch { writes: Vec::new() }, action: Action::Proxy(plan) }
    }

    /// The same action after the commit of `batch`.
    pub fn committing(mut self, batch: Batch) -> Effects {
        self.batch = batch;
        self
    }
}

/// What becomes of the request.
#[derive(Debug, Clone)]
pub enum Action {
    /// A final response on the server transaction.
    Respond(Response),
    /// Forward to these targets and relay the best response (RFC 3261 §16).
    Proxy(ProxyPlan),
    /// No answer at all: the server transaction ends silently. For ACK and for what must not be answered.
    Drop,
}

/// A final response of an application; Via, From, To (with a tag of the container's), Call-ID and CSeq are
/// copied from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200–699.
    pub status: u16,
    /// Reason phrase; empty = the RFC's phrase for the status.
    pub reason: Bytes,
    /// Header fields in order, below the copied ones.
    pub headers: Vec<Header>,
    /// None = Content-Length: 0.
    pub body: Option<Body>,
}

impl Response {
    /// A response with the RFC's reason phrase, without further headers or body.
    pub fn new(status: u16) -> Response {
        Response { status, reason: Bytes::new(), headers: Vec::new(), body: None }
    }

    /// With this reason phrase.
    pub fn reason(mut self, reason: impl Into<Bytes>) -> Response {
        self.reason = reason.into();
        self
    }

    /// With one more field of a header that `sip` knows by name.
    pub fn header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Response {
        self.headers.push(Header { name: FieldName::Known(name), value: value.into() });
        self
    }

    /// With one more field of any header.
    pub fn header_named(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Response {
        self.headers.push(Header { name: FieldName::Named(name.into()), value: value.into() });
        self
    }

    /// With a body of this Content-Type.
    pub fn body(mut self, content_type: impl Into<Bytes>, content: impl Into<Bytes>) -> Response {
        self.body = Some(Body { content_type: content_type.into(), content: content.into() });
        self
    }
}

/// One header field of a [`Response`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Which header.
    pub name: FieldName,
    /// Its value, without CR or LF.
    pub value: Bytes,
}

/// Name of a header: one that `sip` knows, or any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldName {
    /// Written in its long form; never `HeaderName::Other`.
    Known(HeaderName),
    /// Written as given.
    Named(Bytes),
}

/// A message body and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Value of Content-Type.
    pub content_type: Bytes,
    /// The octets.
    pub content: Bytes,
}

/// Where and how to forward a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPlan {
    /// The target set (RFC 3261 §16.5); targets of equal q are tried in parallel, groups by falling q.
    /// Empty answers 480. More than [`TARGETS_MAX`] are cut off, the lowest q first.
    pub targets: Vec<Target>,
    /// Whether later requests of the dialog shall come through this container.
    pub record_route: RecordRoute,
    /// Timer C: how long an INVITE may ring without a further provisional response; over 3 minutes
    /// (RFC 3261 §16.6(11)).
    pub timer_c: Duration,
}

/// At most this many targets of one request are tried.
pub const TARGETS_MAX: usize = 64;

/// Timer C unless an application says otherwise: just over the RFC's minimum of 3 minutes.
pub const TIMER_C_DEFAULT: Duration = Duration::from_secs(181);

impl ProxyPlan {
    /// Proxying to these targets, without Record-Route, with the default Timer C.
    pub fn to_targets(targets: Vec<Target>) -> ProxyPlan {
        ProxyPlan { targets, record_route: RecordRoute::No, timer_c: TIMER_C_DEFAULT }
    }
}

/// One place to forward a request to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The new Request-URI, as registered (byte-exact).
    pub uri: Bytes,
    /// Route values to put above the request's own, in order: the Path stored with a binding (RFC 3327 §5.4).
    /// Each is a complete Route value such as `<sip:token@192.0.2.1:5060;lr>`.
    pub route: Vec<Bytes>,
    /// Preference of the contact (RFC 3261 §20.10).
    pub q: QValue,
    /// Instance id of the phone: two targets of one instance are flows to the same phone, and never ring in
    /// parallel (RFC 5626 §5.3); the second is tried when the first one's flow is gone (430).
    pub instance: Option<Bytes>,
}

impl Target {
    /// A target of q 1, without Path or instance.
    pub fn new(uri: impl Into<Bytes>) -> Target {
        Target { uri: uri.into(), route: Vec::new(), q: QValue::ONE, instance: None }
    }
}

/// Whether a proxied dialog stays with this container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordRoute {
    /// After set-up the dialog needs edges only.
    No,
    /// The container puts its own Record-Route (RFC 3261 §16.6(4)), with its owner token.
    Yes,
}

/// One round of periodic duties.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The time by which lifetimes end, at the beginning of the round.
    pub now: UnixMillis,
    ownership: Ownership,
}

impl Tick {
    /// A round at `now` for the keys of `ownership`.
    pub fn new(now: UnixMillis, ownership: Ownership) -> Tick {
        Tick { now, ownership }
    }

    /// Whether this container, of all that accept work, has the duties for `key`: every container asks with
    /// the same topology view, and exactly one gets yes. Views differ for moments, so a duty may be done
    /// twice or not at all in one round.
    pub fn owns(&self, key: ChoiceKey<'_>) -> bool {
        self.ownership.owns(key)
    }
}

/// Which keys are a container's to look after.
#[derive(Debug, Clone)]
pub enum Ownership {
    /// All of them: the container is alone.
    Everything,
    /// None: it drains.
    Nothing,
    /// Those whose first candidate it is.
    Share {
        /// The accepting containers, as the edges see them.
        table: Arc<BucketTable>,
        /// Own name.
        name: ProcessName,
        /// Own life.
        incarnation: Incarnation,
    },
}

impl Ownership {
    fn owns(&self, key: ChoiceKey<'_>) -> bool {
        self.owns_hash(key.hash())
    }

    /// As for a key, by its hash.
    pub fn owns_hash(&self, hash: ChoiceHash) -> bool {
        match self {
            Ownership::Everything => true,
            Ownership::Nothing => false,
            Ownership::Share { table, name, incarnation } => {
                table.choose_hash(hash).first.is_some_and(|first| {
                    let candidate = &table.candidates()[first];
                    candidate.name == *name && candidate.incarnation == *incarnation
                })
            }
        }
    }
}

/// Something a [`Application::tick`] asks the container to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Send a NAT keep-alive on the UDP flow behind a binding.
    KeepAlive {
        /// Topmost Path value of the binding, `<sip:TOKEN@edge-own-address;lr>`: names the edge and the flow.
        path: Bytes,
    },
}

#[cfg(test)]
mod tests {
    use topology::Candidate;

    use super::*;

    #[test]
    fn every_key_has_exactly_one_owner_among_the_accepting_containers() {
        let names = ["c1", "c2", "c3"].map(ProcessName::new);
        let candidates =
            names.clone().map(|name| Candidate { name, incarnation: Incarnation(1), weight: 100 });
        let table = Arc::new(BucketTable::build(&candidates));
        let tick = |ownership| Tick::new(UnixMillis(0), ownership);
        let shares = names.map(|name| {
            let table = Arc::clone(&table);
            tick(Ownership::Share { table, name, incarnation: Incarnation(1) })
        });
        for number in 0..100 {
            let key = format!("sip:{number}@example.com");
            let key = ChoiceKey::AddressOfRecord(key.as_bytes());
            assert_eq!(shares.iter().filter(|tick| tick.owns(key)).count(), 1);
            assert!(tick(Ownership::Everything).owns(key));
            assert!(!tick(Ownership::Nothing).owns(key));
        }
        let key = ChoiceKey::AddressOfRecord(b"sip:a@example.com");
        let former =
            Ownership::Share { table, name: ProcessName::new("c1"), incarnation: Incarnation(2) };
        assert!(!tick(former).owns(key), "another life of it owns nothing");
    }
}
