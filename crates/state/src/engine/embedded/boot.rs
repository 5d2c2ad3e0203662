//! Tells a store that power loss may have damaged from one that was stopped in order.
//!
//! While a node runs, its store's directory holds the file `running-boot` with the kernel's boot id; an orderly stop
//! removes it. If it is there with *another* boot id, the machine went down under the store: what was not synced
//! may be lost or mixed, and [`super::verify`] should look before anybody else does. The death of processes
//! alone (same boot id) damages nothing. Called by the manager, which alone knows when the node starts and stops.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::environment::{self, DATA_FILE};
use super::snapshot::sync_directory;
use crate::error::StoreError;
use crate::time::UnixMillis;

const RUNNING_FILE: &str = "running-boot";
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Whether the machine went down while the store in a directory was in use.
///
/// # Errors
/// The file system's.
pub fn went_down_in_use(directory: &Path) -> Result<bool, StoreError> {
    went_down_since(directory, &boot_id()?)
}

/// When the store in a directory was last written to, as far as the disk knows.
#[must_use]
pub fn written_last(directory: &Path) -> Option<UnixMillis> {
    let modified = fs::metadata(directory.join(DATA_FILE)).and_then(|data| data.modified());
    modified.ok().map(UnixMillis::from)
}

/// Notes that the store is in use from now on. Before any process opens it.
///
/// # Errors
/// The file system's.
pub fn mark_in_use(directory: &Path) -> Result<(), StoreError> {
    mark(directory, &boot_id()?)
}

/// Notes that the store was stopped in order. After every process has closed it (a close syncs).
///
/// # Errors
/// The file system's.
pub fn mark_stopped(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_file(directory.join(RUNNING_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::file("note the orderly stop in", directory, error))
        }
        Ok(()) | Err(_) => sync_directory(directory),
    }
}

fn boot_id() -> Result<String, StoreError> {
    fs::read_to_string(BOOT_ID_FILE)
        .map_err(|source| StoreError::file("read", BOOT_ID_FILE, source))
}

fn went_down_since(directory: &Path, boot_id: &str) -> Result<bool, StoreError> {
    let path = directory.join(RUNNING_FILE);
    match fs::read_to_string(&path) {
        Ok(noted) => Ok(noted != boot_id && directory.join(DATA_FILE).exists()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::file("read", path, error)),
    }
}

fn mark(directory: &Path, boot_id: &str) -> Result<(), StoreError> {
    let directory = environment::create_directory(directory)?;
    let path = directory.join(RUNNING_FILE);
    let unfinished = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(boot_id.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(|source| StoreError::file("note the start in", &path, source))?;
    sync_directory(&directory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_another_boot_without_an_orderly_stop_is_suspicious() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        assert!(!went_down_since(&directory, "one").unwrap(), "nothing was there yet");
        mark(&directory, "one").unwrap();
        fs::write(directory.join(DATA_FILE), "data").unwrap();
        assert!(
            !went_down_since(&directory, "one").unwrap(),
            "processes died, the machine did not"
        );
        assert!(went_down_since(&directory, "two").unwrap());
        mark_stopped(&directory).unwrap();
        assert!(!went_down_since(&directory, "two").unwrap(), "it was stopped in order");
        mark_stopped(&directory).unwrap();
    }

    #[test]
    fn this_machine_has_a_boot_id() {
        let home = tempfile::tempdir().unwrap();
        mark_in_use(home.path()).unwrap();
        assert!(!went_down_in_use(home.path()).unwrap());
    }
}
