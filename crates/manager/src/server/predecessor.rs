//! The manager before this one: what it left, and who of its processes lives.

use std::collections::HashMap;

use serde_json::Value;
use topology::view::ProcessName;
use tracing::info;

use super::directory::NodeDirectory;
use super::identity::LivingProcess;
use super::record::{Clock, Record};
use crate::cluster::KnownMember;
use crate::guardian::protocol::EdgeSockets;
use crate::process_table::Recorded;

/// Possibly none.
pub(crate) struct Predecessor {
    record: Option<Record>,
    survivors: HashMap<ProcessName, LivingProcess>,
}

impl Predecessor {
    /// Looks for it, and opens a handle on each process that lives: from now on its id means nobody else.
    pub(crate) fn find(directory: &NodeDirectory) -> Predecessor {
        let record = Record::read(&directory.record());
        let survivors = record.as_ref().map(Record::survivors).unwrap_or_default();
        Predecessor { record, survivors }
    }

    /// Whether there was one since the machine started.
    pub(crate) fn is_known(&self) -> bool {
        self.record.is_some()
    }

    pub(crate) fn has_survivors(&self) -> bool {
        !self.survivors.is_empty()
    }

    /// The configuration that the survivors were given, else `own`.
    pub(crate) fn settings(&self, own: &Value) -> Value {
        match &self.record {
            Some(record) if self.has_survivors() => record.settings.clone(),
            Some(_) | None => own.clone(),
        }
    }

    /// What the edges listened on.
    pub(crate) fn edges(&self) -> &[EdgeSockets] {
        self.record.as_ref().map_or(&[], |record| &record.edges)
    }

    /// What the survivors were shown of the other members, if there are any.
    pub(crate) fn known_members(&self) -> Vec<KnownMember> {
        let record = self.record.as_ref().filter(|_| self.has_survivors());
        record.map(|record| record.members.clone()).unwrap_or_default()
    }

    /// No incarnation or version that it gave is greater.
    pub(crate) fn numbers_used(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.numbers_used)
    }

    /// How often managers were replaced, this one included.
    pub(crate) fn restarts(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.manager_restarts.saturating_add(1))
    }

    /// The lives to go on with, and those of them that last.
    pub(crate) fn lives(
        self,
        clock: &Clock,
    ) -> (Vec<Recorded>, HashMap<ProcessName, LivingProcess>) {
        let Predecessor { record, survivors } = self;
        let processes = record.map(|record| record.processes).unwrap_or_default();
        let lives = processes.into_iter().map(|process| {
            let mut life = process.life;
            life.due = process.due_ms.map(|due| clock.instant(due));
            life.pid = survivors.get(&life.name).map(|living| living.identity().pid);
            if let Some(pid) = life.pid {
                info!(name = %life.name, pid, incarnation = %life.incarnation, "lives: adopted");
            }
            life
        });
        (lives.collect(), survivors)
    }
}
