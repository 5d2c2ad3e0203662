//! A bounded table whose places are named by short keys: what a message carries in its branch or Call-ID, so that
//! its answer is found without a search.
//!
//! A key names a place and its use: when a place is used again, an old key names nothing. On the wire it is 16
//! hexadecimal digits.

use bytes::{BufMut as _, BytesMut};

/// Octets of a key on the wire.
pub(crate) const KEY_BYTES: usize = 16;

/// Names an entry of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    place: u32,
    /// Which use of the place; wraps.
    used: u32,
}

impl Key {
    /// Writes the key's 16 hexadecimal digits.
    pub(crate) fn put(self, out: &mut BytesMut) {
        let mut digits = [0; KEY_BYTES];
        let mut rest = u64::from(self.place) << 32 | u64::from(self.used);
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
            rest >>= 4;
        }
        out.put_slice(&digits);
    }

    /// Reads what [`put`](Self::put) wrote; `None` for everything else.
    pub(crate) fn parse(digits: &[u8]) -> Option<Key> {
        if digits.len() != KEY_BYTES {
            return None;
        }
        let mut number = 0_u64;
        for digit in digits {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            number = number << 4 | u64::from(value);
        }
        Some(Key { place: (number >> 32) as u32, used: number as u32 })
    }
}

#[derive(Debug)]
struct Place<T> {
    used: u32,
    entry: Option<T>,
}

/// Entries by key. Who inserts keeps the bound: scenarios begin no more than they may.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts an entry into a free place.
    pub(crate) fn insert(&mut self, entry: T) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { used: 0, entry: None });
            u32::try_from(self.places.len() - 1).expect("entries are bounded far below 2^32")
        });
        let slot = &mut self.places[place as usize];
        slot.used = slot.used.wrapping_add(1);
        slot.entry = Some(entry);
        Key { place, used: slot.used }
    }

    fn place(&mut self, key: Key) -> Option<&mut Place<T>> {
        self.places.get_mut(key.place as usize).filter(|place| place.used == key.used)
    }

    /// The entry that the key names, while it is there.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.place(key)?.entry.as_mut()
    }

    /// Takes an entry out; its key names nothing from then on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.place(key)?.entry.take()?;
        self.free.push(key.place);
        Some(entry)
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }

    /// The entries that are asked for, by a walk through all places.
    pub(crate) fn find_all(&self, mut is_one: impl FnMut(&T) -> bool) -> Vec<Key> {
        let places = self.places.iter().zip(0..);
        let found = places.filter(|(slot, _)| slot.entry.as_ref().is_some_and(&mut is_one));
        found.map(|(slot, place)| Key { place, used: slot.used }).collect()
    }

    /// Takes all entries out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<'_, T> {
        let free = &mut self.free;
        self.places.iter_mut().enumerate().filter_map(move |(place, slot)| {
            let entry = slot.entry.take()?;
            free.push(u32::try_from(place).expect("places are numbered by u32"));
            Some(entry)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_reads_back_from_the_wire() {
        for key in [Key { place: 0, used: 1 }, Key { place: 0xdead_beef, used: u32::MAX }] {
            let mut wire = BytesMut::new();
            key.put(&mut wire);
            assert_eq!((wire.len(), Key::parse(&wire)), (KEY_BYTES, Some(key)));
        }
        for other in ["", "000000000000000", "00000000000000001", "000000000000000G"] {
            assert_eq!(Key::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_place_is_used_again_and_its_old_key_names_nothing() {
        let mut table = Table::default();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        let second = table.insert("second");
        assert_eq!((first.place, table.get_mut(first)), (second.place, None));
        assert_eq!(table.get_mut(second).copied(), Some("second"));
        assert_eq!(table.find_all(|entry| *entry == "second"), [second]);
        assert!(!table.is_empty());
        assert_eq!(table.drain().collect::<Vec<_>>(), ["second"]);
        assert_eq!(table.remove(second), None);
    }
}
