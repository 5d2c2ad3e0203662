//! The load: `outlast-load` as a command, and what it reports.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::server::{Bench, DOMAIN, PASSWORD, Server};

/// Sockets of a load over UDP: enough that the system spreads them over a server's workers.
const SOCKETS: u32 = 8;

/// How requests are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// Whose CPU and memory the load reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// These processes and their descendants.
    Processes(Vec<i32>),
    /// All processes of the Outlast node in this directory.
    Node(PathBuf),
}

/// How fast operations begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many at one time, the next as soon as one ends: saturation.
    Closed {
        /// Operations at one time.
        concurrency: u32,
    },
    /// So many a second, whatever the answers do.
    Open {
        /// Operations a second.
        rate: f64,
    },
    /// As the scenario has it.
    OfScenario,
}

/// One run of `outlast-load`.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// The scenario: `register`, `call`, …
    pub scenario: &'static str,
    /// See [`Transport`].
    pub transport: Transport,
    /// See [`Pace`].
    pub pace: Pace,
    /// Users that take turns.
    pub users: u32,
    /// The first of them.
    pub first_user: u32,
    /// Whether requests carry digest credentials.
    pub digest: bool,
    /// Measured time.
    pub duration: Duration,
    /// Time before it that does not count.
    pub warmup: Duration,
    /// Sockets or connections that the users share.
    pub sockets: u32,
    /// UDP port of the first socket, the others' follow: contacts are the same in each run with it. `None`: free ones.
    pub local_port: Option<u16>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Load {
    /// A scenario over UDP at saturation, to be changed by fields.
    pub fn saturating(scenario: &'static str, users: u32) -> Load {
        Load {
            scenario,
            transport: Transport::Udp,
            pace: Pace::Closed { concurrency: 256 },
            users,
            first_user: 0,
            digest: false,
            duration: Duration::from_secs(3),
            warmup: Duration::from_secs(1),
            sockets: SOCKETS,
            local_port: None,
            arguments: Vec::new(),
        }
    }

    /// The command line beside target, watched processes and the file of the report.
    pub fn arguments(&self) -> Vec<String> {
        let transport = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let mut arguments = vec![self.scenario.to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        option("transport", transport.to_owned());
        option("domain", DOMAIN.to_owned());
        option("users", self.users.to_string());
        option("first-user", self.first_user.to_string());
        match self.pace {
            Pace::Closed { concurrency } => option("concurrency", concurrency.to_string()),
            Pace::Open { rate } => option("rate", format!("{rate:.0}")),
            Pace::OfScenario => {}
        }
        option("duration", format!("{}ms", self.duration.as_millis()));
        option("warmup", format!("{}ms", self.warmup.as_millis()));
        option("sockets", self.sockets.to_string());
        if self.digest {
            option("digest", PASSWORD.to_owned());
        }
        arguments.extend(self.arguments.iter().cloned());
        arguments
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

/// What the watched processes used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Of all of them together, user and system; `None` when no operation ended.
    pub cpu_us_per_operation: Option<f64>,
    /// Processes that ended while they were watched.
    #[serde(default)]
    pub gone: usize,
}

/// What the load itself used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadUse {
    /// User and system; `None` when no operation ended.
    pub cpu_us_per_operation: Option<f64>,
}

/// The report of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Operations begun in the measured time.
    pub operations: u64,
    /// Those that ended as they should.
    pub ok: u64,
    /// Those that ended with another answer, by status or reason.
    #[serde(default)]
    pub failed: BTreeMap<String, u64>,
    /// Those that got no answer.
    pub lost: u64,
    /// Messages that the load sent again.
    pub retransmissions: u64,
    /// Operations a second.
    pub throughput_per_s: f64,
    /// From the intended beginning of an operation to its end; `None` when none ended well.
    pub latency_us: Option<Latency>,
    /// Calls only.
    #[serde(default)]
    pub invite_to_180_us: Option<Latency>,
    /// Operations of an open loop that did not begin at all.
    #[serde(default)]
    pub missed: u64,
    /// `None` when nobody was watched.
    #[serde(default)]
    pub server: Option<ServerUse>,
    /// The load's own CPU.
    #[serde(default)]
    pub load: Option<LoadUse>,
    /// The measured time that there was.
    pub duration_s: f64,
}

impl LoadReport {
    /// Operations that did not end as they should, or did not begin when they should.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum::<u64>() + self.lost + self.missed
    }

    /// From the intended beginning of an operation to its end; zeros when none ended well.
    pub fn latency(&self) -> Latency {
        self.latency_us.unwrap_or_default()
    }

    /// The server's CPU for an operation, in microseconds; no number when it is not known.
    pub fn server_cpu_us(&self) -> f64 {
        self.server.as_ref().and_then(|used| used.cpu_us_per_operation).unwrap_or(f64::NAN)
    }

    /// The load's.
    pub fn load_cpu_us(&self) -> f64 {
        self.load.as_ref().and_then(|used| used.cpu_us_per_operation).unwrap_or(f64::NAN)
    }
}

/// The first of as many UDP ports of the loopback as a load over UDP has sockets, all of them free by now.
///
/// # Errors
/// When there are none, or the system refuses to say.
pub fn free_local_ports() -> anyhow::Result<u16> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let first = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut following = (0..SOCKETS as u16).map(|number| first.checked_add(number));
        if following
            .all(|port| port.is_some_and(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()))
        {
            return Ok(first);
        }
    }
    bail!("no {SOCKETS} free UDP ports in a row")
}

/// Runs a load on a server. What failed stands in the report; see [`LoadReport::failures`].
///
/// # Errors
/// When the load could not run at all.
pub fn run(bench: &Bench, server: &Server, load: &Load) -> anyhow::Result<LoadReport> {
    let target = match load.transport {
        Transport::Udp => server.udp,
        Transport::Tcp => server.tcp.context("this server has no TCP")?,
    };
    Running::start(bench, target, &server.watch, load)?.finish()
}

/// A load that runs.
#[derive(Debug)]
pub struct Running {
    child: std::process::Child,
    report: PathBuf,
    scenario: &'static str,
}

impl Running {
    /// Starts a load and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        bench: &Bench,
        target: SocketAddr,
        watch: &Watch,
        load: &Load,
    ) -> anyhow::Result<Running> {
        let report = bench.unused_file("load")?;
        let mut command = Command::new(bench.binaries.join("outlast-load"));
        command.args(load.arguments()).args(["--target", &target.to_string()]);
        if load.transport == Transport::Udp {
            let port = load.local_port.map_or_else(free_local_ports, Ok)?;
            command.args(["--local-port", &port.to_string()]);
        }
        match watch {
            Watch::Node(directory) => {
                command.arg("--server-node").arg(directory);
            }
            Watch::Processes(pids) => {
                for pid in pids {
                    command.args(["--server-pid", &pid.to_string()]);
                }
            }
        }
        command.arg("--json").arg(&report);
        let log = fs::File::create(report.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("outlast-load cannot be started")?;
        Ok(Running { child, report, scenario: load.scenario })
    }

    /// Whether it has ended by now.
    ///
    /// # Errors
    /// The system's.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it wrote no report.
    pub fn finish(mut self) -> anyhow::Result<LoadReport> {
        /// An operation was not answered as expected; the report says how many.
        const NOT_ALL_ANSWERED: i32 = 1;
        let status = self.child.wait()?;
        let log = fs::read_to_string(self.report.with_extension("log")).unwrap_or_default();
        let words = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        if !status.success() && status.code() != Some(NOT_ALL_ANSWERED) {
            bail!("outlast-load {} ended with {status}: {words}", self.scenario);
        }
        let text = fs::read_to_string(&self.report)
            .with_context(|| format!("outlast-load {} left no report: {words}", self.scenario))?;
        serde_json::from_str(&text).with_context(|| format!("the report cannot be read: {text}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless the bench itself fails meanwhile.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_the_command_line_that_an_operator_could_type() {
        let load = Load {
            transport: Transport::Tcp,
            pace: Pace::Open { rate: 1234.5 },
            digest: true,
            ..Load::saturating("register", 100)
        };
        assert_eq!(
            load.arguments().join(" "),
            "register --transport tcp --domain example.org --users 100 --first-user 0 --rate 1234 \
             --duration 3000ms --warmup 1000ms --sockets 8 --digest secret"
        );
    }

    #[test]
    fn what_failed_and_what_was_lost_are_failures() {
        let text = r#"{"scenario":"register","operations":10,"ok":6,"failed":{"503":1,"closed":1},"lost":2,
            "retransmissions":3,"throughput_per_s":1.0,
            "latency_us":null,"missed":1,"duration_s":1,"server":{"cpu_us_per_operation":null}}"#;
        let report: LoadReport = serde_json::from_str(text).expect("it is a report");
        assert_eq!(report.failures(), 5);
        assert!(report.server_cpu_us().is_nan() && report.load_cpu_us().is_nan());
        assert_eq!((report.latency(), report.invite_to_180_us), (Latency::default(), None));
    }
}
