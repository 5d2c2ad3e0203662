//! One life of a child, spawned or adopted: watched, killed.
//!
//! A program that is not ours connects to nobody, so the next manager finds it by what this one wrote down, or not at all; and
//! one that nobody knows keeps its address from its next life for good. So it waits before it begins: until it is written
//! down, and if this manager ends before that, it never does ([`spawn_held`]).

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command as Program, Stdio};
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
    program.stdin(Stdio::null());
    spawn(program, log).map(|(process, _)| process)
}

fn spawn(mut program: Program, log: &Path) -> io::Result<(LivingProcess, Option<ChildStdin>)> {
    use std::os::unix::process::CommandExt as _;

    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    program.stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = program.spawn()?;
    let process = LivingProcess::child(child.id()).inspect_err(|_| {
        // A child that cannot be watched shall not run; one that has ended already is waited for.
        let _ = child.kill();
        let _ = child.wait();
    })?;
    Ok((process, child.stdin.take()))
}

/// What holds a program back: dropped, it never begins.
#[derive(Debug)]
pub(crate) struct Gate(ChildStdin);

impl Gate {
    /// Lets it begin.
    pub(crate) fn open(mut self) {
        // One that was killed meanwhile reads nothing.
        let _ = self.0.write_all(b"\n");
    }
}

/// Reads a line, then becomes the program. Without a line, since whoever holds the gate has ended, it ends.
const HELD: &str = r#"read -r _ && exec "$0" "$@" </dev/null"#;

/// As [`spawn_detached`], but the program begins when the gate is opened.
pub(crate) fn spawn_held(program: &Program, log: &Path) -> io::Result<(LivingProcess, Gate)> {
    let mut held = Program::new("/bin/sh");
    held.arg("-c").arg(HELD).arg(program.get_program()).args(program.get_args());
    if let Some(directory) = program.get_current_dir() {
        held.current_dir(directory);
    }
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => held.env(name, value),
            None => held.env_remove(name),
        };
    }
    held.stdin(Stdio::piped());
    let (process, stdin) = spawn(held, log)?;
    let stdin = stdin.ok_or_else(|| io::Error::other("a held program has no standard input"))?;
    Ok((process, Gate(stdin)))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Writes its arguments, its environment's word and what it reads into a file.
    fn program(directory: &Path) -> Program {
        let mut program = Program::new("/bin/sh");
        let script = r#"read -r line; echo "$1|$WORD|$line" > "$2""#;
        program.args(["-c", script, "sh", "an argument; with $signs"]).arg(directory.join("told"));
        program.env("WORD", "a word");
        program
    }

    #[tokio::test]
    async fn a_held_program_begins_as_it_is_when_it_is_let() {
        let directory = tempfile::tempdir().unwrap();
        let (process, gate) =
            spawn_held(&program(directory.path()), &directory.path().join("log")).unwrap();
        gate.open();
        process.ended().await.unwrap();
        assert_eq!(process.reap().unwrap().exit_status(), Some(0));
        let told = std::fs::read_to_string(directory.path().join("told")).unwrap();
        assert_eq!(told, "an argument; with $signs|a word|\n");
    }

    // As when the manager is killed before it has written down whom it started.
    #[tokio::test]
    async fn a_held_program_never_begins_when_whoever_holds_it_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (process, gate) =
            spawn_held(&program(directory.path()), &directory.path().join("log")).unwrap();
        assert!(process.identity().lives());
        drop(gate);
        process.ended().await.unwrap();
        assert_eq!(process.reap().unwrap().exit_status(), Some(1));
        assert!(!directory.path().join("told").exists());
    }
}
