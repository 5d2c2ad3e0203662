//! The guardian's I/O: the loop that carries out what [`crate::guardian`] decides.
//!
//! Order of a start: lock, directories, the guardian's socket, then the manager: the one that another guardian
//! left, or a new one. It reaps whatever the node's processes leave (as subreaper: a manager that dies leaves its
//! children to it), and knows none of them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::NodeConfig;
use rustix::process::{WaitOptions, wait};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use topology::protocol::encode_line;
use tracing::{debug, error, info, warn};

use super::child::spawn_detached;
use super::directory::{Held, NodeDirectory};
use super::identity::LivingProcess;
use super::last_sight::last_sight;
use super::lines::{LineError, Lines, open_socket};
use super::manager_lock::{Holder, ManagerLock};
use super::starvation::Starvation;
use super::{Signals, UpError, process_names, raise_descriptor_limit};
use crate::guardian::protocol::{
    EdgeSockets, FromGuardian, GuardianWelcome, ManagerHello, Running, Serving, ToGuardian,
};
use crate::guardian::{BEAT_INTERVAL, Effect, Event, Found, Guardian, Outcome};

/// What happened, from every source; senders wait when the loop is this far behind.
const INPUTS_MAX: usize = 256;

/// What waits to be written to the manager. More is dropped: it does not read, and will be killed for it.
const OUT_MAX: usize = 8;

/// Connections at one time: the manager's, and its next one after a broken one.
const CONNECTIONS_MAX: usize = 8;

/// Whoever connects says hello within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What a dead manager said last is read to its end, but not for longer than this.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node is guarded with.
pub struct GuardOptions {
    /// The effective configuration.
    pub config: NodeConfig,
    /// The command line of a manager, which is told the guardian's socket.
    pub manager: Box<dyn Fn(&Path) -> Program>,
    /// Told once, when every process is ready.
    pub on_serving: Box<dyn FnMut(&Serving)>,
    /// Told each line that the operator shall read.
    pub on_line: Box<dyn FnMut(&str)>,
}

/// Guards the node that is held until it is told to stop (SIGTERM, SIGINT, SIGHUP; a second signal kills what still lives).
///
/// # Errors
/// [`UpError`] when the node cannot come up.
pub async fn guard(held: Held, options: GuardOptions) -> Result<(), UpError> {
    let Held { directory, lock: _lock } = held;
    directory.check_sockets(&process_names(&options.config))?;
    raise_descriptor_limit();
    if let Err(error) = rustix::process::set_child_subreaper(rustix::process::getpid().into()) {
        warn!(%error, "processes of a manager that dies are left to the system");
    }
    let signals = Signals::new()?;
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    tokio::spawn(accept(open_socket(&directory.guardian_socket())?, inputs.clone()));
    let settings = serde_json::to_value(&options.config).map_err(UpError::Settings)?;
    let node = Node {
        guardian: Guardian::new(Instant::now()),
        manager: None,
        starvation: Starvation::default(),
        connection: None,
        gone: None,
        reaped: None,
        configured: settings.clone(),
        settings,
        edges: Vec::new(),
        descriptors: Vec::new(),
        serving: None,
        directory: directory.clone(),
        inputs,
        options,
    };
    let outcome = node.run(signals, received).await?;
    directory.remove_guardian_socket();
    match outcome {
        Outcome::Stopped => Ok(()),
        Outcome::Failed { reason } => Err(UpError::Manager(reason)),
    }
}

/// Something that the loop reacts to. Connections are counted from the first.
enum Input {
    Connected { connection: u64, pid: u32, hello: Box<Hello> },
    Said { connection: u64, message: ToGuardian, descriptors: Vec<OwnedFd> },
    Closed { connection: u64 },
    ManagerEnded { pid: u32 },
    Looked(io::Result<Holder>),
}

struct Hello {
    running: Option<Running>,
    descriptors: Vec<OwnedFd>,
    out: mpsc::Sender<Out>,
}

type Out = (FromGuardian, Vec<OwnedFd>);

struct Connection {
    number: u64,
    out: mpsc::Sender<Out>,
}

struct Node {
    guardian: Guardian,
    manager: Option<Arc<LivingProcess>>,
    starvation: Starvation,
    connection: Option<Connection>,
    /// When the manager ended, while its last words are read.
    gone: Option<Instant>,
    /// How it ended.
    reaped: Option<String>,
    /// The configuration that this guardian was started with.
    configured: serde_json::Value,
    /// The one that the node runs with.
    settings: serde_json::Value,
    /// What the manager handed over last.
    edges: Vec<EdgeSockets>,
    descriptors: Vec<OwnedFd>,
    serving: Option<Serving>,
    directory: NodeDirectory,
    inputs: mpsc::Sender<Input>,
    options: GuardOptions,
}

impl Node {
    async fn run(
        mut self,
        mut signals: Signals,
        mut received: mpsc::Receiver<Input>,
    ) -> Result<Outcome, UpError> {
        let mut children = signal(SignalKind::child())?;
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outcome = None;
        while outcome.is_none() {
            let next_start = self.guardian.next_start();
            outcome = tokio::select! {
                input = received.recv() => match input {
                    Some(input) => self.receive(input),
                    None => unreachable!("the node holds a sender"),
                },
                name = signals.next() => {
                    info!(signal = name, "stopping");
                    self.handle(Event::Signal)
                }
                _ = ended(&mut children) => {
                    self.reap();
                    None
                }
                _ = ticks.tick() => self.tick(&mut received).await,
                () = until(next_start) => self.tick(&mut received).await,
            };
        }
        Ok(outcome.unwrap_or(Outcome::Stopped))
    }

    /// Finds out beside the loop: of a holder that did not write who it is the kernel is asked after a while only.
    fn look(&self) {
        let (directory, inputs) = (self.directory.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let (lock, socket) = (directory.manager_lock(), directory.guardian_socket());
            let found = ManagerLock::holder(&lock, &socket).await;
            // The loop is gone: then so is the guardian.
            let _ = inputs.send(Input::Looked(found)).await;
        });
    }

    fn looked(&mut self, found: io::Result<Holder>) -> Option<Outcome> {
        let found = match found {
            Ok(Holder::Manager(living)) => {
                info!(pid = living.identity().pid, "a manager runs this node already: taking over");
                self.watch(living);
                Found::Manager
            }
            Ok(Holder::Nobody) => Found::Nobody,
            Ok(Holder::Stranger(who)) => {
                warn!("no manager can run: {who}");
                Found::Stranger { who }
            }
            Err(error) => {
                warn!(%error, "whether a manager runs already is not known");
                Found::Nobody
            }
        };
        self.handle(Event::Looked { found })
    }

    fn receive(&mut self, input: Input) -> Option<Outcome> {
        match input {
            Input::Connected { connection, pid, hello } => {
                if self.manager.as_ref().is_none_or(|manager| manager.identity().pid != pid) {
                    warn!(pid, "is not this node's manager; refused");
                    return None;
                }
                self.welcome(connection, *hello);
                self.handle(Event::Hello)
            }
            Input::Said { connection, message, descriptors } if self.is_current(connection) => {
                self.said(message, descriptors)
            }
            Input::Said { .. } => None,
            Input::Closed { connection } => {
                if self.is_current(connection) {
                    self.connection = None;
                }
                self.conclude_gone()
            }
            Input::ManagerEnded { pid } => {
                if self.manager.as_ref().is_none_or(|manager| manager.identity().pid != pid) {
                    return None;
                }
                self.reap();
                self.gone = Some(Instant::now());
                self.conclude_gone()
            }
            Input::Looked(found) => self.looked(found),
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.number == number)
    }

    fn welcome(&mut self, number: u64, hello: Hello) {
        let own_settings = self.settings.clone();
        let mut passed = Vec::new();
        if let Some(running) = hello.running {
            // What the processes that live were given; another manager of theirs must go on with it.
            self.settings = running.settings;
            self.edges = running.edges;
            self.descriptors = hello.descriptors;
        } else {
            match self.descriptors.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>() {
                Ok(duplicates) => passed = duplicates,
                Err(error) => error!(%error, "the listening sockets cannot be handed on"),
            }
        }
        let is_complete = passed.len() == self.descriptors.len() && !passed.is_empty();
        let welcome = GuardianWelcome {
            guardian: std::process::id(),
            settings: own_settings,
            stopping: self.guardian.is_stopping(),
            edges: if is_complete { self.edges.clone() } else { Vec::new() },
        };
        if !is_complete {
            passed.clear();
        }
        let connection = Connection { number, out: hello.out };
        // It has just begun, nothing waits in it.
        let _ = connection.out.try_send((FromGuardian::Welcome(welcome), passed));
        self.connection = Some(connection);
    }

    fn said(&mut self, message: ToGuardian, descriptors: Vec<OwnedFd>) -> Option<Outcome> {
        match message {
            ToGuardian::Keep { edges } => {
                self.edges = edges;
                self.descriptors = descriptors;
                None
            }
            ToGuardian::Beat => self.handle(Event::Beat),
            ToGuardian::Line(line) => {
                (self.options.on_line)(&line);
                None
            }
            ToGuardian::Serving(serving) => {
                self.serving = Some(serving);
                self.handle(Event::Serving)
            }
            ToGuardian::Ending => self.handle(Event::Ending),
            ToGuardian::Ended => {
                // Should another manager follow, it begins anew.
                self.settings = self.configured.clone();
                self.edges.clear();
                self.descriptors.clear();
                self.handle(Event::Ended)
            }
            ToGuardian::Failed { reason } => self.handle(Event::Failed { reason }),
            ToGuardian::Hello(_) => {
                warn!("the manager repeated itself; ignored");
                None
            }
        }
    }

    /// The manager's end counts when its last words have been read: they may say that it was in order.
    fn conclude_gone(&mut self) -> Option<Outcome> {
        let gone = self.gone?;
        if self.connection.is_some() && gone.elapsed() < LAST_WORDS_TIMEOUT {
            return None;
        }
        self.gone = None;
        self.connection = None;
        self.manager = None;
        let how = self.reaped.take().unwrap_or_else(|| "ended".to_owned());
        info!(how, "the manager has gone");
        self.handle(Event::Gone { how })
    }

    /// Looks at the clock, but first at what waits to be read: a beat among it counts.
    async fn tick(&mut self, received: &mut mpsc::Receiver<Input>) -> Option<Outcome> {
        // The connections' tasks read, should nobody have run for a while.
        tokio::task::yield_now().await;
        for _ in 0..INPUTS_MAX {
            let Ok(input) = received.try_recv() else { break };
            let outcome = self.receive(input);
            if outcome.is_some() {
                return outcome;
            }
        }
        let mut effects = Vec::new();
        let manager = self.manager.as_ref().map(|manager| manager.identity().pid);
        let starved = manager.map_or(Duration::ZERO, |pid| self.starvation.since_last(pid));
        self.guardian.tick(Instant::now(), starved, &mut effects);
        self.carry_out(effects).or_else(|| self.conclude_gone())
    }

    fn handle(&mut self, event: Event) -> Option<Outcome> {
        let mut effects = Vec::new();
        self.guardian.handle(event, Instant::now(), &mut effects);
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Outcome> {
        let mut outcome = None;
        for effect in effects {
            match effect {
                Effect::Look => self.look(),
                Effect::Spawn => outcome = self.spawn().or(outcome),
                Effect::Kill { reason } => {
                    if let Some(manager) = &self.manager {
                        let pid = manager.identity().pid;
                        warn!(pid, reason, seen = last_sight(pid), "killing the manager");
                        if let Err(error) = manager.kill() {
                            error!(pid, %error, "cannot be killed");
                        }
                    }
                }
                Effect::TellStop => self.tell(FromGuardian::Stop),
                Effect::TellStopNow => self.tell(FromGuardian::StopNow),
                Effect::ShowReady => {
                    if let Some(serving) = &self.serving {
                        (self.options.on_serving)(serving);
                    }
                }
                Effect::End(end) => outcome = Some(end),
            }
        }
        outcome
    }

    fn spawn(&mut self) -> Option<Outcome> {
        let program = (self.options.manager)(&self.directory.guardian_socket());
        match spawn_detached(program, &self.directory.log("manager")) {
            Ok(living) => {
                info!(pid = living.identity().pid, "started the manager");
                self.watch(living);
                None
            }
            Err(error) => {
                error!(%error, "the manager cannot be started");
                self.handle(Event::Gone { how: format!("could not be started: {error}") })
            }
        }
    }

    fn watch(&mut self, manager: LivingProcess) {
        let manager = Arc::new(manager);
        let (watched, inputs) = (Arc::clone(&manager), self.inputs.clone());
        tokio::spawn(async move {
            let pid = watched.identity().pid;
            if let Err(error) = watched.ended().await {
                error!(pid, %error, "the manager cannot be watched; taken for dead");
            }
            // The loop is gone: then so is the guardian.
            let _ = inputs.send(Input::ManagerEnded { pid }).await;
        });
        self.manager = Some(manager);
    }

    fn tell(&self, message: FromGuardian) {
        let told = self.connection.as_ref().map(|to| to.out.try_send((message, Vec::new())));
        if !matches!(told, Some(Ok(()))) {
            debug!("the manager is not connected; its next welcome says it");
        }
    }

    /// Waits for every child that has ended: the manager, and what a dead manager left.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            };
            if self.manager.as_ref().is_some_and(|manager| manager.identity().pid == pid) {
                self.reaped = Some(how);
            } else {
                debug!(pid, how, "reaped");
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn ended(children: &mut Signal) {
    // `None` cannot be: the signal is never closed.
    let _ = children.recv().await;
}

async fn accept(listener: UnixListener, inputs: mpsc::Sender<Input>) {
    let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    for number in 0.. {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return; // never closed
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the guardian's socket accepts nobody for a moment");
                tokio::time::sleep(BEAT_INTERVAL).await;
                continue;
            }
        };
        let inputs = inputs.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(Lines::new(stream), number, &inputs).await {
                debug!(%error, "a connection to the guardian ended");
            }
            let _ = inputs.send(Input::Closed { connection: number }).await;
            drop(permit);
        });
    }
}

/// A hello and the descriptors that it announces.
async fn first_words(lines: &mut Lines) -> Result<Option<(ManagerHello, Vec<OwnedFd>)>, LineError> {
    let Some(first) = lines.next::<ToGuardian>().await? else { return Ok(None) };
    let descriptors = lines.take_descriptors(first.descriptor_count()).await?;
    let ToGuardian::Hello(hello) = first else { return Ok(None) };
    Ok(Some((hello, descriptors)))
}

async fn converse(
    mut lines: Lines,
    connection: u64,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), LineError> {
    let pid = lines.peer_pid()?;
    let Ok(first) = tokio::time::timeout(HELLO_TIMEOUT, first_words(&mut lines)).await else {
        return Ok(());
    };
    let Some((hello, descriptors)) = first? else { return Ok(()) };
    let (out, mut to_write) = mpsc::channel::<Out>(OUT_MAX);
    let hello = Box::new(Hello { running: hello.running, descriptors, out });
    // The loop is gone: then so is the guardian.
    let _ = inputs.send(Input::Connected { connection, pid, hello }).await;
    loop {
        tokio::select! {
            out = to_write.recv() => match out {
                Some((message, passed)) => lines.write_with(encode_line(&message), &passed).await?,
                None => return Ok(()), // refused, or another connection took its place
            },
            said = lines.next::<ToGuardian>() => {
                let Some(message) = said? else { return Ok(()) };
                let descriptors = lines.take_descriptors(message.descriptor_count()).await?;
                let _ = inputs.send(Input::Said { connection, message, descriptors }).await;
            }
        }
    }
}
