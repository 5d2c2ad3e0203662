//! One link to one container: connecting, reading, writing, and what is kept untaken.
//!
//! The bytes are [`transport::link`]'s business; here is the socket under them and the patience
//! between two connects. To a container of the own node it is a Unix socket, to another's TLS ([`super::reaching`]).

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Interest, Registry, Token};
use topology::{Incarnation, ProcessName};
use transport::Flow;
use transport::link::{LinkFrame, LinkReceiver, LinkSender, Refused, Untaken};
use transport::tls::Received;

use super::reaching::{Caller, Place, Stream};

/// First wait after a failed connect; a container that is restarted is back within some of these.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait: a container that is away for long is named anew by the manager, which ends the
/// waiting.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A container that accepts and does not answer the hello is hung, a host that does not answer at all is gone: connect
/// again, a new life may listen by then.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer from another host takes no longer if that is there: a handshake, and a busy machine.
const ANSWER_USUAL: Duration = Duration::from_secs(1);
/// Reads of one turn; the rest of a busy link waits for the other sockets' turn.
const READS_PER_TURN: usize = 8;

/// A link and its state.
#[derive(Debug)]
pub(super) struct Link {
    /// The container.
    pub(super) name: ProcessName,
    place: Place,
    /// Counts connects, so that what belonged to a former stream is recognised.
    pub(super) life: u64,
    /// The container's life, once it answered the hello.
    pub(super) answered: Option<Incarnation>,
    stream: Option<Stream>,
    /// Of the stream in the worker's poll.
    token: Token,
    sender: LinkSender,
    receiver: LinkReceiver,
    backoff: Duration,
    /// Next connect while there is no stream, else the end of patience for the hello's answer.
    due: Instant,
    /// The last write left bytes behind.
    blocked: bool,
}

/// How reading went.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    /// Nothing more now.
    Drained,
    /// A turn's share was read, there may be more.
    More,
    /// The stream has ended or broke.
    Ended,
    /// Who answers is not the container, or does not believe that we are an edge: its certificate, or ours.
    Untrusted(io::Error),
}

impl Link {
    /// A link that is to be connected; its streams have `token` in the worker's poll.
    pub(super) fn new(name: ProcessName, place: Place, token: Token, now: Instant) -> Link {
        Link {
            name,
            place,
            life: 0,
            answered: None,
            stream: None,
            token,
            sender: LinkSender::new(),
            receiver: LinkReceiver::new(),
            backoff: BACKOFF_MIN,
            due: now,
            blocked: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// The manager named the container (anew): no more waiting. True if whoever is waited for is there no more, or was not
    /// when the wait began, which a connect to another host would find out later than a new one.
    pub(super) fn named_again(&mut self, place: Place, now: Instant) -> bool {
        let has_moved = self.place != place;
        self.place = place;
        self.backoff = BACKOFF_MIN;
        if self.stream.is_none() {
            self.due = now;
        }
        let waited = now.saturating_duration_since(self.due - HELLO_TIMEOUT);
        let is_late = matches!(self.place, Place::There { .. }) && waited > ANSWER_USUAL;
        self.stream.is_some() && self.answered.is_none() && (has_moved || is_late)
    }

    /// Whether a container that gives itself this name is the one that is meant; its node has proved itself.
    pub(super) fn is_named(&self, own: &str) -> bool {
        self.name.parts().0 == own
    }

    /// When [`is_due`](Self::is_due) changes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.stream.is_none() || self.answered.is_none()).then_some(self.due)
    }

    /// Without a stream: connect now. With one: its hello has been unanswered for too long.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|due| due <= now)
    }

    /// Connects and says hello. A Unix connect is through or refused at once, and to another host it is only begun, so
    /// this never waits.
    pub(super) fn connect(
        &mut self,
        hello: &LinkFrame,
        caller: &Caller,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<()> {
        self.due = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        let mut stream = caller.begin(&self.place)?;
        registry.register(&mut stream, self.token, Interest::READABLE)?;
        self.sender = LinkSender::new();
        self.receiver = LinkReceiver::new();
        self.sender
            .try_send(hello)
            .expect("a hello fits an empty link: its addresses were counted at the start");
        self.stream = Some(stream);
        self.life += 1;
        self.blocked = false;
        self.due = now + HELLO_TIMEOUT;
        Ok(())
    }

    /// The container answered the hello.
    pub(super) fn hello_answered(&mut self, incarnation: Incarnation) {
        self.answered = Some(incarnation);
        self.backoff = BACKOFF_MIN;
    }

    /// Forgets the stream; what was not taken is to be offered elsewhere.
    pub(super) fn disconnect(
        &mut self,
        registry: &Registry,
        now: Instant,
    ) -> impl Iterator<Item = Untaken> + use<> {
        if let Some(mut stream) = self.stream.take()
            && let Err(error) = registry.deregister(&mut stream)
        {
            tracing::debug!(%error, "a link's socket was not registered any more");
        }
        self.answered = None;
        self.due = now + self.backoff;
        self.receiver = LinkReceiver::new(); // what it said last does not count any more
        self.sender.drain_untaken()
    }

    /// Offers a message; an error means: somebody else.
    pub(super) fn offer(&mut self, flow: Flow, hops: u8, bytes: Bytes) -> Result<(), Refused> {
        if self.answered.is_none() {
            return Err(Refused::Full);
        }
        self.sender.try_send_incoming(flow, hops, bytes).map(drop)
    }

    /// Sends any other frame; at the bound it is lost and the container's own timers notice.
    pub(super) fn send(&mut self, frame: &LinkFrame) {
        if self.stream.is_some()
            && let Err(error) = self.sender.try_send(frame)
        {
            tracing::debug!(%error, container = %self.name, "link frame not sent");
        }
    }

    pub(super) fn taken(&mut self, up_to: u64) {
        self.sender.taken(up_to);
    }

    /// Reads a turn's share into the receiver.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> ReadOutcome {
        let Some(stream) = &mut self.stream else { return ReadOutcome::Drained };
        for _ in 0..READS_PER_TURN {
            match stream.read(scratch, |bytes| self.receiver.push(bytes)) {
                Ok(Received::Some) => {}
                Ok(Received::End) => return ReadOutcome::Ended,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return ReadOutcome::Drained,
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::InvalidData => return ReadOutcome::Untrusted(error),
                    _ => return ReadOutcome::Ended,
                },
            }
        }
        ReadOutcome::More
    }

    /// The next frame of what was read.
    ///
    /// # Errors
    /// The stream holds no frames: version skew or a bug; disconnect.
    pub(super) fn next_frame(&mut self) -> Result<Option<LinkFrame>, transport::link::LinkError> {
        self.receiver.next_frame()
    }

    /// The socket takes bytes again.
    ///
    /// # Errors
    /// The poll refuses the stream; disconnect.
    pub(super) fn writable(&mut self, registry: &Registry) -> io::Result<()> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.blocked) else { return Ok(()) };
        self.blocked = false;
        registry.reregister(stream, self.token, Interest::READABLE)
    }

    /// Whether [`flush`](Self::flush) has something to do.
    pub(super) fn has_unflushed(&self) -> bool {
        let stream = self.stream.as_ref().filter(|_| !self.blocked);
        stream.is_some_and(|stream| stream.has_to_write(&self.sender))
    }

    /// Writes what was collected in this turn, as far as the container's buffer has room.
    ///
    /// The poll is asked for room only while there is none: it would tell of every frame that the container reads, and
    /// wake the worker once more for each message.
    ///
    /// # Errors
    /// The stream broke; disconnect.
    pub(super) fn flush(&mut self, registry: &Registry) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.blocked && stream.has_to_write(&self.sender) {
            match stream.write(self.sender.unwritten()) {
                Ok(count) => self.sender.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    registry.reregister(stream, self.token, both)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read as _;
    use std::os::unix::net::{UnixListener, UnixStream as Peer};

    use mio::{Events, Poll};

    use super::super::reaching::LinkCredentials;
    use super::*;

    const TOKEN: Token = Token(7);
    const DEADLINE: Duration = Duration::from_secs(10);

    struct Scene {
        link: Link,
        poll: Poll,
        events: Events,
        container: Peer,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Scene {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("container.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let (poll, now) = (Poll::new().unwrap(), Instant::now());
            let place = Place::Here(path);
            let mut link = Link::new(ProcessName("container1".into()), place, TOKEN, now);
            let (peer_name, addresses) = ("edge1".into(), Vec::new());
            let hello = LinkFrame::Hello { peer_name, incarnation: 1, worker: 0, addresses };
            let caller = Caller::new(None, Duration::from_secs(1));
            link.connect(&hello, &caller, poll.registry(), now).unwrap();
            link.hello_answered(Incarnation(2));
            let (container, _) = listener.accept().unwrap();
            container.set_nonblocking(true).unwrap();
            let events = Events::with_capacity(8);
            Scene { link, poll, events, container, _directory: directory }
        }

        /// A message of this length, as far as it can be written.
        fn offer(&mut self, bytes: usize) {
            let address = "127.0.0.1:5060".parse().unwrap();
            let flow = Flow::new(transport::Transport::Udp, address, address);
            self.link.offer(flow, 0, vec![b'x'; bytes].into()).unwrap();
            self.link.flush(self.poll.registry()).unwrap();
        }

        /// All that the container finds in its socket.
        fn read(&mut self) {
            let mut scratch = [0; 65_536];
            while self.container.read(&mut scratch).is_ok() {}
        }

        fn is_told_to_write(&mut self, patience: Duration) -> bool {
            self.poll.poll(&mut self.events, Some(patience)).unwrap();
            self.events.iter().any(|event| event.token() == TOKEN && event.is_writable())
        }
    }

    #[test]
    fn who_is_waited_for_in_vain_is_given_up_when_he_is_named_again() {
        let (poll, now) = (Poll::new().unwrap(), Instant::now());
        // They accept and say nothing.
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [first, second] = listeners.each_ref().map(|listener| Place::There {
            address: listener.local_addr().unwrap(),
            node: "node2".to_owned(),
        });
        let roots = rustls::RootCertStore::empty();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let credentials = LinkCredentials(config.with_no_client_auth().into());
        let caller = Caller::new(Some(credentials), Duration::from_secs(1));
        let name = ProcessName::new("container1@node2");
        let mut link = Link::new(name, first.clone(), TOKEN, now);
        assert!(!link.named_again(first.clone(), now), "nobody is waited for yet");
        let probe = LinkFrame::Probe { id: 1 };
        link.connect(&probe, &caller, poll.registry(), now).unwrap();
        assert!(!link.named_again(first.clone(), now + ANSWER_USUAL), "he may answer yet");
        assert!(link.named_again(first, now + 2 * ANSWER_USUAL));
        assert!(link.named_again(second.clone(), now), "he is elsewhere");
        link.hello_answered(Incarnation(1));
        assert!(!link.named_again(second, now + 2 * ANSWER_USUAL), "the link stands");
    }

    #[test]
    fn a_link_with_room_is_not_told_of_what_the_container_reads() {
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.offer(500);
            scene.read();
            assert!(!scene.is_told_to_write(Duration::ZERO));
        }
    }

    #[test]
    fn a_full_link_goes_on_when_the_container_reads() {
        let mut scene = Scene::new();
        for _ in 0..3 {
            while !scene.link.blocked {
                scene.offer(8_000);
            }
            assert!(!scene.is_told_to_write(Duration::ZERO), "there is no room yet");
            while scene.link.blocked {
                scene.read();
                assert!(scene.is_told_to_write(DEADLINE), "nobody told of the room");
                scene.link.writable(scene.poll.registry()).unwrap();
                scene.link.flush(scene.poll.registry()).unwrap();
            }
            assert!(scene.link.sender.unwritten().is_empty());
            scene.read();
            assert!(!scene.is_told_to_write(Duration::ZERO));
        }
    }
}
