//! Many calls up at one time: requests in their dialogs go on, and cost what they cost with few.

use std::time::Instant;

use super::CallFigures;
use crate::load::{self, Load, Pace};
use crate::server::{Authentication, Bench, Node};

/// Forwarded messages of a request in a dialog: itself and its answer.
const MESSAGES: f64 = 2.0;

pub(super) fn run(
    bench: &Bench,
    calls: u32,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<CallFigures> {
    let node = Node::start(bench, Authentication::Off, "")?;
    let before = node.private_memory_bytes();
    let load = Load {
        pace: Pace::Closed { concurrency: 256 },
        arguments: vec!["--dialogs".to_owned(), calls.to_string()],
        ..Load::saturating("dialog", 10_000)
    };
    let started = Instant::now();
    let report = load::run(bench, node.server(), &load)?;
    let all = started.elapsed().as_secs_f64();
    let figures = CallFigures {
        calls,
        up_in_s: all,
        requests_per_s: report.throughput_per_s,
        message_cpu_us: report.server_cpu_us() / MESSAGES,
        node_bytes: node.private_memory_bytes().saturating_sub(before),
        store_bytes: node.state_size()?.record_bytes,
        failures: report.failures(),
    };
    progress(&format!(
        "{calls} calls up: {:.0} requests/s in their dialogs, {:.2} µs CPU a message, {} failed",
        figures.requests_per_s, figures.message_cpu_us, figures.failures,
    ));
    Ok(figures)
}
