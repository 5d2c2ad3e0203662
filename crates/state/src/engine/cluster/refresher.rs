//! Keeps the map of who serves what: asks nodes what they know of each other, and finds room for commits that have no node.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Pipeline, Value, cmd};
use tracing::{debug, info};

use super::connection::{Connection, Lost, text};
use super::job::Job;
use super::node::Node;
use super::nodes::{self, Picture, View};
use super::quota::{Copies, Standing};
use super::routes::{RETRY_AFTER, Shared};
use super::writer;

/// How often one node is asked while all is well.
const CALM_INTERVAL: Duration = Duration::from_secs(1);
/// How often all are asked while somebody needs to know.
const TROUBLED_INTERVAL: Duration = Duration::from_millis(25);
/// How often a shard that lacks copies is looked at.
const BELOW_INTERVAL: Duration = Duration::from_millis(200);
/// How long looking up a seed's name may hold up the rest.
const SEED_LOOKUP_MAX: Duration = Duration::from_millis(100);
/// What a node said longer ago is forgotten.
const VIEW_AGE_MAX: Duration = Duration::from_secs(3);

/// Finds room for parked commits, as long as the client lives.
pub(super) async fn find_room(shared: Arc<Shared>) {
    loop {
        shared.parking.notified().await;
        while shared.unpark(Instant::now()) {
            shared.refresh.notify_one();
            let _ = tokio::time::timeout(RETRY_AFTER, shared.parking.notified()).await;
        }
    }
}

/// Looks after shards that lack copies, as long as the client lives.
pub(super) async fn look_after_copies(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(BELOW_INTERVAL).await;
        follow_wanted_copies(&shared).await;
        for node in shared.primaries() {
            match node.standing() {
                Some(Standing::Below { .. }) => {
                    if let Err(error) = assess(&shared, &node).await {
                        debug!(node = %node.address, %error, "a shard without copies does not answer");
                    }
                }
                // Enough again: a write that has its copies says so of all before it.
                Some(Standing::Kept { .. }) => {
                    if let Some(partition) = node.any_unsettled() {
                        shared.touch(partition);
                    }
                }
                None => {}
            }
        }
    }
}

/// Fewer copies are enough at once; more are asked for as soon as every shard has them, so that nothing is refused while
/// they are being made.
async fn follow_wanted_copies(shared: &Arc<Shared>) {
    let (wanted, present) = (shared.copies_wanted(), shared.quota());
    if wanted < present.copies {
        shared.set_copies(wanted);
    }
    if wanted <= present.copies || !shared.is_complete() {
        return;
    }
    for node in shared.primaries() {
        let found = look(shared, &node).await.and_then(|[nodes, replication]| {
            let view = nodes::parse(&text(nodes)?, node.address);
            Ok(Copies::of(&view, &text(replication)?).caught_up(&present))
        });
        match found {
            Ok(found) if found >= wanted => {}
            Ok(_) => return,
            Err(error) => {
                debug!(node = %node.address, %error, "a shard does not say how many copies it has");
                return;
            }
        }
    }
    info!(copies = wanted, "every shard has so many copies: every write has them from now on");
    shared.set_copies(wanted);
}

async fn assess(shared: &Shared, node: &Arc<Node>) -> Result<(), Lost> {
    let [nodes, replication] = look(shared, node).await?;
    writer::assess(shared, node, nodes, replication).map(drop)
}

/// What a primary says of its replicas.
async fn look(shared: &Shared, node: &Arc<Node>) -> Result<[Value; 2], Lost> {
    let connection = node.control(&shared.options).await?;
    let mut ask = Pipeline::with_capacity(2);
    writer::look(&mut ask);
    let answers = writer::exchange(shared, node, &connection, &ask).await;
    if answers.is_err() {
        node.give_up(&connection).await;
    }
    writer::all_of(answers?)
}

/// Keeps the map, as long as the client lives. A node that is silent holds up nobody: what it owes is waited for beside
/// what others are asked next.
pub(super) async fn keep_map(shared: Arc<Shared>) {
    let mut views: HashMap<SocketAddr, (Instant, View)> = HashMap::new();
    let mut asked = FuturesUnordered::new();
    let mut owing: HashSet<SocketAddr> = HashSet::new();
    let mut is_wanted = true;
    let mut last = Instant::now();
    loop {
        let pause = if is_wanted { TROUBLED_INTERVAL } else { CALM_INTERVAL };
        tokio::select! {
            Some((address, view)) = asked.next(), if !asked.is_empty() => {
                owing.remove(&address);
                match view {
                    Ok(view) => {
                        views.insert(address, (Instant::now(), view));
                        put_together(&shared, &mut views);
                    }
                    Err(error) => {
                        debug!(%address, %error, "a node of the store does not answer");
                        views.remove(&address);
                    }
                }
                continue;
            }
            () = shared.refresh.notified(), if !is_wanted => {
                is_wanted = true;
                continue;
            }
            () = tokio::time::sleep_until((last + pause).into()) => {}
        }
        last = Instant::now();
        for address in whom_to_ask(&shared, is_wanted).await {
            if owing.insert(address) {
                asked.push(ask(Arc::clone(&shared), address));
            }
        }
        is_wanted = !shared.is_complete();
    }
}

/// All nodes and the seeds in need; else any one.
async fn whom_to_ask(shared: &Shared, is_needed: bool) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = shared.nodes().iter().map(|node| node.address).collect();
    if !is_needed && !addresses.is_empty() {
        let any = RandomState::new().hash_one(0) as usize % addresses.len();
        return vec![addresses.swap_remove(any)];
    }
    for seed in &shared.options.seeds {
        match tokio::time::timeout(SEED_LOOKUP_MAX, tokio::net::lookup_host(seed)).await {
            Ok(Ok(found)) => addresses.extend(found),
            Ok(Err(error)) => debug!(seed, %error, "a seed has no address"),
            Err(_) => debug!(seed, "the address of a seed is not found in time"),
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

async fn ask(shared: Arc<Shared>, address: SocketAddr) -> (SocketAddr, Result<View, Lost>) {
    let answer = async {
        let mut nodes = cmd("CLUSTER");
        nodes.arg("NODES");
        let answer = match shared.at(address) {
            Some(node) => {
                let connection = node.control(&shared.options).await?;
                let answer = connection.ask(nodes).await;
                if answer.is_err() {
                    node.give_up(&connection).await;
                }
                answer?
            }
            None => Connection::open(address, &shared.options).await?.ask(nodes).await?,
        };
        Ok(nodes::parse(&text(answer)?, address))
    };
    (address, answer.await)
}

fn put_together(shared: &Arc<Shared>, views: &mut HashMap<SocketAddr, (Instant, View)>) {
    views.retain(|_, (at, _)| at.elapsed() < VIEW_AGE_MAX);
    let mut by_age: Vec<_> = views.values().collect();
    by_age.sort_by_key(|(at, _)| *at);
    let slots = shared.layout.slots();
    let picture = Picture::of(by_age.iter().map(|(_, view)| view), slots);
    let (new, gone) = shared.update(picture);
    for node in new {
        debug!(address = %node.address, "a node of the store");
        shared.runtime.spawn(writer::run(Arc::clone(shared), node));
    }
    for node in gone {
        info!(address = %node.address, "a node left the store");
        let waiting: Vec<Job> = node.retire().into();
        shared.park_all(waiting, false);
    }
}
