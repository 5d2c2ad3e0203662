//! The node's secrets and the keys derived from them.
//!
//! Two roots of 32 octets stand behind everything that the node MACs. Each purpose gets its own key,
//! so that a tag made for one cannot be replayed as another. Keyed BLAKE3 throughout.
//!
//! - The *lasting* root is never replaced. Branches, loop marks, To tags and the ids of set-ups come from
//!   it: they must come out the same for a retransmission, for its CANCEL and in a successor, however
//!   many rotations lie between. So do the tokens of dialogs, for a call may last longer than two rotations and
//!   must not lose its BYE: the flow tokens of Record-Route, good within their dialog only, and owner tokens, which
//!   lead to a container and no further.
//! - The *rotating* root signs what strangers could use otherwise: flow tokens of registrations and Vias, nonces.
//!   Tags are made under the current one and accepted under the one before as well; that is what lets it
//!   rotate under living registrations.
//!
//! The file they rest in: [`mod@file`]; when it is time to rotate: [`rotation`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub mod file;
pub mod rotation;

/// Octets of a secret and of a derived key.
pub const SECRET_BYTES: usize = 32;

/// What is derived from the lasting root; every other purpose rotates.
const LASTING_PURPOSES: [&str; 6] =
    ["branch", "setup", "to-tag", "dialog", "owner", "http-session"];

/// The secrets of a node: the lasting root, the rotating one and, after a rotation, the one before it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct KeyRing {
    lasting: Secret,
    current: Secret,
    previous: Option<Secret>,
    /// Unix milliseconds at which `current` began to sign; `None` in a ring of format level 1.
    current_since: Option<u64>,
}

/// The ring as it is written. Level 1, of earlier releases, had neither `lasting` nor `current_since`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u8,
    #[serde(default)]
    lasting: Option<Secret>,
    current: Secret,
    previous: Option<Secret>,
    #[serde(default)]
    current_since: Option<u64>,
}

/// The level that is written.
const FORMAT_LEVEL: u8 = 2;

impl TryFrom<Stored> for KeyRing {
    type Error = String;
    fn try_from(stored: Stored) -> Result<KeyRing, String> {
        let Stored { format, lasting, current, previous, current_since } = stored;
        match (format, lasting) {
            // Its branches were derived from the current secret: they stay what they are.
            (1, None) => {
                Ok(KeyRing { lasting: current.clone(), current, previous, current_since: None })
            }
            (2, Some(lasting)) => Ok(KeyRing { lasting, current, previous, current_since }),
            (1 | 2, _) => Err(format!("not a key ring of format level {format}")),
            (other, _) => {
                Err(format!("key ring of format level {other}; this release reads levels 1 and 2"))
            }
        }
    }
}

impl From<KeyRing> for Stored {
    fn from(ring: KeyRing) -> Stored {
        let KeyRing { lasting, current, previous, current_since } = ring;
        Stored { format: FORMAT_LEVEL, lasting: Some(lasting), current, previous, current_since }
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
    /// A ring whose two roots are one secret, of unknown age.
    pub fn new(secret: [u8; SECRET_BYTES]) -> KeyRing {
        KeyRing {
            lasting: Secret(secret),
            current: Secret(secret),
            previous: None,
            current_since: None,
        }
    }

    /// A new node's ring; `now` in Unix milliseconds.
    pub fn made(lasting: [u8; SECRET_BYTES], current: [u8; SECRET_BYTES], now: u64) -> KeyRing {
        KeyRing { lasting: Secret(lasting), current_since: Some(now), ..KeyRing::new(current) }
    }

    /// The ring shortly before a rotation to `secret`: it is accepted already and does not sign yet, so that whoever
    /// rotates a moment later than others knows their tags. What the former previous one signed is refused from
    /// now on.
    pub fn announcing(&self, secret: [u8; SECRET_BYTES]) -> KeyRing {
        KeyRing { previous: Some(Secret(secret)), ..self.clone() }
    }

    /// The ring after a rotation at `now` (Unix milliseconds): `secret` signs, the former current one is
    /// still accepted, the one before that no longer. The lasting root stays.
    pub fn rotated(&self, secret: [u8; SECRET_BYTES], now: u64) -> KeyRing {
        KeyRing {
            lasting: self.lasting.clone(),
            current: Secret(secret),
            previous: Some(self.current.clone()),
            current_since: Some(now),
        }
    }

    /// Whether both come from the same lasting root: rings of one cluster do.
    pub fn is_akin(&self, other: &KeyRing) -> bool {
        self.lasting == other.lasting
    }

    /// Unix milliseconds at which the current secret began to sign, if that is known.
    pub fn current_since(&self) -> Option<u64> {
        self.current_since
    }

    /// The same ring, its current secret as old as `since` (Unix milliseconds) if its age was unknown.
    #[must_use]
    pub fn dated(self, since: u64) -> KeyRing {
        KeyRing { current_since: self.current_since.or(Some(since)), ..self }
    }

    /// Whether a secret before the current one is still accepted.
    pub fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// The key for one purpose: `"branch"`, `"setup"`, `"to-tag"`, `"dialog"`, `"owner"` and `"http-session"` of the lasting root;
    /// `"flow"`, `"nonce"` and whatever else of the rotating one.
    pub fn derive(&self, purpose: &str) -> Key {
        let derive = |secret: &Secret| {
            let mut context = blake3::Hasher::new_derive_key("outlast 2026 key ring v1");
            // The length keeps (purpose, secret) unambiguous, whatever purposes there will be.
            context.update(&(purpose.len() as u64).to_le_bytes());
            context.update(purpose.as_bytes());
            context.update(&secret.0);
            *context.finalize().as_bytes()
        };
        if LASTING_PURPOSES.contains(&purpose) {
            return Key { current: derive(&self.lasting), previous: None };
        }
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
        let second = first.rotated([2; SECRET_BYTES], 0);
        assert!(second.derive("flow").verify(b"data", &tag));
        let third = second.rotated([3; SECRET_BYTES], 0);
        assert!(!third.derive("flow").verify(b"data", &tag));
    }

    #[test]
    fn who_rotates_later_knows_the_tags_of_who_rotated_before() {
        let before = KeyRing::new([1; SECRET_BYTES]);
        let (announced, after) =
            (before.announcing([2; SECRET_BYTES]), before.rotated([2; SECRET_BYTES], 0));
        for (signer, verifier) in [
            (&before, &announced),
            (&announced, &before),
            (&announced, &after),
            (&after, &announced),
        ] {
            let tag = signer.derive("flow").tag::<16>(b"data");
            assert!(verifier.derive("flow").verify(b"data", &tag));
        }
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
    fn lasting_keys_stay_whatever_rotates() {
        let first = KeyRing::made([9; SECRET_BYTES], [1; SECRET_BYTES], 0);
        let later = first.rotated([2; SECRET_BYTES], 1).rotated([3; SECRET_BYTES], 2);
        for purpose in LASTING_PURPOSES {
            assert!(first.derive(purpose) == later.derive(purpose), "{purpose}");
        }
        for purpose in ["flow", "nonce"] {
            assert!(
                first.derive(purpose).current() != later.derive(purpose).current(),
                "{purpose}"
            );
        }
    }

    #[test]
    fn a_ring_of_format_level_1_keeps_its_keys() {
        let secrets = |secret| String::from(Secret([secret; SECRET_BYTES]));
        let json =
            format!(r#"{{"format":1,"current":"{}","previous":"{}"}}"#, secrets(2), secrets(1));
        let ring: KeyRing = serde_json::from_str(&json).unwrap();
        let as_before = KeyRing::new([1; SECRET_BYTES]).rotated([2; SECRET_BYTES], 0);
        assert!(ring.derive("flow") == as_before.derive("flow"));
        let of_current = KeyRing::new([2; SECRET_BYTES]);
        assert!(ring.derive("branch") == of_current.derive("branch"));
        assert_eq!((ring.current_since(), ring.clone().dated(5).current_since()), (None, Some(5)));
        let written = serde_json::to_string(&ring).unwrap();
        assert!(written.contains("\"format\":2"), "{written}");
        assert_eq!(serde_json::from_str::<KeyRing>(&written).unwrap(), ring);
    }

    #[test]
    fn a_ring_of_another_format_level_is_refused() {
        let ring =
            KeyRing::made([9; SECRET_BYTES], [1; SECRET_BYTES], 7).rotated([2; SECRET_BYTES], 8);
        let json = serde_json::to_string(&ring).unwrap();
        assert_eq!(serde_json::from_str::<KeyRing>(&json).unwrap(), ring);
        let later = json.replace("\"format\":2", "\"format\":3");
        let error = serde_json::from_str::<KeyRing>(&later).unwrap_err();
        assert!(error.to_string().contains("format level 3"), "{error}");
        let mislabelled = json.replace("\"format\":2", "\"format\":1");
        assert!(serde_json::from_str::<KeyRing>(&mislabelled).is_err());
    }
}
