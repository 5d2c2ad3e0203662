//! Which primaries are dead, who takes their place and by whose order, and when a dead one may be started again. Pure.
//!
//! A write was acknowledged when its copies had it, so that one of the replicas that were in step has all of them: the one
//! with the highest offset. The dead primary is started only when another one has its place, for its own file may lack
//! the last second.

use std::net::SocketAddr;
use std::time::Duration;

use state::engine::cluster::servers::Report;

use super::{Picture, Presence, Store};

/// A primary that serves nobody any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its place in [`Picture::stores`].
    pub at: usize,
    /// Its name.
    pub id: String,
    /// The replicas that have a copy and answer.
    pub replicas: Vec<SocketAddr>,
    /// Whether the other primaries can elect one of them. If not, it is made one by order alone: right only if nobody else
    /// could order so, and if the dead one has stopped.
    pub has_voters: bool,
}

/// Who orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orders {
    /// A manager, for the stores of its own node.
    OwnNode,
    /// The coordinator, for nodes that are lost, and for processes that their own managers have left for long.
    All {
        /// After which a primary that is cut off has stopped by itself.
        after: Duration,
    },
}

impl Picture {
    /// The dead primaries that have a replica to take their place, and are for `own` node's manager to replace.
    pub fn dead(&self, own: topology::NodeNumber, orders: Orders) -> Vec<Dead> {
        let shards = self.shards();
        let answers = |at: &Option<usize>| at.is_some_and(|at| self.stores[at].report.is_some());
        let voters = shards.iter().filter(|shard| answers(&shard.at)).count();
        let has_voters = voters > shards.len() / 2;
        let dead = shards.iter().filter_map(|shard| {
            let at = shard.at?;
            let store = &self.stores[at];
            let is_mine = match (store.presence, orders) {
                (Presence::Ended { .. }, Orders::OwnNode) => store.node == own,
                (Presence::Lost { since }, Orders::All { after }) => {
                    store.report.is_none() && since >= after
                }
                (Presence::Ended { since }, Orders::All { .. }) => {
                    store.node != own && since >= OWN_MANAGER_MAX
                }
                (Presence::Runs { .. }, _) | (Presence::Lost { .. }, Orders::OwnNode) => false,
            };
            if !is_mine {
                return None;
            }
            let replicas = self.replicas(&shard.primary).filter(|replica| self.has_copy(replica));
            let replicas: Vec<SocketAddr> = replicas.map(|replica| replica.address).collect();
            let id = shard.primary.clone();
            (!replicas.is_empty()).then_some(Dead { at, id, replicas, has_voters })
        });
        dead.collect()
    }

    /// Whether the store at this place, which does not run, may be started: `last` is how it knew itself when it ran last
    /// (its name; `None`: it never was a primary that served anything), `waited` how long it has waited.
    pub fn may_start(&self, last: Option<&LastLife>, waited: Duration) -> bool {
        let Some(last) = last else { return true };
        let own = self.shards().into_iter().any(|shard| shard.primary == last.id);
        if self.stores.iter().all(|store| store.report.is_none()) {
            // Nobody who could know better is there, yet.
            return last.replicas.is_empty() || waited >= ALONE_AFTER;
        }
        if !own {
            return true;
        }
        if self.replicas(&last.id).any(|replica| self.has_copy(replica)) {
            return false;
        }
        // Those that had its records have nothing that is newer, or do not come.
        let answers = |address: &SocketAddr| {
            self.stores.iter().any(|it| it.address == *address && it.report.is_some())
        };
        last.replicas.iter().all(answers) || waited >= ALONE_AFTER
    }

    /// Whether a replica has had everything of its primary, in this life: what it reads from its own file after a restart
    /// may lack the last second, and its offset is 0 then; and one that was told to follow another primary a moment ago
    /// shows how far it was with the former one.
    fn has_copy(&self, replica: &Store) -> bool {
        let Some(report) = &replica.report else { return false };
        let is_anothers = |other: &Report| {
            let shard = other.replica_of.as_ref().unwrap_or(&other.id);
            let writes_or_has = other.replica_of.is_none() || other.is_synced;
            let streams = [&other.stream, &other.former_stream];
            report.replica_of.as_ref() != Some(shard)
                && writes_or_has
                && streams.contains(&&report.stream)
        };
        let is_of_this_primary = || {
            let mut others = self.stores.iter().filter_map(|store| store.report.as_ref());
            !others.any(is_anothers)
        };
        report.is_synced || replica.was_in_step || report.offset > 0 && is_of_this_primary()
    }
}

/// How long the manager of a store that has ended may take to have another one in its place.
const OWN_MANAGER_MAX: Duration = Duration::from_secs(2);

/// How long a store whose replicas are not there waits for them before it starts with what it has.
pub const ALONE_AFTER: Duration = Duration::from_secs(10);

/// What a store that does not run has written down of itself: it was a primary and served something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastLife {
    /// Its name.
    pub id: String,
    /// Where its replicas were.
    pub replicas: Vec<SocketAddr>,
}
