//! What the holder of a lock wrote into its file: a few octets of ours. More than that is read of none.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// An identity or a process id is a fraction of it.
const BYTES_MAX: u64 = 4096;

/// The text of the file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    read_from(&File::open(path)?)
}

/// The text of the file from where it stands.
pub(super) fn read_from(file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
