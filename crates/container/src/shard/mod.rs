//! The pure core of a container: link frames and the ends of asynchronous work in, effects out.
//!
//! A request comes in a link frame, begins a server transaction or is absorbed by one, becomes a job (the
//! application's handler runs, its batch is committed), and is answered or proxied; the edge hears that it is
//! *taken* once its effects are committed. Whatever takes time (handlers, commits, name look-ups) is asked of
//! [`crate::server`] as an effect and comes back as an event.
//!
//! ```text
//! frame ─▶ transactions ─▶ job: Handle ─▶ handled ─▶ Commit ─▶ committed ─▶ respond │ proxy ─▶ Send
//!                                 ▲                                │ conflict
//!                                 └────────────────────────────────┘ bounded
//! ```
//!
//! `jobs` holds the middle, `proxying` the right end. Deliberately absent: sockets, tasks, clocks; set-up
//! records and sessions, which come with failover of established state.

mod jobs;
mod proxying;
#[cfg(test)]
mod tests;

use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use sip::{Framing, HeaderName, Message, Method, NameAddr, Uri};
use state::Batch;
use topology::{Incarnation, KeyRing, OwnerToken, ProcessName, TopologyView};
use tracing::debug;
use transport::Flow;
use transport::link::{Accepting, Destination, Incoming, LinkFrame, SendError};

use crate::application::{Duty, Response};
use crate::edges::{Edges, LinkId, RouteOwner};
use crate::own_route::without_own_route;
use crate::proxy::BranchDeriver;
use crate::responder::Responder;
use crate::transactions::deadlines::Deadlines;
use crate::transactions::{
    ClientId, Origin, ServerId, TransactionEffect, TransactionSettings, Transactions,
};
use jobs::Job;
use proxying::{Context, Lookup, NO_LINK, Sending};

pub use jobs::HandlerEnd;

/// Names one run of a handler and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

/// Names a look-up of a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(u64);

/// Who a shard is, and its bounds.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// Name of the container.
    pub name: ProcessName,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The node it runs on.
    pub node: String,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// Bounds and timers of the transactions.
    pub transactions: TransactionSettings,
    /// How often a handler runs anew when its commit met another one, or its outcome is unknown; then the request is
    /// answered 503.
    pub commit_conflicts_max: u32,
}

/// What the server has to do, in this order.
#[derive(Debug)]
pub enum ShardEffect {
    /// Put this frame on this link. One that does not fit is reported by [`Shard::send_failed`].
    Send {
        /// Which link.
        link: LinkId,
        /// Any but `Incoming`.
        frame: LinkFrame,
    },
    /// The message of this sequence is ours.
    Taken {
        /// By which link it came; it may be gone.
        link: LinkId,
        /// The sequence on that link.
        sequence: u64,
    },
    /// Run the application's handler; end with [`Shard::handled`].
    Handle {
        /// The name of the run.
        job: JobId,
        /// The request.
        request: Box<Message>,
        /// The flow it came by.
        flow: Flow,
        /// 0, or how many commits of it met a conflict or ended unknown.
        attempt: u32,
    },
    /// Commit; end with [`Shard::committed`].
    Commit {
        /// Whose batch.
        job: JobId,
        /// Not empty.
        batch: Batch,
    },
    /// Look up the addresses of a name; end with [`Shard::resolved`].
    Resolve {
        /// The name of the look-up.
        lookup: LookupId,
        /// A host name.
        host: String,
        /// The port that the addresses are wanted with.
        port: u16,
    },
}

/// An edge that does not keep to the protocol; its link must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// The first frame must be Hello, and only the first.
    #[error("the edge's Hello came late, twice, or not at all")]
    Hello,
    /// A frame that only containers send.
    #[error("the edge sent a frame that only containers send")]
    Direction,
}

/// One shard: all transactions, contexts and jobs of a container.
pub struct Shard {
    settings: ShardSettings,
    own_name: Bytes,
    edges: Edges,
    transactions: Transactions,
    responder: Responder,
    deriver: BranchDeriver,
    accepting: Accepting,
    jobs: AHashMap<JobId, Job>,
    /// The jobs of server transactions, for their CANCEL.
    jobs_by_server: AHashMap<ServerId, JobId>,
    contexts: AHashMap<ServerId, Context>,
    context_deadlines: Deadlines<ServerId>,
    clients: AHashMap<ClientId, Sending>,
    lookups: AHashMap<LookupId, Lookup>,
    /// What the transactions have asked for and was not carried out yet.
    pending: Vec<TransactionEffect>,
    /// The message in hand, until a job takes it over.
    offered: Option<(LinkId, u64)>,
    next_id: u64,
}

impl Shard {
    /// A shard without links.
    pub fn new(settings: ShardSettings) -> Shard {
        let own_name = Bytes::from(format!("{}.{}.outlast.invalid", settings.name, settings.node));
        let responder = Responder::new(&settings.keys);
        Shard {
            deriver: deriver(&settings, own_name.clone()),
            own_name,
            edges: Edges::default(),
            transactions: Transactions::new(settings.transactions, responder.clone()),
            responder,
            accepting: Accepting::Accepting,
            jobs: AHashMap::new(),
            jobs_by_server: AHashMap::new(),
            contexts: AHashMap::new(),
            context_deadlines: Deadlines::new(),
            clients: AHashMap::new(),
            lookups: AHashMap::new(),
            pending: Vec::new(),
            offered: None,
            next_id: 0,
            settings,
        }
    }

    /// The keys were rotated: new branches carry an owner token under the new ones. Open transactions keep the
    /// branches that they have.
    pub fn use_keys(&mut self, keys: KeyRing) {
        self.settings.keys = keys;
        self.deriver = deriver(&self.settings, self.own_name.clone());
    }

    /// A frame has come by a link.
    ///
    /// # Errors
    /// [`LinkFault`]: close the link, then call [`link_down`](Self::link_down).
    pub fn frame(
        &mut self,
        link: LinkId,
        frame: LinkFrame,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Result<(), LinkFault> {
        match frame {
            LinkFrame::Hello { addresses, .. } => {
                if self.edges.is_up(link) {
                    return Err(LinkFault::Hello);
                }
                self.edges.up(link, addresses);
                let answer = LinkFrame::HelloAnswer {
                    name: self.settings.name.as_str().to_owned(),
                    incarnation: self.settings.incarnation.0,
                };
                effects.push(ShardEffect::Send { link, frame: answer });
                // The edge need not wait for the next interval to know that we serve.
                effects.push(ShardEffect::Send { link, frame: self.heartbeat() });
            }
            _ if !self.edges.is_up(link) => return Err(LinkFault::Hello),
            LinkFrame::Incoming(incoming) => self.incoming(link, incoming, now, effects),
            LinkFrame::SendFailed { id, error } => self.send_failed(id, error, now, effects),
            // Here and not where the link is read: the answer says that this shard works off what comes.
            LinkFrame::Probe { id } => {
                effects.push(ShardEffect::Send { link, frame: LinkFrame::ProbeAnswer { id } });
            }
            LinkFrame::HelloAnswer { .. }
            | LinkFrame::Taken { .. }
            | LinkFrame::Outgoing { .. }
            | LinkFrame::KeepAlive { .. }
            | LinkFrame::Heartbeat { .. }
            | LinkFrame::HandOn { .. }
            | LinkFrame::ProbeAnswer { .. } => return Err(LinkFault::Direction),
        }
        Ok(())
    }

    /// A link is gone; what waits on it goes by another edge or has failed.
    pub fn link_down(&mut self, link: LinkId, now: Instant, effects: &mut Vec<ShardEffect>) {
        if !self.edges.is_up(link) {
            return;
        }
        self.edges.down(link);
        self.offers_withdrawn(link);
        // A datagram is repeated by its transaction, by another edge; a stream dies with its edge.
        let mut lost: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, sending)| sending.dies_with(link))
            .map(|(client, _)| *client)
            .collect();
        // In the order of their beginning, not of the table: what a shard does depends on its events alone.
        lost.sort_unstable();
        for client in lost {
            self.transactions.request_failed(client, SendError::FlowGone, now, &mut self.pending);
        }
        self.settle(now, effects);
    }

    /// The message sent under this id did not leave.
    pub fn send_failed(
        &mut self,
        id: u64,
        error: SendError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let client = ClientId::from_raw(id);
        if self.clients.contains_key(&client) {
            if !self.retry_as_datagram(client, error, now) {
                self.transactions.request_failed(client, error, now, &mut self.pending);
            }
        } else if error != SendError::Full {
            // A response that found no room is sent again when the request is; the transaction stays for that.
            self.transactions.response_failed(ServerId::from_raw(id), now, &mut self.pending);
        }
        self.settle(now, effects);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        self.transactions.timeout(now, &mut self.pending);
        self.contexts_timeout(now, effects);
        self.settle(now, effects);
    }

    /// When [`timeout`](Self::timeout) wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        match (self.transactions.next_timeout(), self.context_deadlines.next()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Learns which addresses belong to edges, alive or not, and which of them are expected back.
    pub fn topology(&mut self, view: &TopologyView) {
        self.edges.learn(view);
    }

    /// What every link gets at every interval.
    pub fn heartbeat(&self) -> LinkFrame {
        LinkFrame::Heartbeat {
            incarnation: self.settings.incarnation.0,
            accepting: self.accepting,
            load: self.transactions.load(),
        }
    }

    /// The links that have said Hello.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.edges.links()
    }

    /// Wants no new sessions from now on; requests that come all the same are served.
    pub fn drain(&mut self) {
        self.accepting = Accepting::Draining;
    }

    /// Whether nobody waits for an answer of this shard: no handler runs and every server transaction has
    /// its final response.
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && !self.contexts.keys().any(|server| self.is_open(*server))
    }

    /// What a drain waits for: handlers that run, and proxied requests without a final response. Looks at every
    /// context: for once an interval, not for every message.
    pub fn left(&self) -> u64 {
        let open = self.contexts.keys().filter(|server| self.is_open(**server)).count();
        u64::try_from(self.jobs.len() + open).unwrap_or(u64::MAX)
    }

    fn is_open(&self, server: ServerId) -> bool {
        self.transactions.pending_request(server).is_some()
    }

    /// Carries out a duty; one whose edge has no link is left for the next round.
    pub fn duty(&mut self, duty: &Duty, effects: &mut Vec<ShardEffect>) {
        let Duty::KeepAlive { path } = duty;
        let Ok(path) = NameAddr::parse(path) else { return };
        let Ok(Uri::Sip(uri)) = Uri::parse(path.uri()) else { return };
        let Some(token) = uri.user else { return };
        match self.edges.route_owner(&uri.host, uri.port, NO_LINK) {
            RouteOwner::Edge(link) => effects.push(ShardEffect::Send {
                link,
                frame: LinkFrame::KeepAlive { flow_token: Bytes::copy_from_slice(token) },
            }),
            RouteOwner::Awaited | RouteOwner::Departed | RouteOwner::Foreign => {}
        }
    }

    fn incoming(
        &mut self,
        link: LinkId,
        incoming: Incoming,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.offered = Some((link, incoming.sequence));
        let origin = Origin { link, flow: incoming.flow };
        match Message::parse(incoming.bytes) {
            Ok(message) if message.is_request() => self.request(message, origin, now, effects),
            Ok(message) => self.response(message, now),
            Err(error) => debug!(%error, "dropped what an edge took for a message"),
        }
        self.settle(now, effects);
        // Nobody took it over: it was absorbed, answered or dropped, and the edge need not keep it.
        if let Some((link, sequence)) = self.offered.take() {
            effects.push(ShardEffect::Taken { link, sequence });
        }
    }

    fn request(
        &mut self,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        // The edge has checked it, but a plain SIP peer in an edge's place may not have.
        if let Err(rejection) = request.check_request(Framing::Datagram) {
            return self.refuse(&request, origin, rejection.status, rejection.reason, effects);
        }
        // What may be proxied is kept until somebody answers, minutes for an INVITE, and would keep the
        // link's whole read buffer with it; a REGISTER is answered at once.
        let request = match request.method() {
            Some(Method::Register) => request,
            _ => request.detached(),
        };
        match without_own_route(&request, &self.own_name) {
            Ok(rewritten) => {
                let request = rewritten.unwrap_or(request);
                self.transactions.request(request, origin, now, &mut self.pending);
            }
            Err(fault) => self.refuse(&request, origin, 400, fault, effects),
        }
    }

    fn response(&mut self, response: Message, now: Instant) {
        let is_known = response.check_response().is_ok()
            && self.transactions.response(response, now, &mut self.pending);
        if !is_known {
            debug!("dropped a response that no client transaction waits for");
        }
    }

    /// Answers without a transaction; an ACK is never answered.
    fn refuse(
        &self,
        request: &Message,
        origin: Origin,
        status: u16,
        reason: &'static str,
        effects: &mut Vec<ShardEffect>,
    ) {
        if request.method() == Some(Method::Ack) || request.field(HeaderName::Via).is_none() {
            return;
        }
        let response = Response::new(status).reason(reason);
        self.send_response(None, origin, self.responder.render(request, &response), effects);
    }

    fn send_response(
        &self,
        server: Option<ServerId>,
        origin: Origin,
        bytes: Bytes,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(link) = self.edges.for_response(origin.link, origin.flow.local) else {
            // The transaction repeats it when an edge is back.
            return debug!("no edge to send a response by");
        };
        effects.push(ShardEffect::Send {
            link,
            frame: LinkFrame::Outgoing {
                id: server.map_or(0, ServerId::to_raw),
                destination: Destination::Via,
                bytes,
            },
        });
    }

    /// Carries out what the transactions ask for, until they ask for nothing more.
    fn settle(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while !self.pending.is_empty() {
            for effect in std::mem::take(&mut self.pending) {
                self.carry_out(effect, now, effects);
            }
        }
    }

    fn carry_out(
        &mut self,
        effect: TransactionEffect,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match effect {
            TransactionEffect::Begun { server, request, origin } => {
                self.begin_job(Some(server), request, origin, effects)
            }
            TransactionEffect::Acknowledged { request, origin } => {
                self.begin_job(None, request, origin, effects);
            }
            TransactionEffect::Cancelled { server } => self.cancelled(server, now, effects),
            TransactionEffect::Delivered { client, response } => {
                self.delivered(client, response, now, effects);
            }
            TransactionEffect::Failed { client, failure } => {
                self.client_failed(client, failure, now, effects);
            }
            TransactionEffect::ClientEnded { client } => {
                self.clients.remove(&client);
            }
            TransactionEffect::SendRequest { client, bytes } => {
                self.send_request(client, bytes, now, effects);
            }
            TransactionEffect::SendResponse { server, origin, bytes } => {
                self.send_response(server, origin, bytes, effects)
            }
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn deriver(settings: &ShardSettings, own_name: Bytes) -> BranchDeriver {
    let owner = OwnerToken { incarnation: settings.incarnation, shard: 0 };
    let owner_token = owner.encode(&settings.keys.derive("owner"));
    BranchDeriver::new(&settings.keys.derive("branch"), owner_token, own_name)
}
