//! Flow tokens: where a message came from and goes back to, written into the message itself.
//!
//! RFC 5626 §5.2. The edge keeps no table of phones; it puts the flow, MACed, into the user part of
//! Path and Record-Route URIs and into the `flow` parameter of its Vias, and believes only what
//! carries its own tag. A token holds local and remote address, so any edge of the node that holds
//! the local address serves it.
//!
//! Tokens of registrations and Vias are made under a key that rotates. Those of dialogs must last as long as the call
//! does, so their key does not; instead the tag covers the Call-ID, and they are good for requests inside that dialog
//! only. Whoever keeps one when the call is over can send nothing with it but what the phone answers with 481.
//!
//! On the wire: base64url over level and kind (1 octet), flow (13 or 37), tag (10): 32 or 64
//! characters, all of them allowed in a SIP `token` and in a user part (RFC 3261 §25.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sip::NameAddr;
use smallvec::SmallVec;
use topology::{Key, KeyRing};
use transport::Flow;

/// What holding a token entitles to. A token of one kind is not accepted where another is asked
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// In Path: requests with it go to this flow.
    Flow,
    /// In Record-Route: requests of the dialog go to this flow.
    Dialog,
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

/// The keys of flow tokens.
#[derive(Clone, Debug)]
pub struct FlowKeys {
    /// Registrations and Vias.
    rotating: Key,
    /// Dialogs.
    lasting: Key,
}

impl FlowKeys {
    /// Derives them from the node's secrets.
    pub fn derive(ring: &KeyRing) -> FlowKeys {
        FlowKeys { rotating: ring.derive("flow"), lasting: ring.derive("dialog") }
    }
}

/// The Call-ID of a request with that To, if it is one inside a dialog: what the tokens of that dialog are bound to.
pub(crate) fn dialog_of<'a>(to: &NameAddr<'_>, call_id: &'a [u8]) -> Option<&'a [u8]> {
    to.tag().map(|_inside| call_id)
}

/// Why a text is no flow token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowTokenError {
    /// Not of the length of a token: something else stands there.
    #[error("not a flow token")]
    NoToken,
    /// Of a token's length, but not one that this node made under its current or previous key, or one of another
    /// dialog.
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
            TokenKind::Response => 3,
            TokenKind::Dialog => 4,
            TokenKind::Relay => 5,
        }
    }

    const fn from_code(code: u8) -> Option<TokenKind> {
        match code {
            1 => Some(TokenKind::Flow),
            3 => Some(TokenKind::Response),
            4 => Some(TokenKind::Dialog),
            5 => Some(TokenKind::Relay),
            _ => None, // 2: a relay token of format level 1, which was bound to nothing
        }
    }

    /// Whether it is good inside one dialog only.
    pub(crate) const fn is_of_dialog(self) -> bool {
        match self {
            TokenKind::Dialog | TokenKind::Relay => true,
            TokenKind::Flow | TokenKind::Response => false,
        }
    }
}

impl FlowToken {
    /// The text of the token for a message with that Call-ID.
    pub fn encode(&self, keys: &FlowKeys, call_id: &[u8]) -> TokenText {
        let mut bytes = SmallVec::<[u8; TOKEN_BYTES_MAX]>::new();
        bytes.push(FORMAT_LEVEL << 4 | self.kind.code());
        bytes.extend_from_slice(&self.flow.to_bytes());
        let tag: [u8; TAG_BYTES] = if self.kind.is_of_dialog() {
            keys.lasting.tag(&bound_to(&bytes, call_id))
        } else {
            keys.rotating.tag(&bytes)
        };
        bytes.extend_from_slice(&tag);
        let mut text = [0; 64];
        let length =
            URL_SAFE_NO_PAD.encode_slice(&bytes, &mut text).expect("48 octets are 64 characters");
        TokenText::from_slice(&text[..length])
    }

    /// Reads a token back. `dialog`: the Call-ID of the request that it stands in, if that is inside a dialog; without
    /// one no token of a dialog is accepted.
    ///
    /// # Errors
    /// [`FlowTokenError`]: somebody else's text, or a token that was tampered with.
    pub fn decode(
        text: &[u8],
        keys: &FlowKeys,
        dialog: Option<&[u8]>,
    ) -> Result<FlowToken, FlowTokenError> {
        if !TOKEN_CHARS.contains(&text.len()) {
            return Err(FlowTokenError::NoToken);
        }
        let mut bytes = [0; TOKEN_BYTES_MAX];
        let length =
            URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| FlowTokenError::Forged)?;
        let (payload, tag) = bytes[..length].split_at(length - TAG_BYTES);
        let kind = TokenKind::from_code(payload[0] & 0x0f).ok_or(FlowTokenError::Forged)?;
        let is_ours = if kind.is_of_dialog() {
            let call_id = dialog.ok_or(FlowTokenError::Forged)?;
            keys.lasting.verify(&bound_to(payload, call_id), tag)
        } else {
            keys.rotating.verify(payload, tag)
        };
        // Verified before the flow is read, so that nobody outside chooses what the decoder sees.
        if payload[0] >> 4 != FORMAT_LEVEL || !is_ours {
            return Err(FlowTokenError::Forged);
        }
        let flow = Flow::from_bytes(&payload[1..]).map_err(|_| FlowTokenError::Forged)?;
        Ok(FlowToken { kind, flow })
    }
}

/// What the tag of a dialog's token covers. The payload says itself how long it is.
fn bound_to(payload: &[u8], call_id: &[u8]) -> SmallVec<[u8; 192]> {
    let mut covered = SmallVec::from_slice(payload);
    covered.extend_from_slice(call_id);
    covered
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use topology::KeyRing;
    use transport::Transport;

    use super::*;

    const KINDS: [TokenKind; 4] =
        [TokenKind::Flow, TokenKind::Dialog, TokenKind::Relay, TokenKind::Response];
    const CALL: &[u8] = b"c1@10.0.0.1";

    fn keys() -> FlowKeys {
        FlowKeys::derive(&KeyRing::new([7; 32]))
    }

    fn token(remote: &str) -> FlowToken {
        let flow =
            Flow::new(Transport::Udp, "192.0.2.1:5060".parse().unwrap(), remote.parse().unwrap());
        FlowToken { kind: TokenKind::Flow, flow }
    }

    #[test]
    fn a_token_reads_back_and_fits_a_sip_token() {
        for (remote, chars) in [("198.51.100.7:49152", 32), ("[2001:db8::7]:49152", 64)] {
            for kind in KINDS {
                let token = FlowToken { kind, ..token(remote) };
                let text = token.encode(&keys(), CALL);
                assert_eq!(text.len(), chars);
                assert!(
                    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
                );
                assert_eq!(FlowToken::decode(&text, &keys(), Some(CALL)), Ok(token));
            }
        }
    }

    #[test]
    fn a_registrations_token_outlives_one_rotation_of_the_key_and_a_dialogs_all_of_them() {
        let ring = KeyRing::new([7; 32]);
        let (once, twice) =
            (ring.rotated([8; 32], 0), ring.rotated([8; 32], 0).rotated([9; 32], 0));
        for kind in KINDS {
            let token = FlowToken { kind, ..token("198.51.100.7:1") };
            let text = token.encode(&FlowKeys::derive(&ring), CALL);
            let read = |ring| FlowToken::decode(&text, &FlowKeys::derive(ring), Some(CALL));
            assert_eq!(read(&once), Ok(token));
            assert_eq!(read(&twice).is_ok(), kind.is_of_dialog(), "{kind:?}");
        }
    }

    #[test]
    fn a_dialogs_token_is_good_inside_its_dialog_only() {
        for kind in KINDS {
            let token = FlowToken { kind, ..token("198.51.100.7:1") };
            let text = token.encode(&keys(), CALL);
            for elsewhere in [None, Some(&b"c2@10.0.0.1"[..]), Some(b"")] {
                let read = FlowToken::decode(&text, &keys(), elsewhere);
                assert_eq!(read.is_ok(), !kind.is_of_dialog(), "{kind:?} {elsewhere:?}");
            }
            // Containers look at no more than that.
            let key = KeyRing::new([7; 32]).derive("dialog");
            let of = |call_id| topology::token::flow_of_dialog(&text, &key, call_id);
            let flow = kind.is_of_dialog().then(|| token.flow.to_bytes().to_vec());
            assert_eq!(of(CALL), flow, "{kind:?}");
            assert_eq!(of(b"c2@10.0.0.1"), None, "{kind:?}");
        }
    }

    #[test]
    fn one_kind_does_not_pass_for_another() {
        for kind in KINDS {
            let text = FlowToken { kind, ..token("198.51.100.7:1") }.encode(&keys(), CALL);
            for other in KINDS.into_iter().filter(|other| *other != kind) {
                let mut relabelled = URL_SAFE_NO_PAD.decode(&text).unwrap();
                relabelled[0] = FORMAT_LEVEL << 4 | other.code();
                let relabelled = URL_SAFE_NO_PAD.encode(relabelled);
                let read = FlowToken::decode(relabelled.as_bytes(), &keys(), Some(CALL));
                assert_eq!(read, Err(FlowTokenError::Forged), "{kind:?} as {other:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_is_forged(at in 0..32_usize, to in b'0'..=b'z') {
            let mut text = token("198.51.100.7:49152").encode(&keys(), CALL);
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert_eq!(FlowToken::decode(&text, &keys(), Some(CALL)), Err(FlowTokenError::Forged));
        }

        #[test]
        fn any_octets_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(FlowToken::decode(&text, &keys(), Some(CALL)).is_err());
        }
    }
}
