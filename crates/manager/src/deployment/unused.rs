//! Versions that nobody uses any more go by themselves.
//!
//! New sessions begin with another version everywhere, and every container says that it has found no session of this one
//! since it was told so. A container that is not ready may hold some: while there is one nothing goes, and when it has ended all
//! the others look again, for what it has left in the store. Then what is found stays true: no session can begin with a
//! version that is current nowhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use config::manifest::Version;
use tracing::{info, warn};

use super::table::Deployed;
use super::{Deployment, Effect, Operation, Work};

/// Of an application that is retired: nobody wants to go back to a version of it.
const RETIRED_KEPT: Duration = Duration::from_secs(1);

impl Deployment {
    /// Looks which versions nobody uses.
    pub(super) fn look_for_unused(&mut self, now: Instant) {
        if self.operation.is_some() {
            return;
        }
        let mut unused = BTreeMap::new();
        for (name, deployed) in &self.table.applications {
            for version in &deployed.versions {
                if deployed.current == Some(*version) || !self.is_unused(name, *version) {
                    continue;
                }
                let key = (name.clone(), *version);
                let since = self.unused.get(&key).copied().unwrap_or(now);
                unused.insert(key, since);
            }
        }
        self.unused = unused;
    }

    fn is_unused(&self, name: &str, version: Version) -> bool {
        let mut ready = self.containers.values().filter(|container| container.is_ready).peekable();
        let version = version.to_string();
        self.all_serve
            && ready.peek().is_some()
            && ready.all(|container| {
                let report = &container.report;
                report.generation == self.generation
                    && report.of(name, &version).is_some_and(|report| report.is_unused)
            })
    }

    /// A container has ended, or serves again: what the others have found before is worth nothing.
    pub(super) fn forget_unused(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let is_former = |deployed: &Deployed| {
            deployed.versions.iter().any(|one| deployed.current != Some(*one))
        };
        // Whatever else is under way tells them something new in its end anyway.
        let is_told = matches!(self.operation, None | Some(Operation::Telling { .. }));
        if is_told && self.table.applications.values().any(is_former) {
            self.push(effects);
            self.look_for_unused(now);
        }
    }

    /// When the next one goes.
    pub(super) fn unused_due(&self) -> Option<Instant> {
        let due = |((name, _), since): (&(String, Version), &Instant)| *since + self.kept(name);
        self.unused.iter().map(due).min().filter(|_| self.operation.is_none())
    }

    fn kept(&self, name: &str) -> Duration {
        let deployed = self.table.applications.get(name);
        let is_retired = deployed.is_some_and(|deployed| deployed.current.is_none());
        if is_retired { RETIRED_KEPT } else { self.unused_kept }
    }

    /// Removes one that is due.
    pub(super) fn remove_unused(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.unused_due().is_none_or(|due| due > now) {
            return;
        }
        let is_due =
            |((name, _), since): &(&(String, Version), &Instant)| **since + self.kept(name) <= now;
        let Some(((name, version), _)) = self.unused.iter().find(is_due) else { return };
        let (name, version) = (name.clone(), *version);
        self.unused.remove(&(name.clone(), version));
        let mut next = self.table.clone();
        match next.remove(&name, Some(&version.to_string())) {
            Ok(removed) => {
                info!(name, %version, "no session uses this version any more: removing it");
                let (moved, removed) = (None, Some(removed));
                effects.push(Effect::Work(Work::Store { moved, table: next.clone(), removed }));
                self.operation = Some(Operation::Tidying { table: next });
            }
            Err(error) => warn!(%error, name, %version, "a version that nobody uses stays"),
        }
    }
}
