//! Who owns a record that outlives its container, and who takes it over: what set-ups and sessions share.
//!
//! A record names the life of the container that owns it. Ownership changes by compare-and-set of that record, in
//! one batch with the move of its entry in the *index by owner* ([`index`]), which says what a dead container has
//! left behind. [`neighbours`] judges who is alive and what of a dead one's estate falls to us, [`sweep`] goes
//! through the index, [`identity`] finds the set-up that a message belongs to.
//!
//! A batch lies within one hash tag, so the tag of all these records is a *bucket*: the first octet of the id.
//!
//! Deliberately absent: what the records hold ([`crate::setup`], [`crate::session`]); reading and writing them,
//! which the shard asks for as effects.

pub mod identity;
pub mod index;
pub mod neighbours;
pub mod sweep;

use bytes::Bytes;

/// Octets of the id of a set-up or a session.
pub const ID_BYTES: usize = 16;

/// How many hash tags the records of set-ups and sessions are spread over.
pub const BUCKETS: u16 = 256;

/// The hash tag of everything that belongs to the record of this id.
pub fn bucket(id: &[u8; ID_BYTES]) -> Bytes {
    tag_of(id[0])
}

/// The hash tag of one bucket.
pub fn tag_of(bucket: u8) -> Bytes {
    Bytes::copy_from_slice(&[bucket])
}
