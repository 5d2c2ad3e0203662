//! The manager's end of its Unix socket: children that are welcomed and pushed to, commands that ask.
//!
//! One task a connection. A child that does not read blocks its own task only; views that it missed are
//! replaced by the latest one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use topology::protocol::{
    Answer, Command, FromManager, Hello, Request, ToManager, Welcome, encode_line,
};
use topology::view::{Incarnation, ProcessName};
use tracing::{debug, warn};

use super::lines::{LineError, Lines, open_socket};
use super::{Input, UpError};
use crate::process_table::Event;

/// Connections at one time: children and a few commands. More wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Whoever connects says what for within this; else it would keep a connection from others for nothing.
const FIRST_LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Progress that waits to be read by whoever asked for it, and the outcome.
pub(super) const ANSWERS_MAX: usize = 8;

/// A child that may come in.
pub(crate) struct Admitted {
    pub(crate) incarnation: Incarnation,
    pub(crate) welcome: Welcome,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) views: watch::Receiver<Arc<Vec<u8>>>,
    /// The welcome holds the present ones.
    pub(crate) keys: watch::Receiver<Arc<Vec<u8>>>,
    /// The welcome holds the present ones.
    pub(crate) applications: watch::Receiver<Arc<Vec<u8>>>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("{0}")]
    Order(&'static str),
    #[error("the manager is ending")]
    ManagerGone,
}

/// Opens the socket and accepts from now on.
pub(crate) fn listen(path: &Path, inputs: mpsc::Sender<Input>) -> Result<(), UpError> {
    tokio::spawn(accept(open_socket(path)?, inputs));
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
    let mut lines = Lines::new(stream);
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
            | ToManager::ServesHttp { .. }
            | ToManager::ServesNodes { .. }
            | ToManager::Applications(_)
            | ToManager::ClockStepped(_)
            | ToManager::Stores(_),
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
                let is_last = !answer.is_progress();
                lines.write(&encode_line(&FromManager::Answer(answer))).await?;
                if is_last {
                    return Ok(());
                }
            }
            // Who asked has gone; what was asked for goes on.
            said = lines.next::<ToManager>() => match said? {
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
    let pid = lines.peer_pid()?;
    let name = hello.name.clone();
    let count = hello.life.as_ref().map_or(0, |life| life.sockets.len());
    let descriptors = tokio::time::timeout(FIRST_LINE_TIMEOUT, lines.take_descriptors(count));
    let descriptors = descriptors
        .await
        .map_err(|_| ConnectionError::Order("fewer descriptors came than were announced"))??;
    let (reply, admitted) = oneshot::channel();
    send(&inputs, Input::Hello { hello: Box::new(hello), pid, descriptors, reply }).await?;
    let mut admitted = match admitted.await.map_err(|_| ConnectionError::ManagerGone)? {
        Ok(admitted) => admitted,
        Err(reason) => {
            let refusal = FromManager::Answer(Answer::Refused { reason });
            return Ok(lines.write(&encode_line(&refusal)).await?);
        }
    };
    let welcome = FromManager::Welcome(Box::new(admitted.welcome));
    lines.write_with(encode_line(&welcome), &admitted.descriptors).await?;
    admitted.descriptors.clear();
    let told = Told {
        views: admitted.views,
        keys: admitted.keys,
        applications: admitted.applications,
        commands: admitted.commands,
    };
    push(lines, name, admitted.incarnation, told, inputs).await
}

/// What a child is told.
struct Told {
    views: watch::Receiver<Arc<Vec<u8>>>,
    keys: watch::Receiver<Arc<Vec<u8>>>,
    applications: watch::Receiver<Arc<Vec<u8>>>,
    commands: mpsc::Receiver<Command>,
}

/// Views, keys, applications and commands to the child, its reports from it, until either end is gone.
async fn push(
    mut lines: Lines,
    name: ProcessName,
    incarnation: Incarnation,
    told: Told,
    inputs: mpsc::Sender<Input>,
) -> Result<(), ConnectionError> {
    let Told { mut views, mut keys, mut applications, mut commands } = told;
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
            changed = applications.changed() => {
                changed.map_err(|_| ConnectionError::ManagerGone)?;
                let line = Arc::clone(&applications.borrow_and_update());
                lines.write(&line).await?;
            }
            command = commands.recv() => match command {
                Some(command) => lines.write(&encode_line(&FromManager::Command(command))).await?,
                None => return Ok(()), // this life is over
            },
            said = lines.next() => match said? {
                Some(said) => send(&inputs, meaning(said, &name, incarnation)?).await?,
                None => return Ok(()),
            },
        }
    }
}

/// What a welcomed child says, with who it is.
fn meaning(
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
        ToManager::ServesHttp { address } => {
            Event::ServesHttp { name: reporter, incarnation, address }
        }
        ToManager::ServesNodes { address } => {
            Event::ServesNodes { name: reporter, incarnation, address }
        }
        ToManager::Hello(_) | ToManager::Request(_) => {
            return Err(ConnectionError::Order("a child says hello once and requests nothing"));
        }
        ToManager::Applications(report) => return Ok(Input::Reported { name: reporter, report }),
        ToManager::Stores(report) => return Ok(Input::StoresReported { name: reporter, report }),
        ToManager::ClockStepped(clock) => return Ok(Input::ClockStepped(clock)),
    }))
}

async fn send(inputs: &mpsc::Sender<Input>, input: Input) -> Result<(), ConnectionError> {
    inputs.send(input).await.map_err(|_| ConnectionError::ManagerGone)
}
