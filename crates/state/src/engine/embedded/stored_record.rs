//! A record ⇄ the bytes that LMDB keeps for it.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format level |
//! | 1 | flags: 1 = has a lifetime, 2 = holds the whole key (see [`super::stored_key`]) |
//! | 1 | header length, up to and without the whole key; a newer level may append fields, which are skipped |
//! | 4 | CRC-32C, little endian, over the filed key and all other bytes of the record |
//! | 8 | version |
//! | 8 + 8 | with a lifetime: when it ends; when the expiry index has it (never later, see [`super::expiry`]) |
//! | 2 + n | with the whole key: its length and bytes |
//! | … | the value |
//!
//! LMDB has no page checksums, and without sync power loss can mix old and new pages: this checksum is what
//! notices. It covers the key, so that a record that turns up under another one's key is noticed too.

use crate::record::Version;
use crate::time::UnixMillis;

/// The level that this release writes.
pub(super) const LEVEL: u8 = 1;
/// The oldest level that it reads.
pub(super) const LEVEL_OLDEST: u8 = 1;
/// The newest level that it reads: one up, so that releases can be mixed while a cluster is upgraded.
pub(super) const LEVEL_NEWEST: u8 = LEVEL + 1;

const HAS_LIFETIME: u8 = 1;
const HAS_WHOLE_KEY: u8 = 2;

pub(super) const CHECKSUM_AT: usize = 3;
pub(super) const VERSION_AT: usize = 7;
const EXPIRES_AT: usize = 15;
const INDEXED_AT: usize = 23;
const HEADER_BYTES_PLAIN: usize = 15;
const HEADER_BYTES_LIFETIME: usize = 31;

/// When a record's lifetime ends, and where the expiry index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) expires_at: UnixMillis,
    pub(super) indexed_at: UnixMillis,
}

/// A record as it lies in LMDB's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredRecord<'a> {
    pub(super) version: Version,
    pub(super) lifetime: Option<Lifetime>,
    pub(super) whole_key: Option<&'a [u8]>,
    pub(super) value: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Of a level that is not read.
    Level(u8),
    /// Wrong checksum or form.
    Broken(&'static str),
}

impl<'a> StoredRecord<'a> {
    pub(super) fn encode_into(&self, filed_key: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let mut flags = 0;
        let mut header = HEADER_BYTES_PLAIN;
        if self.lifetime.is_some() {
            flags |= HAS_LIFETIME;
            header = HEADER_BYTES_LIFETIME;
        }
        if self.whole_key.is_some() {
            flags |= HAS_WHOLE_KEY;
        }
        let header = u8::try_from(header).expect("both header lengths are below 256");
        out.extend_from_slice(&[LEVEL, flags, header, 0, 0, 0, 0]);
        out.extend_from_slice(&self.version.0.to_le_bytes());
        if let Some(lifetime) = self.lifetime {
            out.extend_from_slice(&lifetime.expires_at.0.to_le_bytes());
            out.extend_from_slice(&lifetime.indexed_at.0.to_le_bytes());
        }
        if let Some(key) = self.whole_key {
            let length = u16::try_from(key.len()).expect("Key::check bounds a key far below 64 kB");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(key);
        }
        out.extend_from_slice(self.value);
        let checksum = checksum(filed_key, out);
        out[CHECKSUM_AT..VERSION_AT].copy_from_slice(&checksum.to_le_bytes());
    }

    /// # Errors
    /// [`Damage`]. The checksum is verified before anything else but the level is believed.
    pub(super) fn decode(filed_key: &[u8], bytes: &'a [u8]) -> Result<Self, Damage> {
        const SHORT: Damage = Damage::Broken("it ends early");
        if bytes.len() < HEADER_BYTES_PLAIN {
            return Err(SHORT);
        }
        let (level, flags, header) = (bytes[0], bytes[1], usize::from(bytes[2]));
        let stated = u32::from_le_bytes(array(bytes, CHECKSUM_AT));
        if stated != checksum(filed_key, bytes) {
            return Err(Damage::Broken("its checksum is wrong"));
        }
        if !(LEVEL_OLDEST..=LEVEL_NEWEST).contains(&level) {
            return Err(Damage::Level(level));
        }
        let header_least =
            if flags & HAS_LIFETIME == 0 { HEADER_BYTES_PLAIN } else { HEADER_BYTES_LIFETIME };
        if header < header_least || bytes.len() < header {
            return Err(SHORT);
        }
        let lifetime = (flags & HAS_LIFETIME != 0).then(|| Lifetime {
            expires_at: UnixMillis(u64::from_le_bytes(array(bytes, EXPIRES_AT))),
            indexed_at: UnixMillis(u64::from_le_bytes(array(bytes, INDEXED_AT))),
        });
        let mut value = &bytes[header..];
        let mut whole_key = None;
        if flags & HAS_WHOLE_KEY != 0 {
            let (length, rest) = value.split_first_chunk::<2>().ok_or(SHORT)?;
            let (key, rest) =
                rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(SHORT)?;
            (whole_key, value) = (Some(key), rest);
        }
        let version = Version(u64::from_le_bytes(array(bytes, VERSION_AT)));
        Ok(Self { version, lifetime, whole_key, value })
    }

    /// Whether its lifetime is over at `now`.
    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.lifetime.is_some_and(|lifetime| lifetime.expires_at <= now)
    }
}

fn checksum(filed_key: &[u8], record: &[u8]) -> u32 {
    let sum = crc32c::crc32c(filed_key);
    let sum = crc32c::crc32c_append(sum, &record[..CHECKSUM_AT]);
    crc32c::crc32c_append(sum, &record[VERSION_AT..])
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the caller checked the length")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn encode(key: &[u8], record: &StoredRecord<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode_into(key, &mut bytes);
        bytes
    }

    /// Gives the bytes a right checksum again after a test changed them.
    fn seal(key: &[u8], bytes: &mut [u8]) {
        let sum = checksum(key, bytes);
        bytes[CHECKSUM_AT..VERSION_AT].copy_from_slice(&sum.to_le_bytes());
    }

    fn plain(value: &[u8]) -> StoredRecord<'_> {
        StoredRecord { version: Version(7), lifetime: None, whole_key: None, value }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            key in prop::collection::vec(any::<u8>(), 1..40),
            version in any::<u64>(),
            lifetime in any::<Option<(u64, u64)>>(),
            whole in any::<Option<Vec<u8>>>(),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let lifetime = lifetime.map(|(expires, indexed)| Lifetime {
                expires_at: UnixMillis(expires),
                indexed_at: UnixMillis(indexed),
            });
            let record = StoredRecord { version: Version(version), lifetime, whole_key: whole.as_deref(), value: &value };
            let bytes = encode(&key, &record);
            prop_assert_eq!(StoredRecord::decode(&key, &bytes).unwrap(), record);
        }

        #[test]
        fn any_flipped_bit_is_noticed(value in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encode(b"key", &plain(&value));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(StoredRecord::decode(b"key", &bytes).is_err());
        }

        #[test]
        fn decoding_random_bytes_does_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), sealed in any::<bool>()) {
            if sealed && bytes.len() >= HEADER_BYTES_PLAIN {
                bytes[0] = LEVEL;
                seal(b"key", &mut bytes);
            }
            let _ = StoredRecord::decode(b"key", &bytes);
        }
    }

    #[test]
    fn a_record_under_another_key_is_noticed() {
        let bytes = encode(b"alice", &plain(b"value"));
        assert_eq!(
            StoredRecord::decode(b"bob", &bytes),
            Err(Damage::Broken("its checksum is wrong"))
        );
    }

    #[test]
    fn one_level_up_is_read_and_its_new_header_fields_are_skipped() {
        let mut bytes = encode(b"key", &plain(b"value"));
        bytes[0] = LEVEL + 1;
        bytes[2] += 4;
        bytes.splice(HEADER_BYTES_PLAIN..HEADER_BYTES_PLAIN, *b"new!");
        seal(b"key", &mut bytes);
        assert_eq!(StoredRecord::decode(b"key", &bytes).unwrap(), plain(b"value"));
    }

    #[test]
    fn two_levels_up_is_refused() {
        let mut bytes = encode(b"key", &plain(b"value"));
        bytes[0] = LEVEL + 2;
        seal(b"key", &mut bytes);
        assert_eq!(StoredRecord::decode(b"key", &bytes), Err(Damage::Level(LEVEL + 2)));
    }
}
