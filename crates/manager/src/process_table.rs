//! The life cycle of every process of a node: events in, effects out. Pure.
//!
//! ```text
//!            ┌────────── restart ────────────┐
//!            ▼                               │
//! down ─▶ starting ─▶ ready ─▶ draining ─▶ stopping ─▶ down
//!            ▲          │ └─ silent ─▶ hung ─┐
//!            └─ backoff ◀┴────── died ◀──────┘ killed
//! ```
//!
//! The order of a node's start: the containers, then, when each of them is ready or has failed once, the edges. The
//! order of its stop: the containers drain, while the edges go on to carry their messages; when the last container
//! has ended, or was killed after its deadline, the edges stop.
//!
//! `now` is an argument; the server calls [`ProcessTable::tick`] at [`ProcessTable::next_deadline`]. Which processes
//! hang is decided in `detection`, what is asked by hand in `requests`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use topology::protocol::Answer;
use topology::view::{Incarnation, ProcessEntry, ProcessName, ProcessState, TopologyView};
use topology::{NodeNumber, NodeSnapshot};

mod adoption;
mod detection;
mod event;
mod process;
mod requests;
#[cfg(test)]
mod tests;

pub use adoption::Recorded;
pub use event::{Effect, Event, KillReason, Limits, ProcessSpec, Ticket};

pub use process::Goal;

use detection::Rounds;
use process::Process;

/// A process that is not ready after this is killed and counts as dead.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// A process told to stop (not to drain) is killed after this.
pub const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How long the edges of a node that starts wait for containers that neither serve nor fail.
pub const EDGES_WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Stopping,
    Ended,
}

/// All processes of a node.
#[derive(Debug)]
pub struct ProcessTable {
    node: String,
    number: NodeNumber,
    limits: Limits,
    phase: Phase,
    version: u64,
    /// The microseconds of the last life that was given.
    incarnation_last: u64,
    rounds: Rounds,
    processes: Vec<Process>,
}

impl ProcessTable {
    /// A single node's table of processes that are all down. `floor` is the microsecond of the manager's start:
    /// incarnations and view versions count up from it, so that they grow across its restarts too.
    pub fn new(node: String, specs: Vec<ProcessSpec>, limits: Limits, floor: u64) -> ProcessTable {
        ProcessTable {
            node,
            number: NodeNumber::FIRST,
            phase: Phase::Starting,
            version: floor,
            incarnation_last: floor,
            rounds: Rounds::new(&limits.heartbeat),
            processes: specs.into_iter().map(|spec| Process::new(spec, &limits)).collect(),
            limits,
        }
    }

    /// The same for the member of a cluster with that number. Lives that it goes on with must be of that number, too: a
    /// node that joins a cluster starts all its processes anew.
    #[must_use]
    pub fn of_member(self, number: NodeNumber) -> ProcessTable {
        ProcessTable { number, ..self }
    }

    /// The node's number.
    pub fn number(&self) -> NodeNumber {
        self.number
    }

    /// The picture of this node as of now.
    pub fn view(&self) -> TopologyView {
        TopologyView {
            version: self.version,
            node: self.node.clone(),
            processes: self.entries(),
            ..TopologyView::default()
        }
    }

    /// The same for the other members of the cluster, who reach this one at `address`.
    pub fn snapshot(&self, address: SocketAddr) -> NodeSnapshot {
        NodeSnapshot {
            node: self.node.clone(),
            number: self.number,
            version: self.version,
            address,
            last_life: Incarnation::of_node(self.number, self.incarnation_last),
            processes: self.entries(),
        }
    }

    /// The life of a process that awaits its welcome: started, with that process id.
    pub fn expects(&self, name: &ProcessName, pid: u32) -> Option<Incarnation> {
        self.processes
            .iter()
            .find(|process| &process.spec.name == name)
            .filter(|process| process.pid == Some(pid) && process.state == ProcessState::Starting)
            .map(|process| process.incarnation)
    }

    /// When [`tick`](Self::tick) has something to do. Whatever waits to be handled must be handled before it.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.processes.iter().filter_map(|process| process.due).min();
        due.into_iter().chain(self.next_look()).min()
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Instant, effects: &mut Vec<Effect>) {
        let before = self.entries();
        match event {
            Event::NodeStarts => self.start_node(now, effects),
            Event::Spawned { name, pid } => {
                if let Some(at) = self.position(&name) {
                    self.processes[at].pid = Some(pid);
                }
            }
            Event::Ready { name, incarnation } => {
                if let Some(at) = self.living(&name, incarnation)
                    // It may have been told to stop in the meantime.
                    && self.processes[at].state == ProcessState::Starting
                {
                    self.processes[at].is_ready(now, effects);
                }
            }
            Event::Exited { name, incarnation } => {
                if let Some(at) = self.living(&name, incarnation) {
                    let reason = format!("{name} died before it was ready; see log/{name}.log");
                    self.exited(at, reason, now, effects);
                }
            }
            Event::NotSpawned { name, incarnation, reason } => {
                if let Some(at) = self.living(&name, incarnation) {
                    self.exited(at, reason, now, effects);
                }
            }
            Event::Returned { name, incarnation, state } => {
                self.returned(&name, incarnation, state, now, effects);
            }
            Event::Alive { name, incarnation, left } => {
                self.alive(&name, incarnation, left, now, effects);
            }
            Event::ServesHttp { name, incarnation, address } => {
                if let Some(at) = self.living(&name, incarnation) {
                    self.processes[at].http = Some(address);
                }
            }
            Event::ServesNodes { name, incarnation, address } => {
                if let Some(at) = self.living(&name, incarnation) {
                    self.processes[at].link_address = Some(address);
                }
            }
            Event::LockHeld { reporter, holder, waited } => {
                self.lock_held(reporter, holder, waited, effects);
            }
            Event::Unresponsive { reporter, name, incarnation } => {
                self.accused(reporter, &name, incarnation, now);
            }
            Event::Responsive { reporter, name, incarnation } => {
                self.acquitted(&reporter, &name, incarnation);
            }
            Event::Requested { ticket, request } => self.requested(ticket, request, now, effects),
            Event::NodeStops => self.stop_node(now, effects),
        }
        self.conclude(&before, now, effects);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let before = self.entries();
        self.look_round(now, effects);
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            if process.due.is_none_or(|due| now < due) {
                continue;
            }
            process.due = None;
            match process.state {
                ProcessState::Backoff => self.spawn(at, now, effects),
                ProcessState::Draining => process.tell_to_stop(now, effects),
                ProcessState::Starting => process.kill(KillReason::NeverReady, effects),
                ProcessState::Stopping => process.kill(KillReason::NotEnded, effects),
                ProcessState::Ready | ProcessState::Hung | ProcessState::Down => {}
            }
        }
        self.conclude(&before, now, effects);
    }

    fn position(&self, name: &ProcessName) -> Option<usize> {
        self.processes.iter().position(|process| &process.spec.name == name)
    }

    fn living(&self, name: &ProcessName, incarnation: Incarnation) -> Option<usize> {
        self.position(name).filter(|at| self.processes[*at].incarnation == incarnation)
    }

    fn entries(&self) -> Vec<ProcessEntry> {
        self.processes.iter().map(Process::entry).collect()
    }

    /// Carries the start or stop of the node on, publishes a change, and tells the two moments that the
    /// operator waits for.
    fn conclude(&mut self, before: &[ProcessEntry], now: Instant, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Starting | Phase::Serving => self.start_edges_after_containers(now, effects),
            Phase::Stopping => self.stop_edges_after_containers(now, effects),
            Phase::Ended => {}
        }
        if self.entries() != before {
            self.version += 1;
            // Before the other effects: who waits for an answer may look at the view next.
            effects.insert(0, Effect::Publish);
        }
        let all = |state| self.processes.iter().all(|process| process.state == state);
        if self.phase == Phase::Starting && self.processes.iter().all(Process::is_as_wished) {
            self.phase = Phase::Serving;
            effects.push(Effect::Serving);
        }
        if self.phase == Phase::Stopping && all(ProcessState::Down) {
            self.phase = Phase::Ended;
            effects.push(Effect::Ended);
        }
    }

    fn spawn(&mut self, at: usize, now: Instant, effects: &mut Vec<Effect>) {
        self.incarnation_last += 1;
        let process = &mut self.processes[at];
        process.begins(Incarnation::of_node(self.number, self.incarnation_last), now);
        effects.push(Effect::Spawn {
            name: process.spec.name.clone(),
            incarnation: process.incarnation,
        });
    }

    /// `reason` is what those are told who wait for it to be ready.
    fn exited(&mut self, at: usize, reason: String, now: Instant, effects: &mut Vec<Effect>) {
        let name = self.processes[at].spec.name.clone();
        self.forget_witness(&name);
        let process = &mut self.processes[at];
        process.life_ended();
        match process.goal {
            Goal::Up => {
                process.restarts = process.restarts.saturating_add(1);
                process.state = ProcessState::Backoff;
                process.due = Some(now + process.backoff.died(now));
                process.answer(&Answer::Refused { reason }, effects);
            }
            Goal::Down => {
                process.state = ProcessState::Down;
                process.answer(&Answer::Done, effects);
            }
            Goal::Restart => {
                process.backoff.reset();
                self.spawn(at, now, effects);
            }
        }
    }

    /// Whatever does not run is started: the containers now, the edges when it is their turn.
    fn start_node(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            if process.state != ProcessState::Down || process.goal == Goal::Down {
                continue;
            }
            if process.is_container() {
                self.spawn(at, now, effects);
            } else {
                process.state = ProcessState::Backoff;
                process.due = Some(now + EDGES_WAIT_MAX);
            }
        }
    }

    /// An edge that serves before the containers would tell phones 503, or send all of them to the first container.
    /// One that cannot start, or was stopped again, holds up nobody.
    fn start_edges_after_containers(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut containers = self.processes.iter().filter(|process| process.is_container());
        if containers.any(Process::has_its_first_start) {
            return;
        }
        for at in 0..self.processes.len() {
            if self.processes[at].awaits_its_turn() {
                self.spawn(at, now, effects);
            }
        }
    }

    fn stop_node(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let again = matches!(self.phase, Phase::Stopping | Phase::Ended);
        self.phase = Phase::Stopping;
        let drain = self.limits.drain;
        for process in &mut self.processes {
            process.goal = Goal::Down;
            match process.state {
                ProcessState::Down => {}
                ProcessState::Backoff => {
                    process.state = ProcessState::Down;
                    process.due = None;
                }
                _ if again => process.kill(KillReason::AtOnce, effects),
                ProcessState::Starting => process.kill(KillReason::Unneeded, effects),
                // Its stop follows the last container's.
                ProcessState::Ready if !process.is_container() => {}
                ProcessState::Ready => process.begin_to_stop(drain, now, effects),
                ProcessState::Draining => {
                    // Not as long as somebody may have allowed it when the node was to go on.
                    process.due = process.due.map(|due| due.min(now + drain));
                }
                ProcessState::Stopping | ProcessState::Hung => {}
            }
        }
    }

    fn stop_edges_after_containers(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut containers = self.processes.iter().filter(|process| process.is_container());
        if containers.any(|process| process.state != ProcessState::Down) {
            return;
        }
        for process in &mut self.processes {
            if matches!(process.state, ProcessState::Ready | ProcessState::Draining) {
                process.tell_to_stop(now, effects);
            }
        }
    }
}
