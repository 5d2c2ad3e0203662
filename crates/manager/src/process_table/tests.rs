//! A node's life cycle in virtual time, and random events that must never leave a process forgotten.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use topology::HeartbeatSettings;
use topology::protocol::{Command, Request};
use topology::view::{ProcessType, WEIGHT_DEFAULT};

use super::*;
use crate::restart::RestartPolicy;

mod adoption;
mod detection;
mod drain;
mod order;
mod servers;

const DRAIN: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(500);
const HEARTBEAT: HeartbeatSettings =
    HeartbeatSettings { interval: INTERVAL, allowed_miss_count: 2 };
const SILENCE: Duration = Duration::from_millis(1_500);

const NAMES: [&str; 3] = ["container1", "container2", "edge1"];

/// A node of one edge and two containers, with a clock and a world that does what the effects say.
struct Node {
    table: ProcessTable,
    now: Instant,
    pid_last: u32,
    /// Who gives no sign of life; all others do, as time passes.
    silent: Vec<&'static str>,
    /// Whose threads, three of each, wait for a processor all the time.
    starving: Vec<&'static str>,
    began: Instant,
    /// What was told, killed and answered, in order.
    log: Vec<String>,
}

impl Node {
    fn new() -> Node {
        let spec = |name: &str, process_type| ProcessSpec {
            name: ProcessName::new(name),
            process_type,
            link: None,
            link_address: None,
            weight: WEIGHT_DEFAULT,
            addresses: Vec::new(),
        };
        let specs = vec![
            spec("container1", ProcessType::Container),
            spec("container2", ProcessType::Container),
            spec("edge1", ProcessType::Edge),
        ];
        let limits =
            Limits { restart: RestartPolicy::default(), drain: DRAIN, heartbeat: HEARTBEAT };
        Node {
            table: ProcessTable::new("node1".to_owned(), specs, limits, 1_000),
            now: Instant::now(),
            pid_last: 100,
            silent: Vec::new(),
            starving: Vec::new(),
            began: Instant::now(),
            log: Vec::new(),
        }
    }

    fn serving() -> Node {
        let mut node = Node::new();
        node.handle(Event::NodeStarts);
        for name in ["container1", "container2", "edge1"] {
            node.ready(name);
        }
        assert_eq!(node.take_log(), ["serving"]);
        node
    }

    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.table.handle(event, self.now, &mut effects);
        self.carry_out(effects);
    }

    /// Time passes; the table looks at the clock when it wants to, and signs of life come in time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let beat = self.now + HEARTBEAT.beat_interval();
            let wanted = self.table.next_deadline().unwrap_or(end).max(self.now);
            self.now = end.min(beat).min(wanted.max(self.now + Duration::from_millis(1)));
            for name in NAMES {
                if !self.silent.contains(&name) {
                    self.alive(name, 0);
                }
            }
            self.look();
        }
    }

    fn alive(&mut self, name: &str, left: u64) {
        let entry = self.entry(name);
        if entry.pid.is_some() {
            self.handle(Event::Alive { name: entry.name, incarnation: entry.incarnation, left });
        }
    }

    fn look(&mut self) {
        for pid in self.table.suspects(self.now) {
            let is_starving = self.starving.iter().any(|name| self.entry(name).pid == Some(pid));
            let waited = if is_starving { (self.now - self.began) * 3 } else { Duration::ZERO };
            self.table.has_waited_for_processor(pid, waited, self.now);
        }
        let mut effects = Vec::new();
        self.table.tick(self.now, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Prepare { name } => self.log.push(format!("prepare {name}")),
                Effect::Spawn { name, .. } => {
                    self.pid_last += 1;
                    let pid = self.pid_last;
                    self.handle(Event::Spawned { name, pid });
                }
                Effect::Tell { name, command: Command::Drain { .. } } => {
                    self.log.push(format!("drain {name}"))
                }
                Effect::Tell { name, command: Command::Stop } => {
                    self.log.push(format!("stop {name}"))
                }
                #[cfg(feature = "faults")]
                Effect::Tell { name, command: Command::Fault(_) } => {
                    self.log.push(format!("break {name}"))
                }
                Effect::Kill { name, pid, reason } => {
                    assert_eq!(self.entry(name.as_str()).pid, Some(pid));
                    assert!(!reason.to_string().is_empty());
                    self.log.push(format!("kill {name}"));
                }
                Effect::Publish => {}
                Effect::Answer { ticket, answer } => self.log.push(match answer {
                    Answer::Done => format!("{} done", ticket.0),
                    Answer::Refused { reason } => format!("{} refused: {reason}", ticket.0),
                    Answer::Keys(_)
                    | Answer::Applications(_)
                    | Answer::NodeApplications(_)
                    | Answer::ClusterApplications(_)
                    | Answer::Rollout(_)
                    | Answer::Admitted(_)
                    | Answer::StoresHold(_)
                    | Answer::RolledBack { .. } => {
                        unreachable!("the table knows processes only")
                    }
                    Answer::Progress { left, deadline_in_ms } => {
                        format!("{} left {left} in {deadline_in_ms} ms", ticket.0)
                    }
                    Answer::Status(status) => {
                        format!("{} version {}", ticket.0, status.view.version)
                    }
                }),
                Effect::Serving => self.log.push("serving".to_owned()),
                Effect::Ended => self.log.push("ended".to_owned()),
            }
        }
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn entry(&self, name: &str) -> ProcessEntry {
        self.table.view().process(&ProcessName::new(name)).unwrap().clone()
    }

    fn state(&self, name: &str) -> ProcessState {
        self.entry(name).state
    }

    /// How long until it is started, or patience with it is over.
    fn due_in(&self, name: &str) -> Duration {
        let at = self.table.position(&ProcessName::new(name)).unwrap();
        self.table.processes[at].due.unwrap() - self.now
    }

    fn ready(&mut self, name: &str) {
        let incarnation = self.entry(name).incarnation;
        self.handle(Event::Ready { name: ProcessName::new(name), incarnation });
    }

    fn exit(&mut self, name: &str) {
        let incarnation = self.entry(name).incarnation;
        self.handle(Event::Exited { name: ProcessName::new(name), incarnation });
    }

    fn lock_held(&mut self, reporter: &str, holder: &str, waited_ms: u64) {
        if let Some(holder) = self.entry(holder).pid {
            let waited = Duration::from_millis(waited_ms);
            self.handle(Event::LockHeld { reporter: ProcessName::new(reporter), holder, waited });
        }
    }

    fn unresponsive(&mut self, reporter: &str, name: &str) {
        let ProcessEntry { name, incarnation, .. } = self.entry(name);
        let reporter = ProcessName::new(reporter);
        self.handle(Event::Unresponsive { reporter, name, incarnation });
    }

    fn request(&mut self, ticket: u64, request: fn(ProcessName) -> Request, name: &str) {
        self.handle(Event::Requested {
            ticket: Ticket(ticket),
            request: request(ProcessName::new(name)),
        });
    }
}

fn start(name: ProcessName) -> Request {
    Request::Start { name }
}

fn stop(name: ProcessName) -> Request {
    Request::Stop { name }
}

fn drain(name: ProcessName) -> Request {
    Request::Drain { name, deadline_ms: Some(60_000) }
}

fn restart(name: ProcessName) -> Request {
    Request::Restart { name }
}

#[test]
fn the_node_serves_when_the_last_process_is_ready_and_says_so_once() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.ready("container2");
    node.ready("container1");
    assert_eq!(node.take_log(), [""; 0]);
    node.ready("edge1");
    assert_eq!(node.take_log(), ["serving"]);
    node.exit("container1");
    node.pass(Duration::from_secs(1));
    node.ready("container1");
    assert_eq!(node.take_log(), [""; 0]);
}

#[test]
fn a_death_is_published_at_once_and_the_process_comes_back_as_another_incarnation() {
    let mut node = Node::serving();
    let before = node.entry("container1");
    let mut effects = Vec::new();
    let died = Event::Exited { name: before.name.clone(), incarnation: before.incarnation };
    node.table.handle(died, node.now, &mut effects);
    assert_eq!(effects, [Effect::Publish]);
    assert_eq!(node.state("container1"), ProcessState::Backoff);
    let delay = node.due_in("container1");
    assert_eq!(delay, RestartPolicy::default().delay_min);
    node.pass(delay);
    let after = node.entry("container1");
    assert_eq!((after.state, after.restarts), (ProcessState::Starting, 1));
    assert!(after.incarnation > before.incarnation && after.pid != before.pid);
}

#[test]
fn a_process_that_dies_again_and_again_waits_longer_and_longer() {
    let mut node = Node::serving();
    let mut delays = Vec::new();
    for _ in 0..4 {
        node.exit("edge1");
        let delay = node.due_in("edge1");
        delays.push(delay.as_millis());
        node.pass(delay);
        node.ready("edge1");
    }
    assert_eq!(delays, [50, 100, 200, 400]);
    assert_eq!(node.entry("edge1").restarts, 4);
}

#[test]
fn a_start_that_takes_too_long_is_killed_and_tried_again() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    node.pass(START_LIMIT);
    assert_eq!(node.take_log(), ["kill container1", "kill container2"]);
    node.pass(EDGES_WAIT_MAX);
    assert_eq!(node.take_log(), ["kill edge1"]);
    node.exit("edge1");
    assert_eq!(node.state("edge1"), ProcessState::Backoff);
}

#[test]
fn messages_of_a_former_life_change_nothing() {
    let mut node = Node::serving();
    let former = node.entry("container1").incarnation;
    node.exit("container1");
    node.pass(Duration::from_secs(1));
    let view = node.table.view();
    let name = ProcessName::new("container1");
    node.handle(Event::Exited { name: name.clone(), incarnation: former });
    node.handle(Event::Ready { name, incarnation: former });
    assert_eq!(node.table.view(), view);
}

#[test]
fn a_stop_by_hand_drains_a_process_and_leaves_it_down() {
    let mut node = Node::serving();
    node.request(1, stop, "container1");
    assert_eq!(node.state("container1"), ProcessState::Draining);
    assert_eq!(node.take_log(), ["drain container1"]);
    node.exit("container1");
    assert_eq!(node.take_log(), ["1 done"]);
    node.pass(Duration::from_secs(3600));
    let entry = node.entry("container1");
    assert_eq!((entry.state, entry.restarts, entry.pid), (ProcessState::Down, 0, None));
    node.request(2, start, "container1");
    node.ready("container1");
    assert_eq!(node.take_log(), ["2 done"]);
}

#[test]
fn a_container_that_does_not_finish_is_told_to_stop_and_then_killed() {
    let mut node = Node::serving();
    node.request(1, stop, "container1");
    node.pass(DRAIN);
    assert_eq!(node.state("container1"), ProcessState::Stopping);
    node.pass(STOP_LIMIT);
    assert_eq!(node.take_log(), ["drain container1", "stop container1", "kill container1"]);
    node.exit("container1");
    assert_eq!(node.take_log(), ["1 done"]);
}

#[test]
fn a_restart_by_hand_is_answered_when_it_serves_again_and_counts_as_no_death() {
    let mut node = Node::serving();
    node.exit("edge1");
    node.pass(Duration::from_secs(1));
    node.ready("edge1");
    node.request(7, restart, "edge1");
    assert_eq!(node.state("edge1"), ProcessState::Draining);
    node.exit("edge1");
    assert_eq!(node.state("edge1"), ProcessState::Starting);
    assert_eq!(node.take_log(), ["drain edge1"]);
    node.ready("edge1");
    assert_eq!(node.take_log(), ["7 done"]);
    assert_eq!(node.entry("edge1").restarts, 1);
    node.exit("edge1");
    assert_eq!(node.due_in("edge1"), RestartPolicy::default().delay_min, "the count was cleared");
}

#[test]
fn a_start_by_hand_does_not_wait_for_the_backoff() {
    let mut node = Node::serving();
    node.exit("container2");
    node.request(1, start, "container2");
    assert_eq!(node.state("container2"), ProcessState::Starting);
    node.exit("container2");
    let log = node.take_log();
    assert!(log[0].starts_with("1 refused: container2 died before it was ready"), "{log:?}");
}

#[test]
fn who_asked_for_a_start_that_fails_is_told_why() {
    let mut node = Node::serving();
    node.request(1, stop, "edge1");
    node.exit("edge1");
    let mut effects = Vec::new();
    let request = start(ProcessName::new("edge1"));
    node.table.handle(Event::Requested { ticket: Ticket(2), request }, node.now, &mut effects);
    let failed = Event::NotSpawned {
        name: ProcessName::new("edge1"),
        incarnation: node.entry("edge1").incarnation,
        reason: "port taken".to_owned(),
    };
    node.handle(failed);
    assert_eq!(node.take_log().last().unwrap(), "2 refused: port taken");
    assert_eq!(node.state("edge1"), ProcessState::Backoff, "it is tried again");
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_reason() {
    let mut node = Node::serving();
    node.request(1, stop, "container9");
    node.request(2, start, "edge1");
    node.request(3, stop, "container1");
    node.request(4, start, "container1");
    assert_eq!(
        node.take_log(),
        [
            "1 refused: no process is named container9; this node has container1, container2, edge1",
            "2 done",
            "drain container1",
            "4 refused: container1 is draining; start it when it is down",
        ]
    );
    node.handle(Event::NodeStops);
    node.take_log();
    node.request(5, restart, "edge1");
    assert_eq!(node.take_log(), ["5 refused: the node is stopping"]);
}

#[test]
fn only_the_process_that_was_started_is_expected() {
    let mut node = Node::new();
    node.handle(Event::NodeStarts);
    let entry = node.entry("container1");
    assert_eq!(node.table.expects(&entry.name, entry.pid.unwrap()), Some(entry.incarnation));
    assert_eq!(node.table.expects(&entry.name, 1), None);
    node.ready("container1");
    assert_eq!(node.table.expects(&entry.name, entry.pid.unwrap()), None, "it is in already");
}

#[derive(Debug, Clone)]
enum Step {
    Silence(usize),
    LockHeld(usize, usize),
    Unresponsive(usize),
    Drain(usize),
    Ready(usize),
    Exit(usize),
    Start(usize),
    Stop(usize),
    Restart(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..NAMES.len();
    let step = prop_oneof![
        who.clone().prop_map(Step::Silence),
        (who.clone(), who.clone()).prop_map(|(one, other)| Step::LockHeld(one, other)),
        who.clone().prop_map(Step::Unresponsive),
        who.clone().prop_map(Step::Drain),
        who.clone().prop_map(Step::Ready),
        who.clone().prop_map(Step::Exit),
        who.clone().prop_map(Step::Start),
        who.clone().prop_map(Step::Stop),
        who.prop_map(Step::Restart),
        (0..40_000_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn whatever_happens_every_request_is_answered_once_and_the_node_can_stop(steps in steps()) {
        let mut node = Node::new();
        node.handle(Event::NodeStarts);
        let mut tickets = 0;
        let mut answered = Vec::new();
        for step in steps {
            match step {
                Step::Silence(at) => node.silent = vec![NAMES[at]],
                Step::LockHeld(holder, reporter) => for waited_ms in [100, 200, 300] {
                    node.lock_held(NAMES[reporter], NAMES[holder], waited_ms);
                },
                Step::Unresponsive(at) => node.unresponsive("edge1", NAMES[at]),
                Step::Drain(at) => { tickets += 1; node.request(tickets, drain, NAMES[at]); }
                Step::Ready(at) => node.ready(NAMES[at]),
                // Only what lives can die.
                Step::Exit(at) if node.entry(NAMES[at]).pid.is_some() => node.exit(NAMES[at]),
                Step::Exit(_) => {}
                Step::Start(at) => { tickets += 1; node.request(tickets, start, NAMES[at]); }
                Step::Stop(at) => { tickets += 1; node.request(tickets, stop, NAMES[at]); }
                Step::Restart(at) => { tickets += 1; node.request(tickets, restart, NAMES[at]); }
                Step::Pass(millis) => node.pass(Duration::from_millis(millis)),
            }
            for name in NAMES {
                let entry = node.entry(name);
                let alive = !matches!(entry.state, ProcessState::Down | ProcessState::Backoff);
                prop_assert_eq!(entry.pid.is_some(), alive, "{:?}", entry);
            }
            answered.extend(node.take_log());
        }
        node.handle(Event::NodeStops);
        for name in NAMES {
            if node.entry(name).pid.is_some() {
                node.exit(name);
            }
        }
        answered.extend(node.take_log());
        prop_assert_eq!(answered.last().map(String::as_str), Some("ended"));
        for ticket in 1..=tickets {
            let prefixes = [format!("{ticket} done"), format!("{ticket} refused")];
            let count = answered.iter().filter(|line| prefixes.iter().any(|prefix| line.starts_with(prefix))).count();
            prop_assert_eq!(count, 1, "ticket {}: {:?}", ticket, answered);
        }
    }
}

#[test]
fn a_member_gives_lives_of_its_number_and_tells_others_the_last() {
    let number = topology::NodeNumber::new(3).unwrap();
    let node = Node::new();
    let mut table = node.table.of_member(number);
    table.handle(Event::NodeStarts, node.now, &mut Vec::new());
    let snapshot = table.snapshot("192.0.2.3:6200".parse().unwrap());
    let lives: Vec<_> = snapshot.processes.iter().map(|process| process.incarnation).collect();
    let life = |microseconds| Incarnation::of_node(number, microseconds);
    assert_eq!(lives, [life(1_001), life(1_002), Incarnation::NONE]);
    assert_eq!(snapshot.last_life, life(1_002));
    assert_eq!((snapshot.number, snapshot.version), (number, table.view().version));
    // What another manager counts on from is no matter of the number.
    assert!(table.numbers_used() < 1_010);
}
