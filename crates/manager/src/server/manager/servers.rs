//! The manager's servers that are not ours: which there are, and what becomes of them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use topology::protocol::Answer;
use topology::{ProcessName, TopologyView};
use tracing::{info, warn};

use super::{Manager, Step};
use crate::process_table::{Event, Recorded};
use crate::server::UpError;
use crate::server::repository::{RepositoryInput, RepositoryNode};
use crate::server::servers::Server;
use crate::server::stores::keeper::{Keeper, Seen};
use crate::server::stores::{self, StoreServer};

impl Manager {
    /// The servers that this node runs as a member of its cluster; none on a single node.
    pub(super) fn servers_of_member(&mut self) -> Result<Vec<Arc<dyn Server>>, UpError> {
        let Some(settings) = &self.cluster_settings else {
            self.keeper = None;
            return Ok(Vec::new());
        };
        let repository = self.repository.as_ref().and_then(RepositoryNode::server);
        if !settings.stores.own().is_empty() {
            // They are kept in order by others.
            self.keeper = None;
            return Ok(repository.into_iter().collect());
        }
        let (path, heartbeat) = (self.directory.path(), &self.config.heartbeat);
        let kept = stores::settings(path, settings, heartbeat)?;
        let options = kept.options.clone();
        let keeper =
            self.keeper.get_or_insert_with(|| Keeper::start(kept, self.inputs.clone())).handle();
        let spares = (&options, self.spares);
        let stores = stores::of_member(path, settings, heartbeat, &keeper, spares);
        let server = |store: StoreServer| Arc::new(store) as Arc<dyn Server>;
        Ok(stores.into_iter().map(server).chain(repository).collect())
    }

    /// Shows the keeper of the stores what there is.
    pub(super) fn show_keeper(&mut self, view: &TopologyView) {
        if let (Some(keeper), Some(cluster)) = (&self.keeper, &self.cluster) {
            let (own, leads) = (cluster.number(), cluster.leads());
            let known = self.shared_state.as_ref().map(|shared| shared.list().members.clone());
            let known = known.unwrap_or_default();
            keeper.show(Seen { own, leads, view: view.clone(), known });
        }
    }

    /// The node is about to leave its cluster: what its stores have goes to others first.
    pub(super) fn stores_leave(&mut self, reply: mpsc::Sender<Answer>) -> Step {
        if self.cluster.as_ref().is_some_and(|cluster| !cluster.hears_most()) {
            let reason = "most members of the cluster are lost to this node, so nobody can take over what its stores have; bring \
                          them up, or remove those that will not come back (outlast cluster remove NODE)";
            // Whoever asked may have gone.
            let _ = reply.try_send(Answer::Refused { reason: reason.to_owned() });
            return Step::Going;
        }
        let Some(keeper) = &mut self.keeper else {
            let _ = reply.try_send(Answer::Done);
            return Step::Going;
        };
        keeper.leave(reply, Instant::now());
        self.handle(Event::StoresLeave(true))
    }

    /// Who asked whether the node may leave asks no more.
    pub(super) fn look_who_leaves(&mut self, now: Instant) {
        if self.keeper.as_mut().is_some_and(|keeper| keeper.stays_after_all(now)) {
            warn!("the node stays in its cluster after all");
            self.handle(Event::StoresLeave(false));
        }
    }

    /// The keeper wants so many stores beyond the usual ones.
    pub(super) fn spares_wanted(&mut self, spares: u8) -> Step {
        if spares == self.spares {
            return Step::Going;
        }
        info!(spares, "stores for copies that other nodes should have");
        self.spares = spares;
        if let Answer::Refused { reason } = self.follow_servers() {
            warn!(reason, "they cannot be run");
        }
        Step::Going
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

    /// Those of another manager's that live are gone on with.
    pub(super) fn adopt_spares(&mut self, lives: &[Recorded]) {
        let regular = self.cluster_settings.as_ref().map_or(0, |it| it.stores.count());
        let ordinal = |life: &Recorded| life.name.as_str().strip_prefix("store")?.parse().ok();
        let living = lives.iter().filter(|life| life.pid.is_some()).filter_map(ordinal);
        self.spares = living.max().map_or(0, |highest: u8| highest.saturating_sub(regular));
    }

    /// What the task says that looks after the repository.
    pub(super) fn hear_of_repository(&mut self, input: RepositoryInput) -> Step {
        let Some(repository) = &mut self.repository else { return Step::Going };
        match input {
            RepositoryInput::Seen(members) => repository.seen(members),
            RepositoryInput::FormatLevel => {}
            RepositoryInput::Runs(note) => {
                repository.runs(note.as_ref());
                if let Answer::Refused { reason } = self.follow_servers() {
                    warn!(reason, "the repository's member cannot be run");
                }
            }
        }
        self.show_view();
        Step::Going
    }

    pub(super) fn repository_has_accounts(&mut self, reply: mpsc::Sender<Answer>) {
        match &mut self.repository {
            Some(repository) => repository.has_accounts(reply),
            None => {
                let reason = "this node's cluster has no repository".to_owned();
                // Whoever asked may have gone.
                let _ = reply.try_send(Answer::Refused { reason });
            }
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
