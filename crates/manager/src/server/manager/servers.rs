//! The manager's servers that are not ours: which there are, and what becomes of them.

use std::sync::Arc;

use topology::ProcessName;
use topology::protocol::Answer;
use tracing::warn;

use super::{Manager, Step};
use crate::process_table::{Event, Recorded};
use crate::server::UpError;
use crate::server::servers::Server;
use crate::server::stores::{self, StoreServer};

impl Manager {
    /// The servers that this node runs as a member of its cluster; none on a single node.
    pub(super) fn servers_of_member(&self) -> Result<Vec<Arc<dyn Server>>, UpError> {
        let Some(settings) = &self.cluster_settings else { return Ok(Vec::new()) };
        let stores = stores::of_member(self.directory.path(), settings, &self.config.heartbeat)?;
        let server = |store: StoreServer| Arc::new(store) as Arc<dyn Server>;
        Ok(stores.into_iter().map(server).collect())
    }

    /// The node has become a member, or is none any more, and runs others from now on.
    pub(super) fn follow_servers(&mut self) -> Answer {
        match self.servers_of_member() {
            Ok(servers) => {
                let specs = self.servers.set(servers);
                self.handle(Event::Servers(specs));
                Answer::Done
            }
            Err(error) => Answer::Refused { reason: error.to_string() },
        }
    }

    /// Asks those that live since another manager.
    pub(super) fn ask_servers(&mut self, lives: &[Recorded]) {
        for life in lives.iter().filter(|life| life.pid.is_some()) {
            self.servers.ask(&life.name, life.incarnation);
        }
    }

    pub(super) fn server_prepared(
        &mut self,
        name: ProcessName,
        outcome: Result<(), String>,
    ) -> Step {
        self.servers.was_prepared(&name);
        match outcome {
            Ok(()) => self.handle(Event::Prepared { name }),
            Err(reason) => {
                warn!(%name, reason, "cannot be started yet");
                let view = self.table.view();
                let Some(entry) = view.process(&name) else { return Step::Going };
                let incarnation = entry.incarnation;
                self.handle(Event::NotSpawned { name, incarnation, reason })
            }
        }
    }
}
