//! Where a record lies: its partition, and the names that Redis sees.
//!
//! A hash tag of ours belongs to one of [`PARTITIONS`] partitions, and each of these to one slot of Redis: so a batch is
//! atomic, and a list of a space is that of few sorted sets. Names of a partition begin with its Redis hash tag `{…}`:
//!
//! | name | what |
//! |---|---|
//! | `{…}` key | a record; the key in its [ordered form](crate::engine::ordered_key) |
//! | `{…}:i` | sorted set of the keys of the partition's records, all scores 0 |
//! | `{…}:l` | the ledger: commit id and version of the last commits, 16 octets each |
//! | `{…}:s` | when the partition was last swept |
//!
//! A space's name has no colon, so that nothing collides. The Redis hash tag is the lowest number (behind the namespace)
//! whose slot lies in the partition's share of all slots: partitions are spread over the slots as evenly as can be, and
//! every release finds the same ones.

use std::fmt;

use crate::engine::ordered_key;
use crate::key::Key;

/// How many partitions there are. Few make lists cheap (each asks all of them), many make a small share to move; and
/// a move holds up the commits of one partition at a time.
pub(super) const PARTITIONS: usize = 256;
/// How many slots Redis has.
pub(super) const SLOTS: u16 = 16_384;
const SLOTS_PER_PARTITION: u16 = SLOTS / PARTITIONS as u16;

/// One of the [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Partition(u8);

impl Partition {
    /// That of a hash tag of ours.
    pub(super) fn of(tag: &[u8]) -> Self {
        Self(crc32c::crc32c(tag) as u8)
    }

    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// Its number, from 0.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.0)
    }
}

/// The names of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Redis hash tag, braces included, and slot of each partition.
    partitions: Vec<(Vec<u8>, u16)>,
}

impl Layout {
    /// That of a namespace, which has no braces.
    pub(super) fn new(namespace: &str) -> Self {
        let mut found: Vec<Option<(Vec<u8>, u16)>> = vec![None; PARTITIONS];
        let mut missing = PARTITIONS;
        for number in 0_u32.. {
            let tag = format!("{namespace}{number}");
            let slot = slot_of(tag.as_bytes());
            let partition = &mut found[usize::from(slot / SLOTS_PER_PARTITION)];
            if partition.is_none() {
                *partition = Some((format!("{{{tag}}}").into_bytes(), slot));
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        Self { partitions: found.into_iter().flatten().collect() }
    }

    /// The slot of a partition.
    pub(super) fn slot(&self, partition: Partition) -> u16 {
        self.partitions[partition.index()].1
    }

    /// The slots of all partitions.
    pub(super) fn slots(&self) -> impl Iterator<Item = u16> + Clone {
        self.partitions.iter().map(|(_, slot)| *slot)
    }

    /// The Redis hash tag of a partition, with its braces.
    pub(super) fn tag(&self, partition: Partition) -> &[u8] {
        &self.partitions[partition.index()].0
    }

    /// The name of a record.
    pub(super) fn record(&self, key: &Key) -> Vec<u8> {
        let tag = self.tag(Partition::of(&key.tag));
        let length = key.space.as_str().len() + key.tag.len() + key.id.len() + 8;
        let mut name = Vec::with_capacity(tag.len() + length);
        name.extend_from_slice(tag);
        ordered_key::encode_into(key, &mut name);
        name
    }

    /// The name of a partition's sorted set of keys.
    pub(super) fn index(&self, partition: Partition) -> Vec<u8> {
        [self.tag(partition), b":i"].concat()
    }

    /// The name of a partition's ledger.
    pub(super) fn ledger(&self, partition: Partition) -> Vec<u8> {
        [self.tag(partition), b":l"].concat()
    }

    /// The name of a partition's mark of the last sweep.
    pub(super) fn swept(&self, partition: Partition) -> Vec<u8> {
        [self.tag(partition), b":s"].concat()
    }
}

/// CRC-16/XMODEM over the hash tag, modulo [`SLOTS`]. Source: Redis cluster specification, "Key distribution model".
fn slot_of(tag: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for &byte in tag {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::key::Space;

    #[test]
    fn slots_are_those_of_redis() {
        // Source: Redis cluster specification, appendix A (0x31C3 is 12739), and `CLUSTER KEYSLOT`.
        assert_eq!(slot_of(b"123456789"), 12_739);
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn every_partition_has_a_slot_of_its_own_share() {
        for namespace in ["", "other-"] {
            let layout = Layout::new(namespace);
            for partition in Partition::all() {
                let slot = layout.slot(partition);
                assert_eq!(usize::from(slot / SLOTS_PER_PARTITION), partition.index());
                let tag = layout.tag(partition);
                assert_eq!(slot_of(&tag[1..tag.len() - 1]), slot);
            }
        }
    }

    /// Whatever a release calls them, the next one must find: stored records lie there.
    #[test]
    fn names_stay_what_they_are() {
        let layout = Layout::new("");
        let key = Key::new(Space::named("space"), "tag", "id");
        let partition = Partition::of(b"tag");
        assert_eq!(partition, Partition(223));
        let name = layout.record(&key);
        assert_eq!(name.escape_ascii().to_string(), "{251}space\\x00tag\\x00\\x01id");
        assert_eq!(layout.ledger(partition), b"{251}:l");
    }
}
