//! Where the key ring rests between runs: `keys.json` in the node's directory, readable by its
//! owner only. The manager alone reads and writes it (it holds the node's lock); its children are
//! sent the ring.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{KeyRing, SECRET_BYTES};

/// Why the key ring could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("{path}: {source}; the node's directory must be writable by the user that runs it", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a key ring.
    #[error(
        "{path}: {source}; restore it from a backup, or remove it (phones then have to register again)",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Others on the machine can read the secrets.
    #[error("{path}: mode {mode:03o} lets others read the node's secrets; run: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gave no random octets.
    #[error("no random octets from the system: {0}")]
    Random(getrandom::Error),
}

/// Reads the ring at `path`, or writes a new one there with mode 0600.
///
/// # Errors
/// See [`KeyFileError`]; a damaged or exposed file is never replaced silently.
pub fn load_or_create(path: &Path) -> Result<KeyRing, KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => {
            let mode = fs::metadata(path).map_err(io_error)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
            }
            serde_json::from_slice(&bytes)
                .map_err(|source| KeyFileError::Damaged { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; SECRET_BYTES];
            getrandom::fill(&mut secret).map_err(KeyFileError::Random)?;
            let ring = KeyRing::new(secret);
            write(path, &ring).map_err(io_error)?;
            Ok(ring)
        }
        Err(error) => Err(io_error(error)),
    }
}

/// Written beside and renamed, so that a crash leaves no half ring.
fn write(path: &Path, ring: &KeyRing) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    serde_json::to_writer(&mut file, ring)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_ring_is_created_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let created = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), created);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let other = load_or_create(&directory.path().join("other.json")).unwrap();
        assert!(other != created);
    }

    #[test]
    fn an_exposed_or_damaged_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Exposed { mode: 0o640, .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "{").unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Damaged { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }
}
