//! A response: its top Via must be this edge's, is taken off, and says where the response goes.
//!
//! RFC 3261 §16.7(3), §16.11, §18.2.2. A Via with a flow token sends it back by that flow; one
//! without was added to a container's request, and the Via below is that container's. Anything else
//! was forged and is dropped, so no response can be aimed at a broadcast address or at a stranger
//! (RFC 4475 §3.3.10).
//!
//! The edge that a request came by may have departed since. What it would do now with the response to a
//! container's request anybody can do: its Via is taken off, too.

use bytes::BytesMut;
use sip::{CheckedResponse, Edits, HeaderName, Message, Via};
use transport::Transport;
use transport::link::SendError;

use super::leave::{TooLarge, render};
use super::{Arrival, Attempt, Decision, DropReason, Hop, View};
use crate::owner::Owner;
use crate::via::{WayBack, reply_address, way_back};

/// Decides about a response that came to one of our sockets.
pub(super) fn from_outside(arrival: &Arrival<'_>, view: &View<'_>, out: &mut BytesMut) -> Decision {
    let response = arrival.message;
    let Ok(CheckedResponse { top_via, next_via }) = response.read_response() else {
        return Decision::Drop(DropReason::MalformedResponse);
    };
    if !view.listeners.wrote(&top_via) {
        return Decision::Drop(DropReason::NotOurVia);
    }
    let Some(next_via) = next_via else { return Decision::Drop(DropReason::NoSecondVia) };
    pop(response, [&top_via, &next_via], arrival.attempt, view, out).unwrap_or_else(Decision::Drop)
}

/// Decides about a response that a container made or passes on.
pub(super) fn from_link(
    response: &Message,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Decision, SendError> {
    let top = response.top_via().map_err(|_| SendError::Refused)?;
    if view.listeners.wrote(&top) {
        let next = response.values(HeaderName::Via).nth(1).ok_or(SendError::Refused)?;
        let next = Via::parse(next).map_err(|_| SendError::Refused)?;
        return pop(response, [&top, &next], Attempt::First, view, out)
            .map_err(|_| SendError::Refused);
    }
    to_other_edge(response, &top, view).ok_or_else(|| match way_back(&top, &view.keys.flow) {
        // An edge of the node wrote it, one that our view does not show yet: soon it may.
        WayBack::Flow(_) => SendError::Full,
        WayBack::NextVia | WayBack::Forged => SendError::Refused,
    })
}

/// The request came through another edge of the node; that one knows its flow. The response goes
/// there as it is.
fn to_other_edge(response: &Message, top: &Via<'_>, view: &View<'_>) -> Option<Decision> {
    let address = view.of_other_edge(top)?;
    let transport = Transport::parse(top.transport)?;
    let hop = Hop::to_address(transport, view.listeners.toward(transport, address).own, address);
    Some(Decision::Send { hop, bytes: response.buffer().clone() })
}

/// Takes our Via, the topmost, off and sends the response where it, or the next one, says.
fn pop(
    response: &Message,
    [top, next]: [&Via<'_>; 2],
    attempt: Attempt,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Decision, DropReason> {
    let mut edits = Edits::new();
    edits.remove_first_value(HeaderName::Via);
    let back = way_back(top, &view.keys.flow);
    if let WayBack::Flow(_) = back
        && view.fellows.wrote(next)
        && way_back(next, &view.keys.flow) == WayBack::NextVia
    {
        let below = response.values(HeaderName::Via).nth(2).ok_or(DropReason::NoSecondVia)?;
        let below = Via::parse(below).map_err(|_| DropReason::MalformedResponse)?;
        edits.remove_first_value(HeaderName::Via);
        return to_container(response, &below, attempt, view, &edits, out);
    }
    match back {
        WayBack::Forged => Err(DropReason::ForgedVia),
        WayBack::Flow(flow) => {
            let hop = Hop::from(reply_address(Some(next), flow));
            if hop.is_stream() {
                edits.ensure_content_length();
            }
            let bytes = render(response, &edits, out).map_err(|TooLarge| DropReason::TooLarge)?;
            Ok(Decision::Send { hop, bytes })
        }
        WayBack::NextVia => to_container(response, next, attempt, view, &edits, out),
    }
}

/// Offers a response to the container that wrote `via`.
fn to_container(
    response: &Message,
    via: &Via<'_>,
    attempt: Attempt,
    view: &View<'_>,
    edits: &Edits,
    out: &mut BytesMut,
) -> Result<Decision, DropReason> {
    let owner = Owner::of_via(via, &view.keys.owner).ok_or(DropReason::ForgedVia)?;
    // DESIGN, "choosing a container", rule 2: a dead owner's response goes where whoever claims its records is.
    let container =
        view.container(Some(owner), response, attempt).ok_or(DropReason::NoContainer)?;
    if view.peer_of_route(container).is_some() {
        return Err(DropReason::NoContainer); // a peer knows nothing of a container's transactions
    }
    let bytes = render(response, edits, out).map_err(|TooLarge| DropReason::TooLarge)?;
    Ok(Decision::Offer { container, bytes })
}
