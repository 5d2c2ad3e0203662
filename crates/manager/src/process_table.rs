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
//! The order of a node's start: the servers that are not ours, then the containers, then, when each of them is ready or
//! has failed once, the edges. The order of its stop: the containers drain, while the edges go on to carry their messages;
//! when the last container has ended, or was killed after its deadline, the edges stop, and then the servers.
//!
//! A server is prepared before each of its lives, for as long as that takes: the store of a cluster's primary is not
//! started before another has its place. It says nothing by itself; the manager asks it and tells the table the answers.
//!
//! `now` is an argument; the server calls [`ProcessTable::tick`] at [`ProcessTable::next_deadline`]. Which processes
//! hang is decided in `detection`, what is asked by hand in `requests`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use topology::protocol::Answer;
use topology::view::{
    Incarnation, ProcessEntry, ProcessName, ProcessState, ProcessType, TopologyView,
};
use topology::{NodeNumber, NodeSnapshot, RunsWith};

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

/// The same for a server, which writes what it has, and hands over what it serves.
pub const SERVER_STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long the containers of a node that starts wait for servers that neither serve nor fail.
pub const CONTAINERS_WAIT_MAX: Duration = Duration::from_secs(5);

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
    /// Other nodes see the stores that serve as draining: they take over what these have.
    stores_leave: bool,
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
            stores_leave: false,
        }
    }

    /// The same for the member of a cluster with that number. Lives that it goes on with must be of that number, too: a
    /// node that joins a cluster starts all its processes anew.
    #[must_use]
    pub fn of_member(self, number: NodeNumber) -> ProcessTable {
        ProcessTable { number, ..self }
    }

    /// Servers that the node runs; before [`Event::NodeStarts`] and [`resume`](Self::resume).
    pub fn add_servers(&mut self, specs: Vec<ProcessSpec>) {
        let servers = specs.into_iter().map(|spec| Process::new(spec, &self.limits));
        self.processes.extend(servers);
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

    /// The same for the other members of the cluster, who reach this one at `address`. What the node runs with, the table does
    /// not know.
    pub fn snapshot(&self, address: SocketAddr) -> NodeSnapshot {
        NodeSnapshot {
            node: self.node.clone(),
            number: self.number,
            version: self.version,
            address,
            last_life: Incarnation::of_node(self.number, self.incarnation_last),
            runs_with: RunsWith::default(),
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
            Event::Servers(specs) => self.set_servers(specs, now, effects),
            Event::StoresLeave(leave) => self.stores_leave = leave,
            Event::Prepared { name } => {
                if let Some(at) = self.position(&name)
                    && self.processes[at].is_prepared_for
                {
                    self.begin(at, now, effects);
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
        let mut entries: Vec<ProcessEntry> = self.processes.iter().map(Process::entry).collect();
        let serves = |entry: &&mut ProcessEntry| {
            entry.process_type == ProcessType::Store && entry.state == ProcessState::Ready
        };
        if self.stores_leave {
            let serving = entries.iter_mut().filter(serves);
            serving.for_each(|store| store.state = ProcessState::Draining);
        }
        entries
    }

    /// Carries the start or stop of the node on, publishes a change, and tells the two moments that the
    /// operator waits for.
    fn conclude(&mut self, before: &[ProcessEntry], now: Instant, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Starting | Phase::Serving => self.start_those_who_wait(now, effects),
            Phase::Stopping => self.stop_those_who_wait(now, effects),
            Phase::Ended => {}
        }
        self.processes
            .retain(|process| !process.is_dismissed || process.state != ProcessState::Down);
        self.rest_if_nobody_is_watched();
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
        let process = &mut self.processes[at];
        if process.is_server() {
            process.begins_to_be_prepared();
            effects.push(Effect::Prepare { name: process.spec.name.clone() });
            return;
        }
        self.begin(at, now, effects);
    }

    fn begin(&mut self, at: usize, now: Instant, effects: &mut Vec<Effect>) {
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

    fn set_servers(&mut self, specs: Vec<ProcessSpec>, now: Instant, effects: &mut Vec<Effect>) {
        let drain = self.limits.drain;
        for process in self.processes.iter_mut().filter(|process| process.is_server()) {
            process.is_dismissed = !specs.iter().any(|spec| spec.name == process.spec.name);
            match (process.is_dismissed, process.state) {
                (true, ProcessState::Backoff) => {
                    process.state = ProcessState::Down;
                    process.is_prepared_for = false;
                    process.due = None;
                }
                (true, _) if process.goal != Goal::Down && process.state != ProcessState::Down => {
                    process.goal = Goal::Down;
                    process.begin_to_stop(drain, now, effects);
                }
                (true | false, _) => {}
            }
        }
        for spec in specs {
            if self.position(&spec.name).is_some() {
                continue;
            }
            self.processes.push(Process::new(spec, &self.limits));
            if matches!(self.phase, Phase::Starting | Phase::Serving) {
                self.spawn(self.processes.len() - 1, now, effects);
            }
        }
    }

    /// Whatever does not run is started: the servers now, the others when it is their turn.
    fn start_node(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let servers_wait = match self.processes.iter().any(Process::is_server) {
            true => CONTAINERS_WAIT_MAX,
            false => Duration::ZERO,
        };
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            if process.state != ProcessState::Down || process.goal == Goal::Down {
                continue;
            }
            if process.is_server() {
                self.spawn(at, now, effects);
            } else {
                let wait = if process.is_container() { Duration::ZERO } else { EDGES_WAIT_MAX };
                process.state = ProcessState::Backoff;
                process.due = Some(now + servers_wait + wait);
            }
        }
        self.start_those_who_wait(now, effects);
    }

    /// A container has its state in the servers. An edge that serves before the containers would tell phones 503, or send
    /// all of them to the first container. Who cannot start, or was stopped again, holds up nobody.
    fn start_those_who_wait(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let turns: [fn(&Process) -> bool; 3] =
            [Process::is_server, Process::is_container, Process::is_edge];
        for is_of in turns {
            for at in 0..self.processes.len() {
                let process = &mut self.processes[at];
                if is_of(process) && process.awaits_its_turn() {
                    self.spawn(at, now, effects);
                }
            }
            let mut of_turn = self.processes.iter().filter(|process| is_of(process));
            if of_turn.any(Process::has_its_first_start) {
                return;
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
                    process.is_prepared_for = false;
                    process.due = None;
                }
                _ if again => process.kill(KillReason::AtOnce, effects),
                ProcessState::Starting => process.kill(KillReason::Unneeded, effects),
                // Its stop follows the last container's, or the last edge's.
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

    fn stop_those_who_wait(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let turns: [fn(&Process) -> bool; 3] =
            [Process::is_container, Process::is_edge, Process::is_server];
        for is_of in turns {
            let mut has_ended = true;
            for process in self.processes.iter_mut().filter(|process| is_of(process)) {
                has_ended &= process.state == ProcessState::Down;
                // Containers drain.
                if !process.is_container()
                    && matches!(process.state, ProcessState::Ready | ProcessState::Draining)
                {
                    process.tell_to_stop(now, effects);
                }
            }
            if !has_ended {
                return;
            }
        }
    }
}
