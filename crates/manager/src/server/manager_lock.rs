//! `DIR/run/manager.lock`: at most one manager runs a node, and who it is. The kernel ends the lock with the
//! process, so it tells a living manager from one that a file remembers.
//!
//! A node needs a manager, and a manager the lock; so a manager of this node that holds it and does nothing (it was
//! stopped) is killed by the guardian. Nobody else is, though no manager can run meanwhile: who holds a file of ours without being
//! ours was told to by a person, who may want just that, and what serves goes on serving. The operator is told who it
//! is and how to end it.

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
    /// Takes the lock and leaves the own identity in the file; `None` if somebody else has it and keeps it.
    pub(crate) async fn take(path: &Path) -> io::Result<Option<ManagerLock>> {
        let mut file = open(path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let identity = serde_json::to_vec(&Identity::own()?)?;
        // Over the last one's, then cut: on a full disk an emptied file may not get its block again.
        file.write_all(&identity)?;
        file.set_len(identity.len() as u64)?;
        Ok(Some(ManagerLock { _file: file }))
    }

    /// Who holds the lock. A manager writes who it is as soon as it has it; of one that was stopped between the two the
    /// kernel knows, and its command line names the guardian's socket.
    pub(crate) async fn holder(path: &Path, guardian_socket: &Path) -> io::Result<Holder> {
        let file = open(path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Holder::Nobody),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever took it this moment is about to write who it is.
            if let Ok(identity) = serde_json::from_str(&lock_file::read(path)?)
                && let Some(living) = LivingProcess::found(identity)?
            {
                return Ok(Holder::Manager(living));
            }
            if begun.elapsed() >= PATIENCE {
                return name(&file, path, guardian_socket);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Who holds the lock.
#[derive(Debug)]
pub(crate) enum Holder {
    Nobody,
    /// A manager of this node.
    Manager(LivingProcess),
    /// Somebody else: who, and what to do about it, for the operator.
    Stranger(String),
}

/// The holder that did not write who it is, as the kernel knows it.
fn name(file: &File, path: &Path, guardian_socket: &Path) -> io::Result<Holder> {
    let Some(identity) = lock_holder::of(file)? else {
        return Ok(Holder::Stranger(format!(
            "a process that cannot be found holds {0}; end it, for example by: fuser -k {0}",
            path.display()
        )));
    };
    if !lock_holder::is_told(identity.pid, guardian_socket) {
        let program = lock_holder::program(identity.pid);
        return Ok(Holder::Stranger(format!(
            "{path} is held by process {pid} ({program}), which is no manager of this node; end it (kill {pid}), then \
             start the node again if it does not serve",
            path = path.display(),
            pid = identity.pid
        )));
    }
    // It may have ended meanwhile.
    Ok(LivingProcess::found(identity)?.map_or(Holder::Nobody, Holder::Manager))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    const SOCKET: &str = "/nowhere/guardian.sock";

    async fn holder(path: &Path) -> Holder {
        ManagerLock::holder(path, Path::new(SOCKET)).await.unwrap()
    }

    #[tokio::test]
    async fn the_holder_is_known_as_long_as_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.lock");
        assert!(matches!(holder(&path).await, Holder::Nobody));
        // What another one left, longer than what is written now.
        let own = serde_json::to_string(&Identity::own().unwrap()).unwrap();
        fs::write(&path, format!("{own}{}", "}".repeat(9))).unwrap();
        let lock = ManagerLock::take(&path).await.unwrap().unwrap();
        let Holder::Manager(living) = holder(&path).await else { panic!("not found") };
        assert_eq!(living.identity(), Identity::own().unwrap());
        drop(lock);
        assert!(matches!(holder(&path).await, Holder::Nobody), "the file alone says nothing");
    }

    #[tokio::test]
    async fn a_holder_that_was_not_started_for_this_node_is_a_stranger() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.lock");
        let file = File::create(&path).unwrap();
        file.lock().unwrap();
        let Holder::Stranger(who) = holder(&path).await else { panic!("taken for a manager") };
        assert!(who.contains(&format!("kill {}", std::process::id())), "{who}");
        assert!(ManagerLock::take(&path).await.unwrap().is_none());
    }
}
