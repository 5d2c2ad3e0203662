//! A record ⇄ the bytes of its Redis string.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format level |
//! | 8 | version, big endian: commits compare these bytes |
//! | 8 | when it expires, in milliseconds, big endian; 0: never |
//! | … | the value |
//!
//! Redis keeps it in memory and sends it over streams that are checked, so there is no checksum as in LMDB's pages. The
//! commit id lies in the partition's ledger, not here: there it also tells of deletes, and of records that were written
//! again since.

use bytes::Bytes;

use crate::record::{Record, Version};
use crate::time::UnixMillis;

/// The lowest level that this release reads, and writes unless its cluster writes a higher one.
pub(super) const LEVEL: u8 = 1;
/// The highest one: the next release's, which looks the same so far.
pub(super) const LEVEL_NEWEST: u8 = LEVEL + 1;
/// What stands before the value.
pub(super) const HEADER_BYTES: usize = 17;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Of a level that is not read.
    Level(u8),
    /// It ends early.
    Short,
}

/// The bytes of a record at a level that this release reads.
pub(super) fn encode(
    level: u8,
    version: Version,
    expires_at: Option<UnixMillis>,
    value: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + value.len());
    out.push(level);
    out.extend_from_slice(&version.0.to_be_bytes());
    // An expiry of 0 is over like that of 1, and 0 says "never".
    let expires_at = expires_at.map_or(0, |at| at.0.max(1));
    out.extend_from_slice(&expires_at.to_be_bytes());
    out.extend_from_slice(value);
    out
}

/// The record of its bytes, whether or not its lifetime is over.
///
/// # Errors
/// [`Damage`].
pub(super) fn decode(bytes: Vec<u8>) -> Result<Record, Damage> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Damage::Short);
    };
    if !(LEVEL..=LEVEL_NEWEST).contains(&head[0]) {
        return Err(Damage::Level(head[0]));
    }
    let number =
        |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("a slice of 8 octets"));
    let (version, expires_at) = (Version(number(1)), number(9));
    let expires_at = (expires_at != 0).then_some(UnixMillis(expires_at));
    Ok(Record { version, value: Bytes::from(bytes).slice(HEADER_BYTES..), expires_at })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(version: u64, expires_at in proptest::option::of(1_u64..), value: Vec<u8>) {
            let expires_at = expires_at.map(UnixMillis);
            let record = Record { version: Version(version), value: Bytes::from(value.clone()), expires_at };
            prop_assert_eq!(decode(encode(LEVEL, Version(version), expires_at, &value)), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(bytes);
        }
    }

    #[test]
    fn other_levels_are_refused() {
        let mut bytes = encode(LEVEL_NEWEST, Version(1), None, b"value");
        assert!(decode(bytes.clone()).is_ok());
        bytes[0] = LEVEL_NEWEST + 1;
        assert_eq!(decode(bytes), Err(Damage::Level(LEVEL_NEWEST + 1)));
        assert_eq!(decode(vec![LEVEL]), Err(Damage::Short));
    }
}
