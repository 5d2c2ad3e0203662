//! [`Key`] ⇄ the bytes under which LMDB files it: its [ordered form](crate::engine::ordered_key), cut where it is long.
//!
//! LMDB keys have at most 511 bytes, and the expiry index puts 8 more in front. An encoded key over
//! [`WHOLE_BYTES_MAX`] is filed under its first [`HEAD_BYTES`] and a BLAKE3 hash of all of it, always
//! [`HASHED_BYTES`] long; the record then holds the whole key, which every read compares. Such keys are found
//! and listed by prefix like the others, only their order among themselves is that of the hash.

use crate::engine::ordered_key;
use crate::key::{Key, Prefix, Space};

pub(super) use ordered_key::decode;

/// Encoded keys up to here are filed whole.
pub(super) const WHOLE_BYTES_MAX: usize = HASHED_BYTES - 1;
/// The length of every hashed key, which no whole key has.
const HASHED_BYTES: usize = HEAD_BYTES + blake3::OUT_LEN;
/// How much of a long key is kept in the clear, for prefixes.
const HEAD_BYTES: usize = 416;

/// A key as LMDB files it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredKey {
    /// What LMDB sees.
    pub(super) filed: Vec<u8>,
    /// The whole encoded key where `filed` is hashed.
    pub(super) whole: Option<Vec<u8>>,
}

impl StoredKey {
    pub(super) fn of(key: &Key) -> Self {
        let whole = ordered_key::encode(key);
        if whole.len() <= WHOLE_BYTES_MAX {
            return Self { filed: whole, whole: None };
        }
        let mut filed = whole[..HEAD_BYTES].to_vec();
        filed.extend_from_slice(blake3::hash(&whole).as_bytes());
        Self { filed, whole: Some(whole) }
    }
}

/// Whether these filed bytes are the hashed form of a long key.
pub(super) fn is_hashed(filed: &[u8]) -> bool {
    filed.len() == HASHED_BYTES
}

/// The byte prefix that all filed keys of a prefix have. Where it is cut (long prefixes), others may have it too:
/// whoever lists compares with [`Prefix::matches`].
pub(super) fn filed_prefix(space: &Space, prefix: &Prefix) -> Vec<u8> {
    let mut bytes = ordered_key::prefix(space, prefix);
    bytes.truncate(HEAD_BYTES);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const SPACE: Space = Space::named("bindings");

    fn part() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..12),
            prop::collection::vec(any::<u8>(), 0..500),
        ]
    }

    fn key(tag: Vec<u8>, id: Vec<u8>) -> Key {
        Key::new(SPACE, tag, id)
    }

    proptest! {
        #[test]
        fn a_key_comes_back_as_it_was(tag in part(), id in part()) {
            let key = key(tag, id);
            let stored = StoredKey::of(&key);
            prop_assert_eq!(is_hashed(&stored.filed), stored.whole.is_some());
            prop_assert_eq!(decode(stored.whole.as_deref().unwrap_or(&stored.filed)).unwrap(), key);
        }

        #[test]
        fn filed_keys_leave_room_for_the_expiry_index(tag in part(), id in part()) {
            prop_assert!(StoredKey::of(&key(tag, id)).filed.len() + 8 <= 511);
        }

        #[test]
        fn filed_order_is_key_order(a in (part(), part()), b in (part(), part())) {
            let (a, b) = (key(a.0, a.1), key(b.0, b.1));
            let (filed_a, filed_b) = (StoredKey::of(&a), StoredKey::of(&b));
            if filed_a.whole.is_none() && filed_b.whole.is_none() {
                prop_assert_eq!(filed_a.filed.cmp(&filed_b.filed), a.cmp(&b));
            }
        }

        #[test]
        fn a_prefix_covers_what_it_matches(tag in part(), id in part(), cut in any::<prop::sample::Index>()) {
            let key = key(tag.clone(), id.clone());
            let filed = StoredKey::of(&key).filed;
            let tag_start = Prefix::TagStart(Bytes::copy_from_slice(&tag[..cut.index(tag.len() + 1)]));
            let id_start = Bytes::copy_from_slice(&id[..cut.index(id.len() + 1)]);
            for prefix in [Prefix::All, tag_start, Prefix::Tag { tag: tag.into(), id_start }] {
                prop_assert!(prefix.matches(&key));
                prop_assert!(filed.starts_with(&filed_prefix(&SPACE, &prefix)));
            }
        }
    }
}
