//! When a node may leave its cluster: others have all that its stores had. Pure.
//!
//! A node that is about to leave is home of nothing any more, and has no copies that others could have ([`super::chores`]): its slots
//! move to the homes that stay, as soon as these have their copies, and copies that only it has are made elsewhere.

use std::net::SocketAddr;

use topology::NodeNumber;

use super::{Picture, SLOTS, Shard, Store};

/// Whether a node may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// The others have everything.
    Free,
    /// Not yet; why, for a person.
    Holds(String),
    /// Nobody is there who could have what it has.
    Alone(&'static str),
}

impl Picture {
    /// Whether `own` node may leave where a write needs so many copies, if there are so many other members.
    pub fn leave(&self, own: NodeNumber, write_quota: u8) -> Leave {
        let is_own = |store: &&Store| store.node == own && store.ordinal > 0;
        let mut own_stores = self.stores.iter().filter(is_own).peekable();
        if own_stores.peek().is_none() {
            return Leave::Free;
        }
        if let Some(silent) = own_stores.find(|store| store.report.is_none()) {
            return Leave::Holds(format!("its own store at {} does not answer", silent.address));
        }
        let stay = self.stores.iter().filter(|store| store.is_home() && !is_own(store));
        let stay: Vec<&Store> = stay.collect();
        if stay.is_empty() {
            return Leave::Alone(
                "no other node has stores that hold data; let one have some first ([cluster] stores)",
            );
        }
        if !stay.iter().any(|store| store.is_there()) {
            return Leave::Alone("the other nodes that hold data are lost; bring them up first");
        }
        let wanted = usize::from(write_quota).min(stay.len() - 1);
        match self.held(own, wanted) {
            None => Leave::Free,
            Some(told) => Leave::Holds(told),
        }
    }

    /// What the others have not.
    fn held(&self, own: NodeNumber, copies_wanted: usize) -> Option<String> {
        let is_own = |store: &&Store| store.node == own && store.ordinal > 0;
        let shards = self.shards();
        let served: usize = shards.iter().map(|shard| shard.slots.len()).sum();
        if served < usize::from(SLOTS) {
            let unserved = usize::from(SLOTS) - served;
            return Some(format!("{unserved} of {SLOTS} slots are served by nobody"));
        }
        let primary = |shard: &Shard| {
            let primary = shard.at.map(|at| &self.stores[at]);
            primary.filter(|primary| primary.report.is_some())
        };
        if let Some(silent) = shards.iter().find(|shard| primary(shard).is_none()) {
            let at = silent.at.map(|at| self.stores[at].address.to_string());
            let (at, slots) = (at.unwrap_or_else(|| "a store".to_owned()), silent.slots.len());
            return Some(format!("{at}, which serves {slots} of {SLOTS} slots, does not answer"));
        }
        // Copies that it has are none when it is gone.
        let gone = self.stores.iter().filter(is_own).map(|store| store.address);
        let gone: Vec<SocketAddr> = gone.collect();
        shards.iter().find_map(|shard| {
            let primary = primary(shard)?;
            let (at, slots) = (primary.address, shard.slots.len());
            if is_own(&primary) {
                return Some(format!("{slots} of {SLOTS} slots are still to move from {at}"));
            }
            let copies = self.copies(primary, &gone);
            let are_missing = primary.holds_data && copies < copies_wanted;
            are_missing.then(|| {
                format!(
                    "what {at} serves would have {copies} of {copies_wanted} copies on other hosts"
                )
            })
        })
    }
}
