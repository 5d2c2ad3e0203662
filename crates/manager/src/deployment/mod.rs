//! The applications of a node: deployed, switched, removed; what each container shall have loaded; and what became of it.
//! Pure: events in, effects out.
//!
//! ```text
//! request ─▶ files examined ─▶ table written, files in place ─▶ rollout ─▶ table written ─▶ answer
//!                 (Work)                  (Work)                  │ ▲          (Work)
//!                                                     tables pushed │ │ containers' reports
//!                                                                 ▼ │
//!                                                              containers
//! ```
//!
//! One request is under way at a time. A version that is on its way in is marked in the table as long as it is: a manager
//! that dies meanwhile is followed by one that finds the mark, and new sessions begin as they did before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use config::manifest::{HealthSettings, Version};
use topology::protocol::{
    Answer, ApplicationEntry, ApplicationStatus, ApplicationTable, ApplicationsReport, RolloutPace,
    VersionStatus,
};
use topology::view::ProcessName;
use tracing::warn;

use crate::process_table::Ticket;

mod rollout;
mod table;
mod telling;
#[cfg(test)]
mod tests;
mod unused;

use rollout::{Plan, Rollout, Seen, Turn};
use table::Abandoned;
pub use table::{DeployedTable, Removed};
use telling::Told;

/// Who asks while something is under way that ends soon waits; more are told to try again.
const WAITING_MAX: usize = 16;

/// The applications of a node.
#[derive(Debug)]
pub struct Deployment {
    table: DeployedTable,
    operation: Option<Operation>,
    containers: BTreeMap<ProcessName, Container>,
    /// Of the tables that the containers were told last.
    generation: u64,
    /// No container lives that is not ready.
    all_serve: bool,
    /// The versions that nobody uses, and since when that is known.
    unused: BTreeMap<(String, Version), Instant>,
    /// For how long they stay.
    unused_kept: Duration,
    /// Who asked while something was under way that ends soon.
    waiting: VecDeque<(Ticket, Request)>,
}

/// A container, as far as applications go.
#[derive(Debug, Default)]
pub(crate) struct Container {
    is_ready: bool,
    report: ApplicationsReport,
}

/// What is asked of applications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Bring in what was staged.
    Deploy {
        /// Name of the directory.
        staged: String,
        /// How.
        pace: RolloutPace,
    },
    /// Bring in what is kept.
    Switch {
        /// Which application.
        name: String,
        /// Which version.
        version: String,
        /// How.
        pace: RolloutPace,
    },
    /// Remove a version, or all.
    Remove {
        /// Which application.
        name: String,
        /// Which version.
        version: Option<String>,
    },
    /// Begin no session of it any more.
    Retire {
        /// Which application.
        name: String,
    },
    /// Begin no session of it for a moment.
    Hold {
        /// Which application.
        name: String,
    },
    /// Begin sessions of it again.
    Release {
        /// Which application.
        name: String,
    },
}

/// What is done with files, outside of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Read a manifest; then [`Worked::Examined`].
    Examine(Place),
    /// Move what was staged, write the table, remove what no table names any more, in this order; then
    /// [`Worked::Stored`].
    Store {
        /// What comes into place.
        moved: Option<Moved>,
        /// To be written.
        table: DeployedTable,
        /// What goes.
        removed: Option<Removed>,
    },
}

/// Where an application's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In that directory below `apps/.staging`.
    Staged(String),
    /// In `apps/NAME/VERSION`.
    Kept {
        /// Which application.
        name: String,
        /// Which version.
        version: Version,
    },
}

/// What comes from `apps/.staging/STAGED` to `apps/NAME/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// From where.
    pub staged: String,
    /// Which application.
    pub name: String,
    /// Which version.
    pub version: Version,
}

/// The end of [`Work`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worked {
    /// What the manifest says, or why it cannot be used.
    Examined(Result<Examined, String>),
    /// Done, or why not: then nothing has changed.
    Stored(Result<(), String>),
}

/// What a rollout has to know of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// When it counts as well.
    pub health: HealthSettings,
    /// What its containers are asked by HTTP.
    pub http: Option<HttpHealth>,
}

/// A GET that must be answered 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHealth {
    /// The path.
    pub path: String,
    /// The Host that the application serves; none: any.
    pub host: Option<String>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Do this, outside of the loop.
    Work(Work),
    /// Send every container its table.
    Push,
    /// Ask a container by HTTP; then [`Deployment::asked`].
    Ask {
        /// Which.
        container: ProcessName,
        /// What.
        health: HttpHealth,
    },
    /// Answer a request.
    Answer {
        /// Whose.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
}

/// What is under way.
#[derive(Debug)]
enum Operation {
    /// The manifest is being read.
    Examining { ticket: Ticket, asked: Asked },
    /// The table is being written.
    Storing { ticket: Ticket, table: DeployedTable, then: Then },
    /// A version comes in.
    Rolling { ticket: Ticket, rollout: Box<Rollout> },
    /// A version that nobody uses goes.
    Tidying { table: DeployedTable },
    /// The containers are told, and this is said as soon as all have heard it, or shall have.
    Telling { ticket: Ticket, told: Told, due: Instant },
    /// No session of an application begins until somebody says more, or this time has come.
    Held { name: String, due: Instant },
}

/// Which version is to come in.
#[derive(Debug)]
enum Asked {
    Staged { staged: String, pace: RolloutPace },
    Kept { pace: RolloutPace },
}

/// What follows when the table is written.
#[derive(Debug)]
enum Then {
    /// The version comes in.
    Roll(Box<Plan>),
    /// It is in.
    Finish(Box<Rollout>),
    /// Tables are pushed, and this is said.
    Say(Answer),
    /// Tables are pushed, and it is said when all containers have them. This application is held meanwhile.
    Tell { held: Option<String> },
}

impl Deployment {
    /// Goes on with the table of an earlier manager. `floor` is the microsecond of the manager's start: generations count
    /// up from it. A version that nobody uses stays for `unused_kept`.
    pub fn new(table: DeployedTable, floor: u64, unused_kept: Duration) -> Deployment {
        Deployment {
            table,
            operation: None,
            containers: BTreeMap::new(),
            generation: floor,
            all_serve: false,
            unused: BTreeMap::new(),
            unused_kept,
            waiting: VecDeque::new(),
        }
    }

    /// What the last manager left unfinished goes back. Its version stays until nobody uses it.
    pub fn recover(table: &mut DeployedTable) {
        table.recover();
    }

    /// Somebody asks. Whoever waits is answered in the end, whatever happens.
    pub fn requested(
        &mut self,
        ticket: Ticket,
        request: Request,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |reason: String| Effect::Answer { ticket, answer: Answer::Refused { reason } };
        let held = self.let_go_for(&request);
        let ends_soon = matches!(
            self.operation,
            Some(Operation::Tidying { .. } | Operation::Telling { .. } | Operation::Held { .. })
        );
        if ends_soon && self.waiting.len() < WAITING_MAX {
            return self.waiting.push_back((ticket, request));
        }
        if self.operation.is_some() {
            let reason =
                "another change of the applications is under way; see outlast app list, and try again".to_owned();
            return effects.push(refuse(reason));
        }
        match request {
            Request::Deploy { staged, pace } => {
                if !is_staging_name(&staged) {
                    let reason = format!("{staged:?} is no name of a staging directory");
                    return effects.push(refuse(reason));
                }
                effects.push(Effect::Work(Work::Examine(Place::Staged(staged.clone()))));
                let asked = Asked::Staged { staged, pace };
                self.operation = Some(Operation::Examining { ticket, asked });
            }
            Request::Switch { name, version, pace } => {
                let mut next = self.table.clone();
                let Ok(parsed) = version.parse::<Version>() else {
                    let reason = format!(
                        "{version:?} is no version; it has three numbers, for example 1.2.0"
                    );
                    return effects.push(refuse(reason));
                };
                if let Err(refusal) = next.begin_again(&name, parsed) {
                    return effects.push(refuse(refusal.to_string()));
                }
                let place = Place::Kept { name, version: parsed };
                effects.push(Effect::Work(Work::Examine(place)));
                let asked = Asked::Kept { pace };
                self.operation = Some(Operation::Examining { ticket, asked });
            }
            Request::Remove { name, version } => {
                let mut next = self.table.clone();
                match next.remove(&name, version.as_deref()) {
                    Err(refusal) => {
                        if held.is_some() {
                            self.push(effects);
                        }
                        effects.push(refuse(refusal.to_string()));
                    }
                    Ok(removed) => {
                        let then = Then::Tell { held };
                        self.store(ticket, next, None, Some(removed), then, effects);
                    }
                }
            }
            Request::Retire { name } => {
                let mut next = self.table.clone();
                match next.retire(&name) {
                    Err(refusal) => effects.push(refuse(refusal.to_string())),
                    Ok(()) => {
                        let then = Then::Tell { held: None };
                        self.store(ticket, next, None, None, then, effects);
                    }
                }
            }
            Request::Hold { name } => match self.table.clone().retire(&name) {
                Err(refusal) => effects.push(refuse(refusal.to_string())),
                Ok(()) => self.tell(ticket, Told::Held { name }, now, effects),
            },
            // It was let go of above, if it was held.
            Request::Release { .. } => self.tell(ticket, Told::Done, now, effects),
        }
    }

    /// Work with files has ended.
    pub fn worked(&mut self, worked: Worked, now: Instant, effects: &mut Vec<Effect>) {
        match (self.operation.take(), worked) {
            (Some(Operation::Examining { ticket, asked }), Worked::Examined(examined)) => {
                self.examined(ticket, asked, examined, effects);
            }
            (Some(Operation::Storing { ticket, table, then }), Worked::Stored(stored)) => {
                self.stored(ticket, table, then, stored, now, effects);
            }
            (Some(Operation::Tidying { table }), Worked::Stored(stored)) => {
                match stored {
                    Ok(()) => {
                        self.table = table;
                        self.push(effects);
                    }
                    Err(reason) => warn!(reason, "a version that nobody uses stays"),
                }
                self.let_in(now, effects);
            }
            // Work that nobody waits for.
            (operation, _) => self.operation = operation,
        }
        self.look_for_unused(now);
    }

    fn examined(
        &mut self,
        ticket: Ticket,
        asked: Asked,
        examined: Result<Examined, String>,
        effects: &mut Vec<Effect>,
    ) {
        let mut next = self.table.clone();
        let begun = examined.and_then(|examined| {
            let Examined { name, version, .. } = &examined;
            let begun = match &asked {
                Asked::Staged { .. } => next.begin(name, *version),
                Asked::Kept { .. } => next.begin_again(name, *version),
            };
            begun.map(|()| examined).map_err(|refusal| refusal.to_string())
        });
        let examined = match begun {
            Ok(_) if !self.containers.values().any(|container| container.is_ready) => {
                Err("no container is ready to load it; see outlast status".to_owned())
            }
            begun => begun,
        };
        let Examined { name, version, health, http } = match examined {
            Ok(examined) => examined,
            Err(reason) => {
                return effects.push(Effect::Answer { ticket, answer: Answer::Refused { reason } });
            }
        };
        let (pace, moved) = match asked {
            Asked::Staged { staged, pace } => {
                (pace, Some(Moved { staged, name: name.clone(), version }))
            }
            Asked::Kept { pace } => (pace, None),
        };
        let is_new = moved.is_some();
        let plan = Plan { application: name, to: version, is_new, pace, health, http };
        self.store(ticket, next, moved, None, Then::Roll(Box::new(plan)), effects);
    }

    fn store(
        &mut self,
        ticket: Ticket,
        table: DeployedTable,
        moved: Option<Moved>,
        removed: Option<Removed>,
        then: Then,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Work(Work::Store { moved, table: table.clone(), removed }));
        self.operation = Some(Operation::Storing { ticket, table, then });
    }

    fn stored(
        &mut self,
        ticket: Ticket,
        table: DeployedTable,
        then: Then,
        stored: Result<(), String>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        match (then, stored) {
            (Then::Roll(plan), Ok(())) => {
                self.table = table;
                let rollout = Rollout::new(*plan, &self.containers, now);
                self.operation = Some(Operation::Rolling { ticket, rollout: Box::new(rollout) });
                self.push(effects);
            }
            (Then::Finish(_), Ok(())) => {
                self.table = table;
                self.push(effects);
                effects.push(Effect::Answer { ticket, answer: Answer::Done });
            }
            (Then::Say(answer), Ok(())) => {
                self.table = table;
                self.push(effects);
                effects.push(Effect::Answer { ticket, answer });
            }
            (Then::Tell { .. }, Ok(())) => {
                self.table = table;
                self.tell(ticket, Told::Done, now, effects);
            }
            (Then::Roll(_) | Then::Tell { .. }, Err(reason)) => {
                // If it was held: as it was before.
                self.push(effects);
                effects.push(Effect::Answer { ticket, answer: Answer::Refused { reason } });
            }
            // The file still says that it is on its way in, which means the same as not.
            (Then::Finish(rollout), Err(reason)) => {
                self.table.abandon(&rollout.application, Abandoned::Kept);
                self.push(effects);
                effects.push(Effect::Answer { ticket, answer: Answer::RolledBack { reason } });
            }
            (Then::Say(answer), Err(_)) => {
                effects.push(Effect::Answer { ticket, answer });
            }
        }
    }

    /// Which containers are ready; `all_serve`: no other one lives.
    pub fn containers(
        &mut self,
        ready: &BTreeSet<ProcessName>,
        all_serve: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let mut is_other = all_serve && !self.all_serve;
        for (name, container) in &mut self.containers {
            // Its next life reports before it is ready.
            if container.is_ready && !ready.contains(name) {
                *container = Container::default();
                is_other = true;
            }
        }
        for name in ready {
            self.containers.entry(name.clone()).or_default().is_ready = true;
        }
        self.all_serve = all_serve;
        self.advance(now, effects);
        if is_other {
            self.forget_unused(now, effects);
        }
    }

    /// What a container says. One that starts says it before it is ready.
    pub fn reported(
        &mut self,
        name: ProcessName,
        report: ApplicationsReport,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.containers.entry(name).or_default().report = report;
        self.advance(now, effects);
    }

    /// A container has answered by HTTP, or has not.
    pub fn asked(
        &mut self,
        container: &ProcessName,
        outcome: Result<(), String>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Operation::Rolling { rollout, .. }) = &mut self.operation {
            rollout.asked(container, outcome);
        }
        self.advance(now, effects);
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.operation {
            Some(Operation::Rolling { rollout, .. }) => Some(rollout.due()),
            Some(Operation::Telling { due, .. } | Operation::Held { due, .. }) => Some(*due),
            Some(
                Operation::Examining { .. } | Operation::Storing { .. } | Operation::Tidying { .. },
            ) => None,
            None => self.unused_due(),
        }
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.advance(now, effects);
            self.remove_unused(now, effects);
        }
    }

    /// Something may have changed.
    fn advance(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.go_on(now, effects);
        self.look_who_was_told(now, effects);
        self.look_for_unused(now);
    }

    /// Goes on with a rollout.
    fn go_on(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(Operation::Rolling { ticket, rollout }) = &mut self.operation else { return };
        let ticket = *ticket;
        let mut progress = Vec::new();
        let seen = Seen { containers: &self.containers, generation: self.generation, now };
        let turn = rollout.advance(&seen, &mut progress);
        effects.extend(
            progress
                .into_iter()
                .map(|step| Effect::Answer { ticket, answer: Answer::Rollout(step) }),
        );
        match turn {
            Turn::Waits => {}
            Turn::Push => self.push(effects),
            Turn::Ask { container, health } => effects.push(Effect::Ask { container, health }),
            Turn::Done => {
                let Some(Operation::Rolling { rollout, .. }) = self.operation.take() else {
                    return;
                };
                let mut next = self.table.clone();
                next.finish(&rollout.application);
                self.store(ticket, next, None, None, Then::Finish(rollout), effects);
            }
            Turn::Failed(reason) => {
                let Some(Operation::Rolling { rollout, .. }) = self.operation.take() else {
                    return;
                };
                let fate = match rollout.is_new && rollout.switched.is_empty() {
                    true => Abandoned::Forgotten,
                    false => Abandoned::Kept,
                };
                // At once: whatever the disk says, new sessions begin as before.
                let removed = self.table.abandon(&rollout.application, fate);
                self.push(effects);
                let then = Then::Say(Answer::RolledBack { reason });
                self.store(ticket, self.table.clone(), None, removed, then, effects);
            }
        }
    }

    fn push(&mut self, effects: &mut Vec<Effect>) {
        self.generation += 1;
        effects.push(Effect::Push);
    }

    /// What a container shall have loaded.
    pub fn table_of(&self, container: &ProcessName) -> ApplicationTable {
        let mut applications = Vec::new();
        for (name, deployed) in &self.table.applications {
            let current = match self.rollout() {
                Some(rollout)
                    if rollout.application == *name && rollout.switched.contains(container) =>
                {
                    Some(rollout.to)
                }
                Some(_) | None if self.held() == Some(name) => None,
                Some(_) | None => deployed.current,
            };
            applications.extend(deployed.versions.iter().map(|version| ApplicationEntry {
                name: name.clone(),
                version: version.to_string(),
                is_current: current == Some(*version),
            }));
        }
        ApplicationTable { generation: self.generation, applications }
    }

    fn rollout(&self) -> Option<&Rollout> {
        match &self.operation {
            Some(Operation::Rolling { rollout, .. }) => Some(rollout),
            Some(Operation::Storing { then: Then::Finish(rollout), .. }) => Some(rollout),
            Some(
                Operation::Storing { .. }
                | Operation::Examining { .. }
                | Operation::Tidying { .. }
                | Operation::Telling { .. }
                | Operation::Held { .. },
            )
            | None => None,
        }
    }

    /// What is deployed, for an operator.
    pub fn status(&self) -> Vec<ApplicationStatus> {
        let applications = self.table.applications.iter();
        let shown = |(name, deployed): (&String, &table::Deployed)| ApplicationStatus {
            name: name.clone(),
            current: deployed.current.map(|version| version.to_string()),
            rolling_to: deployed.rolling_to.map(|version| version.to_string()),
            versions: deployed
                .versions
                .iter()
                .map(|version| self.version_status(name, *version))
                .collect(),
        };
        applications.map(shown).collect()
    }

    fn version_status(&self, name: &str, version: Version) -> VersionStatus {
        let mut status = VersionStatus { version: version.to_string(), ..VersionStatus::default() };
        for (container, known) in &self.containers {
            let Some(report) = known.report.of(name, &status.version) else { continue };
            status.events += report.events;
            status.failures += report.failures;
            match &report.refused {
                None => status.loaded_by.push(container.clone()),
                Some(reason) => status.refused_by.push((container.clone(), reason.clone())),
            }
        }
        status
    }
}

/// It becomes part of a path.
fn is_staging_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
