//! Files that hold secrets, and lists beside them: mode 0600, replaced whole; secrets that others can read are refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CredentialError;

/// Certificates and keys are a few kilobytes; so is a list of members.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Replaces the file at `path`, mode 0600. Written beside, brought to the disk and renamed, so that neither a crash
/// nor the loss of power leaves half a file.
///
/// # Errors
/// The system's; the file is then as it was.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    // One left by a crash may be another's idea of a mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The new name, too.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Reads what a file of ours says; `None`: there is none.
///
/// # Errors
/// [`CredentialError`] when it cannot be read, or is damaged: longer than `bytes_max` octets, or not what we write.
pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    bytes_max: u64,
) -> Result<Option<T>, CredentialError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialError::Io { path: path.to_owned(), source }),
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| CredentialError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Replaces what a file of ours says.
///
/// # Errors
/// [`CredentialError::Io`]; the file is then as it was.
pub(crate) fn write_json(path: &Path, content: &impl Serialize) -> Result<(), CredentialError> {
    let mut text =
        serde_json::to_vec_pretty(content).expect("files of ours have no keys but strings");
    text.push(b'\n');
    write_private(path, &text)
        .map_err(|source| CredentialError::Io { path: path.to_owned(), source })
}

/// Reads a text that may be anybody's.
pub(super) fn read(path: &Path) -> Result<String, CredentialError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| CredentialError::Io { path: path.to_owned(), source })
}

/// Reads a text that must be the owner's alone.
pub(super) fn read_private(path: &Path) -> Result<String, CredentialError> {
    let text = read(path)?;
    let metadata = fs::metadata(path)
        .map_err(|source| CredentialError::Io { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialError::Exposed { path: path.to_owned(), mode });
    }
    Ok(text)
}

pub(super) fn write(path: &Path, content: &str) -> Result<(), CredentialError> {
    write_private(path, content.as_bytes())
        .map_err(|source| CredentialError::Io { path: path.to_owned(), source })
}
