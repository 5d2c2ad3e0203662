//! A message that a container was offered, did not take, and will never take: its link died.
//!
//! It goes to its owner or to the next container as it was rendered. If there is none, a request is answered
//! 503 as if the container had done it, a response is dropped (a phone sends it again); so is a request that came as a
//! datagram, as long as the next container is about to come.

use bytes::BytesMut;
use sip::Message;

use super::{Attempt, Decision, DropReason, Hop, View, response};
use crate::owner::Owner;
use crate::reply;
use crate::route::Named;
use crate::route_set::RouteSet;

/// Decides about a message in the form in which it was offered before. `seed` spreads the
/// Retry-After.
pub fn offer_again(
    message: &Message,
    attempt: Attempt,
    seed: u64,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Decision {
    let container = view.container(owner(message, view), message, attempt);
    let peer = container.and_then(|container| view.peer_of_route(container));
    let bytes = message.buffer().clone();
    match (container, peer) {
        (Some(container), None) => Decision::Offer { container, bytes },
        (Some(_), Some(peer)) if message.is_request() => {
            let place = &view.peers[peer];
            let local = view.listeners.toward(place.transport, place.address).own;
            Decision::SendToPeer {
                peer,
                hop: Hop::to_address(place.transport, local, place.address),
                bytes,
            }
        }
        (Some(_), Some(_)) | (None, _) => refuse(message, seed, view, out),
    }
}

/// Whom a message names that has been rendered for a container: our own Routes and Via are off.
fn owner(message: &Message, view: &View<'_>) -> Option<Owner> {
    if !message.is_request() {
        return Owner::of_via(&message.top_via().ok()?, &view.keys.owner);
    }
    match view.named(&RouteSet::of(message)) {
        Named::Owner(owner) => Some(owner),
        Named::SomeContainer
        | Named::Peer(_)
        | Named::Myself
        | Named::OtherEdge { .. }
        | Named::Address { .. }
        | Named::Unresolved => None,
    }
}

fn refuse(message: &Message, seed: u64, view: &View<'_>, out: &mut BytesMut) -> Decision {
    if !message.is_request() {
        return Decision::Drop(DropReason::NoContainer);
    }
    if message.method() == Some(sip::Method::Ack) {
        return Decision::Drop(DropReason::UnansweredAck);
    }
    let (refusal, sender) =
        (reply::unavailable(seed), view.sender(message.top_via().ok().as_ref(), None));
    let bytes = reply::build(message, sender, refusal, &view.keys.branch);
    let Ok(answer) = Message::parse(bytes) else { return Decision::Drop(DropReason::TooLarge) };
    match response::from_link(&answer, view, out) {
        Ok(Decision::Send { hop: Hop::Datagram { .. }, .. })
            if view.routing.is_vacant_for_a_moment() =>
        {
            Decision::Drop(DropReason::Vacancy)
        }
        Ok(Decision::Send { hop, bytes }) => Decision::Reply { hop, bytes, status: 503 },
        Ok(decision) => decision,
        Err(_) => Decision::Drop(DropReason::ForgedVia),
    }
}
