//! Passing on what came to the linked leg, and what is to be done when that is not possible.

use crate::{Error, Heard, Incoming, Outcome, sip};

/// Passes a request on. When it has to wait for an earlier one of the other leg, it is answered so that the other side tries
/// again: 491 to an INVITE, 500 to others (RFC 3261 §14.2).
///
/// # Errors
/// As of [`sip::relay`], `wrong-state` excepted.
pub fn request(request: &Incoming) -> Outcome {
    match sip::relay() {
        Err(Error::WrongState(_)) => {
            request.respond(if request.message.method() == "INVITE" { 491 } else { 500 })
        }
        passed => passed,
    }
}

/// Passes a response on to the request that waits for it. When none does any more, a 2xx to an INVITE is acknowledged, and
/// other responses have nothing more to say.
///
/// # Errors
/// As of [`sip::relay`], `wrong-state` excepted.
pub fn response(response: &Heard) -> Outcome {
    let message = &response.message;
    match sip::relay() {
        Err(Error::WrongState(_)) => match (&*message.method(), message.status()) {
            ("INVITE", Some(200..=299)) => sip::acknowledge(&response.leg, &[], None),
            _ => Ok(()),
        },
        passed => passed,
    }
}
