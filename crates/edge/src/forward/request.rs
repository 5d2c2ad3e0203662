//! A request from outside: checked, its way decided, forwarded or refused.
//!
//! RFC 3261 §16.3 (validation), §16.4 (route information), §16.5 and §16.6 (target and next hop),
//! §16.11.

use bytes::BytesMut;
use sip::{CheckedRequest, Framing, HeaderName, Uri};
use transport::{Flow, Transport};

use super::leave::{CameFrom, Leaving, NextHop, TooLarge};
use super::{Arrival, Decision, Source, View};
use crate::flow_token::{FlowToken, TokenKind, dialog_of};
use crate::owner::Owner;
use crate::reply::{self, Refusal};
use crate::route::{self, Named, OwnRoutes};
use crate::route_set::RouteSet;

/// Whether the flow that the last token names may be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFlow {
    /// As far as anybody knows.
    Followed,
    /// It was tried, and is gone.
    Gone,
}

/// Decides about one request, or says with which error to answer it.
pub(super) fn forward(
    arrival: &Arrival<'_>,
    last_flow: LastFlow,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Decision, Refusal> {
    let request = arrival.message;
    let read = check(arrival)?;
    let (listeners, keys) = (view.listeners, &view.keys.flow);
    let dialog = dialog_of(&read.to, read.call_id);
    let mut routes = RouteSet::toward(Some(read.request_uri), request);
    if routes.next().is_some()
        && route::is_strictly_routed(&read.request_uri, listeners, dialog, keys)
    {
        routes.restore_from_strict(); // RFC 3261 §16.4
    }
    let own = OwnRoutes::read(routes.values(), view.spoken_for(), dialog, keys)
        .map_err(|_tampered| Refusal::TamperedToken)?;
    routes.consume(own.count);
    let way = Way { arrival, view, own, routes: &routes };
    let next = match last_flow {
        LastFlow::Followed => way.next_hop()?,
        LastFlow::Gone => way.next_hop_without_flow()?,
    };
    if let NextHop::FlowOfOtherEdge(_) = next {
        routes.give_back(); // that edge needs the token
    }
    let came_from = CameFrom::Socket(arrival.flow, arrival.source);
    let (method, top_via, call_id) = (Some(read.method), Some(read.top_via), read.call_id);
    let leaving = Leaving { request, method, top_via, call_id, came_from, routes, next };
    leaving.leave(view, out).map_err(|TooLarge| Refusal::TooLarge)
}

/// Source: RFC 3261 §16.3; the order is the RFC's.
fn check<'a>(arrival: &Arrival<'a>) -> Result<CheckedRequest<'a>, Refusal> {
    let request = arrival.message;
    let framing =
        if arrival.flow.transport.is_stream() { Framing::Stream } else { Framing::Datagram };
    let read = request.read_request(framing).map_err(Refusal::Malformed)?;
    // §16.3(2)
    match read.request_uri {
        Uri::Sip(_) | Uri::Tel(_) => {}
        Uri::Other { .. } => return Err(Refusal::UnknownScheme),
    }
    // §16.3(3): zero is not forwarded.
    if read.max_forwards == Some(0) {
        return Err(Refusal::TooManyHops);
    }
    // §16.3(5): no extension is known that asks something of a proxy. CANCEL and ACK carry what
    // their INVITE did; it was refused, so they find nobody.
    if request.field(HeaderName::ProxyRequire).is_some() {
        return Err(Refusal::UnknownExtension);
    }
    Ok(read)
}

/// One request whose own Routes are consumed, looking for its next hop.
struct Way<'r, 'a> {
    arrival: &'r Arrival<'a>,
    view: &'r View<'a>,
    own: OwnRoutes,
    routes: &'r RouteSet<'a>,
}

impl Way<'_, '_> {
    fn next_hop(&self) -> Result<NextHop, Refusal> {
        let named = self.named();
        match self.own.last_flow() {
            // Both sides of the dialog passed this edge: the first token is the sender's, the last
            // the target's.
            Some(flow) if self.own.token_count >= 2 => self.by_flow(flow),
            // One token, and not the sender's: it came from inside, or the sender came by another
            // edge, or its NAT gave it a new address. Then what stands behind tells which.
            Some(flow) if flow != self.arrival.flow => match named {
                Named::Owner(_) | Named::SomeContainer | Named::Peer(_) => self.outgoing(named),
                Named::OtherEdge { .. } if self.routes.next().is_some() => self.outgoing(named),
                Named::OtherEdge { .. }
                | Named::Myself
                | Named::Address { .. }
                | Named::Unresolved => self.by_flow(flow),
            },
            Some(_) | None => self.outgoing(named),
        }
    }

    /// The flow that a dialog began on is gone. RFC 5626 §5.3 answers 430, for an edge knows no other; the registrar
    /// may: a phone that has connected and registered again is found by the Contact that the Request-URI is.
    fn next_hop_without_flow(&self) -> Result<NextHop, Refusal> {
        match self.own.last {
            Some(FlowToken { kind: TokenKind::Dialog, .. }) => self.outgoing(self.named()),
            Some(_) | None => Err(Refusal::FlowGone),
        }
    }

    /// Whom the next Route names, or without one the Request-URI.
    fn named(&self) -> Named {
        self.view.named(self.routes)
    }

    fn outgoing(&self, named: Named) -> Result<NextHop, Refusal> {
        let trusted = self.own.relay || self.arrival.source == Source::Peer;
        match named {
            Named::Owner(owner) => self.container(Some(owner)),
            Named::Peer(peer)
                if self.arrival.source != Source::Peer && self.view.peer_serves(peer) =>
            {
                Ok(NextHop::Peer(peer))
            }
            // Any edge may get any datagram of a dialog; the edge that its Route names has the same
            // keys and judges the tokens itself.
            Named::OtherEdge { transport, address } if self.routes.next().is_some() => {
                Ok(NextHop::OtherEdge { transport, address })
            }
            Named::Address { transport, address } if trusted => {
                Ok(NextHop::Address { transport, address })
            }
            Named::SomeContainer
            | Named::Peer(_)
            | Named::Myself
            | Named::OtherEdge { .. }
            | Named::Address { .. }
            | Named::Unresolved => self.container(None),
        }
    }

    fn container(&self, owner: Option<Owner>) -> Result<NextHop, Refusal> {
        if self.arrival.source == Source::Peer && owner.is_none() {
            // A peer stands in a container's place; what it cannot resolve must not come back to
            // it.
            return Err(Refusal::NoRoute);
        }
        let chosen = self.view.container(owner, self.arrival.message, self.arrival.attempt);
        let container = chosen.ok_or_else(|| reply::unavailable(self.arrival.seed))?;
        Ok(match self.view.peer_of_route(container) {
            Some(peer) => NextHop::Peer(peer),
            None => NextHop::Container(container),
        })
    }

    /// To the phone at the other end of `flow`, through the edge that holds its local address.
    fn by_flow(&self, flow: Flow) -> Result<NextHop, Refusal> {
        if self.view.is_held_by_other_edge(&flow) {
            return Ok(NextHop::FlowOfOtherEdge(flow));
        }
        let is_held = self.view.listeners.hold(flow.transport, flow.local);
        if flow.transport == Transport::Udp && !is_held {
            return self.next_hop_without_flow(); // an address that the node has no more
        }
        Ok(NextHop::Flow(flow))
    }
}
