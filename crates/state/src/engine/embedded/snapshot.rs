//! Snapshots: copies to fall back to, their check, and the way back.
//!
//! Without sync on every commit, power loss can leave pages of different ages in one file. Record checksums notice;
//! the last snapshot is what can be gone back to. One process of the node takes one every few minutes. After the
//! machine went down under the store ([`super::went_down_in_use`]), the manager checks it in a child process
//! ([`verify`]) and, while no process runs, goes back to a snapshot ([`restore`]). All of these block and read much:
//! call them from a thread of their own.

use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::environment::{self, DATA_FILE, Environment, OPEN_LOCK_FILE};
use super::expiry;
use super::lock::LockFile;
use super::reads::{key_of, shown};
use super::stored_record::StoredRecord;
use super::tally::Tally;
use crate::error::StoreError;
use crate::time::UnixMillis;

const SNAPSHOT_PREFIX: &str = "snapshot-";
const SNAPSHOT_SUFFIX: &str = ".mdb";
const SNAPSHOT_LOCK_FILE: &str = "snapshot.lock";
const UNFINISHED_FILE: &str = "unfinished.tmp";
pub(super) const RESTORING_FILE: &str = "restoring.tmp";
const REPLACED_FILE: &str = "data.before-restore.mdb";

/// How many damaged records a report names.
const DAMAGED_NAMED_MAX: usize = 100;
/// How many records are checked in one read transaction: a long one would keep the file growing.
const VERIFY_RECORDS_AT_ONCE: usize = 4_096;
/// After a restore versions go on from here: the store that is replaced may have given some, but not so many.
const VERSIONS_SKIPPED: u64 = 1 << 32;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Sound records, expired ones included.
    pub records: u64,
    /// Records whose checksum or form is wrong.
    pub damaged: u64,
    /// The first hundred of them.
    pub damaged_keys: Vec<String>,
    /// Records with a lifetime that the expiry index does not have: they would stay, hidden, for ever.
    pub unindexed: u64,
    /// The tree has a record before one that it should follow; the walk ended there.
    pub out_of_order: bool,
    /// Whether the records are exactly those that the last commit left.
    pub tally: TallyVerdict,
}

/// What the sum over all records says; see the module `tally`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TallyVerdict {
    /// There is none (of a release that kept none), or the store was written to meanwhile.
    #[default]
    Unknown,
    /// The records are exactly those that the last commit left.
    Agrees,
    /// Records of different commits are mixed, or some are missing.
    Differs,
}

impl VerifyReport {
    /// Whether all is well.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
            && self.unindexed == 0
            && !self.out_of_order
            && self.tally != TallyVerdict::Differs
    }
}

/// Copies the store to `directory/snapshot-<time>.mdb`, complete or not at all, and removes the oldest snapshots over
/// `keep` (at least one stays).
pub(super) fn take(
    environment: &Environment,
    directory: &Path,
    keep: usize,
    now: UnixMillis,
) -> Result<PathBuf, StoreError> {
    let directory = environment::create_directory(directory)?;
    let lock = LockFile::open(&directory.join(SNAPSHOT_LOCK_FILE))?;
    let failed = |doing| {
        let directory = directory.clone();
        move |source| StoreError::file(doing, directory, source)
    };
    let Some(_alone) = lock.try_lock().map_err(failed("lock"))? else {
        return Err(StoreError::InUse { path: directory });
    };
    let unfinished = directory.join(UNFINISHED_FILE);
    let mut file = create(&unfinished)?;
    let copied = environment.copy_to(&mut file);
    let copied = copied.and_then(|()| file.sync_all().map_err(failed("sync a snapshot in")));
    if let Err(error) = copied {
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    // After a clock that was set back, too, the newest snapshot is the last by name.
    let newest = list(&directory)?.last().and_then(|path| number_of(path));
    let number = newest.map_or(now.0, |newest| now.0.max(newest.saturating_add(1)));
    let path = directory.join(format!("{SNAPSHOT_PREFIX}{number:015}{SNAPSHOT_SUFFIX}"));
    fs::rename(&unfinished, &path).map_err(failed("finish a snapshot in"))?;
    sync_directory(&directory)?;
    let existing = list(&directory)?;
    for old in &existing[..existing.len().saturating_sub(keep.max(1))] {
        fs::remove_file(old).map_err(failed("remove an old snapshot in"))?;
    }
    Ok(path)
}

/// The finished snapshots in a directory, oldest first; none if there is no such directory.
///
/// # Errors
/// [`StoreError::File`] when it cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::file("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut snapshots = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SNAPSHOT_PREFIX) && name.ends_with(SNAPSHOT_SUFFIX) {
            snapshots.push(entry.path());
        }
    }
    // The time in the name has a fixed width.
    snapshots.sort();
    Ok(snapshots)
}

/// When a snapshot was taken, by the clock of then; its name only says which is the newest.
#[must_use]
pub fn taken_at(snapshot: &Path) -> Option<UnixMillis> {
    fs::metadata(snapshot).and_then(|file| file.modified()).ok().map(UnixMillis::from)
}

fn number_of(snapshot: &Path) -> Option<u64> {
    let name = snapshot.file_name()?.to_str()?;
    name.strip_prefix(SNAPSHOT_PREFIX)?.strip_suffix(SNAPSHOT_SUFFIX)?.parse().ok()
}

/// Walks everything in a store's directory or a snapshot, and checks every record's checksum and lifetime, and that
/// together they are what the last commit left.
///
/// The store may be in use, by this process too. Damage so bad that LMDB itself stumbles can end the
/// process with a signal: run this in a child process after an unclean boot, and take its death for a "no".
///
/// # Errors
/// When it cannot be opened or walked at all; damaged records are in the report.
pub fn verify(path: &Path) -> Result<VerifyReport, StoreError> {
    if let Some(open) = super::registry::find(path) {
        return walk(&open.shared.environment);
    }
    walk(&Environment::open_read_only(path)?)
}

pub(super) fn walk(environment: &Environment) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    let mut after: Option<Vec<u8>> = None;
    let mut tally = Tally::default();
    let mut first_transaction = None;
    loop {
        let failed = |source| environment.error("verify", source);
        let txn = environment.read()?;
        let transaction = txn.id();
        let began_at = *first_transaction.get_or_insert(transaction);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = environment.records.range(&txn, &(from, Bound::Unbounded)).map_err(failed)?;
        let mut last = None;
        for item in range.take(VERIFY_RECORDS_AT_ONCE) {
            let (filed, bytes) = item.map_err(failed)?;
            // A tree of mixed pages may lead in a circle.
            if last.as_deref().or(after.as_deref()).is_some_and(|before| before >= filed) {
                report.out_of_order = true;
                return Ok(report);
            }
            last = Some(filed.to_vec());
            tally.add(bytes);
            match StoredRecord::decode(filed, bytes) {
                Ok(record) if key_of(filed, &record).is_ok() => {
                    report.records += 1;
                    if let Some(lifetime) = record.lifetime {
                        let entry = expiry::entry(lifetime.indexed_at, filed);
                        let indexed =
                            environment.expiry.get(&txn, &entry).map_err(failed)?.is_some();
                        report.unindexed += u64::from(!indexed);
                    }
                }
                Ok(_) | Err(_) => {
                    report.damaged += 1;
                    if report.damaged_keys.len() < DAMAGED_NAMED_MAX {
                        report.damaged_keys.push(shown(filed));
                    }
                }
            }
        }
        if last.is_none() {
            if let Some((of, stored)) = environment.stored_tally(&txn)?
                && transaction == began_at
            {
                let of_this_state = environment.is_snapshot() || of == transaction as u64;
                let agrees = of_this_state && stored == tally;
                report.tally = if agrees { TallyVerdict::Agrees } else { TallyVerdict::Differs };
            }
            return Ok(report);
        }
        after = last;
    }
}

/// Puts a snapshot in the place of a store, whole or not at all. The store that was there stays beside it as
/// `data.before-restore.mdb`. Versions go on far above the snapshot's, so that none is given twice.
///
/// # Errors
/// [`StoreError::InUse`] while any process has the store open; [`StoreError::Corrupt`] when the snapshot is damaged;
/// the store is then as it was.
pub fn restore(snapshot: &Path, directory: &Path) -> Result<VerifyReport, StoreError> {
    let report = verify(snapshot)?;
    if !report.is_sound() {
        let key =
            report.damaged_keys.first().cloned().unwrap_or_else(|| snapshot.display().to_string());
        return Err(StoreError::Corrupt {
            key,
            reason: "the snapshot itself is damaged: take an older one",
        });
    }
    let directory = environment::create_directory(directory)?;
    let failed = |doing| {
        let directory = directory.clone();
        move |source| StoreError::file(doing, directory, source)
    };
    let open_lock = LockFile::open(&directory.join(OPEN_LOCK_FILE))?;
    let Some(_alone) = open_lock.try_lock().map_err(failed("lock"))? else {
        return Err(StoreError::InUse { path: directory });
    };
    let restoring = directory.join(RESTORING_FILE);
    let mut to = create(&restoring)?;
    let mut from =
        File::open(snapshot).map_err(|source| StoreError::file("read", snapshot, source))?;
    std::io::copy(&mut from, &mut to).map_err(failed("copy a snapshot to"))?;
    drop(to);
    environment::advance_versions(&restoring, VERSIONS_SKIPPED)?;
    let data = directory.join(DATA_FILE);
    let replaced = directory.join(REPLACED_FILE);
    if data.exists() {
        let _ = fs::remove_file(&replaced);
        fs::hard_link(&data, &replaced).map_err(failed("keep the replaced store in"))?;
    }
    fs::rename(&restoring, &data).map_err(failed("finish a restore in"))?;
    sync_directory(&directory)?;
    Ok(report)
}

pub(super) fn create(path: &Path) -> Result<File, StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|source| StoreError::file("create", path, source))
}

/// A rename is on the disk only when its directory is.
pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| StoreError::file("sync", directory, source))
}
