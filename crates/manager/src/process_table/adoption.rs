//! What one manager leaves to the next: the lives of its processes as they stand, and how the next one goes on with
//! them.
//!
//! A process that lives keeps its incarnation, its state and its count of restarts; it is expected to come back soon
//! and counts as hung if it does not. One that died meanwhile has died like any other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use topology::protocol::Command;
use topology::view::{Incarnation, ProcessName, ProcessState, ProcessType};

use super::ProcessTable;
use super::event::Effect;
use super::process::{Goal, Process};
use super::{START_LIMIT, STOP_LIMIT};

/// How much later than usual a process may give its first sign of life to another manager: it looks for one every
/// 50 ms, and all of them do at once.
const RETURN_GRACE: Duration = Duration::from_millis(500);

/// One process as a manager leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Which.
    pub name: ProcessName,
    /// What it is for; `None`: an edge or a container, of which earlier releases did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_type: Option<ProcessType>,
    /// The present life, or the last one.
    pub incarnation: Incarnation,
    /// Of the present life; whoever reads a record says here whether it still lives.
    pub pid: Option<u32>,
    /// Where it stood in its life.
    pub state: ProcessState,
    /// What it shall come to.
    pub goal: Goal,
    /// Restarts after deaths since the node came up.
    pub restarts: u32,
    /// Containers: where it serves HTTP, or did in its last life.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Containers of a cluster's node: where the others reach it, or did in its last life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_address: Option<SocketAddr>,
    /// The next start, or the end of patience. An instant has no meaning in a file: whoever writes one finds another
    /// way to say it.
    #[serde(skip)]
    pub due: Option<Instant>,
}

impl ProcessTable {
    /// What another manager has to know.
    pub fn record(&self) -> Vec<Recorded> {
        let recorded = |process: &Process| Recorded {
            name: process.spec.name.clone(),
            process_type: Some(process.spec.process_type),
            incarnation: process.incarnation,
            pid: process.pid,
            state: process.state,
            goal: process.goal,
            restarts: process.restarts,
            http: process.http,
            link_address: process.link_address,
            due: process.due,
        };
        self.processes.iter().map(recorded).collect()
    }

    /// No version that was given is greater, and no incarnation's microseconds are.
    pub fn numbers_used(&self) -> u64 {
        self.version.max(self.incarnation_last)
    }

    /// Goes on where another manager was; before [`Event::NodeStarts`](super::Event::NodeStarts).
    pub fn resume(&mut self, recorded: Vec<Recorded>, now: Instant) {
        for life in recorded {
            if let Some(at) = self.position(&life.name) {
                self.processes[at].resume(&life, now);
            }
        }
    }

    /// Whether that process has that life, and may be told so again.
    pub fn knows(&self, name: &ProcessName, pid: u32, incarnation: Incarnation) -> bool {
        let at = self.living(name, incarnation);
        at.is_some_and(|at| self.processes[at].pid == Some(pid))
    }

    /// A process that lost its manager, or its connection, has come back in that state.
    pub(super) fn returned(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        state: ProcessState,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(at) = self.living(name, incarnation) else { return };
        let process = &mut self.processes[at];
        process.was_heard(now);
        match process.state {
            ProcessState::Starting if state != ProcessState::Starting => {
                process.is_ready(now, effects);
            }
            // Told to another manager's face, or never told.
            ProcessState::Draining if state != ProcessState::Draining => {
                let left = process.due.map(|due| due.saturating_duration_since(now));
                let command = Command::drain(left.unwrap_or(self.limits.drain));
                effects.push(Effect::Tell { name: name.clone(), command });
            }
            ProcessState::Stopping => {
                effects.push(Effect::Tell { name: name.clone(), command: Command::Stop });
            }
            ProcessState::Starting
            | ProcessState::Ready
            | ProcessState::Draining
            | ProcessState::Hung
            | ProcessState::Backoff
            | ProcessState::Down => {}
        }
    }
}

impl Process {
    fn resume(&mut self, life: &Recorded, now: Instant) {
        self.incarnation = life.incarnation;
        self.restarts = life.restarts;
        self.http = life.http;
        self.link_address = self.spec.link_address.or(life.link_address);
        self.goal = life.goal;
        self.pid = life.pid;
        match (life.state, life.pid) {
            (ProcessState::Starting, Some(_)) => {
                self.state = ProcessState::Starting;
                self.due = Some(life.due.unwrap_or(now + START_LIMIT));
            }
            // Whoever was to be killed may not have been: it is judged once more.
            (ProcessState::Ready | ProcessState::Hung, Some(_)) => {
                self.state = ProcessState::Ready;
                self.heard = Some(now + RETURN_GRACE);
                self.backoff.ready(now);
            }
            (ProcessState::Draining, Some(_)) => {
                self.state = ProcessState::Draining;
                self.heard = Some(now + RETURN_GRACE);
                self.due = life.due;
            }
            (ProcessState::Stopping, Some(_)) => {
                self.state = ProcessState::Stopping;
                self.due = Some(life.due.unwrap_or(now + STOP_LIMIT));
            }
            (
                ProcessState::Starting
                | ProcessState::Ready
                | ProcessState::Hung
                | ProcessState::Draining
                | ProcessState::Stopping,
                None,
            ) => self.died_unseen(now),
            // It never had a turn.
            (ProcessState::Backoff, _) if life.incarnation == Incarnation::NONE => {}
            (ProcessState::Backoff, _) => {
                self.state = ProcessState::Backoff;
                self.due = Some(life.due.unwrap_or(now));
            }
            (ProcessState::Down, _) => {}
        }
    }

    fn died_unseen(&mut self, now: Instant) {
        match self.goal {
            Goal::Up => {
                self.restarts = self.restarts.saturating_add(1);
                self.state = ProcessState::Backoff;
                self.due = Some(now + self.backoff.died(now));
            }
            Goal::Restart => {
                self.state = ProcessState::Backoff;
                self.due = Some(now);
            }
            Goal::Down => self.state = ProcessState::Down,
        }
    }
}
