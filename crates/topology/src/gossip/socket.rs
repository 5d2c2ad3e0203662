//! The socket under the gossip: what leaves by it is sealed, what comes is opened and heard.
//!
//! Everything that a member says counts as a sign of life; questions for the time are answered at once, and answers read
//! off ([`super::clock_offset`]). Only whole gossip messages reach the library. What does not come from a member is
//! dropped and counted, and nothing is answered to it. Errors of the network are counted: the next word may get through.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tracing::{debug, error, warn};

use super::clock_offset::ClockOffsets;
use super::hearing::Hearing;
use super::replays::{Replays, Stale};
use super::sealing::{NONCE_BYTES, Refusal, Sealer};
use super::word::{Parts, Spoken, Word, split};
use crate::node::NodeNumber;

/// The longest datagram of a member is shorter.
const DATAGRAM_BYTES_MAX: usize = 2_048;

/// After an error of the socket: what is wrong with it may last.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How often something that keeps happening is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What was dropped, and why, since the node began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipCounters {
    /// Datagrams of members.
    pub heard: u64,
    /// Datagrams of who does not have the cluster's secret, or not for us, or changed on their way.
    pub strangers: u64,
    /// Datagrams of members that came before, or were sent before this node began.
    pub repeated: u64,
    /// Datagrams of members whose time is more than ten seconds from ours.
    pub out_of_time: u64,
    /// The last of these: microseconds by which its sender's clock is ahead of ours, if it was no repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_out_of_time_ahead_us: Option<i64>,
    /// Datagrams of members that another release may read.
    pub unreadable: u64,
    /// Datagrams of another node with our number.
    pub doubles: u64,
    /// Datagrams that the system did not send, and messages that were too long.
    pub unsent: u64,
}

/// What the gossip's socket, the questions for the time and the multicast socket share.
pub(super) struct Shared {
    node: NodeNumber,
    /// Of this gossip; greater than that of any before.
    life: u64,
    address: SocketAddr,
    state: Mutex<State>,
}

struct State {
    sealer: Sealer,
    replays: Replays,
    parts: Parts,
    message_last: u32,
    hearing: Hearing,
    offsets: ClockOffsets,
    counters: GossipCounters,
    logged_at: Option<Instant>,
}

/// Unix microseconds by the machine's clock.
pub(super) fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(super) fn new(
        node: NodeNumber,
        address: SocketAddr,
        sealer: Sealer,
        hearing: Hearing,
    ) -> Shared {
        let life = unix_micros();
        let state = State {
            sealer,
            replays: Replays::new(life),
            parts: Parts::default(),
            message_last: 0,
            hearing,
            offsets: ClockOffsets::default(),
            counters: GossipCounters::default(),
            logged_at: None,
        };
        Shared { node, life, address, state: Mutex::new(state) }
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> GossipCounters {
        self.state().counters
    }

    pub(super) fn offsets<T>(&self, look: impl FnOnce(&ClockOffsets) -> T) -> T {
        look(&self.state().offsets)
    }

    pub(super) fn hearing<T>(&self, look: impl FnOnce(&mut Hearing) -> T) -> T {
        look(&mut self.state().hearing)
    }

    /// Sends a word; what the system does not take is counted.
    pub(super) async fn say(&self, word: Word, to: SocketAddr, socket: &UdpSocket) {
        let Some(datagram) = self.sealed(word, to) else { return };
        if let Err(error) = socket.send_to(&datagram, to).await {
            self.state().counters.unsent += 1;
            debug!(%error, %to, "a datagram to a member was not sent");
        }
    }

    fn sealed(&self, word: Word, to: SocketAddr) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        if let Err(error) = getrandom::fill(&mut nonce) {
            error!(%error, "no random octets: nothing is said to the other members");
            return None;
        }
        let (node, life, address) = (self.node, self.life, self.address);
        let text = Spoken { node, life, address, word }.encode();
        Some(self.state().sealer.seal(&text, to, unix_micros(), nonce))
    }

    /// What a member said to us by a datagram that came for `to`; `None` for what is dropped.
    pub(super) fn open(&self, datagram: &[u8], to: SocketAddr) -> Option<Spoken> {
        let mut state = self.state();
        let State { sealer, replays, hearing, counters, logged_at, .. } = &mut *state;
        let mut may_log = || {
            let now = Instant::now();
            let may = logged_at.is_none_or(|at| now.saturating_duration_since(at) > LOG_INTERVAL);
            *logged_at = if may { Some(now) } else { *logged_at };
            may
        };
        let text = match sealer.open(datagram, to, unix_micros(), replays) {
            Ok(text) => text,
            Err(refusal) => {
                match refusal {
                    Refusal::Stranger => counters.strangers += 1,
                    Refusal::Stale(Stale::Repeated | Stale::Former) => counters.repeated += 1,
                    Refusal::Stale(Stale::Own) => {}
                    Refusal::Stale(Stale::OutOfTime { ahead_us }) => {
                        counters.out_of_time += 1;
                        counters.last_out_of_time_ahead_us = Some(ahead_us);
                        if may_log() {
                            warn!(
                                ahead_us,
                                "a member is not heard: its clock, or ours, is wrong by more than ten seconds"
                            );
                        }
                    }
                }
                return None;
            }
        };
        let Some(spoken) = Spoken::decode(&text) else {
            counters.unreadable += 1;
            return None;
        };
        if spoken.node == self.node {
            counters.doubles += 1;
            if may_log() {
                error!(number = %self.node, other = %spoken.address, "another node says that it has this node's number: one of them was restored from a copy; remove it from the cluster, and have it join anew");
            }
            return None;
        }
        counters.heard += 1;
        hearing.heard(spoken.node, spoken.life, Instant::now());
        Some(spoken)
    }

    /// The gossip message that a part completes.
    fn whole(&self, from: SocketAddr, part: super::word::Part) -> Option<ChitchatMessage> {
        let mut state = self.state();
        let octets = state.parts.came(from, part)?;
        let message = ChitchatMessage::deserialize(&mut &octets[..]);
        if message.is_err() {
            state.counters.unreadable += 1;
        }
        message.ok()
    }
}

/// Makes the library speak through sealed datagrams. Its trait is written with `async-trait` and `anyhow`.
pub(super) struct SealedTransport {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Arc<UdpSocket>,
}

#[async_trait::async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (shared, socket) = (Arc::clone(&self.shared), Arc::clone(&self.socket));
        Ok(Box::new(SealedSocket { shared, socket, buffer: vec![0; DATAGRAM_BYTES_MAX] }))
    }
}

struct SealedSocket {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    buffer: Vec<u8>,
}

impl SealedSocket {
    /// What of a member's words is for the library.
    fn heard(&self, spoken: Spoken) -> Option<ChitchatMessage> {
        let Spoken { node, address, word, .. } = spoken;
        match word {
            Word::Part(part) => self.shared.whole(address, part),
            Word::Ask { asked_at } => {
                let answer = Word::Answer { asked_at, answered_at: unix_micros() };
                if let Some(datagram) = self.shared.sealed(answer, address)
                    // Whoever waits here is not reading: what the socket has no room for is asked again.
                    && self.socket.try_send_to(&datagram, address).is_err()
                {
                    self.shared.state().counters.unsent += 1;
                }
                None
            }
            Word::Answer { asked_at, answered_at } => {
                let now = unix_micros();
                self.shared.state().offsets.answered(node, asked_at, answered_at, now);
                None
            }
            Word::Here => None,
        }
    }
}

#[async_trait::async_trait]
impl Socket for SealedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let octets = message.serialize_to_vec();
        let number = {
            let mut state = self.shared.state();
            state.message_last = state.message_last.wrapping_add(1);
            state.message_last
        };
        match split(number, &octets) {
            Some(parts) => {
                for part in parts {
                    self.shared.say(Word::Part(part), to, &self.socket).await;
                }
            }
            None => self.shared.state().counters.unsent += 1,
        }
        Ok(())
    }

    /// Can be given up at any time: what has come is in `shared`.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let length = match self.socket.recv_from(&mut self.buffer).await {
                Ok((length, _)) => length,
                Err(error) => {
                    debug!(%error, "nothing was received from other members");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            let Some(spoken) = self.shared.open(&self.buffer[..length], self.shared.address) else {
                continue;
            };
            let from = spoken.address;
            if let Some(message) = self.heard(spoken) {
                return Ok((from, message));
            }
        }
    }
}
