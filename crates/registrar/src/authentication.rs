//! Who sent a request: from its credentials and the stored hashes to a verdict, and from a verdict to challenges.
//!
//! The caller reads the records ([`crate::accounts`], [`crate::nonce`]) and carries the verdict out. Source: RFC 3261
//! §22, RFC 7616, RFC 8760 (one challenge per algorithm, in the configured order).
//!
//! Deliberately absent: a check of the credentials' `uri` against the Request-URI. Proxies before us may have
//! changed the latter (RFC 7616 §3.4.6), many clients put another spelling there, and what it would guard is
//! guarded by the nonce: it is good for one address-of-record, and each of its counts for one request.

use sip::digest::{Algorithm, Challenge, Credentials, Ha1, matches};
use sip::{AddressOfRecord, HeaderName, Message};
use state::{Key, UnixMillis};

use crate::accounts::{PrivateIdentity, UsernameForm};
use crate::bindings;
use crate::nonce::{NonceId, NonceVerdict, Nonces, RANDOM_BYTES};
use crate::register::FingerprintParts;

/// The key of a nonce's mark: beside the bindings of the address-of-record that the nonce was issued for. The two change
/// together with every REGISTER, and engines that keep records in order write what lies together in one go.
pub fn mark_key(aor: &AddressOfRecord, nonce: NonceId) -> Key {
    Key::new(bindings::SPACE, aor.as_str().as_bytes().to_vec(), nonce.as_bytes().to_vec())
}

/// In which capacity credentials are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The registrar, for itself: 401, WWW-Authenticate, Authorization.
    Registrar,
    /// The proxy, before it forwards: 407, Proxy-Authenticate, Proxy-Authorization.
    Proxy,
}

impl Asker {
    /// Status of the response that challenges.
    pub fn status(self) -> u16 {
        match self {
            Asker::Registrar => 401,
            Asker::Proxy => 407,
        }
    }

    /// Header that carries a challenge.
    pub fn challenge_header(self) -> HeaderName {
        match self {
            Asker::Registrar => HeaderName::WwwAuthenticate,
            Asker::Proxy => HeaderName::ProxyAuthenticate,
        }
    }

    fn credentials_header(self) -> HeaderName {
        match self {
            Asker::Registrar => HeaderName::Authorization,
            Asker::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// Credentials that claim an identity of one realm.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    credentials: Credentials<'a>,
    user: String,
    form: UsernameForm,
}

impl Claim<'_> {
    /// The user within the realm whose private identity is claimed.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// How often the client says it has used the nonce.
    pub fn nonce_count(&self) -> u32 {
        self.credentials.nonce_count()
    }
}

/// What claims come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sender knows the password and the nonce is good; its count is still to be judged.
    Genuine(NonceId),
    /// The sender knows the password, only its nonce is of no use (any more).
    Stale,
    /// Unknown user or wrong password; nobody can tell which.
    Wrong,
}

/// Knows senders by their credentials, and makes challenges.
#[derive(Debug)]
pub struct Authenticator {
    nonces: Nonces,
    /// In the order of the challenges.
    algorithms: Vec<Algorithm>,
}

impl Authenticator {
    /// Offers these algorithms, one challenge each, in this order: a phone takes the first that it knows
    /// (RFC 8760 §2.4), and some look no further than the first.
    pub fn new(nonces: Nonces, algorithms: &[Algorithm]) -> Authenticator {
        Authenticator { nonces, algorithms: algorithms.to_vec() }
    }

    /// The nonces that it issues and takes.
    pub fn nonces(&self) -> &Nonces {
        &self.nonces
    }

    /// The first credentials of `message` that are for this realm and of an algorithm we offer.
    ///
    /// All others, of other schemes or for other proxies on the way, are passed over (RFC 4475 §3.3.7): without a claim
    /// the sender is challenged.
    pub fn claim<'a>(&self, message: &'a Message, asker: Asker, realm: &str) -> Option<Claim<'a>> {
        // By field, not by value: the parameters of credentials are separated by commas themselves.
        message
            .fields(asker.credentials_header())
            .filter_map(|field| Credentials::parse(field).ok())
            .filter(|credentials| credentials.realm.eq_ignore_ascii_case(realm.as_bytes()))
            .filter(|credentials| self.algorithms.contains(&credentials.algorithm))
            .find_map(|credentials| {
                let username = std::str::from_utf8(&credentials.username).ok()?;
                let (user, form) = UsernameForm::split(username, realm);
                let user = user.to_owned();
                Some(Claim { credentials, user, form })
            })
    }

    /// Judges a claim by the private identity it names, if there is one.
    pub fn judge(
        &self,
        claim: &Claim<'_>,
        identity: Option<&PrivateIdentity>,
        aor: &AddressOfRecord,
        method: &[u8],
        now: UnixMillis,
    ) -> Verdict {
        let algorithm = claim.credentials.algorithm;
        let known = identity.and_then(|identity| identity.ha1(claim.form, algorithm));
        // An unknown user costs the same hashes as a known one.
        let nobody = || {
            Ha1::from_bytes(algorithm, &[0; 32][..algorithm.digest_bytes()])
                .expect("as many octets as the algorithm has")
        };
        let ha1 = known.copied().unwrap_or_else(nobody);
        if !matches(&ha1, method, &claim.credentials) || known.is_none() {
            return Verdict::Wrong;
        }
        match self.nonces.verify(&claim.credentials.nonce, aor.as_str().as_bytes(), now) {
            NonceVerdict::Fresh(nonce) => Verdict::Genuine(nonce),
            NonceVerdict::Stale => Verdict::Stale,
        }
    }

    /// The challenge values for requests of `aor`, one for each algorithm, all with one nonce.
    pub fn challenges(
        &self,
        realm: &str,
        aor: &AddressOfRecord,
        stale: bool,
        now: UnixMillis,
        random: [u8; RANDOM_BYTES],
    ) -> Vec<Vec<u8>> {
        let nonce = self.nonces.issue(aor.as_str().as_bytes(), now, random);
        self.algorithms
            .iter()
            .map(|&algorithm| {
                let (realm, nonce) = (realm.as_bytes(), nonce.as_bytes());
                Challenge { realm, nonce, algorithm, stale }.render()
            })
            .collect()
    }

    /// When the mark of a nonce may go.
    pub fn mark_expires_at(&self, nonce: NonceId) -> UnixMillis {
        self.nonces.mark_expires_at(nonce)
    }
}

/// The same for a request and its retransmissions, however they come; another for every other request.
pub fn request_fingerprint(message: &Message, claim: &Claim<'_>) -> u64 {
    let mut parts = FingerprintParts::new();
    parts.add(message.method().map_or(b"", |method| method.as_bytes()));
    parts.add(message.request_uri().unwrap_or_default());
    parts.add(message.call_id().unwrap_or_default());
    parts.add(message.field(HeaderName::CSeq).unwrap_or_default());
    parts.add(message.field(HeaderName::To).unwrap_or_default());
    for contact in message.fields(HeaderName::Contact) {
        parts.add(contact);
    }
    parts.add(message.field(HeaderName::Expires).unwrap_or_default());
    parts.add(&claim.credentials.response);
    // The edge derives its branch from the phone's, so retransmissions share it and a copy sent later by somebody
    // else does not, unless it copies the branch as well; that one the window of `NonceMark::judge` bounds.
    let via = message.top_via();
    parts.add(via.ok().and_then(|via| via.branch()).unwrap_or_default());
    parts.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::borrow::Cow;
    use std::time::Duration;

    use sip::digest::expected_response;
    use topology::KeyRing;

    use super::*;
    use crate::test_requests::NOW;

    #[test]
    fn the_hash_that_stands_in_for_nobodys_lets_nobody_in() {
        let nonces = Nonces::new(KeyRing::new([7; 32]).derive("nonce"), Duration::from_secs(300));
        let authenticator = Authenticator::new(nonces, &Algorithm::STRONGEST_FIRST);
        let aor = AddressOfRecord::parse(b"sip:nobody@example.com").unwrap();
        let nonce = authenticator.nonces().issue(aor.as_str().as_bytes(), NOW, [1; RANDOM_BYTES]);
        let mut credentials = Credentials {
            username: Cow::Borrowed(b"nobody"),
            realm: Cow::Borrowed(b"example.com"),
            nonce: Cow::Borrowed(nonce.as_bytes()),
            uri: Cow::Borrowed(b"sip:example.com"),
            response: Cow::Borrowed(b""),
            algorithm: Algorithm::Sha256,
            cnonce: Cow::Borrowed(b"c"),
            nonce_count_digits: *b"00000001",
            opaque: None,
        };
        let stand_in = Ha1::from_bytes(Algorithm::Sha256, &[0; 32]).unwrap();
        let response = expected_response(&stand_in, b"REGISTER", &credentials);
        credentials.response = Cow::Borrowed(response.as_bytes());
        let claim = Claim { credentials, user: "nobody".into(), form: UsernameForm::User };
        let verdict = authenticator.judge(&claim, None, &aor, b"REGISTER", NOW);
        assert_eq!(verdict, Verdict::Wrong);
    }
}
