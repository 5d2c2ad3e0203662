//! A hash table that grows and shrinks a slice at a time.
//!
//! A table that is full moves all of its entries into one of twice the size, and whoever asked for one more entry waits:
//! of hundreds of thousands that is tens of milliseconds, in which nobody is answered and no heartbeat leaves. Here the
//! entries are spread over [`SLICES`] tables by their hash. Each holds a small part of them and grows by itself, and by
//! chance they do not grow at the same moment. After a storm each gives its room back as it empties, by as small steps.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use ahash::RandomState;

/// Of a million entries one holds about 4,000: moving them takes about 0.1 ms.
const SLICES: usize = 256;
/// Bits of the hash that a slice's own table makes least use of.
const SLICE_SHIFT: u32 = 40;
/// A slice with no more room than this keeps it.
const KEPT_ROOM: usize = 64;
/// One with more room gives it back when it is filled to less than one in so many.
const SHRINKING_FACTOR: usize = 8;

/// A map from `K` to `V`.
#[derive(Debug)]
pub(crate) struct SlicedTable<K, V> {
    hasher: RandomState,
    slices: Box<[HashMap<K, V, RandomState>]>,
    len: usize,
}

impl<K: Hash + Eq, V> Default for SlicedTable<K, V> {
    fn default() -> SlicedTable<K, V> {
        SlicedTable::new()
    }
}

impl<K: Hash + Eq, V> SlicedTable<K, V> {
    pub(crate) fn new() -> SlicedTable<K, V> {
        let hasher = RandomState::new();
        let slice = || HashMap::with_hasher(hasher.clone());
        let slices = std::iter::repeat_with(slice).take(SLICES).collect();
        SlicedTable { hasher, slices, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.slices[self.slice_of(key)].get(key)
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let slice = self.slice_of(key);
        self.slices[slice].get_mut(key)
    }

    pub(crate) fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.slices.iter().flat_map(HashMap::keys)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slices.iter().flat_map(HashMap::iter)
    }

    /// Puts a value in; the one that was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let slice = self.slice_of(&key);
        let before = self.slices[slice].insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let slice = self.slice_of(key);
        let slice = &mut self.slices[slice];
        let removed = slice.remove(key)?;
        self.len -= 1;
        if slice.capacity() > KEPT_ROOM.max(slice.len() * SHRINKING_FACTOR) {
            // Half of it stays free, so that the next entries do not make it grow at once.
            let room = slice.len() * 2;
            slice.shrink_to(room);
        }
        Some(removed)
    }

    fn slice_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        (self.hasher.hash_one(key) >> SLICE_SHIFT) as usize % SLICES
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::Hasher;

    use super::*;

    thread_local! {
        /// How often a key was hashed: a table that moves its entries hashes each of them.
        static HASHED: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Counted(u64);

    impl Hash for Counted {
        fn hash<H: Hasher>(&self, state: &mut H) {
            HASHED.set(HASHED.get() + 1);
            self.0.hash(state);
        }
    }

    fn hashed(step: impl FnOnce()) -> usize {
        let before = HASHED.get();
        step();
        HASHED.get() - before
    }

    const ENTRIES: u64 = 200_000;
    /// Of 200,000 entries a slice has about 780; growing from 896 places it has had as many.
    const MOVED_MAX: usize = 1_000;

    #[test]
    fn no_step_of_growing_and_shrinking_moves_many_entries() {
        let mut table = SlicedTable::new();
        let growing = (0..ENTRIES).map(|id| hashed(|| _ = table.insert(Counted(id), id))).max();
        assert!(growing < Some(MOVED_MAX), "{growing:?} entries were moved at once");
        let room = |table: &SlicedTable<_, _>| -> usize {
            table.slices.iter().map(HashMap::capacity).sum()
        };
        let full = room(&table);
        let shrinking = (1..ENTRIES).map(|id| hashed(|| _ = table.remove(&Counted(id)))).max();
        assert!(shrinking < Some(MOVED_MAX), "{shrinking:?} entries were moved at once");
        assert!(
            room(&table) <= SLICES * KEPT_ROOM && full > ENTRIES as usize,
            "no room given back"
        );
        assert_eq!((table.len(), table.get(&Counted(0))), (1, Some(&0)));
    }

    #[test]
    fn it_holds_what_a_map_holds() {
        let mut table = SlicedTable::new();
        assert!(table.is_empty());
        assert_eq!(table.insert("a", 1), None);
        assert_eq!(table.insert("a", 2), Some(1));
        assert_eq!(table.insert("b", 3), None);
        if let Some(value) = table.get_mut("b") {
            *value += 1;
        }
        assert_eq!((table.len(), table.contains_key("a"), table.get("b")), (2, true, Some(&4)));
        let mut entries: Vec<_> = table.iter().map(|(key, value)| (*key, *value)).collect();
        entries.sort_unstable();
        assert_eq!((entries, table.keys().count()), (vec![("a", 2), ("b", 4)], 2));
        assert_eq!((table.remove("a"), table.remove("a")), (Some(2), None));
        assert_eq!((table.len(), table.get("a")), (1, None));
    }
}
