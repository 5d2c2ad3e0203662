//! The four transaction machines of RFC 3261 §17, corrected by RFC 6026 and RFC 4320.
//!
//! A transaction absorbs retransmissions of what it has seen and, over an unreliable transport, repeats what
//! was not answered. The machines here hold states and deadlines and nothing else: no bytes, no sockets, no
//! clock. An event and `now` go in; actions come out through the caller's `Extend`; [`next_timeout`] of each
//! machine says when it wants to be called next. Whoever owns a machine keeps the rendered messages that
//! `SendRequest`, `SendAck`, `SendResponse` and `ResendResponse` stand for, and finds the machine that a
//! message belongs to (§17.1.3, §17.2.3).
//!
//! Deliberately absent: Timer C, which is a proxy's (§16.6), and the retransmission of 2xx by the user agent
//! (§13.3.1.4).
//!
//! | timer | meaning | lasts |
//! |---|---|---|
//! | A | INVITE is sent again | T1, doubling |
//! | B | INVITE times out | 64·T1 |
//! | D | repeated non-2xx finals are acknowledged again | 64·T1 (at least 32 s with the default T1) |
//! | E | a non-INVITE request is sent again | T1, doubling up to T2; T2 after a provisional response |
//! | F | a non-INVITE request times out | 64·T1 |
//! | G | a non-2xx final to INVITE is sent again | T1, doubling up to T2 |
//! | H | the ACK does not come | 64·T1 |
//! | I | repeated ACKs are absorbed | T4 |
//! | J | repeated non-INVITE requests get the final again | 64·T1 |
//! | K | repeated finals to non-INVITE are absorbed | T4 |
//! | L | repeated INVITEs are absorbed after a 2xx (RFC 6026) | 64·T1 |
//! | M | 2xx of other forks are let through (RFC 6026) | 64·T1 |
//!
//! Over a reliable transport A, E and G never run (the transport repeats for us), and D, I, J and K last zero.
//!
//! [`next_timeout`]: ClientInviteTransaction::next_timeout

mod client_invite;
mod client_non_invite;
mod server_invite;
mod server_non_invite;

pub use client_invite::{ClientInviteState, ClientInviteTransaction};
pub use client_non_invite::{ClientNonInviteState, ClientNonInviteTransaction};
pub use server_invite::{ServerInviteState, ServerInviteTransaction};
pub use server_non_invite::{ServerNonInviteState, ServerNonInviteTransaction};

use std::time::{Duration, Instant};

/// The base timers that all others derive from.
///
/// Source: RFC 3261 §17.1.1.1 and table 4
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Estimate of the round-trip time; 500 ms. Larger values are allowed, smaller ones on private networks.
    pub t1: Duration,
    /// Longest interval between retransmissions of non-INVITE requests and INVITE finals; 4 s.
    pub t2: Duration,
    /// How long a message stays in the network; 5 s.
    pub t4: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl Timers {
    /// 64·T1, the patience of Timers B, D, F, H, J, L and M.
    pub fn patience(&self) -> Duration {
        self.t1 * 64
    }

    /// When a server transaction of INVITE says 100 on its own: 200 ms, less when T1 is set so short that
    /// the client would have repeated itself by then.
    ///
    /// Source: RFC 3261 §17.2.1
    pub fn trying_to_invite(&self) -> Duration {
        Duration::from_millis(200).min(self.t1)
    }

    /// The time until a client's Timer E has grown to T2 (3.5 s by default): before that a non-INVITE
    /// request must not, after that it must be answered 100.
    ///
    /// Source: RFC 4320 §4.1
    pub fn trying_to_non_invite(&self) -> Duration {
        let mut elapsed = Duration::ZERO;
        let mut interval = self.t1.max(Duration::from_millis(1));
        while interval < self.t2 {
            elapsed += interval;
            interval *= 2;
        }
        elapsed.min(self.patience())
    }
}

/// Whether the transport itself repeats lost octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reliability {
    /// TCP, TLS, WebSocket: no retransmission timers.
    Reliable,
    /// UDP.
    Unreliable,
}

/// All that a transaction wants to know of a response's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseClass {
    /// 100–199.
    Provisional,
    /// 200–299.
    Success,
    /// 300–699.
    Failure,
}

impl ResponseClass {
    /// The class of a status; None outside 100–699.
    pub fn of(status: u16) -> Option<ResponseClass> {
        match status {
            100..=199 => Some(ResponseClass::Provisional),
            200..=299 => Some(ResponseClass::Success),
            300..=699 => Some(ResponseClass::Failure),
            _ => None,
        }
    }
}

/// What the owner of a client transaction has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAction {
    /// Send the request, for the first time or again.
    SendRequest,
    /// Send the ACK to the non-2xx final, for the first time or again (§17.1.1.3).
    SendAck,
    /// Pass the response that has just come to the transaction user.
    Deliver,
    /// Tell the transaction user that no final response came in time.
    TimedOut,
    /// Tell the transaction user that the request could not be sent.
    TransportFailed,
    /// Forget the transaction; always the last action.
    Terminated,
}

/// What the owner of a server transaction has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerAction {
    /// Keep the transaction user's response as the latest one, and send it.
    SendResponse,
    /// Make a 100 Trying, keep it as the latest response, and send it.
    SendTrying,
    /// Send the latest response again.
    ResendResponse,
    /// Pass the ACK that has just come to the transaction user (it belongs to a 2xx).
    DeliverAck,
    /// Tell the transaction user that its peer has lost interest: no ACK came, or nobody can be waiting
    /// for the response any more.
    TimedOut,
    /// Tell the transaction user that the response could not be sent.
    TransportFailed,
    /// Forget the transaction; always the last action.
    Terminated,
}

/// A repeating deadline whose interval doubles up to a limit (Timers A, E and G).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retransmission {
    at: Instant,
    interval: Duration,
}

impl Retransmission {
    /// None over a reliable transport, which repeats for us.
    fn start(reliability: Reliability, interval: Duration, now: Instant) -> Option<Retransmission> {
        match reliability {
            Reliability::Reliable => None,
            Reliability::Unreliable => Some(Retransmission { at: now + interval, interval }),
        }
    }

    /// The next round: twice the interval, at most `limit`.
    fn back_off(&mut self, limit: Duration, now: Instant) {
        self.interval = (self.interval * 2).min(limit);
        self.at = now + self.interval;
    }
}

/// Whether a deadline has come.
fn due(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|at| at <= now)
}

/// The earlier of two deadlines that may be off.
fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_to_non_invite_waits_until_timer_e_has_grown_to_t2() {
        // RFC 4320 §4.1: 0.5 + 1 + 2 s with the default timers.
        assert_eq!(Timers::default().trying_to_non_invite(), Duration::from_millis(3500));
    }

    #[test]
    fn class_is_known_for_100_to_699_only() {
        assert_eq!(ResponseClass::of(99), None);
        assert_eq!(ResponseClass::of(100), Some(ResponseClass::Provisional));
        assert_eq!(ResponseClass::of(299), Some(ResponseClass::Success));
        assert_eq!(ResponseClass::of(300), Some(ResponseClass::Failure));
        assert_eq!(ResponseClass::of(699), Some(ResponseClass::Failure));
        assert_eq!(ResponseClass::of(700), None);
    }
}
