//! A choice over those routes of a table that take part in it.

use super::Route;
use crate::choice::{BucketTable, Candidate, Candidates, ChoiceKey};

/// A choice over some of the routes.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) buckets: BucketTable,
    /// Where in `routes` the candidates of `buckets` stand.
    pub(super) places: Vec<usize>,
}

impl Choice {
    /// Over nobody.
    pub(super) fn empty() -> Choice {
        Choice { buckets: BucketTable::empty(), places: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn choose(&self, key: ChoiceKey<'_>) -> Candidates {
        let chosen = self.buckets.choose(key);
        let place = |candidate: usize| self.places[candidate];
        Candidates { first: chosen.first.map(place), second: chosen.second.map(place) }
    }

    /// Computed anew on change only.
    pub(super) fn rebuild(&mut self, routes: &[Route], takes_part: impl Fn(&Route) -> bool) {
        let mut taking_part: Vec<(usize, &Route)> =
            routes.iter().enumerate().filter(|(_, route)| takes_part(route)).collect();
        taking_part.sort_by(|(_, one), (_, other)| one.cluster_name.cmp(&other.cluster_name));
        let (places, candidates): (Vec<usize>, Vec<Candidate>) = taking_part
            .into_iter()
            .map(|(place, route)| {
                let (name, incarnation) = (route.cluster_name.clone(), route.incarnation);
                (place, Candidate { name, incarnation, weight: route.weight })
            })
            .unzip();
        if candidates != self.buckets.candidates() {
            self.buckets = BucketTable::build(&candidates);
        }
        // Both are sorted by name, and no candidate is left out: the table's bound is the greater one.
        self.places = places;
    }
}
