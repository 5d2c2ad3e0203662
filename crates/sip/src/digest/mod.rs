//! Digest access authentication, for the side that challenges and the side that answers.
//!
//! `challenge` renders and reads `WWW-Authenticate`/`Proxy-Authenticate` values, `credentials` reads
//! and renders `Authorization`/`Proxy-Authorization` values, `algorithm` holds the three hashes and
//! [`Ha1`], `response` the computation that both sides must agree on, `client` answers a challenge for
//! a user agent. Nonces are opaque here: whoever challenges makes and judges them.
//!
//! Source: RFC 7616 (Digest), RFC 8760 (SHA-256 and SHA-512-256 in SIP), RFC 3261 §22.
//! Deliberately absent: Basic (RFC 3261 §22 forbids it), `qop=auth-int` and requests without `qop`
//! (RFC 8760 §2.5 makes `qop` mandatory), the `-sess` algorithms and `userhash` (no SIP phone sends them).

mod algorithm;
mod challenge;
mod client;
mod credentials;
mod parameters;
mod response;

pub use algorithm::{Algorithm, Digest, Ha1, Hex};
pub use challenge::{Challenge, ChallengeError, ReceivedChallenge};
pub use client::{AnswerError, Login, answer};
pub use credentials::{Credentials, CredentialsError};
pub use response::{expected_response, matches};
