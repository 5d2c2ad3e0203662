//! The manager's I/O: the loop that carries out what [`crate::process_table`] decides.
//!
//! One task owns the table; connections, watched children, signals and the clock send it what
//! happened. Order of a node's start: listening sockets (so that a taken port is told before anything runs), keys,
//! the hook, the manager's socket, then the processes. A manager that follows another one opens its socket at once
//! and goes on with what is recorded: whatever lives comes back by itself, and only an edge that does not has its
//! ports tried.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::NodeConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use topology::NodeNumber;
use topology::keys::file::KeyFileError;
use topology::protocol::{Answer, ApplicationsReport, ClockStatus, Hello, Request, StoresReport};
use topology::view::{Incarnation, ProcessName, ProcessType};
use tracing::{error, info, warn};

use crate::deployment::Worked;
use crate::guardian::protocol::ToGuardian;
use crate::process_table::Event;

mod applications;
pub mod applications_directory;
mod child;
mod cluster_node;
mod connection;
mod directory;
pub mod founding;
mod gossiping;
mod guardian;
mod guardian_link;
mod http_health;
mod identity;
mod keys;
mod last_sight;
mod left_behind;
mod lines;
mod listeners;
mod lock_file;
mod lock_holder;
mod manager;
mod manager_lock;
mod noted;
mod operator_lines;
mod own_servers;
mod peers;
mod predecessor;
mod record;
mod repository;
mod servers;
mod starvation;
mod stores;
mod up_error;

use applications::Applications;
pub use applications_directory::ApplicationsDirectory;
use connection::Admitted;
use directory::NodeDirectory;
pub use directory::{Held, hold};
pub use guardian::{GuardOptions, guard};
use guardian_link::GuardianLink;
pub use guardian_link::{Guarded, GuardianError};
use keys::Keys;
pub use left_behind::{guardian_of, left_behind};
use listeners::EdgeListeners;
use manager::{First, Manager, Parts};
use manager_lock::ManagerLock;
pub use operator_lines::{OperatorLines, OperatorWriter};
pub use peers::admission::{JoinError, Joined, join};
use peers::connection::PeerInput;
use predecessor::Predecessor;
use repository::RepositoryInput;
pub use repository::{
    Mismatch, Prepare, RepositoryAccess, RepositoryAccessError, etcd, repository_access, run_by,
};
pub use stores::{are_installed as stores_are_installed, options as store_options};
pub use up_error::UpError;

/// What happened, from every source; senders wait when the loop is this far behind.
const INPUTS_MAX: usize = 256;

/// How long processes that no manager knows any more may take to end.
const ORPHANS_END_AFTER: Duration = Duration::from_secs(3);

/// How often a port that they hold is tried again.
const BIND_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What a manager is run with.
pub struct Options {
    /// The command line of a child. Its standard streams and process group are the manager's affair.
    pub child: Box<dyn Fn(&ChildStart) -> Program>,
    /// The command line of a process that makes the compiled code of a version of an application beside its component, in that
    /// directory.
    pub prepare: Prepare,
    /// With the node's directory, before any process starts and while none is left of an earlier manager; an error
    /// is the end.
    pub before_start: Hook,
    /// With the node's directory, after an orderly stop.
    pub after_stop: Hook,
    /// What the operator shall read.
    pub lines: OperatorLines,
}

/// What somebody else does at a moment of the node's life.
pub type Hook = Box<dyn FnOnce(&Path) -> Result<(), HookError> + Send>;

/// Why a hook failed.
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// What a child must be told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildStart {
    /// Its name.
    pub name: ProcessName,
    /// Edge or container.
    pub process_type: ProcessType,
    /// The manager's socket, where it gets everything else.
    pub socket: PathBuf,
}

/// Something that the loop reacts to.
enum Input {
    /// A child says hello; the reply is its welcome or why it gets none. The kernel's word for its process id.
    Hello {
        hello: Box<Hello>,
        pid: u32,
        descriptors: Vec<std::os::fd::OwnedFd>,
        reply: oneshot::Sender<Result<Admitted, String>>,
    },
    /// A child that was welcomed says something of itself or others.
    Told(Event),
    /// The reply takes progress first, when the request asks for it, and the outcome last.
    Request {
        request: Request,
        reply: mpsc::Sender<Answer>,
    },
    ClockStepped(ClockStatus),
    /// How a container sees the cluster's stores.
    StoresReported {
        name: ProcessName,
        report: StoresReport,
    },
    /// What became of a container's table of applications.
    Reported {
        name: ProcessName,
        report: ApplicationsReport,
    },
    /// What became of the files of an application.
    ApplicationsWorked(Worked),
    /// What a container said by HTTP of the version that it was upgraded to.
    ApplicationAsked(ProcessName, Result<(), String>),
    /// What became of the keys that were to be written.
    KeysWritten(Result<(), KeyFileError>),
    Exited {
        name: ProcessName,
        incarnation: Incarnation,
    },
    /// From or about another member of the cluster.
    Peer(PeerInput),
    /// So many stores beyond the usual ones are needed here.
    SparesWanted(u8),
    /// What became of the preparation of a server's next life.
    ServerPrepared {
        name: ProcessName,
        outcome: Result<(), String>,
    },
    /// What was asked of the cluster's applications, or follows from what others have.
    Shared {
        /// For that node; none: for this one alone.
        node: Option<NodeNumber>,
        request: Request,
        reply: mpsc::Sender<Answer>,
    },
    /// About the cluster's repository.
    Repository(RepositoryInput),
    /// The guardian's process id, while there is one.
    Guardian(Option<u32>),
    /// The node shall stop in order.
    Stop,
    /// The node shall stop at once.
    StopNow,
}

/// Runs a node until it is told to stop: by its guardian, or by a signal (SIGTERM, SIGINT, SIGHUP) when that has gone.
/// A guardian that goes is waited for; the node goes on meanwhile.
///
/// # Errors
/// [`UpError`] when the node cannot start; the guardian has been told.
pub async fn run(guarded: Guarded, options: Options) -> Result<(), UpError> {
    let Guarded { socket, welcome, descriptors, lines } = guarded;
    let directory = NodeDirectory::of_guardian_socket(&socket);
    // Before the record is read: another manager may still be writing it.
    let lock = match ManagerLock::take(&directory.manager_lock()).await {
        // Without a last word: the guardian looks who holds it, before it starts another manager.
        Ok(None) => {
            return Err(UpError::System(io::Error::other("somebody holds run/manager.lock")));
        }
        Ok(Some(lock)) => Ok(lock),
        Err(error) => Err(error),
    };
    // After the lock is taken: a guardian says who it is before it looks whether somebody has that lock. One that has
    // not said so yet will find this manager; one that has may have missed it and started another.
    if lock.is_ok() && !directory.is_guarded_by(welcome.guardian) {
        warn!(
            guardian = welcome.guardian,
            "another guardian took its place: leaving the node to that one"
        );
        return Ok(());
    }
    let predecessor = Predecessor::find(&directory);
    let has_survivors = predecessor.has_survivors();
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    let link = Arc::new(GuardianLink::start(
        socket,
        lines,
        predecessor.settings(&welcome.settings),
        options.lines.receiver,
        inputs.clone(),
    ));
    let node = Node {
        directory,
        predecessor,
        kept: EdgeListeners::restore(&welcome.edges, descriptors),
        guardian: Some(welcome.guardian),
        is_stopping: welcome.stopping,
        child: options.child,
        prepare: options.prepare,
        link: Arc::clone(&link),
        inputs,
        received,
        is_listening: false,
    };
    let ran = match lock {
        Ok(_lock) => node.run(options.before_start, options.after_stop).await,
        Err(error) => Err(UpError::System(error)),
    };
    match &ran {
        Ok(()) => link.farewell(ToGuardian::Ended).await,
        // The next manager may have more luck, and somebody has to look after them.
        Err(error) if has_survivors => {
            error!(%error, "leaving processes that live to another manager")
        }
        Err(error) => link.farewell(ToGuardian::Failed { reason: error.to_string() }).await,
    }
    ran
}

/// A node that is about to run.
struct Node {
    directory: NodeDirectory,
    predecessor: Predecessor,
    /// The listening sockets that the guardian kept from an earlier manager.
    kept: Vec<EdgeListeners>,
    guardian: Option<u32>,
    is_stopping: bool,
    child: Box<dyn Fn(&ChildStart) -> Program>,
    prepare: Prepare,
    link: Arc<GuardianLink>,
    inputs: mpsc::Sender<Input>,
    received: mpsc::Receiver<Input>,
    is_listening: bool,
}

impl Node {
    async fn run(mut self, before_start: Hook, after_stop: Hook) -> Result<(), UpError> {
        let settings = self.link.settings().clone();
        let config: NodeConfig = serde_json::from_value(settings).map_err(UpError::Settings)?;
        let mut signals = Signals::new()?;
        if !self.predecessor.has_survivors() && self.is_stopping {
            return self.conclude(after_stop).await;
        }
        let edges = self.listeners(&config).await?;
        let keys = Keys::open(self.directory.keys(), config.keys.rotate_every)?;
        let applications = ApplicationsDirectory::of_node(self.directory.path());
        let floor = manager::unix_micros();
        let kept = config.container.old_versions_kept;
        let applications = Applications::open(applications, floor, kept, self.inputs.clone())?;
        if self.predecessor.has_survivors() {
            info!("going on where another manager was");
        } else if self.before_start(before_start).await? == Wish::Stop {
            return Ok(());
        }
        self.listen()?;
        let directory = self.directory.clone();
        let link = Arc::clone(&self.link);
        let first = if self.is_stopping { First::Stop } else { First::Start };
        let parts = Parts {
            config,
            child: self.child,
            prepare: self.prepare,
            directory: self.directory,
            edges,
            keys,
            applications,
            link: self.link,
            guardian: self.guardian,
            predecessor: self.predecessor,
            inputs: self.inputs,
        };
        Manager::new(parts)?.manage(first, &mut self.received, &mut signals).await;
        end(&directory, &link, after_stop).await
    }

    /// Goes on with a stop that nobody is left of. Somebody may have written, if there was a manager at all.
    async fn conclude(self, after_stop: Hook) -> Result<(), UpError> {
        if self.predecessor.is_known() {
            end(&self.directory, &self.link, after_stop).await?;
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<(), UpError> {
        if !self.is_listening {
            connection::listen(&self.directory.socket(), self.inputs.clone())?;
            self.is_listening = true;
        }
        Ok(())
    }

    /// Those that the guardian kept; else those that the edges which live will bring; else new ones.
    async fn listeners(&mut self, config: &NodeConfig) -> Result<Vec<EdgeListeners>, UpError> {
        if !self.kept.is_empty() {
            return Ok(std::mem::take(&mut self.kept));
        }
        if self.predecessor.has_survivors() {
            return Ok(EdgeListeners::restore(self.predecessor.edges(), Vec::new()));
        }
        let mut give_up = Instant::now();
        if self.directory.was_left_in_a_hurry() {
            // Whoever lives without being known is told so and ends, but holds its sockets a moment longer.
            self.listen()?;
            give_up += ORPHANS_END_AFTER;
        }
        loop {
            match listeners::bind_all(config) {
                Err(UpError::AddressInUse { .. }) if Instant::now() < give_up => {
                    tokio::time::sleep(BIND_AGAIN_AFTER).await;
                    while let Ok(input) = self.received.try_recv() {
                        refuse(input);
                    }
                }
                bound => return bound,
            }
        }
    }

    /// What is done before anything runs may take long. A wish to stop does not wait for it: nothing runs yet.
    async fn before_start(&mut self, hook: Hook) -> Result<Wish, UpError> {
        let (sender, mut done) = oneshot::channel();
        let path = self.directory.path().to_owned();
        // A thread of its own, not one that the runtime waits for at its end.
        std::thread::Builder::new().name("before-start".to_owned()).spawn(move || {
            // Nobody waits any more after a wish to stop.
            let _ = sender.send(hook(&path));
        })?;
        loop {
            tokio::select! {
                outcome = &mut done => {
                    let outcome = outcome.unwrap_or_else(|_| Err("it panicked".into()));
                    return outcome.map(|()| Wish::Run).map_err(UpError::Hook);
                }
                input = self.received.recv() => match input {
                    Some(Input::Stop | Input::StopNow) => return Ok(Wish::Stop),
                    Some(Input::Guardian(pid)) => self.guardian = pid,
                    Some(input) => refuse(input),
                    None => unreachable!("the node holds a sender"),
                },
            }
        }
    }
}

/// Nobody runs any more.
async fn end(
    directory: &NodeDirectory,
    link: &GuardianLink,
    after_stop: Hook,
) -> Result<(), UpError> {
    link.farewell(ToGuardian::Ending).await;
    after_stop(directory.path()).map_err(UpError::Hook)?;
    directory.remove_record();
    directory.remove_socket();
    info!("stopped");
    Ok(())
}

/// What the operator wants meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
}

/// Nobody is known while the node is not up.
fn refuse(input: Input) {
    let reason = "this process is not known to the node".to_owned();
    match input {
        Input::Hello { reply, .. } => {
            // Whoever has gone needs no answer.
            let _ = reply.send(Err(reason));
        }
        Input::Request { reply, .. } | Input::Shared { reply, .. } => {
            let reason = "the node is starting; try again in a moment".to_owned();
            let _ = reply.try_send(Answer::Refused { reason });
        }
        Input::Told(_)
        | Input::ClockStepped(_)
        | Input::StoresReported { .. }
        | Input::Exited { .. }
        | Input::SparesWanted(_)
        | Input::ServerPrepared { .. }
        | Input::Repository(_)
        | Input::Guardian(_)
        | Input::Peer(_)
        | Input::Stop
        | Input::KeysWritten(_)
        | Input::Reported { .. }
        | Input::ApplicationsWorked(_)
        | Input::ApplicationAsked(..)
        | Input::StopNow => {}
    }
}

/// An edge needs a descriptor for each connection, and the usual limit of 1,024 is meant for `select`.
/// Children inherit it.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, descriptors = limit.current, "the limit of open descriptors stays as it is");
    }
}

fn process_names(config: &NodeConfig) -> Vec<String> {
    let edges = config.edge.instances.iter().map(|edge| edge.name.clone());
    config.container_names().chain(edges).collect()
}

/// The signals that stop a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Signals, UpError> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

/// The path of the manager's socket in a node's directory.
pub fn socket_path(directory: &Path) -> PathBuf {
    directory.join("run").join("manager.sock")
}
