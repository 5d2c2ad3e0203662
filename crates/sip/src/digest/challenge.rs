//! `WWW-Authenticate` and `Proxy-Authenticate` values: rendered by the server, read by the client.
//!
//! Source: RFC 7616 §3.3, RFC 8760 §2.3 (one header field per algorithm), RFC 3261 §20.27 and §20.44.

use super::Algorithm;
use super::parameters::{self, Malformed, push_quoted};

/// A challenge to send: one per algorithm, each in its own header field.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// The protection space; a registrar uses the domain.
    pub realm: &'a [u8],
    /// What the client must put into its answer; opaque to it.
    pub nonce: &'a [u8],
    /// The hash that the answer must use.
    pub algorithm: Algorithm,
    /// The credentials were right and only the nonce is too old: the client retries without asking its user.
    pub stale: bool,
}

impl Challenge<'_> {
    /// The header value. `qop` is always `auth` (RFC 8760 §2.5).
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.realm.len() + self.nonce.len());
        out.extend_from_slice(b"Digest realm=");
        push_quoted(&mut out, self.realm);
        out.extend_from_slice(b", nonce=");
        push_quoted(&mut out, self.nonce);
        // RFC 7616 §3.3: algorithm and stale are tokens, qop is quoted.
        out.extend_from_slice(b", algorithm=");
        out.extend_from_slice(self.algorithm.token().as_bytes());
        out.extend_from_slice(b", qop=\"auth\"");
        if self.stale {
            out.extend_from_slice(b", stale=true");
        }
        out
    }
}

/// A challenge as a client read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedChallenge {
    /// The protection space.
    pub realm: Vec<u8>,
    /// The server's nonce, to be sent back unchanged.
    pub nonce: Vec<u8>,
    /// To be sent back unchanged when present.
    pub opaque: Option<Vec<u8>>,
    /// The hash; MD5 when the challenge names none.
    pub algorithm: Algorithm,
    /// Only the nonce was too old.
    pub stale: bool,
}

/// Why a challenge cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Another scheme than Digest; ignore this value and look at the next.
    #[error("the challenge's scheme is not Digest")]
    OtherScheme,
    /// Not a list of parameters, or realm or nonce is missing.
    #[error("the challenge is malformed, or lacks realm or nonce")]
    Malformed,
    /// An algorithm this side does not know; the server should have sent another challenge too.
    #[error("the challenge asks for an unknown algorithm")]
    UnknownAlgorithm,
    /// `qop` is missing or does not offer `auth`.
    #[error("the challenge does not offer qop=auth")]
    NoQopAuth,
}

impl ReceivedChallenge {
    /// Reads one `WWW-Authenticate` or `Proxy-Authenticate` value.
    ///
    /// # Errors
    /// Every [`ChallengeError`] means: this value is of no use, try the next one.
    pub fn parse(value: &[u8]) -> Result<ReceivedChallenge, ChallengeError> {
        let (scheme, rest) = parameters::split_scheme(value).ok_or(ChallengeError::Malformed)?;
        if !parameters::is_digest(scheme) {
            return Err(ChallengeError::OtherScheme);
        }
        let (mut realm, mut nonce, mut opaque) = (None, None, None);
        let (mut algorithm, mut qop, mut stale) = (Some(Algorithm::Md5), None, false);
        parameters::visit(rest, |name, value| {
            match name.to_ascii_lowercase().as_slice() {
                b"realm" => realm = Some(value.into_owned()),
                b"nonce" => nonce = Some(value.into_owned()),
                b"opaque" => opaque = Some(value.into_owned()),
                b"algorithm" => algorithm = Algorithm::parse(&value),
                b"qop" => qop = Some(value),
                b"stale" => stale = value.eq_ignore_ascii_case(b"true"),
                // RFC 7616 §3.3: an unknown parameter MUST be ignored.
                _ => {}
            }
            Ok(())
        })
        .map_err(|Malformed| ChallengeError::Malformed)?;

        let algorithm = algorithm.ok_or(ChallengeError::UnknownAlgorithm)?;
        let offers_auth = qop.is_some_and(|options| {
            options
                .split(|&octet| octet == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"auth"))
        });
        if !offers_auth {
            return Err(ChallengeError::NoQopAuth);
        }
        Ok(ReceivedChallenge {
            realm: realm.ok_or(ChallengeError::Malformed)?,
            nonce: nonce.ok_or(ChallengeError::Malformed)?,
            opaque,
            algorithm,
            stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_challenge_reads_back() {
        for algorithm in Algorithm::STRONGEST_FIRST {
            for stale in [false, true] {
                let sent = Challenge { realm: b"a \"b\"", nonce: b"n+/=", algorithm, stale };
                assert_eq!(
                    ReceivedChallenge::parse(&sent.render()),
                    Ok(ReceivedChallenge {
                        realm: b"a \"b\"".to_vec(),
                        nonce: b"n+/=".to_vec(),
                        opaque: None,
                        algorithm,
                        stale,
                    })
                );
            }
        }
    }

    #[test]
    fn the_form_on_the_wire_is_that_of_rfc_7616() {
        let challenge = Challenge {
            realm: b"example.com",
            nonce: b"abc",
            algorithm: Algorithm::Sha256,
            stale: false,
        };
        assert_eq!(
            challenge.render(),
            br#"Digest realm="example.com", nonce="abc", algorithm=SHA-256, qop="auth""#
        );
    }

    #[test]
    fn challenges_that_cannot_be_answered_say_why() {
        use ChallengeError::*;
        for (value, expected) in [
            ("Basic realm=\"x\"", OtherScheme),
            ("Digest realm=\"x\", qop=\"auth\"", Malformed),
            ("Digest nonce=\"x\", qop=\"auth\"", Malformed),
            ("Digest realm=\"x", Malformed),
            ("Digest realm=\"x\", nonce=\"n\"", NoQopAuth),
            ("Digest realm=\"x\", nonce=\"n\", qop=\"auth-int\"", NoQopAuth),
            ("Digest realm=\"x\", nonce=\"n\", qop=\"auth\", algorithm=SHA-3", UnknownAlgorithm),
        ] {
            assert_eq!(ReceivedChallenge::parse(value.as_bytes()), Err(expected), "{value}");
        }
    }

    #[test]
    fn a_challenge_without_algorithm_means_md5_and_may_offer_several_qops() {
        let read = ReceivedChallenge::parse(
            br#"digest realm="x", nonce="n", qop="auth-int, auth", opaque="o", future=1"#,
        );
        assert_eq!(
            read.map(|challenge| (challenge.algorithm, challenge.opaque)),
            Ok((Algorithm::Md5, Some(b"o".to_vec())))
        );
    }
}
