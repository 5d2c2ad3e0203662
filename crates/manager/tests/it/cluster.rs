//! Several nodes on one machine, each with a loopback address of its own, as one cluster.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::NodeConfig;
use manager::founding::{found, join_token};
use rustix::process::Signal;
use testbed::pace::Pace;
use topology::protocol::{Answer, ClusterStatus, KeysStatus, Request};
use topology::{NodeState, ProcessName, ProcessState, ProcessType, RunBy, TopologyView};

use crate::name;
use crate::node::{Ended, Node, config_on_free_ports, free_port, signal, until};

mod strangers;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn address(node: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, u8::try_from(node).unwrap()], port))
}

fn config(node: usize, address: SocketAddr) -> NodeConfig {
    let mut config = config_on_free_ports();
    config.node.name = format!("node{node}");
    config.heartbeat.interval = Duration::from_millis(500);
    config.heartbeat.allowed_miss_count = 2;
    let stores = config::Stores::Count(0);
    config.cluster =
        Some(config::ClusterSettings { stores, ..config::ClusterSettings::at(address) });
    config
}

/// The first node of a cluster.
fn founder(port: u16) -> Node {
    let directory = tempfile::tempdir().unwrap();
    found(directory.path(), "node1", address(1, port)).unwrap();
    Node::start_prepared(directory, config(1, address(1, port)))
}

/// A directory that has joined the cluster of `member`, as `node{number}`.
pub(crate) fn joined(member: &Node, number: usize, port: u16) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let token = join_token(member.directory(), HOUR).unwrap().to_string();
    join(&token, number, port).unwrap().write(directory.path()).unwrap();
    directory
}

fn join(token: &str, number: usize, port: u16) -> Result<manager::Joined, manager::JoinError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (name, address) = (Some(format!("node{number}")), Some(address(number, port)));
    runtime.block_on(manager::join(token, name, address, 0, RunBy::Nodes))
}

fn start_joined(member: &Node, number: usize, port: u16) -> Node {
    let directory = joined(member, number, port);
    Node::start_prepared(directory, config(number, address(number, port)))
}

/// `count` nodes that know each other.
fn cluster_of(count: usize) -> (u16, Vec<Node>) {
    let port = free_port();
    let mut nodes = vec![founder(port)];
    for number in 2..=count {
        let node = start_joined(&nodes[0], number, port);
        nodes.push(node);
    }
    wait_until_complete(&nodes);
    (port, nodes)
}

/// Whatever servers there are beside: a node that becomes a member while it runs has the usual ones.
fn wait_until_complete(nodes: &[Node]) {
    for node in nodes {
        node.wait_for("all nodes with all their processes", |view| {
            let up = view.nodes.iter().filter(|node| node.state == NodeState::Up).count();
            let ready = |process: &&topology::ProcessEntry| {
                let is_ours =
                    matches!(process.process_type, ProcessType::Edge | ProcessType::Container);
                is_ours && process.state == ProcessState::Ready
            };
            let ready = view.processes.iter().filter(ready).count();
            (up == nodes.len() && ready == 3 * nodes.len()).then_some(())
        });
    }
}

fn state_of(view: &TopologyView, node: &str) -> Option<NodeState> {
    view.nodes.iter().find(|entry| entry.name == node).map(|entry| entry.state)
}

fn wait_for_state(node: &Node, other: &str, state: NodeState) {
    node.wait_for(&format!("{other} to be {state}"), |view| {
        (state_of(view, other) == Some(state)).then_some(())
    });
}

fn cluster_status(node: &Node) -> ClusterStatus {
    *node.node_status().cluster.unwrap()
}

fn stop(nodes: Vec<Node>) -> Vec<Ended> {
    nodes.into_iter().map(Node::stop).collect()
}

#[test]
fn three_nodes_see_each_others_processes_and_a_death_within_half_a_second() {
    let (_, nodes) = cluster_of(3);
    let names: Vec<String> =
        nodes[1].status().processes.iter().map(|process| process.name.to_string()).collect();
    let of = |node: &str| ["container1", "container2", "edge1"].map(|name| format!("{name}{node}"));
    assert_eq!(names, [of(""), of("@node1"), of("@node3")].concat());
    let numbers: Vec<u16> = nodes[2].status().nodes.iter().map(|node| node.number.get()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let before = nodes[0].process("container1@node2");

    let pace = Pace::watch();
    let killed = Instant::now();
    nodes[1].kill("container1");
    // The fake edges note each death that they are told of.
    let told = [&nodes[0], &nodes[2]]
        .map(|node| node.wait_for_note("edge1", "container1@node2 backoff").duration_since(killed));
    let bound = pace.end().allows(Duration::from_millis(500));
    assert!(told.iter().all(|told| *told < bound), "noticed after {told:?}, not within {bound:?}");
    let after = nodes[0].wait_for("it to be ready again", |view| {
        let process = view.process(&name("container1@node2"))?;
        (process.state == ProcessState::Ready && process.pid != before.pid).then(|| process.clone())
    });
    assert_eq!(after.incarnation.node().get(), 1);
    assert!(after.incarnation > before.incarnation);
    assert!(nodes[0].status().is_dead(before.incarnation));
    stop(nodes);
}

#[test]
fn a_node_that_is_gone_is_lost_within_two_seconds_and_found_again() {
    let (port, mut nodes) = cluster_of(3);
    let life = nodes[0].process("container1@node3").incarnation;
    let third = nodes.pop().unwrap();
    let pace = Pace::watch();
    let killed = Instant::now();
    let ended = third.kill_everything();
    for node in &nodes {
        wait_for_state(node, "node3", NodeState::Lost);
    }
    let noticed = killed.elapsed();
    let bound = pace.end().allows(Duration::from_secs(2));
    assert!(noticed < bound, "noticed after {noticed:?}, not within {bound:?}");
    let view = nodes[0].status();
    assert!(view.is_dead(life));
    assert_eq!(view.process(&name("container1@node3")).unwrap().state, ProcessState::Down);
    assert_eq!(
        nodes[0].request(Request::Stop { name: name("edge1@node3") }),
        Answer::Refused {
            reason: "node3 cannot be reached; see outlast status --cluster".to_owned()
        }
    );
    nodes.push(Node::start_again(ended, config(3, address(3, port))));
    wait_until_complete(&nodes);
    stop(nodes);
}

#[test]
fn a_manager_that_is_replaced_in_time_loses_no_node_and_one_that_stays_stopped_does() {
    let (_, nodes) = cluster_of(2);
    let life = nodes[0].process("container1@node2").incarnation;
    let before = nodes[1].manager_pid();
    signal(before, Signal::STOP);
    nodes[1].wait_for_manager_after(before);
    nodes[0].wait_for("node2 to be heard again", |view| {
        assert_ne!(state_of(view, "node2"), Some(NodeState::Lost));
        let process = view.process(&name("container1@node2"))?;
        (process.state == ProcessState::Ready).then_some(())
    });
    assert_eq!(nodes[0].process("container1@node2").incarnation, life, "it was adopted");
    // Nobody revives it now.
    let (guardian, manager) = (nodes[1].guardian_pid(), nodes[1].manager_pid());
    for pid in [guardian, manager] {
        signal(pid, Signal::STOP);
    }
    wait_for_state(&nodes[0], "node2", NodeState::Lost);
    assert_eq!(cluster_status(&nodes[0]).coordinator, "node1");
    for pid in [manager, guardian] {
        signal(pid, Signal::CONT);
    }
    wait_until_complete(&nodes);
    // Who was stopped takes nobody else for lost when it goes on.
    let shown = fs::read_to_string(nodes[1].directory().join("shown")).unwrap();
    assert!(!shown.contains("lost: it was not heard"), "{shown}");
    stop(nodes);
}

#[test]
fn processes_of_another_node_are_stopped_started_and_drained_by_their_full_names() {
    let (_, nodes) = cluster_of(2);
    let request = |request| nodes[0].request(request);
    let container = name("container1@node2");
    assert_eq!(request(Request::Stop { name: container.clone() }), Answer::Done);
    assert_eq!(nodes[1].process("container1").state, ProcessState::Down);
    assert_eq!(request(Request::Start { name: container.clone() }), Answer::Done);
    assert_eq!(nodes[1].process("container1").state, ProcessState::Ready);
    let before = nodes[1].process("container1");
    assert_eq!(request(Request::Restart { name: container.clone() }), Answer::Done);
    assert_ne!(nodes[1].process("container1").pid, before.pid);
    assert_eq!(nodes[0].process("container1").restarts, 0, "the own one is left alone");
    let mut progress = 0;
    let drain = Request::Drain { name: container, deadline_ms: None };
    let socket = nodes[0].socket();
    let drained = topology::server::admin_request_with_progress(&socket, drain, |_| progress += 1);
    assert_eq!(drained.unwrap(), Answer::Done);
    assert!(progress > 0);
    assert_eq!(request(Request::Start { name: name("container1@node2") }), Answer::Done);
    // One's own full name is one's own.
    assert_eq!(request(Request::Restart { name: name("edge1@node1") }), Answer::Done);
    for (asked, told) in [
        ("container1@node7", "no member is named node7; the cluster has node1, node2"),
        ("container7@node2", "node2: no process is named container7"),
    ] {
        match request(Request::Stop { name: ProcessName::new(asked) }) {
            Answer::Refused { reason } => assert!(reason.starts_with(told), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    stop(nodes);
}

#[test]
fn a_removed_node_is_refused_and_its_number_does_not_come_back() {
    let (port, mut nodes) = cluster_of(3);
    let third = nodes.pop().unwrap();
    let remove = |node: &str| {
        nodes[1].request(Request::ClusterRemove { node: node.to_owned(), is_leaving: false })
    };
    match remove("node3") {
        Answer::Refused { reason } => assert!(reason.contains("node3 is up"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let ended = third.kill_everything();
    wait_for_state(&nodes[0], "node3", NodeState::Lost);
    wait_for_state(&nodes[1], "node3", NodeState::Lost);
    // Asked of the second, done by the first.
    assert_eq!(remove("node3"), Answer::Done);
    for node in &nodes {
        node.wait_for("node3 to be gone", |view| (view.nodes.len() == 2).then_some(()));
    }
    let third = Node::start_again(ended, config(3, address(3, port)));
    until("node3 to hear that it was removed", || cluster_status(&third).is_removed.then_some(()));
    third.wait_for("node3 to be alone", |view| (view.processes.len() == 3).then_some(()));
    assert!(nodes.iter().all(|node| node.status().nodes.len() == 2));
    third.stop();
    nodes.push(start_joined(&nodes[1], 3, port));
    wait_until_complete(&nodes);
    assert_eq!(nodes[0].process("container1@node3").incarnation.node().get(), 3);
    // One that leaves by itself is up.
    let leave = Request::ClusterRemove { node: "node3".to_owned(), is_leaving: true };
    assert_eq!(nodes[2].request(leave), Answer::Done);
    nodes[0].wait_for("node3 to have left", |view| (view.nodes.len() == 2).then_some(()));
    until("node3 to know it", || cluster_status(&nodes[2]).is_removed.then_some(()));
    stop(nodes);
}

#[test]
fn all_nodes_come_back_as_they_were_and_share_their_keys() {
    let (port, nodes) = cluster_of(3);
    let rings = |nodes: &[&std::path::Path]| {
        let read = |path: &&std::path::Path| fs::read_to_string(path.join("keys.json")).unwrap();
        let mut rings: Vec<String> = nodes.iter().map(read).collect();
        rings.dedup();
        rings
    };
    let directories: Vec<&std::path::Path> = nodes.iter().map(Node::directory).collect();
    let before = rings(&directories);
    assert_eq!(before.len(), 1, "shared at the join");
    // Whoever is asked, the first rotates, and all have them.
    assert!(matches!(
        nodes[2].request(Request::RotateKeys),
        Answer::Keys(KeysStatus { has_previous: true, .. })
    ));
    until("all to have the new keys", || {
        let after = rings(&directories);
        (after.len() == 1 && after != before).then_some(())
    });
    let ended = stop(nodes);
    let nodes: Vec<Node> = ended
        .into_iter()
        .zip(1..)
        .map(|(ended, number)| Node::start_again(ended, config(number, address(number, port))))
        .collect();
    wait_until_complete(&nodes);
    stop(nodes);
}

#[test]
fn a_single_node_becomes_a_member_while_it_runs() {
    let port = free_port();
    let mut config = config(1, address(1, port));
    config.cluster = None;
    let node = Node::start(config);
    let before = node.process("container1");
    assert_eq!(node.node_status().cluster, None);
    found(node.directory(), "node1", address(1, port)).unwrap();
    assert!(found(node.directory(), "node1", address(1, port)).is_err(), "it is a member already");
    assert_eq!(node.request(Request::ClusterOpen), Answer::Done);
    assert_eq!(cluster_status(&node).coordinator, "node1");
    let second = start_joined(&node, 2, port);
    let nodes = vec![node, second];
    wait_until_complete(&nodes);
    assert_eq!(nodes[0].process("container1"), before, "nothing was restarted");
    let before = nodes[0].manager_pid();
    signal(before, Signal::KILL);
    nodes[0].wait_for_manager_after(before);
    wait_until_complete(&nodes);
    stop(nodes);
}

#[test]
fn a_container_that_an_edge_of_another_node_finds_silent_is_ended_by_its_own_manager() {
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    found(directory.path(), "node1", address(1, port)).unwrap();
    let accuses = [("edge1", "accuses container1@node2")];
    let one = Node::start_prepared_with(directory, config(1, address(1, port)), &accuses);
    // Whoever has an edge of its own believes that one.
    let mut without_edges = config(2, address(2, port));
    without_edges.edge.instances.clear();
    let two = Node::start_prepared(joined(&one, 2, port), without_edges);
    two.wait_for("another life of it", |view| {
        let process = view.process(&name("container1"))?;
        (process.restarts > 0).then_some(())
    });
    assert_eq!(two.process("container2").restarts, 0);
    stop(vec![one, two]);
}

#[test]
fn a_member_at_another_address_is_found_by_who_comes_up_while_it_is_the_only_one() {
    let (port, mut nodes) = cluster_of(3);
    let ended = nodes.pop().unwrap().stop();
    let elsewhere = address(33, port);
    nodes.push(Node::start_again(ended, config(3, elsewhere)));
    wait_until_complete(&nodes);
    for node in &nodes {
        let file = node.directory().join("cluster/cluster.json");
        until("the list to have it", || {
            let list = fs::read_to_string(&file).ok()?;
            list.contains(&elsewhere.to_string()).then_some(())
        });
    }
    // All but the one that moved stop; whoever comes up again knows of it by the list only.
    let second = nodes.remove(1).stop();
    let first = nodes.remove(0).stop();
    nodes.push(Node::start_again(second, config(2, address(2, port))));
    nodes.push(Node::start_again(first, config(1, address(1, port))));
    wait_until_complete(&nodes);
    stop(nodes);
}

#[test]
fn a_manager_shows_no_version_that_the_one_before_it_has_shown() {
    let (_, nodes) = cluster_of(2);
    let before = nodes[0].manager_pid();
    signal(before, Signal::KILL);
    // From now on its own processes do not change, those of the other node do.
    nodes[0].wait_for_manager_after(before);
    wait_until_complete(&nodes);
    for _ in 0..2 {
        assert_eq!(nodes[1].request(Request::Restart { name: name("container1") }), Answer::Done);
    }
    wait_until_complete(&nodes);
    let version = nodes[0].status().version;
    let record = fs::read_to_string(nodes[0].directory().join("run/processes.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let used = record["numbers_used"].as_u64().unwrap();
    assert!(used >= version, "{used} stands in the record, {version} was shown");
    stop(nodes);
}

#[test]
fn members_hear_each_other_by_gossip_and_can_be_told_another_way_to_find_others() {
    let (port, nodes) = cluster_of(3);
    let begun = Instant::now();
    let all_heard = |node: &Node| cluster_status(node).clocks.len() == 2;
    while !nodes.iter().all(all_heard) {
        let seen: Vec<ClusterStatus> = nodes.iter().map(cluster_status).collect();
        assert!(begun.elapsed() < Duration::from_secs(30), "not all are heard: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for node in &nodes {
        let status = cluster_status(node);
        // One machine has one clock.
        assert!(status.clocks.values().all(|clock| !clock.is_off_by(500_000)), "{status:?}");
        assert_eq!((status.gossip.strangers, status.gossip.doubles), (0, 0), "{status:?}");
    }
    let file = nodes[2].directory().join(config::FILE_NAME);
    let write = |discover: &str| {
        let address = address(3, port);
        fs::write(&file, format!("[cluster]\naddress = \"{address}\"\ndiscover = {discover}\n"))
            .unwrap();
        nodes[2].request(Request::ClusterDiscover)
    };
    assert_eq!(write("\"*225.0.0.20:6200\""), Answer::Done);
    assert_eq!(write(&format!("[\"{}\"]", address(1, port))), Answer::Done);
    let Answer::Refused { reason } = write("\"*224.0.0.1:6200\"") else { panic!("taken") };
    assert!(reason.contains("224.0.1.0"), "{reason}");
    stop(nodes);
}
