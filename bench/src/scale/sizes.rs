//! From ten thousand bindings to a million: what a refresh costs, how long it and a lookup take, what a binding needs.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{KamailioAtSize, OutlastAtSize, SizeFigures};
use crate::load::{self, Load, Pace};
use crate::server::{Authentication, Bench, Node, Server};

/// Users that call each other while lookups are timed.
const CALLERS: u32 = 1_000;
/// Records of a node that are neither bindings nor calls.
const RECORDS_OTHERWISE: u64 = 100;
const REFRESHES_PER_S: f64 = 2_000.0;
const CALLS_PER_S: f64 = 200.0;
/// Slots of Kamailio's table as a power of two: four contacts a slot at a million.
const KAMAILIO_SLOTS_LOG2: u32 = 18;

pub(super) fn run(
    bench: &Bench,
    sizes: &[u32],
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<SizeFigures>> {
    let outlast = outlast(bench, sizes, progress)?;
    let kamailio = kamailio(bench, sizes, progress)?;
    let figures = sizes.iter().zip(outlast).zip(kamailio);
    Ok(figures
        .map(|((&bindings, outlast), kamailio)| SizeFigures { bindings, outlast, kamailio })
        .collect())
}

/// Each of these users registers once. All loads of a server have the same ports, so that a user keeps its contact.
fn registering(from: u32, to: u32, local_port: u16) -> Load {
    Load {
        first_user: from,
        warmup: Duration::ZERO,
        local_port: Some(local_port),
        ..Load::saturating("storm", to - from)
    }
}

/// Users refresh in turn.
fn refreshing(users: u32, local_port: u16) -> Load {
    Load { local_port: Some(local_port), ..Load::saturating("register", users) }
}

/// Calls at a low rate among some of the users.
fn calling(users: u32, local_port: u16) -> Load {
    Load {
        pace: Pace::Open { rate: CALLS_PER_S },
        first_user: users / 2,
        local_port: Some(local_port),
        ..Load::saturating("call", CALLERS.min(users / 2))
    }
}

/// The records of calls' set-ups live on for a while; what the next bindings need is counted without them.
fn await_set_ups(node: &Node, bindings: u32) -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let deadline = Instant::now() + LIMIT;
    while node.state_size()?.records > u64::from(bindings) + RECORDS_OTHERWISE {
        ensure!(Instant::now() < deadline, "the records of calls are still there after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn outlast(
    bench: &Bench,
    sizes: &[u32],
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<OutlastAtSize>> {
    let node = Node::start(bench, Authentication::Off, "")?;
    let server = node.server();
    let empty = node.state_size()?;
    let port = load::free_local_ports()?;
    let mut figures = Vec::new();
    let mut held = 0;
    for &size in sizes {
        let started = Instant::now();
        let added = load::run(bench, server, &registering(held, size, port))?;
        let added_in_s = started.elapsed().as_secs_f64();
        let stored = node.state_size()?;
        let bytes =
            stored.record_bytes + stored.index_bytes - empty.record_bytes - empty.index_bytes;
        let saturated = load::run(bench, server, &refreshing(size, port))?;
        let slowly = Load { pace: Pace::Open { rate: REFRESHES_PER_S }, ..refreshing(size, port) };
        let refreshed = load::run(bench, server, &slowly)?;
        let mut failures = added.failures() + saturated.failures() + refreshed.failures();
        let mut lookup_us = None;
        if figures.is_empty() || figures.len() + 1 == sizes.len() {
            let called = load::run(bench, server, &calling(size, port))?;
            lookup_us = called.invite_to_180_us;
            failures += called.failures();
            if figures.len() + 1 < sizes.len() {
                await_set_ups(&node, size)?;
            }
        }
        let at_size = OutlastAtSize {
            added_in_s,
            added: size - held,
            store_bytes_per_binding: bytes as f64 / f64::from(size),
            refresh_cpu_us: saturated.server_cpu_us(),
            refresh_us: refreshed.latency(),
            lookup_us,
            failures,
        };
        progress(&format!(
            "{size:>9} bindings  {:>5.0} B each  refresh {:>6.2} µs CPU, p99 {:>6.0} µs  {} failed",
            at_size.store_bytes_per_binding,
            at_size.refresh_cpu_us,
            at_size.refresh_us.p99,
            at_size.failures,
        ));
        figures.push(at_size);
        held = size;
    }
    Ok(figures)
}

fn kamailio(
    bench: &Bench,
    sizes: &[u32],
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<KamailioAtSize>> {
    let server = Server::start_large_kamailio(bench, KAMAILIO_SLOTS_LOG2)?;
    let empty = server.kamailio_shared_memory()?;
    let port = load::free_local_ports()?;
    let mut figures = Vec::new();
    let mut held = 0;
    for &size in sizes {
        let added = load::run(bench, &server, &registering(held, size, port))?;
        let bytes = server.kamailio_shared_memory()?.saturating_sub(empty);
        let saturated = load::run(bench, &server, &refreshing(size, port))?;
        let at_size = KamailioAtSize {
            bytes_per_binding: bytes as f64 / f64::from(size),
            refresh_cpu_us: saturated.server_cpu_us(),
            failures: added.failures() + saturated.failures(),
        };
        progress(&format!(
            "{size:>9} contacts  {:>5.0} B each  refresh {:>6.2} µs CPU  {} failed  (Kamailio)",
            at_size.bytes_per_binding, at_size.refresh_cpu_us, at_size.failures,
        ));
        figures.push(at_size);
        held = size;
    }
    Ok(figures)
}
