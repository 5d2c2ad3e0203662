//! An edge: the production forwarder, routing table, opening and link ends, turned by virtual time instead of a poll.
//!
//! One turn does what a turn of the edge's worker does, in the same order: views, links, opening, datagrams, what is
//! due, then everything is written. Its UDP socket belongs to the node, as the guardian keeps it: what came while no
//! edge lived is read by the next one. Deliberately absent: TCP, several workers, plain SIP peers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use edge::flow_token::{FlowToken, TokenKind};
use edge::forward::{
    self, Arrival, Attempt, Decision, HandOn, Hop, Keys, NatTraversal, Source, View,
};
use edge::keep_alive::NAT_KEEP_ALIVE;
use edge::server::handed_on::{HandedOn, WaitingRoom};
use edge::server::opening::{Opening, Serves};
use edge::{FellowEdges, Listener, Listeners};
use sip::{Frame, Message};
use topology::{
    HeartbeatSettings, Incarnation, KeyRing, ProcessEntry, ProcessName, ProcessState, RouteState,
    RoutingTable, TopologyView,
};
use transport::link::{Destination, LinkFrame, SendError};
use transport::{Flow, Transport};

use crate::network::Datagram;
use crate::schedule::Moment;
use crate::streams::{LifeId, Streams};
use crate::trace::Trace;
use crate::word::{Finding, Turned, Word};

mod links;

use links::Link;

const TICK: Duration = Duration::from_millis(500);

/// What an edge has to work with in one turn.
pub struct Surroundings<'a> {
    /// Virtual time.
    pub now: Moment,
    /// The same as the production code wants it.
    pub instant: Instant,
    /// The links.
    pub streams: &'a mut Streams,
    /// The story.
    pub trace: &'a mut Trace,
    /// The datagrams of its socket.
    pub socket: &'a mut VecDeque<Datagram>,
    /// What it sends.
    pub sent: &'a mut Vec<Datagram>,
    /// What it tells the manager.
    pub found: &'a mut Vec<Finding>,
}

/// What an edge is told at its start.
#[derive(Debug, Clone)]
pub struct EdgeStart {
    /// Which life of which process.
    pub life: LifeId,
    /// Its name.
    pub name: ProcessName,
    /// Its name among all nodes, for the story.
    pub shown: ProcessName,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Where it listens, by UDP.
    pub address: SocketAddr,
    /// The node's keys.
    pub keys: KeyRing,
    /// How containers ping.
    pub heartbeat: HeartbeatSettings,
}

/// One life of an edge.
pub struct EdgeProcess {
    start: EdgeStart,
    listeners: Listeners,
    keys: Keys,
    fellows: FellowEdges,
    named: Vec<ProcessName>,
    ready: Vec<ProcessName>,
    routing: RoutingTable,
    links: Vec<Link>,
    opening: Opening,
    waiting_room: WaitingRoom,
    next_probe: Moment,
    probes: u64,
    turned_at: Moment,
    /// When a drain is over.
    ends_at: Option<Moment>,
    scratch: BytesMut,
    seed: u64,
}

impl EdgeProcess {
    /// An edge that has just been spawned and welcomed with a view.
    pub fn new(start: EdgeStart, view: &TopologyView, around: &mut Surroundings<'_>) -> Self {
        let mut edge = EdgeProcess {
            listeners: Listeners::new(vec![Listener::direct(Transport::Udp, start.address)]),
            keys: Keys::derive(&start.keys),
            fellows: FellowEdges::default(),
            named: Vec::new(),
            ready: Vec::new(),
            routing: RoutingTable::new(start.heartbeat),
            links: Vec::new(),
            opening: Opening::new(around.instant),
            waiting_room: WaitingRoom::default(),
            next_probe: around.now,
            probes: 0,
            turned_at: around.now,
            ends_at: None,
            scratch: BytesMut::new(),
            seed: start.incarnation.0,
            start,
        };
        edge.take_view(view, around);
        edge
    }

    /// Does everything that is ready.
    pub fn turn(&mut self, words: Vec<Word>, around: &mut Surroundings<'_>) -> Turned {
        let mut turned = Turned::GoesOn;
        let last = std::mem::replace(&mut self.turned_at, around.now);
        if around.now - last > self.start.heartbeat.interval {
            self.routing.stood_still(around.instant);
        }
        for word in words {
            match word {
                Word::View(view) => self.take_view(&view, around),
                Word::Keys(keys) => self.keys = Keys::derive(&keys),
                Word::Drain(deadline_in) => self.drain(deadline_in, around.now),
                Word::Stop => self.ends_at = Some(around.now),
            }
        }
        if self.ends_at.is_some_and(|at| at <= around.now) {
            turned = Turned::Ends;
        }
        for place in 0..self.links.len() {
            self.read_link(place, around);
        }
        if self.open(around) && turned == Turned::GoesOn {
            turned = Turned::Serves;
        }
        if self.opening == Opening::Open {
            while let Some(datagram) = around.socket.pop_front() {
                self.datagram(datagram, around);
            }
        }
        let mut changes = Vec::new();
        self.routing.tick(around.instant, &mut changes);
        self.follow(&changes, around);
        self.tick_links(around);
        self.waiting_room.expire(around.instant);
        self.tick_probes(around);
        self.flush(around);
        turned
    }

    /// When it wants its next turn whatever happens.
    pub fn next_turn(&self, around_now: Moment, instant: Instant) -> Moment {
        let until = |deadline: Instant| around_now + deadline.saturating_duration_since(instant);
        let links = self
            .links
            .iter()
            .filter(|link| link.stream.is_none() || link.answered.is_none())
            .filter(|link| link.stream.is_some() || self.named.contains(&link.name))
            .map(|link| link.due);
        let waiting = self.waiting_room.next_deadline();
        [self.routing.next_deadline(), self.opening.deadline(), waiting]
            .into_iter()
            .flatten()
            .map(until)
            .chain(links)
            .chain(self.ends_at)
            .chain([self.next_probe])
            .fold(around_now + TICK, Duration::min)
    }

    /// Where it stands, as it tells a manager that did not start it.
    pub fn state(&self) -> ProcessState {
        match (self.ends_at, self.opening) {
            (Some(_), _) => ProcessState::Draining,
            (None, Opening::Open) => ProcessState::Ready,
            (None, _) => ProcessState::Starting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.start.address
    }

    /// What it still holds although everything is over; None: it is at rest.
    pub fn left(&self) -> Option<String> {
        let untaken: usize = self.links.iter().map(|link| link.sender.untaken_count()).sum();
        let routes = self.routing.buckets().candidates().len();
        let is_at_rest =
            untaken == 0 && routes == self.named.len() && self.opening == Opening::Open;
        (!is_at_rest).then(|| format!("{untaken} untaken, {routes} routes of {}", self.named.len()))
    }

    fn view(&self) -> View<'_> {
        View {
            listeners: &self.listeners,
            routing: &self.routing,
            peers: &[],
            fellows: &self.fellows,
            keys: &self.keys,
            nat_traversal: NatTraversal::On,
        }
    }

    fn take_view(&mut self, view: &TopologyView, around: &mut Surroundings<'_>) {
        let mut changes = Vec::new();
        self.routing.notification(view, around.instant, &mut changes);
        self.fellows = FellowEdges::of(view, &self.start.name, &self.listeners);
        let containers = || view.containers().filter(|container| is_linked_to(container));
        self.named = containers().map(|container| container.name.clone()).collect();
        let is_ready = |state| matches!(state, ProcessState::Ready | ProcessState::Draining);
        self.ready = containers()
            .filter(|container| is_ready(container.state))
            .map(|container| container.name.clone())
            .collect();
        self.name_links(view, around);
        self.follow(&changes, around);
    }

    /// Nobody has streams in this world; half of the edges drain as if somebody had.
    fn drain(&mut self, deadline_in: Duration, now: Moment) {
        let seed = self.next_seed();
        let last_stream_ends_in = if seed.is_multiple_of(2) {
            Duration::ZERO
        } else {
            deadline_in.mul_f64((seed >> 32) as f64 / f64::from(u32::MAX))
        };
        self.ends_at = Some(now + last_stream_ends_in);
    }

    fn open(&mut self, around: &Surroundings<'_>) -> bool {
        if self.opening == Opening::Open {
            return false;
        }
        let is_open = |name: &ProcessName| {
            self.routing.route(name).is_some_and(|route| route.state != RouteState::Closed)
        };
        let serves = match (self.routing.buckets().is_empty(), self.named.is_empty()) {
            (true, true) => Serves::Nobody,
            (true, false) => Serves::Expected,
            (false, _) if self.ready.iter().all(is_open) => Serves::Everybody,
            (false, _) => Serves::Somebody,
        };
        self.opening.look(serves, around.instant)
    }

    fn datagram(&mut self, datagram: Datagram, around: &mut Surroundings<'_>) {
        let flow = Flow::new(Transport::Udp, datagram.to, datagram.from);
        let Some(Frame::Message(bytes)) = sip::framer::datagram(datagram.bytes) else { return };
        let Ok(message) = Message::parse(bytes) else { return };
        let source =
            if self.fellows.has(&flow.remote) { Source::OtherEdge } else { Source::Outside };
        let mut attempt = Attempt::First;
        loop {
            let seed = self.next_seed();
            let arrival = Arrival { message: &message, flow, source, attempt, seed };
            let mut scratch = std::mem::take(&mut self.scratch);
            let decision = forward::from_outside(&arrival, &self.view(), &mut scratch);
            self.scratch = scratch;
            match decision {
                Decision::Offer { container, bytes } => {
                    if self.offer(container, flow, 0, &bytes, around) {
                        return;
                    }
                    attempt = attempt.next();
                }
                other => return carry_out(other, around),
            }
        }
    }

    fn hand_on(&mut self, message: HandedOn, around: &mut Surroundings<'_>) {
        match forward::hand_on(message.to, message.hops, &self.view()) {
            Ok(HandOn::To(owner)) => {
                let HandedOn { hops, flow, bytes, .. } = message;
                self.offer(owner, flow, hops + 1, &bytes, around);
            }
            // What finds no room, or went too far, is dropped.
            Ok(HandOn::Wait) => drop(self.waiting_room.keep(message, around.instant)),
            Err(_) => {}
        }
    }

    fn send_for_container(
        &mut self,
        place: usize,
        id: u64,
        destination: Destination,
        bytes: Bytes,
        around: &mut Surroundings<'_>,
    ) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let decision = match Message::parse(bytes) {
            Ok(message) => forward::from_link(&message, destination, &self.view(), &mut scratch),
            Err(_) => Err(SendError::Refused),
        };
        self.scratch = scratch;
        let error = match decision {
            Ok(Decision::Offer { .. } | Decision::Drop(_)) => SendError::Refused,
            Ok(decision) => return carry_out(decision, around),
            Err(error) => error,
        };
        // At the bound it is lost, and the container's own timers notice.
        let _ = self.links[place].sender.try_send(&LinkFrame::SendFailed { id, error });
    }

    fn keep_flow_alive(&self, token: &[u8], around: &mut Surroundings<'_>) {
        if let Ok(token) = FlowToken::decode(token, &self.keys.flow, None)
            && token.kind == TokenKind::Flow
        {
            let Flow { local, remote, .. } = token.flow;
            around.sent.push(Datagram { from: local, to: remote, bytes: NAT_KEEP_ALIVE });
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed
    }
}

/// As the edge has it: by a path on its own node, by an address on another one.
fn is_linked_to(container: &ProcessEntry) -> bool {
    match container.name.parts().1 {
        None => container.link.is_some(),
        Some(_) => container.link_address.is_some(),
    }
}

/// Sends what is sent without asking anybody again.
fn carry_out(decision: Decision, around: &mut Surroundings<'_>) {
    match decision {
        Decision::Reply { hop, bytes, .. } | Decision::Send { hop, bytes } => match hop {
            Hop::Datagram { local, remote } => {
                around.sent.push(Datagram { from: local, to: remote, bytes });
            }
            Hop::Connection { .. } | Hop::Connect { .. } => {
                panic!("nobody in this world speaks TCP")
            }
        },
        Decision::SendToPeer { .. } => panic!("nobody in this world is a plain SIP peer"),
        Decision::Drop(_) => {}
        Decision::Offer { .. } => unreachable!("offers are carried out by their askers"),
    }
}
