//! A container's eye on its cluster's stores: how many copies a write must have as members come and go, and what the
//! operator hears when there are fewer, or when a part of the stores answers nobody.

use std::time::Duration;

use config::{BelowQuota, ClusterSettings};
use state::engine::cluster::{ClusterStatus, ClusterStore, QuotaStatus};
use topology::protocol::{ShardBelow, StoresReport, ToManager};
use topology::server::Reporter;
use topology::{ReleaseFormats, TopologyView};
use tracing::{error, info, warn};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it says what has not changed: the next manager has not heard it.
const SAID_AGAIN_AFTER: u32 = 10;

/// The stores as one container sees them.
#[derive(Clone)]
pub(super) struct SharedState {
    store: ClusterStore,
    settings: Option<ClusterSettings>,
}

impl SharedState {
    pub(super) fn new(store: ClusterStore, settings: Option<ClusterSettings>) -> SharedState {
        SharedState { store, settings }
    }

    /// As many copies as the members of this view can hold, and records as the cluster writes them.
    pub(super) fn follow(&self, view: &TopologyView) {
        // A node that has just left its cluster is shown no members.
        if let Some(settings) = self.settings.as_ref().filter(|_| !view.nodes.is_empty()) {
            self.store.want_copies(settings.copies_among(view.nodes.len()));
        }
        self.store.write_level(ReleaseFormats::own().writes(view.format_level).get());
    }

    /// Looks how the stores are, as long as the container lives.
    pub(super) async fn look_after(self, reporter: Reporter) {
        let below = self.settings.as_ref().map(|settings| settings.below_quota);
        let mut last = StoresReport::default();
        let mut unsaid = 0;
        loop {
            // The store's thread ends with the process.
            let Ok(status) = self.store.status().await else { return };
            let report = report(&status, self.store.copies(), below.unwrap_or_default());
            if report != last || unsaid >= SAID_AGAIN_AFTER {
                if report != last {
                    log(&report, &last);
                }
                reporter.report(&ToManager::Stores(report.clone()));
                (last, unsaid) = (report, 0);
            }
            unsaid += 1;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What the operator should hear of a status.
fn report(status: &ClusterStatus, copies: usize, below: BelowQuota) -> StoresReport {
    let quota = |shard: &state::engine::cluster::ShardStatus| match shard.answer.as_ref()?.quota {
        QuotaStatus::Kept => None,
        QuotaStatus::Below { found } => Some(ShardBelow { primary: shard.primary, found }),
    };
    let silent = status.shards.iter().filter(|shard| shard.answer.is_none());
    StoresReport {
        copies,
        continues_below: below == BelowQuota::Continue,
        unserved_per_mille: status.unserved_per_mille,
        silent: silent.map(|shard| shard.primary).collect(),
        below: status.shards.iter().filter_map(quota).collect(),
    }
}

/// On the change from one to the next.
fn log(report: &StoresReport, last: &StoresReport) {
    let is_away =
        |report: &StoresReport| report.unserved_per_mille > 0 || !report.silent.is_empty();
    if is_away(report) {
        error!(unserved_per_mille = report.unserved_per_mille, silent = ?report.silent,
            "a part of the cluster's stores answers nobody: new calls and registrations of it are told to try again");
    } else if is_away(last) {
        info!("the cluster's stores serve all records again");
    }
    if report.below != last.below {
        for shard in &report.below {
            let told = if report.continues_below {
                "too few copies: writes go on, and a second fault may lose them"
            } else {
                "too few copies: writes are refused"
            };
            warn!(primary = %shard.primary, copies = report.copies, found = shard.found, "{told}");
        }
        if report.below.is_empty() {
            info!(copies = report.copies, "every write has its copies again");
        }
    }
    if report.copies != last.copies {
        info!(copies = report.copies, "so many copies has every write on other hosts");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use state::engine::cluster::{ShardAnswer, ShardStatus};

    use super::*;

    #[test]
    fn silence_and_missing_copies_are_told() {
        let shard = |port: u16, quota: Option<QuotaStatus>| ShardStatus {
            primary: ([192, 0, 2, 1], port).into(),
            slots: 5_000,
            answer: quota.map(|quota| ShardAnswer { offset: 1, replicas: Vec::new(), quota }),
        };
        let status = ClusterStatus {
            shards: vec![
                shard(1, Some(QuotaStatus::Kept)),
                shard(2, Some(QuotaStatus::Below { found: 0 })),
                shard(3, None),
            ],
            unserved_per_mille: 12,
        };
        let told = report(&status, 1, BelowQuota::Refuse);
        assert_eq!(told.below, [ShardBelow { primary: ([192, 0, 2, 1], 2).into(), found: 0 }]);
        assert_eq!(told.silent, [([192, 0, 2, 1], 3).into()]);
        assert_eq!((told.copies, told.unserved_per_mille, told.continues_below), (1, 12, false));
    }
}
