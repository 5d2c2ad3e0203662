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

/// Between two snapshots.
const INTERVAL: Duration = Duration::from_secs(300);

/// Snapshots that are kept.
const KEEP: usize = 3;

/// Looks every so often whether a snapshot is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Starts the thread; it ends with the process.
pub(super) fn take_regularly(store: EmbeddedStore, directory: PathBuf) {
    let looking = thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
            if is_due(&directory) {
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

fn is_due(directory: &Path) -> bool {
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
    age.is_none_or(|age| age >= INTERVAL)
}
