//! The last step of a request: what is added for its next hop, and the rendering.
//!
//! RFC 3261 §16.6(3), (4), (6), (8), (9); RFC 3327 §5.1; RFC 5658.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use sip::{Edits, HeaderName, MAX_FORWARDS_INITIAL, MESSAGE_BYTES_MAX, Message, Method, Via};
use transport::{Flow, Transport};

use super::{Decision, Hop, NatTraversal, Source, View};
use crate::branch::Branch;
use crate::flow_token::{FlowToken, TokenKind};
use crate::header_value::HeaderValue;
use crate::listener::Listener;
use crate::peer::Peer;
use crate::record_route::{self, Side};
use crate::route_set::RouteSet;
use crate::{path, route, via};

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CameFrom {
    /// One of our sockets.
    Socket(Flow, Source),
    /// A container.
    Link,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextHop {
    /// Place in the routing table.
    Container(usize),
    /// Place in the list of peers.
    Peer(usize),
    /// A phone, by its flow.
    Flow(Flow),
    /// A phone, by a flow that another edge of the node holds.
    FlowOfOtherEdge(Flow),
    /// Another edge of the node.
    OtherEdge { transport: Transport, address: SocketAddr },
    /// A numeric address.
    Address { transport: Transport, address: SocketAddr },
}

/// What the edge adds makes the message longer than one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// One request on its way out.
pub(super) struct Leaving<'a> {
    pub(super) request: &'a Message,
    pub(super) method: Option<Method<'a>>,
    pub(super) top_via: Option<Via<'a>>,
    pub(super) call_id: &'a [u8],
    pub(super) came_from: CameFrom,
    pub(super) routes: RouteSet<'a>,
    pub(super) next: NextHop,
}

impl Leaving<'_> {
    /// Renders the request for its next hop.
    pub(super) fn leave(
        mut self,
        view: &View<'_>,
        out: &mut BytesMut,
    ) -> Result<Decision, TooLarge> {
        let listener = self.listener(view);
        let mut edits = Edits::new();
        if let CameFrom::Socket(..) = self.came_from {
            // A container has counted its own hop, and to the outside edge and container are one.
            edits.set(HeaderName::MaxForwards, &max_forwards(self.request));
        }
        if self.next_is_strict_router() {
            self.routes.swap_for_strict();
        }
        self.routes.apply(&mut edits);
        self.add_record_route(listener, view, &mut edits);
        self.add_path(view, &mut edits);
        self.add_via(listener, view, &mut edits);

        let hop = match self.next {
            NextHop::Container(container) => {
                let bytes = render(self.request, &edits, out)?;
                return Ok(Decision::Offer { container, bytes });
            }
            NextHop::Peer(peer) => {
                Hop::to_address(view.peers[peer].transport, listener.own, view.peers[peer].address)
            }
            NextHop::Flow(flow) => Hop::by_flow(flow),
            NextHop::FlowOfOtherEdge(flow) => {
                Hop::to_address(flow.transport, listener.own, flow.local)
            }
            NextHop::OtherEdge { transport, address } | NextHop::Address { transport, address } => {
                Hop::to_address(transport, listener.own, address)
            }
        };
        if hop.is_stream() {
            edits.ensure_content_length(); // RFC 3261 §16.6(9)
        }
        let bytes = render(self.request, &edits, out)?;
        Ok(match self.next {
            NextHop::Peer(peer) => Decision::SendToPeer { peer, hop, bytes },
            NextHop::Container(_)
            | NextHop::Flow(_)
            | NextHop::FlowOfOtherEdge(_)
            | NextHop::OtherEdge { .. }
            | NextHop::Address { .. } => Decision::Send { hop, bytes },
        })
    }

    /// The listener that the Via names: the response comes back to it.
    fn listener<'v>(&self, view: &View<'v>) -> &'v Listener {
        match (self.next, self.came_from) {
            (NextHop::Container(_), CameFrom::Socket(flow, _)) | (NextHop::Flow(flow), _) => {
                view.listeners.of_flow(&flow)
            }
            (NextHop::Container(_), CameFrom::Link) => {
                unreachable!("containers speak to each other without an edge")
            }
            (NextHop::Peer(peer), _) => {
                view.listeners.toward(view.peers[peer].transport, view.peers[peer].address)
            }
            (NextHop::FlowOfOtherEdge(flow), _) => {
                view.listeners.toward(flow.transport, flow.local)
            }
            (
                NextHop::OtherEdge { transport, address } | NextHop::Address { transport, address },
                _,
            ) => view.listeners.toward(transport, address),
        }
    }

    /// Source: RFC 3261 §16.6(6). A container looks at the route set itself.
    fn next_is_strict_router(&self) -> bool {
        match self.next {
            NextHop::Container(_) => false,
            NextHop::Peer(_)
            | NextHop::Flow(_)
            | NextHop::FlowOfOtherEdge(_)
            | NextHop::OtherEdge { .. }
            | NextHop::Address { .. } => {
                self.routes.next().and_then(route::sip_uri).is_some_and(|uri| !uri.lr())
            }
        }
    }

    /// Source: RFC 3261 §16.6(4), RFC 5658.
    fn add_record_route(&self, listener: &Listener, view: &View<'_>, edits: &mut Edits) {
        if !self.method.is_some_and(record_route::may_form_dialog) {
            return;
        }
        let came_from = match self.came_from {
            CameFrom::Link => Side::Link,
            CameFrom::Socket(flow, Source::Outside) => Side::Outside {
                listener: view.listeners.of_flow(&flow),
                token: self.sender_token(flow, view),
            },
            CameFrom::Socket(flow, Source::Peer) if self.is_to_container() => {
                let listener = view.listeners.of_flow(&flow);
                Side::Peer { listener, token: FlowToken { kind: TokenKind::Relay, flow } }
            }
            CameFrom::Socket(flow, Source::Peer | Source::OtherEdge) => {
                Side::Inside(view.listeners.of_flow(&flow))
            }
        };
        let goes_to = match self.next {
            NextHop::Container(_) => Side::Link,
            NextHop::Peer(peer) if self.came_from == CameFrom::Link => {
                let Peer { transport, address, .. } = view.peers[peer];
                let flow = Flow::new(transport, listener.own, address);
                Side::Peer { listener, token: FlowToken { kind: TokenKind::Relay, flow } }
            }
            NextHop::Peer(_) | NextHop::FlowOfOtherEdge(_) | NextHop::OtherEdge { .. } => {
                Side::Inside(listener)
            }
            NextHop::Flow(flow) => {
                Side::Outside { listener, token: FlowToken { kind: TokenKind::Dialog, flow } }
            }
            NextHop::Address { transport, address } => {
                let flow = Flow::new(transport, listener.own, address);
                Side::Outside { listener, token: FlowToken { kind: TokenKind::Relay, flow } }
            }
        };
        let writer = record_route::Writer { keys: &view.keys.flow, call_id: self.call_id };
        for value in record_route::values(came_from, goes_to, &writer).into_iter().flatten() {
            edits.push_front(HeaderName::RecordRoute, &value);
        }
    }

    fn is_to_container(&self) -> bool {
        matches!(self.next, NextHop::Container(_))
    }

    /// How later requests of the dialog reach the sender: by the flow it uses now, if it may sit
    /// behind a NAT or asks for it by `;ob` (RFC 5626 §5.3); else at the address in its Contact.
    fn sender_token(&self, flow: Flow, view: &View<'_>) -> FlowToken {
        let by_flow = match view.nat_traversal {
            NatTraversal::On => true,
            NatTraversal::Off => record_route::contact_has_ob(self.request),
        };
        FlowToken { kind: if by_flow { TokenKind::Dialog } else { TokenKind::Relay }, flow }
    }

    /// Source: RFC 3327 §5.1: only toward the registrar, and only what came from outside.
    fn add_path(&self, view: &View<'_>, edits: &mut Edits) {
        let toward_registrar = matches!(self.next, NextHop::Container(_) | NextHop::Peer(_));
        if let CameFrom::Socket(flow, Source::Outside) = self.came_from
            && self.method == Some(Method::Register)
            && view.nat_traversal == NatTraversal::On
            && toward_registrar
        {
            let listener = view.listeners.of_flow(&flow);
            edits.push_front(
                HeaderName::Path,
                &path::value(self.request, listener, flow, &view.keys.flow),
            );
        }
    }

    /// Source: RFC 3261 §16.6(8), §18.2.1.
    fn add_via(&self, listener: &Listener, view: &View<'_>, edits: &mut Edits) {
        let back = match self.came_from {
            CameFrom::Link => None,
            CameFrom::Socket(flow, _) => {
                let filled = self.top_via.and_then(|top| via::filled_in(&top, flow.remote));
                if let Some(filled) = filled {
                    edits.replace_first_value(HeaderName::Via, &filled);
                }
                Some(flow)
            }
        };
        let (top, keys) = (self.top_via.as_ref(), view.keys);
        let mut branch =
            Branch::of(self.request, top, view.sender(top, back.as_ref()), &keys.branch);
        if self.leaves_the_house(view) && !self.is_of_an_invite() {
            branch = branch.sent_by(listener.via_start().as_bytes(), &keys.branch);
        }
        let added = via::added(self.call_id, branch, listener, back, &keys.flow);
        edits.push_front(HeaderName::Via, &added);
    }

    /// Whether no other edge of ours, nor a container, gets it next.
    fn leaves_the_house(&self, view: &View<'_>) -> bool {
        match self.next {
            NextHop::Flow(_) | NextHop::Peer(_) => true,
            NextHop::Address { address, .. } => {
                view.listeners.iter().all(|listener| listener.own != address)
                    && !view.fellows.has(&address)
            }
            NextHop::Container(_) | NextHop::FlowOfOtherEdge(_) | NextHop::OtherEdge { .. } => {
                false
            }
        }
    }

    /// Whether it is one, or must have the branch of one (RFC 3261 §9.1, §17.1.1.3).
    fn is_of_an_invite(&self) -> bool {
        matches!(self.method, Some(Method::Invite | Method::Ack | Method::Cancel))
    }
}

/// One less than received, 70 if there is none. Source: RFC 3261 §16.6(3).
fn max_forwards(request: &Message) -> HeaderValue {
    let mut value = HeaderValue::new();
    let left = match request.max_forwards() {
        Ok(Some(left)) => left.saturating_sub(1),
        Ok(None) | Err(_) => MAX_FORWARDS_INITIAL,
    };
    value.push_number(left.into());
    value
}

/// Applies the edits; the bytes are split off `out`, which stays scratch for the next message.
pub(super) fn render(
    message: &Message,
    edits: &Edits,
    out: &mut BytesMut,
) -> Result<Bytes, TooLarge> {
    out.clear();
    edits.render(message, out);
    if out.len() > MESSAGE_BYTES_MAX {
        return Err(TooLarge);
    }
    // The room behind the message stays with `out`.
    Ok(out.split().freeze())
}
