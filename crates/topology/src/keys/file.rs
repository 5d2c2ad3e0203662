//! Where the key ring rests between runs: `keys.json` in the node's directory, readable by its
//! owner only. The manager alone reads and writes it (it holds the node's lock); its children are
//! sent the ring.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{KeyRing, SECRET_BYTES};
use crate::credentials::write_private;

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

/// A ring is a few hundred octets. A longer file is none, and damaged by that.
const FILE_BYTES_MAX: u64 = 64 << 10;

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the ring at `path`, or writes a new one there with mode 0600. A ring of an earlier release is
/// written anew, its current secret as old as `now` (Unix milliseconds).
///
/// # Errors
/// See [`KeyFileError`]; a damaged or exposed file is never replaced silently.
pub fn load_or_create(path: &Path, now: u64) -> Result<KeyRing, KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.to_owned(), source };
    match read(path) {
        Ok(bytes) => {
            let mode = fs::metadata(path).map_err(io_error)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
            }
            let ring: KeyRing = serde_json::from_slice(&bytes)
                .map_err(|source| KeyFileError::Damaged { path: path.to_owned(), source })?;
            if ring.current_since().is_some() {
                return Ok(ring);
            }
            let ring = ring.dated(now);
            write(path, &ring)?;
            Ok(ring)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let ring = KeyRing::made(random_secret()?, random_secret()?, now);
            write(path, &ring)?;
            Ok(ring)
        }
        Err(error) => Err(io_error(error)),
    }
}

/// A secret that nobody knows yet.
///
/// # Errors
/// [`KeyFileError::Random`].
pub fn random_secret() -> Result<[u8; SECRET_BYTES], KeyFileError> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(KeyFileError::Random)?;
    Ok(secret)
}

/// Replaces the ring at `path`, mode 0600, whole or not at all.
///
/// # Errors
/// [`KeyFileError::Io`]; the file is then as it was.
pub fn write(path: &Path, ring: &KeyRing) -> Result<(), KeyFileError> {
    let mut text = serde_json::to_vec(ring).expect("a ring has no keys but strings");
    text.push(b'\n');
    write_private(path, &text).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_ring_is_created_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let created = load_or_create(&path, 1).unwrap();
        assert_eq!(load_or_create(&path, 1).unwrap(), created);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let other = load_or_create(&directory.path().join("other.json"), 1).unwrap();
        assert!(other != created);
    }

    #[test]
    fn an_exposed_or_damaged_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        load_or_create(&path, 1).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path, 1).unwrap_err();
        assert!(matches!(error, KeyFileError::Exposed { mode: 0o640, .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "{").unwrap();
        let error = load_or_create(&path, 1).unwrap_err();
        assert!(matches!(error, KeyFileError::Damaged { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }

    #[test]
    fn a_ring_of_an_earlier_release_is_dated_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        write(&path, &KeyRing::new([1; SECRET_BYTES])).unwrap();
        let ring = load_or_create(&path, 5).unwrap();
        assert_eq!(ring.current_since(), Some(5));
        assert_eq!(load_or_create(&path, 9).unwrap(), ring);
        let rotated = ring.rotated([2; SECRET_BYTES], 10);
        write(&path, &rotated).unwrap();
        assert_eq!(load_or_create(&path, 11).unwrap(), rotated);
    }
}
