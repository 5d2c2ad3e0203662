//! The life cycle of every process of a node: events in, effects out. Pure.
//!
//! ```text
//!            ┌────────── restart ────────────┐
//!            ▼                               │
//! down ─▶ starting ─▶ ready ─▶ draining ─▶ stopping ─▶ down
//!            ▲          │died
//!            └─ backoff ◀┘
//! ```
//!
//! An edge that is stopped by hand holds nothing worth draining: it goes from `ready` to `stopping` at once.
//!
//! The order of a node's stop: everybody drains, edges going on to carry the containers' messages;
//! when the last container has ended, or was killed at its deadline, the edges stop. `hung` is not
//! entered yet: detection comes with the guardian. `now` is an argument; the server calls
//! [`ProcessTable::tick`] at [`ProcessTable::next_deadline`].

use std::time::{Duration, Instant};

use topology::protocol::{Answer, Command, NodeStatus, Request};
use topology::view::{
    EdgeAddress, Incarnation, ProcessEntry, ProcessName, ProcessState, ProcessType, TopologyView,
    WEIGHT_DEFAULT,
};

use crate::restart::{Backoff, RestartPolicy};

/// A process that is not ready after this is killed and counts as dead.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// A process told to stop (not to drain) is killed after this.
pub const STOP_LIMIT: Duration = Duration::from_secs(3);

/// One process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Unique on the node.
    pub name: ProcessName,
    /// Edge or container.
    pub process_type: ProcessType,
    /// Containers: where edges reach it.
    pub link: Option<std::path::PathBuf>,
    /// Edges: what they listen on.
    pub addresses: Vec<EdgeAddress>,
}

/// The numbers of a node's life cycle.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Delays between restarts.
    pub restart: RestartPolicy,
    /// How long a container may drain before it is told to stop.
    pub drain: Duration,
}

/// Who waits for the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The node comes up: start everything.
    NodeStarts,
    /// A spawn succeeded.
    Spawned {
        /// Which.
        name: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// A spawn failed.
    NotSpawned {
        /// Which.
        name: ProcessName,
        /// The life that did not begin.
        incarnation: Incarnation,
        /// Why, for whoever waits for it.
        reason: String,
    },
    /// The process ended.
    Exited {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// The process says that it serves.
    Ready {
        /// Which.
        name: ProcessName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// Somebody asks for something.
    Requested {
        /// Who.
        ticket: Ticket,
        /// What.
        request: Request,
    },
    /// SIGTERM: stop everything in order. A second one: at once.
    NodeStops,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start the program; then [`Event::Spawned`] or [`Event::NotSpawned`].
    Spawn {
        /// Which.
        name: ProcessName,
        /// The life that begins.
        incarnation: Incarnation,
    },
    /// Send a command to the living process.
    Tell {
        /// Which.
        name: ProcessName,
        /// What.
        command: Command,
    },
    /// SIGKILL.
    Kill {
        /// Which.
        name: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// The view changed: push it to everybody.
    Publish,
    /// A request has its answer.
    Answer {
        /// Whose.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
    /// Every process is ready, for the first time.
    Serving,
    /// The node's stop is complete.
    Ended,
}

/// What a process shall come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Up,
    Down,
    /// Down and up again, by hand.
    Restart,
}

#[derive(Debug)]
struct Process {
    spec: ProcessSpec,
    state: ProcessState,
    incarnation: Incarnation,
    pid: Option<u32>,
    restarts: u32,
    backoff: Backoff,
    goal: Goal,
    /// The next start, or the end of patience: what it means depends on the state.
    due: Option<Instant>,
    waiting: Vec<Ticket>,
}

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
    limits: Limits,
    phase: Phase,
    version: u64,
    incarnation_last: u64,
    processes: Vec<Process>,
}

impl ProcessTable {
    /// A table of processes that are all down. `floor` is the microsecond of the manager's start:
    /// incarnations and view versions count up from it, so that they grow across its restarts too.
    pub fn new(node: String, specs: Vec<ProcessSpec>, limits: Limits, floor: u64) -> ProcessTable {
        let process = |spec| Process {
            spec,
            state: ProcessState::Down,
            incarnation: Incarnation::NONE,
            pid: None,
            restarts: 0,
            backoff: Backoff::new(limits.restart),
            goal: Goal::Up,
            due: None,
            waiting: Vec::new(),
        };
        ProcessTable {
            node,
            limits,
            phase: Phase::Starting,
            version: floor,
            incarnation_last: floor,
            processes: specs.into_iter().map(process).collect(),
        }
    }

    /// The picture as of now.
    pub fn view(&self) -> TopologyView {
        TopologyView {
            version: self.version,
            node: self.node.clone(),
            processes: self.processes.iter().map(Process::entry).collect(),
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

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.processes.iter().filter_map(|process| process.due).min()
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Instant, effects: &mut Vec<Effect>) {
        let before = self.entries();
        match event {
            Event::NodeStarts => {
                for at in 0..self.processes.len() {
                    self.spawn(at, now, effects);
                }
            }
            Event::Spawned { name, pid } => {
                if let Some(at) = self.position(&name) {
                    self.processes[at].pid = Some(pid);
                }
            }
            Event::Ready { name, incarnation } => {
                if let Some(at) = self.living(&name, incarnation) {
                    self.ready(at, now, effects);
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
            Event::Requested { ticket, request } => self.requested(ticket, request, now, effects),
            Event::NodeStops => self.stop_node(now, effects),
        }
        self.conclude(&before, now, effects);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let before = self.entries();
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            if process.due.is_none_or(|due| now < due) {
                continue;
            }
            process.due = None;
            match process.state {
                ProcessState::Backoff => self.spawn(at, now, effects),
                ProcessState::Draining if process.spec.process_type == ProcessType::Container => {
                    process.tell_to_stop(now, effects);
                }
                ProcessState::Starting | ProcessState::Stopping | ProcessState::Draining => {
                    process.kill(effects);
                }
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

    /// Publishes a change, carries the stop of the node on, and tells the two moments that the
    /// operator waits for.
    fn conclude(&mut self, before: &[ProcessEntry], now: Instant, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Stopping {
            self.stop_edges_after_containers(now, effects);
        }
        if self.entries() != before {
            self.version += 1;
            // Before the other effects: who waits for an answer may look at the view next.
            effects.insert(0, Effect::Publish);
        }
        let all = |state| self.processes.iter().all(|process| process.state == state);
        if self.phase == Phase::Starting && all(ProcessState::Ready) {
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
        process.state = ProcessState::Starting;
        process.goal = Goal::Up;
        process.incarnation = Incarnation(self.incarnation_last);
        process.due = Some(now + START_LIMIT);
        effects.push(Effect::Spawn {
            name: process.spec.name.clone(),
            incarnation: process.incarnation,
        });
    }

    fn ready(&mut self, at: usize, now: Instant, effects: &mut Vec<Effect>) {
        let process = &mut self.processes[at];
        if process.state != ProcessState::Starting {
            return; // told to stop in the meantime
        }
        process.state = ProcessState::Ready;
        process.due = None;
        process.backoff.ready(now);
        process.answer(&Answer::Done, effects);
    }

    /// `reason` is what those are told who wait for it to be ready.
    fn exited(&mut self, at: usize, reason: String, now: Instant, effects: &mut Vec<Effect>) {
        let process = &mut self.processes[at];
        process.pid = None;
        process.due = None;
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

    fn requested(
        &mut self,
        ticket: Ticket,
        request: Request,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let (name, goal) = match &request {
            Request::Status => {
                let answer =
                    Answer::Status(NodeStatus { view: self.view(), ..NodeStatus::default() });
                effects.push(Effect::Answer { ticket, answer });
                return;
            }
            Request::Keys | Request::RotateKeys => {
                unreachable!("keys are no process: the server answers by itself")
            }
            Request::Start { name } => (name, Goal::Up),
            // The deadline and the progress of a drain are not looked at yet: it is a stop.
            Request::Stop { name } | Request::Drain { name, .. } => (name, Goal::Down),
            Request::Restart { name } => (name, Goal::Restart),
        };
        let refusal = match self.position(name) {
            _ if matches!(self.phase, Phase::Stopping | Phase::Ended) => {
                Some("the node is stopping".to_owned())
            }
            None => Some(self.unknown(name)),
            Some(at) => self.pursue(at, goal, ticket, now, effects),
        };
        if let Some(reason) = refusal {
            let answer = Answer::Refused { reason };
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    fn unknown(&self, name: &ProcessName) -> String {
        let names: Vec<&str> =
            self.processes.iter().map(|process| process.spec.name.as_str()).collect();
        format!("no process is named {name}; this node has {}", names.join(", "))
    }

    /// Carries out a request by hand; `Some` is why not.
    fn pursue(
        &mut self,
        at: usize,
        goal: Goal,
        ticket: Ticket,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<String> {
        let drain = self.limits.drain;
        let process = &mut self.processes[at];
        match (process.state, goal) {
            (ProcessState::Draining | ProcessState::Stopping, Goal::Up) => {
                let name = &process.spec.name;
                return Some(format!("{name} is {}; start it when it is down", process.state));
            }
            (ProcessState::Down, Goal::Down) | (ProcessState::Ready, Goal::Up) => {
                let answer = Answer::Done;
                effects.push(Effect::Answer { ticket, answer });
                return None;
            }
            (ProcessState::Down | ProcessState::Backoff, Goal::Up | Goal::Restart) => {
                process.backoff.reset();
                process.waiting.push(ticket);
                self.spawn(at, now, effects);
                return None;
            }
            (ProcessState::Backoff, Goal::Down) => {
                process.state = ProcessState::Down;
                process.due = None;
                let answer = Answer::Done;
                effects.push(Effect::Answer { ticket, answer });
                return None;
            }
            (ProcessState::Starting, Goal::Up) => {}
            (ProcessState::Draining | ProcessState::Stopping, Goal::Down | Goal::Restart) => {
                process.goal = goal;
            }
            (ProcessState::Starting | ProcessState::Ready | ProcessState::Hung, _) => {
                process.goal = goal;
                process.begin_to_stop(drain, now, effects);
            }
        }
        process.waiting.push(ticket);
        None
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
                _ if again => process.kill(effects),
                ProcessState::Starting | ProcessState::Hung => process.kill(effects),
                ProcessState::Ready => match process.spec.process_type {
                    ProcessType::Container => process.begin_to_stop(drain, now, effects),
                    // No deadline of its own: its stop follows the last container's.
                    ProcessType::Edge => process.tell_to_drain(drain, effects),
                },
                ProcessState::Draining | ProcessState::Stopping => {}
            }
        }
    }

    fn stop_edges_after_containers(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let containers_live = self.processes.iter().any(|process| {
            process.spec.process_type == ProcessType::Container
                && process.state != ProcessState::Down
        });
        if containers_live {
            return;
        }
        for process in &mut self.processes {
            if process.state == ProcessState::Draining {
                process.tell_to_stop(now, effects);
            }
        }
    }
}

impl Process {
    fn entry(&self) -> ProcessEntry {
        ProcessEntry {
            name: self.spec.name.clone(),
            process_type: self.spec.process_type,
            incarnation: self.incarnation,
            pid: self.pid,
            state: self.state,
            restarts: self.restarts,
            link: self.spec.link.clone(),
            addresses: self.spec.addresses.clone(),
            weight: WEIGHT_DEFAULT,
        }
    }

    /// A container drains first; an edge holds nothing worth draining; what is not ready yet is
    /// killed, it has served nobody.
    fn begin_to_stop(&mut self, drain: Duration, now: Instant, effects: &mut Vec<Effect>) {
        match (self.state, self.spec.process_type) {
            (ProcessState::Ready, ProcessType::Container) => {
                self.tell_to_drain(drain, effects);
                self.due = Some(now + drain);
            }
            (ProcessState::Ready, ProcessType::Edge) => self.tell_to_stop(now, effects),
            (
                ProcessState::Starting
                | ProcessState::Draining
                | ProcessState::Hung
                | ProcessState::Backoff
                | ProcessState::Stopping
                | ProcessState::Down,
                ProcessType::Container | ProcessType::Edge,
            ) => self.kill(effects),
        }
    }

    fn tell_to_drain(&mut self, drain: Duration, effects: &mut Vec<Effect>) {
        self.state = ProcessState::Draining;
        self.due = None;
        effects.push(Effect::Tell { name: self.spec.name.clone(), command: Command::drain(drain) });
    }

    fn tell_to_stop(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state = ProcessState::Stopping;
        self.due = Some(now + STOP_LIMIT);
        effects.push(Effect::Tell { name: self.spec.name.clone(), command: Command::Stop });
    }

    fn kill(&mut self, effects: &mut Vec<Effect>) {
        self.due = None;
        // A start that took too long is a death, to be restarted; the rest was told to end.
        if self.goal != Goal::Up {
            self.state = ProcessState::Stopping;
        }
        if let Some(pid) = self.pid {
            effects.push(Effect::Kill { name: self.spec.name.clone(), pid });
        }
    }

    fn answer(&mut self, answer: &Answer, effects: &mut Vec<Effect>) {
        for ticket in self.waiting.drain(..) {
            let answer = answer.clone();
            effects.push(Effect::Answer { ticket, answer });
        }
    }
}

#[cfg(test)]
mod tests;
