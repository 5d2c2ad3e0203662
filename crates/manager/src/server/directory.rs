//! The node's directory: who may use it, and where what lies in it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{UpError, lock_file};

/// `sockaddr_un.sun_path` without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The directory of a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeDirectory {
    path: PathBuf,
}

/// Held by the guardian, and by it alone, as long as it lives (the lock ends with the process, however it ends).
pub(crate) struct NodeLock {
    _file: File,
}

/// The directory of a node that nobody else starts meanwhile, as long as this lives.
pub struct Held {
    pub(crate) directory: NodeDirectory,
    pub(crate) lock: NodeLock,
}

/// Makes sure that nobody else starts the node of that directory; creates what is missing of it. What a node is started with
/// has to be found out behind this: two that start it at a time would find out different things.
///
/// # Errors
/// [`UpError::Locked`] when somebody does already; [`UpError::Directory`].
pub fn hold(directory: &Path) -> Result<Held, UpError> {
    let (directory, lock) = NodeDirectory::open(directory)?;
    Ok(Held { directory, lock })
}

impl NodeDirectory {
    /// Creates what is missing and takes the lock.
    pub(crate) fn open(path: &Path) -> Result<(NodeDirectory, NodeLock), UpError> {
        create(path)?;
        let failed = |source| UpError::Directory { path: path.to_owned(), source };
        let path = fs::canonicalize(path).map_err(failed)?;
        for private in ["run", "log"] {
            let directory = path.join(private);
            create(&directory)?;
            // Whoever may enter run/ may command the node; logs name callers.
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
                .map_err(|source| UpError::Directory { path: directory.clone(), source })?;
        }
        let lock = NodeLock { _file: lock(&path)? };
        Ok((NodeDirectory { path }, lock))
    }

    /// Refuses the names of sockets that the kernel would cut.
    pub(crate) fn check_sockets(&self, process_names: &[String]) -> Result<(), UpError> {
        let links = process_names.iter().map(|name| self.link(name));
        for socket in links.chain([self.socket(), self.guardian_socket()]) {
            let length = OsStr::as_bytes(socket.as_os_str()).len();
            if length > SOCKET_PATH_BYTES_MAX {
                return Err(UpError::PathTooLong {
                    path: socket,
                    length,
                    max: SOCKET_PATH_BYTES_MAX,
                });
            }
        }
        Ok(())
    }

    /// The directory whose guardian listens on that socket.
    pub(crate) fn of_guardian_socket(socket: &Path) -> NodeDirectory {
        let path = socket.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        NodeDirectory { path: path.to_owned() }
    }

    /// That directory, for somebody who only looks.
    pub(crate) fn at(path: &Path) -> NodeDirectory {
        NodeDirectory { path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        super::socket_path(&self.path)
    }

    pub(crate) fn guardian_socket(&self) -> PathBuf {
        self.path.join("run").join("guardian.sock")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("run").join("processes.json")
    }

    pub(crate) fn manager_lock(&self) -> PathBuf {
        self.path.join("run").join("manager.lock")
    }

    /// Whether that process was the last to take the guardian's lock. An empty file is one that another just writes.
    pub(crate) fn is_guarded_by(&self, pid: u32) -> bool {
        let holder = lock_file::read(&node_lock(&self.path));
        holder.map_or(true, |holder| holder.trim() == pid.to_string())
    }

    /// Whether the last manager was killed: one that stops in order removes its socket.
    pub(crate) fn was_left_in_a_hurry(&self) -> bool {
        self.socket().exists()
    }

    /// The end of an orderly stop.
    pub(crate) fn remove_socket(&self) {
        // Left behind, it costs the next start a little patience at most.
        let _ = fs::remove_file(self.socket());
    }

    /// The end of an orderly stop: nobody is left.
    pub(crate) fn remove_record(&self) {
        // Left behind, it names processes that are gone.
        let _ = fs::remove_file(self.record());
    }

    /// The guardian's end.
    pub(crate) fn remove_guardian_socket(&self) {
        // Left behind, it is replaced by the next guardian's.
        let _ = fs::remove_file(self.guardian_socket());
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.path.join("run").join(format!("{name}.link"))
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys.json")
    }
}

fn create(path: &Path) -> Result<(), UpError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| UpError::Directory { path: path.to_owned(), source })
}

fn node_lock(directory: &Path) -> PathBuf {
    directory.join("run").join("node.lock")
}

fn lock(directory: &Path) -> Result<File, UpError> {
    let path = node_lock(directory);
    let failed = |source: io::Error| UpError::Directory { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = lock_file::read_from(&file).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            Err(UpError::Locked { directory: directory.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_node_is_told_who_holds_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let first = NodeDirectory::open(temporary.path()).unwrap();
        let message = NodeDirectory::open(temporary.path()).err().unwrap().to_string();
        assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
        drop(first);
        NodeDirectory::open(temporary.path()).unwrap();
    }

    #[test]
    fn a_socket_path_that_the_kernel_would_cut_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let long = temporary.path().join("d".repeat(120));
        let (directory, _lock) = NodeDirectory::open(&long).unwrap();
        let error = directory.check_sockets(&["container1".to_owned()]).unwrap_err();
        assert!(matches!(error, UpError::PathTooLong { .. }), "{error}");
    }

    #[test]
    fn a_directory_that_is_a_file_is_refused_by_its_name() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        let message = NodeDirectory::open(&file).err().unwrap().to_string();
        assert!(message.contains("file") && message.contains("--dir"), "{message}");
    }
}
