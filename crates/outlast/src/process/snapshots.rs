//! Snapshots of the state every few minutes: what the node falls back to after power loss.
//!
//! Every container looks; the one that finds the last snapshot too old takes the next, so that one of them
//! suffices whichever lives.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use state::StoreError;
use state::engine::embedded::{EmbeddedStore, list_snapshots};
use tracing::{debug, info, warn};

/// Snapshots that are kept.
const KEEP: usize = 3;

/// Looks this many times in an interval whether a snapshot is due.
const LOOKS_PER_INTERVAL: u32 = 10;

/// Starts the thread; it ends with the process.
pub(super) fn take_regularly(store: EmbeddedStore, directory: PathBuf, interval: Duration) {
    let looking = thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
        loop {
            thread::sleep(interval / LOOKS_PER_INTERVAL);
            if is_due(&directory, interval) {
                match store.snapshot(&directory, KEEP) {
                    Ok(path) => info!(snapshot = %path.display(), "took a snapshot of the state"),
                    // The other containers look at the same time; one of them suffices.
                    Err(StoreError::InUse { .. }) => debug!("another container takes the snapshot"),
                    Err(error) => warn!(%error, "no snapshot of the state; the last one stays"),
                }
            }
        }
    });
    if let Err(error) = looking {
        warn!(%error, "no thread for snapshots: this container takes none");
    }
}

fn is_due(directory: &Path, interval: Duration) -> bool {
    let last = match list_snapshots(directory) {
        Ok(snapshots) => snapshots.into_iter().next_back(),
        Err(error) => {
            warn!(%error, "the snapshots cannot be listed");
            return false;
        }
    };
    let age = last.and_then(|last| {
        let taken = last.metadata().and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::now().duration_since(taken).ok()
    });
    age.is_none_or(|age| age >= interval)
}
