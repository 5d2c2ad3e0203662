//! The manager as a member of its cluster: which requests go to which node, and what follows from what others say.

use std::time::Instant;

use tokio::sync::mpsc;
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, ClusterStatus, FormatsStatus, Request};
use topology::{
    FormatLevel, NodeSnapshot, ProcessName, ReleaseFormats, RepositoryList, RunBy, RunsWith,
    TopologyView,
};
use tracing::{error, info};

use super::clock::Wait;
use super::shared_applications::{is_for_sharing, may_be_asked};
use super::shared_state::SharedState;
use super::{Manager, Step, limits, view_line};
use crate::cluster::KnownMember;
use crate::configuration::{runs_with, standing};
use crate::process_table::Event;
use crate::process_table::Ticket;
use crate::server::cluster_node::{ClusterNode, Consequence, FromCoordinator};
use crate::server::peers::connection::PeerInput;
use crate::server::repository::{Mismatch, RepositoryNode};
use crate::server::{UpError, applications};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A command on this host: what is for another node is passed on.
    Command,
    /// Another node, which has passed it on: it goes no further.
    Node,
}

impl Manager {
    /// Becomes a member, or goes on as one that knows this of the others, or is none any more: as `DIR/cluster/` says.
    pub(super) fn open_cluster(&mut self, known: Vec<KnownMember>) -> Result<(), UpError> {
        let path = self.directory.path();
        // The present file, where there is one: the node may have become a member since it came up.
        let file = config::of_node(path).ok();
        let settings = file.and_then(|file| file.config.cluster);
        let settings = settings.or_else(|| self.config.cluster.clone());
        // The port is the old one's as long as that lives.
        self.cluster = None;
        let heartbeat = limits(&self.config).heartbeat;
        let (keys, inputs) = (self.keys.subscribe(), self.inputs.clone());
        let node = ClusterNode::open(path, settings.as_ref(), heartbeat, known, keys, inputs)?;
        self.shared_state = match &node {
            Some(_) => SharedState::open(&ClusterDirectory::of_node(path))?,
            None => None,
        };
        self.keys.lead(node.as_ref().is_none_or(ClusterNode::coordinates));
        self.cluster_settings = node.as_ref().map(|node| config::ClusterSettings {
            address: node.address(),
            ..settings.unwrap_or(node.settings())
        });
        self.cluster = node;
        // The one before asks nobody any more.
        self.repository = None;
        if let Some(settings) = &self.cluster_settings {
            self.repository =
                RepositoryNode::open(path, settings, &self.prepare, self.inputs.clone())?;
        }
        Ok(())
    }

    /// What another manager of this node would have to know of the other members.
    pub(super) fn known_members(&self) -> Vec<KnownMember> {
        self.cluster.as_ref().map(ClusterNode::known).unwrap_or_default()
    }

    /// What a child is told to be configured as: it may have been started before the node was a member.
    pub(super) fn settings(&self) -> serde_json::Value {
        let mut settings = self.link.settings().clone();
        if let Some(all) = settings.as_object_mut() {
            match &self.cluster_settings {
                Some(cluster) => {
                    all.insert("cluster".to_owned(), serde_json::json!(cluster));
                }
                None => {
                    all.remove("cluster");
                }
            }
        }
        settings
    }

    /// Everything that this node knows: of itself, and of the other members.
    pub(super) fn whole_view(&mut self) -> TopologyView {
        match &mut self.cluster {
            Some(cluster) => {
                let newest_format = ReleaseFormats::own().newest();
                let runs_with = RunsWith { newest_format, ..runs_with(&self.config, cluster.id()) };
                let level = self.repository.as_ref().map(RepositoryNode::format_level);
                let own = NodeSnapshot { runs_with, ..self.table.snapshot(cluster.address()) };
                cluster.view(own, level.unwrap_or_default())
            }
            None => self.table.view(),
        }
    }

    /// Shows the view to all processes of the node, and to the other members what is new of this one.
    pub(super) fn show_view(&mut self) {
        let view = self.whole_view();
        if self.shared_state.is_none() && self.cluster.is_some() {
            // It was carried along meanwhile, perhaps.
            let files = ClusterDirectory::of_node(self.directory.path());
            self.shared_state = SharedState::open(&files).unwrap_or_else(|error| {
                error!(%error, "where the cluster's stores are cannot be read");
                None
            });
        }
        if let Some(shared) = &mut self.shared_state {
            shared.seen(&view);
        }
        self.show_keeper(&view);
        if let Some(repository) = &self.repository {
            let leads = self.cluster.as_ref().is_some_and(ClusterNode::leads);
            repository.look(&view, leads);
        }
        self.table.keep_witnesses(&view);
        if self.cluster.is_some() {
            // Another manager shall not show a lower version.
            self.note();
        }
        let line = view_line(view);
        self.views.send_if_modified(|shown| {
            let is_new = **shown != *line;
            *shown = line;
            is_new
        });
    }

    pub(super) fn look_at_cluster(&mut self, now: Instant) {
        if let Some(cluster) = &mut self.cluster
            && cluster.tick(now)
        {
            self.show_view();
        }
        let leads = self.cluster.as_ref().is_none_or(ClusterNode::coordinates);
        self.keys.lead(leads);
        self.look_who_leaves(now);
    }

    pub(super) fn receive_peer(&mut self, input: PeerInput) -> Step {
        let now = Instant::now();
        let Some(cluster) = &mut self.cluster else {
            // A connection of a cluster that this node has left.
            return Step::Going;
        };
        let consequence = match input {
            PeerInput::Asked { request, reply } => {
                return self.requested(request, reply, Asker::Node);
            }
            input => cluster.receive(input, now),
        };
        self.keys.lead(cluster.coordinates());
        match consequence {
            Consequence::None => {}
            Consequence::Told(event) => return self.handle(event),
            Consequence::View => self.show_view(),
            Consequence::Keys(ring, from) => {
                if let Some(write) = self.keys.adopt(ring, from == FromCoordinator::Yes) {
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = write.run() {
                            error!(%error, "the cluster's keys cannot be kept; they are in use all the same");
                        }
                    });
                }
            }
        }
        self.look_at_clock(now)
    }

    pub(super) fn cluster_status(&self) -> Option<ClusterStatus> {
        let waits = self.waits.as_ref().map(Wait::reason);
        let current = self.repository.as_ref().and_then(RepositoryNode::configuration);
        let formats = FormatsStatus {
            level: self.repository.as_ref().map(RepositoryNode::format_level).unwrap_or_default(),
            newest: ReleaseFormats::own().newest(),
        };
        self.cluster.as_ref().map(|cluster| ClusterStatus {
            waits,
            configuration: standing(&self.config, cluster.id(), current),
            formats,
            ..cluster.status()
        })
    }

    /// No version that was shown is greater, and no life's microseconds are.
    pub(super) fn numbers_used(&self) -> u64 {
        let shown = self.cluster.as_ref().map_or(0, ClusterNode::version);
        self.table.numbers_used().max(shown)
    }

    pub(super) fn requested(
        &mut self,
        mut request: Request,
        reply: mpsc::Sender<Answer>,
        asker: Asker,
    ) -> Step {
        let refuse = |reason: String| {
            // Whoever asked may have gone.
            let _ = reply.try_send(Answer::Refused { reason });
            Step::Going
        };
        if asker == Asker::Node && !is_for_others(&request) {
            return refuse("another node does not ask for that".to_owned());
        }
        if let Some(name) = process_of(&mut request)
            && name.as_str().contains('@')
        {
            let addressed = self.cluster.as_ref().and_then(|cluster| cluster.addressed(name));
            match (addressed, &mut self.cluster) {
                (Some(Ok((number, plain))), Some(cluster)) => {
                    *name = plain;
                    if number != cluster.number() {
                        match asker {
                            Asker::Command => cluster.pass_on(number, request, reply),
                            Asker::Node => return refuse("that is for another node".to_owned()),
                        }
                        return Step::Going;
                    }
                }
                (Some(Err(reason)), _) => return refuse(reason),
                (None, _) | (Some(Ok(_)), None) => {
                    return refuse(format!(
                        "{name} names another node, and this one is in no cluster; see outlast cluster create"
                    ));
                }
            }
        }
        if let (Some(wait), Some(_)) = (&self.waits, process_of(&mut request)) {
            return refuse(wait.reason());
        }
        if is_for_coordinator(&request)
            && let Some(cluster) = &mut self.cluster
            && !cluster.coordinates()
        {
            return match asker {
                Asker::Command => {
                    cluster.pass_on(cluster.coordinator(), request, reply);
                    Step::Going
                }
                Asker::Node => refuse("two nodes do not agree who decides; try again".to_owned()),
            };
        }
        match &self.repository {
            Some(repository)
                if repository.shares_applications() && is_for_sharing(&request, asker) =>
            {
                repository.ask(request, reply);
                Step::Going
            }
            Some(_) | None => self.carry_out_request(request, reply),
        }
    }

    /// On this node, by this node.
    pub(super) fn carry_out_request(
        &mut self,
        request: Request,
        reply: mpsc::Sender<Answer>,
    ) -> Step {
        // Whoever asked may have gone before the answer, here and below.
        match request {
            Request::Keys => {
                let _ = reply.try_send(Answer::Keys(self.keys.status()));
            }
            Request::RotateKeys => self.keys.rotate(Instant::now(), Some(reply)),
            Request::Applications => {
                let _ = reply.try_send(Answer::Applications(self.applications.status()));
            }
            Request::NodeApplications => {
                let _ = reply.try_send(Answer::NodeApplications(self.node_applications()));
            }
            Request::ClusterApplications => self.ask_all_of_applications(reply),
            Request::AppTake { .. } | Request::AppFollow { .. } => {
                let reason =
                    "this node shares no applications with others yet; try again in a moment";
                let _ = reply.try_send(Answer::Refused { reason: reason.to_owned() });
            }
            Request::ClusterOpen => {
                let _ = reply.try_send(self.reopen_cluster());
            }
            Request::ClusterDiscover => {
                let _ = reply.try_send(self.discover_anew());
            }
            Request::ClusterJoin { name, address, repository, newest_format } => {
                match &mut self.cluster {
                    Some(cluster) => {
                        match admitting(self.repository.as_ref(), repository, newest_format) {
                            Ok(list) => {
                                let keys = self.keys.ring();
                                let stores = self.shared_state.as_ref().map(|it| it.list().clone());
                                cluster.admit(name.as_deref(), address, keys, list, stores, reply);
                            }
                            Err(reason) => {
                                let _ = reply.try_send(Answer::Refused { reason });
                            }
                        }
                    }
                    None => {
                        let _ = reply.try_send(in_no_cluster());
                    }
                }
            }
            Request::RepositoryHasAccounts => self.repository_has_accounts(reply),
            Request::RepositoryLeave => match &self.repository {
                Some(repository) => repository.leave(reply),
                None => {
                    let _ = reply.try_send(Answer::Done);
                }
            },
            Request::StoresLeave => return self.stores_leave(reply),
            Request::ClusterRemove { node, is_leaving } => {
                match &mut self.cluster {
                    Some(cluster) => cluster.remove(&node, is_leaving, reply),
                    None => {
                        let _ = reply.try_send(in_no_cluster());
                    }
                }
                self.show_view();
            }
            request => {
                self.ticket_last += 1;
                let ticket = Ticket(self.ticket_last);
                self.replies.insert(ticket, reply);
                return match applications::request(&request) {
                    None => self.handle(Event::Requested { ticket, request }),
                    Some(request) => {
                        let now = Instant::now();
                        let answers = self
                            .applications
                            .handle(|all, effects| all.requested(ticket, request, now, effects));
                        self.answer_all(answers)
                    }
                };
            }
        }
        if let Some(cluster) = &self.cluster {
            self.keys.lead(cluster.coordinates());
        }
        self.show_view();
        Step::Going
    }

    /// What `outlast topology discover` has written holds from now on.
    fn discover_anew(&mut self) -> Answer {
        let Some(cluster) = &self.cluster else { return in_no_cluster() };
        let path = self.directory.path();
        match config::of_node(path).map(|file| file.config.cluster) {
            Ok(Some(settings)) => {
                cluster.discover(&settings);
                let address = cluster.address();
                self.cluster_settings = Some(config::ClusterSettings { address, ..settings });
                Answer::Done
            }
            Ok(None) => {
                let reason = format!("{}/{} has no [cluster]", path.display(), config::FILE_NAME);
                Answer::Refused { reason }
            }
            Err(error) => Answer::Refused { reason: error.to_string() },
        }
    }

    fn reopen_cluster(&mut self) -> Answer {
        let known = self.known_members();
        match self.open_cluster(known) {
            Ok(()) => {
                let number = self.cluster.as_ref().map(ClusterNode::number);
                if number.is_some_and(|number| number != self.table.number()) {
                    self.cluster = None;
                    let reason = "the node's processes are of another number; stop the node and start it again";
                    return Answer::Refused { reason: reason.to_owned() };
                }
                info!(is_member = self.cluster.is_some(), "looked at the cluster's files again");
                self.follow_servers()
            }
            Err(error) => Answer::Refused { reason: error.to_string() },
        }
    }
}

/// Where a node that is admitted finds the accounts, whose file has that one run the repository.
///
/// # Errors
/// They are not where it could find them yet, or it would look for them elsewhere.
fn admitting(
    repository: Option<&RepositoryNode>,
    named: RunBy,
    newest_format: FormatLevel,
) -> Result<Option<RepositoryList>, String> {
    let cluster = repository.map(RepositoryNode::run_by).unwrap_or_default();
    if let Some(mismatch) = Mismatch::between(cluster, named) {
        return Err(mismatch.advice().to_owned());
    }
    let level = repository.map(RepositoryNode::format_level).unwrap_or_default();
    ReleaseFormats::up_to(newest_format).fits(level).map_err(|apart| apart.to_string())?;
    match repository.map(RepositoryNode::list) {
        None => Ok(None),
        Some(Some(list)) => Ok(Some(list.clone())),
        Some(None) => Err("the accounts of the cluster's first node are not in its repository yet; try again in a moment".to_owned()),
    }
}

fn in_no_cluster() -> Answer {
    let reason = "this node is in no cluster; see outlast cluster create".to_owned();
    Answer::Refused { reason }
}

/// The process that a request is for.
fn process_of(request: &mut Request) -> Option<&mut ProcessName> {
    match request {
        Request::Start { name }
        | Request::Stop { name }
        | Request::Restart { name }
        | Request::Drain { name, .. } => Some(name),
        #[cfg(feature = "faults")]
        Request::Fault { name, .. } => Some(name),
        Request::Status
        | Request::Keys
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
        | Request::ClusterDiscover
        | Request::ClusterJoin { .. }
        | Request::RepositoryHasAccounts
        | Request::RepositoryLeave
        | Request::StoresLeave
        | Request::ClusterRemove { .. } => None,
    }
}

/// What the living member with the lowest number does, for all.
fn is_for_coordinator(request: &Request) -> bool {
    matches!(
        request,
        Request::RotateKeys | Request::ClusterJoin { .. } | Request::ClusterRemove { .. }
    )
}

/// What one node may ask of another.
fn is_for_others(request: &Request) -> bool {
    process_of(&mut request.clone()).is_some()
        || is_for_coordinator(request)
        || may_be_asked(request)
}
