//! The node's secrets and the keys derived from them.
//!
//! One 32-byte secret (and, after a rotation, the one before it) stands behind every branch,
//! flow token, owner token and nonce of the node. Each purpose gets its own key, so that a tag made
//! for one cannot be replayed as another. Tags are made with the current key and accepted under
//! either; that is what lets keys rotate under living calls. Keyed BLAKE3 throughout.
//!
//! The file they rest in: [`mod@file`]. Deliberately absent: when to rotate, which a later issue brings.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub mod file;

/// Octets of a secret and of a derived key.
pub const SECRET_BYTES: usize = 32;

/// The secrets of a node: the current one and, after a rotation, the one before it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRing {
    /// Format level of this record; readers refuse what they do not know.
    format: FormatLevel,
    current: Secret,
    previous: Option<Secret>,
}

/// The only format level written so far.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct FormatLevel;

impl TryFrom<u8> for FormatLevel {
    type Error = String;
    fn try_from(level: u8) -> Result<FormatLevel, String> {
        match level {
            1 => Ok(FormatLevel),
            other => Err(format!("key ring of format level {other}; this release reads level 1")),
        }
    }
}

impl From<FormatLevel> for u8 {
    fn from(_: FormatLevel) -> u8 {
        1
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Secret([u8; SECRET_BYTES]);

impl TryFrom<String> for Secret {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Secret, &'static str> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Secret)
            .ok_or("a secret is 32 octets in base64url")
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        URL_SAFE_NO_PAD.encode(secret.0)
    }
}

impl KeyRing {
    /// A ring of one secret.
    pub fn new(secret: [u8; SECRET_BYTES]) -> KeyRing {
        KeyRing { format: FormatLevel, current: Secret(secret), previous: None }
    }

    /// The ring after a rotation: `secret` signs, the former current one is still accepted, the one
    /// before that no longer.
    pub fn rotated(&self, secret: [u8; SECRET_BYTES]) -> KeyRing {
        KeyRing {
            format: FormatLevel,
            current: Secret(secret),
            previous: Some(self.current.clone()),
        }
    }

    /// The key for one purpose: `"branch"`, `"flow"`, `"owner"`, `"nonce"`.
    pub fn derive(&self, purpose: &str) -> Key {
        let derive = |secret: &Secret| {
            let mut context = blake3::Hasher::new_derive_key("outlast 2026 key ring v1");
            // The length keeps (purpose, secret) unambiguous, whatever purposes there will be.
            context.update(&(purpose.len() as u64).to_le_bytes());
            context.update(purpose.as_bytes());
            context.update(&secret.0);
            *context.finalize().as_bytes()
        };
        Key { current: derive(&self.current), previous: self.previous.as_ref().map(derive) }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").finish_non_exhaustive()
    }
}

/// The key of one purpose; signs with the current secret and verifies under both.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    current: [u8; SECRET_BYTES],
    previous: Option<[u8; SECRET_BYTES]>,
}

impl Key {
    /// The key that signs, for keyed hashes beside tags (deterministic branches).
    pub fn current(&self) -> &[u8; SECRET_BYTES] {
        &self.current
    }

    /// The keys to accept, the current one first.
    pub fn accepted(&self) -> impl Iterator<Item = &[u8; SECRET_BYTES]> {
        std::iter::once(&self.current).chain(self.previous.as_ref())
    }

    /// The first `N` octets (at most 32) of the keyed hash of `data`.
    pub fn tag<const N: usize>(&self, data: &[u8]) -> [u8; N] {
        tag_under(&self.current, data)
    }

    /// Whether `tag` was made from `data` under the current key or the previous one. Constant time
    /// in the tag; a tag shorter than 8 octets never verifies.
    pub fn verify(&self, data: &[u8], tag: &[u8]) -> bool {
        if !(TAG_BYTES_MIN..=SECRET_BYTES).contains(&tag.len()) {
            return false;
        }
        self.accepted().any(|key| {
            let expected = blake3::keyed_hash(key, data);
            let difference = expected
                .as_bytes()
                .iter()
                .zip(tag)
                .fold(0, |difference, (a, b)| difference | (a ^ b));
            difference == 0
        })
    }
}

/// Shorter tags could be guessed by sending messages.
const TAG_BYTES_MIN: usize = 8;

fn tag_under<const N: usize>(key: &[u8; SECRET_BYTES], data: &[u8]) -> [u8; N] {
    const { assert!(N <= SECRET_BYTES) };
    let hash = blake3::keyed_hash(key, data);
    let mut tag = [0; N];
    tag.copy_from_slice(&hash.as_bytes()[..N]);
    tag
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn purposes_have_keys_of_their_own() {
        let ring = KeyRing::new([1; SECRET_BYTES]);
        let tag = ring.derive("flow").tag::<16>(b"data");
        assert!(ring.derive("flow").verify(b"data", &tag));
        assert!(!ring.derive("owner").verify(b"data", &tag));
        assert!(!ring.derive("flow").verify(b"datb", &tag));
    }

    #[test]
    fn a_tag_outlives_one_rotation_and_not_two() {
        let first = KeyRing::new([1; SECRET_BYTES]);
        let tag = first.derive("flow").tag::<16>(b"data");
        let second = first.rotated([2; SECRET_BYTES]);
        assert!(second.derive("flow").verify(b"data", &tag));
        let third = second.rotated([3; SECRET_BYTES]);
        assert!(!third.derive("flow").verify(b"data", &tag));
    }

    #[test]
    fn short_and_long_tags_are_refused() {
        let key = KeyRing::new([1; SECRET_BYTES]).derive("flow");
        let tag = key.tag::<32>(b"data");
        assert!(!key.verify(b"data", &[]));
        assert!(!key.verify(b"data", &tag[..7]));
        assert!(key.verify(b"data", &tag[..8]));
        assert!(!key.verify(b"data", &[tag.as_slice(), &[0]].concat()));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let ring = KeyRing::new([0xab; SECRET_BYTES]);
        assert_eq!(format!("{ring:?}"), "KeyRing { .. }");
        assert_eq!(format!("{:?}", ring.derive("flow")), "Key { .. }");
    }

    #[test]
    fn a_ring_of_another_format_level_is_refused() {
        let ring = KeyRing::new([1; SECRET_BYTES]).rotated([2; SECRET_BYTES]);
        let json = serde_json::to_string(&ring).unwrap();
        assert_eq!(serde_json::from_str::<KeyRing>(&json).unwrap(), ring);
        let later = json.replace("\"format\":1", "\"format\":2");
        let error = serde_json::from_str::<KeyRing>(&later).unwrap_err();
        assert!(error.to_string().contains("format level 2"), "{error}");
    }
}
