//! Opens LMDB environments; the one file of this crate with `unsafe` code.
//!
//! A directory holds `data.mdb` and `lock.mdb` (LMDB's) and the lock files of [`super::lock`]. Within LMDB there
//! are three databases: `records`, `expiry` (due time + filed key, see [`super::expiry`]), and `meta` (format
//! level, last version, tally). A snapshot is a `data.mdb` alone.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::types::Bytes as Raw;
use heed::{
    Database, DatabaseStat, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithTls,
};

use super::StoreSize;
use super::lock::LockFile;
use super::options::Durability;
use super::stored_record::{LEVEL, LEVEL_NEWEST, LEVEL_OLDEST};
use super::tally::Tally;
use crate::error::StoreError;

/// LMDB's name for the data file.
pub(super) const DATA_FILE: &str = "data.mdb";
/// See [`super::lock`].
pub(super) const OPEN_LOCK_FILE: &str = "open.lock";
/// See [`super::lock`].
pub(super) const WRITE_LOCK_FILE: &str = "write.lock";
/// See [`super::lock`].
const READERS_LOCK_FILE: &str = "readers.lock";

/// Threads of all processes that may read at one time; one more gets [`StoreError::Engine`] (readers full).
const READERS_MAX: u32 = 1_024;
const DATABASES_MAX: u32 = 8;

const META_LEVEL: &[u8] = b"format level";
const META_LAST_VERSION: &[u8] = b"last version";
/// See [`super::tally`].
const META_TALLY: &[u8] = b"tally";

pub(super) type Table = Database<Raw, Raw>;

/// An LMDB environment with its databases.
#[derive(Debug)]
pub(super) struct Environment {
    env: Env<WithTls>,
    pub(super) records: Table,
    pub(super) expiry: Table,
    pub(super) meta: Table,
    /// The directory, or a snapshot's file.
    pub(super) path: PathBuf,
    map_size: usize,
    /// `None` for snapshots, which nobody writes.
    readers_lock: Option<LockFile>,
    /// Tells environments apart in [`CLAIMED_SLOTS`].
    number: u64,
}

thread_local! {
    /// The environments in whose reader table this thread has its slot.
    static CLAIMED_SLOTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

static ENVIRONMENTS_OPENED: AtomicU64 = AtomicU64::new(0);

impl Environment {
    /// Opens the environment in a directory for writing, and creates what is missing. The caller holds the
    /// directory's write lock.
    pub(super) fn open(
        directory: &Path,
        durability: Durability,
        map_size: usize,
    ) -> Result<Self, StoreError> {
        let flags = match durability {
            Durability::Relaxed => EnvFlags::NO_SYNC,
            Durability::EveryCommit => EnvFlags::empty(),
        };
        let readers_lock = LockFile::open(&directory.join(READERS_LOCK_FILE))?;
        let env = open_raw(directory, flags, map_size)?;
        let failed = |source| error_of("create its databases", directory, map_size, source);
        let mut txn = env.write_txn().map_err(failed)?;
        let records = env.create_database(&mut txn, Some("records")).map_err(failed)?;
        let expiry = env.create_database(&mut txn, Some("expiry")).map_err(failed)?;
        let meta: Table = env.create_database(&mut txn, Some("meta")).map_err(failed)?;
        match meta.get(&txn, META_LEVEL).map_err(failed)? {
            Some(level) => check_level(level, directory)?,
            None => meta.put(&mut txn, META_LEVEL, &[LEVEL]).map_err(failed)?,
        }
        let counted = tally_of(&txn, meta).map_err(failed)?;
        if counted.is_none_or(|(transaction, _)| transaction + 1 != txn.id() as u64) {
            // New, or last written by a release that kept none.
            let mut tally = Tally::default();
            for item in records.iter(&txn).map_err(failed)? {
                let (_, stored): (&[u8], &[u8]) = item.map_err(failed)?;
                tally.add(stored);
            }
            let transaction = txn.id() as u64;
            meta.put(&mut txn, META_TALLY, &tally.encode(transaction)).map_err(failed)?;
        }
        txn.commit().map_err(failed)?;
        Ok(Self::new(env, [records, expiry, meta], directory, map_size, Some(readers_lock)))
    }

    /// Opens an environment's directory or a snapshot's file for reading only.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        // Large enough for any store: it is only address space.
        const MAP_SIZE: usize = 1 << 40;
        let is_file = std::fs::metadata(path)
            .map_err(|source| StoreError::file("read", path, source))?
            .is_file();
        let (flags, readers_lock) = if is_file {
            (EnvFlags::READ_ONLY | EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK, None)
        } else {
            (EnvFlags::READ_ONLY, Some(LockFile::open(&path.join(READERS_LOCK_FILE))?))
        };
        let env = open_raw(path, flags, MAP_SIZE)?;
        let failed = |source| error_of("open its databases", path, MAP_SIZE, source);
        let slot_guard = readers_lock.as_ref().map(LockFile::lock).transpose();
        let slot_guard = slot_guard.map_err(|source| StoreError::file("lock", path, source))?;
        let txn = env.read_txn().map_err(failed)?;
        drop(slot_guard);
        let open = |name| -> Result<Table, StoreError> {
            let table = env.open_database(&txn, Some(name)).map_err(failed)?;
            table.ok_or_else(|| StoreError::NotAStore { path: path.to_owned() })
        };
        let tables = [open("records")?, open("expiry")?, open("meta")?];
        match tables[2].get(&txn, META_LEVEL).map_err(failed)? {
            Some(level) => check_level(level, path)?,
            None => return Err(StoreError::NotAStore { path: path.to_owned() }),
        }
        // Committed, so that the database handles outlive the transaction.
        txn.commit().map_err(failed)?;
        Ok(Self::new(env, tables, path, MAP_SIZE, readers_lock))
    }

    /// A new file of its own, which nobody else opens, written without sync until [`sync`](Self::sync).
    pub(super) fn create_file(path: &Path) -> Result<Self, StoreError> {
        const MAP_SIZE: usize = 1 << 40;
        let env =
            open_raw(path, EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_SYNC, MAP_SIZE)?;
        let failed = |source| error_of("create", path, MAP_SIZE, source);
        let mut txn = env.write_txn().map_err(failed)?;
        let records = env.create_database(&mut txn, Some("records")).map_err(failed)?;
        let expiry = env.create_database(&mut txn, Some("expiry")).map_err(failed)?;
        let meta: Table = env.create_database(&mut txn, Some("meta")).map_err(failed)?;
        meta.put(&mut txn, META_LEVEL, &[LEVEL]).map_err(failed)?;
        txn.commit().map_err(failed)?;
        Ok(Self::new(env, [records, expiry, meta], path, MAP_SIZE, None))
    }

    /// A snapshot is a file alone: compacted, its transactions counted anew.
    pub(super) fn is_snapshot(&self) -> bool {
        self.readers_lock.is_none()
    }

    fn new(
        env: Env<WithTls>,
        [records, expiry, meta]: [Table; 3],
        path: &Path,
        map_size: usize,
        readers_lock: Option<LockFile>,
    ) -> Self {
        let number = ENVIRONMENTS_OPENED.fetch_add(1, Ordering::Relaxed);
        Self { env, records, expiry, meta, path: path.to_owned(), map_size, readers_lock, number }
    }

    /// Begins to read a consistent state. Short: as long as it lives, no page of that state can be used again.
    /// One per thread at a time.
    pub(super) fn read(&self) -> Result<RoTxn<'_, WithTls>, StoreError> {
        let claimed = CLAIMED_SLOTS.with_borrow(|slots| slots.contains(&self.number));
        let slot_guard =
            match (&self.readers_lock, claimed) {
                (Some(lock), false) => Some(lock.lock().map_err(|source| {
                    StoreError::file("lock the readers of", &self.path, source)
                })?),
                (Some(_), true) | (None, _) => None,
            };
        let txn = self.env.read_txn().map_err(|source| self.error("begin to read", source))?;
        drop(slot_guard);
        if !claimed {
            CLAIMED_SLOTS.with_borrow_mut(|slots| slots.push(self.number));
        }
        Ok(txn)
    }

    /// Begins to write. The caller holds the directory's write lock.
    pub(super) fn write(&self) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(|source| self.error("begin to write", source))
    }

    /// The number of LMDB's last transaction: it changes with every commit of any process, when that begins to reach the
    /// disk and before a read sees it. A few nanoseconds.
    pub(super) fn last_transaction(&self) -> usize {
        self.env.info().last_txn_id
    }

    /// How far the data file is in use, in pages. A few nanoseconds.
    pub(super) fn pages(&self) -> usize {
        self.env.info().last_page_number
    }

    /// Octets of a page.
    pub(super) fn page_bytes(&self) -> Result<usize, StoreError> {
        let txn = self.read()?;
        let stat = self.meta.stat(&txn).map_err(|source| self.error("measure", source))?;
        Ok(stat.page_size as usize)
    }

    /// The most that the data file may grow to, in octets.
    pub(super) fn map_size(&self) -> usize {
        self.map_size
    }

    /// Brings everything committed so far to the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.env.force_sync().map_err(|source| self.error("sync", source))
    }

    /// Frees the reader slots of dead processes, which would keep old pages from being used again.
    pub(super) fn sweep_stale_readers(&self) -> Result<usize, StoreError> {
        let Some(lock) = &self.readers_lock else { return Ok(0) };
        // Whoever has the lock just now claims a slot or sweeps; the next round will do.
        let guard = lock
            .try_lock()
            .map_err(|source| StoreError::file("lock the readers of", &self.path, source))?;
        if guard.is_none() {
            return Ok(0);
        }
        self.env.clear_stale_readers().map_err(|source| self.error("sweep stale readers", source))
    }

    /// Copies a consistent state without its free pages.
    pub(super) fn copy_to(&self, file: &mut std::fs::File) -> Result<(), StoreError> {
        // The copy reads on this thread: the slot must be claimed under the readers' lock.
        drop(self.read()?);
        self.env
            .copy_to_file(file, heed::CompactionOption::Enabled)
            .map_err(|source| self.error("copy a snapshot", source))
    }

    pub(super) fn last_version(&self, txn: &RoTxn<'_>) -> Result<u64, StoreError> {
        let stored =
            self.meta.get(txn, META_LAST_VERSION).map_err(|source| self.error("read", source))?;
        match stored.map(<[u8; 8]>::try_from) {
            None => Ok(0),
            Some(Ok(bytes)) => Ok(u64::from_le_bytes(bytes)),
            Some(Err(_)) => Err(StoreError::Corrupt {
                key: "meta/last version".into(),
                reason: "it is not a number",
            }),
        }
    }

    pub(super) fn set_last_version(
        &self,
        txn: &mut RwTxn<'_>,
        version: u64,
    ) -> Result<(), StoreError> {
        let put = self.meta.put(txn, META_LAST_VERSION, &version.to_le_bytes());
        put.map_err(|source| self.error("write", source))
    }

    /// The tally that the last transaction left.
    pub(super) fn tally(&self, txn: &RoTxn<'_>) -> Result<Tally, StoreError> {
        let found = self.stored_tally(txn)?;
        found.map(|(_, tally)| tally).ok_or_else(|| StoreError::Corrupt {
            key: "meta/tally".into(),
            reason: "it is missing",
        })
    }

    /// The tally that is stored, and the transaction that it says it is of; `None` in a store of a release that kept
    /// none, and in one that such a release wrote to since.
    pub(super) fn stored_tally(&self, txn: &RoTxn<'_>) -> Result<Option<(u64, Tally)>, StoreError> {
        tally_of(txn, self.meta).map_err(|source| self.error("read", source))
    }

    pub(super) fn set_tally(&self, txn: &mut RwTxn<'_>, tally: &Tally) -> Result<(), StoreError> {
        let transaction = txn.id() as u64;
        let put = self.meta.put(txn, META_TALLY, &tally.encode(transaction));
        put.map_err(|source| self.error("write", source))
    }

    /// The size of the data file, in bytes.
    pub(super) fn file_bytes(&self) -> Result<u64, StoreError> {
        self.env.real_disk_size().map_err(|source| self.error("measure", source))
    }

    /// See [`StoreSize`].
    pub(super) fn size(&self) -> Result<StoreSize, StoreError> {
        let txn = self.read()?;
        let stat = |table: &Table| table.stat(&txn).map_err(|source| self.error("measure", source));
        let (records, expiry) = (stat(&self.records)?, stat(&self.expiry)?);
        let bytes = |table: &DatabaseStat| {
            let pages = table.branch_pages + table.leaf_pages + table.overflow_pages;
            pages as u64 * u64::from(table.page_size)
        };
        Ok(StoreSize {
            records: records.entries as u64,
            record_bytes: bytes(&records),
            index_bytes: bytes(&expiry),
        })
    }

    pub(super) fn error(&self, doing: &'static str, source: heed::Error) -> StoreError {
        error_of(doing, &self.path, self.map_size, source)
    }
}

/// Creates the directory, its owner's alone.
pub(super) fn create_directory(directory: &Path) -> Result<PathBuf, StoreError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    created.map_err(|source| StoreError::file("create the directory", directory, source))?;
    directory.canonicalize().map_err(|source| StoreError::file("find", directory, source))
}

/// Adds to the last version, so that versions given after what is in this file was written are not given again.
/// The file belongs to the caller alone.
pub(super) fn advance_versions(file: &Path, by: u64) -> Result<(), StoreError> {
    const MAP_SIZE: usize = 1 << 40;
    let failed = |source| error_of("advance the versions of", file, MAP_SIZE, source);
    let env = open_raw(file, EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK, MAP_SIZE)?;
    let mut txn = env.write_txn().map_err(failed)?;
    let meta: Table = env
        .open_database(&txn, Some("meta"))
        .map_err(failed)?
        .ok_or_else(|| StoreError::NotAStore { path: file.to_owned() })?;
    let last = meta.get(&txn, META_LAST_VERSION).map_err(failed)?;
    let last = last.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    meta.put(&mut txn, META_LAST_VERSION, &(last.saturating_add(by)).to_le_bytes())
        .map_err(failed)?;
    if let Some((_, tally)) = tally_of(&txn, meta).map_err(failed)? {
        let transaction = txn.id() as u64;
        meta.put(&mut txn, META_TALLY, &tally.encode(transaction)).map_err(failed)?;
    }
    txn.commit().map_err(failed)?;
    env.force_sync().map_err(failed)
}

fn open_raw(path: &Path, flags: EnvFlags, map_size: usize) -> Result<Env<WithTls>, StoreError> {
    const PAGE_BYTES: usize = 1 << 16; // a multiple of every page size in use
    let mut options = EnvOpenOptions::new();
    options
        .map_size(map_size.next_multiple_of(PAGE_BYTES))
        .max_readers(READERS_MAX)
        .max_dbs(DATABASES_MAX);
    // SAFETY: NO_SYNC risks the file's consistency on power loss only, which record checksums and snapshots
    // answer (ARCHITECTURE.md); memory stays sound because the map is read-only (no WRITE_MAP). NO_LOCK is used for
    // snapshots and for files of one owner, which nobody else writes.
    unsafe { options.flags(flags) };
    // SAFETY: the mapped file is changed by LMDB only. All processes go through this crate, which never
    // truncates or rewrites a data file in place (snapshots and restores rename whole files, a restore only while
    // `open.lock` shows that nobody has it open), keeps LMDB's lock file where it is, and writes under
    // `write.lock`. heed refuses a second open in one process. The directory belongs to the node's owner (0700).
    let env = unsafe { options.open(path) };
    env.map_err(|source| error_of("open the store in", path, map_size, source))
}

fn tally_of(txn: &RoTxn<'_>, meta: Table) -> heed::Result<Option<(u64, Tally)>> {
    Ok(meta.get(txn, META_TALLY)?.and_then(Tally::decode))
}

fn check_level(stored: &[u8], path: &Path) -> Result<(), StoreError> {
    let [found] = *stored else {
        return Err(StoreError::NotAStore { path: path.to_owned() });
    };
    if (LEVEL_OLDEST..=LEVEL_NEWEST).contains(&found) {
        return Ok(());
    }
    let item = format!("the store {}", path.display());
    Err(StoreError::FormatUnreadable { item, found, oldest: LEVEL_OLDEST, newest: LEVEL_NEWEST })
}

/// LMDB's error in the words of [`StoreError`].
fn error_of(doing: &'static str, path: &Path, map_size: usize, source: heed::Error) -> StoreError {
    let path = path.to_owned();
    match source {
        heed::Error::Mdb(MdbError::MapFull) => StoreError::MapFull { path, map_size },
        heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch) => {
            StoreError::NotAStore { path }
        }
        heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound) => StoreError::Corrupt {
            key: path.display().to_string(),
            reason: "LMDB found a damaged page",
        },
        heed::Error::Io(source) => StoreError::file(doing, path, source),
        heed::Error::Encoding(source) | heed::Error::Decoding(source) => {
            StoreError::Engine { doing, source: Arc::from(source) }
        }
        other @ (heed::Error::Mdb(_) | heed::Error::EnvAlreadyOpened) => {
            StoreError::Engine { doing, source: Arc::new(io::Error::other(other.to_string())) }
        }
    }
}
