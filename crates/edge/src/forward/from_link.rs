//! A request of a container, on its way outside.
//!
//! The container's client transaction has decided where it goes (RFC 3263 and retries are its
//! business): by the flow token in the topmost Route, or to an address. The edge adds its Via and
//! Record-Route and sends. Max-Forwards stays as it is: the container has counted the hop.

use bytes::BytesMut;
use sip::Message;
use transport::link::{Destination, SendError};

use super::leave::{CameFrom, Leaving, NextHop, TooLarge};
use super::{Decision, View};
use crate::flow_token::dialog_of;
use crate::route::{self, Named, OwnRoutes, Spoken};
use crate::route_set::RouteSet;

pub(super) fn forward(
    request: &Message,
    destination: Destination,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Decision, SendError> {
    let mut routes = RouteSet::of(request);
    let next = match destination {
        Destination::Address { transport, address } if route::is_sendable(address) => {
            NextHop::Address { transport, address }
        }
        Destination::Address { .. } => return Err(SendError::Refused),
        Destination::Route | Destination::Via => by_route(&mut routes, request, view)?,
    };
    let leaving = Leaving {
        request,
        method: request.method(),
        top_via: request.top_via().ok(),
        call_id: request.call_id().unwrap_or_default(),
        came_from: CameFrom::Link,
        routes,
        next,
    };
    leaving.leave(view, out).map_err(|TooLarge| SendError::Refused)
}

/// The next hop that the Route values, or else the Request-URI, name.
fn by_route(
    routes: &mut RouteSet<'_>,
    request: &Message,
    view: &View<'_>,
) -> Result<NextHop, SendError> {
    let dialog = match (request.to(), request.call_id()) {
        (Ok(to), Ok(call_id)) => dialog_of(&to, call_id),
        (Err(_), _) | (_, Err(_)) => None,
    };
    // A container leaves what a departed edge wrote to the front door, where all of it is read.
    let spoken = Spoken::ForItself(view.listeners);
    let own = OwnRoutes::read(routes.values(), spoken, dialog, &view.keys.flow)
        // Containers do not tamper: the token is older than the keys before the present ones, and with it the
        // registration that it stands in.
        .map_err(|_tampered| SendError::FlowGone)?;
    routes.consume(own.count);
    if let Some(flow) = own.last_flow() {
        if view.is_held_by_other_edge(&flow) {
            routes.give_back(); // that edge needs the token
            return Ok(NextHop::FlowOfOtherEdge(flow));
        }
        return Ok(NextHop::Flow(flow));
    }
    match view.named(routes) {
        Named::OtherEdge { transport, address } => Ok(NextHop::OtherEdge { transport, address }),
        Named::Address { transport, address } => Ok(NextHop::Address { transport, address }),
        Named::Peer(peer) => Ok(NextHop::Peer(peer)),
        Named::Owner(_) | Named::SomeContainer | Named::Myself | Named::Unresolved => {
            Err(SendError::Refused)
        }
    }
}
