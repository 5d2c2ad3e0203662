//! What was read of the account store and still stands.
//!
//! Whoever logs in is looked up twice a request, and accounts hardly ever change. So what was read is kept, decoded,
//! until anybody commits anything to the store: the store says so at once, whichever process it was, so a password
//! that was changed is gone with the next request. Bounded: at [`KNOWN_MAX`] all is forgotten. That nobody has a name
//! is not kept, so that strangers who try names push nobody out.

use std::sync::Arc;

use ahash::AHashMap;

use super::record::PrivateIdentity;

/// Private identities, and as many public ones: some 6 MB.
const KNOWN_MAX: usize = 16_384;

/// Records of the account store as of one of its commits.
#[derive(Debug, Default)]
pub(super) struct Known {
    as_of: Option<u64>,
    /// By `user@realm`.
    pub(super) identities: AHashMap<Box<str>, Arc<PrivateIdentity>>,
    /// Names of accounts by address-of-record.
    pub(super) owners: AHashMap<Box<str>, Arc<str>>,
}

impl Known {
    /// Forgets everything if it is as of another commit than this one, or if it is too much.
    pub(super) fn keep_if_as_of(&mut self, last_commit: Option<u64>) {
        let is_full = self.identities.len() >= KNOWN_MAX || self.owners.len() >= KNOWN_MAX;
        if last_commit.is_none() || self.as_of != last_commit || is_full {
            self.identities.clear();
            self.owners.clear();
            self.as_of = last_commit;
        }
    }

    /// Whether what was read behind `last_commit` may be added.
    pub(super) fn is_as_of(&self, last_commit: Option<u64>) -> bool {
        last_commit.is_some() && self.as_of == last_commit
    }
}
