//! After the loss of power: is the state sound, and if not, back to the last snapshot.
//!
//! The state is synced once a second, so a machine that goes down under it can leave pages of different ages.
//! The node's start notices (another boot id than the one noted) and has the store verified, and written anew if it is
//! sound, by a child process, because damage can be bad enough to end the process that looks, or to keep it for ever.
//! Accounts are synced with each commit and need none of this. What was found is logged, and kept in a file
//! beside the store for `outlast status` ([`report`]). A member whose state lies in its cluster's stores has none of this.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use state::StoreError;
use state::engine::embedded::{self, RewriteError, VerifyReport};
use tracing::{error, info, warn};

use crate::failure::Failure;
use crate::{output, stores};

pub(crate) mod report;
mod verifying;

use report::{Outcome, Report};
use verifying::Verdict;

/// Before any process opens the state.
pub(crate) fn before_start(directory: &Path) -> anyhow::Result<()> {
    if stores::cluster::list(directory)?.is_some() {
        return Ok(());
    }
    let state = stores::state(directory);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .with_context(|| state.display().to_string())?;
    if embedded::went_down_in_use(&state)? {
        warn!("the machine went down while this node ran: verifying its state");
        let written_last = embedded::written_last(&state);
        let outcome = match verifying::verify_in_a_child(&state)? {
            Verdict::Sound { said } => {
                info!(said, "the state is sound: at most its last second is lost");
                Outcome::Sound
            }
            Verdict::Damaged { said } => {
                error!(said, "the state is damaged");
                restore(directory, &state)?
            }
            Verdict::Unknown { said } => {
                bail!("the state could not be verified, start the node again: {said}")
            }
        };
        Report::new(outcome, written_last, SystemTime::now().into()).write(directory)?;
    }
    embedded::mark_in_use(&state)?;
    Ok(())
}

/// After every process has closed the state.
pub(crate) fn after_stop(directory: &Path) -> anyhow::Result<()> {
    if stores::cluster::list(directory)?.is_some() {
        return Ok(());
    }
    // A container that was killed at its deadline has not synced what it wrote last.
    stores::open_own_state(directory)?.sync()?;
    Ok(embedded::mark_stopped(&stores::state(directory))?)
}

/// What `outlast process verify` does: a snapshot is looked at, a store written anew as well.
pub(crate) fn verify(path: &Path) -> Result<(), Failure> {
    verifying::end_with_the_parent();
    let report = if path.is_file() {
        embedded::verify(path).map_err(|error| Failure::Damaged(error.to_string()))?
    } else {
        embedded::verify_and_rewrite(path).map_err(|error| match error {
            RewriteError::Damaged(error) => Failure::Damaged(error.to_string()),
            RewriteError::NotWritten(_) => Failure::Other(error.into()),
        })?
    };
    if !report.is_sound() {
        return Err(Failure::Damaged(findings(&report)));
    }
    output::line(&format!("{} records, all sound", report.records));
    Ok(())
}

fn findings(report: &VerifyReport) -> String {
    format!(
        "{} damaged records, {} without their lifetime, in order: {}, whole: {:?}",
        report.damaged, report.unindexed, !report.out_of_order, report.tally
    )
}

/// The newest snapshot that is sound itself.
fn restore(directory: &Path, state: &Path) -> anyhow::Result<Outcome> {
    let snapshots = stores::snapshots(directory);
    for snapshot in embedded::list_snapshots(&snapshots)?.iter().rev() {
        match verifying::verify_in_a_child(snapshot)? {
            Verdict::Sound { .. } => {}
            Verdict::Damaged { said } => {
                warn!(snapshot = %snapshot.display(), said, "damaged as well: not this one");
                continue;
            }
            Verdict::Unknown { said } => {
                bail!("{} could not be verified, start the node again: {said}", snapshot.display())
            }
        }
        match embedded::restore(snapshot, state) {
            Ok(report) => {
                let taken_at = embedded::snapshot_taken_at(snapshot);
                error!(
                    snapshot = %snapshot.display(),
                    records = report.records,
                    "went back to a snapshot: what came after it is lost"
                );
                let snapshot = snapshot.clone();
                return Ok(Outcome::Restored { snapshot, taken_at, records: report.records });
            }
            Err(StoreError::Corrupt { .. } | StoreError::NotAStore { .. }) => {}
            // Neither would an older one help.
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} cannot be put in the place of the damaged state; make room or set the rights right, \
                         then start the node again",
                        snapshot.display()
                    )
                });
            }
        }
    }
    bail!(
        "the state was damaged by the loss of power, and there is no sound snapshot in {snapshots} to go back to; \
         start with an empty one: mv {state} {state}.damaged (accounts are not affected; phones have to register \
         again, and calls that stood cannot be taken over)",
        snapshots = snapshots.display(),
        state = state.display()
    )
}
