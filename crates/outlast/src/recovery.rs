//! After the loss of power: is the state sound, and if not, back to the last snapshot.
//!
//! The state is synced once a second, so a machine that goes down under it can leave pages of different ages.
//! The node's start notices (another boot id than the one noted) and has the store verified by a child process,
//! because damage can be bad enough to end the process that looks. Accounts are synced with each commit and need none
//! of this.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, bail};
use state::engine::embedded;
use tracing::{error, info, warn};

use crate::{output, stores};

/// SIGHUP, SIGINT, SIGKILL, SIGTERM: sent from outside.
const INTERRUPTIONS: [i32; 4] = [1, 2, 9, 15];

/// Before any process opens the state.
pub(crate) fn before_start(directory: &Path) -> anyhow::Result<()> {
    let state = stores::state(directory);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .with_context(|| state.display().to_string())?;
    if embedded::went_down_in_use(&state)? {
        warn!("the machine went down while this node ran: verifying its state");
        match verify_in_a_child(&state)? {
            Verdict::Sound => info!("the state is sound"),
            Verdict::Damaged => restore(directory, &state)?,
            Verdict::Interrupted => {
                bail!("the verification of the state was interrupted; start the node again")
            }
        }
    }
    embedded::mark_in_use(&state)?;
    Ok(())
}

/// After every process has closed the state.
pub(crate) fn after_stop(directory: &Path) -> anyhow::Result<()> {
    // A container that was killed at its deadline has not synced what it wrote last.
    stores::open_state(directory)?.sync()?;
    Ok(embedded::mark_stopped(&stores::state(directory))?)
}

/// What `outlast process verify` does.
pub(crate) fn verify(state: &Path) -> anyhow::Result<()> {
    let report = embedded::verify(state)?;
    if !report.is_sound() {
        bail!("{} damaged records, {} without their lifetime", report.damaged, report.unindexed);
    }
    output::line(&format!("{} records, all sound", report.records));
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
    /// Not known: whoever looked was stopped from outside.
    Interrupted,
}

fn verify_in_a_child(state: &Path) -> anyhow::Result<Verdict> {
    let executable = std::env::current_exe().context("the path of this program")?;
    let verified = Command::new(executable)
        .args(["process", "verify", "--store"])
        .arg(state)
        .output()
        .context("the verifying process")?;
    let verdict = judge(verified.status);
    if verdict == Verdict::Damaged {
        let said = String::from_utf8_lossy(&verified.stderr);
        error!(status = %verified.status, said = said.trim(), "the state is damaged");
    }
    Ok(verdict)
}

/// Somebody's Ctrl-C, or a kernel short of memory, says nothing about the state, which is not replaced for that.
/// Damage ends the process by an exit code, or by other signals (SIGSEGV, SIGBUS, SIGABRT).
fn judge(status: ExitStatus) -> Verdict {
    match status.signal() {
        Some(signal) if INTERRUPTIONS.contains(&signal) => Verdict::Interrupted,
        Some(_) => Verdict::Damaged,
        None if status.success() => Verdict::Sound,
        None => Verdict::Damaged,
    }
}

/// The newest snapshot that is sound itself.
fn restore(directory: &Path, state: &Path) -> anyhow::Result<()> {
    for snapshot in embedded::list_snapshots(&stores::snapshots(directory))?.iter().rev() {
        match embedded::restore(snapshot, state) {
            Ok(report) => {
                error!(
                    snapshot = %snapshot.display(),
                    records = report.records,
                    "went back to a snapshot: who registered after it is unknown until the next registration"
                );
                return Ok(());
            }
            Err(error) => warn!(snapshot = %snapshot.display(), %error, "not this one"),
        }
    }
    bail!(
        "the state was damaged by the loss of power, and there is no snapshot to go back to; start with an empty one: \
         mv {state} {state}.damaged (accounts are not affected)",
        state = state.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verification_that_ran_to_its_end_judges_the_state() {
        // As wait(2) gives them: the exit code in the second octet, the signal in the first.
        for (raw, verdict) in [
            (0, Verdict::Sound),
            (1 << 8, Verdict::Damaged),
            (7, Verdict::Damaged),  // SIGBUS
            (11, Verdict::Damaged), // SIGSEGV
            (2, Verdict::Interrupted),
            (9, Verdict::Interrupted),
            (15, Verdict::Interrupted),
        ] {
            assert_eq!(judge(ExitStatus::from_raw(raw)), verdict, "{raw}");
        }
    }
}
