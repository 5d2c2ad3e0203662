//! What a node does about the members of its cluster's repository: who runs one, and what is to be done next. Pure.
//!
//! Every node looks at the same list, etcd's own, and at who is up, and decides alike ([`repository::seats`]): the node
//! whose turn it is adds itself, learns what there is, and has itself promoted; members are taken away by the node that
//! coordinates. Nobody has to tell anybody. etcd takes one such change at a time and refuses what would cost it its
//! majority, so nodes that see different things do no harm.
//!
//! ```text
//! (nothing) ── Add ──▶ noted ── etcd starts ──▶ learns ── Promote ──▶ votes ── Remove (by the coordinator) ──▶ Forget
//!     └─ Found (the node that made the cluster, once) ───────────────▲
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;

use repository::client::messages::Member;
use repository::member::{MemberNote, MemberSettings, address_in};
use repository::seats::{Seat, Step, next_step};
use topology::{NodeEntry, NodeNumber, NodeState};

pub mod applications;
#[cfg(test)]
mod tests;

/// What a node knows when it decides.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Itself.
    pub own: NodeNumber,
    /// All nodes of the cluster, itself among them.
    pub nodes: &'a [NodeEntry],
    /// Those that are about to leave it.
    pub leaving: &'a BTreeSet<NodeNumber>,
    /// Whether it coordinates.
    pub leads: bool,
    /// Which member its data is.
    pub note: Option<&'a MemberNote>,
    /// Where other members reach its own, if it has one.
    pub peer: SocketAddr,
    /// The members as etcd has them, confirmed by a majority; `None`: nobody answers.
    pub members: Option<&'a [Member]>,
    /// Nobody has, or had, a member that this node knows of.
    pub is_first: bool,
    /// A member was added a while ago and has not been started since.
    pub is_unstarted_for_long: bool,
}

/// What it does next; then it looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Begins a new etcd.
    Found,
    /// Adds itself.
    Add,
    /// Goes on with a member that was added as its own: notes it, and starts it.
    Start {
        /// Which.
        id: u64,
        /// All members.
        members: Vec<String>,
    },
    /// Notes the number that the first member has given itself.
    Learned {
        /// Which.
        id: u64,
    },
    /// Has its own member count.
    Promote {
        /// Which.
        id: u64,
    },
    /// Takes a member away.
    Remove {
        /// Which.
        id: u64,
    },
    /// Ends its own member, which was taken away, and what that had.
    Forget,
}

/// The name of a node's member: by its number, which is never given twice.
#[must_use]
pub fn member_name(node: NodeNumber) -> String {
    format!("n{node}")
}

fn node_of(member: &Member) -> Option<u16> {
    member.name.strip_prefix('n')?.parse().ok()
}

/// All members as etcd wants to be told them at a start; one that was not started yet is the one that is.
#[must_use]
pub fn described(members: &[Member], own: NodeNumber) -> Vec<String> {
    let each = members.iter().filter_map(|member| {
        let peer = member.peer_urls.iter().find_map(|url| address_in(url))?;
        let own = member_name(own);
        let name = if member.name.is_empty() { &own } else { &member.name };
        Some(MemberSettings::described(name, peer))
    });
    each.collect()
}

/// What this node does next; `None`: nothing, as far as is known.
#[must_use]
pub fn decide(situation: &Situation<'_>) -> Option<Act> {
    let Situation { own, note, members, .. } = *situation;
    let Some(members) = members else {
        return (note.is_none() && situation.is_first).then_some(Act::Found);
    };
    let of_peer = |member: &&Member| {
        member.peer_urls.iter().any(|url| address_in(url) == Some(situation.peer))
    };
    let named = members.iter().find(|member| member.name == member_name(own));
    match note.map(|note| note.id) {
        Some(None) => return named.map(|member| Act::Learned { id: member.id }),
        Some(Some(id)) => match members.iter().find(|member| member.id == id) {
            None => return Some(Act::Forget),
            Some(member) if member.is_learner => return Some(Act::Promote { id }),
            Some(_) => {}
        },
        None => match named.or_else(|| members.iter().find(of_peer)) {
            // Added, and then the manager died.
            Some(member) if member.name.is_empty() => {
                return Some(Act::Start { id: member.id, members: described(members, own) });
            }
            // Its data is lost. With the same number and nothing in it, it would deny what it has promised.
            Some(member) => return Some(Act::Remove { id: member.id }),
            None => {}
        },
    }
    by_seats(situation, members)
}

fn by_seats(situation: &Situation<'_>, members: &[Member]) -> Option<Act> {
    let unstarted = members.iter().find(|member| member.name.is_empty());
    if let Some(unstarted) = unstarted
        && situation.leads
        && situation.is_unstarted_for_long
    {
        return Some(Act::Remove { id: unstarted.id });
    }
    match next_step(&seats(situation, members))? {
        // One learns at a time.
        Step::Add(_) if members.iter().any(|member| member.is_learner) => None,
        Step::Add(node) => (node == situation.own.get()).then_some(Act::Add),
        Step::Remove(node) => {
            let of_node = |member: &&Member| node_of(member) == Some(node);
            let member = members.iter().find(of_node).filter(|_| situation.leads)?;
            Some(Act::Remove { id: member.id })
        }
    }
}

fn seats(situation: &Situation<'_>, members: &[Member]) -> Vec<Seat> {
    let with_member: BTreeSet<u16> = members.iter().filter_map(node_of).collect();
    let seat = |node: &NodeEntry| Seat {
        node: node.number.get(),
        is_up: node.state == NodeState::Up,
        is_member: with_member.contains(&node.number.get()),
        is_leaving: situation.leaving.contains(&node.number),
    };
    let mut seats: Vec<Seat> = situation.nodes.iter().map(seat).collect();
    let removed = with_member.iter().filter(|node| seats.iter().all(|seat| seat.node != **node));
    let removed: Vec<Seat> = removed
        .map(|node| Seat { node: *node, is_up: false, is_member: true, is_leaving: true })
        .collect();
    seats.extend(removed);
    seats
}
