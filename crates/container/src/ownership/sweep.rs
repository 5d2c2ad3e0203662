//! Goes through the index by owner and finds what dead containers have left behind.
//!
//! It skips from owner to owner, bucket by bucket, reading one entry of each that lives and all entries of each that is
//! dead, in pages. So a sweep costs some hundred reads when nobody has died, however much the living own, and one when
//! there is nothing; whoever drives it does other work between two pages.
//!
//! ```text
//! probe ─▶ owner lives: probe behind it ─▶ owner is dead: page ─▶ page ─▶ probe behind it ─▶ nothing: over
//! ```

use state::{Key, Prefix, Record};
use topology::Incarnation;

use super::index::{Owned, behind, estate, owner_of};

/// Entries of one page.
const PAGE: usize = 256;

/// One pass over the index.
#[derive(Debug)]
pub struct Sweep(Step);

#[derive(Debug)]
enum Step {
    /// Who is the next owner, in this bucket or the next?
    Probe {
        after: Option<Key>,
    },
    /// What else has this dead owner left in this bucket?
    Page {
        bucket: u8,
        owner: Incarnation,
        after: Option<Key>,
    },
    Over,
}

/// A scan of the space [`OWNED`](super::index::OWNED) that brings the sweep on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Which entries.
    pub prefix: Prefix,
    /// Behind which one.
    pub after: Option<Key>,
    /// At most so many.
    pub limit: usize,
}

impl Sweep {
    /// At its beginning.
    #[allow(clippy::new_without_default, reason = "a sweep is begun, it is no value")]
    pub fn new() -> Sweep {
        Sweep(Step::Probe { after: None })
    }

    /// What to read next, for [`answered`](Self::answered); None when the pass is over.
    pub fn next(&self) -> Option<Scan> {
        Some(match &self.0 {
            Step::Probe { after } => Scan { prefix: Prefix::All, after: after.clone(), limit: 1 },
            Step::Page { bucket, owner, after } => {
                Scan { prefix: estate(*bucket, *owner), after: after.clone(), limit: PAGE }
            }
            Step::Over => return None,
        })
    }

    /// What the scan asked for by [`next`](Self::next) has found; returns the entries of dead owners among it.
    pub fn answered(
        &mut self,
        page: &[(Key, Record)],
        is_dead: impl Fn(Incarnation) -> bool,
    ) -> Vec<Owned> {
        match &self.0 {
            Step::Probe { .. } => {
                self.0 = page.first().map_or(Step::Over, |(key, _)| probed(key, is_dead));
                Vec::new()
            }
            Step::Page { bucket, owner, .. } => {
                let (bucket, owner) = (*bucket, *owner);
                self.0 = match page.last() {
                    Some((last, _)) if page.len() >= PAGE => {
                        Step::Page { bucket, owner, after: Some(last.clone()) }
                    }
                    Some(_) | None => Step::Probe { after: Some(behind(bucket, owner)) },
                };
                page.iter().filter_map(|(key, record)| Owned::read(key, &record.value)).collect()
            }
            Step::Over => Vec::new(),
        }
    }
}

/// What to do about the owner of the entry that a probe has found.
fn probed(key: &Key, is_dead: impl Fn(Incarnation) -> bool) -> Step {
    match (key.tag.as_ref(), owner_of(key)) {
        ([bucket], Some(owner)) if is_dead(owner) => {
            Step::Page { bucket: *bucket, owner, after: None }
        }
        ([bucket], Some(owner)) => Step::Probe { after: Some(behind(*bucket, owner)) },
        // No entry of ours.
        _ => Step::Probe { after: Some(key.clone()) },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use state::engine::fake::FakeStore;
    use state::{Batch, Store};
    use topology::ChoiceHash;

    use super::super::index::{OWNED, RecordKind};
    use super::*;

    fn entry(owner: u64, number: u64) -> Owned {
        let mut id = [0; 16];
        id[0] = (number % 7) as u8 * 36;
        id[8..].copy_from_slice(&number.to_be_bytes());
        let (kind, choice) = (RecordKind::SetUp, ChoiceHash(number));
        Owned { owner: Incarnation(owner), kind, id, choice }
    }

    #[test]
    fn all_that_the_dead_have_left_is_found_and_the_living_are_skipped() {
        let store = FakeStore::default();
        let mut expected = Vec::new();
        for (owner, count) in [(3, 2_500), (5, 4_000), (8, 1), (9, 600)] {
            for number in 0..count {
                let entry = entry(owner, number);
                store.commit(entry.enter(Batch::new(), None)).now_or_never().unwrap().unwrap();
                if owner != 5 {
                    expected.push(entry);
                }
            }
        }
        let (mut sweep, mut found, mut scans) = (Sweep::new(), Vec::new(), 0);
        while let Some(Scan { prefix, after, limit }) = sweep.next() {
            let space = OWNED;
            let page = store.scan(&space, &prefix, after.as_ref(), limit);
            let page = page.now_or_never().unwrap().unwrap();
            found.extend(sweep.answered(&page, |owner| owner != Incarnation(5)));
            scans += 1;
        }
        let order = |owned: &Owned| (owned.owner, owned.id);
        found.sort_by_key(order);
        expected.sort_by_key(order);
        assert_eq!(found, expected);
        assert!(scans < 7 * 8 + 30, "{scans} scans");
    }
}
