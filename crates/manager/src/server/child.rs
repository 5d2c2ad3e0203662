//! One life of a child, spawned or adopted: watched, killed.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::mpsc;
use topology::view::{Incarnation, ProcessName};
use tracing::{info, warn};

use super::Input;
use super::identity::{Identity, LivingProcess, describe};

/// A living child. The task that watches it reports its end.
#[derive(Clone)]
pub(crate) struct RunningChild {
    process: Arc<LivingProcess>,
}

/// Starts the program with a process group of its own (the terminal's Ctrl-C is for the guardian, which has
/// the node stopped in order) and its standard streams on its log file: a pipe would block it or kill it if
/// its reader died.
pub(crate) fn spawn_detached(mut program: Program, log: &Path) -> io::Result<LivingProcess> {
    use std::os::unix::process::CommandExt as _;

    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = program.spawn()?;
    LivingProcess::child(child.id()).inspect_err(|_| {
        // A child that cannot be watched shall not run; one that has ended already is waited for.
        let _ = child.kill();
        let _ = child.wait();
    })
}

impl RunningChild {
    /// Watches a process from now on.
    pub(crate) fn watch(
        process: LivingProcess,
        name: ProcessName,
        incarnation: Incarnation,
        inputs: mpsc::Sender<Input>,
    ) -> RunningChild {
        let process = Arc::new(process);
        tokio::spawn(report_end(Arc::clone(&process), name, incarnation, inputs));
        RunningChild { process }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.process.identity()
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.process.kill()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        self.process.signal(Signal::TERM)
    }
}

async fn report_end(
    process: Arc<LivingProcess>,
    name: ProcessName,
    incarnation: Incarnation,
    inputs: mpsc::Sender<Input>,
) {
    let pid = process.identity().pid;
    if let Err(error) = process.ended().await {
        warn!(%name, pid, %error, "cannot be waited for; taken for dead");
    }
    match process.reap() {
        Some(status) if status.exit_status() == Some(0) => info!(%name, pid, "ended"),
        Some(status) => {
            let how = describe(&status);
            warn!(%name, pid, how, "ended; its last words are in log/{name}.log");
        }
        // Another manager's child: its exit status is not ours to know.
        None => info!(%name, pid, "ended; its last words are in log/{name}.log"),
    }
    // The loop is gone: then so is the node.
    let _ = inputs.send(Input::Exited { name, incarnation }).await;
}
