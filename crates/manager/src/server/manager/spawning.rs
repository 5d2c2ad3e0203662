//! Starts processes: our own at once, servers that are not ours as soon as they are written down.

use topology::view::{Incarnation, ProcessName};
use tracing::{error, info};

use super::Manager;
use crate::process_table::Event;
use crate::server::child::{RunningChild, spawn_detached, spawn_held};
use crate::server::{ChildStart, UpError};

impl Manager {
    /// Starts a process, and says what came of it.
    pub(super) fn spawn(&mut self, name: ProcessName, incarnation: Incarnation) -> Event {
        match self.try_spawn(&name, incarnation) {
            Ok(pid) => {
                info!(%name, pid, %incarnation, "started");
                Event::Spawned { name, pid }
            }
            Err(error) => {
                error!(%name, %error, "cannot be started");
                let reason = format!("{name} cannot be started, and will be tried again: {error}");
                Event::NotSpawned { name, incarnation, reason }
            }
        }
    }

    fn try_spawn(&mut self, name: &ProcessName, incarnation: Incarnation) -> Result<u32, UpError> {
        let view = self.table.view();
        let process_type = match view.process(name) {
            Some(process) => process.process_type,
            None => unreachable!("the table starts its own processes only"),
        };
        if let Some(edge) = self.edges.get_mut(name)
            && edge.reopen()?
        {
            self.hand_over_listeners();
        }
        let failed = |source| UpError::Spawn { name: name.clone(), source };
        let log = self.directory.log(name.as_str());
        let spawned = match self.servers.program(name) {
            Some(program) => program.and_then(|program| {
                spawn_held(&program, &log).map(|(living, gate)| (living, Some(gate)))
            }),
            None => {
                let socket = self.directory.socket();
                let start = ChildStart { name: name.clone(), process_type, socket };
                spawn_detached((self.child)(&start), &log).map(|living| (living, None))
            }
        };
        let (living, gate) = spawned.map_err(failed)?;
        self.held.extend(gate);
        let pid = living.identity().pid;
        let inputs = self.inputs.clone();
        let child = RunningChild::watch(living, name.clone(), incarnation, inputs);
        self.children.insert(name.clone(), child);
        self.servers.ask(name, incarnation);
        Ok(pid)
    }
}
