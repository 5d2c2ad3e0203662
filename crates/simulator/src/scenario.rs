//! What a seed comes to: how many of what there are, who calls whom when, which faults come when.
//!
//! Faults end at [`CALM`]; from then on everything must heal, and at [`ENCORE`] every user is called once more and must
//! be reached.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::network::Weather;
use crate::phone::Plan;
use crate::random::Random;
use crate::schedule::Moment;

/// When phones begin to register.
pub const REGISTERING: Moment = Moment::from_secs(2);
/// When calls and faults begin.
pub const TROUBLE: Moment = Moment::from_secs(6);
/// When the last fault may come.
const FAULTS_END: Moment = Moment::from_secs(50);
/// When no more faults come, and those that last end.
pub const CALM: Moment = Moment::from_secs(60);
/// When every phone registers once more.
pub const REGISTERING_AGAIN: Moment = Moment::from_secs(75);
/// When every user is called once more.
pub const ENCORE: Moment = Moment::from_secs(90);
/// How often it is looked whether everything is over.
pub const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// When everything must be over: the last call of the trouble may ring until Timer C (181 s) and be cancelled then.
pub const END: Moment = Moment::from_secs(360);

/// Something bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Victim),
    /// SIGSTOP, and SIGCONT after so long, if it still lives.
    Stop(Victim, Duration),
    /// Everybody is told within so long that a container is dead, and it lives on for so long: who hears it late
    /// still gives it work, while who heard it early takes that over.
    DeclareDead(usize, Duration, Duration),
    /// A link breaks.
    CutLink,
    /// The store takes up to so long for everything, for a while.
    SlowStore(Duration, Duration),
    /// Commits conflict, or end unknown, for a while; so many of a thousand each.
    TroubledStore(u32, Duration),
    /// Notifications of the manager take up to so long, for a while.
    LateViews(Duration, Duration),
    /// An operator restarts a process.
    Restart(Victim),
    /// SIGKILL to the manager of a node.
    KillManager(usize),
    /// SIGKILL to the manager when it has carried out so many effects of an operator's restart of a container.
    KillManagerRestarting(usize, u8),
    /// Somebody sets the node's clock.
    ClockStep(Direction, Duration),
    /// A container's SIP stands still for so long, while its heart beats.
    Wedge(usize, Duration),
    /// A node loses its power, and has it again after so long.
    LoseNode(usize, Duration),
    /// A node is cut off for so long.
    CutOff(usize, CutFrom, Duration),
    /// What the first node sends does not reach the second one for so long.
    OneWayLoss(usize, usize, Duration),
    /// What managers tell each other takes up to so long, and is overtaken, for a while.
    LateSnapshots(Duration, Duration),
    /// The process that serves a shard of the store dies.
    KillPrimary(usize),
}

/// From what a node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutFrom {
    /// The other nodes' managers, edges and containers, but not from the store.
    Nodes,
    /// The store's other hosts.
    Store,
    /// Both.
    Everything,
}

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The edge of that place.
    Edge(usize),
    /// The container of that place.
    Container(usize),
}

/// Which way a clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a later time.
    Forward,
    /// To an earlier time.
    Back,
}

/// Kinds of faults, by which seeds differ in what they may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A container is killed, stopped, declared dead or restarted.
    Container,
    /// An edge is.
    Edge,
    /// A link is cut.
    Link,
    /// The store is slow.
    SlowStore,
    /// The store refuses, or does not say what it did.
    Store,
    /// Views are late.
    Views,
    /// The manager dies.
    Manager,
    /// The clock is set.
    Clock,
    /// A node is lost.
    Node,
    /// A node is cut off, in one direction or both.
    Partition,
    /// A primary of the store is lost.
    Primary,
}

impl Fault {
    fn kind(self) -> Kind {
        match self {
            Fault::Kill(Victim::Edge(_))
            | Fault::Stop(Victim::Edge(_), _)
            | Fault::Restart(Victim::Edge(_)) => Kind::Edge,
            Fault::Kill(Victim::Container(_))
            | Fault::Stop(Victim::Container(_), _)
            | Fault::Restart(Victim::Container(_))
            | Fault::DeclareDead(..)
            | Fault::Wedge(..) => Kind::Container,
            Fault::CutLink => Kind::Link,
            Fault::SlowStore(..) => Kind::SlowStore,
            Fault::TroubledStore(..) => Kind::Store,
            Fault::LateViews(..) | Fault::LateSnapshots(..) => Kind::Views,
            Fault::LoseNode(..) => Kind::Node,
            Fault::CutOff(..) | Fault::OneWayLoss(..) => Kind::Partition,
            Fault::KillPrimary(_) => Kind::Primary,
            Fault::KillManager(_) | Fault::KillManagerRestarting(..) => Kind::Manager,
            Fault::ClockStep(..) => Kind::Clock,
        }
    }
}

/// How a call goes to its callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallWay {
    /// Proxied.
    Direct,
    /// Through the back-to-back agent.
    Agent,
}

impl CallWay {
    /// The domain by which users are called so.
    pub fn domain(self) -> &'static str {
        match self {
            CallWay::Direct => "example.com",
            CallWay::Agent => "b2b.example.com",
        }
    }
}

/// One call of the trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedCall {
    /// When.
    pub at: Moment,
    /// Place of the phone that calls.
    pub caller: usize,
    /// Place of the user that is called.
    pub callee: usize,
    /// How.
    pub way: CallWay,
    /// What the caller is about to do.
    pub plan: Plan,
}

/// Everything that a seed decides beforehand.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many nodes.
    pub nodes: usize,
    /// How many edges each node has.
    pub edges: usize,
    /// How many containers each node has.
    pub containers: usize,
    /// The place of each phone's user; users have one or two phones.
    pub phones: Vec<usize>,
    /// How bad the network is until the calm.
    pub weather: Weather,
    /// The calls, in any order.
    pub calls: Vec<PlannedCall>,
    /// The faults, in any order.
    pub faults: Vec<(Moment, Fault)>,
    /// When the keys are rotated, if they are. No fault: nobody may notice.
    pub rotation: Option<Moment>,
}

impl Scenario {
    /// What that seed comes to.
    pub fn of(seed: u64) -> Scenario {
        let seed = Random::new(seed);
        let mut random = seed.split("scenario");
        let users = 2 + random.place(2);
        let mut phones: Vec<usize> = (0..users).collect();
        phones.extend((0..users).filter(|_| random.chance(400)).collect::<Vec<_>>());
        let (edges, containers) = (1 + random.place(2), 2 + random.place(2));
        let weather = weather(&mut random);
        let calls = 2 + random.place(5);
        let calls: Vec<PlannedCall> =
            (0..calls).map(|_| call(&mut random, &phones, users)).collect();
        let mut random = seed.split("faults");
        let count = random.place(6);
        let faults = (0..count).map(|_| {
            let at = moment(&mut random, &calls);
            (at, fault(&mut random, edges, containers))
        });
        let faults = faults.collect();
        let rotation = random.chance(300).then(|| random.between(TROUBLE, CALM));
        let one =
            Scenario { nodes: 1, edges, containers, phones, weather, calls, faults, rotation };
        let mut random = seed.split("nodes");
        match 1 + random.place(3) {
            1 => one,
            nodes => one.on(nodes, &mut random),
        }
    }

    /// The same phones and calls on several nodes, with faults of their own.
    fn on(self, nodes: usize, random: &mut Random) -> Scenario {
        let (edges, containers) = (1, 1 + random.place(2));
        let count = random.place(5);
        let faults = (0..count).map(|_| {
            let at = moment(random, &self.calls);
            let is_of_cluster = random.chance(600);
            let fault = if is_of_cluster {
                fault_of_cluster(random, nodes)
            } else {
                fault(random, nodes * edges, nodes * containers).among(nodes, random)
            };
            (at, fault)
        });
        let faults = faults.collect();
        Scenario { nodes, edges, containers, faults, ..self }
    }

    /// Whether several nodes share the store.
    pub fn is_cluster(&self) -> bool {
        self.nodes > 1
    }

    /// The kinds of faults that come.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.faults.iter().map(|(_, fault)| fault.kind()).collect()
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.phones.iter().max().map_or(0, |last| last + 1)
    }
}

fn weather(random: &mut Random) -> Weather {
    if random.chance(300) {
        return Weather::FAIR;
    }
    Weather {
        loss: random.below(150) as u32,
        duplication: random.below(150) as u32,
        lateness: random.below(200) as u32,
        delay_max: random.between(Duration::from_millis(2), Duration::from_millis(60)),
        late_max: random.between(Duration::from_millis(60), Duration::from_secs(2)),
    }
}

fn call(random: &mut Random, phones: &[usize], users: usize) -> PlannedCall {
    let seconds = |least, most| (Duration::from_secs(least), Duration::from_secs(most));
    let (caller, callee) = (random.place(phones.len()), random.place(users));
    let wants_agent = random.chance(400);
    let cancels = seconds(0, 10);
    let talks = seconds(0, 15);
    PlannedCall {
        at: random.between(TROUBLE, CALM),
        caller,
        callee,
        way: if wants_agent { CallWay::Agent } else { CallWay::Direct },
        plan: Plan {
            cancels_after: random.chance(300).then(|| random.between(cancels.0, cancels.1)),
            hangs_up_after: random.chance(500).then(|| random.between(talks.0, talks.1)),
        },
    }
}

/// When a fault comes: most of them while a call is set up, since that is when there is most to break.
fn moment(random: &mut Random, calls: &[PlannedCall]) -> Moment {
    if random.chance(250) {
        return random.between(TROUBLE, FAULTS_END);
    }
    let call = calls[random.place(calls.len())];
    let within = [20, 100, 1_000, 10_000][random.place(4)];
    (call.at + random.between(Duration::ZERO, Duration::from_millis(within))).min(FAULTS_END)
}

fn fault(random: &mut Random, edges: usize, containers: usize) -> Fault {
    let millis = |least, most| (Duration::from_millis(least), Duration::from_millis(most));
    let lasting = millis(200, 8_000);
    let lasting = random.between(lasting.0, lasting.1);
    let container = random.place(containers);
    let edge = random.place(edges);
    match random.below(16) {
        0..=2 => Fault::Kill(Victim::Container(container)),
        3 => Fault::Kill(Victim::Edge(edge)),
        4 | 5 => Fault::Stop(Victim::Container(container), lasting),
        6 => {
            let hears = millis(0, 3_000);
            Fault::DeclareDead(container, random.between(hears.0, hears.1), lasting)
        }
        7 => Fault::CutLink,
        8 => {
            let delays = millis(5, 900);
            Fault::SlowStore(random.between(delays.0, delays.1), lasting)
        }
        9 if random.chance(300) => Fault::Stop(Victim::Edge(edge), lasting),
        9 => Fault::TroubledStore(random.below(300) as u32, lasting),
        10 => {
            let delays = millis(5, 1_500);
            Fault::LateViews(random.between(delays.0, delays.1), lasting)
        }
        11 => Fault::Wedge(container, lasting),
        12 if random.chance(500) => Fault::Restart(Victim::Edge(edge)),
        12 => Fault::Restart(Victim::Container(container)),
        13 => Fault::KillManager(0),
        14 => Fault::KillManagerRestarting(container, random.below(6) as u8),
        _ => {
            let by = millis(2_000, 3_600_000);
            let by = random.between(by.0, by.1);
            let direction = if random.chance(500) { Direction::Forward } else { Direction::Back };
            Fault::ClockStep(direction, by)
        }
    }
}

impl Fault {
    /// The same fault in a cluster.
    fn among(self, nodes: usize, random: &mut Random) -> Fault {
        match self {
            Fault::KillManager(_) => Fault::KillManager(random.place(nodes)),
            // A node whose clock is that far off does not become ready.
            Fault::ClockStep(_, by) => {
                Fault::LateSnapshots(Duration::from_secs(2), by.min(Duration::from_secs(8)))
            }
            other => other,
        }
    }
}

fn fault_of_cluster(random: &mut Random, nodes: usize) -> Fault {
    let lasting = random.between(Duration::from_millis(200), Duration::from_secs(12));
    let node = random.place(nodes);
    let other = (node + 1 + random.place(nodes - 1)) % nodes;
    match random.below(8) {
        0 | 1 => Fault::LoseNode(node, lasting),
        2 => Fault::CutOff(node, CutFrom::Nodes, lasting),
        3 => Fault::CutOff(node, CutFrom::Store, lasting),
        4 => Fault::CutOff(node, CutFrom::Everything, lasting),
        5 => Fault::OneWayLoss(node, other, lasting),
        6 => {
            let delay_max = random.between(Duration::from_millis(50), Duration::from_secs(3));
            Fault::LateSnapshots(delay_max, lasting)
        }
        _ => Fault::KillPrimary(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_comes_and_never_after_the_calm() {
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let scenario = Scenario::of(seed);
            kinds.extend(scenario.kinds());
            assert!(scenario.faults.iter().all(|(at, _)| (TROUBLE..CALM).contains(at)));
            assert!(scenario.calls.iter().all(|call| call.callee < scenario.users()));
        }
        assert_eq!(kinds.len(), 11, "{kinds:?}");
    }
}
