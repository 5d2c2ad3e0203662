//! One view of many nodes: what a member's manager shows its own processes.
//!
//! Own processes keep their plain names; those of another node stand under `NAME@NODE`. What means something on
//! their own machine only is left out: paths of sockets, process ids of nodes that are lost, and loopback addresses that
//! several nodes have, which lead everybody to himself. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::format_level::FormatLevel;
use crate::node::{NodeEntry, NodeNumber, NodeSnapshot, NodeState};
use crate::view::{
    EdgeAddress, Incarnation, ProcessEntry, ProcessName, ProcessState, TopologyView,
};

/// All that a manager knows of its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// Its own node.
    pub own: &'a NodeSnapshot,
    /// The other members, each as it was last heard; one that was never heard has no processes and version 0.
    pub others: &'a BTreeMap<NodeNumber, NodeSnapshot>,
    /// Those of them that have been silent for too long.
    pub lost: &'a BTreeSet<NodeNumber>,
    /// How many numbers were given so far, as far as the list of members is known that `others` are of. Who has
    /// one below and is no member was removed.
    pub numbers_given: u16,
    /// See [`TopologyView::format_level`].
    pub format_level: FormatLevel,
}

/// The view after `last`: the same one if nothing has changed, else one with a greater version.
pub fn cluster_view(cluster: &Cluster<'_>, last: &TopologyView) -> TopologyView {
    let Cluster { own, others, lost, numbers_given, format_level } = *cluster;
    let others = || others.values().filter(|other| other.number != own.number);
    let state = |node: &NodeSnapshot| match lost.contains(&node.number) {
        true if node.number != own.number => NodeState::Lost,
        true | false => NodeState::Up,
    };
    let mut nodes: Vec<NodeEntry> =
        std::iter::once(own).chain(others()).map(|node| entry(node, state(node))).collect();
    nodes.sort_by_key(|node| node.number);
    let ambiguous = ambiguous_addresses(std::iter::once(own).chain(others()));
    let foreign = others().flat_map(|node| {
        let of_node = move |process: &&ProcessEntry| {
            process.incarnation == Incarnation::NONE || process.incarnation.node() == node.number
        };
        let (state, ambiguous) = (state(node), &ambiguous);
        let processes = node.processes.iter().filter(of_node);
        processes.map(move |process| foreign_process(process, node, state, ambiguous))
    });
    let view = TopologyView {
        version: last.version,
        node: own.node.clone(),
        processes: own.processes.iter().cloned().chain(foreign).collect(),
        nodes,
        numbers_given,
        format_level,
    };
    if view == *last {
        return view;
    }
    TopologyView { version: own.version.max(last.version.saturating_add(1)), ..view }
}

fn entry(node: &NodeSnapshot, state: NodeState) -> NodeEntry {
    NodeEntry {
        name: node.node.clone(),
        number: node.number,
        state,
        address: node.address,
        last_life: node.last_life,
        runs_with: node.runs_with,
    }
}

/// A process of another node as it stands in our view.
fn foreign_process(
    process: &ProcessEntry,
    node: &NodeSnapshot,
    state: NodeState,
    ambiguous: &BTreeSet<String>,
) -> ProcessEntry {
    let (state, pid) = match state {
        NodeState::Up => (process.state, process.pid),
        NodeState::Lost => (ProcessState::Down, None),
    };
    let is_clear = |address: &&EdgeAddress| !ambiguous.contains(&address.own.to_string());
    ProcessEntry {
        name: ProcessName::of_node(&process.name, &node.node),
        state,
        pid,
        link: None,
        addresses: process.addresses.iter().filter(is_clear).cloned().collect(),
        ..process.clone()
    }
}

/// The loopback addresses that edges of several nodes listen on.
fn ambiguous_addresses<'a>(nodes: impl Iterator<Item = &'a NodeSnapshot>) -> BTreeSet<String> {
    let mut holders: BTreeMap<String, BTreeSet<NodeNumber>> = BTreeMap::new();
    for node in nodes {
        for address in node.processes.iter().flat_map(|process| &process.addresses) {
            if address.own.ip().is_loopback() {
                holders.entry(address.own.to_string()).or_default().insert(node.number);
            }
        }
    }
    holders.retain(|_, nodes| nodes.len() > 1);
    holders.into_keys().collect()
}

#[cfg(test)]
mod tests;
