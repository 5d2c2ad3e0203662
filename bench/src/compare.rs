//! The comparison: who is loaded with what, and rounds of it.
//!
//! A group is a load and the servers that take it. In each round every server of the group is started, loaded and ended
//! in turn, the order turned by one from round to round, so that no server always runs on a machine that another has
//! just warmed up, and so that slow minutes of the machine touch all alike.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::load::{self, Load, LoadReport, Transport};
use crate::progress::Progress;
use crate::server::{Allocator, Authentication, Bench, Server, ServerKind};
use crate::statistics::Summary;

/// A server in a group.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Names its figures within the group.
    pub id: &'static str,
    /// What it is.
    pub server: ServerKind,
    /// What it gets.
    pub load: Load,
    /// Messages that an operation has it forward or answer; figures are for one of them.
    pub parts: f64,
}

/// Servers under one load.
#[derive(Clone, Debug)]
pub struct Group {
    /// Names its figures.
    pub id: &'static str,
    /// What is done, for the reader.
    pub title: &'static str,
    /// Who is compared; the first is ours.
    pub contenders: Vec<Contender>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds of each group.
    pub rounds: usize,
    /// Measured time of each run.
    pub duration: Duration,
    /// Time before it.
    pub warmup: Duration,
    /// Users.
    pub users: u32,
}

impl Extent {
    /// For the report.
    pub const FULL: Extent = Extent {
        rounds: 5,
        duration: Duration::from_millis(1800),
        warmup: Duration::from_millis(700),
        users: 10_000,
    };
    /// For a look.
    pub const QUICK: Extent = Extent {
        rounds: 2,
        duration: Duration::from_millis(1000),
        warmup: Duration::from_millis(500),
        users: 10_000,
    };
}

/// An operation as the short table and the picture show it: ours beside Kamailio's twice.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The operation.
    pub title: &'static str,
    /// How it is carried, and what else tells it from others.
    pub remark: &'static str,
    /// The group's id.
    pub group: &'static str,
    /// Our contender's.
    pub ours: &'static str,
    /// Kamailio's with its fastest allocator.
    pub fastest: &'static str,
    /// Kamailio's as packaged.
    pub packaged: &'static str,
}

/// What is shown of the groups at a glance.
pub const ROWS: [Row; 9] = [
    Row::of("REGISTER", "UDP", "register-udp"),
    Row::with_digest("UDP", "register-udp"),
    Row::of("REGISTER", "TCP", "register-tcp"),
    Row::with_digest("TCP", "register-tcp"),
    Row::of("New connection, REGISTER, end", "TCP", "churn-tcp"),
    Row::of("Relayed call", "through registrar, UDP", "call-udp"),
    Row::of("Relayed call", "through registrar, TCP", "call-tcp"),
    Row::of("Message in a dialog", "forwarded without state, UDP", "dialog-udp"),
    Row::of("OPTIONS keep-alive", "UDP", "options-udp"),
];

impl Row {
    const fn of(title: &'static str, remark: &'static str, group: &'static str) -> Row {
        let (ours, fastest, packaged) = ("outlast", "kamailio-fast", "kamailio");
        Row { title, remark, group, ours, fastest, packaged }
    }

    const fn with_digest(remark: &'static str, group: &'static str) -> Row {
        Row {
            ours: "outlast-digest",
            fastest: "kamailio-digest-fast",
            packaged: "kamailio-digest",
            ..Row::of("REGISTER with digest", remark, group)
        }
    }
}

/// Connections that the users of a load over TCP share.
const CONNECTIONS: u32 = 200;

/// Everything that is compared.
pub fn groups(extent: Extent) -> Vec<Group> {
    use Allocator::{Fast, Packaged};
    use Authentication::{Digest, Off};
    use ServerKind::{Echo, Kamailio, KamailioStateless, Outlast};
    let load = |scenario| Load {
        duration: extent.duration,
        warmup: extent.warmup,
        ..Load::saturating(scenario, extent.users)
    };
    let contender = |id, server, load: Load| Contender { id, server, load, parts: 1.0 };
    // An in-dialog request is two forwarded messages: itself and its answer.
    let forwarded = |id, server, load: Load| Contender { id, server, load, parts: 2.0 };
    let register = |id, title, load: Load| {
        let digest = Load { digest: true, ..load.clone() };
        let contenders = vec![
            contender("outlast", Outlast(Off), load.clone()),
            contender("kamailio-fast", Kamailio(Off, Fast), load.clone()),
            contender("kamailio", Kamailio(Off, Packaged), load),
            contender("outlast-digest", Outlast(Digest), digest.clone()),
            contender("kamailio-digest-fast", Kamailio(Digest, Fast), digest.clone()),
            contender("kamailio-digest", Kamailio(Digest, Packaged), digest),
        ];
        Group { id, title, contenders }
    };
    let over_tcp =
        |scenario| Load { transport: Transport::Tcp, sockets: CONNECTIONS, ..load(scenario) };
    let three = |id, title, load: Load| Group {
        id,
        title,
        contenders: vec![
            contender("outlast", Outlast(Off), load.clone()),
            contender("kamailio-fast", Kamailio(Off, Fast), load.clone()),
            contender("kamailio", Kamailio(Off, Packaged), load),
        ],
    };
    vec![
        register("register-udp", "REGISTER over UDP", load("register")),
        register("register-tcp", "REGISTER over TCP", over_tcp("register")),
        three("churn-tcp", "TCP connection, a REGISTER, and its end", over_tcp("churn")),
        three("call-udp", "relayed call over UDP", load("call")),
        three("call-tcp", "relayed call over TCP", over_tcp("call")),
        Group {
            id: "dialog-udp",
            title: "message of a request in a dialog, forwarded over UDP",
            contenders: vec![
                forwarded("outlast", Outlast(Off), load("dialog")),
                forwarded("kamailio-fast", KamailioStateless(Fast), load("dialog")),
                forwarded("kamailio", KamailioStateless(Packaged), load("dialog")),
                contender("echo", Echo, load("echo")),
            ],
        },
        three("options-udp", "OPTIONS keep-alive over UDP", load("options")),
    ]
}

/// One run of one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Of which round, counted from 0.
    pub round: usize,
    /// CPU of all processes of the server for one part of an operation, in microseconds.
    pub cpu_us: f64,
    /// Operations a second that the machine did, load and server together on its cores.
    pub throughput_per_s: f64,
    /// Median time of an operation at saturation, in microseconds.
    pub p50_us: f64,
    /// Operations that did not end as they should.
    pub failures: u64,
    /// Operations in all.
    pub operations: u64,
    /// Messages the load sent again.
    pub retransmissions: u64,
    /// CPU of the load for an operation, in microseconds.
    pub load_cpu_us: f64,
}

impl Sample {
    fn of(report: &LoadReport, parts: f64, round: usize) -> Sample {
        Sample {
            round,
            cpu_us: report.server_cpu_us() / parts,
            throughput_per_s: report.throughput_per_s,
            p50_us: report.latency().p50,
            failures: report.failures(),
            operations: report.operations,
            retransmissions: report.retransmissions,
            load_cpu_us: report.load_cpu_us(),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.2} µs CPU  {:>9.0}/s", self.cpu_us, self.throughput_per_s)?;
        if self.failures > 0 {
            write!(f, "  {} of {} failed", self.failures, self.operations)?;
        }
        Ok(())
    }
}

/// Figures by group and contender, a sample a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Group id, then contender id.
    pub groups: BTreeMap<String, BTreeMap<String, Vec<Sample>>>,
    /// Runs that did not come about, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

impl Comparison {
    /// The samples of a contender, by round.
    pub fn samples(&self, group: &str, contender: &str) -> &[Sample] {
        let of_group = self.groups.get(group);
        of_group.and_then(|group| group.get(contender)).map_or(&[], Vec::as_slice)
    }

    /// CPU for one part of an operation, in microseconds.
    pub fn cpu_us(&self, group: &str, contender: &str) -> Option<Summary> {
        Summary::of(self.samples(group, contender).iter().map(|sample| sample.cpu_us))
    }

    /// Operations a second.
    pub fn throughput(&self, group: &str, contender: &str) -> Option<Summary> {
        Summary::of(self.samples(group, contender).iter().map(|sample| sample.throughput_per_s))
    }

    /// CPU of one contender as a multiple of another's in the same round.
    pub fn cpu_ratio(&self, group: &str, of: &str, to: &str) -> Option<Summary> {
        let ratios = self.samples(group, of).iter().filter_map(|ours| {
            let mut others = self.samples(group, to).iter();
            let theirs = others.find(|theirs| theirs.round == ours.round)?;
            Some(ours.cpu_us / theirs.cpu_us)
        });
        Summary::of(ratios)
    }
}

/// Runs everything that is compared.
pub fn run(bench: &Bench, extent: Extent, say: impl FnMut(&str)) -> Comparison {
    run_groups(bench, &groups(extent), extent.rounds, say)
}

/// Runs these groups in so many rounds. What cannot be run is written down, and the rest goes on.
pub(crate) fn run_groups(
    bench: &Bench,
    groups: &[Group],
    rounds: usize,
    mut say: impl FnMut(&str),
) -> Comparison {
    let mut comparison = Comparison::default();
    let runs = groups.iter().map(|group| group.contenders.len()).sum::<usize>() * rounds;
    let mut progress = Progress::of(runs, &mut say);
    for round in 0..rounds {
        for group in groups {
            for place in 0..group.contenders.len() {
                let contender = &group.contenders[(place + round) % group.contenders.len()];
                let run = format!("{:<13} {:<21}", group.id, contender.id);
                match measure(bench, contender, round) {
                    Ok(sample) => {
                        progress.done(&format!("{run} {sample}"));
                        let of_group = comparison.groups.entry(group.id.to_owned()).or_default();
                        of_group.entry(contender.id.to_owned()).or_default().push(sample);
                    }
                    Err(error) => {
                        progress.done(&format!("{run} {error:#}"));
                        let why = first_line(&error);
                        comparison.missing.push(format!("{}, {}: {why}", group.id, contender.id));
                    }
                }
            }
        }
    }
    comparison
}

/// What of an error goes into a report; the rest was shown as it happened.
pub(crate) fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn measure(bench: &Bench, contender: &Contender, round: usize) -> anyhow::Result<Sample> {
    let server = Server::start(bench, contender.server)?;
    let report = load::run(bench, &server, &contender.load)?;
    if let ServerKind::OutlastAnswering(_) = contender.server
        && report.invite_to_180_us.is_some()
    {
        bail!("it rang, so phones answered and not the application");
    }
    Ok(Sample::of(&report, contender.parts, round))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: usize, cpu_us: f64) -> Sample {
        Sample {
            round,
            cpu_us,
            throughput_per_s: 1.0,
            p50_us: 1.0,
            failures: 0,
            operations: 1,
            retransmissions: 0,
            load_cpu_us: 1.0,
        }
    }

    #[test]
    fn ratios_pair_the_samples_of_a_round() {
        let mut comparison = Comparison::default();
        let group = comparison.groups.entry("g".to_owned()).or_default();
        group.insert(
            "ours".to_owned(),
            vec![sample(0, 10.0), sample(1, 40.0), sample(2, 12.0), sample(3, 9.0)],
        );
        group.insert("theirs".to_owned(), vec![sample(1, 80.0), sample(0, 20.0), sample(2, 20.0)]);
        let ratio = comparison.cpu_ratio("g", "ours", "theirs").expect("both have samples");
        // The second round ran on a machine a quarter as fast; the fourth has no other half.
        assert_eq!((ratio.median, ratio.min, ratio.max, ratio.rounds), (0.5, 0.5, 0.6, 3));
        assert_eq!(comparison.cpu_ratio("g", "ours", "nobody"), None);
    }

    #[test]
    fn rows_name_groups_and_contenders_that_are_measured() {
        let groups = groups(Extent::QUICK);
        for row in ROWS {
            let group = groups.iter().find(|group| group.id == row.group).expect("it is measured");
            for id in [row.ours, row.fastest, row.packaged] {
                assert!(group.contenders.iter().any(|contender| contender.id == id), "{id}");
            }
        }
    }

    #[test]
    fn ids_within_a_group_differ_and_the_first_is_ours() {
        for group in groups(Extent::QUICK) {
            let mut ids: Vec<&str> =
                group.contenders.iter().map(|contender| contender.id).collect();
            assert_eq!(ids[0], "outlast");
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), group.contenders.len(), "{}", group.id);
        }
    }
}
