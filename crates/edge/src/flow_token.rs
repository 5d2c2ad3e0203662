//! Flow tokens: where a message came from and goes back to, written into the message itself.
//!
//! RFC 5626 §5.2. The edge keeps no table of phones; it puts the flow, MACed, into the user part of
//! Path and Record-Route URIs and into the `flow` parameter of its Vias, and believes only what
//! carries its own tag. A token holds local and remote address, so any edge of the node that holds
//! the local address serves it.
//!
//! On the wire: base64url over level and kind (1 octet), flow (13 or 37), tag (10): 32 or 64
//! characters, all of them allowed in a SIP `token` and in a user part (RFC 3261 §25.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;
use topology::Key;
use transport::Flow;

/// What holding a token entitles to. A token of one kind is not accepted where another is asked
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// In Path and Record-Route: requests with it go to this flow.
    Flow,
    /// In Record-Route: the dialog passed this node toward an address that its Request-URI names,
    /// not by a flow. Proof that the request is no stranger's, so that the edge is no open relay.
    Relay,
    /// In a Via of ours: the response goes to this flow.
    Response,
}

/// A flow with what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowToken {
    /// What holding it entitles to.
    pub kind: TokenKind,
    /// The way there.
    pub flow: Flow,
}

/// Why a text is no flow token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowTokenError {
    /// Not of the length of a token: something else stands there.
    #[error("not a flow token")]
    NoToken,
    /// Of a token's length, but not one that this node made under its current or previous key.
    #[error("flow token with a wrong tag")]
    Forged,
}

const FORMAT_LEVEL: u8 = 1;
const TAG_BYTES: usize = 10;
/// Characters of a token between IPv4 addresses, and between IPv6 ones.
const TOKEN_CHARS: [usize; 2] = [32, 64];
const TOKEN_BYTES_MAX: usize = 48;
const _: () = assert!(1 + transport::flow::FLOW_BYTES_MAX + TAG_BYTES == TOKEN_BYTES_MAX);

/// The text of a token.
pub type TokenText = SmallVec<[u8; 64]>;

impl TokenKind {
    const fn code(self) -> u8 {
        match self {
            TokenKind::Flow => 1,
            TokenKind::Relay => 2,
            TokenKind::Response => 3,
        }
    }

    const fn from_code(code: u8) -> Option<TokenKind> {
        match code {
            1 => Some(TokenKind::Flow),
            2 => Some(TokenKind::Relay),
            3 => Some(TokenKind::Response),
            _ => None,
        }
    }
}

impl FlowToken {
    /// The text of the token, MACed with `key` (of purpose `"flow"`).
    pub fn encode(&self, key: &Key) -> TokenText {
        let mut bytes = SmallVec::<[u8; TOKEN_BYTES_MAX]>::new();
        bytes.push(FORMAT_LEVEL << 4 | self.kind.code());
        bytes.extend_from_slice(&self.flow.to_bytes());
        let tag: [u8; TAG_BYTES] = key.tag(&bytes);
        bytes.extend_from_slice(&tag);
        let mut text = [0; 64];
        let length =
            URL_SAFE_NO_PAD.encode_slice(&bytes, &mut text).expect("48 octets are 64 characters");
        TokenText::from_slice(&text[..length])
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`FlowTokenError`]: somebody else's text, or a token that was tampered with.
    pub fn decode(text: &[u8], key: &Key) -> Result<FlowToken, FlowTokenError> {
        if !TOKEN_CHARS.contains(&text.len()) {
            return Err(FlowTokenError::NoToken);
        }
        let mut bytes = [0; TOKEN_BYTES_MAX];
        let length =
            URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| FlowTokenError::Forged)?;
        let (payload, tag) = bytes[..length].split_at(length - TAG_BYTES);
        // Verified before anything is read, so that nobody outside chooses what the decoder sees.
        if payload[0] >> 4 != FORMAT_LEVEL || !key.verify(payload, tag) {
            return Err(FlowTokenError::Forged);
        }
        let kind = TokenKind::from_code(payload[0] & 0x0f).ok_or(FlowTokenError::Forged)?;
        let flow = Flow::from_bytes(&payload[1..]).map_err(|_| FlowTokenError::Forged)?;
        Ok(FlowToken { kind, flow })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use topology::KeyRing;
    use transport::Transport;

    use super::*;

    fn key() -> Key {
        KeyRing::new([7; 32]).derive("flow")
    }

    fn token(remote: &str) -> FlowToken {
        let flow =
            Flow::new(Transport::Udp, "192.0.2.1:5060".parse().unwrap(), remote.parse().unwrap());
        FlowToken { kind: TokenKind::Flow, flow }
    }

    #[test]
    fn a_token_reads_back_and_fits_a_sip_token() {
        for (remote, chars) in [("198.51.100.7:49152", 32), ("[2001:db8::7]:49152", 64)] {
            for kind in [TokenKind::Flow, TokenKind::Relay, TokenKind::Response] {
                let token = FlowToken { kind, ..token(remote) };
                let text = token.encode(&key());
                assert_eq!(text.len(), chars);
                assert!(
                    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
                );
                assert_eq!(FlowToken::decode(&text, &key()), Ok(token));
            }
        }
    }

    #[test]
    fn a_token_outlives_one_rotation_of_the_key() {
        let ring = KeyRing::new([7; 32]);
        let text = token("198.51.100.7:1").encode(&ring.derive("flow"));
        let rotated = ring.rotated([8; 32], 0);
        assert!(FlowToken::decode(&text, &rotated.derive("flow")).is_ok());
        assert!(FlowToken::decode(&text, &rotated.rotated([9; 32], 0).derive("flow")).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_token_is_forged(at in 0..32_usize, to in b'0'..=b'z') {
            let mut text = token("198.51.100.7:49152").encode(&key());
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert_eq!(FlowToken::decode(&text, &key()), Err(FlowTokenError::Forged));
        }

        #[test]
        fn any_octets_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(FlowToken::decode(&text, &key()).is_err());
        }
    }
}
