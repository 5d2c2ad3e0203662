//! Slots that move between servers, as managers have them moved.

use std::time::Duration;

use redis::cmd;
use rustix::process::Signal;
use state::engine::cluster::servers::{self as ordered, Place};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, failover};
use state::{Batch, Expect, Key, Space, Store};

use super::faults::wait_until_async;
use super::servers::{PRIMARIES, Plan, Server, Servers, are_installed};

const SPACE: Space = Space::named("moves");
const RECORDS: usize = 40;

fn key(id: usize) -> Key {
    Key::new(SPACE, format!("tag-{id}"), "record")
}

fn place(server: &Server) -> Place {
    Place { id: server.must(cmd("CLUSTER").arg("MYID")), address: server.address }
}

/// Those of the slots in which a server holds something.
fn filled_of(slots: impl IntoIterator<Item = u16>, server: &Server) -> Vec<u16> {
    let count = |slot: &u16| server.must::<usize>(cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(*slot));
    slots.into_iter().filter(|slot| count(slot) > 0).collect()
}

/// Slots of a server that hold something. What clients write by the way comes to others at any time.
fn filled(server: &Server) -> Vec<u16> {
    filled_of(0..16_384, server)
}

/// Moves what is in these slots, and does not come to saying so.
fn move_without_end(from: &Server, to: &Server, slots: &[u16]) {
    let (source, target) = (place(from), place(to));
    for slot in slots {
        let set = |server: &Server, state: &str, other: &Place| {
            let mut set = cmd("CLUSTER");
            server.must::<()>(set.arg("SETSLOT").arg(*slot).arg(state).arg(&other.id));
        };
        set(to, "IMPORTING", &source);
        set(from, "MIGRATING", &target);
        let mut list = cmd("CLUSTER");
        let keys: Vec<Vec<u8>> = from.must(list.arg("GETKEYSINSLOT").arg(*slot).arg(1_000));
        let mut migrate = cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(to.address.port()).arg("").arg(0).arg(5_000).arg("KEYS");
        from.must::<()>(migrate.arg(keys));
    }
}

/// A store, and slots of the first server with what lies in them.
async fn filled_store(options: &Options, from: &Server) -> (ClusterStore, Vec<u16>) {
    let store = ClusterStore::connect(options.clone()).expect("the store is opened");
    for id in 0..RECORDS {
        let put = Batch::new().put(key(id), Expect::Any, "value", None);
        store.commit(put).await.expect("it is committed");
    }
    let slots = filled(from);
    assert!(slots.len() > 2, "a third of them lies there: {slots:?}");
    (store, slots)
}

/// What has gone already is found where it is, as soon as the replica of the one that died is asked.
#[tokio::test]
async fn a_replica_that_is_promoted_in_the_middle_of_a_move_knows_what_has_gone() {
    if !are_installed() {
        return;
    }
    for is_elected in [true, false] {
        let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
        let options = Options {
            seeds: servers.seeds(),
            quota: super::WriteQuota { below: BelowQuota::Continue, ..super::ONE_COPY },
            ..Options::default()
        };
        let [from, to] = [&servers.nodes[0], &servers.nodes[1]];
        let (store, slots) = filled_store(&options, from).await;
        move_without_end(from, to, &slots);
        from.signal(Signal::KILL);
        let (dead, replica) = (Some(from.address), servers.nodes[PRIMARIES].address);
        let limit = Duration::from_secs(5);
        let promoted = match is_elected {
            true => failover::promote(dead, &[replica], &options, limit).await,
            false => failover::promote_unasked(dead, &[replica], &options, limit).await,
        };
        assert_eq!(promoted.expect("it is promoted"), replica);
        for id in 0..RECORDS {
            let read = store.read(&key(id)).await.expect("it is served");
            assert!(read.is_some(), "record {id}; elected: {is_elected}");
        }
        let promoted = &servers.nodes[PRIMARIES];
        // As soon as the other one has heard that it is a primary.
        wait_until_async("the move ends", async || {
            ordered::move_slots(&place(promoted), &place(to), &slots, &options).await.is_ok()
        })
        .await;
        assert_eq!(filled_of(slots, promoted), [], "all have gone");
    }
}

/// The source of a move dies in the middle of it; its replica is promoted, hands over to it when it is back, and so the target
/// has forgotten who serves what it waits for.
#[tokio::test]
async fn a_move_whose_source_died_is_done_by_doing_it_again() {
    if !are_installed() {
        return;
    }
    let mut servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let options = Options {
        seeds: servers.seeds(),
        quota: super::WriteQuota { below: BelowQuota::Continue, ..super::ONE_COPY },
        ..Options::default()
    };
    let (store, slots) = filled_store(&options, &servers.nodes[0]).await;
    let (from, to) = (place(&servers.nodes[0]), place(&servers.nodes[1]));
    for slot in &slots {
        let set = |server: &Server, state: &str, other: &Place| {
            let mut set = cmd("CLUSTER");
            server.must::<()>(set.arg("SETSLOT").arg(*slot).arg(state).arg(&other.id));
        };
        set(&servers.nodes[1], "IMPORTING", &from);
        set(&servers.nodes[0], "MIGRATING", &to);
    }
    servers.nodes[0].signal(Signal::KILL);
    let replica = servers.nodes[PRIMARIES].address;
    let promoted =
        failover::promote(Some(from.address), &[replica], &options, Duration::from_secs(5)).await;
    assert_eq!(promoted.expect("it is elected"), replica);
    servers.restart(0);
    servers.wait_until_well(1);
    ordered::hand_over(from.address, &options, Duration::from_secs(10)).await.expect("it does");
    servers.wait_until_well(1);

    ordered::move_slots(&from, &to, &slots, &options).await.expect("it is done again");
    assert_eq!(filled_of(slots.clone(), &servers.nodes[0]), [], "all have gone");
    ordered::move_slots(&to, &from, &slots, &options).await.expect("they move as well as ever");
    assert_eq!(filled_of(slots.clone(), &servers.nodes[0]), slots, "all are back");
    for id in 0..RECORDS {
        let read = store.read(&key(id)).await.expect("it is served");
        assert!(read.is_some(), "record {id}");
    }
}

/// What had come to a primary that died in the middle is served by its replica, and the rest follows; also what only others know to
/// have come whole.
#[tokio::test]
async fn a_replica_that_is_promoted_in_the_middle_of_a_move_to_its_primary_goes_on_with_it() {
    if !are_installed() {
        return;
    }
    for is_elected in [true, false] {
        let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
        let options = Options {
            seeds: servers.seeds(),
            quota: super::WriteQuota { below: BelowQuota::Continue, ..super::ONE_COPY },
            ..Options::default()
        };
        let [from, to] = [&servers.nodes[0], &servers.nodes[1]];
        let (store, slots) = filled_store(&options, from).await;
        let (arrived, coming) = slots.split_at(1);
        move_without_end(from, to, &slots);
        // The last words of the one that dies have reached the source only.
        to.must::<()>(cmd("WAIT").arg(1).arg(5_000));
        to.must::<String>(cmd("CLUSTER").arg("BUMPEPOCH"));
        let replica = &servers.nodes[PRIMARIES + 1];
        let epoch = async |server: &Server| {
            let report = ordered::report(server.address, &options).await.ok()?;
            report.known.iter().find(|it| it.address == Some(to.address)).map(|it| it.epoch)
        };
        wait_until_async("all hear of its epoch", async || {
            let own = epoch(to).await;
            let others = servers.nodes.iter().filter(|server| server.address != to.address);
            for other in others {
                if epoch(other).await != own {
                    return false;
                }
            }
            own.is_some()
        })
        .await;
        let mut set = cmd("CLUSTER");
        let target = place(to);
        from.must::<()>(set.arg("SETSLOT").arg(arrived[0]).arg("NODE").arg(&target.id));
        to.signal(Signal::KILL);
        let (dead, limit) = (Some(to.address), Duration::from_secs(5));
        let promoted = match is_elected {
            true => failover::promote(dead, &[replica.address], &options, limit).await,
            false => failover::promote_unasked(dead, &[replica.address], &options, limit).await,
        };
        assert_eq!(promoted.expect("it is promoted"), replica.address);
        let report = ordered::report(replica.address, &options).await.expect("it answers");
        assert!(report.slots.iter().any(|range| range.contains(&arrived[0])), "{report:?}");
        let waits_for: Vec<u16> = report.coming.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(waits_for, coming);
        wait_until_async("the move ends", async || {
            ordered::move_slots(&place(from), &place(replica), coming, &options).await.is_ok()
        })
        .await;
        for id in 0..RECORDS {
            let read = store.read(&key(id)).await.expect("it is served");
            assert!(read.is_some(), "record {id}; elected: {is_elected}");
        }
    }
}
