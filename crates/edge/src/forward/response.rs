//! A response: its top Via must be this edge's, is taken off, and says where the response goes; what another edge of ours is to
//! have goes there.
//!
//! RFC 3261 §16.7(3), §16.11, §18.2.2. A Via with a flow token sends it back by that flow; one
//! without was added to a container's request, and the Via below is that container's. Anything else
//! was forged and is dropped, so no response can be aimed at a broadcast address or at a stranger
//! (RFC 4475 §3.3.10).
//!
//! Edges that a request came by may have departed since. What they would do now with the response to a
//! container's request anybody can do: their Vias are taken off, too. A phone that is sent a repetition by
//! other edges has them in its answer for as long as it repeats that.

use bytes::BytesMut;
use sip::{CheckedResponse, Edits, HeaderName, Message, Via};
use transport::Transport;
use transport::link::SendError;

use super::leave::{TooLarge, render};
use super::{Arrival, Attempt, Decision, DropReason, Hop, Source, View};
use crate::owner::Owner;
use crate::via::{WayBack, reply_address, way_back};

/// Decides about a response that came to one of our sockets.
pub(super) fn from_outside(arrival: &Arrival<'_>, view: &View<'_>, out: &mut BytesMut) -> Decision {
    let response = arrival.message;
    let Ok(CheckedResponse { top_via, next_via }) = response.read_response() else {
        return Decision::Drop(DropReason::MalformedResponse);
    };
    let Some(next_via) = next_via else {
        let is_ours = view.listeners.wrote(&top_via);
        let reason = if is_ours { DropReason::NoSecondVia } else { DropReason::NotOurVia };
        return Decision::Drop(reason);
    };
    if !view.listeners.wrote(&top_via) {
        let passed_on = for_other_edge(arrival, [&top_via, &next_via], view, out);
        return passed_on.unwrap_or(Decision::Drop(DropReason::NotOurVia));
    }
    pop(response, [&top_via, &next_via], arrival.attempt, view, out).unwrap_or_else(Decision::Drop)
}

/// A phone that always speaks to the same edge sends it what another one is to have, too, and repeats an answer with the Vias that its
/// request had the first time. It goes on to the edge that wrote the top one; of one that has departed anybody does what it would.
fn for_other_edge(
    arrival: &Arrival<'_>,
    [top, next]: [&Via<'_>; 2],
    view: &View<'_>,
    out: &mut BytesMut,
) -> Option<Decision> {
    let is_ours = match way_back(top, &view.keys.flow) {
        WayBack::Flow(_) => true,
        WayBack::NextVia => Owner::of_via(next, &view.keys.owner).is_some(),
        WayBack::Forged => false,
    };
    if !is_ours || arrival.source != Source::Outside {
        return None;
    }
    if view.fellows.wrote(top) {
        let passed_on = past_departed(arrival.message, 0, arrival.attempt, view, out);
        return passed_on.unwrap_or_else(|reason| Some(Decision::Drop(reason)));
    }
    to_other_edge(arrival.message, top, view)
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
    let hop = hop_to_other_edge(top, view)?;
    Some(Decision::Send { hop, bytes: response.buffer().clone() })
}

/// To the edge that wrote `via`, if that is another one of ours that is there.
fn hop_to_other_edge(via: &Via<'_>, view: &View<'_>) -> Option<Hop> {
    let address = view.of_other_edge(via)?;
    let transport = Transport::parse(via.transport)?;
    Some(Hop::to_address(transport, view.listeners.toward(transport, address).own, address))
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
        && let Some(decision) = past_departed(response, 1, attempt, view, out)?
    {
        return Ok(decision);
    }
    go_back(response, back, next, attempt, view, edits, out)
}

/// What the departed edges whose Vias are below the first `own` ones, which are ours, would do with the response, as far as anybody
/// can do it: it goes to the container, or to the edge, that they had the request from. `None`: they had it by a flow that has gone
/// with them.
fn past_departed(
    response: &Message,
    own: usize,
    attempt: Attempt,
    view: &View<'_>,
    out: &mut BytesMut,
) -> Result<Option<Decision>, DropReason> {
    let mut edits = Edits::new();
    (0..own).for_each(|_| edits.remove_first_value(HeaderName::Via));
    let mut vias = response.values(HeaderName::Via).skip(own);
    let mut below = || {
        let value = vias.next().ok_or(DropReason::NoSecondVia)?;
        Via::parse(value).map_err(|_| DropReason::MalformedResponse)
    };
    loop {
        let via = below()?;
        if let Some(hop) = hop_to_other_edge(&via, view) {
            let bytes = render(response, &edits, out).map_err(|TooLarge| DropReason::TooLarge)?;
            return Ok(Some(Decision::Send { hop, bytes }));
        }
        let is_own = view.listeners.wrote(&via);
        if !is_own && !view.fellows.wrote(&via) {
            return Ok(None);
        }
        edits.remove_first_value(HeaderName::Via);
        let back = way_back(&via, &view.keys.flow);
        if is_own || !matches!(back, WayBack::Flow(_)) {
            return go_back(response, back, &below()?, attempt, view, edits, out).map(Some);
        }
    }
}

/// Sends a response whose Vias down to that one are taken off by `edits` to who wrote `next`, the one below.
fn go_back(
    response: &Message,
    back: WayBack,
    next: &Via<'_>,
    attempt: Attempt,
    view: &View<'_>,
    mut edits: Edits,
    out: &mut BytesMut,
) -> Result<Decision, DropReason> {
    match back {
        WayBack::Forged => Err(DropReason::ForgedVia),
        WayBack::Flow(flow) => {
            let hop = Hop::from(reply_address(Some(next), flow));
            if hop.is_stream() {
                edits.ensure_content_length(); // RFC 3261 §16.7(9)
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
