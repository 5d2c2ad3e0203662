//! What the successor of a dead primary has to be told of slots that moved to it, or from it, when it died. Pure.
//!
//! A replica knows what its primary serves by what it heard over the servers' bus, and nothing of what is on its way. So it would
//! take what has gone already for absent; nobody would go on with what was to come; and slots that had just arrived would stay
//! with the dead one for good, if its last words had reached others only.

use std::net::SocketAddr;

use redis::Pipeline;

use super::servers::{Known, Report};

/// What one successor has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Succession {
    /// The successor's name.
    own: String,
    /// The dead primary's name.
    dead: String,
    /// Slots that were on their way from the dead one, and to whom.
    leaving: Vec<(u16, String)>,
    /// Slots that were on their way to it, and from whom: its copies have what came of them.
    coming: Vec<(u16, String)>,
    /// Slots that it served, with all that is in them, as others have heard.
    arrived: Vec<u16>,
}

impl Succession {
    /// Whom to ask: the other primaries that are not held for failed.
    pub(super) fn to_ask(replica: &Report) -> impl Iterator<Item = SocketAddr> {
        let others = replica.known.iter().filter(|it| it.replica_of.is_none() && !it.is_failed);
        let dead = replica.replica_of.as_deref();
        others.filter(move |it| Some(it.id.as_str()) != dead).filter_map(|it| it.address)
    }

    /// What follows from what the replica and those others say. Of one that does not say anything nothing follows: managers
    /// look at its slots again.
    pub(super) fn of(replica: &Report, others: &[Report]) -> Self {
        let Some(dead) = replica.replica_of.clone() else { return Self::default() };
        let leaving = others.iter().flat_map(|it| {
            let from_dead = it.coming.iter().filter(|(_, from)| *from == dead);
            from_dead.map(|(slot, _)| (*slot, it.id.clone()))
        });
        let owner = |slot: u16| replica.known.iter().find(|it| serves(it, slot));
        // Who has not heard everything may hold slots for the dead one's that it gave away: those are served, by their own word.
        let has_given_up = |owner: &Known, slot: u16| {
            let own_word = others.iter().find(|it| it.id == owner.id);
            own_word.is_some_and(|it| !it.slots.iter().any(|range| range.contains(&slot)))
        };
        // Of two that claim a slot, the greater epoch has it: who ends a move takes one above all.
        let is_news = |known: &Known, slot: u16| {
            owner(slot).is_none_or(|owner| {
                owner.id != dead && owner.epoch < known.epoch && has_given_up(owner, slot)
            })
        };
        let of_dead = others.iter().flat_map(|it| &it.known).filter(|it| it.id == dead);
        let mut arrived: Vec<u16> = of_dead
            .flat_map(|known| {
                let slots = known.slots.iter().flat_map(Clone::clone);
                slots.filter(|slot| is_news(known, *slot))
            })
            .collect();
        arrived.sort_unstable();
        arrived.dedup();
        let is_here = |slot: u16| {
            arrived.binary_search(&slot).is_ok() || owner(slot).is_some_and(|it| it.id == dead)
        };
        let coming = others.iter().flat_map(|it| {
            let to_dead = it.leaving.iter().filter(|(slot, to)| *to == dead && !is_here(*slot));
            to_dead.map(|(slot, _)| (*slot, it.id.clone()))
        });
        Self {
            own: replica.id.clone(),
            leaving: leaving.collect(),
            coming: coming.collect(),
            dead,
            arrived,
        }
    }

    /// How many orders [`tell`](Self::tell) gives.
    pub(super) fn orders(&self) -> usize {
        self.leaving.len() + self.coming.len() + 2 * self.arrived.len()
    }

    /// The orders that tell it; before it is a primary it refuses them, and twice they do no harm.
    pub(super) fn tell(&self, orders: &mut Pipeline) {
        let mut set = |slot: u16, state: &str, other: &str| {
            orders.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(state).arg(other);
        };
        for (slot, to) in &self.leaving {
            set(*slot, "MIGRATING", to);
        }
        for (slot, from) in &self.coming {
            set(*slot, "IMPORTING", from);
        }
        for slot in &self.arrived {
            // Who ends an import takes an epoch of its own for it, above all others.
            set(*slot, "IMPORTING", &self.dead);
            set(*slot, "NODE", &self.own);
        }
    }
}

fn serves(known: &Known, slot: u16) -> bool {
    known.slots.iter().any(|range| range.contains(&slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that knows these: name, epoch, slots.
    fn report(id: &str, known: &[(&str, u64, std::ops::RangeInclusive<u16>)]) -> Report {
        let known = known.iter().map(|(id, epoch, slots)| Known {
            id: (*id).to_owned(),
            address: Some(SocketAddr::from(([10, 0, 0, u8::try_from(*epoch).unwrap_or(9)], 7000))),
            is_failed: false,
            replica_of: None,
            slots: vec![slots.clone()],
            epoch: *epoch,
        });
        let known: Vec<Known> = known.collect();
        let own = known.iter().filter(|it| it.id == id).flat_map(|it| it.slots.clone());
        Report { id: id.to_owned(), slots: own.collect(), known, ..Report::default() }
    }

    fn replica(known: &[(&str, u64, std::ops::RangeInclusive<u16>)]) -> Report {
        Report { replica_of: Some("dead".to_owned()), ..report("own", known) }
    }

    #[test]
    fn a_successor_is_told_what_was_on_its_way() {
        let view = [("dead", 1, 0..=9), ("from", 2, 10..=19), ("to", 3, 20..=29)];
        let pair = |slot, id: &str| (slot, id.to_owned());
        let from = Report {
            leaving: vec![pair(10, "dead"), pair(11, "to"), pair(9, "dead")],
            ..report("from", &view)
        };
        let to = Report { coming: vec![pair(1, "dead"), pair(11, "from")], ..report("to", &view) };
        let told = Succession::of(&replica(&view), &[from, to]);
        assert_eq!(told.leaving, [pair(1, "to")]);
        assert_eq!(told.coming, [pair(10, "from")], "9 is here already");
        assert_eq!((told.arrived.len(), told.orders()), (0, 2));
    }

    #[test]
    fn what_only_others_have_heard_of_is_served() {
        let own = [("dead", 3, 0..=9), ("from", 2, 10..=19), ("to", 5, 20..=29)];
        // It has taken 10 and 11 with a greater epoch.
        let heard = [("dead", 6, 0..=11), ("from", 2, 12..=19), ("to", 5, 20..=29)];
        let from = Report { leaving: vec![(11, "dead".to_owned())], ..report("from", &heard) };
        let told = Succession::of(&replica(&own), &[from, report("to", &heard)]);
        assert_eq!((&told.arrived[..], &told.coming[..]), (&[10, 11][..], &[][..]));
        assert_eq!(told.orders(), 4);
        // Nobody knows whether who served them does so still.
        let told = Succession::of(&replica(&own), &[report("to", &heard)]);
        assert_eq!(told.arrived, []);
        let told = Succession::of(&report("own", &own), &[report("to", &heard)]);
        assert_eq!(told, Succession::default(), "it is a primary");
    }

    #[test]
    fn what_the_dead_one_gave_away_is_left_to_whoever_serves_it() {
        let own = [("dead", 3, 0..=9), ("from", 2, 10..=19), ("to", 5, 20..=29)];
        // One that was cut off from "to" has heard of a later epoch of the dead one, and not that it gave 20 to 25 away.
        let late = [("dead", 6, 0..=25), ("from", 2, 10..=19), ("to", 1, 26..=29)];
        let others = [report("from", &own), report("to", &own), report("late", &late)];
        assert_eq!(Succession::of(&replica(&own), &others).arrived, []);
    }
}
