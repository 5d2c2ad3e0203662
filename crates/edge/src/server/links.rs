//! A worker's links: opened as the manager names containers, read, and given up with all they kept.

use std::sync::Arc;
use std::time::Instant;

use mio::Token;
use mio::event::Event;
use topology::{Accepting, Incarnation, ProcessName, ProcessState, RoutingChange, TopologyView};
use transport::link::{self, LinkFrame};
use transport::{Flow, Transport};

use super::handed_on::HandedOn;
use super::link::{Link, ReadOutcome};
use super::opening::Opening;
use super::outstanding::{Origin, Ticket};
use super::reaching::{Caller, LinkCredentials, Place};
use super::worker::{LINK_TOKENS, Worker};
use crate::fellow_edges::FellowEdges;
use crate::flow_token::{FlowToken, TokenKind};
use crate::forward::{self, Attempt, Decision, DropReason, HandOn, Hop};
use crate::keep_alive::NAT_KEEP_ALIVE;

/// Bytes of one read from a link.
const READ_BYTES: usize = 64 * 1024;

/// The links of one worker, and the containers that they are for.
#[derive(Debug)]
pub(super) struct Links {
    /// A container's place stays, connected or not: places are named by tokens of the poll.
    pub(super) all: Vec<Link>,
    /// Places that may have more to read than a turn's share.
    pub(super) unread: Vec<usize>,
    /// Containers that the manager names.
    pub(super) named: Vec<ProcessName>,
    /// Those that it calls ready, as long as the worker is not open.
    pub(super) ready: Vec<ProcessName>,
    caller: Caller,
    scratch: Box<[u8]>,
}

impl Links {
    pub(super) fn new(caller: Caller) -> Links {
        Links {
            all: Vec::new(),
            unread: Vec::new(),
            named: Vec::new(),
            ready: Vec::new(),
            caller,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// When each link is to be looked at.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let is_wanted = |link: &&Link| link.is_connected() || self.named.contains(&link.name);
        self.all.iter().filter(is_wanted).filter_map(Link::next_deadline)
    }
}

impl Worker {
    /// Takes over a new picture: routes, links, the addresses of the other edges.
    pub(super) fn take_view(&mut self, view: &Arc<TopologyView>, now: Instant) {
        let mut changes = Vec::new();
        self.routing.notification(view, now, &mut changes);
        self.fellows = FellowEdges::of(view, &self.shared.settings.name, &self.shared.listeners);
        let mut named = Vec::new();
        let is_ready = |state| matches!(state, ProcessState::Ready | ProcessState::Draining);
        self.links.ready = Vec::new();
        for container in view.containers() {
            let Some(place) = Place::of(container) else { continue };
            named.push(container.name.clone());
            if self.opening != Opening::Open && is_ready(container.state) {
                self.links.ready.push(container.name.clone());
            }
            self.name_link(&container.name, place, now);
        }
        self.links.named = named;
        self.follow_changes(&changes, now);
    }

    /// The container of that name is linked to there.
    fn name_link(&mut self, name: &ProcessName, to: Place, now: Instant) {
        match self.links.all.iter().position(|link| link.name == *name) {
            Some(place) => {
                if self.links.all[place].named_again(to, now) {
                    self.lose_link(place, "it listens elsewhere now", now);
                }
            }
            None => {
                let token = Token(LINK_TOKENS + self.links.all.len());
                self.links.all.push(Link::new(name.clone(), to, token, now));
            }
        }
    }

    /// Shows and believes these on links to other nodes that are begun from now on.
    pub(super) fn use_credentials(&mut self, credentials: LinkCredentials) {
        self.links.caller.use_credentials(credentials);
    }

    /// Connects what is due, gives up what does not answer its hello.
    pub(super) fn tick_links(&mut self, now: Instant) {
        for place in 0..self.links.all.len() {
            if !self.links.all[place].is_due(now) {
                continue;
            }
            if self.links.all[place].is_connected() {
                self.lose_link(place, "the hello was not answered", now);
                continue;
            }
            if !self.links.named.contains(&self.links.all[place].name) {
                continue; // the manager does not name it any more
            }
            let hello = self.hello();
            let link = &mut self.links.all[place];
            match link.connect(&hello, &self.links.caller, self.poll.registry(), now) {
                Ok(()) => tracing::debug!(container = %link.name, "link opened"),
                Err(error) => tracing::debug!(%error, container = %link.name, "no link yet"),
            }
        }
    }

    fn hello(&self) -> LinkFrame {
        LinkFrame::Hello {
            peer_name: self.shared.settings.name.0.clone(),
            incarnation: self.shared.settings.incarnation.0,
            worker: self.index,
            addresses: self
                .shared
                .listeners
                .iter()
                .map(|listener| link::EdgeAddress {
                    transport: listener.transport,
                    own: listener.own,
                    public: listener.public_text().to_owned(),
                })
                .collect(),
        }
    }

    /// Reads the links that have something; those with more keep their turn.
    pub(super) fn read_links(&mut self, now: Instant) {
        let mut unread = std::mem::take(&mut self.links.unread);
        unread.retain(|place| self.read_link(*place, now));
        self.links.unread = unread; // keeps its memory
    }

    /// The poll says what can be done with a link.
    pub(super) fn link_event(&mut self, place: usize, event: &Event, now: Instant) {
        if event.is_writable()
            && let Err(error) = self.links.all[place].writable(self.poll.registry())
        {
            tracing::debug!(%error, container = %self.links.all[place].name, "link left the poll");
            return self.lose_link(place, "it broke", now);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.links.unread.push(place);
        }
    }

    /// Writes what is queued for the containers.
    pub(super) fn flush_links(&mut self, now: Instant) {
        for place in 0..self.links.all.len() {
            if let Err(error) = self.links.all[place].flush(self.poll.registry()) {
                tracing::debug!(%error, container = %self.links.all[place].name, "link broke while writing");
                self.lose_link(place, "it broke", now);
            }
        }
    }

    /// Reads a link and does what its frames say; whether there may be more to read.
    fn read_link(&mut self, place: usize, now: Instant) -> bool {
        let outcome = self.links.all[place].read(&mut self.links.scratch);
        loop {
            match self.links.all[place].next_frame() {
                Ok(Some(frame)) => self.frame_of_container(place, frame, now),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, container = %self.links.all[place].name, "link closed; do edge and container run the same release?");
                    self.lose_link(place, "its frames are unreadable", now);
                    return false;
                }
            }
        }
        match outcome {
            ReadOutcome::More => return true,
            ReadOutcome::Drained => {}
            ReadOutcome::Ended => self.lose_link(place, "the container closed it", now),
            ReadOutcome::Untrusted(error) => {
                self.counters.untrusted(&self.links.all[place].name, &error);
                self.lose_link(place, "no trust", now);
            }
        }
        false
    }

    fn frame_of_container(&mut self, place: usize, frame: LinkFrame, now: Instant) {
        let mut changes = Vec::new();
        match frame {
            LinkFrame::HelloAnswer { name, incarnation } => {
                let link = &mut self.links.all[place];
                if !link.is_named(&name) {
                    tracing::error!(expected = %link.name, found = name, "another container listens at a link's path");
                    return self.lose_link(place, "another container answered", now);
                }
                link.hello_answered(Incarnation(incarnation));
                let name = link.name.clone();
                self.routing.link_up(&name, Incarnation(incarnation), now, &mut changes);
                for message in self.waiting_room.linked(Incarnation(incarnation)) {
                    self.hand_on(message, now);
                }
            }
            LinkFrame::Taken { up_to } => {
                self.links.all[place].taken(up_to);
                self.answered(place, now, &mut changes);
            }
            LinkFrame::ProbeAnswer { .. } => self.answered(place, now, &mut changes),
            LinkFrame::HandOn { to, hops, flow, bytes } => {
                self.hand_on(HandedOn { to: Incarnation(to), hops, flow, bytes }, now);
            }
            LinkFrame::Outgoing { id, destination, bytes } => {
                self.send_for_container(place, id, destination, bytes, now);
            }
            LinkFrame::KeepAlive { flow_token } => self.keep_flow_alive(&flow_token, now),
            LinkFrame::Heartbeat { incarnation, accepting, load } => {
                let accepting = match accepting {
                    link::Accepting::Accepting => Accepting::Accepting,
                    link::Accepting::Draining => Accepting::Draining,
                };
                let name = self.links.all[place].name.clone();
                self.routing.heartbeat(
                    &name,
                    Incarnation(incarnation),
                    accepting,
                    load,
                    now,
                    &mut changes,
                );
            }
            LinkFrame::Hello { .. }
            | LinkFrame::Incoming(_)
            | LinkFrame::SendFailed { .. }
            | LinkFrame::Probe { .. } => {
                tracing::error!(container = %self.links.all[place].name, "a container sent an edge's frame; ignored");
            }
        }
        self.follow_changes(&changes, now);
    }

    fn answered(&mut self, place: usize, now: Instant, changes: &mut Vec<RoutingChange>) {
        let link = &self.links.all[place];
        if let Some(incarnation) = link.answered {
            self.routing.answered(&link.name, incarnation, now, changes);
        }
    }

    /// Passes a message on to its owner, for a container that found that it is not.
    fn hand_on(&mut self, message: HandedOn, now: Instant) {
        let dropped = match forward::hand_on(message.to, message.hops, &self.view()) {
            Ok(HandOn::To(owner)) => {
                let HandedOn { hops, flow, bytes, .. } = message;
                if self.offer(owner, flow, hops + 1, bytes, now) {
                    return;
                }
                DropReason::OwnerCannotTake
            }
            Ok(HandOn::Wait) if self.waiting_room.keep(message, now).is_ok() => return,
            Ok(HandOn::Wait) => DropReason::OwnerCannotTake,
            Err(reason) => reason,
        };
        self.counters.dropped(dropped);
    }

    /// Forgets what was handed on to those that have not linked in time.
    pub(super) fn tick_waiting_room(&mut self, now: Instant) {
        for _ in 0..self.waiting_room.expire(now) {
            self.counters.dropped(DropReason::OwnerCannotTake);
        }
    }

    fn send_for_container(
        &mut self,
        place: usize,
        id: u64,
        destination: link::Destination,
        bytes: bytes::Bytes,
        now: Instant,
    ) {
        let origin = Origin::Link { link: place, life: self.links.all[place].life, id };
        let ticket = Ticket { worker: self.index, origin };
        let Ok(message) = sip::Message::parse(bytes) else {
            return self.report(ticket, link::SendError::Refused, now);
        };
        let decision =
            self.decide(&message, |view, out| forward::from_link(&message, destination, view, out));
        match decision {
            Ok(decision) => self.carry_out_for_container(decision, ticket, now),
            Err(error) => self.report(ticket, error, now),
        }
    }

    /// Source: RFC 5626 §3.5; the flow is one that a phone registered over.
    fn keep_flow_alive(&mut self, token: &[u8], now: Instant) {
        match FlowToken::decode(token, &self.keys.flow, None) {
            Ok(FlowToken {
                kind: TokenKind::Flow,
                flow: Flow { transport: Transport::Udp, local, remote },
            }) => {
                let ticket = Ticket { worker: self.index, origin: Origin::Nobody };
                self.send(Hop::Datagram { local, remote }, NAT_KEEP_ALIVE, ticket, now);
            }
            // The phone keeps its own streams alive.
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "keep-alive without a flow"),
        }
    }

    /// A route that closes takes its link with it: what the container did not take goes to the next
    /// one.
    pub(super) fn follow_changes(&mut self, changes: &[RoutingChange], now: Instant) {
        for change in changes {
            match change {
                RoutingChange::Opened { name, incarnation, state } => {
                    tracing::info!(container = %name, %incarnation, ?state, worker = self.index, "container serves");
                }
                RoutingChange::Closed { name, incarnation, reason } => {
                    tracing::warn!(container = %name, %incarnation, ?reason, worker = self.index, "container serves no more");
                    self.lose_link_to(name, *incarnation, "the container serves no more", now);
                }
                RoutingChange::Outlived { name, incarnation } => {
                    self.lose_link_to(name, *incarnation, "that life is over", now);
                }
                RoutingChange::Unresponsive { name, incarnation } => {
                    tracing::warn!(container = %name, %incarnation, worker = self.index, "container answers no probes");
                    self.shared.findings.unresponsive(self.index, name, *incarnation);
                }
                RoutingChange::Responsive { name, incarnation } => {
                    tracing::info!(container = %name, %incarnation, worker = self.index, "container answers probes again");
                    self.shared.findings.responsive(self.index, name, *incarnation);
                }
            }
        }
    }

    fn lose_link_to(&mut self, name: &ProcessName, life: Incarnation, why: &str, now: Instant) {
        let leads_there = |link: &Link| link.name == *name && link.answered == Some(life);
        if let Some(place) = self.links.all.iter().position(leads_there) {
            self.lose_link(place, why, now);
        }
    }

    /// Gives a link up and offers what it kept to the next candidates.
    pub(super) fn lose_link(&mut self, place: usize, why: &str, now: Instant) {
        let (name, answered) = (self.links.all[place].name.clone(), self.links.all[place].answered);
        let untaken: Vec<_> = self.links.all[place].disconnect(self.poll.registry(), now).collect();
        tracing::debug!(container = %name, why, untaken = untaken.len(), "link closed");
        if let Some(incarnation) = answered {
            let mut changes = Vec::new();
            self.routing.link_down(&name, incarnation, now, &mut changes);
            // The link is disconnected already, so this only says it.
            self.follow_changes(&changes, now);
        }
        for message in untaken {
            match sip::Message::parse(message.bytes) {
                Ok(parsed) => self.offer_again(&parsed, message.flow, message.hops, now),
                Err(error) => {
                    tracing::error!(%error, "what was offered before cannot be parsed again")
                }
            }
        }
    }

    fn offer_again(&mut self, message: &sip::Message, flow: Flow, hops: u8, now: Instant) {
        let mut attempt = Attempt::First;
        loop {
            let seed = self.next_seed();
            let decision = self.decide(message, |view, out| {
                forward::offer_again(message, attempt, seed, view, out)
            });
            match decision {
                Decision::Offer { container, bytes } => {
                    if self.offer(container, flow, hops, bytes, now) {
                        return;
                    }
                    attempt = attempt.next();
                }
                other => return self.carry_out_final(other, now),
            }
        }
    }
}
