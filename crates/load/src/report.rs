//! The report of a run: one JSON object for programs, some lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::command_line::ScenarioName;
use crate::pace::PaceSetting;
use crate::process_cost::{Usage, cpu_resolution_ns};
use crate::statistics::Statistics;

/// Latencies in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

impl Latencies {
    /// `None` if nothing was recorded.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Latencies> {
        let at = |quantile| micros(histogram.value_at_quantile(quantile) as f64);
        (!histogram.is_empty()).then(|| Latencies {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max() as f64),
            mean: micros(histogram.mean()),
        })
    }
}

fn micros(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

/// What the measured processes of the server cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ServerReport {
    /// Processes whose CPU and memory were read.
    pub(crate) pids: Vec<i32>,
    /// User and system time of all threads, divided by the operations that ended in the window.
    pub(crate) cpu_us_per_operation: Option<f64>,
    /// CPU time in the window by its length: 1.0 is one core.
    pub(crate) cpu_cores: f64,
    /// Finest step of the CPU clock, in nanoseconds.
    pub(crate) cpu_resolution_ns: u64,
    /// Resident memory at the end of the window; pages that processes share count for each.
    pub(crate) rss_bytes: u64,
    /// The same, shared pages shared out; 0 where the system does not tell.
    pub(crate) pss_bytes: u64,
    /// Resident memory that is no file's.
    pub(crate) anonymous_bytes: u64,
    /// `anonymous_bytes` at the beginning of the run, before the preparation.
    pub(crate) anonymous_bytes_before: u64,
    /// Idle flows: what memory grew by since before the run, by flows that were held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) anonymous_bytes_per_flow: Option<f64>,
    /// The same of `pss_bytes`: for servers whose processes share their memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pss_bytes_per_flow: Option<f64>,
    /// Processes that ended during the run, whose CPU is missing.
    pub(crate) gone: usize,
}

/// What this process cost itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LoadReport {
    /// CPU time by operations that ended in the window.
    pub(crate) cpu_us_per_operation: Option<f64>,
    /// CPU time by messages sent and received in the window.
    pub(crate) cpu_us_per_message: Option<f64>,
    /// CPU time in the window by its length: at 1.0 this process is what limits.
    pub(crate) cpu_cores: f64,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) transport: &'static str,
    pub(crate) target: String,
    /// `closed` or `open`.
    pub(crate) loop_kind: &'static str,
    /// Operations in flight, of a closed loop.
    pub(crate) concurrency: Option<usize>,
    /// Operations a second, of an open loop.
    pub(crate) rate: Option<f64>,
    pub(crate) users: u32,
    /// UDP sockets, or TCP connections at most.
    pub(crate) flows: u32,
    pub(crate) digest: bool,
    pub(crate) duration_s: f64,
    pub(crate) warmup_s: f64,
    /// Operations meant to begin in the window: ok, failed and lost ones.
    pub(crate) operations: u64,
    pub(crate) ok: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) lost: u64,
    pub(crate) retransmissions: u64,
    pub(crate) challenges: u64,
    /// Times that a 503 with Retry-After was obeyed.
    pub(crate) put_off: u64,
    /// Messages that belonged to nothing.
    pub(crate) strays: u64,
    /// Datagrams that were no SIP.
    pub(crate) malformed: u64,
    /// Operations that ended well in the window, by its length.
    pub(crate) throughput_per_s: f64,
    /// Messages sent and received in the window, by its length.
    pub(crate) messages_per_s: f64,
    pub(crate) latency_us: Option<Latencies>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invite_to_180_us: Option<Latencies>,
    /// Whether this process could not begin operations when it was meant to.
    pub(crate) fell_behind: bool,
    /// By how much an operation began late, at most.
    pub(crate) lag_max_us: f64,
    /// Operations that did not begin at all within the window although meant to.
    pub(crate) missed: u64,
    /// Datagrams that never left, because this process's own queue was full or the system refused them.
    pub(crate) unsent: u64,
    /// Why the first connection that ended before its time did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_closed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServerReport>,
    pub(crate) load: LoadReport,
}

/// A lag that is noise of the scheduler rather than a generator that cannot keep up.
const LAG_TOLERATED: Duration = Duration::from_millis(100);

/// What is said of a run beside its counts.
#[derive(Clone, Debug)]
pub(crate) struct RunFacts {
    pub(crate) scenario: ScenarioName,
    pub(crate) transport: &'static str,
    pub(crate) target: String,
    pub(crate) pace: PaceSetting,
    pub(crate) users: u32,
    pub(crate) flows: u32,
    pub(crate) digest: bool,
    pub(crate) warmup: Duration,
    pub(crate) missed: u64,
    pub(crate) unsent: u64,
    pub(crate) first_down: Option<String>,
}

/// Readings of the processes' costs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readings {
    /// Before the run.
    pub(crate) before: Usage,
    /// At the ends of the window.
    pub(crate) begin: Usage,
    pub(crate) end: Usage,
    /// CPU of this process at the ends of the window.
    pub(crate) own_begin: Duration,
    pub(crate) own_end: Duration,
}

impl Report {
    /// The report of a run that is over.
    pub(crate) fn new(
        facts: RunFacts,
        statistics: &Statistics,
        pids: Vec<i32>,
        readings: &Readings,
    ) -> Report {
        let window = statistics.window();
        let seconds = window.as_secs_f64().max(f64::MIN_POSITIVE);
        let per = |cpu: Duration, count: u64| {
            (count > 0).then(|| rounded(cpu.as_secs_f64() * 1e6 / count as f64))
        };
        let messages = statistics.sent + statistics.received;
        let own = readings.own_end.saturating_sub(readings.own_begin);
        let cpu = readings.end.cpu.saturating_sub(readings.begin.cpu);
        let per_flow = |memory: fn(&Usage) -> u64| {
            let held = (facts.scenario == ScenarioName::Idle && statistics.ok > 0)
                .then_some(statistics.ok as f64)?;
            let grown = memory(&readings.end) as f64 - memory(&readings.before) as f64;
            Some(rounded(grown / held))
        };
        let server = (!pids.is_empty()).then(|| ServerReport {
            cpu_us_per_operation: per(cpu, statistics.completed),
            cpu_cores: rounded(cpu.as_secs_f64() / seconds),
            cpu_resolution_ns: cpu_resolution_ns(),
            rss_bytes: readings.end.rss_bytes,
            pss_bytes: readings.end.proportional_bytes,
            anonymous_bytes: readings.end.anonymous_bytes,
            anonymous_bytes_before: readings.before.anonymous_bytes,
            anonymous_bytes_per_flow: per_flow(|usage| usage.anonymous_bytes),
            pss_bytes_per_flow: per_flow(|usage| usage.proportional_bytes),
            gone: readings.end.gone,
            pids,
        });
        let (concurrency, rate) = match facts.pace {
            PaceSetting::Closed { concurrency } => (Some(concurrency), None),
            PaceSetting::Open { rate, .. } => (None, Some(rate)),
        };
        let is_open = rate.is_some();
        Report {
            scenario: facts.scenario.as_str(),
            transport: facts.transport,
            target: facts.target,
            loop_kind: if is_open { "open" } else { "closed" },
            concurrency,
            rate,
            users: facts.users,
            flows: facts.flows,
            digest: facts.digest,
            duration_s: rounded(seconds),
            warmup_s: rounded(facts.warmup.as_secs_f64()),
            operations: statistics.begun,
            ok: statistics.ok,
            failed: statistics
                .failed
                .iter()
                .map(|(why, count)| (why.to_string(), *count))
                .collect(),
            lost: statistics.lost,
            retransmissions: statistics.retransmissions,
            challenges: statistics.challenges,
            put_off: statistics.put_off,
            strays: statistics.strays,
            malformed: statistics.malformed,
            throughput_per_s: rounded(statistics.completed as f64 / seconds),
            messages_per_s: rounded(messages as f64 / seconds),
            // How long a flow was held is no latency.
            latency_us: Latencies::of(&statistics.latency)
                .filter(|_| facts.scenario != ScenarioName::Idle),
            invite_to_180_us: Latencies::of(&statistics.invite_to_180),
            fell_behind: is_open && (statistics.lag_max > LAG_TOLERATED || facts.missed > 0),
            lag_max_us: micros(statistics.lag_max.as_nanos() as f64),
            missed: facts.missed,
            unsent: facts.unsent,
            first_closed: facts.first_down,
            server,
            load: LoadReport {
                cpu_us_per_operation: per(own, statistics.completed),
                cpu_us_per_message: per(own, messages),
                cpu_cores: rounded(own.as_secs_f64() / seconds),
            },
        }
    }

    /// Whether every operation ended as it should, and there was one.
    pub(crate) fn is_good(&self) -> bool {
        self.operations > 0 && self.ok == self.operations
    }

    /// Some lines for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let failed: u64 = self.failed.values().sum();
        let _ = writeln!(
            text,
            "{} over {} to {}: {} operations in {} s: {} ok, {failed} failed, {} lost; {} retransmissions",
            self.scenario,
            self.transport,
            self.target,
            self.operations,
            self.duration_s,
            self.ok,
            self.lost,
            self.retransmissions,
        );
        for (why, count) in &self.failed {
            let hint = match why.as_str() {
                "challenge" => " (give --digest; the server may not know the users)",
                "connect" | "closed" => " (connections)",
                _ => "",
            };
            let _ = writeln!(text, "  failed with {why}: {count}{hint}");
        }
        if self.put_off > 0 {
            let _ = writeln!(text, "  told to come later (503 with Retry-After): {}", self.put_off);
        }
        if let Some(why) = &self.first_closed {
            let _ = writeln!(text, "  the first connection that ended: {why}");
        }
        let _ = writeln!(
            text,
            "throughput    {:.0} operations/s, {:.0} messages/s",
            self.throughput_per_s, self.messages_per_s
        );
        for (name, latencies) in
            [("latency", &self.latency_us), ("INVITE to 180", &self.invite_to_180_us)]
        {
            let Some(latencies) = latencies else { continue };
            let _ = writeln!(
                text,
                "{name:<13} p50 {:.0} µs, p90 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
                latencies.p50, latencies.p90, latencies.p99, latencies.p999, latencies.max
            );
        }
        if let Some(server) = &self.server {
            let _ = writeln!(
                text,
                "server        {:.2} µs CPU an operation ({:.2} cores), {:.1} MB resident in {} processes",
                server.cpu_us_per_operation.unwrap_or_default(),
                server.cpu_cores,
                server.rss_bytes as f64 / 1e6,
                server.pids.len(),
            );
            if let (Some(own), Some(all)) =
                (server.anonymous_bytes_per_flow, server.pss_bytes_per_flow)
            {
                let _ = writeln!(
                    text,
                    "              {all:.0} bytes of memory a flow, {own:.0} of them nobody else's"
                );
            }
            if server.gone > 0 {
                let gone = server.gone;
                let _ = writeln!(text, "              {gone} of them ended: their CPU is missing");
            }
        }
        let _ = writeln!(
            text,
            "load          {:.2} µs CPU an operation, {:.2} a message ({:.2} cores)",
            self.load.cpu_us_per_operation.unwrap_or_default(),
            self.load.cpu_us_per_message.unwrap_or_default(),
            self.load.cpu_cores,
        );
        if self.fell_behind {
            let _ = writeln!(
                text,
                "FELL BEHIND   by up to {:.0} ms; {} operations did not begin in time",
                self.lag_max_us / 1e3,
                self.missed
            );
        }
        text
    }
}
