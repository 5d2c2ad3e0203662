//! `DIR/run/manager.lock`: at most one manager runs a node, and who it is. The kernel ends the lock with the
//! process, so it tells a living manager from one that a file remembers.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::identity::{Identity, LivingProcess};
use super::{lock_file, lock_holder};

/// How long a manager waits for another one's end: it was killed, and may hold the lock until it is gone.
const PATIENCE: Duration = Duration::from_secs(2);

const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Held as long as the value lives.
pub(crate) struct ManagerLock {
    _file: File,
}

impl ManagerLock {
    /// Takes the lock and leaves the own identity in the file.
    pub(crate) async fn take(path: &Path) -> io::Result<ManagerLock> {
        let mut file = open(path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = lock_file::read(path).unwrap_or_default();
                    return Err(io::Error::other(format!("another manager runs ({holder})")));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let identity = serde_json::to_vec(&Identity::own()?)?;
        // Over the last one's, then cut: on a full disk an emptied file may not get its block again.
        file.write_all(&identity)?;
        file.set_len(identity.len() as u64)?;
        Ok(ManagerLock { _file: file })
    }

    /// The manager that holds the lock. It writes who it is as soon as it has it; of one that was stopped between the
    /// two the kernel knows.
    pub(crate) async fn holder(path: &Path) -> io::Result<Option<LivingProcess>> {
        let file = open(path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever took it this moment is about to write who it is.
            if let Ok(identity) = serde_json::from_str(&lock_file::read(path)?)
                && let Some(living) = LivingProcess::found(identity)?
            {
                return Ok(Some(living));
            }
            if begun.elapsed() >= PATIENCE {
                let holder = lock_holder::of(&file)?.map(LivingProcess::found).transpose()?;
                return match holder.flatten() {
                    Some(living) => Ok(Some(living)),
                    None => Err(io::Error::other(format!(
                        "a process that cannot be found holds {0}; end it, for example by: fuser -k {0}",
                        path.display()
                    ))),
                };
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_holder_is_known_as_long_as_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.lock");
        assert!(ManagerLock::holder(&path).await.unwrap().is_none());
        // What another one left, longer than what is written now.
        fs::write(
            &path,
            format!(
                "{}{}",
                serde_json::to_string(&Identity::own().unwrap()).unwrap(),
                "}".repeat(9)
            ),
        )
        .unwrap();
        let lock = ManagerLock::take(&path).await.unwrap();
        let holder = ManagerLock::holder(&path).await.unwrap().unwrap();
        assert_eq!(holder.identity(), Identity::own().unwrap());
        drop(lock);
        assert!(ManagerLock::holder(&path).await.unwrap().is_none(), "the file alone says nothing");
    }
}
