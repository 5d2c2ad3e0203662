//! What a cluster is like at this moment, for operators.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use redis::Pipeline;

use super::connection::{Lost, text};
use super::layout::Partition;
use super::node::Node;
use super::nodes;
use super::quota::{Copies, Standing, Stream};
use super::routes::Shared;
use super::writer;

/// A cluster at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its shards, by the address of the primary.
    pub shards: Vec<ShardStatus>,
    /// How many of a thousand records nobody serves.
    pub unserved_per_mille: usize,
}

/// One primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Who serves it.
    pub primary: SocketAddr,
    /// How many of Redis's 16,384 slots it has.
    pub slots: usize,
    /// What it says; `None`: it does not answer.
    pub answer: Option<ShardAnswer>,
}

/// What a primary says of its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardAnswer {
    /// How many octets it has written to its stream of changes.
    pub offset: u64,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Whether writes reach as many copies as they must.
    pub quota: QuotaStatus,
}

/// Whether writes reach as many copies as they must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaStatus {
    /// They do, or it is waited for.
    Kept,
    /// They cannot: so many copies can be had.
    Below {
        /// How many.
        found: usize,
    },
}

/// A replica, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Where it is; `None`: nobody knows.
    pub address: Option<SocketAddr>,
    /// The majority of primaries holds it failed.
    pub is_failed: bool,
    /// It shares its primary's host.
    pub is_on_own_host: bool,
    /// How it follows.
    pub link: ReplicaLink,
}

/// How a replica follows its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaLink {
    /// It receives changes.
    Online {
        /// So many octets are not known to have arrived. Told about once a second.
        behind: u64,
    },
    /// It is being sent everything.
    Syncing,
    /// There is no connection.
    Away,
}

/// Asks every primary.
pub(super) async fn status(shared: &Arc<Shared>) -> ClusterStatus {
    let unserved = Partition::all().filter(|it| shared.owner(*it).is_none()).count();
    let picture = shared.picture();
    let serving = picture.nodes.iter().filter(|(_, known)| known.slots > 0);
    let mut shards = join_all(serving.map(|(id, known)| async {
        let node = shared.nodes().into_iter().find(|node| node.id == *id);
        let answer = match node {
            Some(node) => ask(shared, &node).await.ok(),
            None => None,
        };
        ShardStatus { primary: known.address, slots: known.slots, answer }
    }))
    .await;
    shards.sort_by_key(|shard| shard.primary);
    let unserved_per_mille = (unserved * 1_000).div_ceil(Partition::all().count());
    ClusterStatus { shards, unserved_per_mille }
}

async fn ask(shared: &Shared, node: &Arc<Node>) -> Result<ShardAnswer, Lost> {
    let connection = node.control(&shared.options).await?;
    let mut look = Pipeline::with_capacity(2);
    writer::look(&mut look);
    let answers = writer::exchange(shared, node, &connection, &look).await;
    if answers.is_err() {
        node.give_up(&connection).await;
    }
    let [view, replication] = writer::all_of(answers?)?;
    let copies = Copies::of(&nodes::parse(&text(view)?, node.address), &text(replication)?);
    let quota = match Standing::of(&copies, &shared.quota(), node.standing()) {
        Standing::Kept { .. } => QuotaStatus::Kept,
        Standing::Below { awaited, .. } => QuotaStatus::Below { found: awaited },
    };
    let replicas = copies.replicas.iter().map(|replica| ReplicaStatus {
        address: replica.address,
        is_failed: replica.is_failed,
        is_on_own_host: replica.on_own_host,
        link: match replica.stream {
            Stream::Online { offset } => {
                ReplicaLink::Online { behind: copies.offset.saturating_sub(offset) }
            }
            Stream::Syncing => ReplicaLink::Syncing,
            Stream::Away => ReplicaLink::Away,
        },
    });
    Ok(ShardAnswer { offset: copies.offset, replicas: replicas.collect(), quota })
}
