//! The flows of a run, whatever carries them: UDP sockets or TCP connections.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use mio::event::Event;
use mio::{Registry, Token};
use transport::tcp::CloseReason;

use crate::outbox::FlowIndex;
use crate::statistics::Failure;
use crate::tcp_flows::TcpFlows;
use crate::udp_flows::UdpFlows;

/// What happened on a flow.
#[derive(Debug)]
pub(crate) enum FlowEvent {
    /// Something came: a datagram, or a message of a stream.
    Message {
        /// By which flow.
        flow: FlowIndex,
        /// From whom.
        from: SocketAddr,
        /// What.
        bytes: Bytes,
    },
    /// A connection is established.
    Up {
        /// Which flow.
        flow: FlowIndex,
        /// Its own address.
        local: SocketAddr,
    },
    /// A connection is gone, or did not come up.
    Down {
        /// Which flow.
        flow: FlowIndex,
        /// As what it counts.
        failure: Failure,
        /// For people.
        why: String,
    },
}

/// All flows of a run.
#[derive(Debug)]
pub(crate) enum Flows {
    Udp(Box<UdpFlows>),
    Tcp(Box<TcpFlows>),
}

impl Flows {
    /// Takes note of what a socket is ready for.
    pub(crate) fn note(&mut self, event: &Event, now: Instant) {
        match self {
            Flows::Udp(flows) => flows.note(event),
            Flows::Tcp(flows) => flows.handle(event, now),
        }
    }

    /// Hands over what happened, with the time it is told.
    ///
    /// # Errors
    /// A socket is unusable.
    pub(crate) fn receive(
        &mut self,
        mut on_event: impl FnMut(FlowEvent, Instant),
    ) -> io::Result<()> {
        let mut now = Instant::now();
        match self {
            Flows::Udp(flows) => {
                let mut last = None;
                flows.receive(|flow, from, bytes| {
                    // The clock is read once for what one socket brought.
                    if last.replace(flow) != Some(flow) {
                        now = Instant::now();
                    }
                    on_event(FlowEvent::Message { flow, from, bytes }, now);
                })
            }
            Flows::Tcp(flows) => {
                flows.receive(now, |event| on_event(event, now));
                Ok(())
            }
        }
    }

    /// Begins the flow's connection; its own address, if that is known now. A datagram socket has nothing to begin.
    pub(crate) fn connect(
        &mut self,
        flow: FlowIndex,
        registry: &Registry,
        now: Instant,
    ) -> Option<SocketAddr> {
        match self {
            Flows::Udp(_) => None,
            Flows::Tcp(flows) => flows.connect(flow, registry, now),
        }
    }

    /// Closes the flow's connection.
    pub(crate) fn close(&mut self, flow: FlowIndex) {
        match self {
            Flows::Udp(_) => {}
            Flows::Tcp(flows) => flows.close(flow),
        }
    }

    /// Queues a message; the flow's own address, if it may have changed.
    pub(crate) fn queue(
        &mut self,
        (flow, to): (FlowIndex, SocketAddr),
        message: Bytes,
        registry: &Registry,
        now: Instant,
    ) -> Option<SocketAddr> {
        match self {
            Flows::Udp(flows) => {
                flows.queue(flow, to, message);
                None
            }
            Flows::Tcp(flows) => flows.queue(flow, message, registry, now),
        }
    }

    /// Sends what is queued, as far as the system takes it.
    ///
    /// # Errors
    /// A socket is unusable.
    pub(crate) fn flush(&mut self, now: Instant) -> io::Result<()> {
        match self {
            Flows::Udp(flows) => flows.flush(),
            Flows::Tcp(flows) => {
                flows.flush(now);
                Ok(())
            }
        }
    }

    /// Whether something is left to read that no event will tell of.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Flows::Udp(flows) => flows.has_unread(),
            Flows::Tcp(flows) => flows.has_unread(),
        }
    }

    /// Whether a socket takes no more for now.
    pub(crate) fn is_blocked(&self) -> bool {
        match self {
            Flows::Udp(flows) => flows.is_blocked(),
            // Each connection has a bound of its own.
            Flows::Tcp(_) => false,
        }
    }

    /// When the flows have something to do by themselves.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self {
            Flows::Udp(_) => None,
            Flows::Tcp(flows) => flows.next_due(),
        }
    }

    /// Messages that never left.
    pub(crate) fn unsent(&self) -> u64 {
        match self {
            Flows::Udp(flows) => flows.unsent(),
            Flows::Tcp(flows) => flows.unsent(),
        }
    }
}

/// The token of the driver's timer: sockets have their index, connections the upper half.
pub(crate) const TIMER: Token = Token(1 << 62);

/// As what the end of a connection counts, and how it is told.
pub(crate) fn describe(reason: &CloseReason) -> (Failure, String) {
    match reason {
        CloseReason::ConnectFailed(error) => (Failure::Connect, format!("{reason}: {error}")),
        CloseReason::ConnectTimeout => (Failure::Connect, reason.to_string()),
        CloseReason::Broken(error) => (Failure::Closed, format!("{reason}: {error}")),
        CloseReason::PeerClosed
        | CloseReason::Requested
        | CloseReason::Idle
        | CloseReason::MessageTimeout
        | CloseReason::WriteTimeout
        | CloseReason::SlowReader
        | CloseReason::IncompleteBytes
        | CloseReason::Framing(_) => (Failure::Closed, reason.to_string()),
    }
}
