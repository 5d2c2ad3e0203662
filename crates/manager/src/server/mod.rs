//! The manager's I/O: the loop that carries out what [`crate::process_table`] decides.
//!
//! One task owns the table; connections, watched children, signals and the clock send it what
//! happened. Order of a start: lock, directories, listening sockets (so that a taken port is told
//! before anything runs), keys, the manager's socket, then the processes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use config::NodeConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use topology::HeartbeatSettings;
use topology::protocol::{
    Answer, ClockStatus, Command, FromManager, Request, Welcome, encode_line,
};
use topology::view::{EdgeAddress, Incarnation, ProcessName, ProcessType, TopologyView};
use tracing::{error, info, warn};

use crate::process_table::{Effect, Event, Limits, ProcessSpec, ProcessTable, Ticket};
use crate::restart::RestartPolicy;

mod child;
mod connection;
mod directory;
mod keys;
mod listeners;
mod up_error;

use child::RunningChild;
use connection::Admitted;
use directory::NodeDirectory;
use keys::Keys;
use listeners::EdgeListeners;
pub use up_error::UpError;

/// What happened, from every source; senders wait when the loop is this far behind.
const INPUTS_MAX: usize = 256;

/// Commands that wait for one child. More are dropped: the child does not read, its deadline ends it.
const COMMANDS_MAX: usize = 8;

/// How long the children of a killed manager may take to end.
const ORPHANS_END_AFTER: Duration = Duration::from_secs(3);

/// How often a port that they hold is tried again.
const BIND_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What a node is run with.
pub struct Options {
    /// The node's directory; created if it is missing.
    pub directory: PathBuf,
    /// The effective configuration.
    pub config: NodeConfig,
    /// Delays between restarts.
    pub restart: RestartPolicy,
    /// The command line of a child. Its standard streams and process group are the manager's affair.
    pub child: Box<dyn Fn(&ChildStart) -> Program>,
    /// With the node's directory, locked and before any process starts; an error is the end.
    pub before_start: Hook,
    /// With the node's directory, still locked, after an orderly stop.
    pub after_stop: Hook,
}

/// What somebody else does at a moment of the node's life.
pub type Hook = Box<dyn FnOnce(&Path) -> Result<(), HookError>>;

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

/// What the operator is told once everything serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// The node's name.
    pub node: String,
    /// Each edge with its addresses as configured, the real ports filled in: `udp:ADDR:PORT`, `tcp:ADDR:PORT`.
    pub edges: Vec<(String, Vec<String>)>,
}

/// Something that the loop reacts to.
enum Input {
    /// A child says hello; the reply is its welcome or why it gets none.
    Hello {
        name: ProcessName,
        pid: u32,
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
    Exited {
        name: ProcessName,
        incarnation: Incarnation,
    },
}

/// Runs a node until it is told to stop (SIGTERM, SIGINT, SIGHUP; a second signal kills what still lives).
///
/// # Errors
/// [`UpError`] when the node cannot start; once it has started, only when the system fails the manager itself.
pub async fn run(mut options: Options, on_serving: impl FnOnce(&Serving)) -> Result<(), UpError> {
    let directory = NodeDirectory::open(&options.directory, &process_names(&options.config))?;
    raise_descriptor_limit();
    let edges = bind_listeners(&directory, &options.config).await?;
    let keys = Keys::open(directory.keys(), options.config.keys.rotate_every)?;
    let before_start = std::mem::replace(&mut options.before_start, Box::new(|_| Ok(())));
    before_start(directory.path()).map_err(UpError::Hook)?;
    let after_stop = std::mem::replace(&mut options.after_stop, Box::new(|_| Ok(())));
    let mut signals = Signals::new()?;
    let (inputs, mut received) = mpsc::channel(INPUTS_MAX);
    connection::listen(&directory.socket(), inputs.clone())?;

    let mut manager = Manager::new(options, directory, edges, keys, inputs)?;
    let mut on_serving = Some(on_serving);
    let mut step = manager.handle(Event::NodeStarts);
    loop {
        match step {
            Step::Going => {}
            Step::Serving => {
                if let Some(on_serving) = on_serving.take() {
                    on_serving(&manager.serving());
                }
            }
            Step::Ended => break,
        }
        let deadline = manager.next_deadline();
        step = tokio::select! {
            input = received.recv() => match input {
                Some(input) => manager.receive(input),
                None => unreachable!("the manager holds a sender"),
            },
            name = signals.next() => {
                info!(signal = name, "stopping");
                manager.handle(Event::NodeStops)
            }
            () = tokio::time::sleep_until(deadline.into()) => manager.look(&mut received).await,
        };
    }
    after_stop(manager.directory.path()).map_err(UpError::Hook)?;
    manager.directory.remove_socket();
    info!("stopped");
    Ok(())
}

/// Binds the listening sockets. Children of a manager that was killed end by themselves, but may hold their
/// sockets a moment longer: a taken port is tried again for as long as that may be.
async fn bind_listeners(
    directory: &NodeDirectory,
    config: &NodeConfig,
) -> Result<Vec<EdgeListeners>, UpError> {
    let patience = if directory.was_left_in_a_hurry() { ORPHANS_END_AFTER } else { Duration::ZERO };
    let give_up = Instant::now() + patience;
    loop {
        match listeners::bind_all(config) {
            Err(UpError::AddressInUse { .. }) if Instant::now() < give_up => {
                tokio::time::sleep(BIND_AGAIN_AFTER).await;
            }
            bound => return bound,
        }
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

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Going,
    Serving,
    Ended,
}

struct Manager {
    table: ProcessTable,
    directory: NodeDirectory,
    child: Box<dyn Fn(&ChildStart) -> Program>,
    settings: serde_json::Value,
    keys: Keys,
    /// The last step of the machine's clock.
    clock: Option<ClockStatus>,
    edges: HashMap<ProcessName, EdgeListeners>,
    edge_order: Vec<ProcessName>,
    /// The present life of each process that has one.
    children: HashMap<ProcessName, RunningChild>,
    /// To the connection of each child that was welcomed.
    commands: HashMap<ProcessName, mpsc::Sender<Command>>,
    /// The view as the line that every child is sent.
    views: watch::Sender<Arc<Vec<u8>>>,
    replies: HashMap<Ticket, mpsc::Sender<Answer>>,
    ticket_last: u64,
    inputs: mpsc::Sender<Input>,
}

impl Manager {
    fn new(
        options: Options,
        directory: NodeDirectory,
        edges: Vec<EdgeListeners>,
        keys: Keys,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Manager, UpError> {
        let config = &options.config;
        let container = |name: String| ProcessSpec {
            link: Some(directory.link(&name)),
            name: ProcessName(name),
            process_type: ProcessType::Container,
            addresses: Vec::new(),
        };
        let edge = |edge: &EdgeListeners| ProcessSpec {
            name: edge.name.clone(),
            process_type: ProcessType::Edge,
            link: None,
            addresses: edge.addresses(),
        };
        let specs = config.container_names().map(container).chain(edges.iter().map(edge)).collect();
        let limits = Limits {
            restart: options.restart,
            drain: config.container.drain_timeout,
            heartbeat: HeartbeatSettings {
                interval: config.heartbeat.interval,
                allowed_miss_count: config.heartbeat.allowed_miss_count,
            },
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let floor = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX / 2);
        let table = ProcessTable::new(config.node.name.clone(), specs, limits, floor);
        let settings = serde_json::to_value(config).map_err(UpError::Settings)?;
        Ok(Manager {
            views: watch::Sender::new(view_line(table.view())),
            table,
            directory,
            child: options.child,
            settings,
            keys,
            clock: None,
            edge_order: edges.iter().map(|edge| edge.name.clone()).collect(),
            edges: edges.into_iter().map(|edge| (edge.name.clone(), edge)).collect(),
            children: HashMap::new(),
            commands: HashMap::new(),
            replies: HashMap::new(),
            ticket_last: 0,
            inputs,
        })
    }

    fn serving(&self) -> Serving {
        let edge = |name: &ProcessName| {
            let listeners = self.edges.get(name)?;
            Some((name.to_string(), listeners.as_configured().to_vec()))
        };
        Serving {
            node: self.table.view().node,
            edges: self.edge_order.iter().filter_map(edge).collect(),
        }
    }

    fn receive(&mut self, input: Input) -> Step {
        match input {
            Input::Hello { name, pid, reply } => {
                let admitted = self.admit(&name, pid);
                if let Err(reason) = &admitted {
                    warn!(%name, pid, reason, "refused a child");
                }
                // A connection that is gone already needs no welcome.
                let _ = reply.send(admitted);
                Step::Going
            }
            Input::Told(event) => {
                if let Event::Ready { name, incarnation } = &event {
                    info!(%name, %incarnation, "ready");
                }
                self.handle(event)
            }
            Input::Exited { name, incarnation } => {
                self.children.remove(&name);
                self.commands.remove(&name);
                self.handle(Event::Exited { name, incarnation })
            }
            Input::ClockStepped(clock) => {
                warn!(
                    stepped_by_ms = clock.stepped_by_ms,
                    "the machine's clock was stepped: no lifetime ends for a minute"
                );
                self.clock = Some(clock);
                Step::Going
            }
            Input::Request { request: Request::Keys, reply } => {
                let _ = reply.try_send(Answer::Keys(self.keys.status()));
                Step::Going
            }
            Input::Request { request: Request::RotateKeys, reply } => {
                self.keys.rotate(Instant::now(), Some(reply));
                Step::Going
            }
            Input::Request { request, reply } => {
                self.ticket_last += 1;
                let ticket = Ticket(self.ticket_last);
                self.replies.insert(ticket, reply);
                self.handle(Event::Requested { ticket, request })
            }
        }
    }

    /// The welcome of a child that this manager started, and no other process.
    fn admit(&mut self, name: &ProcessName, pid: u32) -> Result<Admitted, String> {
        let incarnation = self
            .table
            .expects(name, pid)
            .ok_or_else(|| format!("process {pid} is not the {name} that was started"))?;
        let mut sockets = Vec::new();
        let mut descriptors = Vec::new();
        if let Some(edge) = self.edges.get(name) {
            (sockets, descriptors) = edge
                .to_pass()
                .map_err(|error| format!("its sockets cannot be duplicated: {error}"))?;
        }
        let view = self.table.view();
        let link = view.process(name).and_then(|process| process.link.clone());
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        self.commands.insert(name.clone(), commands);
        Ok(Admitted {
            incarnation,
            welcome: Welcome {
                node: view.node.clone(),
                directory: self.directory.path().to_owned(),
                incarnation,
                settings: self.settings.clone(),
                keys: self.keys.ring(),
                link,
                sockets,
                view,
            },
            descriptors,
            views: self.views.subscribe(),
            keys: self.keys.subscribe(),
            commands: received,
        })
    }

    fn next_deadline(&self) -> Instant {
        let keys = self.keys.next_deadline();
        self.table.next_deadline().map_or(keys, |table| table.min(keys))
    }

    /// Looks at the clock, but first at what waits to be read: a sign of life among it counts.
    async fn look(&mut self, received: &mut mpsc::Receiver<Input>) -> Step {
        // The connections' tasks read, should nobody have run for a while.
        tokio::task::yield_now().await;
        for _ in 0..INPUTS_MAX {
            let Ok(input) = received.try_recv() else { break };
            let step = self.receive(input);
            if step != Step::Going {
                return step;
            }
        }
        self.keys.tick(Instant::now());
        let mut effects = Vec::new();
        self.table.tick(Instant::now(), &mut effects);
        self.carry_out(effects)
    }

    fn handle(&mut self, event: Event) -> Step {
        let mut effects = Vec::new();
        self.table.handle(event, Instant::now(), &mut effects);
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Step {
        let mut step = Step::Going;
        let mut outcomes = Vec::new();
        for effect in effects {
            match effect {
                Effect::Publish => {
                    let view = self.table.view();
                    self.close_listeners_of_stopped_edges(&view);
                    self.views.send_replace(view_line(view));
                }
                Effect::Spawn { name, incarnation } => outcomes.push(self.spawn(name, incarnation)),
                Effect::Tell { name, command } => self.tell(&name, command),
                Effect::Kill { name, pid, reason } => {
                    warn!(%name, pid, %reason, "killing");
                    if let Some(child) = self.children.get_mut(&name) {
                        child.kill();
                    }
                }
                Effect::Answer { ticket, answer } => self.answer(ticket, answer),
                Effect::Serving => step = Step::Serving,
                Effect::Ended => step = Step::Ended,
            }
        }
        for outcome in outcomes {
            // Of a spawn, successful or not: never serving and never ended.
            self.handle(outcome);
        }
        step
    }

    fn answer(&mut self, ticket: Ticket, mut answer: Answer) {
        if let Answer::Status(status) = &mut answer {
            status.clock = self.clock;
        }
        if let Answer::Progress { .. } = answer {
            // Progress that is not read in time is of no use, and leaves room for the outcome.
            if let Some(reply) = self.replies.get(&ticket).filter(|reply| reply.capacity() > 1) {
                let _ = reply.try_send(answer);
            }
        } else if let Some(reply) = self.replies.remove(&ticket) {
            // Whoever asked may have gone.
            let _ = reply.try_send(answer);
        }
    }

    fn spawn(&mut self, name: ProcessName, incarnation: Incarnation) -> Event {
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
        if let Some(edge) = self.edges.get_mut(name) {
            edge.reopen()?;
        }
        let start =
            ChildStart { name: name.clone(), process_type, socket: self.directory.socket() };
        let program = (self.child)(&start);
        let log = self.directory.log(name.as_str());
        let child = child::spawn(program, &log, name.clone(), incarnation, self.inputs.clone())
            .map_err(|source| UpError::Spawn { name: name.clone(), source })?;
        let pid = child.pid();
        self.children.insert(name.clone(), child);
        Ok(pid)
    }

    fn tell(&self, name: &ProcessName, command: Command) {
        info!(%name, ?command, "told");
        let told = self.commands.get(name).map(|commands| commands.try_send(command));
        if !matches!(told, Some(Ok(()))) {
            warn!(%name, "does not listen to commands; its deadline will end it");
        }
    }

    /// A listening socket that nobody reads would let phones connect and wait for nothing. After a
    /// death it stays open, that is how no datagram is lost; after a stop by hand it is closed.
    fn close_listeners_of_stopped_edges(&mut self, view: &TopologyView) {
        for process in view.edges() {
            if process.state == topology::ProcessState::Down
                && let Some(edge) = self.edges.get_mut(&process.name)
            {
                edge.close();
            }
        }
    }
}

fn view_line(view: TopologyView) -> Arc<Vec<u8>> {
    Arc::new(encode_line(&FromManager::View(view)))
}

impl EdgeListeners {
    fn addresses(&self) -> Vec<EdgeAddress> {
        self.bound()
            .map(|(transport, own, public)| EdgeAddress {
                transport,
                own,
                public: public.to_owned(),
            })
            .collect()
    }
}

/// The path of the manager's socket in a node's directory.
pub fn socket_path(directory: &Path) -> PathBuf {
    directory.join("run").join("manager.sock")
}
