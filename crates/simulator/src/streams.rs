//! The Unix sockets between edges and containers: ordered, bounded, delayed streams that end with their processes.
//!
//! What was written before a process died is still read by the other one; a link that is *cut* loses what is under
//! way. A reader that has stopped leaves the stream full, and its writer keeps the rest, as with real sockets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use topology::ProcessName;

use crate::random::Random;
use crate::schedule::Moment;

/// Names one life of a process; never given twice in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifeId(pub usize);

/// Names a stream; never given twice in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// Which end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that connected.
    Edge,
    /// The one that listened.
    Container,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Edge => Side::Container,
            Side::Container => Side::Edge,
        }
    }
}

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Some bytes.
    Bytes(Bytes),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Ended,
}

/// Most bytes that a stream holds in one direction, as a Unix socket does.
const CAPACITY: usize = 200 * 1024;
/// How long bytes are under way: the other process has to be woken.
const DELAY: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(400));

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Moment, Bytes)>,
    held: usize,
    last_arrival: Moment,
    ends_at: Option<Moment>,
    is_writer_blocked: bool,
}

#[derive(Debug)]
struct Stream {
    edge: LifeId,
    container: LifeId,
    to_edge: Pipe,
    to_container: Pipe,
}

impl Stream {
    fn life(&self, side: Side) -> LifeId {
        match side {
            Side::Edge => self.edge,
            Side::Container => self.container,
        }
    }

    fn toward(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Edge => &mut self.to_edge,
            Side::Container => &mut self.to_container,
        }
    }
}

/// All streams of a world.
#[derive(Debug)]
pub struct Streams {
    random: Random,
    streams: BTreeMap<StreamId, Stream>,
    /// Who listens under a container's name, and who has connected and was not accepted yet.
    listeners: BTreeMap<ProcessName, (LifeId, VecDeque<StreamId>)>,
    next: u64,
    /// Lives that have something to look at, and when.
    pub wakes: Vec<(Moment, LifeId)>,
}

impl Streams {
    /// No streams.
    pub fn new(random: Random) -> Streams {
        Streams {
            random,
            streams: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next: 0,
            wakes: Vec::new(),
        }
    }

    /// A container listens; a former listener of that name gets nobody any more.
    pub fn listen(&mut self, name: &ProcessName, life: LifeId) {
        self.listeners.insert(name.clone(), (life, VecDeque::new()));
    }

    /// Connects to whoever listens under that name; `None`: refused.
    pub fn connect(&mut self, edge: LifeId, name: &ProcessName, now: Moment) -> Option<StreamId> {
        let (container, backlog) = self.listeners.get_mut(name)?;
        self.next += 1;
        let id = StreamId(self.next);
        backlog.push_back(id);
        let stream = Stream {
            edge,
            container: *container,
            to_edge: Pipe::default(),
            to_container: Pipe::default(),
        };
        self.wakes.push((now, *container));
        self.streams.insert(id, stream);
        Some(id)
    }

    /// The next stream that somebody opened to this listener.
    pub fn accept(&mut self, name: &ProcessName, life: LifeId) -> Option<StreamId> {
        let (listener, backlog) = self.listeners.get_mut(name)?;
        if *listener == life { backlog.pop_front() } else { None }
    }

    /// Writes as much as there is room for; how much that was. `None`: the other end is gone.
    pub fn write(&mut self, id: StreamId, from: Side, bytes: &[u8], now: Moment) -> Option<usize> {
        let delay = self.random.between(DELAY.0, DELAY.1);
        let stream = self.streams.get_mut(&id)?;
        let reader = stream.life(from.other());
        if stream.toward(from).ends_at.is_some() {
            return None;
        }
        let pipe = stream.toward(from.other());
        let count = bytes.len().min(CAPACITY - pipe.held);
        pipe.is_writer_blocked = count < bytes.len();
        if count > 0 {
            let arrival = (now + delay).max(pipe.last_arrival);
            pipe.last_arrival = arrival;
            pipe.held += count;
            pipe.chunks.push_back((arrival, Bytes::copy_from_slice(&bytes[..count])));
            self.wakes.push((arrival, reader));
        }
        Some(count)
    }

    /// The next bytes for that end.
    pub fn read(&mut self, id: StreamId, side: Side, now: Moment) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else { return Read::Ended };
        let writer = stream.life(side.other());
        let pipe = stream.toward(side);
        match pipe.chunks.front() {
            Some((arrival, _)) if *arrival <= now => {}
            None if pipe.ends_at.is_some_and(|at| at <= now) => return Read::Ended,
            Some(_) | None => return Read::Nothing,
        }
        let Some((_, bytes)) = pipe.chunks.pop_front() else { return Read::Nothing };
        pipe.held -= bytes.len();
        if std::mem::take(&mut pipe.is_writer_blocked) {
            self.wakes.push((now, writer));
        }
        Read::Bytes(bytes)
    }

    /// One end closes it, or died: the other one reads what was written, and then the end.
    pub fn close(&mut self, id: StreamId, side: Side, now: Moment) {
        let delay = self.random.between(DELAY.0, DELAY.1);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let reader = stream.life(side.other());
        let own = stream.toward(side);
        own.chunks.clear();
        let is_closed_by_other = own.ends_at.is_some();
        let pipe = stream.toward(side.other());
        if pipe.ends_at.is_none() {
            let at = (now + delay).max(pipe.last_arrival);
            pipe.ends_at = Some(at);
            self.wakes.push((at, reader));
        }
        if is_closed_by_other {
            self.streams.remove(&id);
        }
    }

    /// The stream breaks: what is under way is lost, both ends see the end.
    pub fn cut(&mut self, id: StreamId, now: Moment) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        for side in [Side::Edge, Side::Container] {
            let reader = stream.life(side);
            let pipe = stream.toward(side);
            pipe.chunks.retain(|(arrival, _)| *arrival <= now);
            pipe.ends_at = Some(now);
            self.wakes.push((now, reader));
        }
    }

    /// The process is dead: all its streams and its listener close.
    pub fn process_died(&mut self, life: LifeId, now: Moment) {
        self.listeners.retain(|_, (listener, _)| *listener != life);
        let ends = |(id, stream): (&StreamId, &Stream)| {
            let side = if stream.edge == life { Side::Edge } else { Side::Container };
            (stream.edge == life || stream.container == life).then_some((*id, side))
        };
        let ends: Vec<_> = self.streams.iter().filter_map(ends).collect();
        for (id, side) in ends {
            self.close(id, side, now);
        }
    }

    /// The streams that are open at both ends.
    pub fn open(&self) -> Vec<StreamId> {
        let is_open = |stream: &Stream| {
            stream.to_edge.ends_at.is_none() && stream.to_container.ends_at.is_none()
        };
        self.streams.iter().filter(|(_, stream)| is_open(stream)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Moment = Duration::from_secs(1);

    fn connected() -> (Streams, StreamId) {
        let mut streams = Streams::new(Random::new(1));
        let name = ProcessName::new("container1");
        assert!(streams.connect(LifeId(0), &name, Duration::ZERO).is_none(), "nobody listens");
        streams.listen(&name, LifeId(1));
        let id = streams.connect(LifeId(0), &name, Duration::ZERO).expect("somebody listens");
        assert_eq!(streams.accept(&name, LifeId(1)), Some(id));
        (streams, id)
    }

    #[test]
    fn bytes_arrive_later_in_order_and_before_the_end_of_a_dead_writer() {
        let (mut streams, id) = connected();
        streams.write(id, Side::Edge, b"one", Duration::ZERO);
        streams.write(id, Side::Edge, b"two", Duration::ZERO);
        assert_eq!(streams.read(id, Side::Container, Duration::ZERO), Read::Nothing);
        streams.process_died(LifeId(0), Duration::ZERO);
        for expected in [b"one", b"two"] {
            let expected = Read::Bytes(Bytes::from_static(expected));
            assert_eq!(streams.read(id, Side::Container, LATER), expected);
        }
        assert_eq!(streams.read(id, Side::Container, LATER), Read::Ended);
    }

    #[test]
    fn a_reader_that_stopped_fills_the_stream_and_wakes_the_writer_when_it_reads() {
        let (mut streams, id) = connected();
        let much = vec![0; CAPACITY + 1];
        assert_eq!(streams.write(id, Side::Edge, &much, Duration::ZERO), Some(CAPACITY));
        streams.wakes.clear();
        assert!(matches!(streams.read(id, Side::Container, LATER), Read::Bytes(_)));
        assert_eq!(streams.wakes, [(LATER, LifeId(0))]);
    }

    #[test]
    fn a_cut_stream_loses_what_is_under_way() {
        let (mut streams, id) = connected();
        streams.write(id, Side::Edge, b"lost", Duration::ZERO);
        streams.cut(id, Duration::ZERO);
        assert_eq!(streams.read(id, Side::Container, LATER), Read::Ended);
        assert_eq!(streams.write(id, Side::Edge, b"more", LATER), None);
    }
}
