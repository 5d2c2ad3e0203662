//! The cluster's repository as processes of its nodes: real etcd members, begun, added, killed, adopted, moved and taken away
//! by the managers alone.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use config::{ClusterSettings, NodeConfig, PortRange, Stores};
use manager::founding::{found_with_repository, join_token};
use rustix::process::Signal;
use topology::protocol::{Answer, Request};
use topology::{FormatLevel, ProcessEntry, ProcessState, RepositoryList, RunBy};

use crate::node::{Node, config_on_free_ports, free_port, signal};

/// etcd wants to see its members for five seconds before it takes another one; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether there is one to test with; says so where not.
fn is_installed() -> bool {
    match manager::server::etcd() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            eprintln!("skipped: {error}; ./test does so");
            false
        }
    }
}

/// Two ports in a row that were free a moment ago at that host.
fn ports(host: u8) -> PortRange {
    loop {
        let first = free_port();
        let is_free =
            |port: u16| TcpListener::bind(SocketAddr::from(([127, 0, 0, host], port))).is_ok();
        if first < u16::MAX && is_free(first) && is_free(first + 1) {
            return PortRange { first, last: first + 1 };
        }
    }
}

fn config(number: u8, port: u16) -> NodeConfig {
    let mut config = config_on_free_ports();
    config.node.name = format!("node{number}");
    config.heartbeat.interval = Duration::from_millis(500);
    config.heartbeat.allowed_miss_count = 2;
    let address = SocketAddr::from(([127, 0, 0, number], port));
    let (stores, repository_ports) = (Stores::Count(0), ports(number));
    config.cluster =
        Some(ClusterSettings { stores, repository_ports, ..ClusterSettings::at(address) });
    config
}

fn founder(config: NodeConfig) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let address = config.cluster.as_ref().unwrap().address;
    found_with_repository(directory.path(), "node1", address, RunBy::Nodes).unwrap();
    Node::start_prepared(directory, config)
}

fn join(member: &Node, number: u8, port: u16) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let token = join_token(member.directory(), PATIENCE).unwrap().to_string();
    let address = SocketAddr::from(([127, 0, 0, number], port));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let joining =
        manager::join(&token, Some(format!("node{number}")), Some(address), 0, RunBy::Nodes);
    let joined = runtime.block_on(joining).unwrap();
    joined.write(directory.path()).unwrap();
    Node::start_prepared(directory, config(number, port))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let waited = testbed::wait::at_most(PATIENCE, &mut look);
    waited.unwrap_or_else(|seen| panic!("{what}: {seen:?}"))
}

/// Who has a member that counts, as that node has noted it.
fn members(directory: &Path) -> BTreeSet<String> {
    let list = RepositoryList::load(&directory.join("cluster/repository.json")).unwrap();
    list.unwrap().members.into_iter().map(|member| member.node).collect()
}

fn wait_for_members(nodes: &[&Node], expected: &[&str]) {
    for node in nodes {
        until(&format!("members {expected:?}"), || {
            let found = members(node.directory());
            if found.iter().eq(expected) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}

fn wait_for_process(node: &Node, is_so: impl Fn(&ProcessEntry) -> bool) -> ProcessEntry {
    until("the process of the member", || {
        let view = node.status();
        let process = view.process(&topology::ProcessName::new("repository"));
        process.filter(|process| is_so(process)).cloned().ok_or(format!("{process:?}"))
    })
}

fn is_ready(process: &ProcessEntry) -> bool {
    process.state == ProcessState::Ready
}

#[test]
fn the_first_node_begins_and_a_member_is_a_process_like_any() {
    if !is_installed() {
        return;
    }
    let config = config(1, free_port());
    let node = founder(config.clone());
    let first = wait_for_process(&node, is_ready);
    wait_for_members(&[&node], &["node1"]);
    let joins = || {
        node.request(Request::ClusterJoin {
            name: None,
            address: first.link_address.unwrap(),
            repository: RunBy::Nodes,
            newest_format: FormatLevel::FIRST,
        })
    };
    match joins() {
        Answer::Refused { reason } => {
            assert!(reason.contains("not in its repository yet"), "{reason}")
        }
        other => panic!("{other:?}"),
    }

    let killed = |before: &ProcessEntry| {
        wait_for_process(&node, |process| is_ready(process) && process.pid != before.pid)
    };
    node.kill("repository");
    let second = killed(&first);
    assert_eq!(second.restarts, 1);
    signal(second.pid.unwrap(), Signal::STOP);
    let third = killed(&second);

    let before = node.manager_pid();
    signal(before, Signal::KILL);
    node.wait_for_manager_after(before);
    let adopted = wait_for_process(&node, |process| process.pid.is_some());
    assert_eq!((adopted.pid, adopted.incarnation), (third.pid, third.incarnation));
    // It is asked by the next manager, too.
    signal(third.pid.unwrap(), Signal::STOP);
    let fourth = killed(&third);
    let ended = node.stop();
    assert!(!crate::node::lives(fourth.pid.unwrap()), "it ends with the node");
    let log = std::fs::read_to_string(ended.path().join("log/repository.log")).unwrap();
    assert!(log.contains("closing etcd server"), "in order: {log}");
    // And goes on where it was.
    let node = Node::start_again(ended, config);
    assert!(wait_for_process(&node, is_ready).pid.is_some());
    node.stop();
}

#[test]
fn members_come_with_nodes_survive_them_and_go_with_them() {
    if !is_installed() {
        return;
    }
    let port = free_port();
    let first = founder(config(1, port));
    wait_for_members(&[&first], &["node1"]);
    assert_eq!(first.request(Request::RepositoryHasAccounts), Answer::Done);
    let second = join(&first, 2, port);
    let third = join(&first, 3, port);
    wait_for_members(&[&first, &second, &third], &["node1", "node2", "node3"]);
    for node in [&first, &second, &third] {
        wait_for_process(node, is_ready);
    }
    assert!(
        RepositoryList::load(&third.directory().join("cluster/repository.json"))
            .unwrap()
            .unwrap()
            .has_accounts
    );

    // A fourth node needs none, and takes the seat of a lost one.
    let fourth = join(&second, 4, port);
    let lost = second.kill_everything();
    wait_for_members(&[&first, &third, &fourth], &["node1", "node3", "node4"]);
    // Who comes back finds its seat taken.
    let second = Node::start_again(lost, config(2, port));
    until("the old member's data to be gone", || {
        let data = second.directory().join("repository/data");
        if data.exists() { Err("it is there") } else { Ok(()) }.map_err(str::to_owned)
    });
    until("its process to be gone", || {
        let view = second.status();
        let process = view.process(&topology::ProcessName::new("repository")).cloned();
        process.map_or(Ok(()), |process| Err(format!("{process:?}")))
    });

    // Who leaves gives its seat away first.
    assert_eq!(first.request(Request::RepositoryLeave), Answer::Done);
    let remove = Request::ClusterRemove { node: "node1".to_owned(), is_leaving: true };
    assert_eq!(first.request(remove), Answer::Done);
    wait_for_members(&[&second, &third, &fourth], &["node2", "node3", "node4"]);
    for node in [first, second, third, fourth] {
        node.stop();
    }
}
