//! A crowd of users that one socket registers: 10,000 bindings without 10,000 phones.
//!
//! A sliding window of REGISTERs over UDP, each sent again until it is answered (RFC 3261 §17.1.2), so a
//! killed edge or container costs retransmissions, not bindings.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::Message;
use tokio::net::UdpSocket;

/// REGISTERs on their way at once: what a burst of the kernel's default socket buffer holds.
const WINDOW: usize = 128;
/// Interval of retransmissions, and the unit of looking for them.
const RETRANSMISSION: Duration = Duration::from_millis(500);
/// A user who got no answer for so long is lost.
const PATIENCE: Duration = Duration::from_secs(32);

/// What a crowd's registration came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Users answered 200.
    pub registered: usize,
    /// Users answered anything else.
    pub refused: usize,
    /// Users never answered.
    pub unanswered: usize,
    /// Requests sent again.
    pub retransmissions: usize,
}

/// A crowd behind one socket: its users' contacts are the same in every round.
#[derive(Debug)]
pub struct Crowd {
    socket: UdpSocket,
    local: SocketAddr,
    domain: String,
}

/// Registers `user0@domain` … for `expires` seconds each, by a socket of their own. `round` is the CSeq number: a later round of
/// the same crowd has a higher one.
///
/// # Panics
/// When the socket fails.
pub async fn register(
    edge: SocketAddr,
    domain: &str,
    users: std::ops::Range<usize>,
    round: u32,
    expires: u32,
) -> Outcome {
    Crowd::of(edge, domain).await.register(users, round, expires).await
}

impl Crowd {
    /// A crowd of this domain that registers by this edge.
    ///
    /// # Panics
    /// When the system has no socket left.
    pub async fn of(edge: SocketAddr, domain: &str) -> Crowd {
        let any = if edge.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).await.expect("a socket");
        socket.connect(edge).await.expect("a way to the edge");
        let local = socket.local_addr().expect("bound");
        Crowd { socket, local, domain: domain.to_owned() }
    }

    /// Registers these of its users, as [`register`].
    pub async fn register(
        &mut self,
        users: std::ops::Range<usize>,
        round: u32,
        expires: u32,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut waiting: HashMap<usize, Waiting> = HashMap::new();
        let mut users = users.peekable();
        let mut buffer = vec![0_u8; 65_535];
        while users.peek().is_some() || !waiting.is_empty() {
            while waiting.len() < WINDOW {
                let Some(user) = users.next() else { break };
                let request = request(self.local, &self.domain, user, round, expires);
                // An edge that is just being restarted shows as a send error: the retransmission comes.
                let _ = self.socket.send(&request).await;
                waiting.insert(user, Waiting::new(request));
            }
            let received = self.socket.recv(&mut buffer);
            let received = tokio::time::timeout(RETRANSMISSION / 4, received).await;
            if let Ok(Ok(length)) = received
                && let Some((user, answered, status)) = answered(&buffer[..length])
                && answered == round
                && status >= 200
                && waiting.remove(&user).is_some()
            {
                match status {
                    200 => outcome.registered += 1,
                    _ => outcome.refused += 1,
                }
            }
            let now = Instant::now();
            for state in waiting.values_mut().filter(|state| now >= state.again) {
                state.again = now + RETRANSMISSION;
                outcome.retransmissions += 1;
                let _ = self.socket.send(&state.request).await;
            }
            let before = waiting.len();
            waiting.retain(|_, state| now < state.given_up);
            outcome.unanswered += before - waiting.len();
        }
        outcome
    }
}

struct Waiting {
    request: Bytes,
    again: Instant,
    given_up: Instant,
}

impl Waiting {
    fn new(request: Bytes) -> Waiting {
        let now = Instant::now();
        Waiting { request, again: now + RETRANSMISSION, given_up: now + PATIENCE }
    }
}

fn request(local: SocketAddr, domain: &str, user: usize, round: u32, expires: u32) -> Bytes {
    Bytes::from(format!(
        "REGISTER sip:{domain} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};branch=z9hG4bK-crowd-{user}-{round};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:user{user}@{domain}>;tag=crowd{user}\r\n\
         To: <sip:user{user}@{domain}>\r\n\
         Call-ID: crowd-{user}\r\n\
         CSeq: {round} REGISTER\r\n\
         Contact: <sip:user{user}@{local}>\r\n\
         Expires: {expires}\r\n\
         Content-Length: 0\r\n\r\n"
    ))
}

/// The user and the round that a response is for, and its status.
fn answered(octets: &[u8]) -> Option<(usize, u32, u16)> {
    let message = Message::parse(Bytes::copy_from_slice(octets)).ok()?;
    let status = message.status()?;
    let call_id = std::str::from_utf8(message.call_id().ok()?).ok()?;
    let round = message.cseq().ok()?.number;
    Some((call_id.strip_prefix("crowd-")?.parse().ok()?, round, status))
}
