//! Goes through the index by owner and finds what dead containers have left behind.
//!
//! It skips from owner to owner, bucket by bucket, reading one entry of each that lives and all entries of each that is
//! dead, in pages. So a sweep costs some hundred reads, however much the living own; each of them is of one hash tag, which
//! a store on several hosts finds in one place. Whoever drives it does other work between two pages.
//!
//! ```text
//! probe ─▶ owner lives: probe behind it ─▶ owner is dead: page ─▶ page ─▶ probe behind it ─▶ nothing: next bucket ─▶ over
//! ```

use bytes::Bytes;
use state::{Key, Prefix, Record};
use topology::Incarnation;

use super::index::{Owned, behind, estate, owner_of};
use super::{BUCKETS, tag_of};

/// Entries of one page.
const PAGE: usize = 256;

/// One pass over the index.
#[derive(Debug)]
pub struct Sweep(Step);

#[derive(Debug)]
enum Step {
    /// Who is the next owner in this bucket?
    Probe {
        bucket: u8,
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
        Sweep(Step::Probe { bucket: 0, after: None })
    }

    /// What to read next, for [`answered`](Self::answered); None when the pass is over.
    pub fn next(&self) -> Option<Scan> {
        Some(match &self.0 {
            Step::Probe { bucket, after } => {
                let prefix = Prefix::Tag { tag: tag_of(*bucket), id_start: Bytes::new() };
                Scan { prefix, after: after.clone(), limit: 1 }
            }
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
            Step::Probe { bucket, .. } => {
                self.0 = match page.first() {
                    Some((key, _)) => probed(*bucket, key, is_dead),
                    None => match bucket.checked_add(1) {
                        Some(bucket) => Step::Probe { bucket, after: None },
                        None => Step::Over,
                    },
                };
                Vec::new()
            }
            Step::Page { bucket, owner, .. } => {
                let (bucket, owner) = (*bucket, *owner);
                self.0 = match page.last() {
                    Some((last, _)) if page.len() >= PAGE => {
                        Step::Page { bucket, owner, after: Some(last.clone()) }
                    }
                    Some(_) | None => Step::Probe { bucket, after: Some(behind(bucket, owner)) },
                };
                page.iter().filter_map(|(key, record)| Owned::read(key, &record.value)).collect()
            }
            Step::Over => Vec::new(),
        }
    }
}

/// What to do about the owner of the entry that a probe has found.
fn probed(bucket: u8, key: &Key, is_dead: impl Fn(Incarnation) -> bool) -> Step {
    match owner_of(key) {
        Some(owner) if is_dead(owner) => Step::Page { bucket, owner, after: None },
        Some(owner) => Step::Probe { bucket, after: Some(behind(bucket, owner)) },
        // No entry of ours.
        None => Step::Probe { bucket, after: Some(key.clone()) },
    }
}

// A bucket is named in one octet.
const _: () = assert!(BUCKETS == 256);

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
