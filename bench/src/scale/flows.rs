//! Connections that are open and silent: what the edge's memory grows by.

use std::time::{Duration, Instant};

use super::FlowFigures;
use crate::load::{Load, Pace, Running, Transport};
use crate::server::{Authentication, Bench, Node, memory_bytes};

const HELD: Duration = Duration::from_secs(4);
/// Longest time to open them all.
const OPENING_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(
    bench: &Bench,
    flows: u32,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<FlowFigures> {
    let node = Node::start(bench, Authentication::Off, "")?;
    let edge = [node.pid_of(bench, "edge1")?];
    let before = memory_bytes(&edge);
    let load = Load {
        transport: Transport::Tcp,
        pace: Pace::OfScenario,
        duration: HELD,
        warmup: Duration::ZERO,
        ..Load::saturating("idle", flows)
    };
    let server = node.server();
    let target = server.tcp.unwrap_or(server.udp);
    let mut running = Running::start(bench, target, &server.watch, &load)?;
    let mut held = before;
    let deadline = Instant::now() + OPENING_LIMIT;
    while !running.has_ended()? && Instant::now() < deadline {
        held = held.max(memory_bytes(&edge));
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = running.finish()?;
    let figures = FlowFigures {
        flows,
        edge_bytes_per_flow: held.saturating_sub(before) as f64 / f64::from(flows),
        failures: report.failures(),
    };
    progress(&format!(
        "{flows} idle TCP flows: {:.0} B of the edge's memory each, {} failed",
        figures.edge_bytes_per_flow, figures.failures,
    ));
    Ok(figures)
}
