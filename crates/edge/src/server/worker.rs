//! One worker: its sockets, its picture of the surroundings, its loop.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use topology::{Incarnation, ProcessName, RouteState, RoutingTable, TopologyView};
use transport::link::SendError;
use transport::tcp::{ConnectionEvent, ConnectionId, Connections, Listener};
use transport::udp::UdpEndpoint;
use transport::{Arena, Flow, Transport};

use super::accepting::Accepting;
use super::counters::{Counters, SocketLosses};
use super::datagrams::{Datagrams, UDP_TOKENS};
use super::handed_on::WaitingRoom;
use super::link::Link;
use super::links::Links;
use super::mailbox::{Mailbox, Start, ToWorker, WAKER};
use super::opening::{Opening, Serves};
use super::outstanding::{Origin, Outstanding, Ticket};
use super::peers::{PeerChange, Probes};
use super::probing::Probing;
use super::reaching::Caller;
use super::{EdgeError, EdgeSocket, Shared};
use crate::fellow_edges::FellowEdges;
use crate::forward::{Hop, Keys, View};

const LISTENER_TOKENS: usize = 0x2_0000;
pub(super) const LINK_TOKENS: usize = 0x3_0000;

/// Events of one poll.
const EVENTS: usize = 1_024;
/// Messages of other workers served in one turn.
const MAIL_PER_TURN: usize = 256;
/// Routing and counters are looked after at least this often; signs of life may be due more often.
const TICK: Duration = Duration::from_millis(500);

/// Sockets of one worker, taken over and not yet polled.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    udp: Vec<UdpEndpoint>,
    tcp: Vec<Listener>,
}

/// Makes a worker's sockets of the descriptors it was given.
pub(super) fn take_over(sockets: Vec<EdgeSocket>) -> Result<Sockets, EdgeError> {
    let mut taken = Sockets::default();
    for EdgeSocket { worker, transport, socket, .. } in sockets {
        let result = match transport {
            Transport::Udp => UdpEndpoint::from_fd(socket).map(|endpoint| taken.udp.push(endpoint)),
            Transport::Tcp => Listener::from_fd(socket).map(|listener| taken.tcp.push(listener)),
        };
        result.map_err(|source| EdgeError::Socket { transport, worker, source })?;
    }
    Ok(taken)
}

/// One worker.
pub(super) struct Worker {
    pub(super) index: u16,
    pub(super) shared: Arc<Shared>,
    pub(super) keys: Arc<Keys>,
    pub(super) poll: Poll,
    inbox: Receiver<ToWorker>,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) datagrams: Datagrams,
    accepting: Accepting,
    pub(super) connections: Connections,
    pub(super) tcp_events: Vec<ConnectionEvent>,
    pub(super) links: Links,
    pub(super) routing: RoutingTable,
    pub(super) fellows: FellowEdges,
    probes: Probes,
    pub(super) probing: Probing,
    pub(super) outstanding: Outstanding,
    pub(super) waiting_room: WaitingRoom,
    pub(super) counters: Counters,
    /// Where messages are rendered.
    pub(super) rendered: Arena,
    seed: u64,
    pub(super) opening: Opening,
    /// When the last turn began.
    turned_at: Instant,
    stopping: bool,
}

impl Worker {
    /// A worker that has its sockets in its poll and its links on their way.
    pub(super) fn new(
        index: u16,
        shared: Arc<Shared>,
        keys: Arc<Keys>,
        start: Start,
        mailboxes: Vec<Mailbox>,
        sockets: Sockets,
        view: &TopologyView,
    ) -> io::Result<Worker> {
        let now = Instant::now();
        let Start { poll, inbox } = start;
        let Sockets { mut udp, tcp: mut listeners } = sockets;
        for (place, socket) in udp.iter_mut().enumerate() {
            let token = Token(UDP_TOKENS + place);
            poll.registry().register(socket, token, Interest::READABLE)?;
        }
        for (place, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENER_TOKENS + place);
            poll.registry().register(listener, token, Interest::READABLE)?;
        }
        let mut routing = RoutingTable::new(shared.settings.heartbeat);
        for peer in &shared.settings.peers {
            routing.add_peer(peer.name.clone(), peer.weight);
        }
        let (credentials, heartbeat) =
            (shared.settings.credentials.clone(), shared.settings.heartbeat);
        let caller = Caller::new(credentials, heartbeat.silence_max());
        let probes = Probes::new(shared.settings.peers.len(), now);
        let seed = u64::from(index) << 32 ^ shared.settings.incarnation.0 ^ poll.as_raw_fd() as u64;
        let mut worker = Worker {
            index,
            connections: Connections::new(shared.settings.tcp),
            shared,
            keys,
            poll,
            inbox,
            mailboxes,
            datagrams: Datagrams::new(udp),
            accepting: Accepting::new(listeners, now),
            tcp_events: Vec::new(),
            links: Links::new(caller),
            routing,
            fellows: FellowEdges::default(),
            probes,
            probing: Probing::new(now),
            outstanding: Outstanding::new(),
            waiting_room: WaitingRoom::default(),
            counters: Counters::new(now),
            rendered: Arena::new(),
            seed,
            opening: Opening::new(now),
            turned_at: now,
            stopping: false,
        };
        worker.take_view(&Arc::new(view.clone()), now);
        Ok(worker)
    }

    /// Serves until it is told to stop or its poll fails.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopping {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, worker = self.index, "poll failed; the worker ends");
                    return;
                }
            }
            self.turn(&events, Instant::now());
        }
        // What was decided is still sent; what comes from now on waits in the sockets for the next
        // life.
        self.flush(Instant::now());
    }

    /// One turn of the loop: what is ready, what is due, then everything that was queued by it.
    fn turn(&mut self, events: &Events, now: Instant) {
        let last = std::mem::replace(&mut self.turned_at, now);
        if now.saturating_duration_since(last) > self.shared.settings.heartbeat.interval {
            self.routing.stood_still(now);
        }
        for event in events {
            self.event(event, now);
        }
        self.read_mail(now);
        self.read_links(now);
        // Behind all that may tell of a container: nothing else would wake the loop for it.
        self.open(now);
        if self.opening == Opening::Open {
            self.receive_datagrams(now);
            self.accepting.accept(&mut self.connections, self.poll.registry(), now);
        }
        self.connections.continue_reading(now, &mut self.tcp_events);
        self.connection_events(now);
        self.tick(now);
        self.flush(now);
        self.shared.vitals.went_round(self.index, self.streams());
    }

    /// What a drain waits for. The streams to plain SIP peers do not end by themselves.
    fn streams(&self) -> usize {
        let is_open = |peer: &&crate::Peer| {
            peer.transport == Transport::Tcp && self.connections.find(None, peer.address).is_some()
        };
        let to_peers = self.shared.settings.peers.iter().filter(is_open).count();
        self.connections.len().saturating_sub(to_peers)
    }

    fn event(&mut self, event: &Event, now: Instant) {
        let token = event.token();
        if ConnectionId::from_token(token).is_some() {
            self.connections.handle(event, now, &mut self.tcp_events);
            return self.connection_events(now);
        }
        match token {
            WAKER => {} // the mailbox is read in every turn
            Token(place @ LINK_TOKENS..) => {
                self.link_event(place - LINK_TOKENS, event, now);
            }
            Token(place @ LISTENER_TOKENS..) => self.accepting.readable(place - LISTENER_TOKENS),
            Token(place @ UDP_TOKENS..) => {
                if event.is_readable() || event.is_error() {
                    self.datagrams.readable(place - UDP_TOKENS);
                }
                if event.is_writable() {
                    self.datagrams.writable(place - UDP_TOKENS, self.poll.registry());
                }
            }
            Token(other) => tracing::error!(token = other, "event of an unknown token"),
        }
    }

    fn read_mail(&mut self, now: Instant) {
        for _ in 0..MAIL_PER_TURN {
            let Ok(mail) = self.inbox.try_recv() else { return };
            match mail {
                ToWorker::View(view) => self.take_view(&view, now),
                ToWorker::Keys(keys) => self.keys = keys,
                ToWorker::Credentials(credentials) => self.use_credentials(credentials),
                ToWorker::HandOff(message) => self.send_or_hand_off(*message, now),
                ToWorker::Failed(ticket, error) => self.report(ticket, error, now),
                ToWorker::PeerAnswered(peer) => self.peer_answered(peer, now),
                ToWorker::Drain => self.connections.refuse_inbound(),
                ToWorker::Stop => self.stopping = true,
            }
        }
        // The rest has its turn soon: a waker wakes once for all that is in the mailbox.
        if let Err(error) = self.mailboxes[usize::from(self.index)].wake_again() {
            tracing::error!(%error, "a worker cannot wake itself");
        }
    }

    /// Begins to read the sockets when there is somebody to pass on to.
    fn open(&mut self, now: Instant) {
        if self.opening == Opening::Open {
            return;
        }
        let is_open = |name: &ProcessName| {
            self.routing.route(name).is_some_and(|route| route.state != RouteState::Closed)
        };
        let serves = if self.routing.buckets().candidates().is_empty() {
            let nobody = self.links.named.is_empty() && self.shared.settings.peers.is_empty();
            if nobody { Serves::Nobody } else { Serves::Expected }
        } else if self.links.ready.iter().all(is_open) {
            Serves::Everybody
        } else {
            Serves::Somebody
        };
        if self.opening.look(serves, now) {
            self.links.ready = Vec::new(); // not looked at again
            self.shared.announcement.opened();
        }
    }

    fn receive_datagrams(&mut self, now: Instant) {
        let mut arrived = self.datagrams.receive();
        for (local, remote, bytes) in arrived.drain(..) {
            self.datagram(local, remote, bytes, now);
        }
        self.datagrams.reuse(arrived);
    }

    fn tick(&mut self, now: Instant) {
        self.accepting.tick(now);
        let mut changes = Vec::new();
        self.routing.tick(now, &mut changes);
        self.follow_changes(&changes, now);
        self.tick_links(now);
        self.tick_waiting_room(now);
        self.tick_probes(now);
        self.tick_peers(now);
        self.connections.tick(now, &mut self.tcp_events);
        self.connection_events(now);
        if self.counters.is_due(now) {
            self.counters.log(self.index, self.socket_losses(), now);
        }
    }

    fn socket_losses(&self) -> SocketLosses {
        let tcp = self.connections.counters();
        let connections = SocketLosses {
            refused: tcp.refused_total + tcp.refused_per_remote + tcp.accept_failures,
            given_up: tcp.incomplete + tcp.slow_readers + tcp.framing_errors,
            ..SocketLosses::default()
        };
        self.datagrams.counters().fold(connections, |sum, udp| SocketLosses {
            truncated: sum.truncated + udp.truncated,
            unsent: sum.unsent + udp.undeliverable + udp.overflowed,
            ..sum
        })
    }

    fn tick_peers(&mut self, now: Instant) {
        let mut changes = Vec::new();
        if self.probes.tick(self.shared.settings.heartbeat, now, &mut changes) {
            let shared = Arc::clone(&self.shared);
            for peer in &shared.settings.peers {
                let listener = shared.listeners.toward(peer.transport, peer.address);
                let nonce = self.next_seed();
                let bytes = self.probes.request(peer, listener, nonce);
                let hop = match peer.transport {
                    Transport::Udp => Hop::Datagram { local: listener.own, remote: peer.address },
                    Transport::Tcp => {
                        Hop::Connect { local: listener.own.ip(), remote: peer.address }
                    }
                };
                self.send(hop, bytes, Ticket { worker: self.index, origin: Origin::Nobody }, now);
            }
        }
        for change in changes {
            self.follow_peer(change, now);
        }
    }

    /// A probe was answered to this worker, perhaps another's: all shall know.
    pub(super) fn peer_answered_here(&mut self, flow: &Flow, now: Instant) {
        let peers = &self.shared.settings.peers;
        let answered =
            |peer: &crate::Peer| peer.transport == flow.transport && peer.address == flow.remote;
        let Some(peer) = peers.iter().position(answered) else { return };
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            if worker != usize::from(self.index) {
                // At the bound the news is lost; the next probe brings it again.
                let _ = mailbox.try_deliver(ToWorker::PeerAnswered(peer));
            }
        }
        self.peer_answered(peer, now);
    }

    fn peer_answered(&mut self, peer: usize, now: Instant) {
        if let Some(change) = self.probes.answered(peer, now) {
            self.follow_peer(change, now);
        }
    }

    fn follow_peer(&mut self, change: PeerChange, now: Instant) {
        let mut changes = Vec::new();
        let peers = &self.shared.settings.peers;
        match change {
            PeerChange::Up(peer) => {
                self.routing.link_up(&peers[peer].name, Incarnation::NONE, now, &mut changes)
            }
            PeerChange::Down(peer) => {
                self.routing.link_down(&peers[peer].name, Incarnation::NONE, now, &mut changes)
            }
        }
        self.follow_changes(&changes, now);
    }

    fn flush(&mut self, now: Instant) {
        self.flush_datagrams(now);
        self.connections.flush(now, &mut self.tcp_events);
        self.connection_events(now);
        self.flush_links(now);
    }

    fn flush_datagrams(&mut self, now: Instant) {
        let mut failed = Vec::new();
        self.datagrams.flush(self.poll.registry(), &mut failed);
        for number in failed {
            self.undelivered(number, SendError::Unreachable, now);
        }
    }

    /// How long the poll may wait.
    fn timeout(&self, now: Instant) -> Duration {
        let is_open = self.opening == Opening::Open;
        let unfinished = (is_open && (self.datagrams.has_unread() || self.accepting.has_waiting()))
            || !self.links.unread.is_empty()
            // What a flush itself brought about: errors of what it could not send, messages of the
            // links it lost.
            || self.datagrams.has_unflushed()
            || self.links.all.iter().any(Link::has_unflushed)
            || self.connections.has_unflushed()
            || self.connections.has_unfinished_reads();
        if unfinished {
            return Duration::ZERO;
        }
        let deadlines = [
            self.routing.next_deadline(),
            self.connections.next_deadline(),
            self.probes.next_deadline(self.shared.settings.heartbeat),
            self.opening.deadline(),
            self.waiting_room.next_deadline(),
            Some(self.probing.next_deadline()),
        ];
        deadlines
            .into_iter()
            .flatten()
            .chain(self.links.deadlines())
            .map(|deadline| deadline.saturating_duration_since(now))
            .fold(TICK.min(self.shared.settings.heartbeat.round_max()), Duration::min)
    }

    /// The surroundings at this moment.
    pub(super) fn view(&self) -> View<'_> {
        View {
            listeners: &self.shared.listeners,
            routing: &self.routing,
            peers: &self.shared.settings.peers,
            fellows: &self.fellows,
            keys: &self.keys,
            nat_traversal: self.shared.settings.nat_traversal,
        }
    }

    /// A number that is different each time; what it is good for needs no more.
    pub(super) fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }

    /// How many other workers there are.
    pub(super) fn neighbour_count(&self) -> u16 {
        u16::try_from(self.mailboxes.len() - 1).expect("workers are counted in u16")
    }

    /// The worker after this one; the last one's is the first.
    pub(super) fn next_worker(&self) -> &Mailbox {
        &self.mailboxes[(usize::from(self.index) + 1) % self.mailboxes.len()]
    }
}
