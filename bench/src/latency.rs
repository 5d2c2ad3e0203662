//! Latency below saturation: REGISTER and INVITE→180 at a fifth, half and four fifths of what each server can do, and
//! at one rate for all.
//!
//! Capacity is what the closed loop reached in the same round, load and server together on the machine's cores. Then an
//! open loop sends at a share of it: operations begin at their time whether or not earlier ones were answered, and
//! latency counts from the time meant, so a server that stalls cannot hide it. At shares of its own capacity a faster
//! server is sent more; so all are sent the same as well, half of what the slowest can do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{self, Latency, Load, LoadReport, Pace};
use crate::progress::Progress;
use crate::server::{Allocator, Authentication, Bench, Server, ServerKind};

/// Shares of the capacity.
pub const SHARES: [f64; 3] = [0.2, 0.5, 0.8];
/// Share of the slowest server's capacity that all are sent.
const SHARE_OF_SLOWEST: f64 = 0.5;

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
    /// In memory, as packaged.
    KamailioPackaged,
}

impl Who {
    /// All of them.
    pub const ALL: [Who; 3] = [Who::Outlast, Who::Kamailio, Who::KamailioPackaged];
    /// Those that are timed at shares of what they can do.
    pub const AT_SHARES: [Who; 2] = [Who::Outlast, Who::Kamailio];

    /// For the reader.
    pub fn name(self) -> &'static str {
        match self {
            Who::Outlast => "Outlast",
            Who::Kamailio => "Kamailio, fastest allocator",
            Who::KamailioPackaged => "Kamailio, as packaged",
        }
    }

    fn kind(self) -> ServerKind {
        match self {
            Who::Outlast => ServerKind::Outlast(Authentication::Off),
            Who::Kamailio => ServerKind::Kamailio(Authentication::Off, Allocator::Fast),
            Who::KamailioPackaged => ServerKind::Kamailio(Authentication::Off, Allocator::Packaged),
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
    /// At shares of each server's capacity, in the order they were made.
    pub runs: Vec<Timed>,
    /// At one rate for all.
    #[serde(default)]
    pub equal: Vec<Timed>,
}

impl LatencyFigures {
    /// The rounds of a server at a share of its capacity.
    pub fn at_share(&self, who: Who, operation: Operation, share: f64) -> Vec<&Timed> {
        let is_meant = |run: &&Timed| {
            run.who == who && run.operation == operation && (run.share - share).abs() < 1e-9
        };
        self.runs.iter().filter(is_meant).collect()
    }

    /// The rounds of a server at the rate that all were sent.
    pub fn at_equal_rate(&self, who: Who, operation: Operation) -> Vec<&Timed> {
        let is_meant = |run: &&Timed| run.who == who && run.operation == operation;
        self.equal.iter().filter(is_meant).collect()
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
    pub const FULL: Extent =
        Extent { rounds: 3, duration: Duration::from_millis(2500), users: 10_000 };
}

/// Measures all servers and both operations.
///
/// # Errors
/// When a server does not start or a load cannot run.
pub fn run(
    bench: &Bench,
    extent: Extent,
    mut say: impl FnMut(&str),
) -> anyhow::Result<LatencyFigures> {
    let mut figures = LatencyFigures::default();
    // A run for each server's capacity and for the rate of all, and those at shares.
    let of_operation = 2 * Who::ALL.len() + SHARES.len() * Who::AT_SHARES.len();
    let mut progress = Progress::of(extent.rounds * Operation::ALL.len() * of_operation, &mut say);
    for _ in 0..extent.rounds {
        for operation in Operation::ALL {
            let mut capacities = Vec::new();
            for who in Who::ALL {
                let shares: &[f64] = if Who::AT_SHARES.contains(&who) { &SHARES } else { &[] };
                let mut measured = Measured::start(bench, extent, operation, who)?;
                let capacity = measured.capacity(&mut progress)?;
                for &share in shares {
                    let rate = capacity * share;
                    figures.runs.push(measured.at(rate, capacity, &mut progress)?);
                }
                capacities.push((who, capacity));
            }
            let slowest = capacities.iter().map(|(_, capacity)| *capacity);
            let rate = slowest.fold(f64::INFINITY, f64::min) * SHARE_OF_SLOWEST;
            for (who, capacity) in capacities {
                let mut measured = Measured::start(bench, extent, operation, who)?;
                figures.equal.push(measured.at(rate, capacity, &mut progress)?);
            }
        }
    }
    Ok(figures)
}

/// A server that runs, and the load that it gets.
struct Measured<'b> {
    bench: &'b Bench,
    server: Server,
    load: Load,
    operation: Operation,
    who: Who,
}

impl<'b> Measured<'b> {
    fn start(
        bench: &'b Bench,
        extent: Extent,
        operation: Operation,
        who: Who,
    ) -> anyhow::Result<Measured<'b>> {
        let server = Server::start(bench, who.kind())?;
        let load = Load {
            duration: extent.duration,
            warmup: Duration::from_millis(700),
            // Each run registers the same contacts; others would add up and all ring.
            local_port: Some(load::free_local_ports()?),
            ..Load::saturating(operation.scenario(), extent.users)
        };
        Ok(Measured { bench, server, load, operation, who })
    }

    /// What the closed loop reaches, operations a second.
    fn capacity(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<f64> {
        let load = Load { duration: Duration::from_millis(1500), ..self.load.clone() };
        let capacity = load::run(self.bench, &self.server, &load)?.throughput_per_s;
        let (operation, who) = (self.operation.title(), self.who.name());
        progress.done(&format!("{operation:<15} {who:<27} can do {capacity:>7.0}/s"));
        Ok(capacity)
    }

    /// How long operations take at that rate.
    fn at(
        &mut self,
        rate: f64,
        capacity_per_s: f64,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Timed> {
        let load = Load { pace: Pace::Open { rate }, ..self.load.clone() };
        let report = load::run(self.bench, &self.server, &load)?;
        let latency_us = self.operation.latency(&report);
        progress.done(&format!(
            "{:<15} {:<27} at     {rate:>7.0}/s  p50 {:>7.0}  p99 {:>7.0}  p99.9 {:>7.0} µs",
            self.operation.title(),
            self.who.name(),
            latency_us.p50,
            latency_us.p99,
            latency_us.p999,
        ));
        Ok(Timed {
            who: self.who,
            operation: self.operation,
            capacity_per_s,
            share: rate / capacity_per_s,
            latency_us,
            failures: report.failures(),
            operations: report.operations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_told_apart_by_server_operation_and_share() {
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
            equal: vec![run(Who::Outlast, 0.2, 5.0), run(Who::Kamailio, 0.1, 4.0)],
        };
        let p50s = |runs: Vec<&Timed>| -> Vec<f64> {
            runs.into_iter().map(|run| run.latency_us.p50).collect()
        };
        assert_eq!(p50s(figures.at_share(Who::Outlast, Operation::Register, 0.2)), [1.0, 3.0]);
        assert!(figures.at_share(Who::Outlast, Operation::InviteTo180, 0.2).is_empty());
        assert_eq!(p50s(figures.at_equal_rate(Who::Kamailio, Operation::Register)), [4.0]);
    }
}
