//! One life of a child: spawned, watched, killed.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command as Program, Stdio};

use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use topology::view::{Incarnation, ProcessName};
use tracing::{info, warn};

use super::Input;

/// A living child. The task that watches it reports its end.
pub(crate) struct RunningChild {
    pid: u32,
    kill: Option<oneshot::Sender<()>>,
}

/// Starts the program with a process group of its own (the terminal's Ctrl-C is for the manager, which stops
/// its children in order) and its standard streams on its log file: a pipe would block it or kill it if
/// its reader died.
pub(crate) fn spawn(
    mut program: Program,
    log: &Path,
    name: ProcessName,
    incarnation: Incarnation,
    inputs: mpsc::Sender<Input>,
) -> io::Result<RunningChild> {
    use std::os::unix::process::CommandExt as _;

    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = Command::from(program).kill_on_drop(true).spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("the child ended before it was seen"))?;
    let (kill, killed) = oneshot::channel();
    tokio::spawn(watch(child, pid, killed, name, incarnation, inputs));
    Ok(RunningChild { pid, kill: Some(kill) })
}

async fn watch(
    mut child: Child,
    pid: u32,
    killed: oneshot::Receiver<()>,
    name: ProcessName,
    incarnation: Incarnation,
    inputs: mpsc::Sender<Input>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        // Through the value that will reap it, so that the id cannot be another process's by now.
        Ok(()) = killed => {
            if let Err(error) = child.start_kill() {
                warn!(%name, pid, %error, "cannot be killed");
            }
            child.wait().await
        }
        else => child.wait().await,
    };
    match status {
        Ok(status) if status.success() => info!(%name, pid, "ended"),
        Ok(status) => warn!(%name, pid, %status, "ended; its last words are in log/{name}.log"),
        Err(error) => warn!(%name, pid, %error, "cannot be waited for; taken for dead"),
    }
    // The loop is gone: then so is the node.
    let _ = inputs.send(Input::Exited { name, incarnation }).await;
}

impl RunningChild {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL, once.
    pub(crate) fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            // The watcher is gone when the child is.
            let _ = kill.send(());
        }
    }
}
