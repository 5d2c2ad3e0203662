//! The manager's end of `DIR/run/guardian.sock`: says hello, beats, hands over the listening sockets and what
//! the operator shall read, and hears when the node shall stop. A guardian that dies is looked for again and
//! again; the next one is told everything.
//!
//! One task. What must not be lost (the sockets, readiness) is a value that is sent again after each hello; what
//! is worth nothing later (beats, lines) waits in a bounded queue and is dropped beyond it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use topology::protocol::encode_line;
use tracing::{debug, info, warn};

use super::Input;
use super::lines::{LineError, Lines};
use crate::guardian::protocol::{
    EdgeSockets, FromGuardian, GuardianWelcome, ManagerHello, Running, Serving, ToGuardian,
    descriptor_count,
};
use crate::restart::{Backoff, RestartPolicy};

/// Lines and beats that wait for a guardian that does not read.
const OUT_MAX: usize = 256;

/// Between two attempts to find the next guardian.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// A guardian that ends the conversation again and again, which none of this release does, is left in peace for longer
/// and longer.
const RETURN: RestartPolicy = RestartPolicy {
    delay_min: RECONNECT_AFTER,
    delay_max: Duration::from_secs(5),
    stable_after: Duration::from_secs(1),
};

/// A guardian that accepts a connection answers within this.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// The last words wait this long for a guardian that does not read.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the guardian could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// Nobody listens.
    #[error("no guardian answers at {path}: {source}; a manager is started by outlast up", path = path.display())]
    NotUp {
        /// The guardian's socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke, or what came over it is not understood.
    #[error("the guardian's socket failed: {0}")]
    Broken(String),
}

/// Listening sockets: what the guardian keeps for the next manager.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) edges: Vec<EdgeSockets>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A manager that a guardian has welcomed, and that does not run yet.
pub struct Guarded {
    pub(super) socket: PathBuf,
    pub(super) welcome: GuardianWelcome,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) lines: Lines,
}

impl Guarded {
    /// Says hello to the guardian that started this process.
    ///
    /// # Errors
    /// [`GuardianError`] when there is none: this process was started by somebody else, or too late.
    pub async fn connect(socket: &Path) -> Result<Guarded, GuardianError> {
        let failed = |source| GuardianError::NotUp { path: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).await.map_err(failed)?;
        let (welcome, descriptors, lines) = say_hello(stream, None, &[])
            .await
            .map_err(|error| GuardianError::Broken(error.to_string()))?;
        Ok(Guarded { socket: socket.to_owned(), welcome, descriptors, lines })
    }

    /// The node's directory.
    pub fn directory(&self) -> &Path {
        self.socket.parent().and_then(Path::parent).unwrap_or(Path::new("."))
    }

    /// The effective `config::NodeConfig` as the guardian has it.
    pub fn settings(&self) -> &serde_json::Value {
        &self.welcome.settings
    }
}

async fn say_hello(
    stream: UnixStream,
    running: Option<Running>,
    descriptors: &[OwnedFd],
) -> Result<(GuardianWelcome, Vec<OwnedFd>, Lines), LineError> {
    let mut lines = Lines::new(stream);
    let greet = async {
        let hello = encode_line(&ToGuardian::Hello(ManagerHello { running }));
        lines.write_with(hello, descriptors).await?;
        match lines.next().await? {
            Some(FromGuardian::Welcome(welcome)) => {
                let descriptors = lines.take_descriptors(descriptor_count(&welcome.edges)).await?;
                Ok((welcome, descriptors))
            }
            Some(FromGuardian::Stop | FromGuardian::StopNow) | None => {
                Err(LineError::from(io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
        }
    };
    let greeted = tokio::time::timeout(WELCOME_TIMEOUT, greet).await;
    let (welcome, descriptors) =
        greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok((welcome, descriptors, lines))
}

/// The main loop's handle.
pub(crate) struct GuardianLink {
    settings: serde_json::Value,
    kept: watch::Sender<Arc<Kept>>,
    serving: watch::Sender<Option<Serving>>,
    out: mpsc::Sender<Out>,
}

enum Out {
    Say(ToGuardian),
    /// Answered when it is written.
    Farewell(ToGuardian, oneshot::Sender<()>),
}

impl GuardianLink {
    /// Takes over the connection. `lines_shown` is what the operator shall read.
    pub(crate) fn start(
        socket: PathBuf,
        connection: Lines,
        settings: serde_json::Value,
        lines_shown: mpsc::Receiver<String>,
        inputs: mpsc::Sender<Input>,
    ) -> GuardianLink {
        let kept = watch::Sender::new(Arc::new(Kept::default()));
        let serving = watch::Sender::new(None);
        let (out, received) = mpsc::channel(OUT_MAX);
        let task = Task {
            socket,
            settings: settings.clone(),
            kept: kept.subscribe(),
            serving: serving.subscribe(),
            out: received,
            lines_shown,
            inputs,
        };
        tokio::spawn(task.run(connection));
        GuardianLink { settings, kept, serving, out }
    }

    /// The effective configuration that the node runs with.
    pub(crate) fn settings(&self) -> &serde_json::Value {
        &self.settings
    }

    /// The main loop went round.
    pub(crate) fn beat(&self) {
        // A guardian that does not read needs no more beats than there are.
        let _ = self.out.try_send(Out::Say(ToGuardian::Beat));
    }

    /// These are the listening sockets from now on.
    pub(crate) fn keep(&self, kept: Kept) {
        self.kept.send_replace(Arc::new(kept));
    }

    /// Every process is ready; or, with `None`, the node is to end: the next guardian is told of no readiness.
    pub(crate) fn serving(&self, serving: Option<Serving>) {
        self.serving.send_replace(serving);
    }

    /// Says something whose arrival is waited for, for a moment.
    pub(crate) async fn farewell(&self, message: ToGuardian) {
        let (written, done) = oneshot::channel();
        let said = async {
            if self.out.send(Out::Farewell(message, written)).await.is_ok() {
                let _ = done.await;
            }
        };
        if tokio::time::timeout(FAREWELL_TIMEOUT, said).await.is_err() {
            debug!("no guardian heard the last words");
        }
    }
}

struct Task {
    socket: PathBuf,
    settings: serde_json::Value,
    kept: watch::Receiver<Arc<Kept>>,
    serving: watch::Receiver<Option<Serving>>,
    out: mpsc::Receiver<Out>,
    lines_shown: mpsc::Receiver<String>,
    inputs: mpsc::Sender<Input>,
}

impl Task {
    async fn run(mut self, mut connection: Lines) {
        let mut patience = Backoff::new(RETURN);
        loop {
            patience.ready(Instant::now());
            match self.converse(&mut connection).await {
                Ok(End::ManagerEnds) => return,
                Ok(End::GuardianGone) => warn!("the guardian has gone: the node goes on without"),
                Err(error) => warn!(%error, "lost the guardian: the node goes on without"),
            }
            if self.inputs.send(Input::Guardian(None)).await.is_err() {
                return;
            }
            tokio::time::sleep(patience.died(Instant::now())).await;
            connection = self.find_next_guardian().await;
        }
    }

    async fn converse(&mut self, connection: &mut Lines) -> Result<End, LineError> {
        loop {
            tokio::select! {
                said = connection.next::<FromGuardian>() => {
                    let input = match said? {
                        Some(FromGuardian::Stop) => Input::Stop,
                        Some(FromGuardian::StopNow) => Input::StopNow,
                        Some(FromGuardian::Welcome(_)) => continue,
                        None => return Ok(End::GuardianGone),
                    };
                    if self.inputs.send(input).await.is_err() {
                        return Ok(End::ManagerEnds);
                    }
                }
                changed = self.kept.changed() => {
                    if changed.is_err() {
                        return Ok(End::ManagerEnds);
                    }
                    let kept = Arc::clone(&self.kept.borrow_and_update());
                    let line = encode_line(&ToGuardian::Keep { edges: kept.edges.clone() });
                    connection.write_with(line, &kept.descriptors).await?;
                }
                changed = self.serving.changed() => {
                    if changed.is_err() {
                        return Ok(End::ManagerEnds);
                    }
                    self.say_serving(connection).await?;
                }
                Some(line) = self.lines_shown.recv() => {
                    connection.write(&encode_line(&ToGuardian::Line(line))).await?;
                }
                out = self.out.recv() => match out {
                    Some(Out::Say(message)) => connection.write(&encode_line(&message)).await?,
                    Some(Out::Farewell(message, written)) => {
                        while let Ok(line) = self.lines_shown.try_recv() {
                            connection.write(&encode_line(&ToGuardian::Line(line))).await?;
                        }
                        connection.write(&encode_line(&message)).await?;
                        // Whoever waited may have given up.
                        let _ = written.send(());
                    }
                    None => return Ok(End::ManagerEnds),
                },
            }
        }
    }

    async fn say_serving(&mut self, connection: &mut Lines) -> Result<(), LineError> {
        let serving = self.serving.borrow_and_update().clone();
        match serving {
            Some(serving) => connection.write(&encode_line(&ToGuardian::Serving(serving))).await,
            None => Ok(()),
        }
    }

    async fn find_next_guardian(&mut self) -> Lines {
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket).await {
                match self.return_to_guardian(stream).await {
                    Ok(lines) => return lines,
                    Err(error) => debug!(%error, "not this guardian"),
                }
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn return_to_guardian(&mut self, stream: UnixStream) -> Result<Lines, LineError> {
        let kept = Arc::clone(&self.kept.borrow_and_update());
        let running = Running { settings: self.settings.clone(), edges: kept.edges.clone() };
        let (welcome, _, mut lines) = say_hello(stream, Some(running), &kept.descriptors).await?;
        info!(pid = welcome.guardian, "a guardian is there again");
        if welcome.settings != self.settings {
            warn!(
                "the configuration has changed; the node runs with the old one until it is stopped and started"
            );
        }
        // The loop of a manager that ends needs no news.
        let _ = self.inputs.send(Input::Guardian(Some(welcome.guardian))).await;
        if welcome.stopping {
            let _ = self.inputs.send(Input::Stop).await;
        }
        self.say_serving(&mut lines).await?;
        Ok(lines)
    }
}

/// Why a conversation ended.
enum End {
    GuardianGone,
    ManagerEnds,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_guardian_that_ends_every_conversation_is_asked_less_and_less() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("guardian.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let connection = Lines::new(UnixStream::connect(&socket).await.unwrap());
        drop(listener.accept().await.unwrap());
        let ((_, lines_shown), (inputs, mut received)) = (mpsc::channel(1), mpsc::channel(16));
        tokio::spawn(async move { while received.recv().await.is_some() {} });
        let _link =
            GuardianLink::start(socket, connection, serde_json::Value::Null, lines_shown, inputs);
        let welcome = || {
            FromGuardian::Welcome(GuardianWelcome {
                guardian: 1,
                settings: serde_json::Value::Null,
                stopping: false,
                edges: Vec::new(),
            })
        };
        let begun = Instant::now();
        for _ in 0..5 {
            let mut lines = Lines::new(listener.accept().await.unwrap().0);
            lines.next::<ToGuardian>().await.unwrap();
            lines.write(&encode_line(&welcome())).await.unwrap();
        }
        // After 50, 100, 200, 400 and 800 ms.
        assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
    }
}
