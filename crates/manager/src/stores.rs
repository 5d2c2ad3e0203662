//! The stores of a cluster: Redis servers that the managers run. What each is configured as, and who serves what. Pure.
//!
//! Every data node has a *home* shard, a share of all slots, which its `store1` serves; each further store has a copy of
//! another node's ([`placement`]). Nothing of this is written down anywhere: it follows from the list of members, and each
//! step towards it from what the servers say at that moment ([`Picture`]). So whoever coordinates may die at any time, and
//! the next one goes on.
//!
//! - [`failover`]: which primaries are dead, who takes their place, and when a dead one may be started again.
//! - [`chores`]: what the coordinator does next so that the servers become what they should be: they meet, the first one
//!   takes all slots, replicas follow, slots move, primaries move back home, those that are gone are forgotten.
//! - [`leaving`]: when a node may leave, because others have all that its stores had.
//! - [`configuration`] is the text of `redis.conf`.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use state::engine::cluster::servers::{Known, Report};
use topology::NodeNumber;

pub mod chores;
pub mod configuration;
pub mod failover;
pub mod leaving;
pub mod placement;
#[cfg(test)]
mod tests;

/// How many slots Redis has.
pub const SLOTS: u16 = 16_384;

/// What is known of a store's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It runs, as its manager says, for so long.
    Runs {
        /// Since it was seen to be ready.
        since: Duration,
    },
    /// It does not run, as its manager says, for so long: nobody needs to be fenced.
    Ended {
        /// Since it was seen to have ended.
        since: Duration,
    },
    /// Its node has not been heard for so long.
    Lost {
        /// Since the node was taken for lost.
        since: Duration,
    },
}

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Whose.
    pub node: NodeNumber,
    /// 1 for `store1`; 0 for one that serves something, and is of no member any more.
    pub ordinal: u8,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Else it only votes, or leaves.
    pub holds_data: bool,
    /// Its node is about to leave the cluster: what it has goes to others.
    pub leaves: bool,
    /// Its process.
    pub presence: Presence,
    /// What it said a moment ago; `None`: it did not answer.
    pub report: Option<Report>,
    /// It has had everything of the primary that it follows now, in this life.
    pub was_in_step: bool,
}

impl Store {
    /// Its host.
    pub fn host(&self) -> IpAddr {
        self.address.ip()
    }

    fn is_home(&self) -> bool {
        self.holds_data && self.ordinal == 1
    }

    fn is_lost_for(&self, time: Duration) -> bool {
        matches!(self.presence, Presence::Lost { since } if since >= time)
    }
}

/// All stores of the cluster, as one manager sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Those of all members, by node and ordinal.
    pub stores: Vec<Store>,
    /// Every member has said which stores it has; else some are missing here.
    pub is_complete: bool,
    /// Whether a copy may lie on the host of its primary.
    pub allow_colocation: bool,
}

/// A primary and what it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The primary's name.
    pub primary: String,
    /// The primary, as a place in [`Picture::stores`]; `None`: a store of no member.
    pub at: Option<usize>,
    /// In order.
    pub slots: Vec<u16>,
}

impl Picture {
    /// Who serves what: of contradicting claims the one with the highest epoch holds.
    pub fn shards(&self) -> Vec<Shard> {
        let mut owners: Vec<Option<(u64, &str)>> = vec![None; usize::from(SLOTS)];
        // Most servers say the same.
        let mut said = HashSet::new();
        for known in self.lines().filter(|it| said.insert((&it.id, it.epoch, &it.slots))) {
            for range in &known.slots {
                for slot in range.clone() {
                    let owner = &mut owners[usize::from(slot)];
                    if owner.is_none_or(|(epoch, _)| epoch < known.epoch) {
                        *owner = Some((known.epoch, &known.id));
                    }
                }
            }
        }
        let mut shards: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for (slot, owner) in (0..SLOTS).zip(owners) {
            if let Some((_, owner)) = owner {
                shards.entry(owner).or_default().push(slot);
            }
        }
        let shard = |(primary, slots): (&str, Vec<u16>)| Shard {
            at: self.of_id(primary),
            primary: primary.to_owned(),
            slots,
        };
        shards.into_iter().map(shard).collect()
    }

    /// Where stores are that serve something and are of no member: of a node that was removed, or that leaves.
    pub fn strangers(&self) -> Vec<SocketAddr> {
        let shards = self.shards().into_iter().filter(|shard| shard.at.is_none());
        let address = |shard: Shard| self.lines().find(|it| it.id == shard.primary)?.address;
        shards.filter_map(address).collect()
    }

    /// Every line of every report.
    fn lines(&self) -> impl Iterator<Item = &Known> {
        self.stores.iter().filter_map(|store| store.report.as_ref()).flat_map(|it| &it.known)
    }

    /// The place of the store that has that name, or had it when it was heard last.
    fn of_id(&self, id: &str) -> Option<usize> {
        let says_so = |store: &Store| store.report.as_ref().is_some_and(|report| report.id == id);
        let address = || self.lines().find(|known| known.id == id)?.address;
        self.stores.iter().position(says_so).or_else(|| {
            let address = address()?;
            // One that answers there under another name is another one.
            self.stores.iter().position(|store| store.address == address && store.report.is_none())
        })
    }

    /// The replicas of a primary that answer.
    fn replicas<'a>(&'a self, primary: &'a str) -> impl Iterator<Item = &'a Store> {
        self.stores.iter().filter(move |store| {
            let report = store.report.as_ref();
            report.is_some_and(|report| report.replica_of.as_deref() == Some(primary))
        })
    }

    /// Of a primary that answers: its replicas on other hosts that have everything, without `except`.
    fn copies(&self, primary: &Store, except: &[SocketAddr]) -> usize {
        let followers = primary.report.iter().flat_map(|report| &report.followers);
        let counted = followers.filter(|(address, is_online)| {
            let is_elsewhere = address.ip() != primary.host() || self.allow_colocation;
            *is_online && is_elsewhere && !except.contains(address)
        });
        counted.count()
    }
}
