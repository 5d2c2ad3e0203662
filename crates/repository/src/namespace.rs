//! Which keys of an etcd are a cluster's of ours.
//!
//! | | records, their writers' notes, locks | files |
//! |---|---|---|
//! | an etcd that the nodes run | `outlast/…` | `outlast-files/…` |
//! | an operator's own, which others may use too | `outlast/CLUSTER/…` | `outlast-files/CLUSTER/…` |
//!
//! So whoever may read and write what begins with `outlast` may do all that is needed, and no cluster meets the keys of another.

use bytes::Bytes;

use crate::store::layout::Layout;

/// Where a cluster's keys lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// In an etcd that nobody else uses.
    #[must_use]
    pub fn alone() -> Namespace {
        Namespace(String::new())
    }

    /// Of the cluster with that id, in an etcd where others may have theirs.
    #[must_use]
    pub fn of_cluster(id: &str) -> Namespace {
        Namespace(format!("{id}/"))
    }

    /// Before all records, and what belongs to them.
    #[must_use]
    pub fn records(&self) -> String {
        format!("outlast/{}", self.0)
    }

    /// The keys of all records, and of what belongs to them: the first, and the first behind them.
    #[must_use]
    pub fn range(&self) -> (Bytes, Bytes) {
        Layout::new(&self.records()).all()
    }

    /// The lock of that name.
    #[must_use]
    pub fn lock(&self, name: &str) -> Bytes {
        format!("{}x/{name}", self.records()).into()
    }

    /// Beside the records: whoever follows those is told nothing of files.
    pub(crate) fn files(&self) -> String {
        format!("outlast-files/{}", self.0)
    }
}
