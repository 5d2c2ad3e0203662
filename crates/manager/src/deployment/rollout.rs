//! How a version comes in: loaded by every container first, so that any of them can go on with its sessions; then current
//! in one container after the other, each of which is watched, or in all at once.
//!
//! It looks at what the containers are known to say, whenever something may have changed, and goes on as far as it can.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use config::manifest::{HealthSettings, Version};
use topology::protocol::{ApplicationReport, RolloutPace, RolloutProgress};
use topology::view::ProcessName;

use super::{Container, HttpHealth};

/// How long the containers may take to load a version; one that has to compile it again takes seconds.
const LOAD_LIMIT: Duration = Duration::from_secs(60);

/// How long a container may take to begin new sessions with what it has loaded.
const SWITCH_LIMIT: Duration = Duration::from_secs(5);

/// Before so many events a failure among them says little: then the end of the watch is waited for.
const EVENTS_ENOUGH: u64 = 20;

/// A version on its way in.
#[derive(Debug)]
pub(super) struct Rollout {
    pub(super) application: String,
    pub(super) to: Version,
    pub(super) switched: BTreeSet<ProcessName>,
    /// The version was not there before.
    pub(super) is_new: bool,
    pace: RolloutPace,
    health: HealthSettings,
    http: Option<HttpHealth>,
    steps: VecDeque<BTreeSet<ProcessName>>,
    number: usize,
    of: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// These have not loaded it yet.
    Loading { waiting: BTreeSet<ProcessName>, due: Instant },
    /// These have been told that it is current.
    Switching { members: BTreeSet<ProcessName>, due: Instant },
    /// This one begins new sessions with it; the report that the watch began with.
    Watching { container: ProcessName, before: ApplicationReport, due: Instant, http: Asked },
}

/// What a watched container says by HTTP.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// It has not answered yet.
    Waits,
    /// It is well, or there is nothing to be asked.
    Well,
    /// It is not.
    Ill(String),
}

/// An answer that is late is looked for so often.
const ANSWER_EVERY: Duration = Duration::from_millis(100);

/// What follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something else must happen first.
    Waits,
    /// Containers that have been switched are to be told.
    Push,
    /// A container is to be asked by HTTP.
    Ask { container: ProcessName, health: HttpHealth },
    /// It is current everywhere.
    Done,
    /// It is not to come in, for this reason.
    Failed(String),
}

/// What a rollout is begun with.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) application: String,
    pub(super) to: Version,
    pub(super) is_new: bool,
    pub(super) pace: RolloutPace,
    pub(super) health: HealthSettings,
    pub(super) http: Option<HttpHealth>,
}

impl Rollout {
    /// All of `containers` that are ready are to load it.
    pub(super) fn new(
        plan: Plan,
        containers: &BTreeMap<ProcessName, Container>,
        now: Instant,
    ) -> Rollout {
        let Plan { application, to, is_new, pace, health, http } = plan;
        let ready = containers.iter().filter(|(_, container)| container.is_ready);
        let waiting = ready.map(|(name, _)| name.clone()).collect();
        Rollout {
            application,
            to,
            switched: BTreeSet::new(),
            is_new,
            pace,
            health,
            http,
            steps: VecDeque::new(),
            number: 0,
            of: 0,
            phase: Phase::Loading { waiting, due: now + LOAD_LIMIT },
        }
    }

    /// When it is to be looked at even if nothing happens.
    pub(super) fn due(&self) -> Instant {
        match &self.phase {
            Phase::Loading { due, .. }
            | Phase::Switching { due, .. }
            | Phase::Watching { due, .. } => *due,
        }
    }

    /// Goes on as far as the containers allow.
    pub(super) fn advance(&mut self, seen: &Seen<'_>, progress: &mut Vec<RolloutProgress>) -> Turn {
        match self.phase {
            Phase::Loading { .. } => self.load(seen, progress),
            Phase::Switching { .. } => self.switch(seen, progress),
            Phase::Watching { .. } => self.watch(seen, progress),
        }
    }

    fn load(&mut self, seen: &Seen<'_>, progress: &mut Vec<RolloutProgress>) -> Turn {
        let Phase::Loading { waiting, due } = &mut self.phase else { return Turn::Waits };
        // Who has died loads it at its next start.
        waiting.retain(|name| seen.is_ready(name));
        for name in waiting.iter() {
            match seen.report(name, &self.application, self.to) {
                Some(ApplicationReport { refused: Some(reason), .. }) => {
                    return Turn::Failed(format!("{name} cannot load it: {reason}"));
                }
                Some(_) => {}
                None if seen.now >= *due => {
                    let limit = LOAD_LIMIT.as_secs();
                    return Turn::Failed(format!("{name} has not loaded it within {limit} s"));
                }
                None => return Turn::Waits,
            }
        }
        let loaded = std::mem::take(waiting);
        if loaded.is_empty() {
            return Turn::Failed("no container is ready; see outlast status".to_owned());
        }
        progress.push(RolloutProgress::Loaded { containers: loaded.len() });
        self.steps = match self.pace {
            RolloutPace::AtOnce => [loaded].into(),
            RolloutPace::OneByOne => {
                loaded.into_iter().map(|name| BTreeSet::from([name])).collect()
            }
        };
        self.of = self.steps.len();
        self.next_step(seen)
    }

    fn switch(&mut self, seen: &Seen<'_>, progress: &mut Vec<RolloutProgress>) -> Turn {
        let Phase::Switching { members, due } = &mut self.phase else { return Turn::Waits };
        if self.pace == RolloutPace::OneByOne
            && let Some(dead) = members.iter().find(|name| !seen.is_ready(name))
        {
            return Turn::Failed(format!("{dead} ended as it began to use it"));
        }
        members.retain(|name| seen.is_ready(name));
        for name in members.iter() {
            if seen.report(name, &self.application, self.to).is_some() {
                continue;
            }
            if seen.now < *due {
                return Turn::Waits;
            }
            let limit = SWITCH_LIMIT.as_secs();
            return Turn::Failed(format!("{name} has not begun to use it within {limit} s"));
        }
        let (RolloutPace::OneByOne, Some(container)) = (self.pace, members.pop_first()) else {
            return self.next_step(seen);
        };
        let before = seen.report(&container, &self.application, self.to);
        let before = before.cloned().unwrap_or_default();
        progress.push(RolloutProgress::Switched {
            container: container.clone(),
            number: self.number,
            of: self.of,
            watch_ms: u64::try_from(self.health.watch.as_millis()).unwrap_or(u64::MAX),
        });
        let due = seen.now + self.health.watch;
        let http = if self.http.is_some() { Asked::Waits } else { Asked::Well };
        self.phase = Phase::Watching { container: container.clone(), before, due, http };
        match self.http.clone() {
            Some(health) => Turn::Ask { container, health },
            None => Turn::Waits,
        }
    }

    /// What a container said by HTTP.
    pub(super) fn asked(&mut self, by: &ProcessName, outcome: Result<(), String>) {
        if let Phase::Watching { container, http, .. } = &mut self.phase
            && container == by
        {
            *http = outcome.map_or_else(Asked::Ill, |()| Asked::Well);
        }
    }

    fn watch(&mut self, seen: &Seen<'_>, progress: &mut Vec<RolloutProgress>) -> Turn {
        let Phase::Watching { container, before, due, http } = &mut self.phase else {
            return Turn::Waits;
        };
        if let Asked::Ill(reason) = http {
            return Turn::Failed(format!("{container} is not well: {reason}"));
        }
        if !seen.is_ready(container) {
            return Turn::Failed(format!("{container} ended while it was watched"));
        }
        let report = seen.report(container, &self.application, self.to).unwrap_or(before);
        let events = report.events.saturating_sub(before.events);
        let failures = report.failures.saturating_sub(before.failures);
        let percent_max = u64::from(self.health.failures_percent_max);
        let is_over = seen.now >= *due;
        let is_ill = failures * 100 > events * percent_max;
        if is_ill && (is_over || events >= EVENTS_ENOUGH) {
            return Turn::Failed(format!(
                "{container}: handlers failed in {failures} of {events} events, and {percent_max} % are allowed; log/{container}.log \
                 says how"
            ));
        }
        if is_over && *http == Asked::Waits {
            *due = seen.now + ANSWER_EVERY;
            return Turn::Waits;
        }
        if !is_over {
            return Turn::Waits;
        }
        let container = container.clone();
        progress.push(RolloutProgress::Healthy { container, events, failures });
        self.next_step(seen)
    }

    fn next_step(&mut self, seen: &Seen<'_>) -> Turn {
        while let Some(mut members) = self.steps.pop_front() {
            self.number += 1;
            // Who has died meanwhile begins with what is current when it is back.
            members.retain(|name| seen.is_ready(name));
            if !members.is_empty() {
                self.switched.extend(members.iter().cloned());
                self.phase = Phase::Switching { members, due: seen.now + SWITCH_LIMIT };
                return Turn::Push;
            }
        }
        Turn::Done
    }
}

/// What is known of the containers at this moment.
pub(super) struct Seen<'a> {
    pub(super) containers: &'a BTreeMap<ProcessName, Container>,
    /// Of the tables that they were told last.
    pub(super) generation: u64,
    pub(super) now: Instant,
}

impl<'a> Seen<'a> {
    fn is_ready(&self, name: &ProcessName) -> bool {
        self.containers.get(name).is_some_and(|container| container.is_ready)
    }

    /// What a container says of a version, if it has answered the last table.
    fn report(
        &self,
        name: &ProcessName,
        application: &str,
        version: Version,
    ) -> Option<&'a ApplicationReport> {
        let container = self.containers.get(name)?;
        let report = &container.report;
        if report.generation != self.generation {
            return None;
        }
        report.of(application, &version.to_string())
    }
}
