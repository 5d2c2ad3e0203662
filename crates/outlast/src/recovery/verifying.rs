//! The child process that looks at what may be damaged: its start, its end, and what its end means.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};
use tracing::warn;

use crate::failure::DAMAGED;

/// SIGHUP, SIGINT, SIGKILL, SIGTERM: sent from outside.
const INTERRUPTIONS: [i32; 4] = [1, 2, 9, 15];

/// A panic: of our code, at something that no sound store holds.
const PANICKED: i32 = 101;

/// How long a verification may take at least, and how much of a file it looks at in a second at least. A
/// hundredth of either is usual; past both, damage leads it in circles.
const TIME_MIN: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is known of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Sound {
        said: String,
    },
    Damaged {
        said: String,
    },
    /// Whoever looked was stopped from outside, or could not write.
    Unknown {
        said: String,
    },
}

/// Has a store's directory or a snapshot verified.
pub(super) fn verify_in_a_child(path: &Path) -> anyhow::Result<Verdict> {
    let executable = std::env::current_exe().context("the path of this program")?;
    let mut child = Command::new(executable)
        .args(["process", "verify", "--store"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the verifying process")?;
    let deadline = Instant::now() + time_max(path);
    let status = loop {
        if let Some(status) = child.try_wait().context("the verifying process")? {
            break status;
        }
        if Instant::now() >= deadline {
            warn!("the verification takes far too long: it is ended");
            child.kill().context("the verifying process")?;
            child.wait().context("the verifying process")?;
            return Ok(Verdict::Damaged { said: "looking at it did not end".to_owned() });
        }
        thread::sleep(LOOK_EVERY);
    };
    Ok(judge(status, said(&mut child)))
}

/// In the child: whoever started it and is gone will start another.
pub(super) fn end_with_the_parent() {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        warn!(%error, "a verification may outlive its node");
    }
}

/// A line or two: they fit into the pipes.
fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stdout) = &mut child.stdout {
        // What cannot be read is not said.
        let _ = stdout.read_to_string(&mut text);
    }
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut text);
    }
    text.trim().to_owned()
}

fn time_max(path: &Path) -> Duration {
    let file = if path.is_dir() { path.join("data.mdb") } else { path.to_owned() };
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    TIME_MIN + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// Somebody's Ctrl-C, a kernel short of memory or a full disk says nothing about the state, which is not replaced
/// for that. Damage is told by an exit code, or ends the process by a panic or another signal (SIGSEGV, SIGBUS,
/// SIGABRT).
fn judge(status: ExitStatus, said: String) -> Verdict {
    match (status.signal(), status.code()) {
        (Some(signal), _) if INTERRUPTIONS.contains(&signal) => {
            Verdict::Unknown { said: format!("signal {signal} ended whoever looked") }
        }
        (Some(signal), _) => {
            Verdict::Damaged { said: format!("looking at it ended with signal {signal}") }
        }
        (None, Some(0)) => Verdict::Sound { said },
        (None, Some(code)) if code == i32::from(DAMAGED) || code == PANICKED => {
            Verdict::Damaged { said }
        }
        (None, _) => Verdict::Unknown { said },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verification_that_ran_to_its_end_judges_the_state() {
        #[derive(Debug, PartialEq)]
        enum Kind {
            Sound,
            Damaged,
            Unknown,
        }
        // As wait(2) gives them: the exit code in the second octet, the signal in the first.
        for (raw, expected) in [
            (0, Kind::Sound),
            (i32::from(DAMAGED) << 8, Kind::Damaged),
            (101 << 8, Kind::Damaged),
            (1 << 8, Kind::Unknown),
            (7, Kind::Damaged),  // SIGBUS
            (11, Kind::Damaged), // SIGSEGV
            (2, Kind::Unknown),
            (9, Kind::Unknown),
            (15, Kind::Unknown),
        ] {
            let kind = match judge(ExitStatus::from_raw(raw), String::new()) {
                Verdict::Sound { .. } => Kind::Sound,
                Verdict::Damaged { .. } => Kind::Damaged,
                Verdict::Unknown { .. } => Kind::Unknown,
            };
            assert_eq!(kind, expected, "{raw}");
        }
    }
}
