//! Faults under load: what was acknowledged stays, and no call waits longer than it may.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use state::clock::{Clock, ManualClock};
use state::contract::START;
use state::engine::cluster::{
    BelowQuota, ClusterStore, OnQuota, Options, QuotaChange, QuotaStatus, ReplicaLink, ShardAnswer,
    WriteQuota, failover,
};
use state::{Batch, CommitError, Expect, Key, Prefix, Space, Store, StoreError, Version};

use super::credentials::Credentials;
use super::servers::{PRIMARIES, Plan, Server, Servers, are_installed};

const SPACE: Space = Space::named("faults");
/// Long enough for an election on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(8);
/// What a call may take beyond what it waits for: the silence of one node, and that machine.
const BEYOND: Duration = Duration::from_secs(4);

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
async fn write_until(store: ClusterStore, writer: usize, seen: Arc<Seen>) -> Ledger {
    let mut ledger = Ledger::default();
    for id in 0.. {
        if seen.stop.load(Ordering::Acquire) {
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
                seen.acknowledged.fetch_add(1, Ordering::AcqRel);
                ledger.acknowledged.insert(key, (!is_delete).then_some(versions[0]));
            }
            Err(CommitError::Unknown { .. }) => {
                seen.unknown.fetch_add(1, Ordering::AcqRel);
                ledger.acknowledged.remove(&key);
                ledger.unknown.insert(key, before);
            }
            Err(CommitError::Store(error)) if error.is_transient() => {
                seen.refused.fetch_add(1, Ordering::AcqRel);
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
    let unknown = unknown(ledgers);
    let (mut listed, mut after) = (0, None);
    loop {
        let page = store.scan(&SPACE, &Prefix::All, after.as_ref(), 1_000).await;
        let page = page.expect("scans succeed");
        // Records that a test wrote beside the load.
        listed += page.iter().filter(|(key, _)| !key.tag.starts_with(b"tag-77-")).count();
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

/// What all writers have seen so far.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    unknown: AtomicUsize,
    refused: AtomicUsize,
}

/// Writers that run beside a fault; what they know, once they are told to stop.
struct Load {
    seen: Arc<Seen>,
    writers: Vec<tokio::task::JoinHandle<Ledger>>,
}

impl Load {
    fn start(store: &ClusterStore) -> Self {
        let seen = Arc::new(Seen::default());
        let write = |writer| tokio::spawn(write_until(store.clone(), writer, Arc::clone(&seen)));
        Self { writers: (0..16).map(write).collect(), seen }
    }

    /// Waits until so many more commits are acknowledged: the machine may have much else to do.
    async fn goes_on(&self, commits: usize) {
        let acknowledged = || self.seen.acknowledged.load(Ordering::Acquire);
        let enough = acknowledged() + commits;
        wait_until("commits are acknowledged", || acknowledged() >= enough).await;
    }

    async fn end(self) -> Vec<Ledger> {
        self.seen.stop.store(true, Ordering::Release);
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

fn unknown(ledgers: &[Ledger]) -> usize {
    ledgers.iter().map(|ledger| ledger.unknown.len()).sum()
}

fn refused(ledgers: &[Ledger]) -> usize {
    ledgers.iter().map(|ledger| ledger.refused).sum()
}

async fn shard(store: &ClusterStore, primary: SocketAddr) -> ShardAnswer {
    let status = store.status().await.expect("it answers");
    let shard = status.shards.into_iter().find(|shard| shard.primary == primary);
    shard.and_then(|shard| shard.answer).expect("the primary answers")
}

/// The key of a record that this server has.
async fn a_key_on(server: &Server, store: &ClusterStore) -> Key {
    for id in 0..40 {
        let put = Batch::new().put(key(77, id), Expect::Any, "value", None);
        store.commit(put).await.expect("it is committed");
        let pattern = format!("*tag-77-{id}\0*");
        if !server.must::<Vec<Vec<u8>>>(redis::cmd("KEYS").arg(pattern)).is_empty() {
            return key(77, id);
        }
    }
    panic!("none of 40 tags lies on one of three servers")
}

async fn list(store: &ClusterStore) -> usize {
    store.scan(&SPACE, &Prefix::All, None, 1_000).await.expect("scans succeed").len()
}

/// Waits, and lets others work meanwhile.
async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_until_async(what, async || is_so()).await;
}

pub(super) async fn wait_until_async(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause(20).await;
    }
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
    load.goes_on(500).await;
    let killed = Instant::now();
    servers.nodes[0].signal(Signal::KILL);
    let replica = servers.nodes[PRIMARIES].address;
    let fenced = failover::fence(servers.nodes[0].address, &options).await;
    assert_eq!(fenced, failover::Fenced::Gone);
    let alive = Some(servers.nodes[1].address);
    let of_another = failover::promote(alive, &[replica], &options, Duration::ZERO).await;
    let refused = of_another.expect_err("it would take over from whom it follows").to_string();
    assert!(refused.contains("none of its replicas answers"), "{refused}");
    let dead = Some(servers.nodes[0].address);
    let promoted = failover::promote(dead, &[replica], &options, Duration::from_secs(5)).await;
    assert_eq!(promoted.expect("it is elected"), replica);
    let gap = killed.elapsed();
    load.goes_on(500).await;
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    assert_eq!(unknown(&ledgers), 0, "the new primary's ledger tells");
    assert!(slowest(&ledgers) < gap + BEYOND, "{:?} with a gap of {gap:?}", slowest(&ledgers));
}

/// A primary that is stopped, not dead: its replica is promoted, and what waits for it goes there as soon as that is known.
/// When it goes on, what was sent to it long ago changes nothing.
#[tokio::test]
async fn a_stopped_primary_is_left_for_its_successor() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let options = options(&servers, BelowQuota::Continue);
    let store = store(options.clone()).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    let stopped = Instant::now();
    servers.nodes[0].signal(Signal::STOP);
    let replica = servers.nodes[PRIMARIES].address;
    let dead = Some(servers.nodes[0].address);
    let promoted = failover::promote(dead, &[replica], &options, Duration::from_secs(5)).await;
    assert_eq!(promoted.expect("it is elected"), replica);
    let gap = stopped.elapsed();
    load.goes_on(500).await;
    servers.nodes[0].signal(Signal::CONT);
    load.goes_on(500).await;
    let ledgers = load.end().await;
    servers.wait_until_well(1);
    check(&store, &ledgers).await;
    assert_eq!(unknown(&ledgers), 0, "the new primary's ledger tells");
    assert!(slowest(&ledgers) < gap + BEYOND, "{:?} with a gap of {gap:?}", slowest(&ledgers));
    // Fenced while it hears nothing, a server ends as soon as it goes on.
    let former = &servers.nodes[0];
    former.signal(Signal::STOP);
    assert_eq!(failover::fence(former.address, &options).await, failover::Fenced::Silent);
    former.signal(Signal::CONT);
    wait_until_async("it ends", async || {
        failover::fence(former.address, &options).await == failover::Fenced::Gone
    })
    .await;
}

/// A primary that hangs for less than anybody's patience: every commit is done once, whichever copy of it came first.
#[tokio::test]
async fn a_primary_that_hangs_for_a_moment_does_nothing_twice() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let store = store(options(&servers, BelowQuota::Refuse)).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    for _ in 0..2 {
        servers.nodes[0].signal(Signal::STOP);
        pause(700).await;
        servers.nodes[0].signal(Signal::CONT);
        load.goes_on(300).await;
    }
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    assert_eq!(unknown(&ledgers), 0, "its ledger tells");
    let stats = servers.nodes[0].info("commandstats").expect("it answers");
    assert!(stats.contains("cmdstat_client|kill"), "connections in doubt are killed: {stats}");
}

/// Without anybody who takes a dead primary's place, calls end by their patience: unsent ones as not done.
#[tokio::test]
async fn no_call_outlasts_its_patience() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let patience = Duration::from_secs(2);
    let store = store(Options { patience, ..options(&servers, BelowQuota::Refuse) }).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    servers.nodes[0].signal(Signal::STOP);
    pause(200).await;
    let keys: Vec<_> = (0..64).map(|id| key(99, id)).collect();
    let reads = keys.iter().map(|key| async {
        let began = Instant::now();
        let end = store.read(key).await;
        (end.is_ok(), began.elapsed())
    });
    let reads = futures_util::future::join_all(reads).await;
    let failed = reads.iter().filter(|(is_ok, _)| !is_ok).count();
    assert!(failed > 0 && failed < reads.len(), "a third of them lies there: {failed}");
    let longest = reads.iter().map(|(_, took)| *took).max().unwrap_or_default();
    assert!(longest < patience + BEYOND, "{longest:?}");
    pause(1_000).await;
    servers.nodes[0].signal(Signal::CONT);
    let ledgers = load.end().await;
    assert!(unknown(&ledgers) > 0, "nobody could tell in time");
    assert!(slowest(&ledgers) < patience + BEYOND, "{:?}", slowest(&ledgers));
    servers.wait_until_well(1);
    check(&store, &ledgers).await;
}

/// Slots that move to another primary under load: commits find them, none is lost or done in part.
#[tokio::test]
async fn a_slot_is_moved_away_under_load() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let store = store(options(&servers, BelowQuota::Refuse)).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    let (from, to) = (&servers.nodes[0], &servers.nodes[1]);
    let mut moved = 0;
    for slot in 0..640_u16 {
        let mut list = redis::cmd("CLUSTER");
        list.arg("GETKEYSINSLOT").arg(slot).arg(100_000);
        if from.must::<Vec<Vec<u8>>>(&list).is_empty() {
            continue;
        }
        servers.move_slot(slot, from, to);
        moved += 1;
    }
    assert!(moved >= 5, "partitions were moved: {moved}");
    pause(300).await;
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    assert_eq!(unknown(&ledgers), 0);
    assert!(slowest(&ledgers) < PATIENCE + BEYOND, "{:?}", slowest(&ledgers));
    let status = store.status().await.expect("it answers");
    let slots = |address| status.shards.iter().find(|it| it.primary == address).map(|it| it.slots);
    assert_eq!(slots(to.address), Some(5_462 + moved));
}

/// A replica dies, and the shard goes on with an alarm; when the replica is back, writes wait for it again.
#[tokio::test]
async fn below_quota_a_shard_goes_on_where_that_is_allowed() {
    if !are_installed() {
        return;
    }
    let mut servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    let on_quota: OnQuota = Arc::new(move |change| lock(&told).push(change.clone()));
    let options = Options { on_quota: Some(on_quota), ..options(&servers, BelowQuota::Continue) };
    let store = store(options).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    servers.nodes[PRIMARIES].signal(Signal::KILL);
    let primary = servers.nodes[0].address;
    let below = QuotaChange { primary, copies: 1, below: Some(0) };
    wait_until("the alarm", || lock(&changes).last() == Some(&below)).await;
    pause(300).await;
    let shard = shard(&store, primary).await;
    assert_eq!(shard.quota, QuotaStatus::Below { found: 0 });
    assert!(shard.replicas[0].is_failed);
    servers.restart(PRIMARIES);
    let again = QuotaChange { below: None, ..below };
    wait_until("the end of the alarm", || lock(&changes).last() == Some(&again)).await;
    let ledgers = load.end().await;
    assert_eq!((unknown(&ledgers), refused(&ledgers)), (0, 0));
    check(&store, &ledgers).await;
    servers.wait_until_well(1);
    let shard = self::shard(&store, primary).await;
    assert_eq!(shard.quota, QuotaStatus::Kept);
    assert!(matches!(shard.replicas[0].link, ReplicaLink::Online { .. }));
}

/// A replica dies, and writes are refused: nothing is acknowledged that only the primary has, and nobody may read it.
#[tokio::test]
async fn below_quota_a_shard_refuses_where_that_is_asked() {
    if !are_installed() {
        return;
    }
    let mut servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let store = store(options(&servers, BelowQuota::Refuse)).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    let refused_key = a_key_on(&servers.nodes[0], &store).await;
    let put = || Batch::new().put(refused_key.clone(), Expect::Any, "value", None);
    servers.nodes[PRIMARIES].signal(Signal::KILL);
    let deadline = Instant::now() + Duration::from_secs(20);
    // Unless this test came to it when the majority had flagged the replica: then none waited for its copy.
    let mut was_unknown = false;
    loop {
        assert!(Instant::now() < deadline, "it is refused at last");
        match store.commit(put()).await {
            Err(CommitError::Store(StoreError::BelowQuota { copies: 1, found: 0, .. })) => break,
            Err(CommitError::Unknown { .. }) => was_unknown = true,
            other => panic!("neither acknowledged nor anything else: {other:?}"),
        }
    }
    if was_unknown {
        let read = store.read(&refused_key).await;
        assert!(matches!(read, Err(StoreError::BelowQuota { .. })), "{read:?}");
    }
    let began = Instant::now();
    let refused_at_once = store.commit(put()).await;
    assert!(refused_at_once.is_err() && began.elapsed() < Duration::from_millis(300));

    wait_until("others are refused", || load.seen.refused.load(Ordering::Acquire) > 0).await;
    let ledgers = load.end().await;
    servers.restart(PRIMARIES);
    wait_until_async("writes are taken again", async || store.commit(put()).await.is_ok()).await;
    assert!(store.read(&refused_key).await.is_ok_and(|record| record.is_some()));
    check(&store, &ledgers).await;
}

/// Servers whose functions were removed get them again.
#[tokio::test]
async fn missing_functions_are_loaded_again() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let store = store(options(&servers, BelowQuota::Refuse)).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    for server in &servers.nodes[..PRIMARIES] {
        server.must::<()>(redis::cmd("FUNCTION").arg("FLUSH"));
        assert!(store.scan(&SPACE, &Prefix::All, None, 10).await.is_ok());
    }
    pause(200).await;
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    assert_eq!((unknown(&ledgers), refused(&ledgers)), (0, 0));
}

/// What is over is removed from Redis, and from the index, though nobody writes.
#[tokio::test]
async fn what_is_over_is_swept() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let clock = Arc::new(ManualClock::at(START));
    let options = Options { clock: clock.clone(), ..options(&servers, BelowQuota::Refuse) };
    let store = store(options).await;
    let end = START.saturating_add(Duration::from_secs(60));
    for id in 0..200 {
        let expires_at = (id % 2 == 0).then_some(end);
        let put = Batch::new().put(key(1, id), Expect::Absent, "value", expires_at);
        store.commit(put).await.expect("it is committed");
    }
    // As if Redis had removed one by itself.
    let records = || servers.record_names();
    let natively = records().into_iter().next().expect("there are records");
    assert!(
        servers.nodes[..PRIMARIES]
            .iter()
            .any(|node| { node.ask::<usize>(redis::cmd("DEL").arg(&natively)) == Some(1) })
    );
    assert_eq!((records().len(), servers.index_entries()), (199, 200));
    clock.set(end.saturating_add(Duration::from_secs(10)));
    let living = list(&store).await;
    assert!((99..=100).contains(&living));
    wait_until_async("it is swept", async || {
        // Nobody sweeps a partition again within seconds of this clock, though he was disturbed.
        clock.set(clock.now().saturating_add(Duration::from_secs(15)));
        assert_eq!(list(&store).await, living);
        (records().len(), servers.index_entries()) == (living, living)
    })
    .await;
}

/// Encrypted and with certificates on both sides; a stranger's certificate is not let in.
#[tokio::test]
async fn connections_are_encrypted_where_told() {
    if !are_installed() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (ours, strangers) = (Credentials::new(), Credentials::new());
    let tls = Some(ours.write(directory.path()));
    let servers = Servers::start(&Plan { replicas: 1, tls, ..Plan::default() });
    let plain = options(&servers, BelowQuota::Refuse);
    let encrypted = Options { tls: Some(ours.client()), ..plain.clone() };
    let store = store(encrypted).await;
    let load = Load::start(&store);
    load.goes_on(500).await;
    let ledgers = load.end().await;
    check(&store, &ledgers).await;
    assert_eq!((unknown(&ledgers), refused(&ledgers)), (0, 0));
    for refused in [plain.clone(), Options { tls: Some(strangers.client()), ..plain }] {
        let patience = Duration::from_millis(500);
        let store = ClusterStore::connect(Options { patience, ..refused }).expect("it starts");
        let read = store.read(&key(0, 0)).await;
        assert!(matches!(read, Err(StoreError::Unreachable { .. })), "{read:?}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
