//! The trial of a cluster: three nodes, faults of every kind in an order of chance, one at a time, the next when all is whole again.
//!
//! Without more said a few faults to a little load. `OUTLAST_TRIAL_SECONDS=600` goes on for so long, each kind as often as the
//! others, `OUTLAST_TRIAL_BELOW=continue` has the cluster go on writing below its quota, and `OUTLAST_TRIAL_STORES=3` gives each
//! node so many stores, two of them for copies. `OUTLAST_WRITE_DOCS=1` writes what came of it to `docs/reports/cluster.md`,
//! `cluster-continue.md` or `cluster-3-stores.md`.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testbed::lab::{self, Host};
use testbed::members::Members;
use testbed::node::NodeOptions;
use testbed::stores::Stores;
use testbed::wait;

use super::load::{Group, Load, Size};
use super::times::{Document, machine_time};
use super::whole;
use crate::faults::{Sequence, number};
use crate::kills::calls::Callers;
use crate::kills::report::commit;
use crate::lab::nodes;
use crate::world::{DOMAIN, has_etcd};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// A run of many minutes, and what is around it.
const LIMIT: Duration = Duration::from_secs(1_800);
/// For so long a host is away: the others have to get along without it.
const AWAY: Duration = Duration::from_secs(5);
/// Between two faults, when all is whole: who dies sooner is taken for a process that cannot live (`[restart] stable_after`).
const PAUSE: Duration = Duration::from_secs(3);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Container,
    Edge,
    StorePrimary,
    EtcdMember,
    Manager,
    WholeNode,
    CutOff,
}

const KINDS: [Kind; 7] = [
    Kind::Container,
    Kind::Edge,
    Kind::StorePrimary,
    Kind::EtcdMember,
    Kind::Manager,
    Kind::WholeNode,
    Kind::CutOff,
];
/// Those of a short run.
const SHORT: [Kind; 4] = [Kind::StorePrimary, Kind::CutOff, Kind::Container, Kind::WholeNode];

impl Kind {
    /// What happens to whom.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Container => "container killed",
            Kind::Edge => "edge killed",
            Kind::StorePrimary => "store primary killed",
            Kind::EtcdMember => "etcd member killed",
            Kind::Manager => "manager killed",
            Kind::WholeNode => "node without power",
            Kind::CutOff => "node cut off, then healed",
        }
    }

    /// Whether phones cannot reach the node's edge meanwhile.
    fn takes_the_edge(self) -> bool {
        matches!(self, Kind::Edge | Kind::WholeNode | Kind::CutOff)
    }
}

/// A fault that happened.
#[derive(Debug, Clone)]
pub(super) struct Struck {
    pub(super) kind: Kind,
    /// Which phones cannot reach meanwhile.
    pub(super) edge: Option<SocketAddr>,
    pub(super) began: Instant,
    /// How long after that the others knew that the host is lost.
    pub(super) noticed: Option<Duration>,
    /// When a host was there again; else when it began.
    pub(super) healed: Instant,
    /// When all was whole again.
    pub(super) whole: Instant,
    pub(super) bindings_lost: usize,
}

/// A time without a host.
struct Absence {
    began: Instant,
    /// How long after that the others knew.
    noticed: Duration,
    over: Instant,
}

/// The members, and the faults so far.
struct Trial<'m, 'l> {
    members: &'m mut Members<'l>,
    sequence: Sequence,
    struck: Vec<Struck>,
}

impl Trial<'_, '_> {
    /// Hits a member by chance, and waits until all is whole again.
    fn strike(&mut self, kind: Kind) {
        let mut member = self.sequence.next(NODES.len());
        let edge = self.members.node(member).sip("udp");
        let edge = Some(edge).filter(|_| kind.takes_the_edge());
        let (mut noticed, mut healed) = (None, None);
        let began = match kind {
            Kind::StorePrimary => {
                let store;
                (member, store) = self.primary();
                self.kill(member, &store)
            }
            Kind::Container => {
                let container = ["container1", "container2"][self.sequence.next(2)];
                self.kill(member, container)
            }
            Kind::Edge => self.kill(member, "edge1"),
            Kind::EtcdMember => self.kill(member, "repository"),
            Kind::Manager => self.kill_manager(member),
            Kind::WholeNode | Kind::CutOff => {
                let absence = self.take_away(kind, member);
                (noticed, healed) = (Some(absence.noticed), Some(absence.over));
                absence.began
            }
        };
        whole::wait(self.members);
        let (healed, whole) = (healed.unwrap_or(began), Instant::now());
        println!("{} of {}: whole {:?} after it", kind.name(), NODES[member], whole - healed);
        let bindings_lost = 0;
        self.struck.push(Struck { kind, edge, began, noticed, healed, whole, bindings_lost });
    }

    /// Has a host without power, or unreachable, for a while.
    fn take_away(&mut self, kind: Kind, member: usize) -> Absence {
        let began = Instant::now();
        let cut = match kind {
            Kind::CutOff => Some(self.members.lab().cut(NODES[member])),
            _ => {
                self.members.power_off(member);
                None
            }
        };
        let noticed = self.until_lost(member, began);
        thread::sleep(AWAY.saturating_sub(began.elapsed()));
        let over = Instant::now();
        match cut {
            Some(cut) => cut.heal(),
            None => self.members.power_on(member),
        }
        Absence { began, noticed, over }
    }

    /// Kills a manager; when. Waits until there is another one in its place.
    fn kill_manager(&self, member: usize) -> Instant {
        let node = self.members.node(member);
        let before = node.manager_pid();
        let began = Instant::now();
        kill(before);
        node.wait_for_manager_after(before);
        began
    }

    /// Kills a process; when. Waits until there is another in its place.
    fn kill(&self, member: usize, name: &str) -> Instant {
        let node = self.members.node(member);
        let before = node.process(name).pid.expect("all serve");
        let began = Instant::now();
        kill(before);
        wait::until("the process to be replaced", whole::LIMIT, || {
            let process = node.process(name);
            if process.pid.is_some_and(|pid| pid != before) {
                return Ok(());
            }
            thread::sleep(whole::LOOK_INTERVAL);
            Err(process)
        });
        began
    }

    /// Which store serves a part of the state, by chance: its member, and its name there.
    fn primary(&mut self) -> (usize, String) {
        let status = whole::state_status(self.members, 0).expect("all is whole");
        let shards = status["shards"].as_array().expect("a list");
        let name = &shards[self.sequence.next(shards.len())]["primary"]["name"];
        let (store, node) = name.as_str().and_then(|name| name.split_once('@')).expect("a name");
        let member = NODES.iter().position(|name| *name == node).expect("a member");
        (member, store.to_owned())
    }

    /// Waits until another member knows that this one is lost; how long after `began` it did.
    fn until_lost(&self, member: usize, began: Instant) -> Duration {
        self.members.until_sees((member + 1) % NODES.len(), "a member lost", |view| {
            view.state(NODES[member]) == Some("lost")
        });
        began.elapsed()
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL).expect("it runs");
}

/// What writes do below the quota, as asked for.
pub(super) fn below_quota() -> String {
    std::env::var("OUTLAST_TRIAL_BELOW").unwrap_or_else(|_| "refuse".to_owned())
}

/// How many stores each node has, as asked for.
pub(super) fn stores() -> u64 {
    number("OUTLAST_TRIAL_STORES").unwrap_or(2)
}

/// Of a node with the back-to-back agent, which serves HTTP at its host's address.
fn options(host: &Host) -> NodeOptions {
    let mut options = nodes::options(host);
    let (address, below, stores) = (host.ipv4(), below_quota(), stores());
    let more = format!(
        "[container]\napplications = [\"registrar\", \"back-to-back\"]\nhttp = \"{address}:0\"\n\
         [cluster]\naddress = \"{address}:6200\"\nbelow_quota = \"{below}\"\n\
         stores = {stores}\n"
    );
    options.config = options.config.map(|config| format!("{more}{config}"));
    options
}

/// The kinds in the order in which they come: each once, in an order of chance, then each once again.
fn kinds(sequence: &mut Sequence) -> Vec<Kind> {
    let mut left = KINDS.to_vec();
    (0..KINDS.len()).map(|_| left.swap_remove(sequence.next(left.len()))).collect()
}

#[test]
fn faults_of_every_kind_lose_nothing_of_three_nodes_that_are_one_cluster() {
    if !has_etcd() || !Stores::are_installed() {
        return;
    }
    lab::run_within(LIMIT, &["node1", "node2", "node3", "phones"], |lab| {
        let seed = number("OUTLAST_SEED").unwrap_or(u64::from(std::process::id()) | 1);
        println!("seed {seed}");
        // Now, not when it is over: others may go on meanwhile.
        let commit = commit();
        let mut members = Members::cluster(lab, &NODES, options);
        let mut trial =
            Trial { members: &mut members, sequence: Sequence(seed), struck: Vec::new() };
        whole::wait(trial.members);
        let size = Size::asked_for();
        let group = Group::new(trial.members, &[0, 1, 2]);
        let agent = format!("b2b.{DOMAIN}");
        let load = Load::begin(lab.host("phones"), vec![group], size, &agent, Callers::Persistent);
        let (began, busy) = (Instant::now(), machine_time());
        thread::sleep(PAUSE);
        let lasts = number("OUTLAST_TRIAL_SECONDS").map(Duration::from_secs);
        loop {
            let round = match lasts {
                Some(_) => kinds(&mut trial.sequence),
                None => SHORT.to_vec(),
            };
            for kind in round {
                if lasts.is_none_or(|lasts| began.elapsed() < lasts) {
                    trial.strike(kind);
                    load.look_for_doors(trial.members);
                    let lost = load.lost_bindings(trial.members, trial.struck.len());
                    trial.struck.last_mut().expect("just now").bindings_lost = lost;
                    thread::sleep(PAUSE);
                }
            }
            if lasts.is_none_or(|lasts| began.elapsed() >= lasts) {
                break;
            }
        }
        let (took, busy) = (began.elapsed(), busy.since());
        let struck = std::mem::take(&mut trial.struck);
        let losses = load.end(&members);
        let document =
            Document { commit, seed, size, took, busy, struck: &struck, losses: &losses };
        println!("{}", document.text());
        if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
            document.write();
        }
        losses.assert_none();
    });
}
