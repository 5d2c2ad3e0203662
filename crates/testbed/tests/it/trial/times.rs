//! What callers noticed of each kind of fault, beside what is promised (DESIGN: what survives what), as
//! `docs/reports/cluster.md` tells it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::load::{Losses, Size};
use super::three::{Kind, Struck, below_quota, stores};
use crate::kills::calls::{Part, Step};
use crate::kills::report::{machine, repository};

/// What the processors of this machine have done so far, in hundredths of a second.
pub(super) struct MachineTime {
    all: u64,
    idle: u64,
}

/// Now.
pub(super) fn machine_time() -> MachineTime {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let times = first.split_whitespace().skip(1).filter_map(|time| time.parse::<u64>().ok());
    let times: Vec<u64> = times.take(8).collect();
    // The fourth and fifth: idle, and waiting for a disk.
    MachineTime { all: times.iter().sum(), idle: times.iter().skip(3).take(2).sum() }
}

impl MachineTime {
    /// How busy they were since then, in percent.
    pub(super) fn since(&self) -> u64 {
        let now = machine_time();
        let all = (now.all - self.all).max(1);
        100 - (now.idle - self.idle) * 100 / all
    }
}

/// What came of a trial.
pub(super) struct Document<'t> {
    pub(super) commit: String,
    pub(super) seed: u64,
    pub(super) size: Size,
    pub(super) took: Duration,
    /// Of the processors, in percent.
    pub(super) busy: u64,
    pub(super) struck: &'t [Struck],
    pub(super) losses: &'t Losses,
}

/// What callers noticed of one fault.
#[derive(Debug, Default, Clone)]
struct Noticed {
    /// By other edges than the one that was away: the longest until a call was up, and until something in it was answered.
    elsewhere: [Duration; 2],
    /// By that edge.
    there: [Duration; 2],
    established_lost: usize,
    others_lost: usize,
}

impl Noticed {
    fn of(struck: &Struck, steps: &[Step]) -> Noticed {
        let mut noticed = Noticed::default();
        for step in steps.iter().filter(|step| is_during(step, struck)) {
            let goes_by = |edge: SocketAddr| step.edges.contains(&Some(edge));
            let is_there = struck.edge.is_some_and(goes_by);
            let longest = if is_there { &mut noticed.there } else { &mut noticed.elsewhere };
            let longest = &mut longest[usize::from(step.part != Part::SetUp)];
            *longest = (*longest).max(step.took);
            match step.part {
                _ if !step.is_lost => {}
                Part::SetUp => noticed.others_lost += 1,
                Part::Asked | Part::HungUp => noticed.established_lost += 1,
            }
        }
        noticed
    }
}

/// Whether a part of a call went on while not all was whole.
fn is_during(step: &Step, struck: &Struck) -> bool {
    step.due < struck.whole && step.due + step.took > struck.began
}

/// What is promised of it.
fn promised(kind: Kind) -> &'static str {
    match kind {
        Kind::Container => "0.5 s",
        Kind::Edge => "back in 1 s",
        Kind::StorePrimary => "set-up delayed 0.5 s",
        Kind::EtcdMember => "calls do not notice",
        Kind::Manager => "back in 1 s, calls do not notice",
        Kind::WholeNode | Kind::CutOff => "noticed in 2 s, set-up delayed 3 s",
    }
}

fn longest(times: impl Iterator<Item = Duration>) -> String {
    times
        .max()
        .filter(|time| !time.is_zero())
        .map_or("–".to_owned(), |time| format!("{} ms", time.as_millis()))
}

fn median(times: impl Iterator<Item = Duration>) -> String {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).map_or("–".to_owned(), |time| format!("{} ms", time.as_millis()))
}

impl Document<'_> {
    /// Writes it anew.
    pub(super) fn write(&self) {
        let below = match below_quota().as_str() {
            "refuse" => String::new(),
            other => format!("-{other}"),
        };
        let stores = match stores() {
            2 => String::new(),
            other => format!("-{other}-stores"),
        };
        let name = format!("cluster{below}{stores}.md");
        let path = repository().join("docs/reports").join(name);
        std::fs::write(path, self.text()).expect("the repository is writable");
    }

    fn table(&self) -> String {
        let mut kinds: BTreeMap<Kind, Vec<(&Struck, Noticed)>> = BTreeMap::new();
        for struck in self.struck {
            let noticed = Noticed::of(struck, &self.losses.calls.steps);
            kinds.entry(struck.kind).or_default().push((struck, noticed));
        }
        let mut text = "| fault | times | known to others | all whole again, median | longest | set-up, longest | in a call, longest \
             | set-up by that edge | in a call by that edge | established calls lost | other calls lost | bindings lost \
             | promised |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for (kind, all) in &kinds {
            let of = |time: fn(&Noticed) -> Duration| longest(all.iter().map(|(_, it)| time(it)));
            let wholes = || all.iter().map(|(struck, _)| struck.whole - struck.healed);
            let sum = |count: fn(&Noticed) -> usize| -> usize {
                all.iter().map(|(_, noticed)| count(noticed)).sum()
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                kind.name(),
                all.len(),
                longest(all.iter().filter_map(|(struck, _)| struck.noticed)),
                median(wholes()),
                longest(wholes()),
                of(|it| it.elsewhere[0]),
                of(|it| it.elsewhere[1]),
                of(|it| it.there[0]),
                of(|it| it.there[1]),
                sum(|it| it.established_lost),
                sum(|it| it.others_lost),
                all.iter().map(|(struck, _)| struck.bindings_lost).sum::<usize>(),
                promised(*kind),
            )
            .expect("a String takes it all");
        }
        text + &self.without_a_fault()
    }

    /// The row of what went on while all was whole.
    fn without_a_fault(&self) -> String {
        let is_quiet = |step: &&Step| !self.struck.iter().any(|struck| is_during(step, struck));
        let quiet: Vec<&Step> = self.losses.calls.steps.iter().filter(is_quiet).collect();
        let times = |is_set_up: bool| {
            let of_part = quiet.iter().filter(move |it| (it.part == Part::SetUp) == is_set_up);
            of_part.map(|step| step.took)
        };
        let is_established = |step: &&&Step| step.is_lost && step.part != Part::SetUp;
        let established = quiet.iter().filter(is_established).count();
        let others = quiet.iter().filter(|step| step.is_lost).count() - established;
        format!(
            "| none | | | | | {} (median {}) | {} (median {}) | | | {established} | {others} | | |\n",
            longest(times(true)),
            median(times(true)),
            longest(times(false)),
            median(times(false)),
        )
    }

    pub(super) fn text(&self) -> String {
        let Document { commit, seed, size, took, busy, struck, losses } = self;
        let Size { bindings, calls_per_second, sessions } = size;
        let (below, stores) = (below_quota(), stores());
        let made = (losses.calls.whole + losses.calls.losses.len()) as f64 / took.as_secs_f64();
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let refreshes = losses.refreshes.iter().map(|it| format!("{it:?}")).collect::<String>();
        format!(
            "# Three nodes with {stores} stores each, {} faults, below the quota: `{below}`\n\n\
             Written by `crates/testbed/tests/it/trial/three.rs`; do not edit it by hand.\n\n    \
             OUTLAST_TRIAL_SECONDS={} OUTLAST_TRIAL_BINDINGS={bindings} OUTLAST_TRIAL_CALLS={calls_per_second} \
             OUTLAST_TRIAL_BELOW={below} OUTLAST_TRIAL_STORES={stores} \\\n        OUTLAST_SEED={seed} OUTLAST_WRITE_DOCS=1 \
             cargo test {profile}-p testbed --test it trial::three\n\n\
             {}\n\n\
             Commit {commit}, seed {seed}, {build} build, {} min {} s, {}; the processors were busy for {busy} % of the \
             time.\n\n{}\n{losses}\n\
             {made:.1} calls a second came up of {calls_per_second} asked for; callers were told {} times to try again, \
             and {} times in\na call that was up; {} times a callee that had answered a request in a call was sent it again by another edge, \
             and refused it\n(500; the caller tried again); refreshes of bindings: {refreshes}; HTTP requests to {sessions} sessions.\n",
            struck.len(),
            took.as_secs(),
            EXPLAINED,
            took.as_secs() / 60,
            took.as_secs() % 60,
            machine(),
            self.table(),
            losses.calls.refusals,
            losses.calls.refusals_within,
            losses.calls.failovers,
        )
    }
}

const EXPLAINED: &str = "Three nodes on hosts of their own (network namespaces of one machine), each with one edge, two \
containers, its stores and a\nmember of etcd; `write_quota = 1`. Callers have one flow over UDP, callees two, by edges of two nodes. Every second call goes\nthrough \
the back-to-back agent; each is held for 0.8 s, has an INFO in the middle, and is hung up; who is told to try again (503, 500 by\n\
the agent) does so after 0.2 s. Bindings are refreshed all the time, sessions are written to by HTTP. One fault after the other, \
the next when\nall is whole again: every process of every node ready, every part of the state with a copy on another host. A host is away for 5 s.\n\n\
*Whole again* counts from the fault, or from its end if a host was away. *Set-up*: from the wish to call to the answer, refusals\n\
included; *in a call*: INFO and BYE, until answered. *By that edge*: calls that have to go by the edge that was hit or away. A write is \
lost when a later answer\nof its session does not count it; a binding, when it is not there or has not the lifetime that was \
acknowledged last.";

#[test]
fn what_began_before_a_fault_and_ended_in_it_has_met_it() {
    let at = Instant::now();
    let after = |seconds| at + Duration::from_secs(seconds);
    let edges = [Some(SocketAddr::from(([192, 0, 2, 1], 5060))), None];
    let step = |due, took| Step {
        part: Part::Asked,
        due: after(due),
        took: Duration::from_secs(took),
        edges,
        is_lost: true,
    };
    let struck = Struck {
        kind: Kind::CutOff,
        edge: edges[0],
        began: after(10),
        noticed: None,
        healed: after(15),
        whole: after(20),
        bindings_lost: 0,
    };
    let noticed = Noticed::of(&struck, &[step(8, 1), step(9, 2), step(19, 4), step(20, 1)]);
    assert_eq!(noticed.there, [Duration::ZERO, Duration::from_secs(4)]);
    assert_eq!((noticed.established_lost, noticed.elsewhere), (2, [Duration::ZERO; 2]));
}
