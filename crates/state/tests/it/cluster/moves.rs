//! Slots that move between servers, as managers have them moved.

use std::time::Duration;

use redis::cmd;
use rustix::process::Signal;
use state::engine::cluster::servers::{self as ordered, Place};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, failover};
use state::{Batch, Expect, Key, Space, Store};

use super::servers::{PRIMARIES, Plan, Server, Servers, are_installed};

const SPACE: Space = Space::named("moves");
const RECORDS: usize = 40;

fn key(id: usize) -> Key {
    Key::new(SPACE, format!("tag-{id}"), "record")
}

fn place(server: &Server) -> Place {
    Place { id: server.must(cmd("CLUSTER").arg("MYID")), address: server.address }
}

/// Slots of a server that hold something.
fn filled(server: &Server) -> Vec<u16> {
    let count = |slot: &u16| server.must::<usize>(cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(*slot));
    (0..16_384).filter(|slot| count(slot) > 0).collect()
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
    let store = ClusterStore::connect(options.clone()).expect("the store is opened");
    for id in 0..RECORDS {
        let put = Batch::new().put(key(id), Expect::Any, "value", None);
        store.commit(put).await.expect("it is committed");
    }
    let (from, to) = (place(&servers.nodes[0]), place(&servers.nodes[1]));
    let slots = filled(&servers.nodes[0]);
    assert!(slots.len() > 1, "a third of them lies there: {slots:?}");
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
    assert_eq!(filled(&servers.nodes[0]), [], "all have gone");
    ordered::move_slots(&to, &from, &slots, &options).await.expect("they move as well as ever");
    assert_eq!(filled(&servers.nodes[0]), slots, "all are back");
    for id in 0..RECORDS {
        let read = store.read(&key(id)).await.expect("it is served");
        assert!(read.is_some(), "record {id}");
    }
}
