//! The loop: one queue of things to come, one seed, and everything that lives.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use container::shard::ShardSettings;
use container::transactions::TransactionSettings;
use manager::process_table::{self, Effect, KillReason, ProcessTable, Ticket};
use registrar::Registrar;
use sip::transaction::Timers;
use state::clock::Clock;
use topology::protocol::{Command, Request};
use topology::{HeartbeatSettings, Incarnation, KeyRing, ProcessName, ProcessType, TopologyView};

use crate::cables::{CutId, Net};
use crate::clock::NodeClock;
use crate::container_process::{self, ContainerProcess};
use crate::edge_process::{self, EdgeProcess, EdgeStart};
use crate::invariants::{Invariants, Promises, Violation};
use crate::network::{Datagram, Network, Weather};
use crate::phone::{Mood, Observation, Phone, Plan};
use crate::random::Random;
use crate::scenario::{self, CallWay, Direction, Fault, PlannedCall, Scenario, Victim};
use crate::schedule::{Moment, Schedule};
use crate::shards::Shards;
use crate::store::{CommitFate, QuestionId, SimulatedStore};
use crate::streams::{LifeId, Streams};
use crate::trace::{Recording, Trace};
use crate::word::{Finding, Turned, Word};

mod faults;
mod members;
mod node;
mod partitions;
mod processes;
mod reigns;

use self::members::Telling;
use self::node::{Node, NodeId, ProcessId};
use self::reigns::{NEWS, Reign};

/// The production defaults.
const HEARTBEAT: HeartbeatSettings =
    HeartbeatSettings { interval: Duration::from_millis(500), allowed_miss_count: 3 };
/// Where records of calls lie: empty when no call is left.
const CALL_SPACES: [&str; 3] = ["setup", "session", "owned"];
/// Of a thousand reads so many are answered at once, when nothing ails the store.
const INSTANT_READS: u32 = 950;
/// Datagrams that a socket holds; more are lost, as in a kernel.
const SOCKET_MAX: usize = 500;
/// Incarnations and versions are greater.
const NUMBERS_FROM: u64 = 1_000_000;
/// A world that does more than this in one run goes in circles.
const STEPS_MAX: u64 = 2_000_000;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Datagram(Datagram),
    Wake(LifeId),
    PhoneWake(usize),
    StoreTakesEffect(QuestionId),
    StoreAnswers(QuestionId),
    /// A manager tells the others that it is there.
    Speaks(NodeId, Reign),
    Told(Box<Telling>),
    PowerReturns(NodeId),
    Mended(CutId),
    GivenUp(CutId),
    Manager(NodeId, Reign, process_table::Event),
    ManagerTick(NodeId),
    ManagerRevived(NodeId),
    FindsManager(LifeId),
    Booted(LifeId),
    Said(LifeId, Word),
    Beats(LifeId),
    Fault(Fault),
    Continue(LifeId),
    Unwedge(LifeId),
    RotateKeys,
    DiesAtLast(LifeId),
    StoreRecovers,
    ViewsRecover,
    Call(String, PlannedCall),
    Calm,
    RegisterAgain,
    Encore,
    Look,
}

enum Process {
    /// Spawned, not welcomed yet.
    Booting,
    Edge(Box<EdgeProcess>),
    Container(Box<ContainerProcess>),
    Dead,
}

/// One life of a process.
struct Life {
    node: NodeId,
    name: ProcessName,
    /// Its name among all nodes.
    shown: ProcessName,
    incarnation: Incarnation,
    process: Process,
    is_stopped: bool,
    /// When it went on last.
    stood_until: Option<Moment>,
    /// The manager thinks that it is dead.
    is_disowned: bool,
    /// Of the manager that it is connected to, or was.
    reign: Option<Reign>,
    /// What the manager said and the process has not heard yet.
    words: Vec<Word>,
    /// When it is woken next; None while that is not known.
    armed: Option<Moment>,
    /// Questions to the store that its stop holds up.
    held: Vec<QuestionId>,
    last_word_at: Moment,
}

impl Life {
    fn is_of(&self, process: &ProcessId) -> bool {
        self.node == process.node && self.name == process.name
    }
}

/// How bad the store is at the moment.
#[derive(Debug, Clone, Copy, Default)]
struct StoreTrouble {
    delay_max: Duration,
    per_mille: u32,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The hash of the whole story.
    pub hash: u64,
    /// What went wrong.
    pub violations: Vec<Violation>,
    /// The whole story, if it was asked for.
    pub lines: Vec<String>,
    /// How many things happened.
    pub steps: u64,
    /// How many calls were answered.
    pub talked: usize,
}

/// Nodes with their phones.
pub struct World {
    scenario: Scenario,
    base: Instant,
    now: Moment,
    schedule: Schedule<Happening>,
    trace: Trace,
    invariants: Invariants,
    network: Network,
    streams: Streams,
    nodes: Vec<Node>,
    /// By which lifetimes end.
    store_clock: NodeClock,
    store: SimulatedStore,
    store_random: Random,
    trouble: StoreTrouble,
    /// None: one node has all of the store.
    shards: Option<Shards>,
    members_random: Random,
    snapshots_late: Duration,
    /// When the last session message between two managers arrives.
    last_told: BTreeMap<(NodeId, NodeId), Moment>,
    manager_random: Random,
    views_late: Duration,
    faults: Random,
    lives: Vec<Life>,
    sockets: BTreeMap<SocketAddr, VecDeque<Datagram>>,
    phones: Vec<Phone>,
    phone_wakes: Vec<Option<Moment>>,
    /// The edge by which each phone has an acknowledged binding.
    registered_by: BTreeMap<usize, SocketAddr>,
    calls: Vec<String>,
    tickets: u64,
    is_over: bool,
}

/// Runs a seed to its end.
pub fn run(seed: u64, recording: Recording) -> Report {
    let mut world = World::new(seed, recording);
    let mut steps = 0;
    while let Some((moment, happening)) = world.schedule.pop() {
        if moment > scenario::END {
            break;
        }
        world.pass(moment);
        world.happens(happening);
        if !world.serves_anybody() {
            world.invariants.nobody_serves(moment);
        }
        world.look_at_cables();
        steps += 1;
        if !world.invariants.violations().is_empty() {
            break;
        }
        if world.is_over {
            break;
        }
        if steps > STEPS_MAX {
            world.invariants.violated(moment, "it goes in circles: too much happens");
            break;
        }
    }
    if world.invariants.violations().is_empty() {
        world.end();
    }
    for violation in world.invariants.violations().to_vec() {
        world.trace.note("VIOLATION", violation);
    }
    let talked =
        |call: &&String| world.invariants.outcome(call) == Some(crate::phone::Outcome::Talked);
    Report {
        hash: world.trace.hash(),
        talked: world.calls.iter().filter(talked).count(),
        violations: world.invariants.violations().to_vec(),
        lines: world.trace.lines().to_vec(),
        steps,
    }
}

impl World {
    fn new(seed: u64, recording: Recording) -> World {
        let scenario = Scenario::of(seed);
        let random = Random::new(seed);
        let base = Instant::now();
        let node = |place| Node::new(NodeId(place), &scenario, base);
        let nodes: Vec<Node> = (0..scenario.nodes).map(node).collect();
        let edges: Vec<SocketAddr> = nodes.iter().flat_map(|node| node.edges.clone()).collect();
        let store_clock = processes::clocks(&nodes, &random);
        let shards =
            scenario.is_cluster().then(|| Shards::new(nodes.len(), random.split("shards")));
        let mut world = World {
            base,
            now: Moment::ZERO,
            schedule: Schedule::default(),
            trace: Trace::new(recording),
            invariants: Invariants::new(Promises::of(&scenario)),
            network: Network::new(random.split("network"), scenario.weather),
            streams: Streams::new(random.split("streams")),
            store: SimulatedStore::new(&store_clock, random.split("reads")),
            store_clock,
            nodes,
            store_random: random.split("store"),
            trouble: StoreTrouble::default(),
            shards,
            members_random: random.split("members"),
            snapshots_late: Duration::ZERO,
            last_told: BTreeMap::new(),
            manager_random: random.split("manager"),
            views_late: Duration::ZERO,
            faults: random.split("whom"),
            lives: Vec::new(),
            sockets: edges.iter().map(|edge| (*edge, VecDeque::new())).collect(),
            phones: processes::phones(&scenario, &edges, &random),
            phone_wakes: vec![None; scenario.phones.len()],
            registered_by: BTreeMap::new(),
            calls: Vec::new(),
            tickets: 0,
            is_over: false,
            scenario,
        };
        world.plan();
        world
    }

    /// Virtual time has come to that moment.
    fn pass(&mut self, moment: Moment) {
        self.now = moment;
        self.trace.at(moment);
        self.store_clock.pass(moment);
        self.store.pass(moment);
        self.nodes.iter().for_each(|node| node.clock.pass(moment));
    }

    fn ail_store(&mut self, trouble: StoreTrouble) {
        self.trouble = trouble;
        let is_instant = trouble.delay_max.is_zero() && !self.scenario.is_cluster();
        self.store.set_instant_reads(if is_instant { INSTANT_READS } else { 0 });
    }

    /// Schedules what the scenario has.
    fn plan(&mut self) {
        self.ail_store(StoreTrouble::default());
        self.trace.note("scenario", format_args!("{:?}", self.scenario));
        for node in (0..self.nodes.len()).map(NodeId) {
            let (starts, reign) = (process_table::Event::NodeStarts, Reign::default());
            self.schedule.at(Moment::ZERO, Happening::Manager(node, reign, starts));
            if self.scenario.is_cluster() {
                self.schedule.at(Moment::ZERO, Happening::Speaks(node, reign));
            }
        }
        for (number, call) in self.scenario.calls.clone().into_iter().enumerate() {
            self.schedule.at(call.at, Happening::Call(format!("call-{number}"), call));
        }
        for (at, fault) in self.scenario.faults.clone() {
            self.schedule.at(at, Happening::Fault(fault));
        }
        if let Some(at) = self.scenario.rotation {
            self.schedule.at(at, Happening::RotateKeys);
        }
        self.schedule.at(scenario::CALM, Happening::Calm);
        self.schedule.at(scenario::REGISTERING_AGAIN, Happening::RegisterAgain);
        self.schedule.at(scenario::ENCORE, Happening::Encore);
        self.schedule.at(scenario::REGISTERING, Happening::Look);
        for place in 0..self.phones.len() {
            self.arm_phone(place);
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram(datagram) => self.arrives(datagram),
            Happening::Wake(life) => self.turn(life),
            Happening::PhoneWake(place) => {
                if self.phone_wakes[place] == Some(self.now) {
                    self.phone_wakes[place] = None;
                    self.with_phone(place, |phone, now| phone.wake(now));
                }
            }
            Happening::StoreTakesEffect(question) => self.store_takes_effect(question),
            Happening::StoreAnswers(question) => {
                let asker = self.store.asker(question);
                self.store.answer(question);
                if let Some(asker) = asker {
                    self.turn(asker);
                }
            }
            Happening::Speaks(node, reign) => self.speaks(node, reign),
            Happening::Told(telling) => self.told(*telling),
            Happening::PowerReturns(node) => self.power_returns(node),
            Happening::Mended(cut) => self.is_mended(cut),
            Happening::GivenUp(cut) => self.given_up(cut),
            Happening::Manager(node, reign, event) => {
                if reign == self.nodes[node.0].reign {
                    self.manager(node, |table, now, effects| table.handle(event, now, effects));
                }
            }
            Happening::ManagerRevived(node) => self.manager_revived(node),
            Happening::FindsManager(life) => self.finds_manager(life),
            Happening::ManagerTick(node) => {
                let armed = &mut self.nodes[node.0].manager_armed;
                if *armed == Some(self.now) {
                    *armed = None;
                    self.manager(node, ProcessTable::tick);
                }
            }
            Happening::Booted(life) => self.booted(life),
            Happening::Said(life, word) => {
                if let Word::View(view) = &word {
                    self.says_where(life, &Arc::clone(view));
                }
                self.lives[life.0].words.push(word);
                self.turn(life);
            }
            Happening::Beats(life) => self.beats(life),
            Happening::Fault(fault) => self.fault(fault),
            Happening::Continue(life) => self.goes_on(life),
            Happening::Unwedge(life) => self.set_wedged(life, false),
            Happening::RotateKeys => self.rotate_keys(),
            Happening::DiesAtLast(life) => self.dies(life),
            Happening::StoreRecovers => self.ail_store(StoreTrouble::default()),
            Happening::ViewsRecover => {
                (self.views_late, self.snapshots_late) = (Duration::ZERO, Duration::ZERO);
            }
            Happening::Call(name, call) => self.call(name, call),
            Happening::Calm => self.calm(),
            Happening::RegisterAgain => self.register_again(),
            Happening::Encore => self.encore(),
            Happening::Look => self.look(),
        }
    }

    fn register_again(&mut self) {
        for place in 0..self.phones.len() {
            self.with_phone(place, |phone, now| phone.register_now(now));
        }
    }

    /// Looks whether everything that must hold does, and whether everything is over.
    fn look(&mut self) {
        self.look_at_records();
        self.is_over = self.now > scenario::ENCORE + Duration::from_secs(30) && self.rests();
        self.schedule.at(self.now + scenario::LOOKS_EVERY, Happening::Look);
    }

    fn arrives(&mut self, datagram: Datagram) {
        if let Some(place) = self.phones.iter().position(|phone| phone.address == datagram.to) {
            let name = self.phones[place].name.clone();
            self.trace.message(name, "gets", &datagram.bytes);
            return self.with_phone(place, |phone, now| phone.datagram(datagram, now));
        }
        let to = datagram.to;
        if self.node_at(to).is_some_and(|node| self.streams.cables.is_dark(node.0)) {
            return;
        }
        let Some(socket) = self.sockets.get_mut(&to) else { return };
        if socket.len() < SOCKET_MAX {
            socket.push_back(datagram);
        }
        let reads = |life: &Life| match &life.process {
            Process::Edge(edge) => edge.address() == to,
            Process::Container(_) | Process::Booting | Process::Dead => false,
        };
        let life = self.lives.iter().rposition(reads);
        if let Some(life) = life {
            self.turn(LifeId(life));
        }
    }

    fn with_phone(&mut self, place: usize, act: impl FnOnce(&mut Phone, Moment)) {
        act(&mut self.phones[place], self.now);
        let contact = self.phones[place].contact();
        for observation in self.phones[place].take_observations() {
            self.trace.note(&self.phones[place].name, format_args!("{observation:?}"));
            self.invariants.observed(self.now, (place, &contact), &observation);
            if matches!(observation, Observation::Registered { .. }) {
                self.registered_by.insert(place, self.phones[place].registers_by());
                self.look_at_records();
            }
        }
        for datagram in self.phones[place].take_sent() {
            let name = &self.phones[place].name;
            self.trace.message(format_args!("{name} to {}", datagram.to), "sends", &datagram.bytes);
            self.leaves(datagram);
        }
        self.arm_phone(place);
    }

    fn arm_phone(&mut self, place: usize) {
        let Some(next) = self.phones[place].next_wake() else { return };
        let next = next.max(self.now);
        if self.phone_wakes[place].is_none_or(|armed| next < armed) {
            self.phone_wakes[place] = Some(next);
            self.schedule.at(next, Happening::PhoneWake(place));
        }
    }

    fn leaves(&mut self, datagram: Datagram) {
        let (from, to) = (self.node_at(datagram.from), self.node_at(datagram.to));
        if let (Some(from), Some(to)) = (from, to)
            && !self.streams.cables.carry(Net::Nodes, from.0, to.0)
        {
            return;
        }
        // Two edges of one node speak over its loopback, which is never bad.
        if from.is_some() && from == to {
            let arrival = self.now + Duration::from_micros(50);
            return self.schedule.at(arrival, Happening::Datagram(datagram));
        }
        for arrival in self.network.arrivals(self.now) {
            self.schedule.at(arrival, Happening::Datagram(datagram.clone()));
        }
    }

    /// The node whose edge listens there.
    fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        let node = self.nodes.iter().find(|node| node.edges.contains(&address));
        node.map(|node| node.id)
    }

    fn call(&mut self, name: String, call: PlannedCall) {
        let PlannedCall { caller, callee, plan, way, .. } = call;
        let callee = processes::user_name(callee);
        self.trace.note(&self.phones[caller].name, format_args!("calls {callee}: {name}"));
        self.calls.push(name.clone());
        let phones: Vec<usize> =
            (0..self.phones.len()).filter(|phone| self.phones[*phone].user == callee).collect();
        self.invariants.call_begins(self.now, name.clone(), phones, way);
        let uri = format!("{callee}@{}", way.domain());
        self.with_phone(caller, |phone, now| phone.call(name, &uri, plan, now));
    }

    fn calm(&mut self) {
        self.trace.note("world", "calm");
        self.network.set_weather(Weather::FAIR);
        self.ail_store(StoreTrouble::default());
        (self.views_late, self.snapshots_late) = (Duration::ZERO, Duration::ZERO);
        self.mend_everything();
        for node in &mut self.nodes {
            node.manager_dies_after = None;
        }
        for phone in &mut self.phones {
            phone.mood = Mood::Eager;
        }
        for place in 0..self.lives.len() {
            self.goes_on(LifeId(place));
            self.set_wedged(LifeId(place), false);
            if self.lives[place].is_disowned {
                self.dies(LifeId(place));
            }
        }
    }

    /// Every user is called by some phone, either way, and hung up on.
    fn encore(&mut self) {
        let mut at = self.now;
        for callee in 0..self.scenario.users() {
            for (turn, way) in [CallWay::Direct, CallWay::Agent].into_iter().enumerate() {
                let caller = self.faults.place(self.phones.len());
                let hangs_up_after = Some(Duration::from_secs(5));
                let plan = Plan { cancels_after: None, hangs_up_after };
                let name = format!("encore-{callee}-{turn}-{way:?}");
                let call = PlannedCall { at, caller, callee, way, plan };
                self.schedule.at(at, Happening::Call(name, call));
                at += Duration::from_millis(200);
            }
        }
    }

    fn serves_anybody(&self) -> bool {
        let serves = |life: &Life| match &life.process {
            Process::Container(container) => {
                container.serves() && !life.is_stopped && !life.is_disowned
            }
            Process::Edge(_) | Process::Booting | Process::Dead => false,
        };
        self.lives.iter().rev().any(serves)
    }

    /// Whether nothing is left that could still come to something.
    fn rests(&self) -> bool {
        let calls = self.phones.iter().map(|phone| phone.open_calls().len()).sum::<usize>();
        calls == 0 && self.unrest().is_empty()
    }

    /// The processes that still have something to do, and what.
    fn unrest(&self) -> Vec<(ProcessName, String)> {
        let left = |life: &Life| match &life.process {
            Process::Container(container) => container.left(),
            Process::Edge(edge) => edge.left(),
            Process::Booting => Some("it is still booting".to_owned()),
            Process::Dead => None,
        };
        let unrest = self.lives.iter().filter_map(|life| Some((life.shown.clone(), left(life)?)));
        // A record that could not be deleted is left to its lifetime.
        let may_be_kept = self.invariants.promises().records_may_stay;
        let kept = if may_be_kept { Vec::new() } else { self.store.kept(&CALL_SPACES) };
        let kept = (!kept.is_empty()).then(|| (ProcessName::new("store"), kept.join(", ")));
        unrest.chain(kept).collect()
    }

    /// What must hold when everything is over.
    fn end(&mut self) {
        let now = self.now;
        for phone in &self.phones {
            for call in phone.open_calls() {
                self.invariants.call_never_ends(now, &call, &phone.name);
            }
        }
        for call in &self.calls {
            if call.starts_with("encore") && self.invariants.outcome(call).is_none() {
                self.invariants.violated(now, format!("{call} was never answered"));
            }
        }
        for (name, left) in self.unrest() {
            self.invariants.violated(now, format!("{name} is not at rest: {left}"));
        }
        // A round of a container's duties may be under way, with one question at a time.
        let waiting = self.store.waiting();
        if waiting > self.scenario.containers * self.scenario.nodes {
            self.invariants.violated(now, format!("{waiting} questions to the store wait on"));
        }
        self.look_at_records();
    }

    /// What was promised to phones lies in the store.
    fn look_at_records(&mut self) {
        let judged_at = Clock::now(&self.store_clock);
        self.invariants.bindings_stand(self.now, self.store.engine(), judged_at);
        self.invariants.sessions_stand(self.now, self.store.engine());
    }
}
