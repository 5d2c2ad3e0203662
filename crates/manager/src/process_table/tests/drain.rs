//! Drains by hand: progress, deadlines, who wishes last.

use super::super::requests::WAITERS_MAX;
use super::*;

#[test]
fn a_drain_tells_what_is_left_at_every_heartbeat_and_ends_when_the_process_is_down() {
    let mut node = Node::serving();
    node.alive("container1", 3);
    node.request(1, drain, "container1");
    assert_eq!(node.take_log(), ["drain container1", "1 left 3 in 60000 ms"]);
    node.now += INTERVAL;
    node.alive("container1", 2);
    assert_eq!(node.take_log(), ["1 left 2 in 59500 ms"]);
    node.exit("container1");
    assert_eq!(node.take_log(), ["1 done"]);
    assert_eq!(node.state("container1"), ProcessState::Down);
}

#[test]
fn at_its_deadline_a_drain_is_told_to_stop_and_says_no_more() {
    let mut node = Node::serving();
    let request = Request::Drain { name: ProcessName::new("edge1"), deadline_ms: Some(100) };
    node.handle(Event::Requested { ticket: Ticket(1), request });
    node.now += Duration::from_millis(100);
    node.look();
    assert_eq!(node.take_log(), ["drain edge1", "1 left 0 in 100 ms", "stop edge1"]);
    node.alive("edge1", 1);
    node.exit("edge1");
    assert_eq!(node.take_log(), ["1 done"]);
}

#[test]
fn a_drain_without_a_deadline_has_the_configured_one() {
    let mut node = Node::serving();
    let request = Request::Drain { name: ProcessName::new("container1"), deadline_ms: None };
    node.handle(Event::Requested { ticket: Ticket(1), request });
    assert_eq!(node.due_in("container1"), DRAIN);
}

#[test]
fn a_drain_of_more_than_a_day_is_refused() {
    let mut node = Node::serving();
    let request =
        Request::Drain { name: ProcessName::new("container1"), deadline_ms: Some(u64::MAX) };
    node.handle(Event::Requested { ticket: Ticket(1), request });
    assert!(node.take_log()[0].starts_with("1 refused: "));
    assert_eq!(node.state("container1"), ProcessState::Ready);
}

#[test]
fn the_last_wish_sets_the_deadline_of_a_drain_and_all_are_answered() {
    let mut node = Node::serving();
    node.request(1, drain, "container1");
    assert_eq!(node.due_in("container1"), Duration::from_secs(60));
    node.request(2, stop, "container1");
    assert_eq!(node.due_in("container1"), DRAIN);
    node.request(3, drain, "container1");
    assert_eq!(node.due_in("container1"), Duration::from_secs(60));
    node.exit("container1");
    let log = node.take_log();
    assert_eq!(log.iter().filter(|line| *line == "drain container1").count(), 3, "{log:?}");
    assert_eq!(&log[log.len() - 3..], ["1 done", "2 done", "3 done"]);
}

#[test]
fn a_restart_after_a_drain_brings_the_process_back() {
    let mut node = Node::serving();
    node.request(1, drain, "container1");
    node.request(2, restart, "container1");
    node.exit("container1");
    assert_eq!(node.state("container1"), ProcessState::Starting);
    node.ready("container1");
    assert_eq!(node.take_log().last().unwrap(), "2 done");
}

#[test]
fn what_does_not_serve_is_not_drained() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.request(1, drain, "container1");
    assert_eq!(node.take_log(), ["kill container1"]);
    node.request(2, drain, "edge1");
    assert_eq!(node.take_log(), ["2 done"], "it had not begun");
    node.exit("container1");
    assert_eq!(node.take_log(), ["1 done"]);
}

#[test]
fn too_many_who_wait_are_refused() {
    let mut node = Node::serving();
    for ticket in 0..=WAITERS_MAX as u64 {
        node.request(ticket, stop, "container1");
    }
    let log = node.take_log();
    let refused: Vec<_> = log.iter().filter(|line| line.contains("refused")).collect();
    assert_eq!(refused.len(), 1, "{log:?}");
}

/// Every state in which a process can be when somebody restarts it, after deaths that made its delay long.
#[test]
fn a_restart_by_hand_resets_the_backoff_in_every_state() {
    type Prepare = fn(&mut Node);
    let states: [(ProcessState, Prepare); 7] = [
        (ProcessState::Backoff, |_| {}),
        (ProcessState::Starting, |node| node.pass(node.due_in("container1"))),
        (ProcessState::Ready, |node| {
            node.pass(node.due_in("container1"));
            node.ready("container1");
        }),
        (ProcessState::Hung, |node| {
            node.pass(node.due_in("container1"));
            node.ready("container1");
            node.silent = vec!["container1"];
            node.pass(SILENCE);
            node.silent.clear();
        }),
        (ProcessState::Draining, |node| {
            node.pass(node.due_in("container1"));
            node.ready("container1");
            node.request(8, stop, "container1");
        }),
        (ProcessState::Stopping, |node| {
            node.pass(node.due_in("container1"));
            node.ready("container1");
            node.request(8, stop, "container1");
            node.pass(DRAIN);
        }),
        (ProcessState::Down, |node| node.request(8, stop, "container1")),
    ];
    for (state, prepare) in states {
        let mut node = Node::serving();
        for _ in 0..5 {
            node.exit("container1");
            node.pass(node.due_in("container1"));
        }
        node.exit("container1");
        assert_eq!(node.due_in("container1"), Duration::from_millis(50 << 5));
        prepare(&mut node);
        assert_eq!(node.state("container1"), state);
        node.request(9, restart, "container1");
        if node.state("container1") != ProcessState::Starting || state == ProcessState::Starting {
            node.exit("container1");
        }
        assert_eq!(node.state("container1"), ProcessState::Starting, "from {state}");
        node.ready("container1");
        assert_eq!(node.take_log().last().unwrap(), "9 done", "from {state}");
        node.exit("container1");
        assert_eq!(node.due_in("container1"), Duration::from_millis(50), "from {state}");
    }
}
