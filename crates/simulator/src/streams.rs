//! The streams between edges and containers: ordered, bounded, delayed, and ended with their processes.
//!
//! What was written before a process died is still read by the other one; a link that is *cut* loses what is under
//! way. A reader that has stopped leaves the stream full, and its writer keeps the rest, as with real sockets.
//!
//! Between two nodes what is written waits while the cable is cut, and is sent again when it is mended; who waits for too
//! long gives the stream up. A host that loses its power closes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use topology::ProcessName;

use crate::cables::{Cables, Net};
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
/// The same between two nodes.
const DELAY_BETWEEN: (Duration, Duration) = (Duration::from_micros(150), Duration::from_millis(4));
/// How long it takes until what was not acknowledged is sent again.
const SENT_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(800));
/// How much later one end finds out than the other.
const FOUND_OUT: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(500));

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Moment, Bytes)>,
    held: usize,
    last_arrival: Moment,
    ends_at: Option<Moment>,
    is_writer_blocked: bool,
    /// The writer has closed it while the cable was cut.
    ends_silently: bool,
    /// What a cut cable holds back.
    waiting: VecDeque<Bytes>,
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

    /// From whom and to whom the bytes toward that end go.
    fn way(&self, toward: Side, homes: &[usize]) -> (usize, usize) {
        (homes[self.life(toward.other()).0], homes[self.life(toward).0])
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
    /// Connects into a cut cable.
    unanswered: BTreeSet<StreamId>,
    /// On which host each life is.
    homes: Vec<usize>,
    /// What lies between the hosts.
    pub cables: Cables,
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
            unanswered: BTreeSet::new(),
            homes: Vec::new(),
            cables: Cables::default(),
            wakes: Vec::new(),
        }
    }

    /// The next life is on that host.
    pub fn begins_on(&mut self, host: usize) {
        self.homes.push(host);
    }

    fn joins(&self, one: LifeId, other: LifeId) -> bool {
        self.cables.join(Net::Nodes, self.homes[one.0], self.homes[other.0])
    }

    /// A container listens; a former listener of that name gets nobody any more.
    pub fn listen(&mut self, name: &ProcessName, life: LifeId) {
        self.listeners.insert(name.clone(), (life, VecDeque::new()));
    }

    /// Connects to whoever listens under that name; `None`: refused. When the cable is cut nobody answers.
    pub fn connect(
        &mut self,
        edge: LifeId,
        name: &ProcessName,
        host: usize,
        now: Moment,
    ) -> Option<StreamId> {
        let is_far = self.homes[edge.0] != host;
        if is_far && !self.cables.join(Net::Nodes, self.homes[edge.0], host) {
            self.next += 1;
            self.unanswered.insert(StreamId(self.next));
            return Some(StreamId(self.next));
        }
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
        let (delay, is_carried) = self.way_toward(id, from.other());
        // A connect that nobody has answered takes what is written.
        let is_unanswered = self.unanswered.contains(&id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return is_unanswered.then_some(bytes.len());
        };
        let reader = stream.life(from.other());
        if stream.toward(from).ends_at.is_some() {
            return None;
        }
        let pipe = stream.toward(from.other());
        let count = bytes.len().min(CAPACITY - pipe.held);
        pipe.is_writer_blocked = count < bytes.len();
        if !is_carried || !pipe.waiting.is_empty() {
            pipe.held += count;
            pipe.waiting.push_back(Bytes::copy_from_slice(&bytes[..count]));
        } else if count > 0 {
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
        let Some(stream) = self.streams.get_mut(&id) else {
            return if self.unanswered.contains(&id) { Read::Nothing } else { Read::Ended };
        };
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
        self.unanswered.remove(&id);
        // Nobody hears of it by a cable that is cut; the stream is given up, sooner or later.
        let (delay, is_carried) = self.way_toward(id, side.other());
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let reader = stream.life(side.other());
        let own = stream.toward(side);
        own.chunks.clear();
        let is_closed_by_other = own.ends_at.is_some();
        let pipe = stream.toward(side.other());
        if !is_carried {
            pipe.ends_silently = true;
        } else if pipe.ends_at.is_none() {
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
            pipe.waiting.clear();
            pipe.ends_at = Some(now);
            self.wakes.push((now, reader));
        }
    }

    /// A cable was mended: what it held back is sent again.
    pub fn go_on(&mut self, now: Moment) {
        for stream in self.streams.values_mut() {
            for side in [Side::Edge, Side::Container] {
                let (sender, receiver) = stream.way(side, &self.homes);
                let reader = stream.life(side);
                let pipe = stream.toward(side);
                let waits = !pipe.waiting.is_empty() || pipe.ends_silently;
                if !waits || !self.cables.carry(Net::Nodes, sender, receiver) {
                    continue;
                }
                let again = now + self.random.between(SENT_AGAIN.0, SENT_AGAIN.1);
                let arrival = again.max(pipe.last_arrival);
                pipe.last_arrival = arrival;
                pipe.chunks.extend(pipe.waiting.drain(..).map(|bytes| (arrival, bytes)));
                if std::mem::take(&mut pipe.ends_silently) && pipe.ends_at.is_none() {
                    pipe.ends_at = Some(arrival);
                }
                self.wakes.push((arrival, reader));
            }
        }
    }

    /// A cable was cut for as long as anybody waits: the streams that it holds back are given up.
    pub fn give_up(&mut self, now: Moment) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else { continue };
            let (edge, container) = (stream.edge, stream.container);
            let is_far = self.homes[edge.0] != self.homes[container.0];
            if is_far && !self.joins(edge, container) {
                for side in [Side::Edge, Side::Container] {
                    let at = now + self.random.between(FOUND_OUT.0, FOUND_OUT.1);
                    self.end_toward(id, side, at);
                }
            }
        }
    }

    /// A host lost its power: its processes' other ends find out at that moment.
    pub fn vanish(&mut self, life: LifeId, now: Moment, found_out_at: Moment) {
        self.listeners.retain(|_, (listener, _)| *listener != life);
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if stream.edge != life && stream.container != life {
                continue;
            }
            let side = if stream.edge == life { Side::Container } else { Side::Edge };
            let own = stream.toward(side.other());
            (own.ends_at, own.waiting) = (Some(now), VecDeque::new());
            let far = stream.toward(side);
            far.waiting.clear();
            far.chunks.retain(|(arrival, _)| *arrival <= now);
            self.end_toward(id, side, found_out_at);
        }
    }

    fn end_toward(&mut self, id: StreamId, side: Side, at: Moment) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let reader = stream.life(side);
        let pipe = stream.toward(side);
        pipe.waiting.clear();
        if pipe.ends_at.is_none() {
            pipe.ends_at = Some(at);
            self.wakes.push((at, reader));
        }
    }

    /// How long bytes toward that end take, and whether they get there now.
    fn way_toward(&mut self, id: StreamId, side: Side) -> (Duration, bool) {
        let way = self.streams.get(&id).map(|stream| stream.way(side, &self.homes));
        let (sender, receiver) = way.unwrap_or_default();
        let (least, most) = if sender == receiver { DELAY } else { DELAY_BETWEEN };
        let is_carried = sender == receiver || self.cables.carry(Net::Nodes, sender, receiver);
        (self.random.between(least, most), is_carried)
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
        connected_between(0, 0)
    }

    fn connected_between(edge: usize, container: usize) -> (Streams, StreamId) {
        let mut streams = Streams::new(Random::new(1));
        streams.begins_on(edge);
        streams.begins_on(container);
        let name = ProcessName::new("container1");
        let connect =
            |streams: &mut Streams| streams.connect(LifeId(0), &name, container, Duration::ZERO);
        assert!(connect(&mut streams).is_none(), "nobody listens");
        streams.listen(&name, LifeId(1));
        let id = connect(&mut streams).expect("somebody listens");
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
    fn a_cut_cable_holds_back_what_is_written_and_sends_it_again_or_ends_the_stream() {
        for is_mended in [true, false] {
            let (mut streams, id) = connected_between(0, 1);
            let cut = streams.cables.cut(vec![(Net::Nodes, 0, 1)]);
            assert_eq!(streams.write(id, Side::Edge, b"bytes", Duration::ZERO), Some(5));
            assert_eq!(streams.read(id, Side::Container, LATER), Read::Nothing);
            streams.write(id, Side::Container, b"back", Duration::ZERO);
            assert!(matches!(streams.read(id, Side::Edge, LATER), Read::Bytes(_)), "one way");
            if is_mended {
                streams.cables.mend(cut);
                streams.go_on(LATER);
                let bytes = Read::Bytes(Bytes::from_static(b"bytes"));
                assert_eq!(streams.read(id, Side::Container, LATER + SENT_AGAIN.1), bytes);
            } else {
                streams.give_up(LATER);
                let found_out = LATER + FOUND_OUT.1;
                assert_eq!(streams.read(id, Side::Container, found_out), Read::Ended);
                assert_eq!(streams.read(id, Side::Edge, found_out), Read::Ended);
            }
        }
    }

    #[test]
    fn a_connect_into_a_cut_cable_is_answered_by_nobody() {
        let (mut streams, _) = connected_between(0, 1);
        streams.cables.set_dark(1, true);
        let name = ProcessName::new("container1");
        let id = streams.connect(LifeId(0), &name, 1, LATER).expect("it waits");
        assert_eq!(streams.write(id, Side::Edge, b"hello", LATER), Some(5));
        assert_eq!(streams.read(id, Side::Edge, LATER), Read::Nothing);
        streams.close(id, Side::Edge, LATER);
        assert_eq!(streams.read(id, Side::Edge, LATER), Read::Ended);
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
