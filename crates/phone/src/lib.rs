//! A small SIP phone, for tests and for the demo: registers, calls, answers, cancels, holds several flows.
//!
//! It does what a well-behaved phone does (retransmits over UDP by the RFC's timers, answers retransmissions from
//! memory, sends a final response to an INVITE until its ACK comes, acknowledges every 2xx again), and it is
//! suspicious as no phone is: it counts how often each call rang ([`Phone::rang_again`]), and whatever breaks a
//! dialog's order (a CSeq that goes back, tags turned round) is an error and stands in [`Phone::violations`].
//! A [`Watcher`] sees each message at the moment it passes.
//!
//! | module | what it is |
//! |---|---|
//! | [`Phone`] | one user; a cheap handle, its clones are the same phone |
//! | [`Line`] | one flow to an edge; a lost TCP connection can be replaced |
//! | [`Draft`], [`Exchange`] | a request being written, a request on its way |
//! | [`Invitation`], [`Ringing`], [`Call`] | a call: asked for, coming in, established |
//! | [`Watcher`], [`Passed`] | what a test sees of the messages |
//!
//! Deliberately absent: media (the session descriptions name a call, nothing listens), TLS, PRACK. It has its
//! own idea of a dialog on purpose: a mistake that both ends of a test share is no mistake that the test finds.

mod answers;
mod call;
mod dialog;
mod draft;
mod exchange;
mod invitation;
mod line;
mod phone;
mod registration;
mod ringing;
mod rings;
mod router;
mod session_description;
mod violations;
mod watch;

use std::time::Duration;

pub use call::Call;
pub use draft::Draft;
pub use exchange::Exchange;
pub use invitation::Invitation;
pub use line::{Line, LineTransport};
pub use phone::Phone;
pub use ringing::Ringing;
pub use watch::{Direction, Passed, Watcher, after_nth};

/// How long a phone waits for anything that must come: longer than Timer B and F (64·T1 = 32 s).
pub const PATIENCE: Duration = Duration::from_secs(40);
/// T1, RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// T2, RFC 3261 §17.1.2.2.
const T2: Duration = Duration::from_secs(4);

/// What went wrong on a phone; tests unwrap it.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// Nothing came within [`PATIENCE`].
    #[error("waited {PATIENCE:?} for {0}")]
    TimedOut(String),
    /// Another final response than the one that was asked for.
    #[error("{method} was answered {status} {reason}")]
    Refused {
        /// Method of the request.
        method: String,
        /// Status of the final response.
        status: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// The call was given up by its caller before it was answered.
    #[error("the caller gave the call up")]
    Cancelled,
    /// The other side hung up while something else was waited for.
    #[error("the other side hung up")]
    HungUp,
    /// The TCP connection of a line is gone, and with it whatever was waited for.
    #[error("the connection to {0} is gone")]
    LineLost(std::net::SocketAddr),
    /// Something came that breaks the order of a dialog or a transaction.
    #[error("against the protocol: {0}")]
    Violation(String),
    /// A socket failed.
    #[error("socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The challenge cannot be answered.
    #[error("challenge: {0}")]
    Challenge(String),
}
