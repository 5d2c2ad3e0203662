//! A sum over all records, kept with every commit, that tells whether they are exactly what one commit left.
//!
//! Power loss can leave pages of different ages in one file, and a tree put together from them may look sound:
//! every record with a right checksum, some of them old, some missing. The tally cannot be fooled so: a fingerprint
//! of each record is added when it is written and taken off when it is replaced or deleted, and the number of LMDB's
//! transaction is kept beside the sum, in that very transaction. If the records that are found come to the sum,
//! and the sum is that of the file's last transaction, then nothing is mixed and nothing is missing. (Versions
//! are never given twice, so two states of a store share a sum by chance only: one in 2^64.) Pure.

use super::stored_record::{CHECKSUM_AT, VERSION_AT};

/// The number of records, and the sum of their fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    records: u64,
    sum: u64,
}

/// Octets of a tally with its transaction.
const BYTES: usize = 24;

impl Tally {
    /// A record was written, as these octets.
    pub(super) fn add(&mut self, stored: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(fingerprint(stored));
    }

    /// A record was replaced or deleted whose fingerprint was this.
    pub(super) fn remove(&mut self, fingerprint: u64) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(fingerprint);
    }

    /// As it is stored, with the transaction that it belongs to.
    pub(super) fn encode(&self, transaction: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&transaction.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// The transaction and its tally; `None` if these octets are something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Tally)> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [transaction, records, sum] = *numbers else { return None };
        let tally = Tally { records: u64::from_le_bytes(records), sum: u64::from_le_bytes(sum) };
        Some((u64::from_le_bytes(transaction), tally))
    }
}

/// What a stored record adds to the sum: its version and checksum, well mixed, so that sums of few differences do
/// not meet. Octets too short for a record are damage; they are summed as what they are.
pub(super) fn fingerprint(stored: &[u8]) -> u64 {
    let checksum = stored.get(CHECKSUM_AT..VERSION_AT).and_then(|bytes| bytes.try_into().ok());
    let version = stored.get(VERSION_AT..VERSION_AT + 8).and_then(|bytes| bytes.try_into().ok());
    match (checksum.map(u32::from_le_bytes), version.map(u64::from_le_bytes)) {
        (Some(checksum), Some(version)) => mix(mix(version) ^ u64::from(checksum)),
        (_, _) => mix(u64::from(crc32c::crc32c(stored))),
    }
}

/// The finalizer of SplitMix64: every bit of the input changes half of those of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::stored_record::StoredRecord;
    use super::*;
    use crate::record::Version;

    fn stored(key: &[u8], version: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        StoredRecord { version: Version(version), lifetime: None, whole_key: None, value: b"v" }
            .encode_into(key, &mut bytes);
        bytes
    }

    #[test]
    fn the_order_of_changes_does_not_matter_and_their_sum_does() {
        let (a, b, newer) = (stored(b"a", 1), stored(b"b", 2), stored(b"a", 3));
        let (mut one, mut other) = (Tally::default(), Tally::default());
        for record in [&a, &b] {
            one.add(record);
        }
        one.remove(fingerprint(&a));
        one.add(&newer);
        for record in [&newer, &b] {
            other.add(record);
        }
        assert_eq!(one, other);
        other.remove(fingerprint(&newer));
        other.add(&a);
        assert_ne!(one, other, "an old record in the place of a new one");
    }

    #[test]
    fn a_tally_comes_back_with_its_transaction() {
        let mut tally = Tally::default();
        tally.add(&stored(b"a", 1));
        assert_eq!(Tally::decode(&tally.encode(7)), Some((7, tally)));
        assert_eq!(Tally::decode(&[0; 23]), None);
        assert_eq!(Tally::decode(&[0; 32]), None);
    }
}
