//! All TCP connections of one worker, and what readiness and time do to them.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry};
use sip::framer::StreamFramer;
use thiserror::Error;

use super::admission::{Admission, Refusal};
use super::connection::{CloseReason, Connection, ConnectionEvent, Direction, State};
use super::limits::TcpLimits;
use super::listener::{Accepted, Listener};
use super::slab::{ConnectionId, Slab};
use super::socket::{AcceptFailure, accept_failure, begin_connect, connect_outcome, set_options};
use super::timing::{Deadlines, Left, Overdue};
use super::write_queue::{Overfull, SpareQueues, Wrote};
use crate::arena::Arena;
use crate::flow::{Flow, Transport, canonical};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Most reads of one connection in one turn; a connection that has more waits until the others had
/// theirs.
const READS_PER_TURN: usize = 4;

/// Most connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendRefused {
    /// The connection is gone; another may be found or opened.
    #[error("the connection is gone")]
    Gone,
    /// More waited for this peer than may: its connection will be closed by the next flush.
    #[error("the peer reads too slowly")]
    SlowReader,
}

/// Why a connection was not opened.
#[derive(Debug, Error)]
pub enum ConnectRefused {
    /// The worker has all the connections it may have; later may help.
    #[error("no connection to {remote}: all {connections_max} are in use")]
    Full {
        /// Where to.
        remote: SocketAddr,
        /// The limit.
        connections_max: usize,
    },
    /// The system refused at once; another address may help.
    #[error("no connection to {remote}")]
    System {
        /// Where to.
        remote: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What became of connections; monotonic since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Inbound connections taken.
    pub accepted: u64,
    /// Inbound connections closed at once because the total was reached.
    pub refused_total: u64,
    /// Inbound connections closed at once because their remote had its share.
    pub refused_per_remote: u64,
    /// Inbound connections closed at once because no more are taken.
    pub refused_draining: u64,
    /// Failures to accept: descriptors or memory were short.
    pub accept_failures: u64,
    /// Outbound connections begun.
    pub connects: u64,
    /// Outbound connections that failed or timed out.
    pub connect_failures: u64,
    /// Connections closed because a message was not finished in time, or incomplete ones took too
    /// much memory.
    pub incomplete: u64,
    /// Connections closed because the peer read too slowly.
    pub slow_readers: u64,
    /// Connections closed because they were idle.
    pub idle: u64,
    /// Connections closed because their framing was lost.
    pub framing_errors: u64,
    /// Readiness events for connections that were already gone.
    pub stale_events: u64,
}

/// How far to read after a readable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadUntil {
    /// A read that does not fill its buffer has emptied the socket; more will be a new event.
    Short,
    /// The peer's end of stream is behind the data and will not be reported again.
    End,
}

/// All TCP connections of one worker.
#[derive(Debug)]
pub struct Connections {
    limits: TcpLimits,
    slab: Slab,
    admission: Admission,
    /// Since [`Connections::refuse_inbound`].
    refuses_inbound: bool,
    deadlines: Deadlines<ConnectionId>,
    awaiting_flush: Vec<ConnectionId>,
    unfinished_reads: Vec<ConnectionId>,
    incomplete_bytes: usize,
    scratch: Box<[u8]>,
    arena: Arena,
    spare_queues: SpareQueues,
    counters: TcpCounters,
}

impl Connections {
    /// No connections yet; memory grows with them.
    pub fn new(limits: TcpLimits) -> Connections {
        Connections {
            limits,
            slab: Slab::default(),
            admission: Admission::default(),
            refuses_inbound: false,
            deadlines: Deadlines::default(),
            awaiting_flush: Vec::new(),
            unfinished_reads: Vec::new(),
            incomplete_bytes: 0,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            arena: Arena::new(),
            spare_queues: SpareQueues::default(),
            counters: TcpCounters::default(),
        }
    }

    /// Connections of both directions, those being opened included.
    pub fn len(&self) -> usize {
        self.admission.total()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What became of connections so far.
    pub fn counters(&self) -> TcpCounters {
        self.counters
    }

    /// From now on who connects is closed at once, so that it need not wait to learn that nobody serves it here.
    pub fn refuse_inbound(&mut self) {
        self.refuses_inbound = true;
    }

    /// Accepts who waits, a turn's share at most. Over a limit a connection is accepted and closed
    /// at once, and counted.
    ///
    /// # Errors
    /// When the listener itself is unusable.
    pub fn accept_from(
        &mut self,
        listener: &Listener,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<Accepted> {
        for _ in 0..ACCEPTS_PER_TURN {
            match listener.accept() {
                Ok((stream, remote)) => self.admit(stream, remote, registry, now),
                Err(error) => match accept_failure(&error) {
                    AcceptFailure::Nobody => return Ok(Accepted::Drained),
                    AcceptFailure::ThatConnection => {}
                    AcceptFailure::Resources => {
                        self.counters.accept_failures += 1;
                        return Ok(Accepted::Short);
                    }
                    AcceptFailure::Listener => return Err(error),
                },
            }
        }
        Ok(Accepted::More)
    }

    fn admit(&mut self, stream: TcpStream, remote: SocketAddr, registry: &Registry, now: Instant) {
        if self.refuses_inbound {
            self.counters.refused_draining += 1;
            return; // dropped, which closes it
        }
        match self.admission.admit_inbound(remote.ip().to_canonical(), &self.limits) {
            Ok(()) => {}
            Err(Refusal::Total) => {
                self.counters.refused_total += 1;
                return; // dropped, which closes it
            }
            Err(Refusal::PerRemote) => {
                self.counters.refused_per_remote += 1;
                return;
            }
        }
        let opened = stream.local_addr().and_then(|local| {
            let flow = Flow::new(Transport::Tcp, local, remote);
            self.insert(stream, flow, Direction::Inbound, registry, now)
        });
        match opened {
            Ok(_) => self.counters.accepted += 1,
            // The peer has gone already, or epoll is out of memory: as if it had never come.
            Err(_) => {
                self.counters.accept_failures += 1;
                self.admission.release_inbound(remote.ip().to_canonical());
            }
        }
    }

    /// Begins a connection to `remote`, from `local_ip` if given. Messages may be sent to it at
    /// once; a failure comes as [`ConnectionEvent::Closed`], with `Undelivered` for each of them.
    ///
    /// # Errors
    /// [`ConnectRefused`] when nothing was begun.
    pub fn connect(
        &mut self,
        registry: &Registry,
        local_ip: Option<IpAddr>,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<ConnectionId, ConnectRefused> {
        let connections_max = self.limits.connections_max;
        self.admission
            .admit_outbound(&self.limits)
            .map_err(|_| ConnectRefused::Full { remote, connections_max })?;
        let opened = begin_connect(local_ip, remote).and_then(|(stream, local)| {
            let flow = Flow::new(Transport::Tcp, local, remote);
            self.insert(stream, flow, Direction::Outbound, registry, now)
        });
        match opened {
            Ok(id) => {
                self.counters.connects += 1;
                Ok(id)
            }
            Err(source) => {
                self.counters.connect_failures += 1;
                self.admission.release_outbound();
                Err(ConnectRefused::System { remote, source })
            }
        }
    }

    fn insert(
        &mut self,
        mut stream: TcpStream,
        flow: Flow,
        direction: Direction,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<ConnectionId> {
        set_options(&stream, &self.limits)?;
        registry.register(
            &mut stream,
            self.slab.next_id().token(),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        // From here nothing fails.
        let framer = StreamFramer::new(self.limits.message_bytes_max);
        let id = self.slab.insert(Connection::new(stream, flow, direction, framer, now));
        self.schedule(id);
        Ok(id)
    }

    /// The connection of exactly this flow, for a flow token. A dead flow has none: 430 (RFC 5626
    /// §5.3.1).
    pub fn find_flow(&self, flow: &Flow) -> Option<ConnectionId> {
        if !flow.transport.is_stream() {
            return None;
        }
        self.live_to(flow.remote).find(|(_, connection)| connection.flow == *flow).map(|(id, _)| id)
    }

    /// A connection to this remote address, whoever opened it; an established one before one that
    /// is being opened. With `local_ip` only those from that address.
    pub fn find(&self, local_ip: Option<IpAddr>, remote: SocketAddr) -> Option<ConnectionId> {
        let matching = self.live_to(canonical(remote)).filter(|(_, connection)| {
            local_ip.is_none_or(|ip| connection.flow.local.ip() == ip.to_canonical())
        });
        // The last of the best: the youngest is the likeliest to live.
        matching.max_by_key(|(_, connection)| connection.state == State::Open).map(|(id, _)| id)
    }

    fn live_to(&self, remote: SocketAddr) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.slab.to(remote).filter(|(_, connection)| connection.state != State::Doomed)
    }

    /// The flow of a connection, while it lives.
    pub fn flow(&self, id: ConnectionId) -> Option<Flow> {
        self.slab.get(id).map(|connection| connection.flow)
    }

    /// Queues a message; it leaves with the next [`flush`](Self::flush), or once connected. `tag`
    /// comes back if it cannot be delivered.
    ///
    /// # Errors
    /// [`SendRefused`]; a message that is refused is not reported again.
    pub fn send(
        &mut self,
        id: ConnectionId,
        bytes: Bytes,
        tag: u64,
        now: Instant,
    ) -> Result<(), SendRefused> {
        let unwritten_bytes_max = self.limits.unwritten_bytes_max;
        let connection = self.slab.get_mut(id).ok_or(SendRefused::Gone)?;
        if connection.state == State::Doomed {
            return Err(SendRefused::Gone);
        }
        let pushed =
            connection.unwritten.push(bytes, tag, unwritten_bytes_max, &mut self.spare_queues);
        match pushed {
            Ok(()) => connection.timing.queued(now),
            Err(Overfull) => connection.state = State::Doomed,
        }
        if !std::mem::replace(&mut connection.awaits_flush, true) {
            self.awaiting_flush.push(id);
        }
        pushed.map_err(|Overfull| SendRefused::SlowReader)
    }

    /// Closes a connection. `Undelivered` and `Closed` are pushed as for any other reason.
    pub fn close(&mut self, id: ConnectionId, events: &mut Vec<ConnectionEvent>) {
        self.end(id, CloseReason::Requested, events);
    }

    /// Whether a message was queued since the last flush.
    pub fn has_unflushed(&self) -> bool {
        !self.awaiting_flush.is_empty()
    }

    /// Writes what was queued since the last flush: call it at the end of every turn.
    pub fn flush(&mut self, now: Instant, events: &mut Vec<ConnectionEvent>) {
        let mut awaiting = std::mem::take(&mut self.awaiting_flush);
        for id in awaiting.drain(..) {
            if let Some(connection) = self.slab.get_mut(id) {
                connection.awaits_flush = false;
                self.write(id, now, events);
            }
        }
        self.awaiting_flush = awaiting; // keeps its memory
    }

    /// What readiness of a connection's token means. Events of other tokens, and of connections
    /// gone, change nothing.
    pub fn handle(&mut self, event: &Event, now: Instant, events: &mut Vec<ConnectionEvent>) {
        let Some(id) = ConnectionId::from_token(event.token()) else { return };
        let Some(connection) = self.slab.get(id) else {
            self.counters.stale_events += 1;
            return;
        };
        if connection.state == State::Connecting {
            self.finish_connect(id, now, events);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            let until = if event.is_read_closed() || event.is_error() {
                ReadUntil::End
            } else {
                ReadUntil::Short
            };
            self.read(id, until, now, events);
        }
        if event.is_writable() {
            self.write(id, now, events);
        }
    }

    /// Whether connections still have something to read that no event will tell of: call
    /// [`continue_reading`](Self::continue_reading) before waiting.
    pub fn has_unfinished_reads(&self) -> bool {
        !self.unfinished_reads.is_empty()
    }

    /// Goes on with connections that had more to read than a turn's share.
    pub fn continue_reading(&mut self, now: Instant, events: &mut Vec<ConnectionEvent>) {
        for id in std::mem::take(&mut self.unfinished_reads) {
            self.read(id, ReadUntil::End, now, events);
        }
    }

    /// When [`tick`](Self::tick) has something to do, at the latest; it may turn out to be nothing.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Closes what is overdue at `now`.
    pub fn tick(&mut self, now: Instant, events: &mut Vec<ConnectionEvent>) {
        while let Some(id) = self.deadlines.pop_due(now) {
            let connection = self.slab.get_mut(id).expect("the entry goes with its connection");
            connection.scheduled = None;
            match connection.timing.deadline(&self.limits) {
                (at, overdue) if at <= now => self.end(id, close_reason(overdue), events),
                _ => self.schedule(id),
            }
        }
    }

    fn finish_connect(
        &mut self,
        id: ConnectionId,
        now: Instant,
        events: &mut Vec<ConnectionEvent>,
    ) {
        let Some(connection) = self.slab.get_mut(id) else { return };
        match connect_outcome(&connection.stream, &connection.flow) {
            Ok(true) => {
                connection.state = State::Open;
                connection.timing.connected(now);
                events.push(ConnectionEvent::Connected { connection: id, flow: connection.flow });
                self.schedule(id);
            }
            Ok(false) => {}
            Err(error) => self.end(id, CloseReason::ConnectFailed(error), events),
        }
    }

    fn read(
        &mut self,
        id: ConnectionId,
        until: ReadUntil,
        now: Instant,
        events: &mut Vec<ConnectionEvent>,
    ) {
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.slab.get_mut(id) else { return };
            match connection.stream.read(&mut self.scratch) {
                Ok(0) => return self.end(id, CloseReason::PeerClosed, events),
                Ok(count) => {
                    if !self.take_in(id, count, now, events)
                        || (until == ReadUntil::Short && count < READ_BYTES)
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Before the connect is through there is nothing to read.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => return self.end(id, CloseReason::Broken(error), events),
            }
        }
        self.unfinished_reads.push(id);
    }

    /// Takes in `count` bytes of the scratch; whether the connection lives on.
    fn take_in(
        &mut self,
        id: ConnectionId,
        count: usize,
        now: Instant,
        events: &mut Vec<ConnectionEvent>,
    ) -> bool {
        let Some(connection) = self.slab.get_mut(id) else { return false };
        self.incomplete_bytes -= connection.incomplete_bytes();
        let framed = connection.take_in(&self.scratch[..count], &mut self.arena, now, id, events);
        self.incomplete_bytes += connection.incomplete_bytes();
        if let Err(error) = framed {
            self.end(id, CloseReason::Framing(error), events);
            return false;
        }
        if self.incomplete_bytes > self.limits.incomplete_bytes_max {
            self.end(id, CloseReason::IncompleteBytes, events);
            return false;
        }
        self.schedule(id);
        true
    }

    fn write(&mut self, id: ConnectionId, now: Instant, events: &mut Vec<ConnectionEvent>) {
        let Some(connection) = self.slab.get_mut(id) else { return };
        match connection.state {
            State::Connecting => return,
            State::Doomed => return self.end(id, CloseReason::SlowReader, events),
            State::Open => {}
        }
        if connection.unwritten.is_empty() {
            return;
        }
        match connection.unwritten.write_to(&mut connection.stream, &mut self.spare_queues) {
            Ok(Wrote::All) => connection.timing.written(now, Left::Nothing),
            Ok(Wrote::Blocked { progress: 0 }) => {}
            Ok(Wrote::Blocked { .. }) => connection.timing.written(now, Left::Some),
            Err(error) => return self.end(id, CloseReason::Broken(error), events),
        }
        self.schedule(id);
    }

    /// Makes sure that the connection is looked at when its next deadline comes.
    fn schedule(&mut self, id: ConnectionId) {
        let Some(connection) = self.slab.get_mut(id) else { return };
        let (at, _) = connection.timing.deadline(&self.limits);
        connection.scheduled = Some(self.deadlines.schedule(id, connection.scheduled, at));
    }

    fn end(&mut self, id: ConnectionId, reason: CloseReason, events: &mut Vec<ConnectionEvent>) {
        let Some(connection) = self.slab.remove(id) else { return };
        if let Some(scheduled) = connection.scheduled {
            self.deadlines.cancel(id, scheduled);
        }
        self.incomplete_bytes -= connection.incomplete_bytes();
        match connection.direction {
            Direction::Inbound => self.admission.release_inbound(connection.flow.remote.ip()),
            Direction::Outbound => self.admission.release_outbound(),
        }
        self.count(&reason);
        let flow = connection.flow;
        events.extend(
            connection
                .unwritten
                .unwritten_tags()
                .map(|tag| ConnectionEvent::Undelivered { flow, tag }),
        );
        events.push(ConnectionEvent::Closed { connection: id, flow, reason });
        // Dropping the socket closes it, and takes it out of the loop.
    }

    fn count(&mut self, reason: &CloseReason) {
        match reason {
            CloseReason::MessageTimeout | CloseReason::IncompleteBytes => {
                self.counters.incomplete += 1
            }
            CloseReason::SlowReader | CloseReason::WriteTimeout => self.counters.slow_readers += 1,
            CloseReason::Idle => self.counters.idle += 1,
            CloseReason::Framing(_) => self.counters.framing_errors += 1,
            CloseReason::ConnectTimeout | CloseReason::ConnectFailed(_) => {
                self.counters.connect_failures += 1
            }
            CloseReason::PeerClosed | CloseReason::Requested | CloseReason::Broken(_) => {}
        }
    }
}

fn close_reason(overdue: Overdue) -> CloseReason {
    match overdue {
        Overdue::Connect => CloseReason::ConnectTimeout,
        Overdue::Message => CloseReason::MessageTimeout,
        Overdue::Write => CloseReason::WriteTimeout,
        Overdue::Idle => CloseReason::Idle,
    }
}
