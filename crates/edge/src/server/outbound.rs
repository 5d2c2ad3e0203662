//! Decisions carried out: to a link, a socket, another worker; and what happens when that fails.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use sip::Message;
use transport::Transport;
use transport::link::{LinkFrame, SendError};
use transport::tcp::SendRefused;

use super::mailbox::{HandOff, ToWorker};
use super::outstanding::{GoesTo, Origin, SentRequest, Ticket};
use super::worker::Worker;
use crate::forward::{self, Arrival, Attempt, Decision, Hop, View};
use crate::reply::Refusal;

/// What an edge adds to a message, and then some; a message with more costs an allocation.
const ADDED_BYTES_USUAL: usize = 1_024;

/// A decision about a message from outside.
type Decide = fn(&Arrival<'_>, &View<'_>, &mut BytesMut) -> Decision;

impl Worker {
    /// Decides about a message from outside and carries it out, asking the second candidate if the
    /// first is full.
    pub(super) fn decide_and_carry_out(&mut self, arrival: Arrival<'_>, now: Instant) {
        self.decide_by(forward::from_outside, arrival, now);
    }

    fn decide_by(&mut self, decide: Decide, arrival: Arrival<'_>, now: Instant) {
        let mut arrival = arrival;
        loop {
            let decision = self.decide(arrival.message, |view, out| decide(&arrival, view, out));
            match decision {
                Decision::Offer { container, bytes } => {
                    if self.offer(container, arrival.flow, 0, bytes, now) {
                        return;
                    }
                    arrival.attempt = arrival.attempt.next();
                }
                Decision::SendToPeer { hop, bytes, .. } => {
                    let ticket = self.ticket(&arrival, GoesTo::Candidate, hop);
                    return self.send(hop, bytes, ticket, now);
                }
                Decision::Send { hop, bytes } => {
                    let goes_to = match hop {
                        Hop::Connection { .. } => GoesTo::Flow,
                        Hop::Datagram { .. } | Hop::Connect { .. } => GoesTo::OnlyOne,
                    };
                    let ticket = self.ticket(&arrival, goes_to, hop);
                    return self.send(hop, bytes, ticket, now);
                }
                other @ (Decision::Reply { .. } | Decision::Drop(_)) => {
                    return self.carry_out_final(other, now);
                }
            }
        }
    }

    /// Lets `decide` look at the surroundings and render what becomes of `message`.
    pub(super) fn decide<Decided>(
        &mut self,
        message: &Message,
        decide: impl FnOnce(&View<'_>, &mut BytesMut) -> Decided,
    ) -> Decided {
        let mut rendered = std::mem::take(&mut self.rendered);
        let room = rendered.room(message.buffer().len() + ADDED_BYTES_USUAL);
        let decided = decide(&self.view(), room);
        self.rendered = rendered;
        decided
    }

    /// Carries out what is sent without asking anybody again.
    pub(super) fn carry_out_final(&mut self, decision: Decision, now: Instant) {
        let nobody = Ticket { worker: self.index, origin: Origin::Nobody };
        match decision {
            Decision::Reply { hop, bytes, status } => {
                self.counters.refused(status);
                self.send(hop, bytes, nobody, now);
            }
            Decision::Send { hop, bytes } | Decision::SendToPeer { hop, bytes, .. } => {
                self.send(hop, bytes, nobody, now);
            }
            Decision::Drop(reason) => self.counters.dropped(reason),
            Decision::Offer { .. } => {
                unreachable!("offers are carried out by whoever asks the next candidate")
            }
        }
    }

    /// Carries out what a container wants sent.
    pub(super) fn carry_out_for_container(
        &mut self,
        decision: Decision,
        ticket: Ticket,
        now: Instant,
    ) {
        match decision {
            Decision::Send { hop, bytes }
            | Decision::SendToPeer { hop, bytes, .. }
            | Decision::Reply { hop, bytes, .. } => {
                self.send(hop, bytes, ticket, now);
            }
            // A response from one container to another is no way that a request ever went.
            Decision::Offer { .. } | Decision::Drop(_) => {
                self.report(ticket, SendError::Refused, now)
            }
        }
    }

    /// Offers a message that made so many hops to a container; whether its link took it.
    pub(super) fn offer(
        &mut self,
        container: usize,
        flow: transport::Flow,
        hops: u8,
        bytes: Bytes,
        now: Instant,
    ) -> bool {
        let life = Some(self.routing.routes()[container].incarnation);
        let Some(link) = self.links.all.iter_mut().find(|link| link.answered == life) else {
            return false;
        };
        let is_offered = link.offer(flow, hops, bytes).is_ok();
        if is_offered {
            self.routing.asked(container, now);
        }
        is_offered
    }

    /// Whom to tell if the message cannot be sent. Of datagrams nobody is told but containers: what
    /// the network says about them comes too late or never.
    fn ticket(&self, arrival: &Arrival<'_>, goes_to: GoesTo, hop: Hop) -> Ticket {
        let tracked =
            arrival.message.is_request() && (hop.is_stream() || goes_to == GoesTo::Candidate);
        let origin = if tracked {
            Origin::Request(Box::new(SentRequest {
                message: arrival.message.detached(),
                flow: arrival.flow,
                source: arrival.source,
                attempt: arrival.attempt,
                goes_to,
            }))
        } else {
            Origin::Nobody
        };
        Ticket { worker: self.index, origin }
    }

    /// Sends by that way; a failure is reported to the ticket's origin, now or later.
    pub(super) fn send(&mut self, hop: Hop, bytes: Bytes, ticket: Ticket, now: Instant) {
        let workers_left = self.neighbour_count();
        self.send_or_hand_off(HandOff { hop, bytes, ticket, workers_left }, now);
    }

    pub(super) fn send_or_hand_off(&mut self, message: HandOff, now: Instant) {
        let HandOff { hop, bytes, ticket, workers_left } = message;
        match hop {
            Hop::Datagram { local, remote } => {
                self.send_datagram(local, remote, bytes, ticket, now)
            }
            Hop::Connection { flow, reopen } => match (self.connections.find_flow(&flow), reopen) {
                (Some(connection), _) => self.send_by(connection, bytes, ticket, now),
                // The connection may be another worker's.
                (None, _) if workers_left > 0 => {
                    let workers_left = workers_left - 1;
                    self.hand_off(HandOff { hop, bytes, ticket, workers_left }, now);
                }
                // RFC 3261 §18.2.2: a response whose connection is gone opens another.
                (None, Some(remote)) => {
                    self.send_by_connecting(flow.local.ip(), remote, bytes, ticket, now)
                }
                (None, None) => self.report(ticket, SendError::FlowGone, now),
            },
            Hop::Connect { local, remote } => {
                self.send_by_connecting(local, remote, bytes, ticket, now)
            }
        }
    }

    fn hand_off(&mut self, message: HandOff, now: Instant) {
        if let Err(ToWorker::HandOff(message)) =
            self.next_worker().try_deliver(ToWorker::HandOff(Box::new(message)))
        {
            self.report(message.ticket, SendError::Full, now);
        }
    }

    fn send_datagram(
        &mut self,
        local: std::net::SocketAddr,
        remote: std::net::SocketAddr,
        bytes: Bytes,
        ticket: Ticket,
        now: Instant,
    ) {
        match self.datagrams.socket(local) {
            Some(socket) => socket.queue(remote, bytes, self.outstanding.insert(ticket)),
            // A token of an address that this edge had in a former life.
            None => self.report(ticket, SendError::FlowGone, now),
        }
    }

    fn send_by_connecting(
        &mut self,
        local: std::net::IpAddr,
        remote: std::net::SocketAddr,
        bytes: Bytes,
        ticket: Ticket,
        now: Instant,
    ) {
        let found = self.connections.find(Some(local), remote);
        let connection = match found {
            Some(connection) => Ok(connection),
            None => self.connections.connect(self.poll.registry(), Some(local), remote, now),
        };
        match connection {
            Ok(connection) => self.send_by(connection, bytes, ticket, now),
            Err(error) => {
                tracing::debug!(%error, %remote, "no connection");
                self.report(ticket, SendError::Unreachable, now);
            }
        }
    }

    fn send_by(
        &mut self,
        connection: transport::tcp::ConnectionId,
        bytes: Bytes,
        ticket: Ticket,
        now: Instant,
    ) {
        let number = self.outstanding.insert(ticket);
        let error = match self.connections.send(connection, bytes, number, now) {
            Ok(()) => return,
            Err(SendRefused::Gone) => SendError::FlowGone,
            Err(SendRefused::SlowReader) => SendError::Full,
        };
        self.undelivered(number, error, now);
    }

    /// A socket gave a message's number back.
    pub(super) fn undelivered(&mut self, number: u64, error: SendError, now: Instant) {
        if let Some(ticket) = self.outstanding.take(number) {
            self.report(ticket, error, now);
        }
    }

    /// Tells whoever sent a message that it did not go.
    pub(super) fn report(&mut self, ticket: Ticket, error: SendError, now: Instant) {
        self.counters.failed_send();
        if ticket.worker != self.index {
            // At the bound the news is lost; the sender's timers notice.
            let worker = usize::from(ticket.worker);
            let _ = self.mailboxes[worker].try_deliver(ToWorker::Failed(ticket, error));
            return;
        }
        match ticket.origin {
            Origin::Nobody => {}
            Origin::Link { link, life, id } => {
                let link = &mut self.links.all[link];
                if link.life == life {
                    link.send(&LinkFrame::SendFailed { id, error });
                }
            }
            Origin::Request(sent) => {
                let SentRequest { message, flow, source, attempt, goes_to } = *sent;
                let seed = self.next_seed();
                let arrival =
                    Arrival { message: &message, flow, source, attempt: attempt.next(), seed };
                match (goes_to, error) {
                    // A peer in a container's place is out: ask the next candidate, in the end 503.
                    (GoesTo::Candidate, _) if attempt != Attempt::Exhausted => {
                        self.decide_and_carry_out(arrival, now)
                    }
                    (GoesTo::Flow, SendError::FlowGone) => {
                        let arrival = Arrival { attempt: Attempt::First, ..arrival };
                        self.decide_by(forward::without_flow, arrival, now);
                    }
                    // RFC 5626 §5.3
                    (_, SendError::FlowGone) => self.refuse(&arrival, Refusal::FlowGone, now),
                    (_, SendError::Unreachable | SendError::Full | SendError::Refused) => {
                        self.refuse(&arrival, Refusal::NoRoute, now);
                    }
                }
            }
        }
    }

    fn refuse(&mut self, arrival: &Arrival<'_>, refusal: Refusal, now: Instant) {
        let decision = forward::refuse(arrival, refusal, &self.view());
        self.carry_out_final(decision, now);
    }

    /// The way back for a keep-alive: as it came.
    pub(super) fn answer_by_flow(&mut self, flow: transport::Flow, bytes: Bytes, now: Instant) {
        let hop = match flow.transport {
            Transport::Udp => Hop::Datagram { local: flow.local, remote: flow.remote },
            Transport::Tcp => Hop::Connection { flow, reopen: None },
        };
        self.send(hop, bytes, Ticket { worker: self.index, origin: Origin::Nobody }, now);
    }
}
