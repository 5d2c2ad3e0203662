//! What the last verification of the state came to, kept beside the store for `outlast status`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use state::UnixMillis;

use crate::stores;

const FILE_NAME: &str = "last-verification.json";

/// What became of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was sound.
    Sound,
    /// It was damaged, and a snapshot took its place.
    Restored { snapshot: PathBuf, taken_at: Option<UnixMillis>, records: u64 },
}

/// The `state` object of `outlast status --json`. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When the state was verified.
    verified_at_ms: u64,
    /// Whether it was sound, or a snapshot took its place.
    verdict: Verdict,
    /// The snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored_from: Option<PathBuf>,
    /// When it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_taken_at_ms: Option<u64>,
    /// How much older it is than the last write before the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_age_ms: Option<u64>,
    /// Records in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    /// What is lost, for a person.
    lost: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Sound,
    Restored,
}

impl Report {
    /// `written_last` is when the store was last written to before the loss, as far as the disk knows.
    pub(super) fn new(
        outcome: Outcome,
        written_last: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Report {
        match outcome {
            Outcome::Sound => Report {
                verified_at_ms: now.0,
                verdict: Verdict::Sound,
                restored_from: None,
                snapshot_taken_at_ms: None,
                snapshot_age_ms: None,
                records: None,
                lost: "at most what came in the last second before the machine went down"
                    .to_owned(),
            },
            Outcome::Restored { snapshot, taken_at, records } => {
                let age = taken_at
                    .zip(written_last)
                    .map(|(taken_at, written)| written.saturating_since(taken_at));
                let span = age.map_or_else(String::new, |age| {
                    let seconds = Duration::from_secs(age.as_secs());
                    format!(
                        ", {} before the machine went down",
                        humantime::format_duration(seconds)
                    )
                });
                Report {
                    verified_at_ms: now.0,
                    verdict: Verdict::Restored,
                    restored_from: Some(snapshot),
                    snapshot_taken_at_ms: taken_at.map(|at| at.0),
                    snapshot_age_ms: age
                        .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                    records: Some(records),
                    lost: format!(
                        "registrations and calls since the snapshot{span}: who registered since is not reached \
                         until the next registration, and calls set up since cannot be taken over"
                    ),
                }
            }
        }
    }

    /// Keeps it; one that was kept before is replaced.
    pub(super) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = path(directory);
        let beside = path.with_extension("new");
        let text = serde_json::to_vec(self)?;
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| path.display().to_string())
    }

    /// The last one; `None` if the state of this node never had to be verified.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Option<Report>> {
        let path = path(directory);
        match fs::read(&path) {
            Ok(bytes) => {
                let report = serde_json::from_slice(&bytes);
                report.with_context(|| format!("{}; remove it", path.display())).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// For a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let date =
            |millis| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis));
        let verified = date(self.verified_at_ms);
        let verdict = match (&self.verdict, &self.restored_from) {
            (Verdict::Restored, Some(snapshot)) => {
                format!("damaged; restored from {}", snapshot.display())
            }
            (Verdict::Restored, None) => "damaged; restored from a snapshot".to_owned(),
            (Verdict::Sound, _) => "sound".to_owned(),
        };
        vec![
            format!("state verified after a loss of power at {verified}: {verdict}"),
            format!("  lost: {}", self.lost),
        ]
    }
}

fn path(directory: &Path) -> PathBuf {
    stores::state(directory).join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_report_is_kept_and_told_to_a_person() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(stores::state(directory.path())).unwrap();
        assert_eq!(Report::read(directory.path()).unwrap(), None);
        let outcome = Outcome::Restored {
            snapshot: "/node/snapshots/snapshot-1.mdb".into(),
            taken_at: Some(UnixMillis(1_700_000_000_000)),
            records: 7,
        };
        let written_last = Some(UnixMillis(1_700_000_240_500));
        let report = Report::new(outcome, written_last, UnixMillis(1_700_000_300_000));
        report.write(directory.path()).unwrap();
        assert_eq!(Report::read(directory.path()).unwrap().unwrap(), report);
        assert_eq!(report.snapshot_age_ms, Some(240_500));
        let lines = report.lines();
        assert_eq!(
            lines[0],
            "state verified after a loss of power at 2023-11-14T22:18:20Z: damaged; restored from \
             /node/snapshots/snapshot-1.mdb"
        );
        assert!(lines[1].contains("4m before the machine went down"), "{lines:?}");
    }
}
