//! Who holds a file's lock, as the kernel has it: for a holder that was stopped before it wrote who it is.
//!
//! `/proc/locks` names the process that took the lock and the inode. A descriptor that was handed on may outlive that
//! process, and its id may be somebody else's by now: so it counts only if it has the file open.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::identity::Identity;

/// The process that holds the lock of `file`; `None` if the kernel names none that has it open.
pub(super) fn of(file: &File) -> io::Result<Option<Identity>> {
    let file = file.metadata()?;
    let locks = fs::read_to_string("/proc/locks")?;
    for pid in holders(&locks, file.ino()) {
        // In this order: an id that came to mean another process between the two has another start time.
        let Ok(identity) = Identity::of(pid) else { continue };
        if has_open(pid, &file) {
            return Ok(Some(identity));
        }
    }
    Ok(None)
}

/// The processes that hold a lock of `flock` on a file with that inode number, on whichever device.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        // `1: FLOCK  ADVISORY  WRITE 30741 fe:00:10133507 0 EOF`; who waits has an arrow before FLOCK.
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != "FLOCK" {
            return None;
        }
        let pid = fields.nth(2)?.parse().ok()?;
        let of_file = fields.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
        (of_file == inode).then_some(pid)
    })
}

/// Whether the process was started with that path as an argument: as a manager is with its guardian's socket, whatever
/// the program is called.
pub(super) fn is_told(pid: u32, path: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command_line.split(|octet| *octet == 0).any(|argument| argument == path.as_os_str().as_bytes())
}

/// The name of its program, for a person.
pub(super) fn program(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // Whoever names a process chooses what stands there.
    name.trim().escape_debug().to_string()
}

fn has_open(pid: u32, file: &Metadata) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| fs::metadata(descriptor.path()).ok())
        .any(|opened| (opened.dev(), opened.ino()) == (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn holders_are_read_from_the_kernels_list() {
        let locks = "1: FLOCK  ADVISORY  WRITE 30741 fe:00:101 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 7 fe:00:101 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 8 fe:00:101 0 EOF\n3: FLOCK  ADVISORY  WRITE 9 fe:00:1012 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 10 00:2f:101 0 EOF\nnonsense\n";
        assert_eq!(holders(locks, 101).collect::<Vec<_>>(), [30741, 10]);
    }

    #[test]
    fn only_who_has_the_locked_file_open_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("lock")).unwrap();
        assert_eq!(of(&file).unwrap(), None);
        file.lock().unwrap();
        assert_eq!(of(&file).unwrap(), Some(Identity::own().unwrap()));
        assert!(!has_open(1, &file.metadata().unwrap()));
    }

    #[test]
    fn a_process_is_told_what_stands_among_its_arguments() {
        let pid = std::process::id();
        let own = std::env::args_os().next().unwrap();
        assert!(is_told(pid, Path::new(&own)));
        assert!(!is_told(pid, Path::new(&own).parent().unwrap()));
        assert!(!program(pid).is_empty());
    }
}
