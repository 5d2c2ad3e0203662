//! Child processes that end with their value, and what /proc says of a process.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long an orderly end may take before it is forced.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A server in the foreground; it is told to end when the value goes.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts it, with its output in a file of `directory`.
    pub(crate) fn start(
        mut command: Command,
        what: &str,
        directory: &Path,
    ) -> anyhow::Result<Process> {
        let log = File::create(directory.join(format!("{what}.log")))
            .with_context(|| format!("no log in {}", directory.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{what} cannot be started"))?;
        Ok(Process { child, what: what.to_owned() })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When it ends before that, or `limit` passes; the end of its output is told.
    pub(crate) fn await_ready(
        &mut self,
        directory: &Path,
        limit: Duration,
        mut ready: impl FnMut() -> io::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if ready()? {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(directory.join(format!("{}.log", self.what)));
                let log = log.unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(8).collect();
                let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
                bail!("{} does not serve ({ended:?} after {limit:?} at most):\n{end}", self.what);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Process {
    /// Tells it to end and waits for that; kills it and its descendants if it does not.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let family = family(self.pid());
        signal(self.pid(), Signal::TERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        for pid in family {
            signal(pid, Signal::KILL);
        }
        // Killed: it ends, and there is nobody to tell how.
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal; whoever is gone already needs none.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A process and all that descend from it.
pub(crate) fn family(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|ppid| (pid, ppid))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(parents.iter().filter(|(_, ppid)| *ppid == member).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// The fourth field of /proc/PID/stat; the second, in parentheses, may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Octets of memory that belong to these processes alone or in part (proportional set size).
pub(crate) fn memory_bytes(pids: &[i32]) -> u64 {
    let of = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    pids.iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (a) b) S 7 12 12"), Some(7));
        assert_eq!(parent("nonsense"), None);
    }

    #[test]
    fn family_has_children_and_a_process_ends_with_its_value() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let mut process =
            Process::start(command, "sh", directory.path()).expect("there is a shell");
        let root = process.pid();
        process
            .await_ready(directory.path(), Duration::from_secs(10), || Ok(family(root).len() == 2))
            .expect("the shell has a child");
        let sleeper = family(root)[1];
        drop(process);
        assert!(!Path::new(&format!("/proc/{root}")).exists());
        signal(sleeper, Signal::KILL);
    }

    #[test]
    fn a_process_that_ends_early_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no port left; exit 3"]);
        let mut process =
            Process::start(command, "sh", directory.path()).expect("there is a shell");
        let error = process
            .await_ready(directory.path(), Duration::from_secs(10), || Ok(false))
            .expect_err("it ended");
        assert!(error.to_string().contains("no port left"), "{error}");
    }
}
