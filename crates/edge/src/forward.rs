//! Forwarding: one message and a picture of the surroundings in, one decision out.
//!
//! The heart of the edge (RFC 3261 §16.11, a stateless proxy). Pure: the same message and the same
//! picture give the same decision, whichever edge of the node is asked; what a retransmission meets
//! is what the first copy met.
//!
//! ```text
//! phone ──▶ from_outside ─┬─ request.rs   ─▶ Offer to a container │ Send to a flow, peer, other edge │ refusal
//!                         └─ response.rs  ─▶ Send by the flow in our Via │ Offer to the container of the next Via
//! container ──▶ from_link ─▶ from_link.rs ─▶ Send │ why not
//! dead flow ──▶ without_flow ─▶ request.rs ─▶ as if the dialog had not begun on it │ 430
//! dead link ──▶ offer_again ─▶ reoffer.rs ─▶ Offer to its owner or the next one │ 503
//! container ──▶ hand_on ─▶ hand_on.rs ─▶ the container that owns the message │ wait for its link
//! ```
//!
//! Never an open relay: without a token that this node made, a request from outside goes to
//! containers and peers only.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use sip::{AddressOfRecord, HeaderName, Message, Method, NameAddr, Uri, Via};
use topology::{ChoiceKey, Key, KeyRing, RouteState, RoutingTable};
use transport::link::{Destination, SendError};
use transport::{Flow, Transport};

use crate::branch::Sender;
use crate::fellow_edges::FellowEdges;
use crate::flow_token::FlowKeys;
use crate::header_value::HeaderValue;
use crate::listener::{Listeners, PORT_DEFAULT};
use crate::owner::Owner;
use crate::peer::Peer;
use crate::reply::{self, Refusal};
use crate::route::{Named, Names, Spoken};
use crate::route_set::RouteSet;
use crate::via::ReplyAddress;

mod from_link;
mod hand_on;
mod leave;
mod reoffer;
mod request;
mod response;

pub use hand_on::{HandOn, hand_on};
pub use reoffer::offer_again;
use request::LastFlow;

/// Whether phones may sit behind NATs: then REGISTER gets a Path and dialogs stay on the flows they
/// began on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatTraversal {
    /// Path with flow token on REGISTER, flow tokens in Record-Route.
    On,
    /// Requests go to the addresses that phones write into Contact.
    Off,
}

/// The keys an edge works with.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Branches and To tags.
    pub branch: Key,
    /// Flow tokens.
    pub flow: FlowKeys,
    /// Owner tokens.
    pub owner: Key,
}

impl Keys {
    /// Derives them from the node's secrets.
    pub fn derive(ring: &KeyRing) -> Keys {
        Keys {
            branch: ring.derive("branch"),
            flow: FlowKeys::derive(ring),
            owner: ring.derive("owner"),
        }
    }
}

/// The surroundings of an edge at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// This edge's addresses.
    pub listeners: &'a Listeners,
    /// The containers and what they are good for.
    pub routing: &'a RoutingTable,
    /// The plain SIP peers in a container's place; each is a route of its name in `routing`.
    pub peers: &'a [Peer],
    /// The other edges of the node and its cluster.
    pub fellows: &'a FellowEdges,
    /// The node's keys.
    pub keys: &'a Keys,
    /// See [`NatTraversal`].
    pub nat_traversal: NatTraversal,
}

/// Who sent a message to one of our sockets, by its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A phone or any other stranger.
    Outside,
    /// A configured plain SIP peer.
    Peer,
    /// Another edge of the node.
    OtherEdge,
}

/// Which of the two candidates is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// The first.
    First,
    /// The first could not take it.
    Second,
    /// Neither could.
    Exhausted,
}

impl Attempt {
    /// The attempt after this one.
    pub fn next(self) -> Attempt {
        match self {
            Attempt::First => Attempt::Second,
            Attempt::Second | Attempt::Exhausted => Attempt::Exhausted,
        }
    }
}

/// A message that came to one of our sockets.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The message.
    pub message: &'a Message,
    /// How it came.
    pub flow: Flow,
    /// Who sent it.
    pub source: Source,
    /// Asked again with the next one when a container's link is full.
    pub attempt: Attempt,
    /// Any number; spreads the Retry-After of a 503.
    pub seed: u64,
}

/// How a message leaves by a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// As a datagram.
    Datagram {
        /// From this local address.
        local: SocketAddr,
        /// To here.
        remote: SocketAddr,
    },
    /// By the connection of this flow. If it is gone: by a new one to `reopen`, or not at all.
    Connection {
        /// Which.
        flow: Flow,
        /// Where to connect instead.
        reopen: Option<SocketAddr>,
    },
    /// By any connection to that address; if there is none, by a new one.
    Connect {
        /// From this interface.
        local: IpAddr,
        /// To here.
        remote: SocketAddr,
    },
}

impl Hop {
    /// Whether the message goes into a byte stream, which needs Content-Length.
    pub fn is_stream(&self) -> bool {
        match self {
            Hop::Datagram { .. } => false,
            Hop::Connection { .. } | Hop::Connect { .. } => true,
        }
    }

    fn to_address(transport: Transport, local: SocketAddr, remote: SocketAddr) -> Hop {
        match transport {
            Transport::Udp => Hop::Datagram { local, remote },
            Transport::Tcp => Hop::Connect { local: local.ip(), remote },
        }
    }

    fn by_flow(flow: Flow) -> Hop {
        match flow.transport {
            Transport::Udp => Hop::Datagram { local: flow.local, remote: flow.remote },
            // RFC 5626 §5.3: a flow that is gone is not replaced by another; the sender is told.
            Transport::Tcp => Hop::Connection { flow, reopen: None },
        }
    }
}

impl From<ReplyAddress> for Hop {
    fn from(address: ReplyAddress) -> Hop {
        match address {
            ReplyAddress::Datagram { local, remote } => Hop::Datagram { local, remote },
            ReplyAddress::Connection { flow, reopen } => {
                Hop::Connection { flow, reopen: Some(reopen) }
            }
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Offer it to a container over its link. If that is full, ask again with the next [`Attempt`].
    Offer {
        /// Place in [`RoutingTable::routes`].
        container: usize,
        /// The rendered message.
        bytes: Bytes,
    },
    /// Send it to a plain SIP peer that was chosen like a container. If that fails, ask again with
    /// the next [`Attempt`].
    SendToPeer {
        /// Place in [`View::peers`].
        peer: usize,
        /// By this way.
        hop: Hop,
        /// The rendered message.
        bytes: Bytes,
    },
    /// Send it.
    Send {
        /// By this way.
        hop: Hop,
        /// The rendered message.
        bytes: Bytes,
    },
    /// Answer it with an error: already rendered.
    Reply {
        /// By this way.
        hop: Hop,
        /// The response.
        bytes: Bytes,
        /// For the counters.
        status: u16,
    },
    /// Drop it.
    Drop(DropReason),
}

/// Why a message is dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Not a SIP message.
    Unparsable,
    /// A response with malformed mandatory headers.
    MalformedResponse,
    /// A response whose top Via this edge did not write. Source: RFC 3261 §16.7(3).
    NotOurVia,
    /// A response for this edge itself, which sends no requests of its own.
    NoSecondVia,
    /// A response whose Vias name a way that this edge did not make: forged, or for a broadcast
    /// address.
    ForgedVia,
    /// An ACK that would have been answered with an error if it were another request.
    UnansweredAck,
    /// A response for which no container has room, or none serves.
    NoContainer,
    /// A datagram with a request that no container takes at this moment; it comes again by itself, when one does.
    Vacancy,
    /// A message that a container handed on to one that did not link in time, or has no room.
    OwnerCannotTake,
    /// A message that has been handed on as often as one may be: views differ for longer than they should.
    TooManyHandOns,
    /// A response that is too long to be sent.
    TooLarge,
}

impl DropReason {
    /// Every reason, in declaration order.
    pub const ALL: [DropReason; 11] = [
        DropReason::Unparsable,
        DropReason::MalformedResponse,
        DropReason::NotOurVia,
        DropReason::NoSecondVia,
        DropReason::ForgedVia,
        DropReason::UnansweredAck,
        DropReason::NoContainer,
        DropReason::Vacancy,
        DropReason::OwnerCannotTake,
        DropReason::TooManyHandOns,
        DropReason::TooLarge,
    ];

    /// The words for logs and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Unparsable => "not a SIP message",
            DropReason::MalformedResponse => "malformed response",
            DropReason::NotOurVia => "response with a foreign top Via",
            DropReason::NoSecondVia => "response without a second Via",
            DropReason::ForgedVia => "response with a forged way back",
            DropReason::UnansweredAck => "ACK that cannot be forwarded",
            DropReason::NoContainer => "response for which no container serves",
            DropReason::Vacancy => "request that comes again, while no container serves",
            DropReason::OwnerCannotTake => "handed on to a container that cannot take it",
            DropReason::TooManyHandOns => "handed on too often",
            DropReason::TooLarge => "message too long to forward",
        }
    }
}

/// Decides about a message that came to one of our sockets. `out` is scratch: what is rendered is
/// split off it.
pub fn from_outside(arrival: &Arrival<'_>, view: &View<'_>, out: &mut BytesMut) -> Decision {
    if arrival.message.is_request() {
        request::forward(arrival, LastFlow::Followed, view, out)
            .unwrap_or_else(|refusal| refuse(arrival, refusal, view))
    } else {
        response::from_outside(arrival, view, out)
    }
}

/// Decides about a request from outside that was to be sent by a flow which turned out to be gone.
pub fn without_flow(arrival: &Arrival<'_>, view: &View<'_>, out: &mut BytesMut) -> Decision {
    request::forward(arrival, LastFlow::Gone, view, out)
        .unwrap_or_else(|refusal| refuse(arrival, refusal, view))
}

/// Decides about a message that a container sends.
///
/// # Errors
/// What the container is told: [`SendError::Refused`] when the message names no way that this edge
/// can go.
pub fn from_link(
    message: &Message,
    destination: Destination,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Decision, SendError> {
    match (destination, message.is_request()) {
        (Destination::Via, false) => response::from_link(message, view, out),
        (Destination::Route | Destination::Address { .. }, true) => {
            from_link::forward(message, destination, view, out)
        }
        (Destination::Via, true) | (Destination::Route | Destination::Address { .. }, false) => {
            Err(SendError::Refused)
        }
    }
}

/// The answer to a request that could not be sent after all: its flow is gone, its next hop
/// unreachable.
pub fn refuse(arrival: &Arrival<'_>, refusal: Refusal, view: &View<'_>) -> Decision {
    let (request, key) = (arrival.message, &view.keys.branch);
    let comes_again = arrival.flow.transport == Transport::Udp;
    let is_for_lack = matches!(refusal, Refusal::Unavailable { .. });
    if is_for_lack && comes_again && view.routing.is_vacant_for_a_moment() {
        return Decision::Drop(DropReason::Vacancy);
    }
    let sender = view.sender(request.top_via().ok().as_ref(), Some(&arrival.flow));
    match reply::refuse(request, sender, arrival.flow, refusal, key) {
        Some((address, bytes)) => {
            Decision::Reply { hop: address.into(), bytes, status: refusal.status() }
        }
        None => Decision::Drop(DropReason::UnansweredAck),
    }
}

impl<'a> View<'a> {
    fn names(&self) -> Names<'a> {
        Names {
            listeners: self.listeners,
            peers: self.peers,
            fellows: self.fellows,
            owner_key: &self.keys.owner,
        }
    }

    /// The edges whose Routes are consumed in what comes from outside.
    fn spoken_for(&self) -> Spoken<'a> {
        Spoken::ForDeparted { listeners: self.listeners, fellows: self.fellows }
    }

    /// Who wrote the top Via of a request that came by `flow`, or by a link. Anybody can write the address of an edge into a
    /// Via; only an edge sends from there.
    fn sender(&self, top: Option<&Via<'_>>, flow: Option<&Flow>) -> Sender {
        let is_by_edge =
            |via: &Via<'_>| self.listeners.wrote(via) || self.of_other_edge(via).is_some();
        let is_from_edge = || flow.is_none_or(|flow| self.is_from_edge(flow));
        match top.is_some_and(is_by_edge) && is_from_edge() {
            true => Sender::OwnEdge,
            false => Sender::Other,
        }
    }

    /// Whether this edge or another one has sent what came by `flow`: datagrams leave where they are received, connections
    /// are opened from any port.
    fn is_from_edge(&self, flow: &Flow) -> bool {
        let remote = SocketAddr::new(flow.remote.ip().to_canonical(), flow.remote.port());
        let own = self.listeners.iter().map(|listener| listener.own);
        let mut edges = own.chain(self.fellows.there().iter().copied());
        let is_stream = flow.transport.is_stream();
        edges.any(|edge| {
            let ip = edge.ip().to_canonical();
            ip == remote.ip() && (is_stream || edge.port() == remote.port())
        })
    }

    /// The address of the other edge of the node that wrote `via`.
    fn of_other_edge(&self, via: &Via<'_>) -> Option<SocketAddr> {
        let port = via.port.unwrap_or(PORT_DEFAULT);
        let address = SocketAddr::new(via.host.ip()?.to_canonical(), port);
        self.fellows.has(&address).then_some(address)
    }

    /// Whom the next Route names, or without one the Request-URI.
    fn named(&self, routes: &RouteSet<'_>) -> Named {
        routes.target().map_or(Named::Unresolved, |uri| self.names().resolve(&uri))
    }

    /// The candidate for new work and for what a dead owner leaves behind. DESIGN, "choosing a container",
    /// rule 2.
    fn candidate(
        &self,
        session: Option<&[u8]>,
        message: &Message,
        attempt: Attempt,
    ) -> Option<usize> {
        let address = address_of_record(message);
        let key = match (session, &address) {
            (Some(session), _) => ChoiceKey::Session(session),
            (None, Some(address)) => ChoiceKey::AddressOfRecord(address),
            (None, None) => ChoiceKey::CallId(message.call_id().unwrap_or_default()),
        };
        // Of a call that still rings at a container that drains; or a registration, which leaves nothing to be done
        // there: a phone that is refused would be out of reach.
        let may_drain =
            matches!(message.method(), Some(Method::Cancel | Method::Ack | Method::Register));
        let candidates =
            if may_drain { self.routing.choose_or_draining(key) } else { self.routing.choose(key) };
        match attempt {
            Attempt::First => candidates.first,
            Attempt::Second => candidates.second,
            Attempt::Exhausted => None,
        }
    }

    /// The container for a message whose owner is known or not.
    fn container(
        &self,
        owner: Option<Owner>,
        message: &Message,
        attempt: Attempt,
    ) -> Option<usize> {
        match owner.and_then(|owner| self.routing.owner(owner.incarnation)) {
            // Nobody else has what a living owner has: if its link is full, the message is refused.
            Some(place) => (attempt == Attempt::First).then_some(place),
            None => {
                let session = owner.as_ref().and_then(|owner| owner.session.as_ref());
                self.candidate(session.map(|id| &id[..]), message, attempt)
            }
        }
    }

    /// The peer that a route stands for, if it is one.
    fn peer_of_route(&self, route: usize) -> Option<usize> {
        let name = &self.routing.routes()[route].name;
        self.peers.iter().position(|peer| peer.name == *name)
    }

    /// Whether another edge of the node has the local address of that flow, and this one has not.
    fn is_held_by_other_edge(&self, flow: &Flow) -> bool {
        self.fellows.has(&flow.local) && !self.listeners.hold(flow.transport, flow.local)
    }

    fn peer_serves(&self, peer: usize) -> bool {
        self.routing
            .route(&self.peers[peer].name)
            .is_some_and(|route| route.state != RouteState::Closed)
    }
}

/// The address-of-record of a REGISTER: the messages of one address meet in one container.
fn address_of_record(message: &Message) -> Option<HeaderValue> {
    if message.method() != Some(Method::Register) {
        return None;
    }
    let to = NameAddr::parse(message.field(HeaderName::To)?).ok()?;
    let Ok(Uri::Sip(uri)) = Uri::parse(to.uri()) else { return None };
    let mut address = HeaderValue::new();
    AddressOfRecord::write(&uri, &mut address).expect("writing to memory cannot fail");
    Some(address)
}

#[cfg(test)]
mod tests;
