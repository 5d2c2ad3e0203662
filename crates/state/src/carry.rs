//! Everything that one store holds, brought into another one that nobody uses yet: so a node's state becomes its cluster's.
//!
//! Keys, values and lifetimes arrive as they are, versions anew: whoever remembers one reads again. Nobody may write to either
//! store meanwhile. What is in the target before goes first, for it can only be what an attempt has left that came to no end;
//! so an attempt may be made again, whatever has changed in the source since.

use futures_util::future::BoxFuture;

use crate::batch::{Batch, Expect};
use crate::error::{CommitError, StoreError};
use crate::key::Key;
use crate::record::Record;
use crate::store::Store;

/// Records of one page, which are committed together.
const PAGE: usize = 512;

/// How often a commit in doubt is made again.
const ATTEMPTS_MAX: usize = 5;

/// A store that can list everything.
pub trait Whole: Store {
    /// At most `limit` records of all spaces, in one order, behind `after`. Fewer than `limit` means that there are no
    /// more.
    ///
    /// # Errors
    /// As for [`Store::scan`].
    fn page<'a>(
        &'a self,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>>;
}

/// What was brought over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Records that the target has now.
    pub records: usize,
    /// Those that it had before.
    pub removed: usize,
}

/// Not everything was brought over. The source is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The source cannot be read.
    #[error("the present state cannot be read: {0}")]
    Source(#[source] StoreError),
    /// The target cannot be read.
    #[error("the new stores cannot be read: {0}")]
    Target(#[source] StoreError),
    /// The target takes no writes.
    #[error("the new stores do not take the state: {0}")]
    Commit(#[source] CommitError),
    /// The target does not have what it was given.
    #[error("the new stores have {found} records of {expected}; somebody else writes to them")]
    Differs {
        /// How many it was given.
        expected: usize,
        /// How many it has.
        found: usize,
    },
}

/// Brings all that lives in `from` into `to`, in which nothing else is afterwards.
///
/// # Errors
/// [`CarryError`]; it can be done again.
pub async fn carry(from: &dyn Whole, to: &dyn Whole) -> Result<Carried, CarryError> {
    let mut removed = 0;
    loop {
        let page = to.page(None, PAGE).await.map_err(CarryError::Target)?;
        let is_last = page.len() < PAGE;
        removed += page.len();
        let gone = page.into_iter().map(|(key, _)| Batch::new().delete(key, Expect::Any));
        commit(to, gone.collect()).await?;
        if is_last {
            break;
        }
    }
    let (mut records, mut after) = (0, None);
    loop {
        let page = from.page(after.as_ref(), PAGE).await.map_err(CarryError::Source)?;
        let is_last = page.len() < PAGE;
        records += page.len();
        after = page.last().map(|(key, _)| key.clone());
        let put = |(key, record): (Key, Record)| {
            Batch::new().put(key, Expect::Any, record.value, record.expires_at)
        };
        commit(to, page.into_iter().map(put).collect()).await?;
        if is_last {
            break;
        }
    }
    let found = count(to).await?;
    // What has ended in between is no loss.
    if found > records {
        return Err(CarryError::Differs { expected: records, found });
    }
    Ok(Carried { records, removed })
}

async fn count(store: &dyn Whole) -> Result<usize, CarryError> {
    let (mut count, mut after) = (0, None);
    loop {
        let page = store.page(after.as_ref(), PAGE).await.map_err(CarryError::Target)?;
        count += page.len();
        if page.len() < PAGE {
            return Ok(count);
        }
        after = page.last().map(|(key, _)| key.clone());
    }
}

/// Makes commits that may be made twice.
async fn commit(to: &dyn Whole, mut batches: Vec<Batch>) -> Result<(), CarryError> {
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let outcomes = to.commit_all(batches.clone()).await;
        let mut left = Vec::new();
        for (batch, outcome) in batches.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => {}
                Err(error) if may_go_on(&error) => {
                    left.push(batch);
                    last = Some(error);
                }
                Err(error) => return Err(CarryError::Commit(error)),
            }
        }
        batches = left;
        if batches.is_empty() {
            return Ok(());
        }
    }
    last.map_or(Ok(()), |error| Err(CarryError::Commit(error)))
}

fn may_go_on(error: &CommitError) -> bool {
    match error {
        CommitError::Unknown { .. } => true,
        CommitError::Store(error) => error.is_transient(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
