//! What the coordinator does next so that the stores become what they should be. Pure.
//!
//! Each look gives the steps of one kind, the first kind that has any; after them the servers are asked again. All of them
//! are harmless if they have been done already, or are done by two.
//!
//! A store gives up a copy only when its primary has another one, and a primary gets slots only when somebody has a copy of
//! what it serves. So a cluster that grows or shrinks has at any time the copies that it had before.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use state::engine::cluster::servers::Place;

use super::placement::Home;
use super::{Picture, Presence, SLOTS, Shard, Store};

/// Slots that are moved at a time: a step that takes a moment, after which one looks again.
const SLOTS_AT_A_TIME: usize = 1_024;

/// So long a home must have been up before its primary moves back to it.
const AT_HOME_AFTER: Duration = Duration::from_secs(2);

/// How far behind, in octets of the stream, a replica may be that takes over in order.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// That one meets the other one.
    Meet {
        /// Who is told to.
        at: SocketAddr,
        /// Whom.
        other: SocketAddr,
    },
    /// That one serves everything: the first store of a cluster.
    ClaimAll {
        /// Who.
        at: SocketAddr,
    },
    /// That one becomes a replica.
    Follow {
        /// Who.
        replica: SocketAddr,
        /// Whose.
        primary: String,
    },
    /// Slots move.
    Move {
        /// From whom.
        from: Place,
        /// To whom.
        to: Place,
        /// Which.
        slots: Vec<u16>,
    },
    /// That one no longer holds slots for on their way that have arrived.
    Settle {
        /// Who.
        at: SocketAddr,
        /// Which.
        slots: Vec<u16>,
    },
    /// A replica takes over from its primary, which is well, in order.
    HandOver {
        /// The replica.
        to: SocketAddr,
    },
    /// Those forget one that is gone.
    Forget {
        /// Who.
        at: Vec<SocketAddr>,
        /// Whom.
        id: String,
    },
}

/// What does not change while a manager runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// After so long the copies of a lost node are made elsewhere.
    pub long: Duration,
    /// Slots in which no record can lie, for a store that only votes.
    pub vacant: Vec<u16>,
}

/// Finds the steps of one kind.
type Look = fn(&Picture, &[Shard], &Plan) -> Vec<Chore>;

impl Picture {
    /// The next steps.
    pub fn chores(&self, plan: &Plan) -> Vec<Chore> {
        let shards = self.shards();
        let looks: [Look; 7] = [
            Picture::meetings,
            Picture::first_claim,
            Picture::unfinished_moves,
            Picture::followers,
            Picture::homecomings,
            Picture::moves,
            Picture::partings,
        ];
        let mut found = looks.iter().map(|look| look(self, &shards, plan));
        found.find(|chores| !chores.is_empty()).unwrap_or_default()
    }

    fn answering(&self) -> impl Iterator<Item = &Store> {
        self.stores.iter().filter(|store| store.report.is_some())
    }

    fn meetings(&self, shards: &[Shard], _: &Plan) -> Vec<Chore> {
        let largest = shards.iter().filter(|shard| self.answers(shard.at));
        let largest = largest.max_by_key(|shard| shard.slots.len());
        let first = largest.and_then(|shard| shard.at).map(|at| &self.stores[at]);
        let Some(first) = first.or_else(|| self.answering().next()) else { return Vec::new() };
        let knows = |store: &Store, other: &Store| {
            let known = store.report.iter().flat_map(|report| &report.known);
            let id = other.report.as_ref().map(|report| &report.id);
            known.into_iter().any(|known| Some(&known.id) == id && known.address.is_some())
        };
        let is_strange = |other: &&Store| {
            let serves = |store: &Store| store.report.iter().any(|it| !it.slots.is_empty());
            let is_known = knows(first, other) && knows(other, first);
            // Two that serve and never met are two clusters: to mix them would lose records.
            let are_two = serves(first) && serves(other) && !knows(other, first);
            !(is_known || are_two)
        };
        let strangers = self.answering().filter(|other| other.address != first.address);
        let strangers = strangers.filter(is_strange);
        strangers.map(|other| Chore::Meet { at: first.address, other: other.address }).collect()
    }

    /// Only when everybody is there and nobody serves anything: else somebody who is away may have all records.
    fn first_claim(&self, shards: &[Shard], _: &Plan) -> Vec<Chore> {
        let all_answer = self.stores.iter().all(|store| store.report.is_some());
        let first = self.stores.iter().find(|store| store.is_home());
        match first {
            Some(first) if shards.is_empty() && all_answer && self.is_complete => {
                vec![Chore::ClaimAll { at: first.address }]
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Whoever moved slots may have died in the middle: what has arrived is done, the rest moves on.
    fn unfinished_moves(&self, shards: &[Shard], _: &Plan) -> Vec<Chore> {
        let left = self.left_midway(shards);
        if left.is_empty() { self.awaited(shards).into_iter().collect() } else { left }
    }

    /// Of slots that somebody has on their way out.
    fn left_midway(&self, shards: &[Shard]) -> Vec<Chore> {
        for (at, from) in self.stores.iter().enumerate() {
            let Some(report) = from.report.as_ref().filter(|it| !it.leaving.is_empty()) else {
                continue;
            };
            let shard = shards.iter().find(|shard| shard.at == Some(at));
            let has = |slot: u16| shard.is_some_and(|it| it.slots.binary_search(&slot).is_ok());
            let arrived = report.leaving.iter().map(|(slot, _)| *slot).filter(|slot| !has(*slot));
            let arrived: Vec<u16> = arrived.collect();
            if !arrived.is_empty() {
                return vec![Chore::Settle { at: from.address, slots: arrived }];
            }
            let Some((_, to)) = report.leaving.first() else { continue };
            let slots = report.leaving.iter().filter(|(_, target)| target == to);
            let slots = slots.map(|(slot, _)| *slot).take(SLOTS_AT_A_TIME).collect();
            if let Some(to) = self.in_place_of(to) {
                let from = Place { id: report.id.clone(), address: from.address };
                return vec![Chore::Move { from, to, slots }];
            }
        }
        Vec::new()
    }

    /// The primary of that name, or who was promoted in its place.
    fn in_place_of(&self, id: &str) -> Option<Place> {
        let store = &self.stores[self.of_id(id)?];
        let report = store.report.as_ref()?;
        let Some(primary) = &report.replica_of else {
            return Some(Place { id: id.to_owned(), address: store.address });
        };
        let primary = &self.stores[self.of_id(primary)?];
        let report = primary.report.as_ref().filter(|report| report.replica_of.is_none())?;
        Some(Place { id: report.id.clone(), address: primary.address })
    }

    /// Of slots that somebody waits for while nobody has them on their way out: who was promoted in a dead primary's place
    /// does not know that some records have gone already.
    fn awaited(&self, shards: &[Shard]) -> Option<Chore> {
        self.stores.iter().enumerate().find_map(|(at, to)| {
            let report = to.report.as_ref().filter(|report| report.replica_of.is_none())?;
            let has = |shard: &Shard, slot: u16| shard.slots.binary_search(&slot).is_ok();
            let (first, _) = report.coming.first()?;
            let owner = shards.iter().find(|shard| has(shard, *first))?;
            let slots = report.coming.iter().map(|(slot, _)| *slot);
            let slots = slots.filter(|slot| has(owner, *slot)).take(SLOTS_AT_A_TIME).collect();
            if owner.at == Some(at) {
                return Some(Chore::Settle { at: to.address, slots });
            }
            self.answers(owner.at).then(|| self.step(owner, to, slots))?
        })
    }

    fn followers(&self, shards: &[Shard], plan: &Plan) -> Vec<Chore> {
        if !self.is_complete || shards.is_empty() {
            return Vec::new();
        }
        let mut chores = self.emptied_homes(shards);
        let mut left = BTreeSet::new();
        for copy in self.copies_wanted(shards, plan.long) {
            let (store, primary) = (&self.stores[copy.at], &self.stores[copy.primary]);
            let Some(report) = &store.report else { continue };
            let knows = report.known.iter().any(|known| known.id == copy.id);
            if !knows || primary.report.is_none() || report.replica_of.as_ref() == Some(&copy.id) {
                continue;
            }
            // Of two that have the same, one stays until the other is seen to have left.
            let present = report.replica_of.as_ref();
            if self.may_leave(store, shards) && present.is_none_or(|id| left.insert(id)) {
                chores.push(Chore::Follow { replica: store.address, primary: copy.id });
            }
        }
        chores
    }

    /// A home that has lost its files: it has a copy of what stands in for it before it takes over.
    fn emptied_homes(&self, shards: &[Shard]) -> Vec<Chore> {
        let homes = self.homes(shards);
        let is_empty = |home: &&Home| {
            let store = &self.stores[home.at];
            let is_alone = store.report.as_ref().is_some_and(|it| it.replica_of.is_none());
            is_alone && !shards.iter().any(|shard| shard.at == Some(home.at))
        };
        let is_orphan = |shard: &&Shard| {
            let at_home = homes
                .iter()
                .any(|home| home.primary.as_ref().is_some_and(|(_, id)| id == &shard.primary));
            let stands_in = shard.at.is_some_and(|at| self.stores[at].holds_data);
            !at_home && stands_in && self.answers(shard.at)
        };
        let emptied = homes.iter().filter(is_empty);
        let pairs = emptied.zip(shards.iter().filter(is_orphan));
        let follow = |(home, shard): (&Home, &Shard)| Chore::Follow {
            replica: self.stores[home.at].address,
            primary: shard.primary.clone(),
        };
        pairs.map(follow).collect()
    }

    /// Whether nobody needs the copy that it has.
    fn may_leave(&self, store: &Store, shards: &[Shard]) -> bool {
        let Some(report) = &store.report else { return false };
        if !report.slots.is_empty() {
            return false;
        }
        let Some(present) = &report.replica_of else { return true };
        let Some(shard) = shards.iter().find(|shard| &shard.primary == present) else {
            return true;
        };
        // One whose primary does not answer may be needed in a moment.
        let Some(primary) = shard.at.map(|at| &self.stores[at]) else { return false };
        // What lies on its primary's host is no copy, and another one may wait for this store to become one.
        let is_copy = store.host() != primary.host() || self.allow_colocation;
        primary.report.is_some() && (!is_copy || self.copies(primary, &[store.address]) > 0)
    }

    /// A home that has everything again takes over from who stands in for it.
    fn homecomings(&self, shards: &[Shard], _: &Plan) -> Vec<Chore> {
        let is_due = |store: &&Store| {
            let Some(report) = &store.report else { return false };
            let Some(primary) = &report.replica_of else { return false };
            let shard = shards.iter().find(|shard| &shard.primary == primary);
            let primary = shard.and_then(|shard| shard.at).map(|at| &self.stores[at]);
            let Some(primary) = primary.and_then(|primary| primary.report.as_ref()) else {
                return false;
            };
            report.is_synced
                && report.offset + CAUGHT_UP_BYTES >= primary.offset
                && store.is_up_for(AT_HOME_AFTER)
        };
        let homes = self.stores.iter().filter(|store| store.is_home());
        homes.filter(is_due).map(|home| Chore::HandOver { to: home.address }).collect()
    }

    /// Every home serves the same share, a store that only votes one slot without records, and nobody else anything.
    fn moves(&self, shards: &[Shard], plan: &Plan) -> Vec<Chore> {
        if !self.is_complete || shards.iter().any(|shard| !self.may_move(shard)) {
            return Vec::new();
        }
        self.vote(shards, plan).or_else(|| self.levelling(shards, plan)).into_iter().collect()
    }

    /// Who serves is there; a lost home is waited for, or is served by another one meanwhile.
    fn may_move(&self, shard: &Shard) -> bool {
        self.answers(shard.at)
    }

    fn vote(&self, shards: &[Shard], plan: &Plan) -> Option<Chore> {
        let voter = self.answering().find(|store| {
            let report = store.report.as_ref();
            store.votes() && report.is_some_and(|report| report.slots.is_empty())
        })?;
        let from = shards.iter().max_by_key(|shard| shard.slots.len())?;
        let slot = plan.vacant.iter().find(|slot| from.slots.binary_search(slot).is_ok())?;
        self.step(from, voter, vec![*slot])
    }

    fn levelling(&self, shards: &[Shard], plan: &Plan) -> Option<Chore> {
        let homes = self.homes(shards);
        let served = |at: usize| shards.iter().find(|shard| shard.at == Some(at));
        // One that has come back is not at home yet; its share waits for it.
        let is_unsettled = |home: &&Home| {
            home.primary.as_ref().is_some_and(|(at, _)| *at != home.at)
                && self.answers(Some(home.at))
        };
        if homes.iter().any(|home| is_unsettled(&home)) {
            return None;
        }
        let copies_are_wanted = !self.copies_wanted(shards, plan.long).is_empty();
        let has_copy = |at: usize| self.copies(&self.stores[at], &[]) > 0;
        let takers: Vec<usize> = homes
            .iter()
            .filter(|home| self.answers(Some(home.at)))
            .map(|home| home.at)
            .filter(|at| served(*at).is_some() || !copies_are_wanted || has_copy(*at))
            .collect();
        // What stands in for a home that is away keeps what it has.
        let stands_in = |shard: &Shard| {
            let at = shard.at;
            homes
                .iter()
                .any(|home| home.primary.as_ref().map(|(at, _)| *at) == at && at != Some(home.at))
        };
        let votes = |shard: &Shard| shard.at.is_some_and(|at| self.stores[at].votes());
        let kept = shards.iter().filter(|shard| stands_in(shard) || votes(shard));
        let kept: usize = kept.map(|shard| shard.slots.len()).sum();
        let share = (usize::from(SLOTS) - kept) / takers.len().max(1);
        let target = |number: usize| {
            let rest = (usize::from(SLOTS) - kept) % takers.len().max(1);
            share + usize::from(number < rest)
        };
        let surplus = |shard: &Shard| {
            let number = takers.iter().position(|at| Some(*at) == shard.at);
            match number {
                Some(number) => shard.slots.len().saturating_sub(target(number)),
                None if stands_in(shard) || votes(shard) => 0,
                None => shard.slots.len(),
            }
        };
        let from = shards.iter().max_by_key(|shard| surplus(shard))?;
        // What has a copy where it is has one where it comes to.
        let is_protected = from.at.is_some_and(has_copy);
        let may_take = |at: &usize| !copies_are_wanted || !is_protected || has_copy(*at);
        let lacks = takers.iter().enumerate().filter(|(_, at)| may_take(at)).map(|(number, at)| {
            let has = served(*at).map_or(0, |shard| shard.slots.len());
            (target(number).saturating_sub(has), *at)
        });
        let (lack, to) = lacks.max_by_key(|(lack, at)| (*lack, std::cmp::Reverse(*at)))?;
        let count = lack.min(surplus(from)).min(SLOTS_AT_A_TIME);
        if count == 0 {
            return None;
        }
        let slots = from.slots[from.slots.len() - count..].to_vec();
        self.step(from, &self.stores[to], slots)
    }

    fn step(&self, from: &Shard, to: &Store, slots: Vec<u16>) -> Option<Chore> {
        let source = &self.stores[from.at?];
        let from = Place { id: from.primary.clone(), address: source.address };
        let to = Place { id: to.report.as_ref()?.id.clone(), address: to.address };
        Some(Chore::Move { from, to, slots })
    }

    /// Those that no member has any more, or that answer under another name.
    fn partings(&self, shards: &[Shard], _: &Plan) -> Vec<Chore> {
        if !self.is_complete {
            return Vec::new();
        }
        let belongs = |id: &str, address: Option<SocketAddr>| {
            let store = self.stores.iter().find(|store| Some(store.address) == address);
            store.is_some_and(|store| store.report.as_ref().is_none_or(|report| report.id == id))
        };
        let serves = |id: &str| shards.iter().any(|shard| shard.primary == id);
        let mut gone: Vec<String> = self
            .lines()
            .filter(|known| !belongs(&known.id, known.address) && !serves(&known.id))
            .map(|known| known.id.clone())
            .collect();
        gone.sort();
        gone.dedup();
        let part = |id: String| {
            let knows = |store: &&Store| {
                let report = store.report.as_ref();
                report.is_some_and(|it| it.id != id && it.known.iter().any(|known| known.id == id))
            };
            let at = self.answering().filter(knows).map(|store| store.address).collect();
            Chore::Forget { at, id }
        };
        gone.into_iter().map(part).collect()
    }

    fn answers(&self, at: Option<usize>) -> bool {
        at.is_some_and(|at| self.stores[at].report.is_some())
    }
}

impl Store {
    /// Whether that is all that it does.
    fn votes(&self) -> bool {
        !self.holds_data && !self.leaves
    }

    /// Whether its node was heard a moment ago.
    pub fn is_there(&self) -> bool {
        !matches!(self.presence, Presence::Lost { .. })
    }
}
