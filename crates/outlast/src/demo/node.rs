//! The node that the demo runs on: this same binary as `outlast up`, in a directory of its own.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use demo::story::DOMAIN;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use tokio::time::timeout;
use topology::protocol::{Answer, Request};

use crate::control::ask;
use crate::failure::Failure;
use crate::output;

/// How long a node may take to serve; a debug build on a busy machine needs a part of it.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long an orderly stop may take before everything is killed.
const STOP_LIMIT: Duration = Duration::from_secs(8);
const STOP_POLL: Duration = Duration::from_millis(10);
/// What the node writes to stderr.
const LOG: &str = "up.log";
/// Lines of it that are shown when the node does not start.
const LOG_LINES: usize = 5;

/// Where the node lives. A directory that nobody gave is removed with the value.
pub(super) struct Home {
    directory: PathBuf,
    /// Given by the operator, or needed to see what went wrong.
    is_kept: bool,
}

impl Home {
    /// The given directory, which must be new or empty, or a temporary one.
    pub(super) fn make(given: Option<PathBuf>) -> Result<Home, Failure> {
        let is_kept = given.is_some();
        let directory = given.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("outlast-demo-{}", std::process::id()))
        });
        let shown = directory.display().to_string();
        DirBuilder::new().recursive(is_kept).mode(0o700).create(&directory).with_context(|| {
            format!("{shown} cannot be created; choose another with --dir (or TMPDIR)")
        })?;
        let mut entries =
            fs::read_dir(&directory).with_context(|| format!("{shown} cannot be read"))?;
        if entries.next().is_some() {
            return Err(anyhow!("{shown} is not empty; name a new directory with --dir").into());
        }
        let home = Home { directory, is_kept };
        let file = home.directory.join(config::FILE_NAME);
        fs::write(&file, configuration())
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(home)
    }

    /// The files stay, and the operator hears where.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
        let directory = self.directory.display();
        output::remark(&format!("the node's files and logs are in {directory}"));
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            let directory = self.directory.display();
            output::remark(&format!("{directory} cannot be removed ({error}): remove it by hand"));
        }
    }
}

/// What differs from the defaults: free ports, nobody needs a password, and the back-to-back agent.
fn configuration() -> String {
    format!(
        "# Written by `outlast demo`.\n\
         [registrar]\ndomains = [\"{DOMAIN}\"]\nauthenticate = false\n\n\
         [container]\ncount = 2\ndrain_timeout = \"1s\"\n\
         applications = [\"registrar\", \"back-to-back\"]\n\n\
         [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n"
    )
}

/// A node that is coming up or running; it ends with the value.
pub(super) struct Node {
    directory: PathBuf,
    child: Child,
    /// Hears the first line of its stdout, or nothing when it ends without one.
    first_line: Mutex<Option<oneshot::Receiver<String>>>,
}

impl Node {
    /// Starts it.
    pub(super) fn start(home: &Home) -> Result<Node, Failure> {
        let directory = home.directory.clone();
        let executable = std::env::current_exe().context("the path of this program")?;
        let log = directory.join(LOG);
        let stderr =
            File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut child = Command::new(executable)
            .args(["up", "--while-stdin", "--dir"])
            .arg(&directory)
            // Held, and never written to, as long as the demo lives: the node ends with it, however it ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C is for the demo, which then stops the node.
            .process_group(0)
            .spawn()
            .context("the node cannot be started")?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, receiver) = oneshot::channel();
        thread::spawn(move || read(stdout, sender));
        Ok(Node { directory, child, first_line: Mutex::new(Some(receiver)) })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until it serves.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        let first_line = self.first_line.lock().expect("no panic under the lock").take();
        let first_line = first_line.expect("waited for once");
        match timeout(READY_LIMIT, first_line).await {
            Ok(Ok(line)) if line.starts_with("outlast ready ") => Ok(()),
            Ok(_) => Err(anyhow!("the node did not start:\n{}", self.last_words()).into()),
            Err(_) => {
                let words = self.last_words();
                Err(anyhow!("the node does not serve after {READY_LIMIT:?}:\n{words}").into())
            }
        }
    }

    /// The end of what it wrote to stderr.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Its processes' ids, as far as anybody knows them; the manager's first, so that it starts nobody when the
    /// others go.
    fn pids(&self) -> Vec<u32> {
        let Ok(Answer::Status(status)) = ask(&self.directory, Request::Status) else {
            return Vec::new();
        };
        let others = status.view.processes.iter().filter_map(|process| process.pid);
        status.manager.map(|manager| manager.pid).into_iter().chain(others).collect()
    }
}

/// Tells the first line; reads on, so that the node never waits for a reader.
fn read(stdout: ChildStdout, sender: oneshot::Sender<String>) {
    let mut lines = BufReader::new(stdout).lines();
    if let Some(Ok(line)) = lines.next() {
        // Nobody waits any more: the demo is ending.
        let _ = sender.send(line);
    }
    lines.for_each(drop);
}

impl Drop for Node {
    fn drop(&mut self) {
        let pids = self.pids();
        if let Some(pid) = pid_of(self.child.id()) {
            // Gone already: nothing to tell it.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(_)) => return,
                Ok(None) => thread::sleep(STOP_POLL),
                Err(_) => break,
            }
        }
        output::remark(&format!("the node did not stop within {STOP_LIMIT:?}; killing it"));
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in pids.into_iter().filter_map(pid_of) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn pid_of(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_configuration_of_the_demo_is_one() {
        let config = config::parse(&configuration()).unwrap();
        assert_eq!(config.registrar.domains, [DOMAIN]);
        assert!(!config.registrar.authenticate);
    }

    #[test]
    fn a_directory_that_somebody_uses_is_refused() {
        let used = tempfile::tempdir().unwrap();
        fs::write(used.path().join("outlast.toml"), "").unwrap();
        let refused = Home::make(Some(used.path().to_owned())).err().unwrap().to_string();
        assert!(refused.contains("is not empty; name a new directory with --dir"), "{refused}");
        assert_eq!(fs::read(used.path().join("outlast.toml")).unwrap(), b"", "left as it was");
    }

    #[test]
    fn a_given_directory_stays_and_a_temporary_one_goes() {
        let parent = tempfile::tempdir().unwrap();
        let given = parent.path().join("kept");
        drop(Home::make(Some(given.clone())).unwrap());
        assert!(given.join(config::FILE_NAME).exists());
        let home = Home::make(None).unwrap();
        let directory = home.directory.clone();
        assert!(directory.exists());
        drop(home);
        assert!(!directory.exists());
    }
}
