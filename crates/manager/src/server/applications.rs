//! The deployed applications, as the manager's loop has them: what [`crate::deployment`] decides, carried out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use topology::protocol::{
    Answer, ApplicationStatus, ApplicationTable, FromManager, Request, encode_line,
};
use topology::view::{ProcessEntry, ProcessName, ProcessState, ProcessType, TopologyView};

use super::applications_directory::ApplicationsDirectory;
use super::{Input, UpError, http_health};
use crate::deployment::{self, Deployment, Effect};
use crate::process_table::Ticket;

/// The deployment and where it goes.
pub(super) struct Applications {
    deployment: Deployment,
    directory: ApplicationsDirectory,
    /// To each container its table, as the line that it is sent when that changes.
    lines: HashMap<ProcessName, watch::Sender<Arc<Vec<u8>>>>,
    /// Never changes.
    nothing: watch::Sender<Arc<Vec<u8>>>,
    /// Where the containers serve HTTP.
    http: HashMap<ProcessName, SocketAddr>,
    inputs: mpsc::Sender<Input>,
}

/// What somebody is to be answered.
pub(super) type Answers = Vec<(Ticket, Answer)>;

impl Applications {
    /// Goes on with what is deployed.
    pub(super) fn open(
        directory: ApplicationsDirectory,
        floor: u64,
        unused_kept: Duration,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Applications, UpError> {
        let deployment = Deployment::new(directory.open()?, floor, unused_kept);
        let nothing = watch::Sender::new(Arc::new(Vec::new()));
        let (lines, http) = (HashMap::new(), HashMap::new());
        Ok(Applications { deployment, directory, lines, nothing, http, inputs })
    }

    /// What a child that is welcomed shall have loaded, and where it hears of changes.
    pub(super) fn welcome(
        &mut self,
        name: &ProcessName,
        process_type: ProcessType,
    ) -> (ApplicationTable, watch::Receiver<Arc<Vec<u8>>>) {
        if process_type != ProcessType::Container {
            // It hears of none, and never of a change.
            let nothing = self.nothing.subscribe();
            return (ApplicationTable::default(), nothing);
        }
        let table = self.deployment.table_of(name);
        let line =
            self.lines.entry(name.clone()).or_insert_with(|| watch::Sender::new(line(&table)));
        (table, line.subscribe())
    }

    pub(super) fn status(&self) -> Vec<ApplicationStatus> {
        self.deployment.status()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deployment.next_deadline()
    }

    /// Something happened.
    pub(super) fn handle(
        &mut self,
        event: impl FnOnce(&mut Deployment, &mut Vec<Effect>),
    ) -> Answers {
        let mut effects = Vec::new();
        event(&mut self.deployment, &mut effects);
        let mut answers = Vec::new();
        for effect in effects {
            match effect {
                Effect::Work(work) => {
                    let (directory, inputs) = (self.directory.clone(), self.inputs.clone());
                    tokio::task::spawn_blocking(move || {
                        let worked = directory.work(work);
                        // A manager that has ended meanwhile needs no outcome.
                        let _ = inputs.blocking_send(Input::ApplicationsWorked(worked));
                    });
                }
                Effect::Push => self.push(),
                Effect::Ask { container, health } => {
                    let (address, inputs) =
                        (self.http.get(&container).copied(), self.inputs.clone());
                    tokio::spawn(async move {
                        let outcome = http_health::ask(address, &health).await;
                        // As above.
                        let _ = inputs.send(Input::ApplicationAsked(container, outcome)).await;
                    });
                }
                Effect::Answer { ticket, answer } => answers.push((ticket, answer)),
            }
        }
        answers
    }

    /// The processes have changed.
    pub(super) fn view(&mut self, view: &TopologyView) -> Answers {
        let is_container = |process: &&ProcessEntry| process.process_type == ProcessType::Container;
        let containers = || view.processes.iter().filter(is_container);
        let is_ready = |process: &&ProcessEntry| process.state == ProcessState::Ready;
        let ready = containers().filter(is_ready).map(|one| one.name.clone()).collect();
        let all_serve = containers().all(|process| match process.state {
            ProcessState::Ready | ProcessState::Backoff | ProcessState::Down => true,
            ProcessState::Starting
            | ProcessState::Draining
            | ProcessState::Hung
            | ProcessState::Stopping => false,
        });
        self.http = containers().filter_map(|one| Some((one.name.clone(), one.http?))).collect();
        let now = Instant::now();
        self.handle(|deployment, effects| deployment.containers(&ready, all_serve, now, effects))
    }

    fn push(&mut self) {
        for (name, sender) in &self.lines {
            sender.send_replace(line(&self.deployment.table_of(name)));
        }
    }
}

/// What a command asks of applications; `None`: it asks for something else.
pub(super) fn request(request: &Request) -> Option<deployment::Request> {
    Some(match request.clone() {
        Request::AppDeploy { staged, pace } => deployment::Request::Deploy { staged, pace },
        Request::AppSwitch { name, version, pace } => {
            deployment::Request::Switch { name, version, pace }
        }
        Request::AppRemove { name, version } => deployment::Request::Remove { name, version },
        Request::AppRetire { name } => deployment::Request::Retire { name },
        Request::AppHold { name } => deployment::Request::Hold { name },
        Request::AppRelease { name } => deployment::Request::Release { name },
        Request::Status
        | Request::Start { .. }
        | Request::Stop { .. }
        | Request::Restart { .. }
        | Request::Drain { .. }
        | Request::Keys
        | Request::RotateKeys
        | Request::Applications
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
        | Request::ClusterRemove { .. } => return None,
        #[cfg(feature = "faults")]
        Request::Fault { .. } => return None,
    })
}

fn line(table: &ApplicationTable) -> Arc<Vec<u8>> {
    Arc::new(encode_line(&FromManager::Applications(table.clone())))
}
