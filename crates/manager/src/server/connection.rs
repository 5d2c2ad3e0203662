//! The manager's end of its Unix socket: children that are welcomed and pushed to, commands that ask.
//!
//! One task a connection. A child that does not read blocks its own task only; views that it missed are
//! replaced by the latest one.

use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use topology::protocol::{
    Answer, Command, DESCRIPTORS_PER_MESSAGE_MAX, FromManager, Hello, Request, ToManager, Welcome,
    encode_line, next_line,
};
use topology::view::{Incarnation, ProcessName};
use tracing::{debug, warn};

use super::{Input, UpError};
use crate::process_table::Event;

/// Connections at one time: children and a few commands. More wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Whoever connects says what for within this; else it would keep a connection from others for nothing.
const FIRST_LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Progress that waits to be read by whoever asked for it, and the outcome.
const ANSWERS_MAX: usize = 8;

/// A child that may come in.
pub(crate) struct Admitted {
    pub(crate) incarnation: Incarnation,
    pub(crate) welcome: Welcome,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) views: watch::Receiver<Arc<Vec<u8>>>,
    /// The welcome holds the present ones.
    pub(crate) keys: watch::Receiver<Arc<Vec<u8>>>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Line(#[from] topology::protocol::LineTooLong),
    #[error("not a message of this protocol: {0}")]
    Message(#[from] serde_json::Error),
    #[error("{0}")]
    Order(&'static str),
    #[error("the manager is ending")]
    ManagerGone,
}

/// Opens the socket (the lock is ours: what lies there is a dead node's) and accepts from now on.
pub(crate) fn listen(path: &Path, inputs: mpsc::Sender<Input>) -> Result<(), UpError> {
    let failed = |source| UpError::Directory { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    tokio::spawn(accept(listener, inputs));
    Ok(())
}

async fn accept(listener: UnixListener, inputs: mpsc::Sender<Input>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return; // never closed
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: going on at once would only spin.
                warn!(%error, "the manager's socket accepts nobody for a moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let inputs = inputs.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, inputs).await {
                debug!(%error, "a connection to the manager ended");
            }
            drop(permit);
        });
    }
}

async fn serve(stream: UnixStream, inputs: mpsc::Sender<Input>) -> Result<(), ConnectionError> {
    let mut lines = Lines { stream, buffer: Vec::new() };
    let first = tokio::time::timeout(FIRST_LINE_TIMEOUT, lines.next());
    match first.await.map_err(|_| ConnectionError::Order("nothing was said"))?? {
        Some(ToManager::Hello(hello)) => serve_child(lines, hello, inputs).await,
        Some(ToManager::Request(request)) => serve_request(lines, request, inputs).await,
        Some(
            ToManager::Ready
            | ToManager::Alive { .. }
            | ToManager::LockHeld { .. }
            | ToManager::Unresponsive { .. }
            | ToManager::Responsive { .. }
            | ToManager::ClockStepped(_),
        ) => Err(ConnectionError::Order("a report before hello")),
        None => Ok(()),
    }
}

async fn serve_request(
    mut lines: Lines,
    request: Request,
    inputs: mpsc::Sender<Input>,
) -> Result<(), ConnectionError> {
    let (reply, mut answers) = mpsc::channel(ANSWERS_MAX);
    send(&inputs, Input::Request { request, reply }).await?;
    loop {
        tokio::select! {
            answer = answers.recv() => {
                let answer = answer.ok_or(ConnectionError::ManagerGone)?;
                let is_last = !matches!(answer, Answer::Progress { .. });
                lines.write(&encode_line(&FromManager::Answer(answer))).await?;
                if is_last {
                    return Ok(());
                }
            }
            // Who asked has gone; what was asked for goes on.
            said = lines.next() => match said? {
                Some(_) => return Err(ConnectionError::Order("a command asks once")),
                None => return Ok(()),
            },
        }
    }
}

async fn serve_child(
    mut lines: Lines,
    hello: Hello,
    inputs: mpsc::Sender<Input>,
) -> Result<(), ConnectionError> {
    // What the kernel says of the other end, not what the other end says of itself.
    let pid = lines.stream.peer_cred()?.pid();
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let name = hello.name;
    let (reply, admitted) = oneshot::channel();
    let input = Input::Hello { name: name.clone(), pid, reply };
    send(&inputs, input).await?;
    let mut admitted = match admitted.await.map_err(|_| ConnectionError::ManagerGone)? {
        Ok(admitted) => admitted,
        Err(reason) => {
            let refusal = FromManager::Answer(Answer::Refused { reason });
            return lines.write(&encode_line(&refusal)).await;
        }
    };
    lines.welcome(&admitted.welcome, &admitted.descriptors).await?;
    admitted.descriptors.clear();
    let Admitted { incarnation, views, keys, commands, .. } = admitted;
    push(lines, name, incarnation, views, keys, commands, inputs).await
}

/// Views, keys and commands to the child, its reports from it, until either end is gone.
async fn push(
    mut lines: Lines,
    name: ProcessName,
    incarnation: Incarnation,
    mut views: watch::Receiver<Arc<Vec<u8>>>,
    mut keys: watch::Receiver<Arc<Vec<u8>>>,
    mut commands: mpsc::Receiver<Command>,
    inputs: mpsc::Sender<Input>,
) -> Result<(), ConnectionError> {
    loop {
        tokio::select! {
            // The view that led to a command goes before it.
            biased;
            changed = views.changed() => {
                changed.map_err(|_| ConnectionError::ManagerGone)?;
                let line = Arc::clone(&views.borrow_and_update());
                lines.write(&line).await?;
            }
            changed = keys.changed() => {
                changed.map_err(|_| ConnectionError::ManagerGone)?;
                let line = Arc::clone(&keys.borrow_and_update());
                lines.write(&line).await?;
            }
            command = commands.recv() => match command {
                Some(command) => lines.write(&encode_line(&FromManager::Command(command))).await?,
                None => return Ok(()), // this life is over
            },
            said = lines.next() => match said? {
                Some(said) => send(&inputs, told(said, &name, incarnation)?).await?,
                None => return Ok(()),
            },
        }
    }
}

/// What a welcomed child says, with who it is.
fn told(
    said: ToManager,
    name: &ProcessName,
    incarnation: Incarnation,
) -> Result<Input, ConnectionError> {
    let reporter = name.clone();
    Ok(Input::Told(match said {
        ToManager::Ready => Event::Ready { name: reporter, incarnation },
        ToManager::Alive { left } => Event::Alive { name: reporter, incarnation, left },
        ToManager::LockHeld { holder, waited_ms } => {
            Event::LockHeld { reporter, holder, waited: Duration::from_millis(waited_ms) }
        }
        ToManager::Unresponsive { name, incarnation } => {
            Event::Unresponsive { reporter, name, incarnation }
        }
        ToManager::Responsive { name, incarnation } => {
            Event::Responsive { reporter, name, incarnation }
        }
        ToManager::Hello(_) | ToManager::Request(_) => {
            return Err(ConnectionError::Order("a child says hello once and requests nothing"));
        }
        ToManager::ClockStepped(clock) => return Ok(Input::ClockStepped(clock)),
    }))
}

async fn send(inputs: &mpsc::Sender<Input>, input: Input) -> Result<(), ConnectionError> {
    inputs.send(input).await.map_err(|_| ConnectionError::ManagerGone)
}

struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next message; `None` at the end. May be dropped while it waits: what was read stays in the buffer.
    async fn next(&mut self) -> Result<Option<ToManager>, ConnectionError> {
        loop {
            if let Some(line) = next_line(&mut self.buffer)? {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The welcome line with the first descriptors, then an empty line for each further handful.
    async fn welcome(
        &mut self,
        welcome: &Welcome,
        descriptors: &[OwnedFd],
    ) -> Result<(), ConnectionError> {
        let mut line = encode_line(&FromManager::Welcome(Box::new(welcome.clone())));
        for handful in descriptors.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
            let handful: Vec<BorrowedFd<'_>> =
                handful.iter().map(|socket| socket.as_fd()).collect();
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send_with(&self.stream, &line, &handful))
                .await?;
            self.write(&line[sent..]).await?;
            line = b"\n".to_vec();
        }
        if descriptors.is_empty() {
            self.write(&line).await?;
        }
        Ok(())
    }
}

/// The descriptors go with the first octets, however many of those the kernel takes.
fn send_with(
    stream: &UnixStream,
    line: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than the buffer was made for"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[IoSlice::new(line)], &mut control, flags)?)
}
