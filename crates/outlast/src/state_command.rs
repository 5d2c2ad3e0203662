//! `outlast state`: every shard of the cluster's state, and whether it has its copies; a copy made anew; what nobody serves, served
//! again.

use std::net::SocketAddr;
use std::path::Path;

use config::{BelowQuota, ClusterSettings};
use serde::Serialize;
use state::engine::cluster::{ClusterStatus, QuotaStatus, ReplicaLink, ReplicaStatus, ShardStatus};
use topology::TopologyView;
use topology::protocol::{Answer, Request};

use crate::command_line::{Reader, StateCommand};
use crate::control::ask;
use crate::failure::Failure;
use crate::output;
use crate::stores::{self, cluster};

mod duplicating;
mod recovering;

pub(crate) use recovering::must_be_elsewhere;

pub(crate) fn state(directory: &Path, command: StateCommand) -> Result<(), Failure> {
    stores::must_exist(directory)?;
    match command {
        StateCommand::Status { json } => status(directory, json.into()),
        StateCommand::Duplicate { store, force } => {
            duplicating::duplicate(directory, &store, force)
        }
        StateCommand::Recover { force } => recovering::recover(directory, force),
    }
}

fn status(directory: &Path, reader: Reader) -> Result<(), Failure> {
    let Some(list) = cluster::list(directory)? else {
        let shown = Shown { state: Place::Node, ..Shown::default() };
        return match reader {
            Reader::Program => output::json(&shown),
            Reader::Person => {
                output::line(
                    "the state lies in this node's own directory: no copies, write quota 0",
                );
                Ok(())
            }
        };
    };
    let settings = cluster::settings(directory);
    let store = cluster::open(directory, &list, settings.as_ref(), cluster::clock())?;
    let status = stores::runtime()?.block_on(async {
        // Whatever it comes to is shown.
        store.is_ready_within(cluster::COMMAND_WAITS).await;
        store.status().await
    });
    let status = status.map_err(anyhow::Error::from)?;
    let view = view(directory);
    let shown = Shown::of(&status, settings.as_ref(), list.copies, view.as_ref());
    match reader {
        Reader::Program => output::json(&shown)?,
        Reader::Person => show(&shown),
    }
    match shown.amiss() {
        None => Ok(()),
        Some(told) => Err(anyhow::Error::msg(told).into()),
    }
}

/// The stores by their addresses, if a manager tells.
fn view(directory: &Path) -> Option<TopologyView> {
    match ask(directory, Request::Status) {
        Ok(Answer::Status(status)) => Some(status.view),
        Ok(_) | Err(_) => None,
    }
}

/// Where the state lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// In the node's own directory.
    Node,
    /// In the stores of its cluster.
    #[default]
    Cluster,
    /// In the operator's own Redis or Valkey cluster.
    Own,
}

/// What programs read.
#[derive(Debug, Default, Serialize)]
struct Shown {
    state: Place,
    /// As configured.
    write_quota: u8,
    /// So many copies has every write at present.
    copies: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    below_quota: Option<BelowQuota>,
    unserved_per_mille: usize,
    shards: Vec<ShownShard>,
}

#[derive(Debug, Serialize)]
struct ShownShard {
    primary: ShownStore,
    slots: usize,
    answers: bool,
    /// How many copies can be had where that is too few.
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<usize>,
    replicas: Vec<ShownReplica>,
}

#[derive(Debug, Serialize)]
struct ShownStore {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct ShownReplica {
    #[serde(flatten)]
    store: ShownStore,
    /// `online`, `syncing`, `away` or `failed`.
    link: &'static str,
    /// Octets of the stream of changes that are not known to have arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_bytes: Option<u64>,
    /// It shares its primary's host, and does not count unless `allow_colocation` says so.
    on_own_host: bool,
}

impl Shown {
    fn of(
        status: &ClusterStatus,
        settings: Option<&ClusterSettings>,
        copies: usize,
        view: Option<&TopologyView>,
    ) -> Shown {
        let store = |address: Option<SocketAddr>| {
            let found = view.and_then(|view| {
                let mut all = view.processes.iter();
                let process =
                    all.find(|it| it.link_address.is_some() && it.link_address == address)?;
                Some(view.cluster_name(&process.name).to_string())
            });
            ShownStore { name: found, address }
        };
        let replica = |replica: &ReplicaStatus| {
            let (link, behind_bytes) = match replica.link {
                _ if replica.is_failed => ("failed", None),
                ReplicaLink::Online { behind } => ("online", Some(behind)),
                ReplicaLink::Syncing => ("syncing", None),
                ReplicaLink::Away => ("away", None),
            };
            let on_own_host = replica.is_on_own_host;
            ShownReplica { store: store(replica.address), link, behind_bytes, on_own_host }
        };
        let shard = |shard: &ShardStatus| ShownShard {
            primary: store(Some(shard.primary)),
            slots: shard.slots,
            answers: shard.answer.is_some(),
            below: shard.answer.as_ref().and_then(|answer| match answer.quota {
                QuotaStatus::Kept => None,
                QuotaStatus::Below { found } => Some(found),
            }),
            replicas: shard.answer.iter().flat_map(|it| &it.replicas).map(replica).collect(),
        };
        let own = settings.is_some_and(|settings| !settings.stores.own().is_empty());
        Shown {
            state: if own { Place::Own } else { Place::Cluster },
            write_quota: settings.map_or(0, |settings| settings.write_quota),
            copies,
            below_quota: settings.map(|settings| settings.below_quota),
            unserved_per_mille: status.unserved_per_mille,
            shards: status.shards.iter().map(shard).collect(),
        }
    }

    /// What is wrong, in one line.
    fn amiss(&self) -> Option<String> {
        if self.unserved_per_mille > 0 || self.shards.iter().any(|shard| !shard.answers) {
            let per_mille = self.unserved_per_mille;
            return Some(if per_mille == 0 {
                // What the stores that answer know of them may be a moment old.
                let silent = self.shards.iter().filter(|shard| !shard.answers).count();
                let (primaries, they) =
                    if silent == 1 { ("primary", "its") } else { ("primaries", "their") };
                format!(
                    "{silent} {primaries} did not answer; look again in a moment, and start {they} nodes if that stays so"
                )
            } else {
                format!(
                    "{per_mille} of 1000 records are served by nobody; start the nodes whose stores do not answer"
                )
            });
        }
        let below = self.shards.iter().filter(|shard| shard.below.is_some()).count();
        (below > 0).then(|| {
            let have = if below == 1 { "shard has" } else { "shards have" };
            format!(
                "{below} {have} fewer than {} on other hosts; start the nodes of those that are away",
                counted(self.copies)
            )
        })
    }
}

fn show(shown: &Shown) {
    let below = match shown.below_quota.unwrap_or_default() {
        BelowQuota::Refuse => "refused",
        BelowQuota::Continue => "continued",
    };
    if shown.state == Place::Own {
        output::line(
            "the state lies in your own Redis or Valkey cluster, which keeps its copies by itself",
        );
    }
    output::line(&format!(
        "write quota {}: every write has {} on other hosts; with fewer, writes are {below}",
        shown.write_quota,
        counted(shown.copies)
    ));
    let mut rows = Vec::new();
    for shard in &shown.shards {
        let state = match (shard.answers, shard.below) {
            (false, _) => "silent".to_owned(),
            (true, Some(found)) => format!("{found} of {}", counted(shown.copies)),
            (true, None) => "serves".to_owned(),
        };
        rows.push([text(&shard.primary), "primary".to_owned(), shard.slots.to_string(), state]);
        for replica in &shard.replicas {
            let behind = replica.behind_bytes.filter(|behind| *behind > 0);
            let behind =
                behind.map(|behind| format!(", {behind} bytes behind")).unwrap_or_default();
            let place = if replica.on_own_host { ", on its primary's host" } else { "" };
            let state = format!("{}{behind}{place}", replica.link);
            rows.push([
                format!("  {}", text(&replica.store)),
                "copy".to_owned(),
                String::new(),
                state,
            ]);
        }
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(Into::into).collect();
    output::table(&["STORE", "ROLE", "SLOTS", "STATE"], &rows);
}

/// So many copies, for a person.
fn counted(copies: usize) -> String {
    if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") }
}

fn text(store: &ShownStore) -> String {
    let address = store.address.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    match &store.name {
        Some(name) => format!("{name} {address}"),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use state::engine::cluster::ShardAnswer;

    use super::*;

    fn replica(link: ReplicaLink, is_failed: bool) -> ReplicaStatus {
        let address = Some(([192, 0, 2, 2], 6222).into());
        ReplicaStatus { address, is_failed, is_on_own_host: false, link }
    }

    fn status(quota: QuotaStatus, replicas: Vec<ReplicaStatus>) -> ClusterStatus {
        let answer = Some(ShardAnswer { offset: 7, replicas, quota });
        let primary = ([192, 0, 2, 1], 6220).into();
        ClusterStatus {
            shards: vec![ShardStatus { primary, slots: 9, answer }],
            unserved_per_mille: 0,
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_what_is_well_is_not() {
        let well =
            status(QuotaStatus::Kept, vec![replica(ReplicaLink::Online { behind: 3 }, false)]);
        let shown = Shown::of(&well, None, 1, None);
        assert_eq!(shown.amiss(), None);
        let replica_shown = &shown.shards[0].replicas[0];
        assert_eq!((replica_shown.link, replica_shown.behind_bytes), ("online", Some(3)));

        let failed = replica(ReplicaLink::Away, true);
        let below =
            Shown::of(&status(QuotaStatus::Below { found: 0 }, vec![failed]), None, 1, None);
        assert_eq!(below.shards[0].replicas[0].link, "failed");
        assert!(below.amiss().unwrap().starts_with("1 shard has fewer than 1 copy"));

        let mut hushed = well.clone();
        hushed.shards[0].answer = None;
        let told = Shown::of(&hushed, None, 1, None).amiss().unwrap();
        assert!(told.starts_with("1 primary did not answer"), "{told}");

        let silent = ClusterStatus { unserved_per_mille: 500, ..well };
        let shown = Shown::of(&silent, None, 1, None);
        assert!(shown.amiss().unwrap().starts_with("500 of 1000 records"));
    }
}
