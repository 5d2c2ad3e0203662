//! Latency below saturation: REGISTER and INVITE→180 at a fifth, half and four fifths of what each server can do.
//!
//! Capacity is what the closed loop reached in the same round, load and server together on the machine's cores. Then an
//! open loop sends at a share of it: operations begin at their time whether or not earlier ones were answered, and
//! latency counts from the time meant, so a server that stalls cannot hide it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{self, Latency, Load, LoadReport, Pace};
use crate::server::{Allocator, Authentication, Bench, Server, ServerKind};
use crate::statistics::Summary;

/// Shares of the capacity.
pub const SHARES: [f64; 3] = [0.2, 0.5, 0.8];

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// REGISTER until its 200.
    Register,
    /// INVITE until its 180, through registrar and callee.
    InviteTo180,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 2] = [Operation::Register, Operation::InviteTo180];

    /// For the reader.
    pub fn title(self) -> &'static str {
        match self {
            Operation::Register => "REGISTER → 200",
            Operation::InviteTo180 => "INVITE → 180",
        }
    }

    fn scenario(self) -> &'static str {
        match self {
            Operation::Register => "register",
            Operation::InviteTo180 => "call",
        }
    }

    fn latency(self, report: &LoadReport) -> Latency {
        match self {
            Operation::Register => report.latency(),
            Operation::InviteTo180 => report.invite_to_180_us.unwrap_or_default(),
        }
    }
}

/// Whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// With everything durable.
    Outlast,
    /// In memory, at its fastest.
    Kamailio,
}

impl Who {
    /// Both.
    pub const ALL: [Who; 2] = [Who::Outlast, Who::Kamailio];

    /// For the reader.
    pub fn name(self) -> &'static str {
        match self {
            Who::Outlast => "Outlast",
            Who::Kamailio => "Kamailio",
        }
    }

    fn kind(self) -> ServerKind {
        match self {
            Who::Outlast => ServerKind::Outlast(Authentication::Off),
            Who::Kamailio => ServerKind::Kamailio(Authentication::Off, Allocator::Fast),
        }
    }
}

/// One run at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Whom.
    pub who: Who,
    /// What.
    pub operation: Operation,
    /// What the closed loop reached in this round, operations a second.
    pub capacity_per_s: f64,
    /// Of that, this share was sent.
    pub share: f64,
    /// How long it took.
    pub latency_us: Latency,
    /// Operations that did not end as they should.
    pub failures: u64,
    /// Operations in all.
    pub operations: u64,
}

/// All runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyFigures {
    /// In the order they were made.
    pub runs: Vec<Timed>,
}

impl LatencyFigures {
    /// A figure of all rounds.
    pub fn summary(
        &self,
        who: Who,
        operation: Operation,
        share: f64,
        figure: impl Fn(&Timed) -> f64,
    ) -> Option<Summary> {
        let runs = self.runs.iter().filter(|run| {
            run.who == who && run.operation == operation && (run.share - share).abs() < 1e-9
        });
        Summary::of(runs.map(figure))
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds.
    pub rounds: usize,
    /// Measured time at each rate.
    pub duration: Duration,
    /// Users.
    pub users: u32,
}

impl Extent {
    /// For the report.
    pub const FULL: Extent = Extent { rounds: 3, duration: Duration::from_secs(3), users: 10_000 };
}

/// Measures both servers and both operations at all shares.
///
/// # Errors
/// When a server does not start or a load cannot run.
pub fn run(
    bench: &Bench,
    extent: Extent,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<LatencyFigures> {
    let mut figures = LatencyFigures::default();
    for round in 1..=extent.rounds {
        for operation in Operation::ALL {
            for who in Who::ALL {
                for run in measure(bench, extent, operation, who)? {
                    progress(&format!(
                        "round {round} of {}  {:<15} {:<9} {:>3.0} % of {:>7.0}/s  p50 {:>7.0}  p99 {:>7.0}  p99.9 {:>7.0} µs",
                        extent.rounds,
                        operation.title(),
                        who.name(),
                        run.share * 100.0,
                        run.capacity_per_s,
                        run.latency_us.p50,
                        run.latency_us.p99,
                        run.latency_us.p999,
                    ));
                    figures.runs.push(run);
                }
            }
        }
    }
    Ok(figures)
}

fn measure(
    bench: &Bench,
    extent: Extent,
    operation: Operation,
    who: Who,
) -> anyhow::Result<Vec<Timed>> {
    let server = Server::start(bench, who.kind())?;
    let load = Load {
        duration: Duration::from_secs(2),
        // Each run registers the same contacts; others would add up and all ring.
        local_port: Some(load::free_local_ports()?),
        ..Load::saturating(operation.scenario(), extent.users)
    };
    let capacity_per_s = load::run(bench, &server, &load)?.throughput_per_s;
    let mut runs = Vec::new();
    for share in SHARES {
        let rate = capacity_per_s * share;
        let load = Load { pace: Pace::Open { rate }, duration: extent.duration, ..load.clone() };
        let report = load::run(bench, &server, &load)?;
        runs.push(Timed {
            who,
            operation,
            capacity_per_s,
            share,
            latency_us: operation.latency(&report),
            failures: report.failures(),
            operations: report.operations,
        });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_one_server_one_operation_and_one_share() {
        let run = |who, share, p50| Timed {
            who,
            operation: Operation::Register,
            capacity_per_s: 1.0,
            share,
            latency_us: Latency { p50, ..Latency::default() },
            failures: 0,
            operations: 1,
        };
        let figures = LatencyFigures {
            runs: vec![
                run(Who::Outlast, 0.2, 1.0),
                run(Who::Outlast, 0.2, 3.0),
                run(Who::Outlast, 0.5, 50.0),
                run(Who::Kamailio, 0.2, 70.0),
            ],
        };
        let summary = figures
            .summary(Who::Outlast, Operation::Register, 0.2, |run| run.latency_us.p50)
            .expect("there are two runs");
        assert_eq!((summary.median, summary.rounds), (2.0, 2));
        let none = figures.summary(Who::Outlast, Operation::InviteTo180, 0.2, |_| 1.0);
        assert_eq!(none, None);
    }
}
