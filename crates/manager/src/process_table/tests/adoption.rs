//! One manager goes on where another one was.

use super::*;

impl Node {
    /// Another manager reads the record, and finds these dead.
    fn next_manager(&mut self, dead: &[&str]) {
        let mut recorded = self.table.record();
        for life in &mut recorded {
            if dead.contains(&life.name.as_str()) {
                life.pid = None;
            }
        }
        let floor = self.table.numbers_used();
        self.table = Node::new().table;
        self.table.version = floor;
        self.table.incarnation_last = floor;
        self.table.resume(recorded, self.now);
    }

    fn returns(&mut self, name: &str, state: ProcessState) {
        let incarnation = self.entry(name).incarnation;
        let name = ProcessName::new(name);
        self.handle(Event::Returned { name, incarnation, state });
    }
}

#[test]
fn whoever_lives_goes_on_as_it_was() {
    let mut node = Node::serving();
    let before = node.table.view().processes;
    node.next_manager(&[]);
    node.handle(Event::NodeStarts);
    assert_eq!(node.take_log(), ["serving"]);
    assert_eq!(node.table.view().processes, before);
    for name in NAMES {
        node.returns(name, ProcessState::Ready);
    }
    node.pass(SILENCE * 4);
    assert_eq!(node.take_log(), Vec::<String>::new());
    assert_eq!(node.table.view().processes, before);
}

#[test]
fn whoever_died_meanwhile_is_started_again_with_a_later_number() {
    let mut node = Node::serving();
    let before = node.entry("edge1");
    node.next_manager(&["edge1"]);
    node.handle(Event::NodeStarts);
    assert_eq!(node.state("edge1"), ProcessState::Backoff);
    node.pass(RestartPolicy::default().delay_min);
    let after = node.entry("edge1");
    assert_eq!((after.state, after.restarts), (ProcessState::Starting, 1));
    assert!(after.incarnation > before.incarnation);
    node.ready("edge1");
    assert_eq!(node.take_log(), ["serving"]);
}

#[test]
fn whoever_lives_and_does_not_come_back_hangs() {
    let mut node = Node::serving();
    node.next_manager(&[]);
    node.handle(Event::NodeStarts);
    node.take_log();
    node.silent.push("container1");
    node.pass(SILENCE);
    assert_eq!(node.take_log(), Vec::<String>::new(), "it has a moment more to come back");
    node.pass(SILENCE);
    assert_eq!(node.take_log(), ["kill container1"]);
    assert_eq!(node.state("container1"), ProcessState::Hung);
}

#[test]
fn whoever_comes_back_has_given_a_sign_of_life() {
    let mut node = Node::serving();
    node.next_manager(&[]);
    node.handle(Event::NodeStarts);
    node.take_log();
    node.silent.push("container1");
    node.pass(SILENCE);
    node.returns("container1", ProcessState::Ready);
    node.pass(SILENCE - Duration::from_millis(1));
    assert_eq!(node.take_log(), Vec::<String>::new());
    node.pass(Duration::from_millis(1));
    assert_eq!(node.take_log(), ["kill container1"]);
}

#[test]
fn a_drain_goes_on_with_its_deadline_and_is_told_to_who_never_heard_of_it() {
    let mut node = Node::serving();
    node.request(1, stop, "container1");
    node.request(2, stop, "container2");
    node.take_log();
    let left = node.due_in("container1");
    node.next_manager(&[]);
    node.handle(Event::NodeStarts);
    assert_eq!(node.due_in("container1"), left);
    node.returns("container1", ProcessState::Draining);
    node.returns("container2", ProcessState::Ready);
    assert_eq!(node.take_log(), ["drain container2"]);
    node.exit("container1");
    assert_eq!(node.state("container1"), ProcessState::Down);
    node.exit("container2");
    assert_eq!(node.take_log(), ["serving"], "as far as it shall");
}

#[test]
fn whoever_was_stopped_by_hand_stays_down_and_who_was_to_restart_starts() {
    let mut node = Node::serving();
    node.request(1, stop, "container1");
    node.exit("container1");
    node.request(2, |name| Request::Restart { name }, "container2");
    node.take_log();
    node.next_manager(&["container2"]);
    node.handle(Event::NodeStarts);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.state("container1"), ProcessState::Down);
    assert_eq!(node.entry("container2").restarts, 0, "a restart by hand is no death");
    assert_eq!(node.state("container2"), ProcessState::Starting);
}

#[test]
fn a_start_that_nobody_saw_succeed_did() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container1");
    node.next_manager(&[]);
    node.handle(Event::NodeStarts);
    assert_eq!(node.state("container2"), ProcessState::Starting);
    node.returns("container2", ProcessState::Ready);
    assert_eq!(node.state("container2"), ProcessState::Ready);
    assert_eq!(node.state("edge1"), ProcessState::Starting, "it had waited for its turn");
    node.ready("edge1");
    assert_eq!(node.take_log(), ["serving"]);
}

#[test]
fn the_nodes_stop_goes_on() {
    let mut node = Node::serving();
    node.handle(Event::NodeStops);
    node.exit("container1");
    node.take_log();
    node.next_manager(&[]);
    node.handle(Event::NodeStops);
    node.returns("container2", ProcessState::Draining);
    node.exit("container2");
    node.exit("edge1");
    assert_eq!(node.take_log(), ["stop edge1", "ended"]);
}

#[test]
fn only_the_same_process_with_the_same_life_is_known() {
    let node = Node::serving();
    let Some(pid) = node.entry("edge1").pid else { panic!("it runs") };
    let (name, incarnation) = (ProcessName::new("edge1"), node.entry("edge1").incarnation);
    assert!(node.table.knows(&name, pid, incarnation));
    assert!(!node.table.knows(&name, pid + 100, incarnation));
    assert!(!node.table.knows(&name, pid, Incarnation(incarnation.0 + 1)));
    assert!(!node.table.knows(&ProcessName::new("container1"), pid, incarnation));
}
