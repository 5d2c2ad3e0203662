//! Gathers the challenges of every branch into the one 401 or 407 that is relayed, so that a caller can
//! answer all of them with one more request (RFC 3261 §16.7(7)).
//!
//! Values are copied whole and untouched: a comma inside a challenge separates its parameters, so a field is
//! never split. Deliberately absent: challenges of our own, which are an application's.

use sip::{Edits, HeaderName, Message};

/// Whether a response with this status asks for credentials.
pub(super) fn is_challenge(status: u16) -> bool {
    matches!(status, 401 | 407)
}

/// Adds the challenges of `others` to those that the best response has itself.
pub(super) fn gather<'a>(others: impl Iterator<Item = &'a Message>, edits: &mut Edits) {
    for other in others.filter(|other| other.status().is_some_and(is_challenge)) {
        for name in [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate] {
            for challenge in other.fields(name) {
                edits.push_back(name, challenge);
            }
        }
    }
}
