//! The write quota as members come and go: more copies are asked for when they are there, fewer at once.

use std::time::{Duration, Instant};

use redis::cmd;
use rustix::process::Signal;
use state::engine::cluster::servers::{Place, follow, move_slots, report, take_slots};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, QuotaStatus, WriteQuota};
use state::{Batch, CommitError, Expect, Key, Space, Store, StoreError};

use super::servers::{PRIMARIES, Plan, Server, Servers, are_installed};

const SPACE: Space = Space::named("copies");
const LIMIT: Duration = Duration::from_secs(30);

async fn write(store: &ClusterStore, id: usize) -> Result<(), CommitError> {
    // One in each shard, most likely.
    for tag in 0..12 {
        let key = Key::new(SPACE, tag.to_string(), id.to_string());
        store.commit(Batch::new().put(key, Expect::Any, "value", None)).await?;
    }
    Ok(())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn more_copies_are_asked_for_when_every_shard_has_them() {
    if !are_installed() {
        return;
    }
    let mut servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let quota = WriteQuota { copies: 0, below: BelowQuota::Refuse, own_host_counts: true };
    let options = Options { seeds: servers.seeds(), quota, ..Options::default() };
    let store = ClusterStore::connect(options).expect("the store is opened");
    // One shard's copy is not there yet.
    let missing = PRIMARIES;
    servers.nodes[missing].signal(Signal::KILL);
    assert!(store.is_ready_within(LIMIT).await, "all partitions are served");
    store.want_copies(1);
    until("that server is held failed", async || {
        write(&store, 0).await.expect("nothing is refused for the want of a copy");
        let status = store.status().await.expect("the client lives");
        let mut answers = status.shards.iter().filter_map(|shard| shard.answer.as_ref());
        answers.any(|answer| answer.replicas.iter().any(|replica| replica.is_failed))
    })
    .await;
    assert_eq!(store.copies(), 0, "one shard has none");

    servers.restart(missing);
    until("every shard has its copy", async || store.copies() == 1).await;
    write(&store, 1).await.expect("every shard has its copy");
    // From now on it is missed.
    servers.nodes[missing].signal(Signal::KILL);
    until("writes are refused", async || {
        let refused = write(&store, 2).await;
        matches!(
            refused,
            Err(CommitError::Store(StoreError::BelowQuota { copies: 1, found: 0, .. }))
        )
    })
    .await;
    let status = store.status().await.expect("the client lives");
    let below = |quota| quota == QuotaStatus::Below { found: 0 };
    assert!(status.shards.iter().any(|it| it.answer.as_ref().is_some_and(|it| below(it.quota))));

    store.want_copies(0);
    until("fewer are enough", async || write(&store, 3).await.is_ok()).await;
    assert_eq!(store.copies(), 0);
}

#[tokio::test]
async fn records_move_only_while_the_copies_of_their_new_primary_keep_up() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let quota = WriteQuota { copies: 1, below: BelowQuota::Refuse, own_host_counts: true };
    let options = Options { seeds: servers.seeds(), quota, ..Options::default() };
    let store = ClusterStore::connect(options.clone()).expect("the store is opened");
    assert!(store.is_ready_within(LIMIT).await, "all partitions are served");
    write(&store, 0).await.expect("every shard has its copy");
    let (from, to, copy) = (&servers.nodes[0], &servers.nodes[1], &servers.nodes[PRIMARIES + 1]);
    let records = || from.must::<usize>(&cmd("DBSIZE"));
    let all = records();
    assert!(all > 0, "none of the records lies there");
    let place = |server: &Server| Place { id: server.id.clone(), address: server.address };
    let slots: Vec<u16> = report(from.address, &options)
        .await
        .expect("it answers")
        .slots
        .into_iter()
        .flatten()
        .collect();

    copy.signal(Signal::STOP);
    let refused = move_slots(&place(from), &place(to), &slots, &options).await;
    let told = refused.expect_err("nobody but the new primary would have them").to_string();
    assert!(told.contains("0 of its 1 replicas"), "{told}");
    assert_eq!(records(), all, "they are where their copy is");
    copy.signal(Signal::CONT);
    until("they move when the copy goes on", async || {
        move_slots(&place(from), &place(to), &slots, &options).await.is_ok()
    })
    .await;
    assert_eq!(records(), 0);
}

#[tokio::test]
async fn slots_whose_records_are_gone_are_served_again_by_a_primary_that_lives() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let quota = WriteQuota { copies: 0, below: BelowQuota::Refuse, own_host_counts: true };
    let options = Options { seeds: servers.seeds(), quota, ..Options::default() };
    let store = ClusterStore::connect(options.clone()).expect("the store is opened");
    assert!(store.is_ready_within(LIMIT).await, "all partitions are served");
    write(&store, 0).await.expect("everything is served");
    // The one with the highest epoch: its claim holds until a higher one is made.
    let (gone, copy) = (&servers.nodes[2], &servers.nodes[PRIMARIES + 2]);
    let (taker, other) = (&servers.nodes[0], &servers.nodes[1]);
    let slots = report(gone.address, &options).await.expect("it answers").slots;
    let slots: Vec<u16> = slots.into_iter().flatten().collect();
    for destroyed in [gone, copy] {
        destroyed.signal(Signal::KILL);
    }
    until("a part is served by nobody", async || write(&store, 1).await.is_err()).await;

    let place = Place { id: taker.id.clone(), address: taker.address };
    take_slots(&place, &gone.id, &slots, &options).await.expect("it takes them");
    until("everything is served", async || write(&store, 2).await.is_ok()).await;
    until("the others know", async || {
        let known = report(other.address, &options).await.expect("it answers").known;
        let has = |id: &str| known.iter().find(|it| it.id == id).map(|it| it.slots.len());
        has(&gone.id) == Some(0) && known.iter().any(|it| it.id == taker.id)
    })
    .await;
}

/// Redis does so to a primary that loses its slots to another one, and takes one of these to have been the other's before.
#[tokio::test]
async fn a_primary_whose_records_were_deleted_behind_its_stream_gets_them_all_when_it_follows() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let quota = WriteQuota { copies: 1, below: BelowQuota::Refuse, own_host_counts: true };
    let options = Options { seeds: servers.seeds(), quota, ..Options::default() };
    let store = ClusterStore::connect(options.clone()).expect("the store is opened");
    assert!(store.is_ready_within(LIMIT).await, "all partitions are served");
    write(&store, 0).await.expect("every shard has its copy");
    let (former, next) = (&servers.nodes[0], &servers.nodes[PRIMARIES]);
    let records = || next.must::<usize>(&cmd("DBSIZE"));
    let all = records();
    assert!(all > 0, "none of the records lies there");

    let mut gives_up = cmd("CLUSTER");
    gives_up.arg("DELSLOTSRANGE");
    for slots in report(former.address, &options).await.expect("it answers").slots {
        gives_up.arg(*slots.start()).arg(*slots.end());
    }
    former.must::<()>(&gives_up);
    let silently = "redis.set_repl(redis.REPL_NONE) return redis.call('FLUSHALL')";
    former.must::<()>(cmd("EVAL").arg(silently).arg(0));
    next.must::<()>(cmd("CLUSTER").arg("FAILOVER").arg("TAKEOVER"));
    let id: String = next.must(cmd("CLUSTER").arg("MYID"));
    until("it follows its successor", async || follow(former.address, &id, &options).await.is_ok())
        .await;
    until("it has everything", async || {
        let replication = former.info("replication").unwrap_or_default();
        replication.contains("master_link_status:up")
    })
    .await;
    assert_eq!(former.must::<usize>(&cmd("DBSIZE")), all);
    assert_eq!(records(), all);
}
