//! The first process of a node: what it decides. Pure; events in, effects out.
//!
//! ```text
//!                   dies; or its beats stay away, then it is killed
//!           ┌────────────┬────────────────────┐
//!           ▼   hello    │     beat           │
//! gone ─▶ spawned ─────────▶ starting ────▶ watched ───▶ ending ─▶ gone: the guardian ends too
//!   │       ▲                                 ▲    says so
//!  look     │ no hello in time: kill          │ hello
//!   └─ found┴─────────────────────────────────┘
//!      (another guardian's)
//! ```
//!
//! Before each start, not the first only, it looks whether somebody holds the manager's lock: a manager that another
//! guardian started may have taken it since the last look, and been stopped then. Such a manager is waited for, and
//! killed if it says nothing. Who holds the lock and is no manager of this node is not killed: the operator is told.
//!
//! The guardian keeps the listening sockets, forwards the operator's signals and prints what the operator
//! shall read; it knows nothing of edges and containers. A manager that dies is started again at once, one that
//! stops beating is killed first. It is watched only once it beats: the verification of the state after an
//! unclean boot may take as long as it takes. `now` is an argument.

use std::time::{Duration, Instant};

use crate::restart::{Backoff, RestartPolicy};

pub mod protocol;

/// How often the manager's loop says that it goes round.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(100);

/// A manager that was silent for this long hangs.
pub const SILENCE_MAX: Duration = Duration::from_millis(600);

/// So much longer it may be silent if it waited for a processor all the while. Killing it would take more of what is scarce: the
/// next one has to begin first.
pub const STARVATION_MAX: Duration = Duration::from_secs(5);

/// How long a manager that another guardian left may take to say hello.
pub const RETURN_LIMIT: Duration = Duration::from_secs(2);

/// How long a manager that was just started may take to say hello: it loads and connects, nothing else.
pub const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// A guardian that was itself late by this much (a suspended machine, a starved one) blames nobody for silence.
const LATE: Duration = Duration::from_millis(300);

/// A node whose manager dies this often before it ever served does not come up.
const DEATHS_BEFORE_SERVING_MAX: u32 = 5;

/// Between a manager's death and the next one's start. Short at first: nobody is restarted meanwhile.
const REVIVAL: RestartPolicy = RestartPolicy {
    delay_min: Duration::from_millis(5),
    delay_max: Duration::from_millis(500),
    stable_after: Duration::from_millis(500),
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The answer to [`Effect::Look`].
    Looked {
        /// Whether there is a manager to wait for.
        found: Found,
    },
    /// The manager said hello and was welcomed.
    Hello,
    /// The manager's loop went round.
    Beat,
    /// Every process is ready.
    Serving,
    /// The manager stops beating soon, with reason.
    Ending,
    /// The stop is complete.
    Ended,
    /// The node cannot come up.
    Failed {
        /// For the operator.
        reason: String,
    },
    /// The manager's process has ended, or could not be started.
    Gone {
        /// How, for the operator.
        how: String,
    },
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
}

/// Who holds the manager's lock while this guardian has no manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A manager of this node that another guardian left.
    Manager,
    /// Nobody.
    Nobody,
    /// Somebody else.
    Stranger {
        /// Who, and what to do about it, for the operator.
        who: String,
    },
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out who holds the manager's lock.
    Look,
    /// Start a manager.
    Spawn,
    /// SIGKILL to the manager.
    Kill {
        /// For the log.
        reason: &'static str,
    },
    /// Tell the manager to stop the node in order.
    TellStop,
    /// Tell the manager to stop the node at once.
    TellStopNow,
    /// Print the ready line.
    ShowReady,
    /// The guardian's own end.
    End(Outcome),
}

/// How a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In order.
    Stopped,
    /// It could not come up.
    Failed {
        /// For the operator.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// None; the next one starts then.
    Gone { next_at: Instant },
    /// None that this guardian knows of; it looks.
    Sought,
    /// Another guardian's: it says hello until then.
    Found { until: Instant },
    /// Started: it says hello until then.
    Spawned { until: Instant },
    /// Welcomed; its loop does not run yet.
    Starting,
    /// Beats; since the last one it waited so long for a processor.
    Watched { heard: Instant, starved: Duration },
    /// On its last steps.
    Ending,
    /// Killed; not gone yet.
    Killed,
}

/// How far the operator has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Run,
    Stop,
    StopNow,
}

/// What the guardian knows.
#[derive(Debug)]
pub struct Guardian {
    manager: Manager,
    wish: Wish,
    has_served: bool,
    deaths_before_serving: u32,
    backoff: Backoff,
    /// What the manager said about the end, acted on when it has gone.
    outcome: Option<Outcome>,
    ticked: Instant,
}

impl Guardian {
    /// A guardian that knows of no manager yet.
    pub fn new(now: Instant) -> Guardian {
        Guardian {
            manager: Manager::Gone { next_at: now },
            wish: Wish::Run,
            has_served: false,
            deaths_before_serving: 0,
            backoff: Backoff::new(REVIVAL),
            outcome: None,
            ticked: now,
        }
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Instant, effects: &mut Vec<Effect>) {
        match event {
            Event::Looked { found } => self.looked(found, now, effects),
            Event::Hello => self.welcomed(now, effects),
            Event::Beat => self.beat(now),
            Event::Serving => {
                if !self.has_served {
                    self.has_served = true;
                    effects.push(Effect::ShowReady);
                }
            }
            Event::Ending => self.end_begins(),
            Event::Ended => {
                self.end_begins();
                self.outcome = Some(Outcome::Stopped);
            }
            Event::Failed { reason } => {
                self.end_begins();
                self.outcome = Some(Outcome::Failed { reason });
            }
            Event::Gone { how } => self.gone(how, now, effects),
            Event::Signal => self.signal(effects),
        }
    }

    /// Looks at the clock; to be called every [`BEAT_INTERVAL`]. `starved`: how long the manager's threads have waited for a
    /// processor since the last call, all together.
    pub fn tick(&mut self, now: Instant, starved: Duration, effects: &mut Vec<Effect>) {
        let starved = starved.min(now.saturating_duration_since(self.ticked));
        let late = now.saturating_duration_since(self.ticked) > BEAT_INTERVAL + LATE;
        self.ticked = now;
        match self.manager {
            Manager::Gone { next_at } if now >= next_at => {
                self.manager = Manager::Sought;
                effects.push(Effect::Look);
            }
            Manager::Found { until } if late => {
                self.manager = Manager::Found { until: until.max(now + SILENCE_MAX) };
            }
            Manager::Spawned { until } if late => {
                self.manager = Manager::Spawned { until: until.max(now + HELLO_LIMIT) };
            }
            Manager::Found { until } if now >= until => {
                self.kill("it was left by another guardian and says nothing", effects);
            }
            Manager::Spawned { until } if now >= until => {
                self.kill("it was started and says nothing", effects);
            }
            Manager::Watched { .. } if late => self.manager = watched(now),
            Manager::Watched { heard, starved: before } => {
                let starved = (before + starved).min(STARVATION_MAX);
                if now.saturating_duration_since(heard) > SILENCE_MAX + starved {
                    self.kill("it hangs", effects);
                } else {
                    self.manager = Manager::Watched { heard, starved };
                }
            }
            Manager::Gone { .. }
            | Manager::Sought
            | Manager::Found { .. }
            | Manager::Spawned { .. }
            | Manager::Starting
            | Manager::Ending
            | Manager::Killed => {}
        }
    }

    /// Whether the operator wants the node to end: what a manager is told with its welcome.
    pub fn is_stopping(&self) -> bool {
        self.wish > Wish::Run
    }

    /// When the next look for a manager is due, if that is before the next tick matters.
    pub fn next_start(&self) -> Option<Instant> {
        match self.manager {
            Manager::Gone { next_at } => Some(next_at),
            Manager::Sought
            | Manager::Found { .. }
            | Manager::Spawned { .. }
            | Manager::Starting
            | Manager::Watched { .. }
            | Manager::Ending
            | Manager::Killed => None,
        }
    }

    fn looked(&mut self, found: Found, now: Instant, effects: &mut Vec<Effect>) {
        match found {
            Found::Manager => self.manager = Manager::Found { until: now + RETURN_LIMIT },
            Found::Nobody => {
                self.manager = Manager::Spawned { until: now + HELLO_LIMIT };
                effects.push(Effect::Spawn);
            }
            // A node that served serves on without manager, and has one again when the stranger lets go.
            Found::Stranger { .. } if self.has_served && self.wish == Wish::Run => {
                self.manager = Manager::Gone { next_at: now + self.backoff.died(now) };
            }
            Found::Stranger { who } => effects.push(Effect::End(Outcome::Failed { reason: who })),
        }
    }

    fn kill(&mut self, reason: &'static str, effects: &mut Vec<Effect>) {
        self.manager = Manager::Killed;
        effects.push(Effect::Kill { reason });
    }

    fn welcomed(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        match self.manager {
            Manager::Spawned { .. } | Manager::Starting => self.manager = Manager::Starting,
            // Its loop runs: it has found its way back to a guardian.
            Manager::Found { .. } | Manager::Watched { .. } => {
                self.manager = watched(now);
            }
            Manager::Gone { .. } | Manager::Sought | Manager::Ending | Manager::Killed => return,
        }
        if self.wish == Wish::StopNow {
            effects.push(Effect::TellStopNow);
        }
    }

    fn beat(&mut self, now: Instant) {
        match self.manager {
            Manager::Starting => {
                self.backoff.ready(now);
                self.manager = watched(now);
            }
            Manager::Watched { .. } => self.manager = watched(now),
            Manager::Gone { .. }
            | Manager::Sought
            | Manager::Found { .. }
            | Manager::Spawned { .. }
            | Manager::Ending
            | Manager::Killed => {}
        }
    }

    fn end_begins(&mut self) {
        if !matches!(self.manager, Manager::Gone { .. } | Manager::Sought | Manager::Killed) {
            self.manager = Manager::Ending;
        }
    }

    fn gone(&mut self, how: String, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(outcome) = self.outcome.take() {
            // A stop that another guardian began: whoever started this one wants the node to run.
            let is_anothers = self.wish == Wish::Run && !self.has_served;
            if outcome == Outcome::Stopped && is_anothers {
                self.manager = Manager::Gone { next_at: now };
            } else {
                effects.push(Effect::End(outcome));
            }
            return;
        }
        if !self.has_served {
            self.deaths_before_serving += 1;
            if self.deaths_before_serving >= DEATHS_BEFORE_SERVING_MAX {
                let reason =
                    format!("the manager {how} before the node served; see log/manager.log");
                effects.push(Effect::End(Outcome::Failed { reason }));
                return;
            }
        }
        self.manager = Manager::Gone { next_at: now + self.backoff.died(now) };
    }

    fn signal(&mut self, effects: &mut Vec<Effect>) {
        self.wish = match self.wish {
            Wish::Run => Wish::Stop,
            Wish::Stop | Wish::StopNow => Wish::StopNow,
        };
        match (self.manager, self.wish) {
            // Its welcome will say so.
            (
                Manager::Gone { .. } | Manager::Sought | Manager::Found { .. } | Manager::Killed,
                _,
            )
            | (Manager::Spawned { .. }, Wish::Stop)
            | (_, Wish::Run) => {}
            (Manager::Starting | Manager::Watched { .. } | Manager::Ending, Wish::Stop) => {
                effects.push(Effect::TellStop);
            }
            (Manager::Watched { .. }, Wish::StopNow) => effects.push(Effect::TellStopNow),
            // Nobody watches its loop, and it may not read. The next one has less to do.
            (Manager::Spawned { .. } | Manager::Starting | Manager::Ending, Wish::StopNow) => {
                self.kill("told to stop at once", effects);
            }
        }
    }
}

fn watched(heard: Instant) -> Manager {
    Manager::Watched { heard, starved: Duration::ZERO }
}

#[cfg(test)]
mod tests;
