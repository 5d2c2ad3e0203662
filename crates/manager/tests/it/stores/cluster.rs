//! Stores of several nodes on one machine: they become one cluster by themselves, and go on when some of them die.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::{ClusterSettings, NodeConfig, PortRange};
use manager::founding::found;
use rustix::process::Signal;
use state::engine::cluster::servers::{self, Report};
use state::engine::cluster::{ClusterStore, Options, WriteQuota};
use state::{Batch, Expect, Key, Space, Store};
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, Request};
use topology::{NodeState, ProcessState, StoreList};

use super::{are_installed, config_with_stores, member_options, store_ports};
use crate::cluster::{address, joined};
use crate::name;
use crate::node::{Ended, Node, free_port, signal};

mod absences;
mod leaving;
mod losses;
mod sizes;

const SPACE: Space = Space::named("stores");
/// On a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

/// Nodes 1, 2, …, each at its own loopback address.
struct Nodes {
    port: u16,
    nodes: Vec<Option<Node>>,
    ports: Vec<PortRange>,
    runtime: tokio::runtime::Runtime,
    options: Options,
    /// What else the file of the node with that number says.
    configure: fn(usize, &mut ClusterSettings),
}

impl Nodes {
    fn found() -> Nodes {
        // Nobody makes copies of a lost node's for a while.
        Nodes::found_with(|_, settings| settings.copy_after = Duration::from_secs(3600))
    }

    fn found_with(configure: fn(usize, &mut ClusterSettings)) -> Nodes {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        found(directory.path(), "node1", address(1, port)).unwrap();
        // As if it had carried its state along.
        let list = ClusterDirectory::of_node(directory.path()).stores();
        StoreList::default().write(&list).unwrap();
        let options = member_options(directory.path());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut nodes = Nodes {
            port,
            nodes: Vec::new(),
            ports: vec![store_ports(1)],
            runtime: runtime.unwrap(),
            options,
            configure,
        };
        let node = Node::start_prepared(directory, nodes.config(1));
        nodes.nodes.push(Some(node));
        nodes
    }

    fn config(&self, number: usize) -> NodeConfig {
        let host = u8::try_from(number).unwrap();
        let address = address(number, self.port);
        let mut config = config_with_stores(host, address, self.ports[number - 1]);
        (self.configure)(number, config.cluster.as_mut().unwrap());
        config
    }

    fn join(&mut self) {
        let number = self.nodes.len() + 1;
        self.ports.push(store_ports(u8::try_from(number).unwrap()));
        let directory = joined(self.node(1), number, self.port);
        let node = Node::start_prepared(directory, self.config(number));
        self.nodes.push(Some(node));
    }

    fn three() -> Nodes {
        let mut nodes = Nodes::found();
        nodes.join();
        nodes.join();
        nodes.wait_until_formed();
        nodes
    }

    fn node(&self, number: usize) -> &Node {
        self.nodes[number - 1].as_ref().unwrap()
    }

    fn store(&self, number: usize, ordinal: u16) -> SocketAddr {
        let port = self.ports[number - 1].first + 2 * (ordinal - 1);
        SocketAddr::new(address(number, port).ip(), port)
    }

    fn report(&self, store: SocketAddr) -> Option<Report> {
        self.runtime.block_on(servers::report(store, &self.options)).ok()
    }

    /// Every node's first store serves a fair share and has one copy on another host.
    fn wait_until_formed(&self) {
        let numbers = (1..=self.nodes.len()).filter(|number| self.nodes[number - 1].is_some());
        let numbers: Vec<usize> = numbers.collect();
        self.wait_until_shared_by(&numbers, usize::from(numbers.len() > 1));
    }

    /// The first stores of these nodes serve fair shares, and so many copies on other hosts have everything.
    fn wait_until_shared_by(&self, numbers: &[usize], copies_wanted: usize) {
        // One store may only vote, with a slot.
        let share = 16_384 / numbers.len();
        let is_shared = |number: usize| {
            let store = self.store(number, 1);
            let Some(report) = self.report(store) else { return Err("no answer".to_owned()) };
            let copies = report.followers.iter();
            let copies =
                copies.filter(|(at, is_online)| *is_online && at.ip() != store.ip()).count();
            let is_fair = (share - 1..=share + 1).contains(&served(&report));
            if is_fair && copies == copies_wanted && report.replica_of.is_none() {
                return Ok(());
            }
            Err(format!("node{number}: {report:#?}"))
        };
        for number in numbers {
            testbed::wait::until("every node to serve its share", LIMIT, || is_shared(*number));
        }
    }

    /// A client, as a container is one.
    fn client(&self, copies: usize) -> ClusterStore {
        self.client_with(WriteQuota { copies, ..Options::default().quota })
    }

    fn client_with(&self, quota: WriteQuota) -> ClusterStore {
        let seeds = self.nodes.iter().enumerate().filter(|(_, node)| node.is_some());
        let seeds = seeds.map(|(at, _)| self.store(at + 1, 1).to_string()).collect();
        let patience = Duration::from_secs(20);
        let options = Options { seeds, quota, patience, ..self.options.clone() };
        let store = ClusterStore::connect(options).unwrap();
        let is_ready = self.runtime.block_on(store.is_ready_within(LIMIT));
        assert!(is_ready, "all records are served");
        store
    }

    /// Commits a record of that number until it is acknowledged: it is not as long as it has no copy.
    fn put(&self, store: &ClusterStore, number: usize) {
        testbed::wait::until("a record to be acknowledged", LIMIT, || {
            let batch = Batch::new().put(key(number), Expect::Any, number.to_string(), None);
            self.runtime.block_on(store.commit(batch))
        });
    }

    fn must_have(&self, store: &ClusterStore, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let found = testbed::wait::until("a record to be read", LIMIT, || {
                self.runtime.block_on(store.read(&key(number)))
            });
            let value = found.map(|record| record.value);
            assert!(
                value.as_deref() == Some(number.to_string().as_bytes()),
                "record {number} was acknowledged, and is {value:?}\n{}",
                self.shown()
            );
        }
    }

    fn wait_for_lost(&self, observer: usize, node: &str) {
        self.node(observer).wait_for("the node to be lost", |view| {
            let entry = view.nodes.iter().find(|entry| entry.name == node)?;
            (entry.state == NodeState::Lost).then_some(())
        });
    }

    fn kill_node(&mut self, number: usize) -> Ended {
        self.nodes[number - 1].take().unwrap().kill_everything()
    }

    fn start_again(&mut self, number: usize, ended: Ended) {
        self.nodes[number - 1] = Some(Node::start_again(ended, self.config(number)));
    }

    /// Until a store that is not `before` serves the slot, as that one of the nodes says.
    fn wait_for_successor(&self, observer: SocketAddr, slot: u16, before: &str) -> Duration {
        let begun = Instant::now();
        testbed::wait::until("another store to serve", LIMIT, || -> Result<(), String> {
            let report = self.report(observer).ok_or("no answer")?;
            let owner =
                report.known.iter().filter(|it| it.slots.iter().any(|it| it.contains(&slot)));
            let owner = owner.max_by_key(|known| known.epoch).ok_or("nobody")?;
            if owner.id == before {
                return Err(format!("still the old one\n{}", self.shown()));
            }
            Ok(())
        });
        begun.elapsed()
    }

    /// What the managers have shown, for whoever waits in vain.
    fn shown(&self) -> String {
        let shown = |node: &Node| {
            let text = std::fs::read_to_string(node.directory().join("shown")).unwrap_or_default();
            let about = |line: &&str| line.contains("stores") || line.contains("store");
            text.lines().filter(about).map(|line| format!("{line}\n")).collect::<String>()
        };
        let shown: Vec<String> = self.nodes.iter().flatten().map(shown).collect();
        shown.join("\n--------\n")
    }

    fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop();
        }
    }
}

/// How many slots.
fn served(report: &Report) -> usize {
    report.slots.iter().map(ExactSizeIterator::len).sum()
}

fn key(number: usize) -> Key {
    Key::new(SPACE, format!("tag-{number}"), "record")
}

#[test]
fn nodes_form_one_cluster_by_themselves_and_carry_the_records_along() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::found();
    nodes.wait_until_formed();
    let store = nodes.client(0);
    (0..300).for_each(|number| nodes.put(&store, number));
    for _ in 2..=3 {
        nodes.join();
        nodes.wait_until_formed();
        nodes.must_have(&nodes.client(1), 0..300);
    }
    let store = nodes.client(1);
    (300..400).for_each(|number| nodes.put(&store, number));
    nodes.must_have(&store, 0..400);
    drop(store);
    nodes.stop();
}

#[test]
fn a_killed_primary_is_replaced_at_once_and_is_at_home_again_later() {
    if !are_installed() {
        return;
    }
    let nodes = Nodes::three();
    let store = nodes.client(1);
    (0..200).for_each(|number| nodes.put(&store, number));
    let before = nodes.report(nodes.store(2, 1)).unwrap();
    let slot = *before.slots[0].start();
    nodes.node(2).kill("store1");
    let took = nodes.wait_for_successor(nodes.store(1, 1), slot, &before.id);
    println!("served again {took:?} after the kill");
    (200..300).for_each(|number| nodes.put(&store, number));
    nodes.must_have(&store, 0..300);
    nodes.wait_until_formed();
    nodes.must_have(&store, 0..300);
    drop(store);
    nodes.stop();
}

#[test]
fn a_stopped_primary_is_replaced() {
    if !are_installed() {
        return;
    }
    let nodes = Nodes::three();
    let store = nodes.client(1);
    (0..100).for_each(|number| nodes.put(&store, number));
    let before = nodes.report(nodes.store(2, 1)).unwrap();
    let slot = *before.slots[0].start();
    signal(nodes.node(2).process("store1").pid.unwrap(), Signal::STOP);
    let took = nodes.wait_for_successor(nodes.store(1, 1), slot, &before.id);
    println!("served again {took:?} after the stop");
    (100..200).for_each(|number| nodes.put(&store, number));
    nodes.must_have(&store, 0..200);
    nodes.wait_until_formed();
    drop(store);
    nodes.stop();
}

#[test]
fn stores_live_on_without_their_manager_and_are_kept_by_the_next_one() {
    if !are_installed() {
        return;
    }
    let nodes = Nodes::three();
    let store = nodes.client(1);
    let pids = |number: usize| {
        ["store1", "store2"].map(|store| nodes.node(number).process(store).pid.unwrap())
    };
    let before = [pids(1), pids(2), pids(3)];
    for number in 1..=3 {
        let manager = nodes.node(number).manager_pid();
        signal(manager, Signal::KILL);
        (number * 100..number * 100 + 50).for_each(|number| nodes.put(&store, number));
        nodes.node(number).wait_for_manager_after(manager);
    }
    for (number, before) in (1..=3).zip(before) {
        for (name_of, pid) in ["store1", "store2"].into_iter().zip(before) {
            nodes.node(number).wait_for("it to be adopted", |view| {
                let process = view.process(&name(name_of))?;
                (process.state == ProcessState::Ready && process.pid == Some(pid)).then_some(())
            });
        }
    }
    nodes.wait_until_formed();
    // And are replaced by these managers' orders.
    let before = nodes.report(nodes.store(1, 1)).unwrap();
    nodes.node(1).kill("store1");
    nodes.wait_for_successor(nodes.store(2, 1), *before.slots[0].start(), &before.id);
    nodes.must_have(&store, 100..150);
    drop(store);
    nodes.stop();
}

#[test]
fn a_lost_node_is_replaced_and_comes_home() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::three();
    let store = nodes.client(1);
    (0..200).for_each(|number| nodes.put(&store, number));
    let before = nodes.report(nodes.store(1, 1)).unwrap();
    // The coordinator's own.
    let begun = Instant::now();
    let ended = nodes.kill_node(1);
    nodes.wait_for_successor(nodes.store(2, 1), *before.slots[0].start(), &before.id);
    println!("served again {:?} after the loss of the node", begun.elapsed());
    nodes.wait_for_lost(2, "node1");
    nodes.must_have(&store, 0..200);
    nodes.start_again(1, ended);
    nodes.wait_until_formed();
    (200..300).for_each(|number| nodes.put(&store, number));
    nodes.must_have(&store, 0..300);
    drop(store);
    nodes.stop();
}

#[test]
fn copies_of_a_node_that_is_lost_for_long_are_made_elsewhere_until_it_is_back() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::found_with(|_, settings| settings.copy_after = Duration::from_secs(1));
    nodes.join();
    nodes.join();
    nodes.wait_until_formed();
    let store = nodes.client(1);
    (0..200).for_each(|number| nodes.put(&store, number));
    let ended = nodes.kill_node(3);
    for number in [1, 2] {
        let spare = nodes.store(number, 3);
        testbed::wait::until("a further copy", LIMIT, || {
            let report = nodes.report(spare).ok_or("no answer")?;
            if report.is_synced { Ok(()) } else { Err("not in step") }
        });
    }
    // All of it is written again with a copy elsewhere.
    (200..300).for_each(|number| nodes.put(&store, number));
    // So the next loss costs nothing, either.
    nodes.node(2).kill("store1");
    (300..400).for_each(|number| nodes.put(&store, number));
    nodes.start_again(3, ended);
    nodes.wait_until_formed();
    for number in [1, 2] {
        nodes.node(number).wait_for("the further store to be dropped", |view| {
            view.process(&name("store3")).is_none().then_some(())
        });
    }
    nodes.wait_until_formed();
    nodes.must_have(&store, 0..400);
    drop(store);
    nodes.stop();
}

#[test]
fn a_node_that_is_removed_leaves_its_share_to_the_others_and_of_two_the_first_goes_on_alone() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::three();
    let store = nodes.client(1);
    (0..200).for_each(|number| nodes.put(&store, number));
    drop(nodes.kill_node(3));
    nodes.wait_for_lost(1, "node3");
    nodes.wait_for_lost(2, "node3");
    let remove = Request::ClusterRemove { node: "node3".to_owned(), is_leaving: false };
    assert_eq!(nodes.node(1).request(remove), Answer::Done);
    nodes.wait_until_formed();
    nodes.must_have(&store, 0..200);
    drop(store);
    let before = nodes.report(nodes.store(2, 1)).unwrap();
    drop(nodes.kill_node(2));
    // Its own half has no copy elsewhere now, and is not enough for a vote.
    nodes.wait_for_successor(nodes.store(1, 1), *before.slots[0].start(), &before.id);
    let alone = nodes.client(0);
    nodes.must_have(&alone, 0..200);
    (200..250).for_each(|number| nodes.put(&alone, number));
    drop(alone);
    nodes.stop();
}
