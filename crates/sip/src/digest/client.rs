//! The client's side: from the challenges of a 401 or 407 to the credentials of the next attempt.
//!
//! Source: RFC 3261 §22.2–22.3, RFC 8760 §2.4 (the client uses the first challenge whose algorithm it knows).

use std::borrow::Cow;

use super::response::expected_response;
use super::{ChallengeError, Credentials, Ha1, ReceivedChallenge};

/// What a user agent logs in with.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The private identity.
    pub username: &'a [u8],
    /// The password in the clear: only a client has it.
    pub password: &'a [u8],
}

/// Why no challenge of a response can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The response carried no challenge at all.
    #[error("the response carries no challenge")]
    NoChallenge,
    /// None of them is of use; the reason is that of the last.
    #[error("none of the response's challenges can be answered")]
    NoneUsable(#[source] ChallengeError),
}

/// Answers the first challenge that can be answered; returns it and the header value to send.
///
/// `nonce_count` starts at 1 for a fresh nonce and grows by one with each request that uses it again. `cnonce` is
/// random, chosen by the caller.
///
/// # Errors
/// [`AnswerError`] when no challenge can be answered; a retry makes no sense.
pub fn answer<'c>(
    challenges: impl IntoIterator<Item = &'c [u8]>,
    login: Login<'_>,
    method: &[u8],
    uri: &[u8],
    cnonce: &[u8],
    nonce_count: u32,
) -> Result<(ReceivedChallenge, Vec<u8>), AnswerError> {
    let mut failure = AnswerError::NoChallenge;
    for value in challenges {
        match ReceivedChallenge::parse(value) {
            Ok(challenge) => {
                let value = challenge.answer(login, method, uri, cnonce, nonce_count);
                return Ok((challenge, value));
            }
            Err(error) => failure = AnswerError::NoneUsable(error),
        }
    }
    Err(failure)
}

impl ReceivedChallenge {
    /// The header value that answers this challenge; see [`answer`] for the arguments.
    pub fn answer(
        &self,
        login: Login<'_>,
        method: &[u8],
        uri: &[u8],
        cnonce: &[u8],
        nonce_count: u32,
    ) -> Vec<u8> {
        let nonce_count_digits = format!("{nonce_count:08x}");
        let mut credentials = Credentials {
            username: Cow::Borrowed(login.username),
            realm: Cow::Borrowed(&self.realm),
            nonce: Cow::Borrowed(&self.nonce),
            uri: Cow::Borrowed(uri),
            response: Cow::Borrowed(b""),
            algorithm: self.algorithm,
            cnonce: Cow::Borrowed(cnonce),
            nonce_count_digits: nonce_count_digits
                .as_bytes()
                .try_into()
                .expect("a u32 has at most eight hexadecimal digits"),
            opaque: self.opaque.as_deref().map(Cow::Borrowed),
        };
        let ha1 = Ha1::new(self.algorithm, login.username, &self.realm, login.password);
        let response = expected_response(&ha1, method, &credentials);
        credentials.response = Cow::Borrowed(response.as_bytes());
        credentials.render()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Algorithm, Challenge, matches};
    use super::*;

    const LOGIN: Login<'_> = Login { username: b"bob \"x\"", password: b"secret" };

    fn challenge(algorithm: Algorithm) -> Vec<u8> {
        Challenge { realm: b"example.com", nonce: b"abc", algorithm, stale: false }.render()
    }

    #[test]
    fn the_servers_side_accepts_the_answer_for_every_algorithm() {
        for algorithm in Algorithm::STRONGEST_FIRST {
            let sent = challenge(algorithm);
            let (_, value) =
                answer([sent.as_slice()], LOGIN, b"REGISTER", b"sip:example.com", b"c", 0x1f)
                    .unwrap();
            let credentials = Credentials::parse(&value).unwrap();
            let ha1 = Ha1::new(algorithm, LOGIN.username, b"example.com", LOGIN.password);
            assert!(matches(&ha1, b"REGISTER", &credentials), "{algorithm}");
            assert_eq!(credentials.nonce_count(), 0x1f);
        }
    }

    #[test]
    fn the_first_challenge_that_can_be_answered_is_taken() {
        let (strong, weak) = (challenge(Algorithm::Sha256), challenge(Algorithm::Md5));
        let values: [&[u8]; 3] =
            [b"Digest realm=\"x\", nonce=\"n\", algorithm=SHA-9", &strong, &weak];
        let (taken, _) = answer(values, LOGIN, b"INVITE", b"sip:a@b", b"c", 1).unwrap();
        assert_eq!(taken.algorithm, Algorithm::Sha256);
    }

    #[test]
    fn without_a_usable_challenge_the_reason_is_said() {
        let nothing = answer([], LOGIN, b"INVITE", b"sip:a@b", b"c", 1);
        assert_eq!(nothing.unwrap_err(), AnswerError::NoChallenge);
        let basic: [&[u8]; 1] = [b"Basic realm=\"x\""];
        assert_eq!(
            answer(basic, LOGIN, b"INVITE", b"sip:a@b", b"c", 1).unwrap_err(),
            AnswerError::NoneUsable(ChallengeError::OtherScheme)
        );
    }
}
