//! One link to one container: connecting, reading, writing, and what is kept untaken.
//!
//! The bytes are [`transport::link`]'s business; here is the socket under them and the patience
//! between two connects.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use topology::{Incarnation, ProcessName};
use transport::Flow;
use transport::link::{LinkFrame, LinkReceiver, LinkSender, Refused, Untaken};

/// First wait after a failed connect; a container that is restarted is back within some of these.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait: a container that is away for long is named anew by the manager, which ends the
/// waiting.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A container that accepts and does not answer the hello is hung: connect again, a new life may
/// listen by then.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads of one turn; the rest of a busy link waits for the other sockets' turn.
const READS_PER_TURN: usize = 8;

/// A link and its state.
#[derive(Debug)]
pub(super) struct Link {
    /// The container.
    pub(super) name: ProcessName,
    path: PathBuf,
    /// Counts connects, so that what belonged to a former stream is recognised.
    pub(super) life: u64,
    /// The container's life, once it answered the hello.
    pub(super) answered: Option<Incarnation>,
    stream: Option<UnixStream>,
    sender: LinkSender,
    receiver: LinkReceiver,
    backoff: Duration,
    /// Next connect while there is no stream, else the end of patience for the hello's answer.
    due: Instant,
    /// The last write left bytes behind.
    blocked: bool,
}

/// How reading went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Nothing more now.
    Drained,
    /// A turn's share was read, there may be more.
    More,
    /// The stream has ended or broke.
    Ended,
}

impl Link {
    pub(super) fn new(name: ProcessName, path: PathBuf, now: Instant) -> Link {
        Link {
            name,
            path,
            life: 0,
            answered: None,
            stream: None,
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

    /// The manager named the container (anew): no more waiting.
    pub(super) fn named_again(&mut self, path: PathBuf, now: Instant) {
        self.path = path;
        self.backoff = BACKOFF_MIN;
        if self.stream.is_none() {
            self.due = now;
        }
    }

    /// When [`is_due`](Self::is_due) changes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.stream.is_none() || self.answered.is_none()).then_some(self.due)
    }

    /// Without a stream: connect now. With one: its hello has been unanswered for too long.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|due| due <= now)
    }

    /// Connects and says hello. A Unix connect is through or refused at once, so this never waits.
    pub(super) fn connect(
        &mut self,
        hello: &LinkFrame,
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> io::Result<()> {
        self.due = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        let mut stream = UnixStream::connect(&self.path)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
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
            match stream.read(scratch) {
                Ok(0) => return ReadOutcome::Ended,
                Ok(count) => self.receiver.push(&scratch[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return ReadOutcome::Drained;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ReadOutcome::Ended,
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
    pub(super) fn writable(&mut self) {
        self.blocked = false;
    }

    /// Whether [`flush`](Self::flush) has something to do.
    pub(super) fn has_unflushed(&self) -> bool {
        self.stream.is_some() && !self.blocked && !self.sender.unwritten().is_empty()
    }

    /// Writes what was collected in this turn, as far as the container's buffer has room.
    ///
    /// # Errors
    /// The stream broke; disconnect.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.blocked && !self.sender.unwritten().is_empty() {
            match stream.write(self.sender.unwritten()) {
                Ok(count) => self.sender.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
