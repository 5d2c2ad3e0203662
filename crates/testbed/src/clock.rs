//! The wall clock of one node, set without touching that of the machine: libfaketime (Debian package faketime), which is
//! preloaded into the processes of the node and reads the offset from a file.

use std::path::{Path, PathBuf};

/// A clock that can be set.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right, kept in a file of this directory. `None`, and a word about it, where the library is not
    /// installed.
    ///
    /// # Panics
    /// Under `CI=true` when the library is missing; when the file cannot be written.
    pub fn in_directory(directory: &Path) -> Option<Clock> {
        let Some(library) = library() else {
            let missing = "libfaketime is not installed (Debian package faketime)";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        };
        let clock = Clock { file: directory.join("clock"), library };
        clock.set("+0");
        Some(clock)
    }

    /// Sets the clock of all its processes at once, for example `+1h` or `-0.7s`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, offset: &str) {
        // Whole or not at all: processes read it at any time.
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{offset}\n")).expect("the file can be written");
        std::fs::rename(beside, &self.file).expect("the file can be replaced");
    }

    /// Environment of the processes that go by this clock.
    pub fn environment(&self) -> [(&'static str, &str); 5] {
        [
            ("LD_PRELOAD", self.library.to_str().expect("a path of text")),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().expect("a path of text")),
            ("FAKETIME_NO_CACHE", "1"),
            // A step changes the wall clock only.
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

fn library() -> Option<PathBuf> {
    let mut found = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    found.find_map(|entry| {
        let library = entry.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    })
}
