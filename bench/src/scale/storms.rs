//! Everybody registers at once: an edge is killed with -9 and all its phones come back in the same moment.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::StormFigures;
use crate::load::{self, Load, Pace};
use crate::server::{Authentication, Bench, Node, signal};

pub(super) fn run(
    bench: &Bench,
    storms: &[u32],
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<StormFigures>> {
    storms.iter().map(|&users| storm(bench, users, progress)).collect()
}

fn storm(
    bench: &Bench,
    users: u32,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<StormFigures> {
    let node = Node::start(bench, Authentication::Off, "")?;
    let calm = Load {
        warmup: Duration::ZERO,
        local_port: Some(load::free_local_ports()?),
        ..Load::saturating("storm", users)
    };
    let before = load::run(bench, node.server(), &calm)?;
    let edge = node.pid_of(bench, "edge1")?;
    let killed = Instant::now();
    signal(edge, Signal::KILL);
    let at_once = Load { pace: Pace::Closed { concurrency: users }, ..calm };
    let report = load::run(bench, node.server(), &at_once)?;
    let figures = StormFigures {
        users,
        all_registered_in_s: killed.elapsed().as_secs_f64(),
        latency_us: report.latency(),
        retransmissions: report.retransmissions,
        failures: before.failures() + report.failures(),
    };
    progress(&format!(
        "{users} users at once after kill -9 of the edge: all registered after {:.2} s, {} repetitions, {} failed",
        figures.all_registered_in_s, figures.retransmissions, figures.failures,
    ));
    Ok(figures)
}
