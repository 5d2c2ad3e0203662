//! Trials: nodes on hosts of their own under load, and one fault after the other, the next when all serve again.
//!
//! The load is bindings, calls all the time, and writes to sessions by HTTP; faults are those of processes, and of whole hosts:
//! without power, cut off. Afterwards every loss is counted by its kind. Without more said, three faults to a little load.
//! `OUTLAST_TRIAL_FAULTS=100` does so many, chosen at random; `OUTLAST_SEED` the same again; `OUTLAST_TRIAL_BINDINGS` and
//! `OUTLAST_TRIAL_CALLS` (a second) say how much load there is in all; `OUTLAST_WRITE_DOCS=1` writes what came of it to
//! `docs/reports/trial.md`.

mod bindings;
mod cost;
mod load;
mod report;
mod three;
mod times;
mod whole;
mod writes;

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testbed::lab;
use testbed::members::Members;

use crate::faults::{Hits, Sequence, Victim, number, table};
use crate::kills::calls::Callers;
use crate::kills::report::commit;
use crate::lab::nodes::options;
use crate::world::DOMAIN;
use load::{Group, Load, Size};
use report::Report;

/// A run of many faults takes long.
const LIMIT: Duration = Duration::from_secs(3_600);
/// For so long a host is away: longer than whoever depends on it needs to find out.
const AWAY: Duration = Duration::from_millis(2_500);

/// What is done to one of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Process(Victim, Signal),
    /// The host loses its power, and has it again.
    PowerOff,
    /// Nobody reaches the host, and it reaches nobody.
    CutOff,
}

/// Faults that are chosen from.
const FAULTS: [Fault; 8] = [
    Fault::Process(Victim::Process("container1"), Signal::KILL),
    Fault::Process(Victim::Process("container2"), Signal::STOP),
    Fault::Process(Victim::Process("edge1"), Signal::KILL),
    Fault::Process(Victim::Manager, Signal::KILL),
    Fault::Process(Victim::Manager, Signal::STOP),
    Fault::Process(Victim::Guardian, Signal::KILL),
    Fault::PowerOff,
    Fault::CutOff,
];
/// Those of a short run, and to whom.
const SHORT: [(usize, Fault); 3] = [(0, Fault::CutOff), (1, FAULTS[0]), (1, Fault::PowerOff)];

impl Fault {
    /// The victim and what happens to it.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Fault::Process(victim, Signal::STOP) => (victim.kind(), "stopped"),
            Fault::Process(victim, _) => (victim.kind(), "killed"),
            Fault::PowerOff => ("host", "without power"),
            Fault::CutOff => ("host", "cut off"),
        }
    }

    /// Does it, and waits until all serve again; how long that took from the end of the fault.
    fn strike(self, members: &mut Members<'_>, number: usize) -> Duration {
        let began = match self {
            Fault::Process(victim, signal) => {
                let began = Instant::now();
                members.on_host(number, |node| victim.strike(node, signal));
                began
            }
            Fault::PowerOff => {
                members.power_off(number);
                thread::sleep(AWAY);
                let began = Instant::now();
                members.power_on(number);
                began
            }
            Fault::CutOff => {
                let cut = members.lab().cut(members.host(number).name());
                thread::sleep(AWAY);
                cut.heal();
                Instant::now()
            }
        };
        members.until_whole();
        began.elapsed()
    }
}

/// The faults of a run, in their order.
fn schedule(seed: u64, members: usize) -> Vec<(usize, Fault)> {
    let mut sequence = Sequence(seed);
    match number("OUTLAST_TRIAL_FAULTS") {
        None => SHORT.to_vec(),
        Some(count) => (0..count)
            .map(|_| (sequence.next(members), FAULTS[sequence.next(FAULTS.len())]))
            .collect(),
    }
}

#[test]
fn faults_of_processes_and_hosts_lose_nothing_of_two_nodes_that_are_single() {
    lab::run_within(LIMIT, &["node1", "node2", "phones"], |lab| {
        let mut members = Members::start(lab, &["node1", "node2"], |host| {
            let mut options = options(host);
            let http = format!("[container]\nhttp = \"{}:0\"\n", host.ipv4());
            options.config = options.config.map(|config| format!("{http}{config}"));
            options
        });
        // Each is on its own: its phones and sessions are known to nobody else.
        let groups = (0..members.count()).map(|member| Group::new(&members, &[member])).collect();
        lose_nothing(&mut members, groups, "two single nodes");
    });
}

/// Brings load on the groups, does the faults, counts.
fn lose_nothing(members: &mut Members<'_>, groups: Vec<Group>, what: &str) {
    let seed = number("OUTLAST_SEED").unwrap_or(u64::from(std::process::id()) | 1);
    println!("seed {seed}");
    // Now, not when it is over: others may go on meanwhile.
    let commit = commit();
    let size = Size::asked_for();
    let phones = members.lab().host("phones");
    let load = Load::begin(phones, groups, size, DOMAIN, Callers::Plain);
    let began = Instant::now();
    let mut hits = Hits::default();
    for (member, fault) in schedule(seed, members.count()) {
        let back = fault.strike(members, member);
        println!("{:?} of member {member}: back after {back:?}", fault.name());
        hits.entry(fault.name()).or_default().push(back);
        load.look_for_doors(members);
    }
    let losses = load.end(members);
    let report = Report { what, commit, seed, size, took: began.elapsed(), hits, losses: &losses };
    println!("{}\n{losses}", table(&report.hits));
    if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
        report.write();
    }
    losses.assert_none();
}
