//! Carries out what proxy contexts ask for: finds the way of a request, starts and cancels client
//! transactions, brings their ends back to the context.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip::transaction::Reliability;
use sip::{HeaderName, Message, Method};
use smallvec::SmallVec;
use tracing::debug;
use transport::Transport;
use transport::link::{Destination, LinkFrame, SendError};

use super::{LookupId, Shard, ShardEffect};
use crate::application::{ProxyPlan, Response};
use crate::edges::{LinkId, RouteOwner};
use crate::next_hop::{self, Hop, HopHost};
use crate::proxy::{self, BranchIndex, NextHop, ProxyContext, ProxyEffect, TransportFailure};
use crate::transactions::deadlines::Armed;
use crate::transactions::{ClientId, Origin, ServerId};

/// Never up: the server counts its links from 1.
pub(super) const NO_LINK: LinkId = LinkId(0);

/// A proxied request and the client transactions of its branches.
pub(super) struct Context {
    proxy: ProxyContext,
    /// The method of all its branches, as on the wire.
    method: Bytes,
    /// The link that its requests prefer, too.
    link: LinkId,
    branches: SmallVec<[(BranchIndex, Progress); 2]>,
    armed: Armed,
}

/// How far a branch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Its next hop's name is being resolved.
    Resolving(LookupId),
    /// Its client transaction runs, or has run.
    Started(ClientId),
}

/// A branch whose next hop's name is being resolved.
#[derive(Debug)]
pub(super) struct Lookup {
    server: ServerId,
    start: Start,
    hop: Hop,
}

/// A request about to leave.
#[derive(Debug, Clone)]
struct Start {
    branch: BranchIndex,
    request: Bytes,
    branch_id: Bytes,
    decides: NextHop,
}

/// What is known of a client transaction beyond its machine.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    /// None: a CANCEL.
    user: Option<(ServerId, BranchIndex)>,
    /// What decides on its next hop, for when its link is gone.
    decides: NextHop,
    way: Way,
    /// How it is begun anew as a datagram when the stream that its size asks for is refused.
    datagram: Option<(Way, Start)>,
}

impl Sending {
    /// Whether its stream, and so the transaction, cannot outlive the link.
    pub(super) fn dies_with(&self, link: LinkId) -> bool {
        self.way.link == link && self.way.reliability == Reliability::Reliable
    }
}

/// By which link and to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    link: LinkId,
    destination: Destination,
    reliability: Reliability,
}

/// What a request's next hop came to.
enum Found {
    Way(Way),
    /// The first over a stream for its size, the second when that is refused.
    StreamElseDatagram(Way, Way),
    /// A datagram that cannot leave before its edge is back; until then its repetitions wait.
    Awaited(Way),
    /// A name first.
    Name(Hop, String),
}

impl Shard {
    pub(super) fn begin_context(
        &mut self,
        server: ServerId,
        request: Message,
        origin: Origin,
        plan: ProxyPlan,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.transactions.trying(server, now, &mut self.pending);
        let method = request.method().map_or(&b""[..], |method| method.as_bytes());
        let method = Bytes::copy_from_slice(method);
        let mut asked = Vec::new();
        let server_branch = server_branch(&request);
        let proxy =
            ProxyContext::new(request, plan, &self.deriver, &server_branch, now, &mut asked);
        let context = Context {
            proxy,
            method,
            link: origin.link,
            branches: SmallVec::new(),
            armed: Armed::default(),
        };
        self.contexts.insert(server, context);
        self.carry_out_proxy(server, asked, now, effects);
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
        self.with_proxy(server, now, effects, |proxy, asked| {
            proxy.response(branch, response, now, asked);
        });
    }

    pub(super) fn client_failed(
        &mut self,
        client: ClientId,
        failure: TransportFailure,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some((server, branch)) = self.clients.get(&client).and_then(|sending| sending.user) {
            self.with_proxy(server, now, effects, |proxy, asked| {
                proxy.transport_failed(branch, failure, now, asked);
            });
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
        let Some(Lookup { server, start, hop }) = self.lookups.remove(&lookup) else { return };
        let Some(context) = self.contexts.get_mut(&server) else { return };
        context.branches.retain(|(_, progress)| *progress != Progress::Resolving(lookup));
        let link = context.link;
        // The caller may have given up meanwhile; then nobody's phone rings for it.
        let addresses = if context.proxy.is_wanted(start.branch) { addresses } else { &[] };
        let found = addresses.iter().find_map(|address| {
            let host = HopHost::Address(address.ip());
            let hop = Hop { host, port: address.port(), ..hop };
            self.way_to(&hop, start.request.len(), link).ok()
        });
        let branch = start.branch;
        let is_started = found.is_some_and(|found| self.start(server, start, found, now, effects));
        if !is_started {
            self.with_proxy(server, now, effects, |proxy, asked| {
                proxy.transport_failed(branch, TransportFailure::Unreachable, now, asked);
            });
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
        origin: Origin,
        plan: &ProxyPlan,
        effects: &mut Vec<ShardEffect>,
    ) {
        let forwarded = plan
            .targets
            .first()
            .and_then(|target| proxy::forward_ack(ack, target, &self.deriver, &server_branch(ack)));
        let Some(forwarded) = forwarded else { return };
        let found = self.find_way(&forwarded.request, forwarded.destination, origin.link);
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
            Ok(Found::Awaited(_)) => debug!("an ACK was dropped: its edge is down"),
            Err(failure) => debug!(?failure, "an ACK could not be forwarded"),
        }
    }

    /// Sends a request by the link of its transaction, or by another when that one is gone.
    pub(super) fn send_request(
        &mut self,
        client: ClientId,
        bytes: Bytes,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(sending) = self.clients.get(&client) else { return };
        let mut way = sending.way;
        if !self.edges.is_up(way.link) {
            way = match self.other_way(sending, &bytes) {
                Ok(way) => way,
                // The sockets of a killed edge wait for the revived one, and so do repeated datagrams;
                // Timer B or F ends the wait.
                Err(_) if way.reliability == Reliability::Unreliable => {
                    return debug!("no edge to send a request by; it is sent again later");
                }
                Err(error) => {
                    return self.transactions.request_failed(client, error, now, &mut self.pending);
                }
            };
            if let Some(sending) = self.clients.get_mut(&client) {
                sending.way = way;
            }
        }
        effects.push(ShardEffect::Send {
            link: way.link,
            frame: LinkFrame::Outgoing { id: client.to_raw(), destination: way.destination, bytes },
        });
    }

    /// A request that went over a stream only for its size goes as a datagram when the stream is refused
    /// (RFC 3261 §18.1.1). False when that is not so.
    pub(super) fn retry_as_datagram(
        &mut self,
        client: ClientId,
        error: SendError,
        now: Instant,
    ) -> bool {
        match error {
            SendError::Unreachable | SendError::Refused => {}
            SendError::FlowGone | SendError::Full => return false,
        }
        let Some(sending) = self.clients.get_mut(&client) else { return false };
        let (Some((way, start)), Some((server, branch))) = (sending.datagram.take(), sending.user)
        else {
            return false;
        };
        let context = self.contexts.get(&server);
        if !context.is_some_and(|context| context.proxy.is_wanted(branch)) {
            return false;
        }
        // Not a second attempt for the transaction's user: nobody has seen the first one.
        sending.user = None;
        self.transactions.abandon(client, &mut self.pending);
        self.start_by(server, start, way, None, now)
    }

    /// Lets a context act, and carries out what it asks for.
    fn with_proxy(
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

    fn carry_out_proxy(
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
                    let start = Start { branch, request, branch_id, decides: destination };
                    if let Err(failure) = self.start_branch(server, start, now, effects)
                        && let Some(context) = self.contexts.get_mut(&server)
                    {
                        let mut further = Vec::new();
                        context.proxy.transport_failed(branch, failure, now, &mut further);
                        asked.extend(further);
                    }
                }
                ProxyEffect::Cancel { branch } => self.cancel_branch(server, branch, now),
                ProxyEffect::Abandon { branch } => match self.progress(server, branch) {
                    Some(Progress::Started(client)) => {
                        self.transactions.abandon(client, &mut self.pending);
                    }
                    Some(Progress::Resolving(lookup)) => {
                        self.lookups.remove(&lookup);
                    }
                    None => {}
                },
                ProxyEffect::Reply { response } => {
                    let status = status_of(&response);
                    self.transactions.respond(server, status, response, now, &mut self.pending);
                }
                ProxyEffect::ReplyOwn { status } => {
                    let response = Response::new(status);
                    self.transactions.respond_own(server, &response, now, &mut self.pending);
                }
                ProxyEffect::Finished => {
                    self.contexts.remove(&server);
                }
            }
        }
        if let Some(context) = self.contexts.get_mut(&server) {
            let deadline = context.proxy.next_timeout();
            self.context_deadlines.arm(server, &mut context.armed, deadline);
        }
    }

    fn start_branch(
        &mut self,
        server: ServerId,
        start: Start,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Result<(), TransportFailure> {
        let link = self.contexts.get(&server).map_or(NO_LINK, |context| context.link);
        let found = self.find_way(&start.request, start.decides, link)?;
        // RFC 5626 §5.3: another flow of the phone, if it has one, is sooner than an edge is back.
        let context = self.contexts.get(&server);
        if matches!(found, Found::Awaited(_))
            && context.is_some_and(|context| context.proxy.has_further_flow(start.branch))
        {
            return Err(TransportFailure::FlowGone);
        }
        if self.start(server, start, found, now, effects) {
            Ok(())
        } else {
            Err(TransportFailure::Unreachable)
        }
    }

    /// False when no client transaction could be begun.
    fn start(
        &mut self,
        server: ServerId,
        start: Start,
        found: Found,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        match found {
            Found::Way(way) | Found::Awaited(way) => self.start_by(server, start, way, None, now),
            Found::StreamElseDatagram(stream, datagram) => {
                self.start_by(server, start, stream, Some(datagram), now)
            }
            Found::Name(hop, host) => {
                let lookup = LookupId(self.take_id());
                let port = hop.port;
                effects.push(ShardEffect::Resolve { lookup, host, port });
                if let Some(context) = self.contexts.get_mut(&server) {
                    context.branches.push((start.branch, Progress::Resolving(lookup)));
                }
                self.lookups.insert(lookup, Lookup { server, start, hop });
                true
            }
        }
    }

    fn start_by(
        &mut self,
        server: ServerId,
        start: Start,
        way: Way,
        datagram: Option<Way>,
        now: Instant,
    ) -> bool {
        let Some(context) = self.contexts.get_mut(&server) else { return false };
        let Some(method) = Method::parse(&context.method) else { return false };
        let client = self.transactions.start(
            method,
            &start.branch_id,
            start.request.clone(),
            way.reliability,
            now,
            &mut self.pending,
        );
        let Some(client) = client else { return false };
        context.branches.retain(|(branch, _)| *branch != start.branch);
        context.branches.push((start.branch, Progress::Started(client)));
        let sending = Sending {
            user: Some((server, start.branch)),
            decides: start.decides,
            way,
            datagram: datagram.map(|way| (way, start)),
        };
        self.clients.insert(client, sending);
        true
    }

    fn cancel_branch(&mut self, server: ServerId, branch: BranchIndex, now: Instant) {
        let Some(Progress::Started(client)) = self.progress(server, branch) else { return };
        let Some(sending) = self.clients.get(&client) else { return };
        let cancelling = Sending { user: None, datagram: None, ..sending.clone() };
        let reliability = cancelling.way.reliability;
        let cancel = self.transactions.cancel(client, reliability, now, &mut self.pending);
        if let Some(cancel) = cancel {
            self.clients.insert(cancel, cancelling);
        }
    }

    fn progress(&self, server: ServerId, branch: BranchIndex) -> Option<Progress> {
        let branches = &self.contexts.get(&server)?.branches;
        branches.iter().find(|(index, _)| *index == branch).map(|(_, progress)| *progress)
    }

    /// RFC 3261 §16.6(7): where the request goes, and by which edge.
    fn find_way(
        &self,
        request: &Bytes,
        decides: NextHop,
        preferred: LinkId,
    ) -> Result<Found, TransportFailure> {
        let size = request.len();
        let request = Message::parse(request.clone()).map_err(|_| TransportFailure::Unreachable)?;
        let (owner, transport, hop) = next_hop::with_uri(&request, decides, |uri| {
            let owner = match decides {
                NextHop::Route => self.edges.route_owner(&uri.host, uri.port, preferred),
                NextHop::RequestUri => RouteOwner::Foreign,
            };
            let transport = uri.transport().and_then(Transport::parse);
            (owner, transport, next_hop::hop(uri))
        })
        .map_err(unroutable)?;
        match owner {
            RouteOwner::Edge(link) => Ok(Found::Way(Way {
                link,
                destination: Destination::Route,
                // The edge puts the flow's transport into its Path; repetition does no harm on others.
                reliability: reliability(transport.unwrap_or(Transport::Udp)),
            })),
            RouteOwner::Awaited if transport.unwrap_or(Transport::Udp) == Transport::Udp => {
                Ok(Found::Awaited(Way {
                    link: NO_LINK,
                    destination: Destination::Route,
                    reliability: Reliability::Unreliable,
                }))
            }
            // A stream dies with its edge.
            RouteOwner::Awaited | RouteOwner::Departed => Err(TransportFailure::FlowGone),
            RouteOwner::Foreign => self.way_to(&hop.map_err(unroutable)?, size, preferred),
        }
    }

    fn way_to(
        &self,
        hop: &Hop,
        request_bytes: usize,
        preferred: LinkId,
    ) -> Result<Found, TransportFailure> {
        let address = match &hop.host {
            HopHost::Address(ip) => std::net::SocketAddr::new(*ip, hop.port),
            HopHost::Name(name) => return Ok(Found::Name(hop.clone(), name.clone())),
        };
        let way = |transport| {
            let link = self.edges.for_address(transport, address, preferred)?;
            Some(Way {
                link,
                destination: Destination::Address { transport, address },
                reliability: reliability(transport),
            })
        };
        let asked = way(hop.transport);
        let stream =
            next_hop::prefers_stream(hop, request_bytes).then(|| way(Transport::Tcp)).flatten();
        match (stream, asked) {
            (Some(stream), Some(datagram)) => Ok(Found::StreamElseDatagram(stream, datagram)),
            (Some(way), None) | (None, Some(way)) => Ok(Found::Way(way)),
            (None, None) => {
                debug!(%address, transport = ?hop.transport, "no edge sends there");
                Err(TransportFailure::Unreachable)
            }
        }
    }

    /// The way of a request whose link is gone.
    fn other_way(&self, sending: &Sending, request: &Bytes) -> Result<Way, SendError> {
        if let Destination::Address { transport, address } = sending.way.destination {
            let link = self.edges.for_address(transport, address, sending.way.link);
            return link.map(|link| Way { link, ..sending.way }).ok_or(SendError::Unreachable);
        }
        match self.find_way(request, sending.decides, sending.way.link) {
            Ok(Found::Way(way) | Found::StreamElseDatagram(way, _)) => Ok(way),
            Ok(Found::Name(..) | Found::Awaited(_))
            | Err(TransportFailure::Unreachable | TransportFailure::TimedOut) => {
                Err(SendError::Unreachable)
            }
            Err(TransportFailure::FlowGone) => Err(SendError::FlowGone),
        }
    }
}

fn reliability(transport: Transport) -> Reliability {
    if transport.is_stream() { Reliability::Reliable } else { Reliability::Unreliable }
}

fn unroutable(error: next_hop::Unroutable) -> TransportFailure {
    debug!(%error, "a target cannot be reached");
    TransportFailure::Unreachable
}

/// What the client branches are derived from: the branch of the edge's Via, else what identifies the request.
fn server_branch(request: &Message) -> Vec<u8> {
    let branch = request.top_via().ok().and_then(|via| via.rfc3261_branch());
    match branch {
        Some(branch) => branch.to_vec(),
        None => [HeaderName::CallId, HeaderName::CSeq, HeaderName::From, HeaderName::Via]
            .map(|name| request.field(name).unwrap_or_default())
            .join(&b'\n'),
    }
}

/// The status of a response that was rendered here, so begins `SIP/2.0 NNN`.
fn status_of(response: &[u8]) -> u16 {
    let digits = response.get(8..11).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(500)
}
