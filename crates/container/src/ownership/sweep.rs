//! Goes through the index by owner and finds what dead containers have left behind.
//!
//! In each bucket it skips from owner to owner, reading one entry of each that lives and all entries of each that
//! is dead, in pages. So a sweep costs some hundred reads when nobody has died, however much the living own, and
//! whoever drives it does other work between two pages.
//!
//! ```text
//! bucket 0: probe ─▶ owner lives: probe behind it ─▶ owner is dead: page ─▶ page ─▶ probe behind it ─▶ bucket 1
//! ```

use state::{Key, Prefix, Record};
use topology::Incarnation;

use super::index::{Owned, behind, estate, owner_of};
use super::{BUCKETS, tag_of};

/// Entries of one page.
const PAGE: usize = 256;

/// One pass over the index.
#[derive(Debug)]
pub struct Sweep {
    bucket: u16,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Who is the next owner in the bucket?
    Probe { after: Option<Key> },
    /// What else has this dead owner left in the bucket?
    Page { owner: Incarnation, after: Option<Key> },
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
        Sweep { bucket: 0, step: Step::Probe { after: None } }
    }

    /// What to read next, for [`answered`](Self::answered); None when the pass is over.
    pub fn next(&self) -> Option<Scan> {
        let bucket = u8::try_from(self.bucket).ok()?;
        Some(match &self.step {
            Step::Probe { after } => {
                Scan { prefix: Prefix::tag(tag_of(bucket)), after: after.clone(), limit: 1 }
            }
            Step::Page { owner, after } => {
                Scan { prefix: estate(bucket, *owner), after: after.clone(), limit: PAGE }
            }
        })
    }

    /// What the scan asked for by [`next`](Self::next) has found; returns the entries of dead owners among it.
    pub fn answered(
        &mut self,
        page: &[(Key, Record)],
        is_dead: impl Fn(Incarnation) -> bool,
    ) -> Vec<Owned> {
        let Ok(bucket) = u8::try_from(self.bucket) else { return Vec::new() };
        match &self.step {
            Step::Probe { .. } => {
                match page.first() {
                    None => self.next_bucket(),
                    Some((key, _)) => match owner_of(key) {
                        Some(owner) if is_dead(owner) => {
                            self.step = Step::Page { owner, after: None };
                        }
                        Some(owner) => {
                            self.step = Step::Probe { after: Some(behind(bucket, owner)) };
                        }
                        None => self.step = Step::Probe { after: Some(key.clone()) },
                    },
                }
                Vec::new()
            }
            Step::Page { owner, .. } => {
                let owner = *owner;
                self.step = match page.last() {
                    Some((last, _)) if page.len() >= PAGE => {
                        Step::Page { owner, after: Some(last.clone()) }
                    }
                    Some(_) | None => Step::Probe { after: Some(behind(bucket, owner)) },
                };
                page.iter().filter_map(|(key, record)| Owned::read(key, &record.value)).collect()
            }
        }
    }

    fn next_bucket(&mut self) {
        self.bucket = (self.bucket + 1).min(BUCKETS);
        self.step = Step::Probe { after: None };
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
        assert!(scans < 256 + 7 * 8 + 30, "{scans} scans");
    }
}
