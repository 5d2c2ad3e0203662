//! A message that a container passes on to the one that owns what it belongs to.
//!
//! DESIGN, "choosing a container", rule 3: the views of edges and containers differ for moments, and a
//! container that came back gets messages of calls that its successor holds. The record says who does; the
//! edge has the links. Whoever sent the message repeats it, so nothing is kept for an owner that is not
//! there.

use topology::Incarnation;
use transport::link::HOPS_MAX;

use super::{DropReason, View};

/// Where a message that has made so many `hops` goes: a place in [`topology::RoutingTable::routes`].
///
/// An owner that is ejected or draining gets it as well: while it lives it may still commit, and nobody else
/// can answer for it; what it leaves untaken goes elsewhere when it ends.
///
/// # Errors
/// The reason to drop it.
pub fn hand_on(to: Incarnation, hops: u8, view: &View<'_>) -> Result<usize, DropReason> {
    if hops >= HOPS_MAX {
        return Err(DropReason::TooManyHandOns);
    }
    view.routing.linked(to).ok_or(DropReason::OwnerNotLinked)
}
