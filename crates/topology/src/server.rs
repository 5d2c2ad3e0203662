//! The blocking client of the manager's socket, for children and for the commands.
//!
//! A child: [`Subscription::connect`] → serve → [`Subscription::ready`] → [`Subscription::spawn`],
//! whose thread hands over views and commands. When the manager goes, the last event is
//! [`Event::ManagerGone`]: a child then ends itself in an orderly way, so that no process outlives
//! its node. A command: [`admin_request`].

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};

use crate::keys::KeyRing;
use crate::protocol::{
    Answer, Command, DESCRIPTORS_PER_MESSAGE_MAX, FromManager, Hello, Request, SOCKETS_MAX,
    ToManager, Welcome, encode_line, next_line,
};
use crate::view::TopologyView;

mod pulse;

pub use pulse::{Pulse, beat};

/// How long a child waits for its welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Drain or stop.
    Command(Command),
    /// The manager's end of the socket is closed: end in an orderly way. The last event.
    ManagerGone,
}

/// A child's connection to its manager.
#[derive(Debug)]
pub struct Subscription {
    lines: Lines,
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
        let mut lines = Lines::connect(path)?;
        lines.stream.set_read_timeout(Some(WELCOME_TIMEOUT))?;
        lines.send(&ToManager::Hello(hello))?;
        let welcome = match lines.receive()? {
            Some(FromManager::Welcome(welcome)) => *welcome,
            Some(FromManager::Answer(Answer::Refused { reason })) => {
                return Err(ManagerError::Refused(reason));
            }
            Some(other) => return Err(ManagerError::Unexpected(format!("{other:?}"))),
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        let descriptors = lines.take_descriptors(welcome.sockets.len())?;
        lines.stream.set_read_timeout(None)?;
        Ok((welcome, descriptors, Subscription { lines }))
    }

    /// Tells the manager that this child serves.
    ///
    /// # Errors
    /// The socket's error, when the manager has gone.
    pub fn ready(&self) -> Result<(), ManagerError> {
        self.reporter()?.ready()
    }

    /// What says [`ready`](Reporter::ready) later, while the events are handed over already.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn reporter(&self) -> Result<Reporter, ManagerError> {
        Ok(Reporter { stream: self.lines.stream.try_clone()? })
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

    /// Waits for the next event. An unreadable line counts as the manager's end: going on without
    /// notifications would be worse than a restart.
    pub fn next_event(&mut self) -> Event {
        loop {
            match self.lines.receive() {
                Ok(Some(FromManager::View(view))) => return Event::View(view),
                Ok(Some(FromManager::Keys(keys))) => return Event::Keys(keys),
                Ok(Some(FromManager::Command(command))) => return Event::Command(command),
                Ok(Some(FromManager::Welcome(_) | FromManager::Answer(_))) => {
                    tracing::warn!("the manager repeated itself; ignored");
                }
                Ok(None) => return Event::ManagerGone,
                Err(error) => {
                    tracing::error!(%error, "lost the manager");
                    return Event::ManagerGone;
                }
            }
        }
    }
}

/// The talking half of a [`Subscription`]. Never blocks: what a manager that does not read has no room
/// for is not said.
#[derive(Debug)]
pub struct Reporter {
    stream: UnixStream,
}

impl Reporter {
    /// Tells the manager that this child serves.
    ///
    /// # Errors
    /// The socket's error, when the manager has gone.
    pub fn ready(&self) -> Result<(), ManagerError> {
        (&self.stream).write_all(&encode_line(&ToManager::Ready))?;
        Ok(())
    }

    /// Tells the manager something that is worth nothing later: who has no manager, or one that does not
    /// read, does not say it.
    pub fn report(&self, message: &ToManager) {
        // One octet less than whole would be a broken line; a Unix stream takes a short line whole or not at all.
        let line = encode_line(message);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if let Err(error) = rustix::net::send(&self.stream, &line, flags) {
            tracing::debug!(%error, "the manager was not told");
        }
    }
}

/// Sends one request and waits for its answer (without limit: a stop takes as long as its drain).
///
/// # Errors
/// [`ManagerError::NotUp`] when no manager listens at `path`.
pub fn admin_request(path: &Path, request: Request) -> Result<Answer, ManagerError> {
    admin_request_with_progress(path, request, |_, _| {})
}

/// Like [`admin_request`]; `on_progress` is told what is left and the milliseconds until the deadline.
///
/// # Errors
/// [`ManagerError::NotUp`] when no manager listens at `path`.
pub fn admin_request_with_progress(
    path: &Path,
    request: Request,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<Answer, ManagerError> {
    let mut lines = Lines::connect(path)?;
    lines.send(&ToManager::Request(request))?;
    loop {
        match lines.receive()? {
            Some(FromManager::Answer(Answer::Progress { left, deadline_in_ms })) => {
                on_progress(left, deadline_in_ms);
            }
            Some(FromManager::Answer(answer)) => return Ok(answer),
            Some(other) => return Err(ManagerError::Unexpected(format!("{other:?}"))),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the manager ended before it answered",
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
