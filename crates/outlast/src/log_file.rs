//! The log of a child: a file of its own, bounded by one turn-over.
//!
//! `DIR/log/NAME.log` grows to [`BYTES_MAX`]; then it becomes `NAME.log.old`, in place of the one before, and a
//! new one begins. No pipe: a pipe would block the child or kill it when its reader dies. Lines that cannot be
//! written (a full disk) are lost; serving goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Size at which the file is turned over.
const BYTES_MAX: u64 = 10 << 20;

/// An append-only log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Opens or creates the file.
    pub(crate) fn open(path: &Path) -> io::Result<LogFile> {
        LogFile::open_bounded(path, BYTES_MAX)
    }

    fn open_bounded(path: &Path, bytes_max: u64) -> io::Result<LogFile> {
        let file = append(path)?;
        Ok(LogFile { path: path.to_owned(), bytes: file.metadata()?.len(), file, bytes_max })
    }

    fn turn_over(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("log.old"))?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.turn_over()?;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_log_becomes_the_old_one_and_no_line_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge1.log");
        let mut log = LogFile::open_bounded(&path, 20).unwrap();
        for line in ["first line\n", "second line\n", "third line\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "third line\n");
        let old = directory.path().join("edge1.log.old");
        assert_eq!(fs::read_to_string(old).unwrap(), "second line\n");
    }

    #[test]
    fn the_next_life_goes_on_where_the_last_one_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge1.log");
        for line in ["one\n", "two\n"] {
            let mut log = LogFile::open_bounded(&path, 100).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
