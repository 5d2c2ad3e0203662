//! Lets the data file grow ahead of LMDB, one page at a time.
//!
//! LMDB writes new pages that lie side by side with one call, and the kernel keeps what came with one call as one large
//! piece (a folio) of its page cache. From then on whoever writes one page in it has all of the piece walked and marked
//! as changed, and refreshes write single pages all over the file: in a store of 300,000 records a refresh took 12 µs
//! of system time and three times the writing to the disk, against 6 µs with pages that came one by one. So each page
//! is written by itself, as zeros, before LMDB comes to it.
//!
//! What is written lies behind the end of the file, and only who has the write lock and no transaction writes it:
//! nothing of LMDB's is ever there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use tracing::debug;

use super::environment::{DATA_FILE, Environment};
use crate::error::StoreError;

/// A file grows ahead by half of what is in use, and not by less …
const AHEAD_PAGES_MIN: u64 = 16;
/// … nor by more than this: what a transaction may add, several times over.
const AHEAD_PAGES_MAX: u64 = 1_024;
/// Written at one time, under the lock: less than a millisecond.
const STEP_PAGES_MAX: u64 = 256;

/// The end of an environment's data file.
#[derive(Debug)]
pub(super) struct Growth {
    /// `None` once it has failed: then LMDB makes the file longer, and says so if it cannot.
    file: Option<File>,
    page: Vec<u8>,
    /// The file had so many pages, or more, when it was last looked at.
    pages: u64,
    pages_max: u64,
}

impl Growth {
    /// Of an environment that is open for writing.
    pub(super) fn of(environment: &Environment) -> Result<Growth, StoreError> {
        let path = environment.path.join(DATA_FILE);
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|source| StoreError::file("open", &path, source))?;
        let page_bytes = environment.page_bytes()?;
        let pages_max = (environment.map_size() / page_bytes) as u64;
        Ok(Growth { file: Some(file), page: vec![0; page_bytes], pages: 0, pages_max })
    }

    /// Makes the file a step longer if what is in use comes near its end. The caller has the write lock and no
    /// transaction; `pages_used` is what its last one left.
    pub(super) fn keep_ahead(&mut self, pages_used: u64) {
        let ahead = (pages_used / 2).clamp(AHEAD_PAGES_MIN, AHEAD_PAGES_MAX);
        let wanted = (pages_used + ahead).min(self.pages_max);
        if wanted <= self.pages {
            return;
        }
        let Some(file) = &self.file else { return };
        match self.lengthen(file, pages_used, wanted) {
            Ok(pages) => self.pages = pages,
            Err(error) => {
                debug!(%error, "the data file is left to grow by itself");
                self.file = None;
            }
        }
    }

    /// How many pages the file has then.
    fn lengthen(&self, file: &File, pages_used: u64, wanted: u64) -> io::Result<u64> {
        let page_bytes = self.page.len() as u64;
        // Other processes lengthen it as well.
        let end = file.metadata()?.len().div_ceil(page_bytes).max(pages_used);
        let until = wanted.min(end + STEP_PAGES_MAX);
        for page in end..until {
            file.write_all_at(&self.page, page * page_bytes)?;
        }
        Ok(until.max(end))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PAGE: u64 = 4_096;

    fn growth(file: &File, pages_max: u64) -> Growth {
        let file = Some(file.try_clone().unwrap());
        Growth { file, page: vec![0; PAGE as usize], pages: 0, pages_max }
    }

    fn pages(file: &File) -> u64 {
        assert_eq!(file.metadata().unwrap().len() % PAGE, 0);
        file.metadata().unwrap().len() / PAGE
    }

    #[test]
    fn the_file_keeps_ahead_of_what_is_used_by_steps() {
        let file = tempfile::tempfile().unwrap();
        let mut growth = growth(&file, u64::MAX);
        growth.keep_ahead(2);
        assert_eq!(pages(&file), 2 + AHEAD_PAGES_MIN);
        growth.keep_ahead(100);
        assert_eq!(pages(&file), 150);
        // A transaction took far more than was ahead.
        file.set_len(9_000 * PAGE).unwrap();
        growth.keep_ahead(9_000);
        assert_eq!(pages(&file), 9_000 + STEP_PAGES_MAX);
        for _ in 0..10 {
            growth.keep_ahead(9_000);
        }
        assert_eq!(pages(&file), 9_000 + AHEAD_PAGES_MAX);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 3 * PAGE as usize + 1], 0).unwrap();
        // Less in use than is written: the last transaction was given up.
        growth(&file, u64::MAX).keep_ahead(1);
        let mut found = vec![0; 3 * PAGE as usize + 1];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found.iter().all(|octet| *octet == 7));
        assert_eq!(pages(&file), 1 + AHEAD_PAGES_MIN);
    }

    #[test]
    fn it_ends_with_the_map() {
        let file = tempfile::tempfile().unwrap();
        let mut growth = growth(&file, 20);
        growth.keep_ahead(15);
        growth.keep_ahead(20);
        assert_eq!(pages(&file), 20);
    }
}
