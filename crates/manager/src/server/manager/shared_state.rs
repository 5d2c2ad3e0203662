//! What a manager knows of its cluster's stores as its containers use them: where they are, for those that start next, and
//! how they are, for the operator.

use std::collections::BTreeMap;

use topology::credentials::{ClusterDirectory, CredentialError};
use topology::protocol::StoresReport;
use topology::{ProcessName, ProcessState, StoreList, TopologyView};
use tracing::warn;

use crate::server::noted::Noted;

/// Of a member whose state lies in the cluster's stores.
pub(super) struct SharedState {
    list: Noted<StoreList>,
    reports: BTreeMap<ProcessName, StoresReport>,
}

impl SharedState {
    /// As `DIR/cluster/` says; `None`: the state lies in the node's own directory.
    pub(super) fn open(files: &ClusterDirectory) -> Result<Option<SharedState>, CredentialError> {
        let Some(list) = StoreList::load(&files.stores())? else { return Ok(None) };
        let list = Noted::new(files.stores(), list, StoreList::write);
        Ok(Some(SharedState { list, reports: BTreeMap::new() }))
    }

    /// Where the stores are, for a node that is admitted.
    pub(super) fn list(&self) -> &StoreList {
        self.list.list()
    }

    /// The view has changed.
    pub(super) fn seen(&mut self, view: &TopologyView) {
        self.reports.retain(|name, _| {
            view.process(name).is_some_and(|process| process.state == ProcessState::Ready)
        });
        let list = StoreList::of(view);
        if !list.stores.is_empty() {
            self.keep(list.and_then(self.list()).of_members(view));
        }
    }

    /// A container says how they are.
    pub(super) fn reported(&mut self, name: ProcessName, report: StoresReport) {
        // Fewer are asked for by fewer members only; whoever opens the stores looks how many there are.
        if report.copies > self.list().copies {
            self.keep(StoreList { copies: report.copies, ..self.list().clone() });
        }
        self.reports.insert(name, report);
    }

    /// How they are, as that container sees them that sees most amiss.
    pub(super) fn worst(&self) -> Option<StoresReport> {
        let amiss = |report: &&StoresReport| {
            (report.unserved_per_mille, report.silent.len(), report.below.len())
        };
        self.reports.values().max_by_key(amiss).cloned()
    }

    fn keep(&mut self, list: StoreList) {
        if list == *self.list() {
            return;
        }
        self.list.keep(list, |kept| {
            if let Err(error) = kept {
                warn!(%error, "where the stores are is not noted; containers begin with what was");
            }
        });
    }
}
