//! Where a request goes: by which link, over what, to which address.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::transaction::Reliability;
use sip::{Message, SipUri};
use tracing::debug;
use transport::link::{Destination, LinkFrame, SendError};
use transport::{Flow, Transport};

use super::proxying::{NO_LINK, Sending};
use super::{Shard, ShardEffect};
use crate::edges::{LinkId, PORT_DEFAULT, RouteOwner, numeric};
use crate::next_hop::{self, Hop, HopHost};
use crate::proxy::{NextHop, TransportFailure};
use crate::transactions::ClientId;

/// By which link and to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) link: LinkId,
    pub(super) destination: Destination,
    pub(super) reliability: Reliability,
    /// Through our own front door: what is repeated leaves by another edge each time.
    pub(super) by_front_door: bool,
}

/// What a request's next hop came to.
pub(super) enum Found {
    Way(Way),
    /// The first over a stream for its size, the second when that is refused.
    StreamElseDatagram(Way, Way),
    /// A datagram that cannot leave before its edge is back; until then its repetitions wait.
    Awaited(Way),
    /// By an edge that lives and has no link yet.
    Unlinked,
    /// A name first.
    Name(Hop, String),
}

impl Shard {
    /// RFC 3261 §16.6(7): where the request goes, and by which edge.
    pub(super) fn find_way(
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
                by_front_door: false,
            })),
            RouteOwner::Unlinked | RouteOwner::Awaited
                if transport.unwrap_or(Transport::Udp) == Transport::Udp =>
            {
                Ok(Found::Awaited(Way {
                    link: NO_LINK,
                    destination: Destination::Route,
                    reliability: Reliability::Unreliable,
                    by_front_door: false,
                }))
            }
            RouteOwner::Unlinked => Ok(Found::Unlinked),
            RouteOwner::Departed | RouteOwner::Foreign
                if decides == NextHop::Route && self.is_of_departed_edge(&request, owner) =>
            {
                self.front_door()
            }
            // A stream dies with its edge.
            RouteOwner::Awaited | RouteOwner::Departed => Err(TransportFailure::FlowGone),
            RouteOwner::Foreign => self.way_to(&hop.map_err(unroutable)?, size, preferred),
        }
    }

    /// Whether a departed edge wrote the topmost Route into the Record-Route of this dialog. A dialog outlives the edges that
    /// it was set up through: any other one reads that Route as its own, and knows what is left of the way.
    ///
    /// Its token proves by its tag that an edge of ours at that address wrote it, also one that nobody remembers; an edge with
    /// two addresses writes a value without one beside it. A Path is of no dialog: its flow is gone, and nobody else has it.
    fn is_of_departed_edge(&self, request: &Message, owner: RouteOwner) -> bool {
        let (Ok(to), Ok(call_id)) = (request.to(), request.call_id()) else { return false };
        let is_it = |uri: &SipUri<'_>| {
            let identity = self.sessions.identity();
            let flow = uri.user.map(|user| identity.flow_of_dialog(user, call_id));
            match (owner, flow) {
                (RouteOwner::Departed, flow) => flow.is_none_or(|flow| flow.is_some()),
                (RouteOwner::Foreign, Some(Some(flow))) => is_written_at(uri, &flow),
                (RouteOwner::Foreign, Some(None) | None)
                | (RouteOwner::Edge(_) | RouteOwner::Unlinked | RouteOwner::Awaited, _) => false,
            }
        };
        to.tag().is_some() && next_hop::with_uri(request, NextHop::Route, is_it).unwrap_or(false)
    }

    pub(super) fn way_to(
        &self,
        hop: &Hop,
        request_bytes: usize,
        preferred: LinkId,
    ) -> Result<Found, TransportFailure> {
        let address = match &hop.host {
            HopHost::Address(ip) => SocketAddr::new(*ip, hop.port),
            HopHost::Name(name) => return Ok(Found::Name(hop.clone(), name.clone())),
        };
        let way = |transport| {
            let link = self.edges.for_address(transport, address, preferred)?;
            Some(Way {
                link,
                destination: Destination::Address { transport, address },
                reliability: reliability(transport),
                by_front_door: false,
            })
        };
        let asked = way(hop.transport);
        let stream =
            next_hop::prefers_stream(hop, request_bytes).then(|| way(Transport::Tcp)).flatten();
        match (stream, asked) {
            (Some(stream), Some(datagram)) => Ok(Found::StreamElseDatagram(stream, datagram)),
            (Some(way), None) | (None, Some(way)) => Ok(Found::Way(way)),
            (None, None) if self.edges.awaits_one_for(hop.transport, address) => {
                Ok(Found::Unlinked)
            }
            (None, None) => {
                debug!(%address, transport = ?hop.transport, "no edge sends there");
                Err(TransportFailure::Unreachable)
            }
        }
    }

    /// The way to one of a name's addresses, which may be tried behind another: no link is waited for.
    pub(super) fn way_at_once(
        &self,
        hop: &Hop,
        request_bytes: usize,
        preferred: LinkId,
    ) -> Option<Found> {
        let way = self.way_to(hop, request_bytes, preferred).ok();
        way.filter(|found| !matches!(found, Found::Unlinked))
    }

    /// The way of a request for this node itself: through its front door, like any phone's.
    pub(super) fn front_door(&self) -> Result<Found, TransportFailure> {
        let by = |link, destination, reliability| {
            let by_front_door = true;
            Way { link, destination, reliability, by_front_door }
        };
        match self.edges.front_door(None) {
            Some((link, transport, address)) => {
                let destination = Destination::Address { transport, address };
                Ok(Found::Way(by(link, destination, reliability(transport))))
            }
            None if self.edges.awaits_any() => {
                Ok(Found::Awaited(by(NO_LINK, Destination::Route, Reliability::Unreliable)))
            }
            None => Err(TransportFailure::Unreachable),
        }
    }

    /// By which edge a datagram through our front door leaves next: each time by another one, under the same branch. An
    /// edge that hangs takes what it is sent, and nobody knows for a while.
    pub(super) fn next_front_door(&self, sending: &Sending) -> Option<Way> {
        let is_datagram = sending.way.reliability == Reliability::Unreliable;
        if !sending.way.by_front_door || !is_datagram {
            return None;
        }
        let last = match sending.way.destination {
            Destination::Address { address, .. } => Some(address),
            Destination::Route | Destination::Via => None,
        };
        let (link, transport, address) = self.edges.front_door(last)?;
        let destination = Destination::Address { transport, address };
        Some(Way { link, destination, ..sending.way })
    }

    /// A request through our own front door whose stream is gone with its link leaves by another edge, under the same
    /// branch, so that it is a repetition to whoever has it; if there is no other edge yet, as soon as there is. False when
    /// it is no such request, or is answered.
    pub(super) fn goes_by_another_door(
        &mut self,
        client: ClientId,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some(sending) =
            self.clients.get_mut(&client).filter(|sending| sending.way.by_front_door)
        else {
            return false;
        };
        let Some(request) = self.transactions.unanswered_request(client).cloned() else {
            return false;
        };
        let Some((link, transport, address)) = self.edges.front_door(None) else {
            return self.edges.awaits_any();
        };
        let destination = Destination::Address { transport, address };
        sending.way = Way { link, destination, ..sending.way };
        let frame = LinkFrame::Outgoing { id: client.to_raw(), destination, bytes: request };
        effects.push(ShardEffect::Send { link, frame });
        true
    }

    /// What waits for a door leaves, since there is one now.
    pub(super) fn leave_by_new_doors(&mut self, effects: &mut Vec<ShardEffect>) {
        let stranded = self.clients.iter().filter(|(_, sending)| {
            let (link, is_stream) = (sending.way.link, sending.dies_with(sending.way.link));
            sending.way.by_front_door && is_stream && !self.edges.is_up(link)
        });
        let mut stranded: Vec<ClientId> = stranded.map(|(client, _)| *client).collect();
        stranded.sort_unstable();
        for client in stranded {
            self.goes_by_another_door(client, effects);
        }
    }

    /// Whether a request that could not be sent leaves again soon, and by another edge.
    pub(super) fn is_repeated_by_another_edge(&self, client: ClientId) -> bool {
        let Some(sending) = self.clients.get(&client) else { return false };
        let next = self.next_front_door(sending);
        next.is_some_and(|next| next.destination != sending.way.destination)
    }

    /// The way of a request whose link is gone.
    pub(super) fn other_way(&self, sending: &Sending, request: &Bytes) -> Result<Way, SendError> {
        if let Destination::Address { transport, address } = sending.way.destination {
            let link = self.edges.for_address(transport, address, sending.way.link);
            return link.map(|link| Way { link, ..sending.way }).ok_or(SendError::Unreachable);
        }
        match self.find_way(request, sending.decides, sending.way.link) {
            Ok(Found::Way(way) | Found::StreamElseDatagram(way, _)) => Ok(way),
            Ok(Found::Name(..) | Found::Awaited(_) | Found::Unlinked)
            | Err(TransportFailure::Unreachable | TransportFailure::TimedOut) => {
                Err(SendError::Unreachable)
            }
            Err(TransportFailure::FlowGone) => Err(SendError::FlowGone),
        }
    }
}

/// Whether a Route names the address that its token was written at; a stranger's host beside a token of ours is a stranger's.
pub(super) fn is_written_at(uri: &SipUri<'_>, flow: &Flow) -> bool {
    let port = uri.port.unwrap_or(PORT_DEFAULT);
    numeric(&uri.host).is_some_and(|ip| flow.may_be_of(SocketAddr::new(ip, port)))
}

fn reliability(transport: Transport) -> Reliability {
    if transport.is_stream() { Reliability::Reliable } else { Reliability::Unreliable }
}

fn unroutable(error: next_hop::Unroutable) -> TransportFailure {
    debug!(%error, "a target cannot be reached");
    TransportFailure::Unreachable
}
