//! One process of the table: what it is, where it stands, who waits for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use topology::protocol::{Answer, Command};
use topology::view::{Incarnation, ProcessEntry, ProcessName, ProcessState, ProcessType};

use super::detection::Starvation;
use super::event::{Effect, KillReason, Limits, ProcessSpec, Ticket};
use super::{SERVER_STOP_LIMIT, START_LIMIT, STOP_LIMIT};
use crate::restart::Backoff;

/// What a process shall come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// It runs, and is started again when it dies.
    Up,
    /// It ends, and stays so.
    Down,
    /// Down and up again, by hand.
    Restart,
}

/// Who waits for a process to come to its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) wants: Wants,
}

/// What somebody who waits is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// How it ended.
    Outcome,
    /// How far it is, and how it ended.
    Progress,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) spec: ProcessSpec,
    pub(super) state: ProcessState,
    pub(super) incarnation: Incarnation,
    pub(super) pid: Option<u32>,
    pub(super) restarts: u32,
    /// Containers: where it serves HTTP. The next life tries the same.
    pub(super) http: Option<SocketAddr>,
    /// Containers of a cluster's node: where the others reach it. The next life tries the same.
    pub(super) link_address: Option<SocketAddr>,
    pub(super) backoff: Backoff,
    pub(super) goal: Goal,
    /// A server whose next life is being prepared.
    pub(super) is_prepared_for: bool,
    /// A server that the node shall not have any more.
    pub(super) is_dismissed: bool,
    /// The next start, or the end of patience: what it means depends on the state.
    pub(super) due: Option<Instant>,
    /// The last sign of life; `None` while none is expected.
    pub(super) heard: Option<Instant>,
    /// What it waited for a processor while it was late.
    pub(super) starvation: Starvation,
    /// It was heard of, but not lately.
    pub(super) is_silent: bool,
    /// What it has to finish, as it said last.
    pub(super) left: u64,
    /// Who waits for the lock that it holds: the last report of each. Bounded by the number of processes.
    pub(super) lock_reports: Vec<LockReport>,
    /// The edges whose probes it does not answer. Bounded by the number of edges.
    pub(super) accusations: Vec<Accusation>,
    pub(super) waiting: Vec<Waiter>,
}

/// One process waits for the lock that another one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockReport {
    pub(super) reporter: ProcessName,
    /// As reported last.
    pub(super) waited: Duration,
    /// Reports of this one wait in a row.
    pub(super) count: u32,
}

/// One edge gets no answers to its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accusation {
    pub(super) reporter: ProcessName,
    /// When it has lasted for too long.
    pub(super) due: Instant,
    /// By so much that is later already, since the container waited for a processor.
    pub(super) starved: Duration,
}

impl Process {
    pub(super) fn new(spec: ProcessSpec, limits: &Limits) -> Process {
        Process {
            link_address: spec.link_address,
            spec,
            state: ProcessState::Down,
            incarnation: Incarnation::NONE,
            pid: None,
            restarts: 0,
            http: None,
            backoff: Backoff::new(limits.restart),
            goal: Goal::Up,
            is_prepared_for: false,
            is_dismissed: false,
            due: None,
            heard: None,
            starvation: Starvation::default(),
            is_silent: false,
            left: 0,
            lock_reports: Vec::new(),
            accusations: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn entry(&self) -> ProcessEntry {
        ProcessEntry {
            name: self.spec.name.clone(),
            process_type: self.spec.process_type,
            incarnation: self.incarnation,
            pid: self.pid,
            state: self.state,
            restarts: self.restarts,
            link: self.spec.link.clone(),
            link_address: self.link_address,
            addresses: self.spec.addresses.clone(),
            http: self.http,
            weight: self.spec.weight,
            is_silent: self.is_silent,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        self.spec.process_type.is_server()
    }

    pub(super) fn is_edge(&self) -> bool {
        self.spec.process_type == ProcessType::Edge
    }

    pub(super) fn is_container(&self) -> bool {
        self.spec.process_type == ProcessType::Container
    }

    /// Serves, or was stopped by hand.
    pub(super) fn is_as_wished(&self) -> bool {
        match self.goal {
            Goal::Up => self.state == ProcessState::Ready,
            Goal::Down => self.state == ProcessState::Down,
            Goal::Restart => false,
        }
    }

    /// Waits for its first start.
    pub(super) fn awaits_its_turn(&self) -> bool {
        self.state == ProcessState::Backoff
            && self.incarnation == Incarnation::NONE
            && !self.is_prepared_for
    }

    /// Starts for the first time, or is prepared for it, which may come to nothing.
    pub(super) fn has_its_first_start(&self) -> bool {
        (self.state == ProcessState::Starting || self.is_prepared_for) && self.restarts == 0
    }

    /// What a server's next life needs is done before it begins.
    pub(super) fn begins_to_be_prepared(&mut self) {
        self.state = ProcessState::Backoff;
        self.goal = Goal::Up;
        self.due = None;
        self.is_prepared_for = true;
    }

    pub(super) fn begins(&mut self, incarnation: Incarnation, now: Instant) {
        self.state = ProcessState::Starting;
        self.is_prepared_for = false;
        self.goal = Goal::Up;
        self.incarnation = incarnation;
        self.due = Some(now + START_LIMIT);
        self.left = 0;
    }

    pub(super) fn is_ready(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state = ProcessState::Ready;
        self.due = None;
        self.heard = Some(now);
        self.backoff.ready(now);
        self.answer(&Answer::Done, effects);
    }

    /// Nothing of the life that has just ended holds for the next one.
    pub(super) fn life_ended(&mut self) {
        self.pid = None;
        self.due = None;
        self.trust();
    }

    /// What serves drains first; what is not ready yet is killed, it has served nobody. So is what hangs.
    pub(super) fn begin_to_stop(
        &mut self,
        drain: Duration,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match self.state {
            // What it serves is served on by others, or by nobody.
            ProcessState::Ready | ProcessState::Draining if self.is_server() => {
                self.tell_to_stop(now, effects);
            }
            ProcessState::Ready | ProcessState::Draining => self.tell_to_drain(drain, now, effects),
            ProcessState::Starting => self.kill(KillReason::Unneeded, effects),
            ProcessState::Hung
            | ProcessState::Backoff
            | ProcessState::Stopping
            | ProcessState::Down => self.kill(KillReason::NotEnded, effects),
        }
    }

    fn tell_to_drain(&mut self, drain: Duration, now: Instant, effects: &mut Vec<Effect>) {
        self.state = ProcessState::Draining;
        self.due = Some(now + drain);
        effects.push(Effect::Tell { name: self.spec.name.clone(), command: Command::drain(drain) });
    }

    pub(super) fn tell_to_stop(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state = ProcessState::Stopping;
        self.due = Some(now + if self.is_server() { SERVER_STOP_LIMIT } else { STOP_LIMIT });
        self.trust();
        effects.push(Effect::Tell { name: self.spec.name.clone(), command: Command::Stop });
    }

    pub(super) fn kill(&mut self, reason: KillReason, effects: &mut Vec<Effect>) {
        self.due = None;
        self.trust();
        // A start that took too long is a death, to be restarted; the rest was told to end.
        if self.goal != Goal::Up {
            self.state = ProcessState::Stopping;
        }
        self.push_kill(reason, effects);
    }

    /// It lives and does not work: to be seen as such until it has gone.
    pub(super) fn hangs(&mut self, reason: KillReason, effects: &mut Vec<Effect>) {
        self.due = None;
        self.trust();
        self.state = ProcessState::Hung;
        self.push_kill(reason, effects);
    }

    fn push_kill(&self, reason: KillReason, effects: &mut Vec<Effect>) {
        if let Some(pid) = self.pid {
            effects.push(Effect::Kill { name: self.spec.name.clone(), pid, reason });
        }
    }

    /// No sign of life is awaited, and what was said against it is forgotten.
    fn trust(&mut self) {
        self.heard = None;
        self.starvation = Starvation::default();
        self.is_silent = false;
        self.lock_reports.clear();
        self.accusations.clear();
    }

    /// How far its end is, as of `now`.
    pub(super) fn progress(&self, now: Instant) -> Answer {
        let deadline_in = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        Answer::Progress {
            left: self.left,
            deadline_in_ms: u64::try_from(deadline_in.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn tell_progress(&self, now: Instant, effects: &mut Vec<Effect>) {
        let curious = self.waiting.iter().filter(|waiter| waiter.wants == Wants::Progress);
        effects.extend(
            curious
                .map(|waiter| Effect::Answer { ticket: waiter.ticket, answer: self.progress(now) }),
        );
    }

    pub(super) fn answer(&mut self, answer: &Answer, effects: &mut Vec<Effect>) {
        for Waiter { ticket, .. } in self.waiting.drain(..) {
            let answer = answer.clone();
            effects.push(Effect::Answer { ticket, answer });
        }
    }
}
