//! What an operator carries from a member to a node that shall join: where the members are, by what to know them, and
//! a MAC that only members can make. It holds no secret that would outlast it, but whoever has it in time may join.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{ClusterSecret, Fingerprint};

/// Members that a token names; any of them admits.
pub const TOKEN_ADDRESSES_MAX: usize = 8;

/// The longest that a token may be good.
pub const TOKEN_VALIDITY_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Longer texts are none.
const TEXT_BYTES_MAX: usize = 4096;

const TAG_BYTES: usize = 16;
const PURPOSE: &str = "join-token";
const FORMAT_LEVEL: u8 = 1;

/// A token, as its text says; only [`verify`](JoinToken::verify) says whether it is one of the cluster's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    payload: Vec<u8>,
    tag: Vec<u8>,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u8,
    cluster: String,
    /// SHA-256 of the authority's certificate, hexadecimal.
    authority: String,
    addresses: Vec<SocketAddr>,
    /// Unix seconds.
    expires: u64,
}

/// Why a token does not open the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Not the text of a token.
    #[error("this is no join token; copy the whole line that outlast cluster token printed")]
    Malformed,
    /// Made by a release that says more.
    #[error("a token of a later release; run the same release on all nodes")]
    FormatLevel,
    /// Its time is over.
    #[error("the token has expired; make a new one on a member: outlast cluster token")]
    Expired,
    /// Another cluster's, or forged.
    #[error("the token is none of this cluster; make one on a member: outlast cluster token")]
    Foreign,
}

impl JoinToken {
    /// Makes one that is good until `expires` (since the Unix epoch).
    pub fn make(
        secret: &ClusterSecret,
        cluster: &str,
        authority: Fingerprint,
        addresses: impl IntoIterator<Item = SocketAddr>,
        expires: Duration,
    ) -> JoinToken {
        let content = Content {
            format: FORMAT_LEVEL,
            cluster: cluster.to_owned(),
            authority: authority.to_string(),
            addresses: addresses.into_iter().take(TOKEN_ADDRESSES_MAX).collect(),
            expires: expires.as_secs(),
        };
        let payload = serde_json::to_vec(&content).expect("a token has no keys but strings");
        let tag = secret.derive(PURPOSE).tag::<TAG_BYTES>(&payload).to_vec();
        JoinToken { payload, tag, content }
    }

    /// Whether the members of that cluster made it and it is still good at `now` (since the Unix epoch).
    ///
    /// # Errors
    /// [`JoinTokenError`].
    pub fn verify(
        &self,
        secret: &ClusterSecret,
        cluster: &str,
        now: Duration,
    ) -> Result<(), JoinTokenError> {
        let is_ours = self.content.cluster == cluster
            && secret.derive(PURPOSE).verify(&self.payload, &self.tag);
        if !is_ours {
            return Err(JoinTokenError::Foreign);
        }
        // Seconds: it ends no sooner than it says.
        if now.as_secs() > self.content.expires {
            return Err(JoinTokenError::Expired);
        }
        Ok(())
    }

    /// Where members listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.content.addresses
    }

    /// By what to know them.
    ///
    /// # Errors
    /// [`JoinTokenError::Malformed`].
    pub fn authority(&self) -> Result<Fingerprint, JoinTokenError> {
        let text = self.content.authority.as_bytes();
        let mut octets = [0; 32];
        if text.len() != 2 * octets.len() {
            return Err(JoinTokenError::Malformed);
        }
        for (octet, pair) in octets.iter_mut().zip(text.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| JoinTokenError::Malformed)?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| JoinTokenError::Malformed)?;
        }
        Ok(Fingerprint(octets))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (payload, tag) = (&self.payload, &self.tag);
        write!(f, "{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(tag))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<JoinToken, JoinTokenError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(JoinTokenError::Malformed);
        }
        let (payload, tag) = text.trim().split_once('.').ok_or(JoinTokenError::Malformed)?;
        let octets =
            |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| JoinTokenError::Malformed);
        let (payload, tag) = (octets(payload)?, octets(tag)?);
        let level: serde_json::Value =
            serde_json::from_slice(&payload).map_err(|_| JoinTokenError::Malformed)?;
        if level["format"].as_u64().is_some_and(|level| level != u64::from(FORMAT_LEVEL)) {
            return Err(JoinTokenError::FormatLevel);
        }
        let content: Content =
            serde_json::from_slice(&payload).map_err(|_| JoinTokenError::Malformed)?;
        Ok(JoinToken { payload, tag, content })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOON: Duration = Duration::from_secs(1_000_000);

    fn token(secret: &ClusterSecret) -> JoinToken {
        let address = "192.0.2.11:6200".parse().unwrap();
        JoinToken::make(secret, "c", Fingerprint([7; 32]), [address], NOON)
    }

    #[test]
    fn a_token_is_good_in_its_time_and_for_its_cluster() {
        let secret = ClusterSecret::make().unwrap();
        let read: JoinToken = token(&secret).to_string().parse().unwrap();
        assert_eq!(read, token(&secret));
        assert_eq!(read.verify(&secret, "c", NOON), Ok(()));
        assert_eq!(
            read.verify(&secret, "c", NOON + Duration::from_secs(1)),
            Err(JoinTokenError::Expired)
        );
        assert_eq!(read.verify(&secret, "d", NOON), Err(JoinTokenError::Foreign));
        let other = ClusterSecret::make().unwrap();
        assert_eq!(read.verify(&other, "c", NOON), Err(JoinTokenError::Foreign));
        assert_eq!(read.authority(), Ok(Fingerprint([7; 32])));
        assert_eq!(read.addresses().len(), 1);
    }

    #[test]
    fn a_changed_token_is_refused() {
        let secret = ClusterSecret::make().unwrap();
        let text = token(&secret).to_string();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let verified =
                changed.parse::<JoinToken>().and_then(|token| token.verify(&secret, "c", NOON));
            assert!(verified.is_err(), "{at}: {changed}");
        }
        for text in ["", ".", "a.b", "x", &"a".repeat(5000)] {
            assert!(text.parse::<JoinToken>().is_err());
        }
    }
}
