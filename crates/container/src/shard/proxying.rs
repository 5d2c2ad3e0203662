//! Carries out what proxy contexts ask for, and brings the ends of their client transactions back to them; what changes
//! the course of a call is noted first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip::transaction::Reliability;
use sip::{HeaderName, Message};
use smallvec::SmallVec;
use tracing::debug;
use transport::link::LinkFrame;

use super::noting::Notes;
use super::reach::AwaitId;
use super::set_ups::{Act, Step};
use super::ways::{Found, Way};
use super::{Held, LookupId, Shard, ShardEffect};
use crate::application::{ProxyPlan, Response};
use crate::edges::LinkId;
use crate::next_hop::{Hop, HopHost};
use crate::ownership::identity::SetUpId;
use crate::proxy::{
    self, BranchIndex, NextHop, ProxyContext, ProxyEffect, Resumption, TransportFailure,
};
use crate::session::proxying::Reply;
use crate::setup::Event;
use crate::transactions::deadlines::Armed;
use crate::transactions::{ClientId, ServerId};

/// Never up: the server counts its links from 1.
pub(super) const NO_LINK: LinkId = LinkId(0);

/// A proxied request and the client transactions of its branches.
pub(super) struct Context {
    pub(super) proxy: ProxyContext,
    /// Where to note what happens to it.
    pub(super) notes: Notes,
    /// The method of all its branches, as on the wire.
    pub(super) method: Bytes,
    /// The link that its requests prefer, too.
    pub(super) link: LinkId,
    pub(super) branches: SmallVec<[(BranchIndex, Progress); 2]>,
    armed: Armed,
}

/// How far a branch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its next hop's name is being resolved.
    Resolving(LookupId),
    /// Its edge lives and has no link yet.
    Awaiting(AwaitId),
    /// Its client transaction runs, or has run.
    Started(ClientId),
}

/// A branch whose next hop's name is being resolved.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) server: ServerId,
    pub(super) start: Start,
    pub(super) hop: Hop,
}

/// A request about to leave.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) branch: BranchIndex,
    pub(super) request: Bytes,
    pub(super) branch_id: Bytes,
    pub(super) decides: NextHop,
    /// It has left before, and this is what is left to do.
    pub(super) resumption: Option<Resumption>,
}

/// What is known of a client transaction beyond its machine.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    /// None: a CANCEL, or nobody wants to know.
    pub(super) user: Option<(ServerId, BranchIndex)>,
    /// The branch that this CANCEL is for, if an unknown call ends it: nobody knows whether the INVITE of a dead
    /// container arrived.
    pub(super) cancels: Option<(ServerId, BranchIndex)>,
    /// What decides on its next hop, for when its link is gone.
    pub(super) decides: NextHop,
    pub(super) way: Way,
    /// How it is begun anew as a datagram when the stream that its size asks for is refused.
    pub(super) datagram: Option<(Way, Start)>,
}

impl Context {
    pub(super) fn is_at(&mut self, branch: BranchIndex, progress: Progress) {
        self.branches.retain(|(known, _)| *known != branch);
        self.branches.push((branch, progress));
    }
}

impl Sending {
    /// Whether its stream, and so the transaction, cannot outlive the link.
    pub(super) fn dies_with(&self, link: LinkId) -> bool {
        self.way.link == link && self.way.reliability == Reliability::Reliable
    }
}

impl Shard {
    pub(super) fn begin_context(
        &mut self,
        server: ServerId,
        held: Held,
        plan: ProxyPlan,
        set_up: Option<SetUpId>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Held { message: request, origin, .. } = held;
        self.transactions.trying(server, now, &mut self.pending);
        let mut asked = Vec::new();
        let branch = server_branch(&request);
        // Keys may have been rotated since the record was written: what it says counts.
        let ledger = set_up.and_then(|id| self.set_ups.get(&id));
        let deriver =
            ledger.map_or_else(|| self.deriver.clone(), |ledger| ledger.deriver(&self.deriver));
        let proxy = ProxyContext::new(request.clone(), plan, &deriver, &branch, now, &mut asked);
        let notes = set_up.map_or(Notes::Nowhere, Notes::SetUp);
        self.add_context(server, proxy, &request, origin.link, notes);
        self.carry_out_proxy(server, asked, now, effects);
    }

    pub(super) fn add_context(
        &mut self,
        server: ServerId,
        proxy: ProxyContext,
        request: &Message,
        link: LinkId,
        notes: Notes,
    ) {
        let method = request.method().map_or(&b""[..], |method| method.as_bytes());
        let context = Context {
            proxy,
            notes,
            method: Bytes::copy_from_slice(method),
            link,
            branches: SmallVec::new(),
            armed: Armed::default(),
        };
        self.contexts.insert(server, Box::new(context));
    }

    /// Forgets a context and its client transactions; nothing is sent.
    pub(super) fn drop_context(&mut self, server: ServerId) {
        let Some(context) = self.contexts.remove(&server) else { return };
        for (_, progress) in context.branches {
            match progress {
                Progress::Started(client) => self.transactions.abandon(client, &mut self.pending),
                Progress::Resolving(lookup) => {
                    self.lookups.remove(&lookup);
                }
                Progress::Awaiting(awaited) => self.reach.forget(awaited),
            }
        }
    }

    /// Whose branch a client transaction is.
    pub(super) fn branch_of(&self, client: ClientId) -> Option<(ServerId, BranchIndex)> {
        self.clients.get(&client)?.user
    }

    pub(super) fn cancel_context(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.with_proxy(server, now, effects, |proxy, asked| proxy.cancel(now, asked));
    }

    pub(super) fn delivered(
        &mut self,
        client: ClientId,
        response: Message,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(sending) = self.clients.get_mut(&client) else { return };
        // The request has arrived: it is not begun anew, whatever becomes of the stream.
        sending.datagram = None;
        // A CANCEL's answer, or the context is finished: nobody upstream waits.
        let Some((server, branch)) = sending.user else { return };
        let is_ringing = response.status().is_some_and(|status| (101..200).contains(&status));
        self.with_proxy(server, now, effects, |proxy, asked| {
            proxy.response(branch, response, now, asked);
        });
        if is_ringing && let Some(Notes::SetUp(id)) = self.notes(server) {
            self.refresh(id, now, effects);
        }
    }

    /// A CANCEL was answered: by 481, when the callee knows of no such call.
    pub(super) fn cancel_answered(
        &mut self,
        client: ClientId,
        status: u16,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let cancels = self.clients.get(&client).and_then(|sending| sending.cancels);
        if let Some((server, branch)) = cancels.filter(|_| status == 481) {
            self.overdue(server, branch, now, effects);
        }
    }

    /// Nothing more is expected of a branch.
    fn overdue(
        &mut self,
        server: ServerId,
        branch: BranchIndex,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let event = self.failed_event(server, branch, TransportFailure::TimedOut);
        self.note_of(server, Step { event, act: Act::GiveUp(branch) }, now, effects);
    }

    fn rings_too_long(
        &mut self,
        server: ServerId,
        branch: BranchIndex,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let event = Some(Event::TimerC { branch: branch.number() });
        self.note_of(server, Step { event, act: Act::StopRinging(branch) }, now, effects);
    }

    pub(super) fn branch_failed(
        &mut self,
        server: ServerId,
        branch: BranchIndex,
        failure: TransportFailure,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let event = self.failed_event(server, branch, failure);
        self.note_of(server, Step { event, act: Act::Failed(branch, failure) }, now, effects);
    }

    pub(super) fn client_failed(
        &mut self,
        client: ClientId,
        failure: TransportFailure,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some((server, branch)) = self.branch_of(client) {
            self.branch_failed(server, branch, failure, now, effects);
        }
    }

    /// A name look-up has ended: the addresses, in order of preference; empty when there is none.
    pub fn resolved(
        &mut self,
        lookup: LookupId,
        addresses: &[SocketAddr],
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if self.session_resolved(lookup, addresses, now, effects) {
            return;
        }
        let Some(Lookup { server, start, hop }) = self.lookups.remove(&lookup) else { return };
        let Some(context) = self.contexts.get_mut(&server) else { return };
        context.branches.retain(|(_, progress)| *progress != Progress::Resolving(lookup));
        let link = context.link;
        // The caller may have given up meanwhile; then nobody's phone rings for it.
        let is_wanted = start.resumption.is_some() || context.proxy.is_wanted(start.branch);
        let addresses = if is_wanted { addresses } else { &[] };
        let found = addresses.iter().find_map(|address| {
            let host = HopHost::Address(address.ip());
            let hop = Hop { host, port: address.port(), ..hop };
            self.way_at_once(&hop, start.request.len(), link)
        });
        let branch = start.branch;
        let is_started = found.is_some_and(|found| self.start(server, start, found, now, effects));
        if !is_started {
            self.branch_failed(server, branch, TransportFailure::Unreachable, now, effects);
        }
        self.settle(now, effects);
    }

    pub(super) fn contexts_timeout(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while let Some((at, server)) = self.context_deadlines.pop_due(now) {
            if self.contexts.get_mut(&server).is_some_and(|context| context.armed.take(at)) {
                self.with_proxy(server, now, effects, |proxy, asked| proxy.timer(now, asked));
            }
        }
        let contexts = &self.contexts;
        self.context_deadlines.sweep(contexts.len(), |id, at| {
            contexts.get(&id).is_some_and(|context| context.armed.is_at(at))
        });
    }

    /// An ACK to a 2xx goes on without a transaction, to the first target (RFC 3261 §16.11).
    pub(super) fn forward_ack(
        &mut self,
        ack: &Message,
        link: LinkId,
        plan: &ProxyPlan,
        effects: &mut Vec<ShardEffect>,
    ) {
        let forwarded = plan
            .targets
            .first()
            .and_then(|target| proxy::forward_ack(ack, target, &self.deriver, &server_branch(ack)));
        let Some(forwarded) = forwarded else { return };
        let found = self.find_way(&forwarded.request, forwarded.destination, link);
        match found {
            Ok(Found::Way(way) | Found::StreamElseDatagram(_, way)) => {
                let frame = LinkFrame::Outgoing {
                    id: 0,
                    destination: way.destination,
                    bytes: forwarded.request,
                };
                effects.push(ShardEffect::Send { link: way.link, frame });
            }
            // The callee repeats its 2xx, and gets another ACK once the name is in the cache.
            Ok(Found::Name(..)) => debug!("an ACK to a host name was dropped"),
            Ok(Found::Awaited(_) | Found::Unlinked) => {
                debug!("an ACK was dropped: its edge has no link");
            }
            Err(failure) => debug!(?failure, "an ACK could not be forwarded"),
        }
    }

    /// Lets a context act, and carries out what it asks for.
    pub(super) fn with_proxy(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
        act: impl FnOnce(&mut ProxyContext, &mut Vec<ProxyEffect>),
    ) {
        if let Some(context) = self.contexts.get_mut(&server) {
            let mut asked = Vec::new();
            act(&mut context.proxy, &mut asked);
            self.carry_out_proxy(server, asked, now, effects);
        }
    }

    pub(super) fn carry_out_proxy(
        &mut self,
        server: ServerId,
        asked: Vec<ProxyEffect>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let mut asked = VecDeque::from(asked);
        while let Some(effect) = asked.pop_front() {
            match effect {
                ProxyEffect::Start { branch, request, branch_id, destination } => {
                    let decides = destination;
                    let start = Start { branch, request, branch_id, decides, resumption: None };
                    if let Err(failure) = self.start_branch(server, start, now, effects) {
                        self.branch_failed(server, branch, failure, now, effects);
                    }
                }
                ProxyEffect::Resume { branch, request, branch_id, destination, resumption } => {
                    let is_pending = resumption == Resumption::Cancel;
                    let (decides, resumption) = (destination, Some(resumption));
                    let start = Start { branch, request, branch_id, decides, resumption };
                    let resumed = self.start_branch(server, start, now, effects);
                    if let Err(failure) = resumed
                        && is_pending
                    {
                        self.branch_failed(server, branch, failure, now, effects);
                    }
                }
                ProxyEffect::Overdue { branch } => self.overdue(server, branch, now, effects),
                ProxyEffect::RingsTooLong { branch } => {
                    self.rings_too_long(server, branch, now, effects);
                }
                ProxyEffect::Cancel { branch } => {
                    self.cancel_branch(server, branch, now);
                }
                ProxyEffect::Abandon { branch } => match self.progress(server, branch) {
                    Some(Progress::Started(client)) => {
                        self.transactions.abandon(client, &mut self.pending);
                    }
                    Some(Progress::Resolving(lookup)) => {
                        self.lookups.remove(&lookup);
                    }
                    Some(Progress::Awaiting(awaited)) => self.reach.forget(awaited),
                    None => {}
                },
                ProxyEffect::Reply { response } => {
                    self.pass_back(server, Reply::Received(response), now, effects);
                }
                ProxyEffect::ReplyOwn { status } => {
                    self.pass_back(server, Reply::Own(Response::new(status)), now, effects);
                }
                ProxyEffect::Finished => {
                    match self.contexts.remove(&server).map(|context| context.notes) {
                        Some(Notes::SetUp(id)) => self.end_if_over(id, now, effects),
                        Some(Notes::Session(id, request)) => {
                            self.forwarded_is_over(id, request, now, effects);
                        }
                        Some(Notes::Nowhere) | None => {}
                    }
                }
            }
        }
        if let Some(context) = self.contexts.get_mut(&server) {
            let deadline = context.proxy.next_timeout();
            self.context_deadlines.arm(server, &mut context.armed, deadline);
        }
    }
}

impl Shard {
    /// A response for the caller: by way of the session that has let its request go on, if that is to know of it.
    fn pass_back(
        &mut self,
        server: ServerId,
        reply: Reply,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let status = reply.status();
        let notes = self.contexts.get(&server).map(|context| context.notes);
        if let Some(Notes::Session(id, request)) = notes
            && (status >= 200 || self.sessions.supervises(id, request))
        {
            return self.reply_for_session(id, request, reply, now, effects);
        }
        match reply {
            Reply::Received(response) => {
                self.transactions.respond(server, status, response, now, &mut self.pending);
            }
            Reply::Own(response) => {
                self.transactions.respond_own(server, &response, now, &mut self.pending);
            }
        }
    }
}

/// What the client branches are derived from: the branch of the edge's Via, else what identifies the request.
pub(super) fn server_branch(request: &Message) -> Vec<u8> {
    let branch = request.top_via().ok().and_then(|via| via.rfc3261_branch());
    match branch {
        Some(branch) => branch.to_vec(),
        None => [HeaderName::CallId, HeaderName::CSeq, HeaderName::From, HeaderName::Via]
            .map(|name| request.field(name).unwrap_or_default())
            .join(&b'\n'),
    }
}
