//! In which order a node starts and stops.

use super::*;

#[test]
fn edges_start_when_the_containers_are_ready() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container1");
    assert_eq!(node.entry("edge1").pid, None);
    assert_eq!(node.state("edge1"), ProcessState::Backoff, "it waits for its start");
    node.ready("container2");
    assert_eq!(node.state("edge1"), ProcessState::Starting);
    assert_eq!(node.entry("edge1").restarts, 0);
}

#[test]
fn a_container_that_cannot_start_holds_up_no_edge() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container1");
    node.exit("container2");
    assert_eq!(node.state("edge1"), ProcessState::Starting);
}

#[test]
fn a_container_that_takes_too_long_holds_up_no_edge() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container1");
    node.pass(EDGES_WAIT_MAX - Duration::from_millis(1));
    assert_eq!(node.state("edge1"), ProcessState::Backoff);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.state("edge1"), ProcessState::Starting);
}

#[test]
fn an_edge_that_dies_later_waits_for_no_container() {
    let mut node = Node::serving();
    node.request(1, stop, "container1");
    node.exit("container1");
    node.request(2, start, "container1");
    node.exit("edge1");
    node.pass(RestartPolicy::default().delay_min);
    assert_eq!(node.state("container1"), ProcessState::Starting);
    assert_eq!(node.state("edge1"), ProcessState::Starting);
}

#[test]
fn the_nodes_stop_drains_the_containers_and_keeps_the_edges_until_the_last_one_has_ended() {
    let mut node = Node::serving();
    node.handle(Event::NodeStops);
    assert_eq!(node.take_log(), ["drain container1", "drain container2"]);
    assert_eq!(node.state("edge1"), ProcessState::Ready, "it carries what they finish");
    node.exit("container1");
    node.pass(DRAIN);
    assert_eq!(node.take_log(), ["stop container2"]);
    node.pass(STOP_LIMIT);
    assert_eq!(node.take_log(), ["kill container2"]);
    node.exit("container2");
    assert_eq!(node.take_log(), ["stop edge1"]);
    node.exit("edge1");
    assert_eq!(node.take_log(), ["ended"]);
}

#[test]
fn a_drain_by_hand_gets_no_more_time_than_the_nodes_stop() {
    let mut node = Node::serving();
    node.request(1, drain, "container1");
    node.exit("container2");
    node.handle(Event::NodeStops);
    node.take_log();
    node.pass(DRAIN);
    assert_eq!(node.take_log().last().unwrap(), "stop container1");
}

#[test]
fn an_edge_that_dies_while_the_node_stops_stays_dead() {
    let mut node = Node::serving();
    node.handle(Event::NodeStops);
    node.exit("edge1");
    assert_eq!(node.state("edge1"), ProcessState::Down);
    node.exit("container1");
    node.exit("container2");
    assert_eq!(node.take_log().last().unwrap(), "ended");
}

#[test]
fn a_second_signal_kills_what_still_lives() {
    let mut node = Node::serving();
    node.handle(Event::NodeStops);
    node.exit("container1");
    node.take_log();
    node.handle(Event::NodeStops);
    assert_eq!(node.take_log(), ["kill container2", "kill edge1"]);
}

#[test]
fn a_node_that_stops_while_it_starts_kills_what_never_served() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container1");
    node.handle(Event::NodeStops);
    assert_eq!(node.take_log(), ["drain container1", "kill container2"]);
    assert_eq!(node.state("edge1"), ProcessState::Down, "it was never started");
}
