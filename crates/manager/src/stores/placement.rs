//! Which store should have a copy of which shard. Pure.
//!
//! In the order of ordinals and nodes, each store takes the shard with the fewest copies so far, of equals the next node's.
//! With two stores each, node i has a copy of node i + 1's. A copy never lies on its primary's host, unless that is allowed
//! and there is no other place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use topology::NodeNumber;

use super::{Picture, Presence, Shard, Store};

/// A home shard: of which node, and who serves it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Whose.
    pub node: NodeNumber,
    /// Its home store's place.
    pub at: usize,
    /// The primary's place and name; `None`: it cannot be told, as its home is away.
    pub primary: Option<(usize, String)>,
}

/// A store that should have a copy, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The store's place.
    pub at: usize,
    /// The primary's place.
    pub primary: usize,
    /// The primary's name.
    pub id: String,
}

impl Picture {
    /// The home shards of all data nodes.
    pub(super) fn homes(&self, shards: &[Shard]) -> Vec<Home> {
        let serves = |at: usize| shards.iter().find(|shard| shard.at == Some(at));
        let homes = self.stores.iter().enumerate().filter(|(_, store)| store.is_home());
        let mut homes: Vec<Home> = homes
            .map(|(at, store)| {
                let primary = match (serves(at), &store.report) {
                    (Some(shard), _) => Some((at, shard.primary.clone())),
                    (None, Some(report)) => match &report.replica_of {
                        Some(primary) => self.of_id(primary).map(|at| (at, primary.clone())),
                        None => Some((at, report.id.clone())),
                    },
                    (None, None) => None,
                };
                Home { node: store.node, at, primary }
            })
            .collect();
        // Who serves a home that is away is one that serves and is at home nowhere.
        let known: BTreeSet<usize> =
            homes.iter().filter_map(|home| home.primary.as_ref().map(|(at, _)| *at)).collect();
        let mut stand_ins = shards.iter().filter_map(|shard| {
            let at = shard.at.filter(|at| !known.contains(at))?;
            self.stores[at].holds_data.then(|| (at, shard.primary.clone()))
        });
        for home in homes.iter_mut().filter(|home| home.primary.is_none()) {
            home.primary = stand_ins.next();
        }
        homes
    }

    /// Who should have a copy of what; stores of nodes that are lost for `long` are not counted on.
    pub(super) fn copies_wanted(&self, shards: &[Shard], long: Duration) -> Vec<Copy> {
        let homes = self.homes(shards);
        let serves = |at: usize| shards.iter().any(|shard| shard.at == Some(at));
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let mut copies = Vec::new();
        let mut candidates: Vec<(usize, &Store)> = self.stores.iter().enumerate().collect();
        candidates.sort_by_key(|(_, store)| (store.ordinal, store.node));
        for (at, store) in candidates {
            let can = store.holds_data && store.ordinal > 1 && !store.is_lost_for(long);
            if !can || serves(at) {
                continue;
            }
            let own = homes.iter().position(|home| home.node == store.node).unwrap_or(0);
            let ranked = homes.iter().enumerate().filter_map(|(number, home)| {
                let (primary, id) = home.primary.as_ref()?;
                let is_close = self.stores[*primary].host() == store.host()
                    || self.stores[home.at].host() == store.host()
                        && !self.stores[home.at].is_lost_for(long);
                if is_close && !self.allow_colocation {
                    return None;
                }
                let distance = (number + homes.len() - own) % homes.len();
                let count = counts.get(&number).copied().unwrap_or(0);
                Some(((is_close, count, distance), number, *primary, id))
            });
            if let Some((_, number, primary, id)) = ranked.min_by_key(|(rank, ..)| *rank) {
                *counts.entry(number).or_default() += 1;
                copies.push(Copy { at, primary, id: id.clone() });
            }
        }
        copies
    }

    /// How many stores beyond its `regular` ones a node should run: for copies that stores of nodes have which are lost for
    /// `long`, and as long as one of them has what nobody else has.
    pub fn spares(&self, own: NodeNumber, regular: u8, long: Duration) -> u8 {
        let needed = if self.is_complete { self.spares_needed(own, long) } else { 0 };
        let is_needed = |store: &&Store| store.node == own && self.is_irreplaceable(store);
        let kept = self.stores.iter().filter(is_needed).map(|store| store.ordinal);
        let kept = kept.max().map_or(0, |ordinal| ordinal.saturating_sub(regular));
        needed.max(kept)
    }

    fn spares_needed(&self, own: NodeNumber, long: Duration) -> u8 {
        let shards = self.shards();
        let homes = self.homes(&shards);
        let lost: BTreeSet<NodeNumber> = self
            .stores
            .iter()
            .filter(|store| store.is_lost_for(long))
            .map(|store| store.node)
            .collect();
        if lost.is_empty() {
            return 0;
        }
        // The stores that the members have anyway: every node has as many as the lost ones had.
        let of_lost = self.stores.iter().filter(|store| lost.contains(&store.node));
        let regular = of_lost.map(|store| store.ordinal).max().unwrap_or(1);
        let mut without_spares = self.clone();
        without_spares.stores.retain(|store| store.ordinal <= regular);
        let shards_left = without_spares.shards();
        let copies = without_spares.copies_wanted(&shards_left, long);
        let hosts: BTreeMap<NodeNumber, &Store> = self
            .stores
            .iter()
            .filter(|store| store.is_home() && !lost.contains(&store.node))
            .map(|store| (store.node, store))
            .collect();
        let mut spares: BTreeMap<NodeNumber, u8> = BTreeMap::new();
        for home in &homes {
            let Some((primary, id)) = &home.primary else { continue };
            let has = copies.iter().filter(|copy| &copy.id == id);
            let mut taken: BTreeSet<_> =
                has.map(|copy| without_spares.stores[copy.at].host()).collect();
            let missing = usize::from(regular - 1).saturating_sub(taken.len());
            taken.insert(self.stores[*primary].host());
            for _ in 0..missing {
                let free = hosts.iter().filter(|(_, store)| !taken.contains(&store.host()));
                let chosen = free.min_by_key(|(node, _)| (spares.get(node).copied(), **node));
                let Some((node, store)) = chosen else { break };
                taken.insert(store.host());
                *spares.entry(*node).or_default() += 1;
            }
        }
        spares.get(&own).copied().unwrap_or(0)
    }

    /// It serves something, or has the only other copy of what another serves.
    fn is_irreplaceable(&self, store: &Store) -> bool {
        let Some(report) = &store.report else { return false };
        let shards = self.shards();
        if shards.iter().any(|shard| shard.primary == report.id) {
            return true;
        }
        let Some(primary) = report.replica_of.as_deref().and_then(|id| self.of_id(id)) else {
            return false;
        };
        let primary = &self.stores[primary];
        let serves =
            shards.iter().any(|shard| shard.at.map(|at| &self.stores[at]) == Some(primary));
        serves && self.copies(primary, &[store.address]) == 0
    }
}

impl Store {
    pub(super) fn is_up_for(&self, time: Duration) -> bool {
        matches!(self.presence, Presence::Runs { since } if since >= time)
    }
}
