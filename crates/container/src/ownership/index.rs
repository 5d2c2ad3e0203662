//! The index by owner: one entry for each record that a container owns, so that its estate is found when it is dead.
//!
//! | | |
//! |---|---|
//! | space | `owned` |
//! | tag | bucket of the record |
//! | id | owner's incarnation, 8 octets big-endian; kind, 1 octet; id of the record, 16 octets |
//! | value | choice hash, 8 octets big-endian: by which the heirs share the estate |
//!
//! An entry is written, moved and removed in one batch with its record. One that has no record (its lifetime was
//! longer) is removed by whoever meets it.

use bytes::{BufMut, Bytes, BytesMut};
use state::{Batch, Expect, Key, Prefix, Space, UnixMillis};
use topology::{ChoiceHash, Incarnation};

use super::{ID_BYTES, bucket, tag_of};

/// Where the entries lie.
pub const OWNED: Space = Space::named("owned");

const OWNER_BYTES: usize = 8;
const ENTRY_BYTES: usize = OWNER_BYTES + 1 + ID_BYTES;

/// What kind of record an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The set-up of a proxied call ([`crate::setup`]).
    SetUp,
    /// An application session ([`crate::session`]).
    Session,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::SetUp => 1,
            RecordKind::Session => 2,
        }
    }

    fn from_code(code: u8) -> Option<RecordKind> {
        match code {
            1 => Some(RecordKind::SetUp),
            2 => Some(RecordKind::Session),
            _ => None,
        }
    }
}

/// One entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Who owns the record.
    pub owner: Incarnation,
    /// What kind of record it is.
    pub kind: RecordKind,
    /// Its id.
    pub id: [u8; ID_BYTES],
    /// What its messages are routed by, so that the heir gets them, too.
    pub choice: ChoiceHash,
}

impl Owned {
    /// The key of the entry.
    pub fn key(&self) -> Key {
        let mut id = BytesMut::with_capacity(ENTRY_BYTES);
        id.put_u64(self.owner.0);
        id.put_u8(self.kind.code());
        id.put_slice(&self.id);
        Key::new(OWNED, bucket(&self.id), id.freeze())
    }

    /// The value of the entry.
    pub fn value(&self) -> Bytes {
        Bytes::copy_from_slice(&self.choice.0.to_be_bytes())
    }

    /// Reads an entry back; None for what has another form.
    pub fn read(key: &Key, value: &[u8]) -> Option<Owned> {
        let entry: &[u8; ENTRY_BYTES] = key.id.as_ref().try_into().ok()?;
        let (owner, rest) = entry.split_first_chunk::<OWNER_BYTES>()?;
        let (kind, id) = rest.split_first()?;
        Some(Owned {
            owner: Incarnation(u64::from_be_bytes(*owner)),
            kind: RecordKind::from_code(*kind)?,
            id: id.try_into().ok()?,
            choice: ChoiceHash(u64::from_be_bytes(value.try_into().ok()?)),
        })
    }

    /// The same record in the hands of `owner`.
    pub fn of(self, owner: Incarnation) -> Owned {
        Owned { owner, ..self }
    }

    /// Adds the entry to a batch of its record's bucket.
    pub fn enter(&self, batch: Batch, expires_at: Option<UnixMillis>) -> Batch {
        batch.put(self.key(), Expect::Any, self.value(), expires_at)
    }

    /// Removes the entry in a batch of its record's bucket.
    pub fn strike(&self, batch: Batch) -> Batch {
        batch.delete(self.key(), Expect::Any)
    }
}

/// Who owns the record of an entry with this key; None for what is no entry.
pub fn owner_of(key: &Key) -> Option<Incarnation> {
    let owner = key.id.first_chunk::<OWNER_BYTES>()?;
    Some(Incarnation(u64::from_be_bytes(*owner)))
}

/// All entries of one owner in one bucket.
pub fn estate(bucket: u8, owner: Incarnation) -> Prefix {
    Prefix::Tag { tag: tag_of(bucket), id_start: Bytes::copy_from_slice(&owner.0.to_be_bytes()) }
}

/// Behind all entries of `owner` in one bucket, before those of the next.
pub fn behind(bucket: u8, owner: Incarnation) -> Key {
    let mut id = BytesMut::with_capacity(ENTRY_BYTES + 1);
    id.put_u64(owner.0);
    id.put_bytes(0xff, ENTRY_BYTES - OWNER_BYTES + 1);
    Key::new(OWNED, tag_of(bucket), id.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_reads_back_and_lies_in_its_owners_estate(
            owner: u64, id: [u8; ID_BYTES], choice: u64, is_session: bool,
        ) {
            let kind = if is_session { RecordKind::Session } else { RecordKind::SetUp };
            let entry = Owned { owner: Incarnation(owner), kind, id, choice: ChoiceHash(choice) };
            let (key, value) = (entry.key(), entry.value());
            prop_assert_eq!(Owned::read(&key, &value), Some(entry));
            prop_assert_eq!(owner_of(&key), Some(Incarnation(owner)));
            prop_assert!(estate(id[0], Incarnation(owner)).matches(&key));
            prop_assert!(key < behind(id[0], Incarnation(owner)));
            if owner < u64::MAX {
                prop_assert!(behind(id[0], Incarnation(owner)) < entry.of(Incarnation(owner + 1)).key());
            }
        }

        #[test]
        fn what_has_another_form_is_no_entry(id: Vec<u8>, value: Vec<u8>) {
            prop_assume!(id.len() != ENTRY_BYTES || value.len() != 8);
            prop_assert_eq!(Owned::read(&Key::new(OWNED, "b", id), &value), None);
        }
    }
}
