//! What is asked by hand: start, stop, drain, restart.

use std::time::{Duration, Instant};

use topology::protocol::{Answer, NodeStatus, Request};
use topology::view::{ProcessName, ProcessState};

use super::event::{Effect, Ticket};
use super::process::{Goal, Waiter, Wants};
use super::{Phase, ProcessTable};

/// Commands that wait for one process. More are refused: somebody repeats himself.
pub(super) const WAITERS_MAX: usize = 64;

/// The longest drain: who asks for more has mistyped.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A request that names a process.
struct Wish {
    goal: Goal,
    drain: Duration,
    waiter: Waiter,
}

impl ProcessTable {
    pub(super) fn requested(
        &mut self,
        ticket: Ticket,
        request: Request,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let drain = self.limits.drain;
        let outcome = |goal| Wish { goal, drain, waiter: Waiter { ticket, wants: Wants::Outcome } };
        let (name, wish) = match request {
            Request::Status => {
                let status = NodeStatus { view: self.view(), ..NodeStatus::default() };
                let answer = Answer::Status(status);
                effects.push(Effect::Answer { ticket, answer });
                return;
            }
            Request::Keys
            | Request::RotateKeys
            | Request::Applications
            | Request::AppDeploy { .. }
            | Request::AppSwitch { .. }
            | Request::AppRemove { .. }
            | Request::AppRetire { .. }
            | Request::AppHold { .. }
            | Request::AppRelease { .. }
            | Request::AppTake { .. }
            | Request::AppFollow { .. }
            | Request::NodeApplications
            | Request::ClusterApplications
            | Request::ClusterOpen
            | Request::RepositoryHasAccounts
            | Request::RepositoryLeave
            | Request::StoresLeave
            | Request::ClusterDiscover
            | Request::ClusterJoin { .. }
            | Request::ClusterRemove { .. } => {
                unreachable!(
                    "keys, applications and members are no processes: the server answers by itself"
                )
            }
            #[cfg(feature = "faults")]
            Request::Fault { name, fault } => {
                let answer = self.fault(name, fault, effects);
                effects.push(Effect::Answer { ticket, answer });
                return;
            }
            Request::Start { name } => (name, outcome(Goal::Up)),
            Request::Stop { name } => (name, outcome(Goal::Down)),
            Request::Restart { name } => (name, outcome(Goal::Restart)),
            Request::Drain { name, deadline_ms } => {
                let waiter = Waiter { ticket, wants: Wants::Progress };
                let drain = deadline_ms.map_or(drain, Duration::from_millis);
                if drain > DRAIN_MAX {
                    let reason =
                        "a drain takes 24 hours at most; name a sooner deadline".to_owned();
                    effects.push(Effect::Answer { ticket, answer: Answer::Refused { reason } });
                    return;
                }
                (name, Wish { goal: Goal::Down, drain, waiter })
            }
        };
        let refusal = match self.position(&name) {
            _ if matches!(self.phase, Phase::Stopping | Phase::Ended) => {
                Some("the node is stopping".to_owned())
            }
            None => Some(self.unknown(&name)),
            Some(at) => self.pursue(at, wish, now, effects),
        };
        if let Some(reason) = refusal {
            let answer = Answer::Refused { reason };
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    #[cfg(feature = "faults")]
    fn fault(
        &self,
        name: ProcessName,
        fault: topology::protocol::Fault,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let Some(at) = self.position(&name) else {
            return Answer::Refused { reason: self.unknown(&name) };
        };
        match self.processes[at].state {
            ProcessState::Ready => {
                let command = topology::protocol::Command::Fault(fault);
                effects.push(Effect::Tell { name, command });
                Answer::Done
            }
            state => Answer::Refused { reason: format!("{name} is {state}, not ready") },
        }
    }

    fn unknown(&self, name: &ProcessName) -> String {
        let names: Vec<&str> =
            self.processes.iter().map(|process| process.spec.name.as_str()).collect();
        format!("no process is named {name}; this node has {}", names.join(", "))
    }

    /// Carries out a wish; `Some` is why not. The last wish holds: who asks to stop what drains for minutes
    /// already gets the usual deadline, who asks for more time gets more.
    fn pursue(
        &mut self,
        at: usize,
        wish: Wish,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<String> {
        let Wish { goal, drain, waiter } = wish;
        let process = &mut self.processes[at];
        if process.waiting.len() >= WAITERS_MAX {
            let name = &process.spec.name;
            return Some(format!(
                "{WAITERS_MAX} commands wait for {name} already; see outlast status"
            ));
        }
        let done = Effect::Answer { ticket: waiter.ticket, answer: Answer::Done };
        match (process.state, goal) {
            (ProcessState::Draining | ProcessState::Stopping, Goal::Up) => {
                let name = &process.spec.name;
                return Some(format!("{name} is {}; start it when it is down", process.state));
            }
            (ProcessState::Down, Goal::Down) | (ProcessState::Ready, Goal::Up) => {
                effects.push(done);
                return None;
            }
            (ProcessState::Down | ProcessState::Backoff, Goal::Up | Goal::Restart) => {
                process.backoff.reset();
                process.waiting.push(waiter);
                self.spawn(at, now, effects);
                return None;
            }
            (ProcessState::Backoff, Goal::Down) => {
                process.state = ProcessState::Down;
                process.goal = Goal::Down;
                process.is_prepared_for = false;
                process.due = None;
                effects.push(done);
                return None;
            }
            (ProcessState::Starting, Goal::Up) => {}
            // It is killed already and would start again; not after a delay, now that somebody asks for it.
            (ProcessState::Hung, Goal::Up) => process.goal = Goal::Restart,
            (ProcessState::Stopping | ProcessState::Hung, Goal::Down | Goal::Restart) => {
                process.goal = goal;
            }
            (
                ProcessState::Starting | ProcessState::Ready | ProcessState::Draining,
                Goal::Down | Goal::Restart,
            ) => {
                process.goal = goal;
                process.begin_to_stop(drain, now, effects);
            }
        }
        process.waiting.push(waiter);
        if process.state == ProcessState::Draining && waiter.wants == Wants::Progress {
            let answer = process.progress(now);
            effects.push(Effect::Answer { ticket: waiter.ticket, answer });
        }
        None
    }
}
