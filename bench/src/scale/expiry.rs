//! A million bindings end at one time while phones ping and register: how long the slowest of them waits.

use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;

use super::ExpiryFigures;
use crate::load::{self, Load, LoadReport, Pace, Running};
use crate::server::{Bench, Node, bindings};

const PINGS_PER_S: f64 = 1_000.0;
const REGISTRATIONS_PER_S: f64 = 500.0;
/// Users that register meanwhile; none of those whose bindings end.
const REGISTERING: u32 = 500;
/// How long pings are watched while nothing ends.
const QUIET: Duration = Duration::from_secs(5);
/// Until the node serves and the quiet is over; a store is filled with some 60,000 bindings a second.
const BEFORE: Duration = Duration::from_secs(12);
const FILLED_PER_S: u32 = 25_000;
/// Longest that a sweep is waited for.
const SWEEP_LIMIT: Duration = Duration::from_secs(120);

/// The same loads, in quiet and in sweep.
struct Watched {
    pings: Running,
    registrations: Running,
}

impl Watched {
    fn start(
        bench: &Bench,
        node: &Node,
        first_user: u32,
        duration: Duration,
    ) -> anyhow::Result<Watched> {
        let start = |scenario, rate, users| {
            let load = Load {
                local_port: Some(load::free_local_ports()?),
                pace: Pace::Open { rate },
                first_user,
                duration,
                warmup: Duration::from_millis(500),
                ..Load::saturating(scenario, users)
            };
            let server = node.server();
            Running::start(bench, server.udp, &server.watch, &load)
        };
        Ok(Watched {
            pings: start("options", PINGS_PER_S, 1)?,
            registrations: start("register", REGISTRATIONS_PER_S, REGISTERING)?,
        })
    }

    fn finish(self) -> anyhow::Result<(LoadReport, LoadReport)> {
        Ok((self.pings.finish()?, self.registrations.finish()?))
    }
}

pub(super) fn run(
    bench: &Bench,
    count: u32,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<ExpiryFigures> {
    let end = SystemTime::now() + Duration::from_secs(u64::from(count / FILLED_PER_S)) + BEFORE;
    let filled = bindings(bench, count, end)?;
    let node = Node::start_with_bindings(bench, &filled)?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    ensure!(
        left > QUIET + Duration::from_secs(2),
        "filling a store with {count} bindings took so long that they end in {left:?} already"
    );
    let (quiet_ping, quiet_register) = Watched::start(bench, &node, count, QUIET)?.finish()?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    std::thread::sleep(left.saturating_sub(Duration::from_secs(1)));
    // The sweep's length is known when it is over, so loads are started until then.
    let mut sweeping = Vec::new();
    let begun = Instant::now() + end.duration_since(SystemTime::now()).unwrap_or_default();
    let mut swept_in_s = 0.0;
    while node.state_size()?.records > u64::from(REGISTERING) * 2 {
        ensure!(begun.elapsed() < SWEEP_LIMIT, "the bindings are not swept after {SWEEP_LIMIT:?}");
        let watched = Watched::start(bench, &node, count, QUIET)?;
        let window = Instant::now() + QUIET;
        while Instant::now() < window {
            std::thread::sleep(Duration::from_millis(200));
            let is_over = node.state_size()?.records <= u64::from(REGISTERING) * 2;
            if is_over && swept_in_s == 0.0 {
                swept_in_s = begun.elapsed().as_secs_f64();
            }
        }
        sweeping.push(watched.finish()?);
    }
    let worst = |reports: Vec<&LoadReport>| {
        let slowest =
            reports.into_iter().max_by(|a, b| a.latency().max.total_cmp(&b.latency().max));
        slowest.map(LoadReport::latency).unwrap_or_default()
    };
    let failures =
        sweeping.iter().map(|(pings, registrations)| pings.failures() + registrations.failures());
    let figures = ExpiryFigures {
        bindings: count,
        swept_in_s,
        quiet_ping_us: quiet_ping.latency(),
        sweeping_ping_us: worst(sweeping.iter().map(|(pings, _)| pings).collect()),
        quiet_register_us: quiet_register.latency(),
        sweeping_register_us: worst(
            sweeping.iter().map(|(_, registrations)| registrations).collect(),
        ),
        failures: failures.sum::<u64>() + quiet_ping.failures() + quiet_register.failures(),
    };
    progress(&format!(
        "{count} bindings ended and were swept in {swept_in_s:.1} s; slowest ping {:.0} µs (quiet: {:.0}), REGISTER {:.0} µs (quiet: {:.0})",
        figures.sweeping_ping_us.max,
        figures.quiet_ping_us.max,
        figures.sweeping_register_us.max,
        figures.quiet_register_us.max,
    ));
    Ok(figures)
}
