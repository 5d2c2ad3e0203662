//! Files that hold secrets: mode 0600, replaced whole, refused when others can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

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
