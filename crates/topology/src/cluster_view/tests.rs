//! What one node says of itself and of the others becomes one view.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::view::{ListenerTransport, ProcessType, WEIGHT_DEFAULT};

fn life(node: u16, microseconds: u64) -> Incarnation {
    Incarnation::of_node(NodeNumber::new(node).unwrap(), microseconds)
}

fn process(name: &str, incarnation: Incarnation, state: ProcessState) -> ProcessEntry {
    ProcessEntry {
        name: ProcessName::new(name),
        process_type: ProcessType::Container,
        incarnation,
        pid: Some(41),
        state,
        restarts: 0,
        link: Some(format!("/run/{name}.link").into()),
        link_address: Some("192.0.2.7:7000".parse().unwrap()),
        addresses: Vec::new(),
        http: None,
        weight: WEIGHT_DEFAULT,
        is_silent: false,
    }
}

fn edge(node: u16, own: &[&str]) -> ProcessEntry {
    let address = |own: &&str| EdgeAddress {
        transport: ListenerTransport::Udp,
        own: own.parse().unwrap(),
        public: (*own).to_owned(),
    };
    ProcessEntry {
        process_type: ProcessType::Edge,
        link: None,
        link_address: None,
        addresses: own.iter().map(address).collect(),
        ..process("edge1", life(node, 5), ProcessState::Ready)
    }
}

/// A node with the container `container1` in its life 100.
fn node(number: u16) -> NodeSnapshot {
    NodeSnapshot {
        node: format!("node{number}"),
        number: NodeNumber::new(number).unwrap(),
        version: 1_000,
        address: format!("192.0.2.{number}:6200").parse().unwrap(),
        last_life: life(number, 100),
        runs_with: crate::RunsWith {
            configuration: u64::from(number),
            ..crate::RunsWith::default()
        },
        processes: vec![process("container1", life(number, 100), ProcessState::Ready)],
    }
}

struct Known {
    own: NodeSnapshot,
    others: BTreeMap<NodeNumber, NodeSnapshot>,
    lost: BTreeSet<NodeNumber>,
    numbers_given: u16,
    last: TopologyView,
}

impl Known {
    /// Node 1 and the others.
    fn cluster(others: &[u16]) -> Known {
        let others: BTreeMap<NodeNumber, NodeSnapshot> = others
            .iter()
            .map(|number| (NodeNumber::new(*number).unwrap(), node(*number)))
            .collect();
        let (lost, last) = (BTreeSet::new(), TopologyView::default());
        Known { own: node(1), others, lost, numbers_given: 4, last }
    }

    fn other(&mut self, number: u16) -> &mut NodeSnapshot {
        self.others.get_mut(&NodeNumber::new(number).unwrap()).unwrap()
    }

    fn lose(&mut self, number: u16) {
        self.lost.insert(NodeNumber::new(number).unwrap());
    }

    fn view(&mut self) -> TopologyView {
        let Known { own, others, lost, numbers_given, last } = self;
        let numbers_given = *numbers_given;
        let format_level = crate::FormatLevel::FIRST;
        let cluster = Cluster { own, others, lost, numbers_given, format_level };
        *last = cluster_view(&cluster, last);
        last.clone()
    }
}

fn names(view: &TopologyView) -> Vec<&str> {
    view.processes.iter().map(|process| process.name.as_str()).collect()
}

#[test]
fn own_processes_keep_their_names_and_others_have_their_nodes() {
    let view = Known::cluster(&[0, 2]).view();
    assert_eq!(names(&view), ["container1", "container1@node0", "container1@node2"]);
    let numbers: Vec<u16> = view.nodes.iter().map(|node| node.number.get()).collect();
    assert_eq!((view.node.as_str(), numbers), ("node1", vec![0, 1, 2]));
    let configurations = view.nodes.iter().map(|node| node.runs_with.configuration);
    assert_eq!(configurations.collect::<Vec<_>>(), [0, 1, 2]);
    assert!(view.processes[0].link.is_some());
    assert_eq!(view.processes[1].link, None, "a path leads nowhere on another machine");
    assert!(view.processes[1].link_address.is_some());
    for (name, cluster_name) in
        [("container1", "container1@node1"), ("container1@node2", "container1@node2")]
    {
        assert_eq!(view.cluster_name(&ProcessName::new(name)).as_str(), cluster_name);
    }
}

#[test]
fn the_version_grows_with_each_change_and_with_no_other() {
    let mut known = Known::cluster(&[0, 2]);
    let first = known.view();
    assert!(first.version >= 1_000);
    assert_eq!(known.view(), first);
    known.other(2).processes[0].state = ProcessState::Draining;
    let second = known.view();
    assert!(second.version > first.version);
    known.lose(2);
    let third = known.view();
    assert!(third.version > second.version);
    assert_eq!(known.view().version, third.version);
    known.others.clear();
    assert!(known.view().version > third.version);
}

#[test]
fn a_lost_nodes_processes_are_down_and_its_lives_over() {
    let mut known = Known::cluster(&[0, 2]);
    assert!(!known.view().is_dead(life(2, 100)));
    known.lose(2);
    known.lose(1); // nonsense: nobody loses himself
    let view = known.view();
    let states: Vec<ProcessState> = view.processes.iter().map(|process| process.state).collect();
    assert_eq!(states, [ProcessState::Ready, ProcessState::Ready, ProcessState::Down]);
    let nodes: Vec<NodeState> = view.nodes.iter().map(|node| node.state).collect();
    assert_eq!(nodes, [NodeState::Up, NodeState::Up, NodeState::Lost]);
    for (number, at, is_dead) in
        [(2, 100, true), (2, 7_000, true), (1, 100, false), (0, 100, false), (0, 99, true)]
    {
        assert_eq!(view.is_dead(life(number, at)), is_dead, "{number} {at}");
    }
    assert_eq!(view.lives().count(), 2);
}

#[test]
fn a_life_is_judged_by_its_own_node_only() {
    let mut known = Known::cluster(&[0, 2]);
    known.other(2).processes[0].incarnation = life(2, 900);
    known.other(2).last_life = life(2, 900);
    let view = known.view();
    for (number, at, is_dead) in [
        (2, 900, false),
        (2, 899, true),
        (2, 901, false),
        // Later than all of its own node, earlier than some of node 2.
        (1, 101, false),
        (0, 101, false),
        (0, 50, true),
    ] {
        assert_eq!(view.is_dead(life(number, at)), is_dead, "{number} {at}");
    }
}

#[test]
fn a_restarted_node_has_outlived_its_lives_before_it_gives_the_next() {
    let mut known = Known::cluster(&[2]);
    known.other(2).processes[0].incarnation = Incarnation::NONE;
    known.other(2).processes[0].state = ProcessState::Down;
    known.other(2).last_life = life(2, 5_000);
    let view = known.view();
    assert!(view.is_dead(life(2, 100)));
    assert!(!view.is_dead(life(2, 5_001)));
}

#[test]
fn removed_nodes_are_dead_and_unknown_ones_not_judged() {
    let mut known = Known::cluster(&[2]);
    let view = known.view();
    // 0 and 3 were given and are no members; 4 may be joining.
    for (number, is_dead) in [(0, true), (1, false), (2, false), (3, true), (4, false)] {
        assert_eq!(view.is_dead(life(number, 100)), is_dead, "{number}");
    }
    // A list of members that says nothing of numbers.
    known.numbers_given = 0;
    let view = known.view();
    for (number, is_dead) in [(0, true), (2, false), (3, false)] {
        assert_eq!(view.is_dead(life(number, 100)), is_dead, "{number}");
    }
}

#[test]
fn a_member_that_was_never_heard_is_not_judged_until_it_counts_as_lost() {
    let mut known = Known::cluster(&[2]);
    let silent = known.other(2);
    (silent.version, silent.last_life) = (0, Incarnation::NONE);
    silent.processes.clear();
    assert!(!known.view().is_dead(life(2, 100)));
    known.lose(2);
    assert!(known.view().is_dead(life(2, 100)));
}

#[test]
fn a_life_from_before_its_node_joined_is_nobodys() {
    let mut known = Known::cluster(&[2]);
    known.other(2).processes.push(process("container2", life(0, 300), ProcessState::Ready));
    assert_eq!(names(&known.view()), ["container1", "container1@node2"]);
}

#[test]
fn loopback_addresses_of_several_nodes_are_everybodys_own() {
    let mut known = Known::cluster(&[2, 3]);
    known.own.processes.push(edge(1, &["127.0.0.1:5060", "192.0.2.1:5060"]));
    known.other(2).processes.push(edge(2, &["127.0.0.1:5060", "192.0.2.2:5060"]));
    known.other(3).processes.push(edge(3, &["127.0.0.1:5070", "192.0.2.3:5060"]));
    let view = known.view();
    let own: Vec<Vec<String>> = view
        .edges()
        .map(|edge| edge.addresses.iter().map(|address| address.own.to_string()).collect())
        .collect();
    assert_eq!(own[0], ["127.0.0.1:5060", "192.0.2.1:5060"]);
    assert_eq!(own[1], ["192.0.2.2:5060"]);
    assert_eq!(own[2], ["127.0.0.1:5070", "192.0.2.3:5060"]);
}

#[test]
fn a_single_nodes_view_has_the_form_that_it_had() {
    let view = TopologyView { version: 3, node: "n".to_owned(), ..TopologyView::default() };
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json, serde_json::json!({ "version": 3, "node": "n", "processes": [] }));
    assert_eq!(serde_json::from_value::<TopologyView>(json).unwrap(), view);
    assert_eq!(view.cluster_name(&ProcessName::new("container1")).as_str(), "container1");
}
