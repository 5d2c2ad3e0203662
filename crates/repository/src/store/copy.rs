//! The copy on this node: an embedded store whose records say by which revision they were written.
//!
//! What is copied changes in one batch with the [`Position`], which is expected as it was found: two that follow at once
//! overtake each other, but neither goes back nor leaves anything out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use state::clock::Clock;
use state::codec::{RecordError, Writer};
use state::engine::embedded::{Durability, EmbeddedStore, Options};
use state::{
    Batch, CommitError, Expect, Key, Prefix, Record, Space, Store, StoreError, Version, Watch,
};

use super::layout;
use super::position::{self, Position, SPACES_MAX};

/// Records that are copied in one batch, beside the position.
const CHANGES_MAX: usize = 1_024;

/// The node's copy.
#[derive(Clone)]
pub(super) struct Copy {
    store: EmbeddedStore,
}

/// What has become of a record.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) key: Key,
    /// By which change.
    pub(super) revision: i64,
    /// What etcd holds; `None`: it was removed.
    pub(super) held: Option<Bytes>,
}

/// Why a batch was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// Another process copies, and has changed the position meanwhile: look again.
    #[error("another process of this node has gone on with it")]
    Overtaken,
    /// The copy's own.
    #[error("the copy on this node: {0}")]
    Store(#[from] StoreError),
}

impl Copy {
    pub(super) fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Copy, StoreError> {
        // A copy could be made again, but not while etcd is away; and LMDB does not tell its damaged pages.
        let options = Options { durability: Durability::EveryCommit, clock, ..Options::default() };
        Ok(Copy { store: EmbeddedStore::open(directory, options)? })
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.store.directory().to_owned()
    }

    pub(super) async fn read(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let copied = self.store.read(key).await?;
        copied.map(|copied| original(key, copied)).transpose()
    }

    pub(super) async fn scan(
        &self,
        space: &Space,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        let copied = self.store.scan(space, prefix, after, limit).await?;
        let originals = copied.into_iter().map(|(key, record)| {
            let record = original(&key, record)?;
            Ok((key, record))
        });
        originals.collect()
    }

    pub(super) fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        self.store.watch(space, prefix)
    }

    pub(super) fn last_commit(&self) -> Option<u64> {
        self.store.last_commit()
    }

    /// How far it is, and by which of its own versions that is known. What cannot be read means: read it whole.
    pub(super) async fn position(&self) -> Result<(Position, Expect), StoreError> {
        let Some(record) = self.store.read(&position::key()).await? else {
            return Ok((Position::default(), Expect::Absent));
        };
        let position = Position::decode(&record.value).unwrap_or_default();
        Ok((position, Expect::Version(record.version)))
    }

    /// Copies what has changed behind `from` up to `to`, in order, unless that is done already.
    ///
    /// # Errors
    /// [`CopyError::Overtaken`] when the copy stands before `from`, or must be read whole.
    pub(super) async fn advance(
        &self,
        from: i64,
        to: i64,
        changes: &[Changed],
    ) -> Result<(), CopyError> {
        loop {
            let (position, expect) = self.position().await?;
            let at = position.revision.filter(|at| *at >= from).ok_or(CopyError::Overtaken)?;
            if at >= to {
                return Ok(());
            }
            let new: Vec<&Changed> = changes.iter().filter(|change| change.revision > at).collect();
            match self.copy_all(position, expect, &new, to).await {
                // Whoever was first is looked at again.
                Err(CopyError::Overtaken) => {}
                outcome => return outcome,
            }
        }
    }

    /// The position moves with the last of the batches.
    async fn copy_all(
        &self,
        mut position: Position,
        mut expect: Expect,
        changes: &[&Changed],
        to: i64,
    ) -> Result<(), CopyError> {
        let last = changes.len().saturating_sub(1) / CHANGES_MAX;
        for number in 0..=last {
            let rest = &changes[number * CHANGES_MAX..];
            if number == last {
                position.revision = Some(to);
            }
            let chunk = &rest[..rest.len().min(CHANGES_MAX)];
            expect = Expect::Version(self.change(&mut position, expect, chunk).await?);
        }
        Ok(())
    }

    /// Changes records together with the position.
    pub(super) async fn change(
        &self,
        position: &mut Position,
        expect: Expect,
        changes: &[&Changed],
    ) -> Result<Version, CopyError> {
        let mut writes = Batch::new();
        for change in changes {
            if !is_known(&mut position.spaces, &change.key.space) {
                tracing::warn!(key = %change.key, "more than {SPACES_MAX} spaces: not copied");
                continue;
            }
            writes = match &change.held {
                Some(held) => {
                    // What this release cannot read is told to whoever reads it.
                    let end = layout::decode(held).ok().and_then(|(_, end)| end);
                    let copied = copied(change.revision, held);
                    writes.put(change.key.clone(), Expect::Any, copied, end)
                }
                None => writes.delete(change.key.clone(), Expect::Any),
            };
        }
        let mut batch = Batch::new().put(position::key(), expect, position.encode(), None);
        batch.writes.append(&mut writes.writes);
        match self.store.commit_copy(batch).await {
            Ok(versions) => Ok(versions[0]),
            Err(CommitError::Conflict { .. }) => Err(CopyError::Overtaken),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(error) => Err(CopyError::Store(StoreError::Engine {
                doing: "change the copy of the repository",
                source: Arc::new(error),
            })),
        }
    }

    /// By which change a record was written that is in the copy, whether or not it can be read.
    pub(super) async fn revision_of(&self, key: &Key) -> Option<i64> {
        let copied = self.store.read(key).await.ok()??;
        parted(&copied.value).ok().map(|(revision, _)| revision)
    }

    /// The keys of a space, page by page.
    pub(super) async fn keys(
        &self,
        space: &Space,
        after: Option<&Key>,
    ) -> Result<Vec<Key>, StoreError> {
        let page = self.store.scan(space, &Prefix::All, after, CHANGES_MAX).await?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }
}

fn is_known(spaces: &mut BTreeSet<Space>, space: &Space) -> bool {
    if spaces.contains(space) {
        return true;
    }
    spaces.len() < SPACES_MAX && spaces.insert(space.clone())
}

/// The value of a copied record: the revision, and what etcd holds. Its level is that of the position.
fn copied(revision: i64, held: &Bytes) -> Bytes {
    let mut writer = Writer::new(COPY_LEVEL, held.len() + 11);
    writer.fixed(&revision.to_be_bytes());
    writer.fixed(held);
    writer.finish()
}

const COPY_LEVEL: u8 = 1;

fn parted(copied: &Bytes) -> Result<(i64, Bytes), RecordError> {
    match copied.first() {
        Some(&COPY_LEVEL) => {}
        Some(&level) => return Err(RecordError::FormatLevel(level)),
        None => return Err(RecordError::Malformed),
    }
    let revision = copied.get(1..9).and_then(|octets| octets.try_into().ok());
    let revision = revision.map(i64::from_be_bytes).ok_or(RecordError::Malformed)?;
    Ok((revision, copied.slice(9..)))
}

/// The record of which this is a copy.
///
/// # Errors
/// [`StoreError::Corrupt`] when this release cannot read it.
pub(super) fn original(key: &Key, copied: Record) -> Result<Record, StoreError> {
    let read =
        parted(&copied.value).and_then(|(revision, held)| Ok((revision, layout::decode(&held)?)));
    let (revision, (value, expires_at)) = read.map_err(|error| StoreError::Corrupt {
        key: key.to_string(),
        reason: match error {
            RecordError::FormatLevel(_) => "another release wrote it",
            RecordError::Malformed => "it is malformed",
        },
    })?;
    Ok(Record { version: Version(revision.unsigned_abs()), value, expires_at })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use state::clock::SystemClock;

    fn key() -> Key {
        Key::new(Space::named("account"), "tag", "alice")
    }

    fn changed(revision: i64, value: &[u8]) -> Changed {
        Changed { key: key(), revision, held: Some(layout::encode(value, None)) }
    }

    /// A copy that stands at a revision.
    async fn copy_at(revision: i64) -> (Copy, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let copy = Copy::open(directory.path(), Arc::new(SystemClock::default())).unwrap();
        let (mut position, expect) = copy.position().await.unwrap();
        position.revision = Some(revision);
        copy.change(&mut position, expect, &[]).await.unwrap();
        (copy, directory)
    }

    /// Of two that follow the one that is behind tells what the other one knew already.
    #[tokio::test]
    async fn a_copy_never_goes_back() {
        let (copy, _directory) = copy_at(1).await;
        copy.advance(1, 7, &[changed(5, b"old"), changed(7, b"new")]).await.unwrap();
        copy.advance(1, 5, &[changed(5, b"old")]).await.unwrap();
        assert_eq!(copy.position().await.unwrap().0.revision, Some(7));
        assert_eq!(copy.read(&key()).await.unwrap().unwrap().value.as_ref(), b"new");
        // What is behind the copy is left out, what is before it is taken.
        let behind = Changed { held: None, ..changed(6, b"") };
        copy.advance(1, 9, &[behind, changed(9, b"newer")]).await.unwrap();
        let record = copy.read(&key()).await.unwrap().unwrap();
        assert_eq!((record.value.as_ref(), record.version), (b"newer".as_slice(), Version(9)));
    }

    #[tokio::test]
    async fn a_copy_that_lacks_changes_takes_no_later_ones() {
        let (copy, _directory) = copy_at(1).await;
        let outcome = copy.advance(3, 7, &[changed(7, b"new")]).await;
        assert!(matches!(outcome, Err(CopyError::Overtaken)));
        assert!(copy.read(&key()).await.unwrap().is_none());
    }
}
