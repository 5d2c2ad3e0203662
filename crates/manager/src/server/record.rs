//! `DIR/run/processes.json`: what a manager leaves to the next one. Written before anything that it says
//! becomes true for a child, so that no process can be welcomed and forgotten.
//!
//! Holds no secrets. A record of another boot of the machine, or one that cannot be read, is no record: the
//! processes that it named are gone, or are told to end when they come back.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use topology::view::ProcessName;
use tracing::{error, info, warn};

use super::identity::{Identity, LivingProcess, boot_id};
use crate::cluster::KnownMember;
use crate::guardian::protocol::EdgeSockets;
use crate::process_table::Recorded;

/// The only one so far.
const FORMAT_LEVEL: u32 = 1;

/// A record of all the processes and sockets that a node may have is much shorter. A longer file is none of ours.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// What a manager knows of its node.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format_level: u32,
    pub(crate) boot_id: String,
    /// How often managers were replaced since the node came up.
    pub(crate) manager_restarts: u32,
    /// The effective configuration, which processes that live were given.
    pub(crate) settings: serde_json::Value,
    /// No incarnation and no version of a view is greater.
    pub(crate) numbers_used: u64,
    /// What the edges listen on. Their sockets are with them, and with the guardian.
    pub(crate) edges: Vec<EdgeSockets>,
    pub(crate) processes: Vec<RecordedProcess>,
    /// The other members of its cluster.
    #[serde(default)]
    pub(crate) members: Vec<KnownMember>,
}

/// One process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordedProcess {
    #[serde(flatten)]
    pub(crate) life: Recorded,
    /// While it lives.
    pub(crate) identity: Option<Identity>,
    /// [`Recorded::due`] by the [`Clock`].
    pub(crate) due_ms: Option<u64>,
}

/// Tells an instant so that another process understands it: in milliseconds since the machine's start.
pub(crate) struct Clock {
    /// The same moment twice: another reading would differ by a little each time.
    instant: Instant,
    since_boot: Duration,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let since_boot = Duration::try_from(now).unwrap_or_default();
        Clock { instant: Instant::now(), since_boot }
    }

    pub(crate) fn millis(&self, at: Instant) -> u64 {
        let earlier = self.instant.saturating_duration_since(at);
        let since_boot = self.since_boot + at.saturating_duration_since(self.instant);
        u64::try_from(since_boot.saturating_sub(earlier).as_millis()).unwrap_or(u64::MAX)
    }

    /// What is longer ago than this clock counts as just due.
    pub(crate) fn instant(&self, millis: u64) -> Instant {
        self.instant + Duration::from_millis(millis).saturating_sub(self.since_boot)
    }
}

impl Record {
    /// What the last manager left in this boot of the machine.
    pub(crate) fn read(path: &Path) -> Option<Record> {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes));
        let bytes = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let record = bytes.map_err(|error| error.to_string()).and_then(|bytes| {
            serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string())
        });
        match record {
            Ok(record) if record.format_level != FORMAT_LEVEL => {
                warn!(
                    level = record.format_level,
                    "another release's record of processes; ignored"
                );
                None
            }
            Ok(record) => boot_id().is_ok_and(|now| now == record.boot_id).then_some(record),
            Err(error) => {
                warn!(file = %path.display(), error, "no record of the processes that run");
                None
            }
        }
    }

    /// The processes that still live.
    pub(crate) fn survivors(&self) -> HashMap<ProcessName, LivingProcess> {
        let found = |process: &RecordedProcess| {
            let name = &process.life.name;
            let identity = process.identity?;
            match LivingProcess::found(identity) {
                Ok(living) => Some((name.clone(), living?)),
                Err(error) => {
                    warn!(%name, pid = identity.pid, %error, "cannot be adopted");
                    None
                }
            }
        };
        self.processes.iter().filter_map(found).collect()
    }
}

/// Keeps the file as the manager's knowledge changes.
pub(crate) struct RecordFile {
    path: PathBuf,
    boot_id: String,
    written: Vec<u8>,
    /// The last attempt to write failed, and has been told.
    is_failing: bool,
}

impl RecordFile {
    pub(crate) fn new(path: PathBuf) -> io::Result<RecordFile> {
        Ok(RecordFile { path, boot_id: boot_id()?, written: Vec::new(), is_failing: false })
    }

    /// Writes what changed. Not synced: after the loss of power no process lives that it could name.
    pub(crate) fn write(&mut self, mut record: Record) {
        record.format_level = FORMAT_LEVEL;
        record.boot_id.clone_from(&self.boot_id);
        let bytes = serde_json::to_vec(&record).expect("string keys only, and no I/O");
        if bytes == self.written {
            return;
        }
        match self.replace(&bytes) {
            Ok(()) => {
                self.written = bytes;
                if std::mem::take(&mut self.is_failing) {
                    info!(file = %self.path.display(), "written again");
                }
            }
            // Going on serves calls; a manager that died now would not find its processes again. Told once: it is
            // tried again with whatever happens next, many times a second.
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                error!(
                    file = %self.path.display(), %error,
                    "cannot be written: the next manager would restart what runs; make room, it is tried again"
                );
            }
            Err(_) => {}
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("json.new");
        // What it says of processes is nobody else's business.
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&beside)?.write_all(bytes)?;
        fs::rename(beside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_could_not_be_written_is_written_as_soon_as_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run").join("processes.json");
        let mut file = RecordFile::new(path.clone()).unwrap();
        let record = || Record { numbers_used: 7, ..Record::default() };
        file.write(record());
        file.write(record());
        assert!(Record::read(&path).is_none());
        fs::create_dir(directory.path().join("run")).unwrap();
        file.write(record());
        assert_eq!(Record::read(&path).unwrap().numbers_used, 7);
    }
}
