//! Which store should have a copy of which shard. Pure.
//!
//! In the order of ordinals and nodes, each store takes the shard with the fewest copies so far, of equals the next node's.
//! With two stores each, node i has a copy of node i + 1's, with three of node i + 2's as well. A copy never lies on its primary's host,
//! unless that is allowed and there is no other place, and a second one on the host of the first only for want of another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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
        let mut placed = BTreeSet::new();
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
                let is_second = placed.contains(&(number, store.host()));
                Some(((is_close, is_second, count, distance), number, *primary, id))
            });
            if let Some((_, number, primary, id)) = ranked.min_by_key(|(rank, ..)| *rank) {
                *counts.entry(number).or_default() += 1;
                placed.insert((number, store.host()));
                copies.push(Copy { at, primary, id: id.clone() });
            }
        }
        copies
    }

    /// How many stores beyond its `regular` ones a node should run: for copies that stores of nodes have which are lost for
    /// `long`, and as long as one of them has what nobody else has.
    pub fn spares(&self, own: NodeNumber, regular: u8, long: Duration) -> u8 {
        let needed = if self.is_complete { self.spares_needed(own, regular, long) } else { 0 };
        let shards = self.shards();
        let is_needed = |store: &&Store| store.node == own && self.is_irreplaceable(store, &shards);
        let kept = self.stores.iter().filter(is_needed).map(|store| store.ordinal);
        let kept = kept.max().map_or(0, |ordinal| ordinal.saturating_sub(regular));
        needed.max(kept)
    }

    /// Every member finds the same for all of them, whatever spares run already: they are planned anew for each loss, one
    /// after the other where [`Picture::copies_wanted`] would have the most copies then, rather where one runs that has
    /// a copy than where one would have to begin.
    fn spares_needed(&self, own: NodeNumber, regular: u8, long: Duration) -> u8 {
        // What serves and is of no member is no node's loss.
        let is_lost = |store: &&Store| store.ordinal > 0 && store.is_lost_for(long);
        let lost: BTreeSet<NodeNumber> =
            self.stores.iter().filter(is_lost).map(|store| store.node).collect();
        if lost.is_empty() {
            return 0;
        }
        let (mut planned, shards) = self.without_spares(regular);
        let is_host = |store: &&Store| store.is_home() && !lost.contains(&store.node);
        let hosts: Vec<Store> = self.stores.iter().filter(is_host).cloned().collect();
        let mut spares: BTreeMap<NodeNumber, u8> = BTreeMap::new();
        // Each has a copy that is missing, so there are as many as copies at the most.
        loop {
            let lacking = planned.copies_lacking(&shards, regular, long);
            let rank = |host: &Store| {
                let spare = planned.next_spare(host, regular);
                let begins = !self.has_copy_at(host.node, spare.ordinal);
                let count = spares.get(&host.node).copied().unwrap_or(0);
                let mut then = planned.clone();
                then.stores.push(spare.clone());
                let lacking = then.copies_lacking(&shards, regular, long);
                ((lacking, begins, count, host.node), spare)
            };
            let best = hosts.iter().map(rank).min_by_key(|(rank, _)| *rank);
            let Some((rank, spare)) = best.filter(|(rank, _)| rank.0 < lacking) else { break };
            let (.., node) = rank;
            *spares.entry(node).or_default() += 1;
            planned.stores.push(spare);
        }
        let of_own = planned.stores.iter().filter(|store| store.node == own);
        of_own.map(|store| store.ordinal.saturating_sub(regular)).max().unwrap_or(0)
    }

    /// The stores that run whatever is planned: the regular ones, a node's spare that serves, and those of lower number.
    fn without_spares(&self, regular: u8) -> (Picture, Vec<Shard>) {
        let mut run: BTreeMap<NodeNumber, u8> = BTreeMap::new();
        for store in self.shards().iter().filter_map(|shard| Some(&self.stores[shard.at?])) {
            let highest = run.entry(store.node).or_default();
            *highest = store.ordinal.max(*highest);
        }
        let mut rest = self.clone();
        rest.stores.retain(|store| {
            store.ordinal <= run.get(&store.node).copied().unwrap_or(0).max(regular)
        });
        let shards = rest.shards();
        (rest, shards)
    }

    /// How many copies on hosts of their own are missing, where each home is to have one for each store but the first.
    fn copies_lacking(&self, shards: &[Shard], regular: u8, long: Duration) -> usize {
        let copies = self.copies_wanted(shards, long);
        let lacking = |home: &Home| {
            let (primary, id) = home.primary.as_ref()?;
            let of_it = copies.iter().filter(|copy| &copy.id == id);
            let mut hosts: BTreeSet<_> = of_it.map(|copy| self.stores[copy.at].host()).collect();
            hosts.remove(&self.stores[*primary].host());
            Some(usize::from(regular).saturating_sub(1 + hosts.len()))
        };
        self.homes(shards).iter().filter_map(lacking).sum()
    }

    /// A further store of that home's node, as it would be.
    fn next_spare(&self, home: &Store, regular: u8) -> Store {
        let of_node = self.stores.iter().filter(|store| store.node == home.node);
        let highest = of_node.map(|store| store.ordinal).max().unwrap_or(0);
        // No store has port 0: whoever looks for one by its address finds another.
        let address = SocketAddr::new(home.host(), 0);
        let ordinal = highest.max(regular).saturating_add(1);
        Store { ordinal, address, report: None, ..home.clone() }
    }

    /// Whether that store of the node runs, and has everything of somebody.
    fn has_copy_at(&self, node: NodeNumber, ordinal: u8) -> bool {
        let is_it = |store: &&Store| store.node == node && store.ordinal == ordinal;
        let report = self.stores.iter().find(is_it).and_then(|store| store.report.as_ref());
        report.is_some_and(|report| report.is_synced)
    }

    /// It serves something, or has the only other copy of what another serves.
    fn is_irreplaceable(&self, store: &Store, shards: &[Shard]) -> bool {
        let Some(report) = &store.report else { return false };
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
