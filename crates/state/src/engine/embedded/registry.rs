//! One environment is opened once per process: LMDB's locks would break otherwise. A second open of the same
//! directory finds the first one here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::environment::{self, Environment, OPEN_LOCK_FILE, WRITE_LOCK_FILE};
use super::keeper::Keeper;
use super::lock::{LockFile, LockGuard};
use super::open_store::OpenStore;
use super::options::Options;
use super::queue::Queue;
use super::writer;
use crate::error::StoreError;

/// How long an open waits for processes that write, or for the last close in this process.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(10);
const OPEN_RETRY: Duration = Duration::from_millis(2);

static OPENED: Mutex<Option<HashMap<PathBuf, Weak<Open>>>> = Mutex::new(None);

/// An open environment with its threads; the last handle closes it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) shared: Arc<OpenStore>,
    /// `None` only while it closes.
    pub(super) queue: Option<Queue>,
    writer: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    /// Last, so that the environment has closed before the next open may look: fields drop in this order.
    entry: Option<Entry>,
}

/// A place in [`OPENED`], given back when dropped.
#[derive(Debug)]
struct Entry {
    directory: PathBuf,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(opened) = opened().as_mut() {
            opened.remove(&self.directory);
        }
    }
}

/// What is open in this process under a path, if it is.
pub(super) fn find(path: &Path) -> Option<Arc<Open>> {
    let path = path.canonicalize().ok()?;
    opened().as_ref()?.get(&path)?.upgrade()
}

/// Opens a directory's environment, or finds it open.
pub(super) fn open(directory: &Path, options: Options) -> Result<Arc<Open>, StoreError> {
    let directory = environment::create_directory(directory)?;
    let deadline = Instant::now() + OPEN_WAIT_MAX;
    loop {
        let mut opened = opened();
        let known = opened.get_or_insert_default().get(&directory).map(Weak::upgrade);
        let Some(found) = known else {
            let mut open = Open::start(&directory, options, deadline)?;
            open.entry = Some(Entry { directory: directory.clone() });
            let open = Arc::new(open);
            opened.get_or_insert_default().insert(directory, Arc::downgrade(&open));
            return Ok(open);
        };
        // Before a handle may be dropped here: if it is the last, its entry is taken out of the map.
        drop(opened);
        match found {
            Some(open) if open.shared.options.agrees_with(&options) => return Ok(open),
            Some(_) => return Err(StoreError::OptionsDiffer { path: directory }),
            // The last handle was just dropped: another thread is closing, and removes the entry when it is done.
            None if Instant::now() < deadline => std::thread::sleep(OPEN_RETRY),
            None => return Err(StoreError::InUse { path: directory }),
        }
    }
}

fn opened() -> MutexGuard<'static, Option<HashMap<PathBuf, Weak<Open>>>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    fn start(directory: &Path, options: Options, deadline: Instant) -> Result<Self, StoreError> {
        let open_lock = LockFile::open(&directory.join(OPEN_LOCK_FILE))?;
        if !open_lock.try_share().map_err(|source| StoreError::file("lock", directory, source))? {
            return Err(StoreError::InUse { path: directory.to_owned() });
        }
        let write_lock = LockFile::open(&directory.join(WRITE_LOCK_FILE))?;
        let turn = lock_until(&write_lock, directory, deadline)?;
        let environment = Environment::open(directory, options.durability, options.map_size)?;
        drop(turn);
        let shared = Arc::new(OpenStore::new(environment, options, write_lock, open_lock));
        let (queue, writer) = writer::writer(Arc::clone(&shared));
        let keeper = Keeper::new(Arc::clone(&shared));
        let mut open = Self { shared, queue: Some(queue), writer: None, keeper: None, entry: None };
        // If the second thread cannot be had, dropping `open` ends the first.
        open.writer = Some(spawn("state-writer", move || writer.run())?);
        open.keeper = Some(spawn("state-keeper", move || keeper.run())?);
        Ok(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The writer ends when it has written all that is queued; then the keeper syncs a last time.
        drop(self.queue.take());
        // A panic in a thread was printed by the thread itself.
        let _ = self.writer.take().map(JoinHandle::join);
        self.shared.notify(|notices| notices.stopping = true);
        let _ = self.keeper.take().map(JoinHandle::join);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map_err(|source| StoreError::Engine {
        doing: "start its threads",
        source: Arc::new(source),
    })
}

/// Takes the write lock for an open. Bounded, unlike a writer's wait: nobody could report the holder yet.
fn lock_until<'a>(
    lock: &'a LockFile,
    directory: &Path,
    deadline: Instant,
) -> Result<LockGuard<'a>, StoreError> {
    loop {
        match lock.try_lock().map_err(|source| StoreError::file("lock", directory, source))? {
            Some(guard) => return Ok(guard),
            None if Instant::now() >= deadline => {
                return Err(StoreError::InUse { path: directory.to_owned() });
            }
            None => std::thread::sleep(OPEN_RETRY),
        }
    }
}
