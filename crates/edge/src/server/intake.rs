//! What comes in by sockets: frames become arrivals, keep-alives are answered, senders are
//! recognised.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip::{Frame, Message};
use transport::link::SendError;
use transport::tcp::ConnectionEvent;
use transport::{Flow, Transport};

use super::worker::Worker;
use crate::forward::{Arrival, Attempt, DropReason, Source};
use crate::keep_alive;

impl Worker {
    /// One datagram.
    pub(super) fn datagram(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Bytes,
        now: Instant,
    ) {
        let flow = Flow::new(Transport::Udp, local, remote);
        match sip::framer::datagram(bytes) {
            Some(frame) => self.frame(flow, frame, now),
            None => self.counters.dropped(DropReason::Unparsable),
        }
    }

    /// What happened on connections.
    pub(super) fn connection_events(&mut self, now: Instant) {
        // Carrying out a decision may push events of its own; they are served in the same turn.
        while !self.tcp_events.is_empty() {
            let mut events = std::mem::take(&mut self.tcp_events);
            for event in events.drain(..) {
                match event {
                    ConnectionEvent::Frame { flow, frame, .. } => self.frame(flow, frame, now),
                    ConnectionEvent::Undelivered { tag, .. } => {
                        self.undelivered(tag, SendError::Unreachable, now);
                    }
                    ConnectionEvent::Connected { flow, .. } => tracing::debug!(%flow, "connected"),
                    ConnectionEvent::Closed { flow, reason, .. } => {
                        tracing::debug!(%flow, %reason, "connection closed")
                    }
                }
            }
            if self.tcp_events.is_empty() {
                self.tcp_events = events; // keeps its memory
            }
        }
    }

    fn frame(&mut self, flow: Flow, frame: Frame, now: Instant) {
        let bytes = match frame {
            Frame::Message(bytes) => bytes,
            Frame::Ping | Frame::Pong | Frame::Stun(_) => {
                if let Some(answer) = keep_alive::answer(&frame, flow.remote) {
                    self.answer_by_flow(flow, answer, now);
                }
                return;
            }
        };
        let Ok(message) = Message::parse(bytes) else {
            return self.counters.dropped(DropReason::Unparsable);
        };
        let source = self.source_of(&flow);
        if source == Source::Peer && self.is_answer_to_probe(&message) {
            return self.peer_answered_here(&flow, now);
        }
        let seed = self.next_seed();
        let arrival = Arrival { message: &message, flow, source, attempt: Attempt::First, seed };
        self.decide_and_carry_out(arrival, now);
    }

    /// By exact source address, so that a phone on the peer's host is not taken for it. A
    /// connection that a peer opens itself comes from another port: to us it is a stranger's, and
    /// its Route tokens speak for it.
    fn source_of(&self, flow: &Flow) -> Source {
        let peers = &self.shared.settings.peers;
        if peers.iter().any(|peer| peer.transport == flow.transport && peer.address == flow.remote)
        {
            Source::Peer
        } else if self.fellows.has(&flow.remote) {
            Source::OtherEdge
        } else {
            Source::Outside
        }
    }

    /// Our probes have one Via, ours.
    fn is_answer_to_probe(&self, message: &Message) -> bool {
        !message.is_request()
            && message.values(sip::HeaderName::Via).nth(1).is_none()
            && message.top_via().is_ok_and(|via| self.shared.listeners.wrote(&via))
    }
}
