//! Servers that are not ours: prepared before each life, first at the start and last at the stop.

use super::*;

fn store(number: usize) -> ProcessSpec {
    ProcessSpec {
        name: ProcessName::new(format!("store{number}")),
        process_type: ProcessType::Store,
        link: None,
        link_address: Some(([127, 0, 0, 1], 6220).into()),
        weight: WEIGHT_DEFAULT,
        addresses: Vec::new(),
    }
}

fn prepared(node: &mut Node, name: &str) {
    node.handle(Event::Prepared { name: ProcessName::new(name) });
}

/// A node whose store is being prepared, before anything else.
fn starting() -> Node {
    let mut node = Node::new();
    node.table.add_servers(vec![store(1)]);
    node.handle(Event::NodeStarts);
    assert_eq!(node.take_log(), ["prepare store1"]);
    node
}

fn serving() -> Node {
    let mut node = starting();
    prepared(&mut node, "store1");
    for name in ["store1", "container1", "container2", "edge1"] {
        node.ready(name);
    }
    assert_eq!(node.take_log(), ["serving"]);
    node
}

#[test]
fn servers_start_first_and_the_others_when_these_are_ready() {
    let mut node = starting();
    assert_eq!(node.state("container1"), ProcessState::Backoff);
    prepared(&mut node, "store1");
    assert_eq!(node.state("store1"), ProcessState::Starting);
    assert_eq!(node.state("container1"), ProcessState::Backoff);
    node.ready("store1");
    assert_eq!(node.state("container1"), ProcessState::Starting);
    assert_eq!(node.state("edge1"), ProcessState::Backoff);
    assert_eq!(node.entry("store1").link_address, store(1).link_address);
}

#[test]
fn a_server_that_cannot_start_or_takes_long_holds_up_nobody_for_ever() {
    let mut node = starting();
    prepared(&mut node, "store1");
    node.exit("store1");
    assert_eq!(node.state("container1"), ProcessState::Starting);

    let mut node = starting();
    node.pass(CONTAINERS_WAIT_MAX - Duration::from_millis(1));
    assert_eq!(node.state("container1"), ProcessState::Backoff);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.state("container1"), ProcessState::Starting);
    assert_eq!(node.state("edge1"), ProcessState::Backoff, "its turn is the next one");
    node.ready("container1");
    node.ready("container2");
    node.pass(EDGES_WAIT_MAX);
    assert_eq!(node.state("edge1"), ProcessState::Starting);
}

#[test]
fn a_server_that_died_is_prepared_for_as_long_as_that_takes() {
    let mut node = serving();
    node.exit("store1");
    node.pass(RestartPolicy::default().delay_min);
    assert_eq!(node.take_log(), ["prepare store1"]);
    node.pass(START_LIMIT * 3);
    assert_eq!((node.state("store1"), node.entry("store1").pid), (ProcessState::Backoff, None));
    prepared(&mut node, "store1");
    assert_eq!(node.state("store1"), ProcessState::Starting);
    node.ready("store1");
    assert_eq!((node.state("store1"), node.entry("store1").restarts), (ProcessState::Ready, 1));
    // What was prepared for a life that nobody wants any more begins none.
    node.exit("store1");
    node.pass(RestartPolicy::default().delay_min * 2);
    node.request(1, stop, "store1");
    prepared(&mut node, "store1");
    assert_eq!(node.state("store1"), ProcessState::Down);
}

#[test]
fn a_server_that_reads_its_files_is_waited_for_as_long_as_it_says_so() {
    let mut node = starting();
    prepared(&mut node, "store1");
    for _ in 0..10 {
        node.pass(START_LIMIT / 2);
        node.alive("store1", 0);
    }
    assert_eq!(node.state("store1"), ProcessState::Starting);
    node.pass(START_LIMIT);
    assert!(node.take_log().contains(&"kill store1".to_owned()));
}

#[test]
fn a_silent_server_hangs() {
    let mut node = serving();
    for _ in 0..10 {
        node.pass(SILENCE / 2);
        node.alive("store1", 0);
    }
    assert_eq!(node.state("store1"), ProcessState::Ready);
    node.pass(SILENCE);
    assert_eq!(node.take_log(), ["kill store1"]);
    assert_eq!(node.state("store1"), ProcessState::Hung);
}

#[test]
fn servers_stop_last_and_are_not_drained() {
    let mut node = serving();
    node.handle(Event::NodeStops);
    assert_eq!(node.take_log(), ["drain container1", "drain container2"]);
    node.exit("container1");
    node.exit("container2");
    assert_eq!(node.take_log(), ["stop edge1"]);
    assert_eq!(node.state("store1"), ProcessState::Ready);
    node.exit("edge1");
    assert_eq!(node.take_log(), ["stop store1"]);
    node.exit("store1");
    assert_eq!(node.take_log(), ["ended"]);

    let mut node = serving();
    node.request(1, stop, "store1");
    assert_eq!(node.take_log(), ["stop store1"], "by hand, too");
    node.pass(SERVER_STOP_LIMIT - Duration::from_millis(1));
    assert_eq!(node.take_log(), Vec::<String>::new());
    node.pass(Duration::from_millis(1));
    assert_eq!(node.take_log(), ["kill store1"]);
}

#[test]
fn servers_come_and_go_while_the_node_runs() {
    let mut node = Node::serving();
    node.handle(Event::Servers(vec![store(1), store(2)]));
    assert_eq!(node.take_log(), ["prepare store1", "prepare store2"]);
    prepared(&mut node, "store1");
    node.ready("store1");
    node.handle(Event::Servers(vec![store(1), store(2)]));
    assert_eq!(node.take_log(), Vec::<String>::new(), "nothing is new");
    node.handle(Event::Servers(Vec::new()));
    assert_eq!(node.take_log(), ["stop store1"]);
    let names = |node: &Node| node.table.view().stores().map(|it| it.name.0.clone()).collect();
    let left: Vec<String> = names(&node);
    assert_eq!(left, ["store1"], "the other one was not running");
    node.exit("store1");
    let left: Vec<String> = names(&node);
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(node.state("container1"), ProcessState::Ready);
}
