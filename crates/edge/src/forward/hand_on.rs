//! A message that a container passes on to the one that owns what it belongs to.
//!
//! DESIGN, "choosing a container", rule 3: the views of edges and containers differ for moments, and a
//! container that came back gets messages of calls that its successor holds. The record says who does; the
//! edge has the links. An owner that has none may have begun a moment ago: what is handed on to it waits for a
//! while, for a stream repeats nothing (`server::handed_on`).

use topology::Incarnation;
use transport::link::HOPS_MAX;

use super::{DropReason, View};

/// What becomes of a message that is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOn {
    /// It is offered to its owner: a place in [`topology::RoutingTable::routes`].
    To(usize),
    /// Its owner has no link yet.
    Wait,
}

/// Where a message that has made so many `hops` goes.
///
/// An owner that is ejected or draining gets it as well: while it lives it may still commit, and nobody else
/// can answer for it; what it leaves untaken goes elsewhere when it ends.
///
/// # Errors
/// The reason to drop it.
pub fn hand_on(to: Incarnation, hops: u8, view: &View<'_>) -> Result<HandOn, DropReason> {
    if hops >= HOPS_MAX {
        return Err(DropReason::TooManyHandOns);
    }
    Ok(view.routing.linked(to).map_or(HandOn::Wait, HandOn::To))
}
