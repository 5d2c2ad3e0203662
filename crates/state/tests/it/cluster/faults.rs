//! Faults under load: what was acknowledged stays, and no call waits longer than it may.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use state::engine::cluster::{BelowQuota, ClusterStore, Options, WriteQuota, failover};
use state::{Batch, CommitError, Expect, Key, Prefix, Space, Store, Version};

use super::servers::{PRIMARIES, Plan, Servers, are_installed};

const SPACE: Space = Space::named("faults");
const PATIENCE: Duration = Duration::from_secs(2);
/// What a call may take beyond its patience: the silence of one node, and a machine that has much else to do.
const BEYOND: Duration = Duration::from_millis(800);

fn options(servers: &Servers, below: BelowQuota) -> Options {
    Options {
        seeds: servers.seeds(),
        quota: WriteQuota { copies: 1, below, own_host_counts: true },
        patience: PATIENCE,
        ..Options::default()
    }
}

async fn store(options: Options) -> ClusterStore {
    let store = ClusterStore::connect(options).expect("the store is opened");
    assert!(store.is_ready_within(Duration::from_secs(10)).await, "all partitions are served");
    store
}

fn key(writer: usize, id: usize) -> Key {
    Key::new(SPACE, format!("tag-{writer}-{}", id % 40), id.to_string())
}

/// What one writer knows of its records: each is written once, and replaced or deleted now and then.
#[derive(Default)]
struct Ledger {
    acknowledged: HashMap<Key, Option<Version>>,
    unknown: HashMap<Key, Option<Version>>,
    refused: usize,
    slowest: Duration,
}

/// Commits in a row until told to stop: creates, replaces and deletes records that are its own.
async fn write_until(store: ClusterStore, writer: usize, stop: Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::default();
    for id in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        // Every third record is the one written two turns ago again, every ninth of these is deleted.
        let (key, is_delete) =
            if id % 3 == 2 { (key(writer, id - 2), id % 9 == 2) } else { (key(writer, id), false) };
        if ledger.unknown.contains_key(&key) {
            continue;
        }
        let before = ledger.acknowledged.get(&key).copied().flatten();
        let expect = before.map_or(Expect::Absent, Expect::Version);
        let batch = if is_delete {
            Batch::new().delete(key.clone(), expect)
        } else {
            Batch::new().put(key.clone(), expect, format!("{writer} {id}"), None)
        };
        let began = Instant::now();
        let outcome = store.commit(batch).await;
        ledger.slowest = ledger.slowest.max(began.elapsed());
        match outcome {
            Ok(versions) => {
                ledger.acknowledged.insert(key, (!is_delete).then_some(versions[0]));
            }
            Err(CommitError::Unknown { .. }) => {
                ledger.acknowledged.remove(&key);
                ledger.unknown.insert(key, before);
            }
            Err(CommitError::Store(error)) if error.is_transient() => {
                ledger.refused += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Its records are its own: a conflict would be a commit that was done and told as not done, or done twice.
            Err(error) => panic!("writer {writer}, record {id}: {error}"),
        }
    }
    ledger
}

/// Everything acknowledged is there as it was acknowledged, and what is unknown is either as before or as written.
async fn check(store: &ClusterStore, ledgers: &[Ledger]) {
    for ledger in ledgers {
        for (key, version) in &ledger.acknowledged {
            let found = store.read(key).await.expect("reads succeed");
            assert_eq!(found.map(|record| record.version), *version, "{key} was acknowledged");
        }
        for (key, before) in &ledger.unknown {
            let found = store.read(key).await.expect("reads succeed");
            let version = found.map(|record| record.version);
            assert!(version >= *before || version.is_none(), "{key}");
        }
    }
    // The index tells the same.
    let count = |ledger: &Ledger| ledger.acknowledged.values().flatten().count();
    let acknowledged: usize = ledgers.iter().map(count).sum();
    let unknown: usize = ledgers.iter().map(|ledger| ledger.unknown.len()).sum();
    let (mut listed, mut after) = (0, None);
    loop {
        let page = store.scan(&SPACE, &Prefix::All, after.as_ref(), 1_000).await;
        let page = page.expect("scans succeed");
        listed += page.len();
        if page.len() < 1_000 {
            break;
        }
        after = page.last().map(|(key, _)| key.clone());
    }
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&listed),
        "{listed} of {acknowledged}"
    );
}

/// Writers that run beside a fault; what they know, once they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Ledger>>,
}

impl Load {
    fn start(store: &ClusterStore) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |writer| tokio::spawn(write_until(store.clone(), writer, Arc::clone(&stop)));
        Self { writers: (0..16).map(write).collect(), stop }
    }

    async fn end(self) -> Vec<Ledger> {
        self.stop.store(true, Ordering::Release);
        let mut ledgers = Vec::new();
        for writer in self.writers {
            ledgers.push(writer.await.expect("the writer does not panic"));
        }
        ledgers
    }
}

fn slowest(ledgers: &[Ledger]) -> Duration {
    ledgers.iter().map(|ledger| ledger.slowest).max().unwrap_or_default()
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// `kill -9` of a primary, and its replica promoted at once: all acknowledged writes are there.
#[tokio::test]
async fn a_killed_primary_loses_nothing_acknowledged() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    // The promoted one has no replica: with `Refuse` it would take no writes.
    let options = options(&servers, BelowQuota::Continue);
    let store = store(options.clone()).await;
    let load = Load::start(&store);
    pause(500).await;
    let killed = Instant::now();
    servers.nodes[0].signal(Signal::KILL);
    let replica = servers.nodes[PRIMARIES].address;
    let fenced = failover::fence(servers.nodes[0].address, &options).await;
    assert_eq!(fenced, failover::Fenced::Gone);
    let promoted = failover::promote(&[replica], &options, Duration::from_secs(5)).await;
    assert_eq!(promoted.expect("it is elected"), replica);
    let gap = killed.elapsed();
    pause(500).await;
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    let unknown: usize = ledgers.iter().map(|ledger| ledger.unknown.len()).sum();
    assert_eq!(unknown, 0, "the new primary's ledger tells");
    assert!(slowest(&ledgers) < gap + BEYOND, "{:?} with a gap of {gap:?}", slowest(&ledgers));
}
