//! The format level that records are written at, as the cluster of the nodes goes up and back.

use std::time::Duration;

use redis::cmd;
use state::engine::cluster::{BelowQuota, ClusterStore, Options, WriteQuota};
use state::{Batch, Expect, Key, Space, Store};

use super::servers::{Plan, Servers, are_installed};

const SPACE: Space = Space::named("levels");
const LIMIT: Duration = Duration::from_secs(30);

/// The first octet of that record, wherever it lies.
fn level_of(servers: &Servers, id: &str) -> u8 {
    let is_it = |name: &Vec<u8>| name.windows(id.len()).any(|part| part == id.as_bytes());
    let name = servers.record_names().into_iter().find(is_it).expect("it is there");
    let first = |server: &super::servers::Server| {
        let octets: Option<Vec<u8>> = server.ask(cmd("GETRANGE").arg(&name).arg(0).arg(0));
        octets.and_then(|octets| octets.first().copied())
    };
    servers.nodes.iter().find_map(first).expect("somebody serves it")
}

#[tokio::test]
async fn records_are_written_at_the_level_that_is_told_and_read_at_either() {
    if !are_installed() {
        return;
    }
    let servers = Servers::start(&Plan::default());
    let quota = WriteQuota { copies: 0, below: BelowQuota::Refuse, own_host_counts: true };
    let options = Options { seeds: servers.seeds(), quota, ..Options::default() };
    let store = ClusterStore::connect(options).expect("the store is opened");
    assert!(store.is_ready_within(LIMIT).await, "all partitions are served");
    // Beyond what it knows it writes the nearest one: whoever tells it so is of another release than it.
    for (told, written) in [(1, 1), (2, 2), (9, 2), (1, 1)] {
        store.write_level(told);
        let key = Key::new(SPACE, "tag", format!("told-{told}"));
        let batch = Batch::new().put(key.clone(), Expect::Any, "value", None);
        store.commit(batch).await.expect("it is served");
        assert_eq!(level_of(&servers, &format!("told-{told}")), written);
        let read = store.read(&key).await.expect("it is read").expect("it is there");
        assert_eq!(&read.value[..], b"value");
    }
}
