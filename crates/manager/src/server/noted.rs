//! Lists that the manager's loop changes and a thread beside it brings to the disk: a disk may take longer for that than a
//! manager may be silent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use topology::credentials::CredentialError;

/// How a list is brought to the disk.
type Write<T> = fn(&T, &Path) -> Result<(), CredentialError>;

/// A list as it is now, and its file, which follows.
pub(crate) struct Noted<T> {
    list: T,
    file: Arc<NotedFile<T>>,
}

struct NotedFile<T> {
    path: PathBuf,
    write: Write<T>,
    /// Threads begin in any order; each writes what is the latest then.
    latest: Mutex<T>,
    /// What stands on the disk. Held while it is written: one at a time.
    written: Mutex<T>,
}

impl<T: Clone + PartialEq + Send + 'static> Noted<T> {
    /// What stands in the file at `path`.
    pub(crate) fn new(path: PathBuf, list: T, write: Write<T>) -> Noted<T> {
        let (latest, written) = (Mutex::new(list.clone()), Mutex::new(list.clone()));
        Noted { list, file: Arc::new(NotedFile { path, write, latest, written }) }
    }

    pub(crate) fn list(&self) -> &T {
        &self.list
    }

    /// That is the list from now on. `then` hears on a thread of its own when the file says so, or something later, or why it
    /// does not; a later list is tried anew.
    pub(crate) fn keep(
        &mut self,
        list: T,
        then: impl FnOnce(Result<(), CredentialError>) + Send + 'static,
    ) {
        self.list.clone_from(&list);
        *lock(&self.file.latest) = list;
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || then(file.write_latest()));
    }
}

impl<T: Clone + PartialEq> NotedFile<T> {
    fn write_latest(&self) -> Result<(), CredentialError> {
        let mut written = lock(&self.written);
        let latest = lock(&self.latest).clone();
        if *written != latest {
            (self.write)(&latest, &self.path)?;
            *written = latest;
        }
        Ok(())
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // A plain value: a panic elsewhere leaves none half-changed.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    fn write(number: &u32, path: &Path) -> Result<(), CredentialError> {
        // Whole, as real ones are.
        let beside = path.with_extension("new");
        std::fs::write(&beside, number.to_string())
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|source| CredentialError::Io { path: path.to_owned(), source })
    }

    fn on_disk(path: &Path) -> u32 {
        std::fs::read_to_string(path).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn whoever_waits_for_a_list_finds_it_or_a_later_one_and_the_last_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        let mut noted = Noted::new(path.clone(), 0, write);
        let (heard, all) = mpsc::channel();
        for number in 1..=200 {
            let (heard, path) = (heard.clone(), path.clone());
            noted.keep(number, move |kept| heard.send((number, kept, on_disk(&path))).unwrap());
        }
        assert_eq!(*noted.list(), 200, "at once");
        drop(heard);
        for _ in 1..=200 {
            let (number, kept, found) = all.recv().unwrap();
            kept.unwrap();
            assert!(found >= number, "{found} after {number}");
        }
        assert_eq!(on_disk(&path), 200);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_told_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not there").join("list");
        let mut noted = Noted::new(path.clone(), 0, write);
        let (heard, all) = mpsc::channel();
        let again = heard.clone();
        noted.keep(1, move |kept| heard.send(kept.is_ok()).unwrap());
        assert!(!all.recv().unwrap());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        noted.keep(1, move |kept| again.send(kept.is_ok()).unwrap());
        assert!(all.recv().unwrap());
        assert_eq!(on_disk(&path), 1);
    }
}
