//! The secret that all members of a cluster share.

use std::fmt;
use std::path::Path;

use super::{CredentialError, private_file};
use crate::keys::{Key, KeyRing, SECRET_BYTES};

/// 32 octets that only members know. Each use has a key of its own ([`derive`](ClusterSecret::derive)).
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; SECRET_BYTES]);

impl ClusterSecret {
    /// One that nobody knows yet.
    ///
    /// # Errors
    /// [`CredentialError::Random`].
    pub fn make() -> Result<ClusterSecret, CredentialError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(CredentialError::Random)?;
        Ok(ClusterSecret(secret))
    }

    /// Reads it from its file.
    ///
    /// # Errors
    /// [`CredentialError`] when it is not there, not a secret, or others can read it.
    pub fn load(path: &Path) -> Result<ClusterSecret, CredentialError> {
        let text = private_file::read_private(path)?;
        ClusterSecret::from_hex(text.trim_end()).ok_or_else(|| CredentialError::Damaged {
            path: path.to_owned(),
            reason: "not 64 hexadecimal digits".to_owned(),
        })
    }

    /// Writes it, mode 0600.
    ///
    /// # Errors
    /// [`CredentialError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), CredentialError> {
        private_file::write(path, &format!("{}\n", self.to_hex()))
    }

    /// The key for one use: `"gossip"`, `"join-token"`.
    pub fn derive(&self, purpose: &str) -> Key {
        KeyRing::new(self.0).derive(purpose)
    }

    /// The password of [`STORE_USER`](super::STORE_USER) at the cluster's stores.
    pub fn store_password(&self) -> String {
        hex(self.derive("store").current())
    }

    /// As it is handed to a node that joins, and no further.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// `None` when the text is not 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<ClusterSecret> {
        let digits = text.as_bytes();
        if digits.len() != 2 * SECRET_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut secret = [0; SECRET_BYTES];
        for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(ClusterSecret(secret))
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecret").finish_non_exhaustive()
    }
}
