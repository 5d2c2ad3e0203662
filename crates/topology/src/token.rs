//! Tokens: which life of which container holds a transaction or a session.
//!
//! A container puts an [`OwnerToken`] into the branch of its Via, and a [`SessionToken`] into Contact
//! and Record-Route of a session and into the branches of the requests that the session sends; the
//! edge that gets the response or the next request reads it back and sends the message there
//! (DESIGN: choosing a container, rule 1). A session outlives its owner, so its token also names the
//! session, by which the next owner is chosen. MACed, so that nobody outside can steer a message.
//!
//! On the wire: base64url, all of it allowed in a SIP `token` (RFC 3261 §25.1) and in a user part.
//! 28 characters over level (1 octet), incarnation (8), shard (2), tag (10); or 52 over level,
//! incarnation, shard, session id (16), tag (12). The length tells which.

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

/// A session and the owner that it had when the token was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken {
    /// Who held it then.
    pub owner: OwnerToken,
    /// Which it is, whoever holds it.
    pub session: [u8; SESSION_ID_BYTES],
}

/// Why a text is no token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64url of the token's length.
    #[error("not a token of this kind")]
    Malformed,
    /// Written by a release that we cannot read.
    #[error("token of format level {0}; this release reads level 1")]
    FormatLevel(u8),
    /// The tag does not verify: forged, or older than the previous key.
    #[error("token with a wrong tag")]
    Forged,
}

/// Of both kinds; their lengths tell them apart, in the tag too.
const FORMAT_LEVEL: u8 = 1;
const OWNER_PAYLOAD_BYTES: usize = 1 + 8 + 2;
const OWNER_TOKEN_BYTES: usize = OWNER_PAYLOAD_BYTES + 10;
const SESSION_PAYLOAD_BYTES: usize = OWNER_PAYLOAD_BYTES + SESSION_ID_BYTES;
const SESSION_TOKEN_BYTES: usize = SESSION_PAYLOAD_BYTES + 12;

/// Octets of a session id.
pub const SESSION_ID_BYTES: usize = 16;

/// Characters of an owner token; always the same, so a branch can be cut without a separator.
pub const OWNER_TOKEN_CHARS: usize = 28;

/// Characters of a session token; always the same.
pub const SESSION_TOKEN_CHARS: usize = 52;

const _: () = assert!(
    OWNER_TOKEN_BYTES.is_multiple_of(3)
        && OWNER_TOKEN_BYTES / 3 * 4 == OWNER_TOKEN_CHARS
        && SESSION_TOKEN_BYTES.is_multiple_of(3)
        && SESSION_TOKEN_BYTES / 3 * 4 == SESSION_TOKEN_CHARS
);

impl OwnerToken {
    /// The text of the token, MACed with `key` (of purpose `"owner"`).
    pub fn encode(&self, key: &Key) -> [u8; OWNER_TOKEN_CHARS] {
        let mut bytes = [0; OWNER_TOKEN_BYTES];
        bytes[..OWNER_PAYLOAD_BYTES].copy_from_slice(&self.payload());
        let tag: [u8; OWNER_TOKEN_BYTES - OWNER_PAYLOAD_BYTES] =
            key.tag(&bytes[..OWNER_PAYLOAD_BYTES]);
        bytes[OWNER_PAYLOAD_BYTES..].copy_from_slice(&tag);
        let mut text = [0; OWNER_TOKEN_CHARS];
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("21 octets are 28 characters");
        text
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`TokenError`] when the text is not a token that this node made.
    pub fn decode(text: &[u8], key: &Key) -> Result<OwnerToken, TokenError> {
        let bytes = decode::<OWNER_TOKEN_BYTES>(text, OWNER_PAYLOAD_BYTES, key)?;
        Ok(OwnerToken::from_payload(&bytes))
    }

    fn payload(&self) -> [u8; OWNER_PAYLOAD_BYTES] {
        let mut bytes = [0; OWNER_PAYLOAD_BYTES];
        bytes[0] = FORMAT_LEVEL;
        bytes[1..9].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[9..11].copy_from_slice(&self.shard.to_be_bytes());
        bytes
    }

    fn from_payload(bytes: &[u8]) -> OwnerToken {
        let (incarnation, rest) = bytes[1..].split_first_chunk().expect("a payload is longer");
        let shard = rest.first_chunk().expect("a payload is longer");
        OwnerToken {
            incarnation: Incarnation(u64::from_be_bytes(*incarnation)),
            shard: u16::from_be_bytes(*shard),
        }
    }
}

impl SessionToken {
    /// The text of the token, MACed with `key` (of purpose `"owner"`).
    pub fn encode(&self, key: &Key) -> [u8; SESSION_TOKEN_CHARS] {
        let mut bytes = [0; SESSION_TOKEN_BYTES];
        bytes[..OWNER_PAYLOAD_BYTES].copy_from_slice(&self.owner.payload());
        bytes[OWNER_PAYLOAD_BYTES..SESSION_PAYLOAD_BYTES].copy_from_slice(&self.session);
        let tag: [u8; SESSION_TOKEN_BYTES - SESSION_PAYLOAD_BYTES] =
            key.tag(&bytes[..SESSION_PAYLOAD_BYTES]);
        bytes[SESSION_PAYLOAD_BYTES..].copy_from_slice(&tag);
        let mut text = [0; SESSION_TOKEN_CHARS];
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).expect("39 octets are 52 characters");
        text
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`TokenError`] when the text is not a token that this node made.
    pub fn decode(text: &[u8], key: &Key) -> Result<SessionToken, TokenError> {
        let bytes = decode::<SESSION_TOKEN_BYTES>(text, SESSION_PAYLOAD_BYTES, key)?;
        let mut session = [0; SESSION_ID_BYTES];
        session.copy_from_slice(&bytes[OWNER_PAYLOAD_BYTES..SESSION_PAYLOAD_BYTES]);
        Ok(SessionToken { owner: OwnerToken::from_payload(&bytes), session })
    }
}

/// The octets of the flow, if `text` is the token that an edge of this node wrote into a Record-Route of the dialog with that
/// Call-ID; `key` is of purpose `"dialog"`. Whether a request may go by it is for the edge to decide.
pub fn flow_of_dialog(text: &[u8], key: &Key, call_id: &[u8]) -> Option<Vec<u8>> {
    const FLOW_TOKEN_CHARS: [usize; 2] = [32, 64];
    const TAG_BYTES: usize = 10;
    /// Format level 1: by a flow, and toward an address.
    const KINDS: [u8; 2] = [0x14, 0x15];
    if !FLOW_TOKEN_CHARS.contains(&text.len()) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (payload, tag) = bytes.split_at(bytes.len() - TAG_BYTES);
    let is_ours = KINDS.contains(&payload[0]) && key.verify(&[payload, call_id].concat(), tag);
    is_ours.then(|| payload[1..].to_vec())
}

/// The octets of a token, once its level and tag are found right.
fn decode<const N: usize>(
    text: &[u8],
    payload_bytes: usize,
    key: &Key,
) -> Result<[u8; N], TokenError> {
    if text.len() != N / 3 * 4 {
        return Err(TokenError::Malformed);
    }
    let mut bytes = [0; N];
    URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| TokenError::Malformed)?;
    let (payload, tag) = bytes.split_at(payload_bytes);
    if payload[0] != FORMAT_LEVEL {
        return Err(TokenError::FormatLevel(payload[0]));
    }
    if !key.verify(payload, tag) {
        return Err(TokenError::Forged);
    }
    Ok(bytes)
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

    fn fits_a_sip_token(text: &[u8]) -> bool {
        text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    }

    proptest! {
        #[test]
        fn a_token_reads_back_and_fits_a_sip_token(incarnation: u64, shard: u16, session: [u8; 16]) {
            let owner = OwnerToken { incarnation: Incarnation(incarnation), shard };
            let text = owner.encode(&key());
            prop_assert!(fits_a_sip_token(&text));
            prop_assert_eq!(OwnerToken::decode(&text, &key()), Ok(owner));
            let token = SessionToken { owner, session };
            let text = token.encode(&key());
            prop_assert!(fits_a_sip_token(&text));
            prop_assert_eq!(SessionToken::decode(&text, &key()), Ok(token));
        }

        #[test]
        fn a_changed_token_is_refused(
            incarnation: u64,
            session: [u8; 16],
            at in any::<prop::sample::Index>(),
            to in b'0'..=b'z',
        ) {
            let owner = OwnerToken { incarnation: Incarnation(incarnation), shard: 0 };
            let mut text = owner.encode(&key());
            let place = at.index(text.len());
            let unchanged = text[place] == to;
            text[place] = to;
            prop_assert_eq!(OwnerToken::decode(&text, &key()).is_ok(), unchanged);
            let mut text = SessionToken { owner, session }.encode(&key());
            let place = at.index(text.len());
            let unchanged = text[place] == to;
            text[place] = to;
            prop_assert_eq!(SessionToken::decode(&text, &key()).is_ok(), unchanged);
        }

        #[test]
        fn any_octets_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(OwnerToken::decode(&text, &key()).is_err());
            prop_assert!(SessionToken::decode(&text, &key()).is_err());
        }
    }

    #[test]
    fn a_part_of_a_token_is_no_token() {
        let owner = OwnerToken { incarnation: Incarnation(5), shard: 1 };
        let session = SessionToken { owner, session: [9; SESSION_ID_BYTES] }.encode(&key());
        let owner = owner.encode(&key());
        for length in 0..OWNER_TOKEN_CHARS {
            assert_eq!(OwnerToken::decode(&owner[..length], &key()), Err(TokenError::Malformed));
        }
        for length in 0..SESSION_TOKEN_CHARS {
            let part = &session[..length];
            assert_eq!(SessionToken::decode(part, &key()), Err(TokenError::Malformed));
            assert!(
                OwnerToken::decode(part, &key()).is_err(),
                "one kind is not taken for the other"
            );
        }
    }

    #[test]
    fn another_nodes_token_is_refused() {
        let owner = OwnerToken { incarnation: Incarnation(5), shard: 1 };
        let foreign = KeyRing::new([8; 32]).derive("owner");
        assert_eq!(OwnerToken::decode(&owner.encode(&foreign), &key()), Err(TokenError::Forged));
        let session = SessionToken { owner, session: [9; SESSION_ID_BYTES] };
        assert_eq!(
            SessionToken::decode(&session.encode(&foreign), &key()),
            Err(TokenError::Forged)
        );
    }

    // A call may last longer than the keys of two rotations, and its BYE carries the token of its beginning.
    #[test]
    fn a_token_outlives_every_rotation() {
        let ring = KeyRing::new([7; 32]);
        let later = ring.rotated([8; 32], 1).rotated([9; 32], 2).rotated([10; 32], 3);
        let owner = OwnerToken { incarnation: Incarnation(5), shard: 1 };
        let session = SessionToken { owner, session: [9; SESSION_ID_BYTES] };
        let (made_with, read_with) = (ring.derive("owner"), later.derive("owner"));
        assert_eq!(OwnerToken::decode(&owner.encode(&made_with), &read_with), Ok(owner));
        assert_eq!(SessionToken::decode(&session.encode(&made_with), &read_with), Ok(session));
    }

    #[test]
    fn a_token_of_another_format_level_is_refused() {
        let bytes = |length: usize| {
            let mut bytes = vec![0; length];
            bytes[0] = 2;
            URL_SAFE_NO_PAD.encode(bytes).into_bytes()
        };
        let level = Err(TokenError::FormatLevel(2));
        assert_eq!(OwnerToken::decode(&bytes(OWNER_TOKEN_BYTES), &key()), level);
        let level = Err(TokenError::FormatLevel(2));
        assert_eq!(SessionToken::decode(&bytes(SESSION_TOKEN_BYTES), &key()), level);
    }
}
