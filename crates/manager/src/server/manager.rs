//! The manager itself: one owner of the table, the children, the connections and the sockets.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use config::NodeConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use topology::HeartbeatSettings;
use topology::protocol::{
    Answer, ClockStatus, Command, FromManager, GuardianStatus, Hello, ManagerStatus, PassedSocket,
    Welcome, encode_line,
};
use topology::view::{ProcessName, ProcessType, TopologyView, WEIGHT_DEFAULT};
use tracing::{error, info, warn};

use super::applications::{Answers, Applications};
use super::child::{Gate, RunningChild};
use super::cluster_node::ClusterNode;
use super::connection::Admitted;
use super::directory::NodeDirectory;
use super::guardian_link::{GuardianLink, Kept};
use super::keys::Keys;
use super::last_sight::last_sight;
use super::listeners::EdgeListeners;
use super::predecessor::Predecessor;
use super::record::{Clock, Record, RecordFile, RecordedProcess};
use super::repository::{Prepare, RepositoryNode};
use super::servers::Servers;
use super::starvation::waited;
use super::stores::keeper::Keeper;
use super::{ChildStart, INPUTS_MAX, Input, Signals, UpError};
use crate::guardian::BEAT_INTERVAL;
use crate::guardian::protocol::{EdgeSockets, Serving};
use crate::process_table::{Effect, Event, Limits, ProcessSpec, ProcessTable, Recorded, Ticket};

mod clock;
mod cluster;
mod servers;
mod shared_applications;
mod shared_state;
mod spawning;

use cluster::Asker;
use shared_state::SharedState;

/// Commands that wait for one child. More are dropped: the child does not read, its deadline ends it.
const COMMANDS_MAX: usize = 8;

/// What a manager does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// Starts what does not run.
    Start,
    /// Goes on with a stop.
    Stop,
}

/// What a manager is made of.
pub(super) struct Parts {
    pub(super) config: NodeConfig,
    pub(super) child: Box<dyn Fn(&ChildStart) -> Program>,
    pub(super) prepare: Prepare,
    pub(super) directory: NodeDirectory,
    pub(super) edges: Vec<EdgeListeners>,
    pub(super) keys: Keys,
    pub(super) applications: Applications,
    pub(super) link: Arc<GuardianLink>,
    pub(super) guardian: Option<u32>,
    pub(super) predecessor: Predecessor,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Going,
    Serving,
    Ended,
}

pub(super) struct Manager {
    config: NodeConfig,
    table: ProcessTable,
    /// Those that are not ours.
    servers: Servers,
    /// Keeps the cluster's stores in order. Of a member.
    keeper: Option<Keeper>,
    /// Stores beyond the usual ones.
    spares: u8,
    /// Of a member.
    cluster: Option<ClusterNode>,
    cluster_settings: Option<config::ClusterSettings>,
    /// Of a member of a cluster that has one.
    repository: Option<RepositoryNode>,
    /// Of a member whose state lies in the cluster's stores.
    shared_state: Option<SharedState>,
    directory: NodeDirectory,
    child: Box<dyn Fn(&ChildStart) -> Program>,
    prepare: Prepare,
    keys: Keys,
    applications: Applications,
    /// The last step of the machine's clock.
    clock: Option<ClockStatus>,
    edges: HashMap<ProcessName, EdgeListeners>,
    edge_order: Vec<ProcessName>,
    /// The present life of each process that has one.
    children: HashMap<ProcessName, RunningChild>,
    /// What was started since the record was written.
    held: Vec<Gate>,
    /// To the connection of each child that was welcomed.
    commands: HashMap<ProcessName, mpsc::Sender<Command>>,
    /// The view as the line that every child is sent.
    views: watch::Sender<Arc<Vec<u8>>>,
    replies: HashMap<Ticket, mpsc::Sender<Answer>>,
    ticket_last: u64,
    inputs: mpsc::Sender<Input>,
    link: Arc<GuardianLink>,
    guardian: Option<u32>,
    /// How often managers of this node were replaced.
    restarts: u32,
    is_stopping: bool,
    /// Nothing is started yet.
    waits: Option<clock::Wait>,
    record: RecordFile,
    record_clock: Clock,
}

impl Manager {
    pub(super) fn new(parts: Parts) -> Result<Manager, UpError> {
        let Parts { config, directory, edges, predecessor, inputs, .. } = parts;
        let restarts = predecessor.restarts();
        let floor = unix_micros().max(predecessor.numbers_used());
        let table = ProcessTable::new(
            config.node.name.clone(),
            specs(&config, &directory, &edges),
            limits(&config),
            floor,
        );
        let record_clock = Clock::new();
        let known = predecessor.known_members();
        let (lives, mut survivors) = predecessor.lives(&record_clock);
        let mut children = HashMap::new();
        for life in &lives {
            if let Some(living) = survivors.remove(&life.name) {
                let name = life.name.clone();
                let child = RunningChild::watch(living, name, life.incarnation, inputs.clone());
                children.insert(life.name.clone(), child);
            }
        }
        let record = RecordFile::new(directory.record())?;
        let mut manager = Manager {
            views: watch::Sender::new(Arc::default()),
            servers: Servers::new(limits(&config).heartbeat, inputs.clone()),
            keeper: None,
            spares: 0,
            config,
            table,
            cluster: None,
            cluster_settings: None,
            repository: None,
            shared_state: None,
            directory,
            child: parts.child,
            prepare: parts.prepare,
            keys: parts.keys,
            applications: parts.applications,
            clock: None,
            edge_order: edges.iter().map(|edge| edge.name.clone()).collect(),
            edges: edges.into_iter().map(|edge| (edge.name.clone(), edge)).collect(),
            children,
            held: Vec::new(),
            commands: HashMap::new(),
            replies: HashMap::new(),
            ticket_last: 0,
            inputs,
            link: parts.link,
            guardian: parts.guardian,
            restarts,
            is_stopping: false,
            waits: None,
            record,
            record_clock,
        };
        manager.open_cluster(known)?;
        if let Some(cluster) = &manager.cluster {
            manager.table = manager.table.of_member(cluster.number());
        }
        manager.adopt_spares(&lives);
        let servers = manager.servers_of_member()?;
        let specs = manager.servers.set(servers);
        manager.table.add_servers(specs);
        manager.ask_servers(&lives);
        manager.table.resume(lives, Instant::now());
        manager.show_view();
        manager.hand_over_listeners();
        Ok(manager)
    }

    /// Until every process has ended.
    pub(super) async fn manage(
        mut self,
        first: First,
        received: &mut mpsc::Receiver<Input>,
        signals: &mut Signals,
    ) {
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Who goes on where another manager was finds containers that are ready, and that nothing changes about.
        let answers = self.applications.view(&self.table.view());
        self.answer_all(answers);
        let mut step = match first {
            First::Stop => self.receive(Input::Stop),
            First::Start => self.start(),
        };
        loop {
            match step {
                Step::Going => {}
                Step::Serving => self.link.serving(Some(self.serving())),
                Step::Ended => return,
            }
            let deadline = self.next_deadline();
            step = tokio::select! {
                input = received.recv() => match input {
                    Some(input) => self.receive(input),
                    None => unreachable!("the manager holds a sender"),
                },
                _ = beats.tick() => {
                    self.link.beat();
                    Step::Going
                }
                name = signals.next() => {
                    info!(signal = name, "stopping");
                    self.receive(self.meaning_of_a_signal())
                }
                () = tokio::time::sleep_until(deadline.into()) => self.look(received).await,
            };
        }
    }

    fn stop(&mut self) -> Step {
        self.is_stopping = true;
        self.waits = None;
        self.link.serving(None);
        self.handle(Event::NodeStops)
    }

    /// While there is a guardian, the operator's haste is for it to tell: whoever stops a service signals all of its
    /// processes, and one wish heard twice is no second wish.
    fn meaning_of_a_signal(&self) -> Input {
        let is_second = self.is_stopping && self.guardian.is_none();
        if is_second { Input::StopNow } else { Input::Stop }
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
            Input::Hello { hello, pid, descriptors, reply } => {
                let admitted = self.admit(&hello, pid, descriptors);
                let returned = match (&admitted, hello.life) {
                    (Ok(admitted), Some(life)) => {
                        let incarnation = admitted.incarnation;
                        Some(Event::Returned { name: hello.name, incarnation, state: life.state })
                    }
                    (Ok(_), None) => None,
                    (Err(reason), _) => {
                        warn!(name = %hello.name, pid, reason, "refused a child");
                        None
                    }
                };
                // A connection that is gone already needs no welcome.
                let _ = reply.send(admitted);
                returned.map_or(Step::Going, |event| self.handle(event))
            }
            Input::Told(event) => {
                if let Event::Ready { name, incarnation } = &event {
                    info!(%name, %incarnation, "ready");
                }
                if let Some(cluster) = &self.cluster {
                    cluster.pass_on_witness(&event);
                }
                self.handle(event)
            }
            Input::Exited { name, incarnation } => {
                self.children.remove(&name);
                self.commands.remove(&name);
                self.servers.stop_asking(&name);
                self.handle(Event::Exited { name, incarnation })
            }
            Input::SparesWanted(spares) => self.spares_wanted(spares),
            Input::ServerPrepared { name, outcome } => self.server_prepared(name, outcome),
            Input::Shared { node, request, reply } => self.share(node, request, reply),
            Input::Repository(input) => self.hear_of_repository(input),
            Input::Guardian(pid) => {
                self.guardian = pid;
                Step::Going
            }
            Input::Stop if self.is_stopping => Step::Going,
            Input::Stop => self.stop(),
            Input::StopNow => {
                if !self.is_stopping {
                    self.stop();
                }
                self.handle(Event::NodeStops)
            }
            Input::ClockStepped(clock) => {
                warn!(
                    stepped_by_ms = clock.stepped_by_ms,
                    "the machine's clock was stepped: no lifetime ends for a minute"
                );
                self.clock = Some(clock);
                Step::Going
            }
            Input::StoresReported { name, report } => {
                if let Some(shared) = &mut self.shared_state {
                    shared.reported(name, report);
                }
                Step::Going
            }
            Input::Reported { name, report } => {
                let now = Instant::now();
                let answers = self
                    .applications
                    .handle(|all, effects| all.reported(name, report, now, effects));
                self.answer_all(answers)
            }
            Input::ApplicationsWorked(worked) => {
                let now = Instant::now();
                let answers =
                    self.applications.handle(|all, effects| all.worked(worked, now, effects));
                self.answer_all(answers)
            }
            Input::ApplicationAsked(container, outcome) => {
                let now = Instant::now();
                let answers = self
                    .applications
                    .handle(|all, effects| all.asked(&container, outcome, now, effects));
                self.answer_all(answers)
            }
            Input::KeysWritten(written) => {
                self.keys.written(&written);
                Step::Going
            }
            Input::Peer(input) => self.receive_peer(input),
            Input::Request { request, reply } => self.requested(request, reply, Asker::Command),
        }
    }

    /// The welcome of a child that this manager started, or that it knows from another one; of no other process.
    fn admit(
        &mut self,
        hello: &Hello,
        pid: u32,
        brought: Vec<OwnedFd>,
    ) -> Result<Admitted, String> {
        let name = &hello.name;
        let mut sockets = Vec::new();
        let mut descriptors = Vec::new();
        let incarnation = match &hello.life {
            None => {
                let incarnation = self
                    .table
                    .expects(name, pid)
                    .ok_or_else(|| format!("process {pid} is not the {name} that was started"))?;
                if let Some(edge) = self.edges.get(name) {
                    (sockets, descriptors) = edge
                        .to_pass()
                        .map_err(|error| format!("its sockets cannot be duplicated: {error}"))?;
                }
                incarnation
            }
            Some(life) if self.table.knows(name, pid, life.incarnation) => {
                info!(%name, pid, incarnation = %life.incarnation, "has come back");
                self.take_over_listeners(name, &life.sockets, brought);
                life.incarnation
            }
            Some(life) => {
                let life = life.incarnation;
                return Err(format!(
                    "process {pid} with life {life} is not one of this node's {name}"
                ));
            }
        };
        let view = self.whole_view();
        let link = view.process(name).and_then(|process| process.link.clone());
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (applications, tables) = self.applications.welcome(name, hello.process_type);
        self.commands.insert(name.clone(), commands);
        Ok(Admitted {
            incarnation,
            welcome: Welcome {
                node: view.node.clone(),
                directory: self.directory.path().to_owned(),
                incarnation,
                settings: self.settings(),
                keys: self.keys.ring(),
                link,
                sockets,
                view,
                applications,
            },
            descriptors,
            views: self.views.subscribe(),
            keys: self.keys.subscribe(),
            applications: tables,
            commands: received,
        })
    }

    fn next_deadline(&self) -> Instant {
        let others =
            self.table.next_deadline().into_iter().chain(self.applications.next_deadline());
        let others = others.chain(self.cluster.as_ref().map(ClusterNode::next_deadline));
        let others = others.chain(self.waits.as_ref().map(clock::Wait::deadline));
        others.fold(self.keys.next_deadline(), Instant::min)
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
        if let Some(write) = self.keys.tick(Instant::now()) {
            let inputs = self.inputs.clone();
            tokio::task::spawn_blocking(move || {
                // A manager that has ended meanwhile needs no outcome.
                let _ = inputs.blocking_send(Input::KeysWritten(write.run()));
            });
        }
        let now = Instant::now();
        let answers = self.applications.handle(|all, effects| all.tick(now, effects));
        self.answer_all(answers);
        self.look_at_cluster(now);
        for suspect in self.table.suspects(now) {
            self.table.has_waited_for_processor(suspect, waited(suspect), now);
        }
        let mut effects = Vec::new();
        self.table.tick(now, &mut effects);
        match self.carry_out(effects) {
            Step::Going => self.look_at_clock(now),
            step => step,
        }
    }

    fn handle(&mut self, event: Event) -> Step {
        let mut effects = Vec::new();
        self.table.handle(event, Instant::now(), &mut effects);
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Step {
        // Before anybody is told: what is known of a process must outlast this manager.
        self.note();
        let mut step = Step::Going;
        let mut outcomes = Vec::new();
        for effect in effects {
            match effect {
                Effect::Publish => {
                    let view = self.table.view();
                    self.close_listeners_of_stopped_edges(&view);
                    let answers = self.applications.view(&view);
                    self.answer_all(answers);
                    self.show_view();
                }
                Effect::Prepare { name } => self.servers.prepare(name),
                Effect::Spawn { name, incarnation } => outcomes.push(self.spawn(name, incarnation)),
                Effect::Tell { name, command } => self.tell(&name, command),
                Effect::Kill { name, pid, reason } => {
                    warn!(%name, pid, %reason, seen = last_sight(pid), "killing");
                    if let Some(child) = self.children.get(&name)
                        && let Err(error) = child.kill()
                    {
                        error!(%name, pid, %error, "cannot be killed");
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

    /// Writes down what another manager would have to know.
    fn note(&mut self) {
        let process = |life: Recorded| RecordedProcess {
            identity: self.children.get(&life.name).map(RunningChild::identity),
            due_ms: life.due.map(|due| self.record_clock.millis(due)),
            life,
        };
        let record = Record {
            manager_restarts: self.restarts,
            settings: self.link.settings().clone(),
            numbers_used: self.numbers_used(),
            edges: self.described_listeners(),
            processes: self.table.record().into_iter().map(process).collect(),
            members: self.known_members(),
            ..Record::default()
        };
        self.record.write(record);
        self.held.drain(..).for_each(Gate::open);
    }

    fn answer_all(&mut self, answers: Answers) -> Step {
        for (ticket, answer) in answers {
            self.answer(ticket, answer);
        }
        Step::Going
    }

    fn answer(&mut self, ticket: Ticket, mut answer: Answer) {
        if let Answer::Status(status) = &mut answer {
            status.guardian = self.guardian.map(|pid| GuardianStatus { pid });
            let (pid, restarts) = (std::process::id(), self.restarts);
            status.manager = Some(ManagerStatus { pid, restarts });
            status.clock = self.clock;
            let shared = self.shared_state.as_ref();
            status.stores = shared.and_then(SharedState::worst).map(Box::new);
            let repository = self.repository.as_ref();
            status.repository = repository.and_then(RepositoryNode::report).map(Box::new);
            status.applications = self.applications.status();
            status.cluster = self.cluster_status().map(Box::new);
            status.view = self.whole_view();
        }
        if answer.is_progress() {
            // Progress that is not read in time is of no use, and leaves room for the outcome.
            if let Some(reply) = self.replies.get(&ticket).filter(|reply| reply.capacity() > 1) {
                let _ = reply.try_send(answer);
            }
        } else if let Some(reply) = self.replies.remove(&ticket) {
            // Whoever asked may have gone.
            let _ = reply.try_send(answer);
        }
    }

    fn tell(&self, name: &ProcessName, command: Command) {
        info!(%name, ?command, "told");
        if self.servers.has(name) {
            // Servers know one command.
            if let Some(child) = self.children.get(name) {
                self.servers.stop(name, child);
            }
            return;
        }
        let told = self.commands.get(name).map(|commands| commands.try_send(command));
        if !matches!(told, Some(Ok(()))) {
            warn!(%name, "does not listen to commands; its deadline will end it");
        }
    }

    /// A listening socket that nobody reads would let phones connect and wait for nothing. After a
    /// death it stays open, that is how no datagram is lost; after a stop by hand it is closed.
    fn close_listeners_of_stopped_edges(&mut self, view: &TopologyView) {
        let mut closed = false;
        for process in view.edges() {
            if process.state == topology::ProcessState::Down
                && let Some(edge) = self.edges.get_mut(&process.name)
            {
                closed |= edge.close();
            }
        }
        if closed {
            self.hand_over_listeners();
        }
    }

    fn take_over_listeners(
        &mut self,
        name: &ProcessName,
        passed: &[PassedSocket],
        descriptors: Vec<OwnedFd>,
    ) {
        if let Some(edge) = self.edges.get_mut(name)
            && edge.take_over(passed, descriptors)
        {
            self.hand_over_listeners();
        }
    }

    fn described_listeners(&self) -> Vec<EdgeSockets> {
        let edges = self.edge_order.iter().filter_map(|name| self.edges.get(name));
        edges.map(EdgeListeners::describe).collect()
    }

    /// The guardian keeps duplicates of all of them for the next manager.
    fn hand_over_listeners(&self) {
        let edges = self.edge_order.iter().filter_map(|name| self.edges.get(name));
        let duplicates: io::Result<Vec<Vec<OwnedFd>>> =
            edges.map(EdgeListeners::duplicates).collect();
        match duplicates {
            Ok(duplicates) => {
                let descriptors = duplicates.into_iter().flatten().collect();
                self.link.keep(Kept { edges: self.described_listeners(), descriptors });
            }
            Err(error) => error!(%error, "the guardian cannot keep the listening sockets"),
        }
    }
}

pub(in crate::server) fn unix_micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX / 2)
}

fn specs(
    config: &NodeConfig,
    directory: &NodeDirectory,
    edges: &[EdgeListeners],
) -> Vec<ProcessSpec> {
    let container = |name: String| ProcessSpec {
        link: Some(directory.link(&name)),
        name: ProcessName(name),
        process_type: ProcessType::Container,
        link_address: None,
        weight: WEIGHT_DEFAULT,
        addresses: Vec::new(),
    };
    let edge = |edge: &EdgeListeners| ProcessSpec {
        name: edge.name.clone(),
        process_type: ProcessType::Edge,
        link: None,
        link_address: None,
        weight: WEIGHT_DEFAULT,
        addresses: edge.addresses(),
    };
    config.container_names().map(container).chain(edges.iter().map(edge)).collect()
}

fn limits(config: &NodeConfig) -> Limits {
    Limits {
        restart: config.restart.into(),
        drain: config.container.drain_timeout,
        heartbeat: HeartbeatSettings {
            interval: config.heartbeat.interval,
            allowed_miss_count: config.heartbeat.allowed_miss_count,
        },
    }
}

fn view_line(view: TopologyView) -> Arc<Vec<u8>> {
    Arc::new(encode_line(&FromManager::View(view)))
}
