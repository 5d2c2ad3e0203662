//! The blocking client of the manager's socket, for children and for the commands.
//!
//! A child: [`Subscription::connect`] → serve → [`Subscription::ready`] → [`Subscription::spawn`],
//! whose thread hands over views, keys and commands. A child that was welcomed outlives its manager: it
//! serves on, connects to the next one as soon as that listens, and tells it who it is and what sockets it
//! has. Only when that one refuses it, or none comes within [`ORPHAN_LIMIT`], the last event is
//! [`Event::ManagerGone`]: a child then ends itself in an orderly way. A command: [`admin_request`].

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::keys::KeyRing;
use crate::protocol::{
    Answer, ApplicationTable, Command, DESCRIPTORS_PER_MESSAGE_MAX, FromManager, Hello, Life,
    PassedSocket, Request, SOCKETS_MAX, ToManager, Welcome, encode_line, next_line,
};
use crate::view::{Incarnation, ProcessType, TopologyView};

mod pulse;
mod reporter;

pub use pulse::{Pulse, beat};
pub use reporter::Reporter;

/// A process that finds no manager for this long ends: nobody would notice if it hung, and nobody may know
/// of it any more.
pub const ORPHAN_LIMIT: Duration = Duration::from_secs(3600);

/// How long a child waits for its welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A manager says at once what it knows. One that hangs is killed by its guardian long before this, if it has one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to find the next manager.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// Why the manager could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Nobody listens, or the socket is another user's.
    #[error("no manager answers at {path}: {source}", path = path.display())]
    NotUp {
        /// The manager's socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke in the middle.
    #[error("the manager's socket failed: {0}")]
    Broken(#[from] io::Error),
    /// The manager said something that this release does not understand.
    #[error("the manager said something unexpected: {0}; do both run the same release?")]
    Unexpected(String),
    /// The manager does not know this child.
    #[error("the manager refused: {0}")]
    Refused(String),
}

/// What the manager tells a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The topology changed.
    View(TopologyView),
    /// The node's secrets changed.
    Keys(KeyRing),
    /// Containers: the deployed applications changed, or another manager wants to know what became of them.
    Applications(ApplicationTable),
    /// Drain or stop.
    Command(Command),
    /// No manager wants this process any more: end in an orderly way. The last event.
    ManagerGone,
}

/// A child's connection to its manager, and to the managers after it.
#[derive(Debug)]
pub struct Subscription {
    path: PathBuf,
    /// As said first: without a life.
    hello: Hello,
    incarnation: Incarnation,
    sockets: Vec<PassedSocket>,
    /// Duplicates, for the next manager.
    descriptors: Vec<OwnedFd>,
    keys: KeyRing,
    lines: Lines,
    reporter: Reporter,
    /// Events that a new welcome brought.
    pending: VecDeque<Event>,
    orphan_limit: Duration,
}

impl Subscription {
    /// Says hello and waits for the welcome. The descriptors are in the order of
    /// [`Welcome::sockets`].
    ///
    /// # Errors
    /// [`ManagerError`] when nobody listens at `path`, or the manager refuses the child.
    pub fn connect(
        path: &Path,
        hello: Hello,
    ) -> Result<(Welcome, Vec<OwnedFd>, Subscription), ManagerError> {
        let (welcome, passed, lines) = say_hello(path, hello.clone(), &[])?;
        let descriptors = passed.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        let reporter = Reporter::new(lines.stream.try_clone()?);
        let subscription = Subscription {
            path: path.to_owned(),
            hello,
            incarnation: welcome.incarnation,
            sockets: welcome.sockets.clone(),
            descriptors,
            keys: welcome.keys.clone(),
            lines,
            reporter,
            pending: VecDeque::new(),
            orphan_limit: ORPHAN_LIMIT,
        };
        Ok((welcome, passed, subscription))
    }

    /// Tells the manager, or the next one, that this child serves.
    pub fn ready(&self) {
        self.reporter.ready();
    }

    /// What reports, and says [`ready`](Reporter::ready) later, while the events are handed over already.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Hands each event to `on_event`, on a thread of its own, until [`Event::ManagerGone`].
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn spawn(mut self, mut on_event: impl FnMut(Event) + Send + 'static) -> JoinHandle<()> {
        thread::Builder::new()
            .name("manager-events".to_owned())
            .spawn(move || {
                loop {
                    let event = self.next_event();
                    let last = event == Event::ManagerGone;
                    on_event(event);
                    if last {
                        return;
                    }
                }
            })
            .expect("a thread at the start of a process")
    }

    /// Waits for the next event. An unreadable line counts as the manager's end.
    pub fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            match self.lines.receive() {
                Ok(Some(FromManager::View(view))) => return Event::View(view),
                Ok(Some(FromManager::Keys(keys))) => {
                    self.keys = keys.clone();
                    return Event::Keys(keys);
                }
                Ok(Some(FromManager::Applications(table))) => return Event::Applications(table),
                Ok(Some(FromManager::Command(command))) => {
                    self.reporter.told(command);
                    return Event::Command(command);
                }
                Ok(Some(FromManager::Welcome(_) | FromManager::Answer(_))) => {
                    tracing::warn!("the manager repeated itself; ignored");
                }
                Ok(None) => {
                    tracing::warn!("lost the manager: serving on until there is another");
                    if !self.find_next_manager() {
                        return Event::ManagerGone;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "lost the manager: serving on until there is another");
                    if !self.find_next_manager() {
                        return Event::ManagerGone;
                    }
                }
            }
        }
    }

    /// Whether one was found that wants this child; its news are pending then.
    fn find_next_manager(&mut self) -> bool {
        self.reporter.disconnect();
        let lost = Instant::now();
        while lost.elapsed() < self.orphan_limit {
            match self.return_to_manager() {
                Ok(()) => {
                    tracing::info!(after = ?lost.elapsed(), "a manager is there again");
                    return true;
                }
                Err(ManagerError::Refused(reason)) => {
                    tracing::error!(reason, "the next manager does not want this process: ending");
                    return false;
                }
                Err(error) => tracing::trace!(%error, "no manager yet"),
            }
            thread::sleep(RECONNECT_AFTER);
        }
        tracing::error!(after = ?self.orphan_limit, "no manager came: ending");
        false
    }

    fn return_to_manager(&mut self) -> Result<(), ManagerError> {
        let state = self.reporter.state();
        let life = Life { incarnation: self.incarnation, state, sockets: self.sockets.clone() };
        let hello = Hello { life: Some(life), ..self.hello.clone() };
        let (welcome, _, lines) = say_hello(&self.path, hello, &self.descriptors)?;
        self.reporter.reconnect(lines.stream.try_clone()?, state);
        self.lines = lines;
        if welcome.keys != self.keys {
            self.keys = welcome.keys.clone();
            self.pending.push_back(Event::Keys(welcome.keys));
        }
        self.pending.push_back(Event::View(welcome.view));
        if self.hello.process_type == ProcessType::Container {
            self.pending.push_back(Event::Applications(welcome.applications));
        }
        Ok(())
    }
}

/// Connects, says hello and waits for the welcome and its sockets.
fn say_hello(
    path: &Path,
    hello: Hello,
    descriptors: &[OwnedFd],
) -> Result<(Welcome, Vec<OwnedFd>, Lines), ManagerError> {
    let mut lines = Lines::connect(path)?;
    lines.stream.set_read_timeout(Some(WELCOME_TIMEOUT))?;
    lines.stream.set_write_timeout(Some(WELCOME_TIMEOUT))?;
    lines.send_with(&ToManager::Hello(hello), descriptors)?;
    let welcome = match lines.receive()? {
        Some(FromManager::Welcome(welcome)) => *welcome,
        Some(FromManager::Answer(Answer::Refused { reason })) => {
            return Err(ManagerError::Refused(reason));
        }
        Some(other) => return Err(ManagerError::Unexpected(format!("{other:?}"))),
        None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    };
    let passed = lines.take_descriptors(welcome.sockets.len())?;
    lines.stream.set_read_timeout(None)?;
    Ok((welcome, passed, lines))
}

/// Sends one request and waits for its answer (without limit: a stop takes as long as its drain).
///
/// # Errors
/// [`ManagerError::NotUp`] when no manager listens at `path`.
pub fn admin_request(path: &Path, request: Request) -> Result<Answer, ManagerError> {
    admin_request_with_progress(path, request, |_| {})
}

/// Like [`admin_request`]; `on_progress` is given every answer that another one follows.
///
/// # Errors
/// [`ManagerError::NotUp`] when no manager listens at `path`.
pub fn admin_request_with_progress(
    path: &Path,
    request: Request,
    mut on_progress: impl FnMut(Answer),
) -> Result<Answer, ManagerError> {
    let mut lines = Lines::connect(path)?;
    if matches!(request, Request::Status | Request::Keys | Request::Applications) {
        lines.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    }
    lines.send(&ToManager::Request(request))?;
    loop {
        match lines.receive()? {
            Some(FromManager::Answer(answer)) if answer.is_progress() => on_progress(answer),
            Some(FromManager::Answer(answer)) => return Ok(answer),
            Some(other) => return Err(ManagerError::Unexpected(format!("{other:?}"))),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the manager ended before it answered; what became of it tells: outlast status",
                )
                .into());
            }
        }
    }
}

/// Lines and descriptors from a stream.
#[derive(Debug)]
struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bounded by [`SOCKETS_MAX`]: more descriptors than that are closed at once.
    descriptors: VecDeque<OwnedFd>,
}

impl Lines {
    fn connect(path: &Path) -> Result<Lines, ManagerError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ManagerError::NotUp { path: path.to_owned(), source })?;
        Ok(Lines { stream, buffer: Vec::new(), descriptors: VecDeque::new() })
    }

    fn send(&self, message: &ToManager) -> Result<(), ManagerError> {
        (&self.stream).write_all(&encode_line(message))?;
        Ok(())
    }

    /// The line with the first descriptors, then an empty line for each further handful.
    fn send_with(&self, message: &ToManager, descriptors: &[OwnedFd]) -> Result<(), ManagerError> {
        let mut line = encode_line(message);
        for handful in descriptors.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
            let handful: Vec<BorrowedFd<'_>> =
                handful.iter().map(|socket| socket.as_fd()).collect();
            let mut space = [MaybeUninit::uninit();
                rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fits = control.push(SendAncillaryMessage::ScmRights(&handful));
            debug_assert!(fits, "the buffer is made for a handful");
            let sent =
                sendmsg(&self.stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)
                    .map_err(io::Error::from)?;
            (&self.stream).write_all(&line[sent..])?;
            line = b"\n".to_vec();
        }
        if descriptors.is_empty() {
            (&self.stream).write_all(&line)?;
        }
        Ok(())
    }

    /// `None` at the end of the stream.
    fn receive(&mut self) -> Result<Option<FromManager>, ManagerError> {
        loop {
            let line = next_line(&mut self.buffer)
                .map_err(|error| ManagerError::Unexpected(error.to_string()))?;
            match line {
                Some(line) if line.is_empty() => {}
                Some(line) => {
                    return serde_json::from_slice(&line)
                        .map(Some)
                        .map_err(|error| ManagerError::Unexpected(error.to_string()));
                }
                None if self.fill()? == 0 => return Ok(None),
                None => {}
            }
        }
    }

    fn take_descriptors(&mut self, count: usize) -> Result<Vec<OwnedFd>, ManagerError> {
        if count > SOCKETS_MAX {
            return Err(ManagerError::Unexpected(format!(
                "{count} sockets; at most {SOCKETS_MAX} are passed"
            )));
        }
        while self.descriptors.len() < count {
            if self.fill()? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(self.descriptors.drain(..count).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 << 10];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(&mut chunk)],
                &mut control,
                // A descriptor that an exec inherits would keep a port taken.
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                let room = SOCKETS_MAX - self.descriptors.len();
                self.descriptors.extend(descriptors.take(room));
            }
        }
        self.buffer.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes)
    }
}

#[cfg(test)]
mod tests;
