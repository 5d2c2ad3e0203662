//! Owner tokens: which life of which container holds a transaction or session.
//!
//! A container puts one into the branch of its Via (and later into Contact and Record-Route); the
//! edge that gets the response or the next request reads it back and sends the message there
//! (DESIGN: choosing a container, rule 1). MACed, so that nobody outside can steer a message.
//!
//! On the wire: 28 characters of base64url, all of them allowed in a SIP `token` (RFC 3261 §25.1),
//! over level (1 octet), incarnation (8), shard (2), tag (10).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::Key;
use crate::view::Incarnation;

/// The container (by incarnation) and the shard inside it that own something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken {
    /// The life of the container.
    pub incarnation: Incarnation,
    /// The core inside it that holds the transaction.
    pub shard: u16,
}

/// Why a text is no owner token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not 28 characters of base64url.
    #[error("not an owner token")]
    Malformed,
    /// Written by a release that we cannot read.
    #[error("owner token of format level {0}; this release reads level 1")]
    FormatLevel(u8),
    /// The tag does not verify: forged, or older than the previous key.
    #[error("owner token with a wrong tag")]
    Forged,
}

const FORMAT_LEVEL: u8 = 1;
const PAYLOAD_BYTES: usize = 1 + 8 + 2;
const TAG_BYTES: usize = 10;
const TOKEN_BYTES: usize = PAYLOAD_BYTES + TAG_BYTES;

/// Characters of an owner token; always the same, so a branch can be cut without a separator.
pub const OWNER_TOKEN_CHARS: usize = 28;

const _: () = assert!(TOKEN_BYTES.is_multiple_of(3) && TOKEN_BYTES / 3 * 4 == OWNER_TOKEN_CHARS);

impl OwnerToken {
    /// The text of the token, MACed with `key` (of purpose `"owner"`).
    pub fn encode(&self, key: &Key) -> [u8; OWNER_TOKEN_CHARS] {
        let mut bytes = [0; TOKEN_BYTES];
        bytes[0] = FORMAT_LEVEL;
        bytes[1..9].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[9..11].copy_from_slice(&self.shard.to_be_bytes());
        let tag: [u8; TAG_BYTES] = key.tag(&bytes[..PAYLOAD_BYTES]);
        bytes[PAYLOAD_BYTES..].copy_from_slice(&tag);
        let mut text = [0; OWNER_TOKEN_CHARS];
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("21 octets are 28 characters");
        text
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`TokenError`] when the text is not a token that this node made.
    pub fn decode(text: &[u8], key: &Key) -> Result<OwnerToken, TokenError> {
        if text.len() != OWNER_TOKEN_CHARS {
            return Err(TokenError::Malformed);
        }
        let mut bytes = [0; TOKEN_BYTES];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| TokenError::Malformed)?;
        let (payload, tag) = bytes.split_at(PAYLOAD_BYTES);
        if payload[0] != FORMAT_LEVEL {
            return Err(TokenError::FormatLevel(payload[0]));
        }
        if !key.verify(payload, tag) {
            return Err(TokenError::Forged);
        }
        let mut incarnation = [0; 8];
        incarnation.copy_from_slice(&payload[1..9]);
        Ok(OwnerToken {
            incarnation: Incarnation(u64::from_be_bytes(incarnation)),
            shard: u16::from_be_bytes([payload[9], payload[10]]),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::keys::KeyRing;

    fn key() -> Key {
        KeyRing::new([7; 32]).derive("owner")
    }

    proptest! {
        #[test]
        fn a_token_reads_back_and_fits_a_sip_token(incarnation: u64, shard: u16) {
            let token = OwnerToken { incarnation: Incarnation(incarnation), shard };
            let text = token.encode(&key());
            prop_assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
            prop_assert_eq!(OwnerToken::decode(&text, &key()), Ok(token));
        }

        #[test]
        fn a_changed_token_is_refused(incarnation: u64, at in 0..OWNER_TOKEN_CHARS, to in b'0'..=b'z') {
            let token = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
            let mut text = token.encode(&key());
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(OwnerToken::decode(&text, &key()).is_err());
        }

        #[test]
        fn any_octets_are_read_without_panic(text: Vec<u8>) {
            prop_assert!(OwnerToken::decode(&text, &key()).is_err());
        }
    }

    #[test]
    fn another_nodes_token_is_refused() {
        let token = OwnerToken { incarnation: Incarnation(5), shard: 1 };
        let foreign = KeyRing::new([8; 32]).derive("owner");
        assert_eq!(OwnerToken::decode(&token.encode(&foreign), &key()), Err(TokenError::Forged));
    }
}
