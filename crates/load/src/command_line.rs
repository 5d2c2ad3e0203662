//! The command line of `outlast-load`: what is asked for, checked before anything is opened.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sip::Host;
use thiserror::Error;
use transport::Transport;

use crate::pace::PaceSetting;

/// Most operations in flight of an open loop, unless asked otherwise: some hundred MB of requests.
const IN_FLIGHT_MAX: usize = 100_000;

/// Operations in flight of a closed loop, unless asked otherwise.
const CONCURRENCY: usize = 64;

/// Longest time from 180 to 200: below the 32 s after which a caller gives up.
const RING_MAX: Duration = Duration::from_secs(30);

/// Calls that are up, unless asked otherwise.
const DIALOGS: u32 = 100;

/// Most connections that this process opens: their ports are those of one address.
const FLOWS_MAX: u32 = 60_000;

/// Most contacts of all users together.
const CONTACTS_MAX: u32 = 10_000_000;

/// Load for SIP servers: registrations, calls, flows. Counts what was answered, how fast, and what it cost the server.
#[derive(Debug, Parser)]
#[command(name = "outlast-load", version, after_help = EXIT_CODES)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) task: Task,
}

const EXIT_CODES: &str = "\
Exit codes: 0 everything was answered as it should be, 1 something was not (stderr says what), 2 wrong command line.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Users refresh their registrations, in turn
    Register(LoadArgs),
    /// OPTIONS to the server, which answers with a 2xx
    Options(LoadArgs),
    /// Calls between registered users of this process: INVITE, 180, 200, ACK, BYE, 200
    Call(LoadArgs),
    /// Calls stay up, and their two sides ask each other in turn: requests in dialogs
    Dialog(LoadArgs),
    /// TCP: connect, register, close, one after the other
    Churn(LoadArgs),
    /// TCP: each user opens a connection, registers and holds it: memory per flow
    Idle(LoadArgs),
    /// All users register at once, as after a restart: how long until each has a 200
    Storm(LoadArgs),
    /// Datagrams that the target sends back (see echo-server)
    Echo(LoadArgs),
    /// Sends every datagram back: the peer of `echo`
    EchoServer(EchoServerArgs),
}

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScenarioName {
    Register,
    Options,
    Call,
    Dialog,
    Storm,
    Churn,
    Idle,
    Echo,
}

impl ScenarioName {
    /// Whether each user has a connection of its own.
    pub(crate) fn has_own_flows(self) -> bool {
        matches!(self, ScenarioName::Churn | ScenarioName::Idle)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ScenarioName::Register => "register",
            ScenarioName::Options => "options",
            ScenarioName::Call => "call",
            ScenarioName::Dialog => "dialog",
            ScenarioName::Storm => "storm",
            ScenarioName::Churn => "churn",
            ScenarioName::Idle => "idle",
            ScenarioName::Echo => "echo",
        }
    }
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    Udp,
    Tcp,
}

impl From<TransportArg> for Transport {
    fn from(argument: TransportArg) -> Transport {
        match argument {
            TransportArg::Udp => Transport::Udp,
            TransportArg::Tcp => Transport::Tcp,
        }
    }
}

/// What the sides of a call ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArg {
    Info,
    /// INVITE again, with a session description.
    Invite,
}

/// Arguments of `echo-server`.
#[derive(Debug, Args)]
pub(crate) struct EchoServerArgs {
    /// Address to listen on; port 0 takes a free one, which is told on stdout
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}

/// Arguments of every scenario.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// The server
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub(crate) target: SocketAddr,
    /// What carries the messages [default: udp; churn and idle: tcp]
    #[arg(long, value_enum)]
    pub(crate) transport: Option<TransportArg>,
    /// Domain of all users, which are user0@DOMAIN, user1@DOMAIN, …
    #[arg(long, default_value = "example.org")]
    pub(crate) domain: String,
    /// How many users
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) users: u32,
    /// Number of the first user
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000_000))]
    pub(crate) first_user: u32,
    /// Contacts that each user registers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) contacts_per_user: u32,
    /// How long registrations are asked for
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) expires: Duration,
    /// Closed loop: so many operations at a time, the next begins when one ends [default: 64; a storm: all]
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub(crate) concurrency: Option<usize>,
    /// Open loop: so many operations a second, whether the server keeps up or not
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Open loop: most operations in flight; beyond, operations are late
    #[arg(long, value_name = "N", default_value_t = IN_FLIGHT_MAX)]
    pub(crate) in_flight_max: usize,
    /// How long is measured
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// How long the same load runs before, unmeasured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) warmup: Duration,
    /// How long answers are waited for at the end; what is not answered then is lost
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// Password of all users; challenges are answered, and nonces used again
    #[arg(long, value_name = "PASSWORD")]
    pub(crate) digest: Option<String>,
    /// Wait to be challenged each time, instead of using a nonce again
    #[arg(long, requires = "digest")]
    pub(crate) challenge_each: bool,
    /// Sockets (UDP) or connections (TCP), over which users are spread
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) sockets: u32,
    /// Local address; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub(crate) local: Vec<IpAddr>,
    /// UDP: local port of the first socket, the others follow, so that contacts are the same in each run; 0 takes free
    /// ones
    #[arg(long, value_name = "PORT", default_value_t = 20_000)]
    pub(crate) local_port: u16,
    /// Contacts name their phone and flow (RFC 5626), so that a new flow takes the place of the old one; always so
    /// where connections come and go
    #[arg(long)]
    pub(crate) outbound: bool,
    /// Calls: time from 180 to 200
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) ring: Duration,
    /// Calls: time from ACK to BYE
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) hold: Duration,
    /// Dialogs: calls that are up [default: as many as --concurrency, or 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) dialogs: Option<u32>,
    /// Dialogs: what the sides of a call ask each other
    #[arg(long, value_enum, default_value = "info")]
    pub(crate) method: MethodArg,
    /// Echo: length of a datagram
    #[arg(long, value_name = "N", default_value_t = 420, value_parser = clap::value_parser!(u32).range(300..=60_000))]
    pub(crate) bytes: u32,
    /// Process of the server, whose CPU and memory are read; its descendants count too. May be given several times
    #[arg(long, value_name = "PID", conflicts_with = "server_node")]
    pub(crate) server_pid: Vec<i32>,
    /// Directory of an Outlast node, all processes of which are read
    #[arg(long, value_name = "DIR")]
    pub(crate) server_node: Option<PathBuf>,
    /// File for the report as one JSON object; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Arguments that each are right and do not fit together.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ArgumentError {
    /// Of a closed loop.
    #[error("--concurrency must be 1 to 1000000")]
    Concurrency,
    /// Of an open loop.
    #[error("--rate must be more than 0 and at most 10000000")]
    Rate,
    /// Each contact costs memory here.
    #[error("--users times --contacts-per-user must be at most 10000000")]
    Contacts,
    /// Ports are limited.
    #[error(
        "--users must be at most 60000: each has a connection of its own; run several processes"
    )]
    Flows,
    /// A flow is one contact's.
    #[error("--contacts-per-user must be 1: each user has one connection")]
    OneContact,
    /// Calls have two ends.
    #[error("calls need --users 2 or more")]
    Users,
    /// A scenario that is for one transport.
    #[error("{scenario} is for --transport {transport}")]
    Transport {
        /// Which.
        scenario: &'static str,
        /// For which.
        transport: &'static str,
    },
    /// The process ids would be read as something else.
    #[error("--server-pid must be a process id, greater than 0")]
    Pid,
    /// A caller waits for 32 s in all.
    #[error("--ring must be 30s or less: a caller gives up after 32 s")]
    Ring,
    /// It stands in URIs.
    #[error("--domain must be a host name or an address, for example example.org")]
    Domain,
    /// Nothing to measure.
    #[error("--duration must not be 0")]
    Duration,
    /// Ports end at 65535.
    #[error("--local-port and --sockets pass port 65535")]
    LocalPort,
}

impl LoadArgs {
    /// The pace that was asked for.
    pub(crate) fn pace(&self, scenario: ScenarioName) -> PaceSetting {
        let concurrency = match scenario {
            ScenarioName::Storm | ScenarioName::Idle => {
                (self.users * self.contacts_per_user) as usize
            }
            ScenarioName::Register
            | ScenarioName::Options
            | ScenarioName::Call
            | ScenarioName::Dialog
            | ScenarioName::Churn
            | ScenarioName::Echo => CONCURRENCY,
        };
        match self.rate {
            Some(rate) => PaceSetting::Open { rate, in_flight_max: self.in_flight_max },
            None => PaceSetting::Closed { concurrency: self.concurrency.unwrap_or(concurrency) },
        }
    }

    /// Calls that are up in the dialogs' scenario: by default enough for all operations that may be in flight.
    pub(crate) fn dialogs(&self) -> u32 {
        let by_concurrency = self.concurrency.and_then(|count| u32::try_from(count).ok());
        self.dialogs.or(by_concurrency).unwrap_or(DIALOGS)
    }

    /// The warm-up, where there is a steady state to come to.
    pub(crate) fn warmup(&self, scenario: ScenarioName) -> Duration {
        match scenario {
            ScenarioName::Storm | ScenarioName::Idle => Duration::ZERO,
            ScenarioName::Register
            | ScenarioName::Options
            | ScenarioName::Call
            | ScenarioName::Dialog
            | ScenarioName::Churn
            | ScenarioName::Echo => self.warmup,
        }
    }

    /// Flows: each user has its own where flows are what is measured.
    pub(crate) fn flows(&self, scenario: ScenarioName) -> u32 {
        match scenario {
            ScenarioName::Churn | ScenarioName::Idle => self.users,
            ScenarioName::Register
            | ScenarioName::Options
            | ScenarioName::Call
            | ScenarioName::Dialog
            | ScenarioName::Storm
            | ScenarioName::Echo => self.sockets,
        }
    }

    /// The transport: flows are what TCP has.
    pub(crate) fn transport(&self, scenario: ScenarioName) -> Transport {
        match (self.transport, scenario) {
            (Some(transport), _) => transport.into(),
            (None, ScenarioName::Churn | ScenarioName::Idle) => Transport::Tcp,
            (None, _) => Transport::Udp,
        }
    }

    /// Whether the arguments fit together.
    pub(crate) fn check(&self, scenario: ScenarioName) -> Result<(), ArgumentError> {
        let has_calls = matches!(scenario, ScenarioName::Call | ScenarioName::Dialog);
        let has_own_flows = scenario.has_own_flows();
        let is_stream = self.transport(scenario).is_stream();
        let ports = self.sockets.div_ceil(self.local.len().max(1) as u32);
        let passes_ports = self.local_port != 0 && ports + u32::from(self.local_port) > 65_536;
        if self.concurrency.is_some_and(|count| !(1..=1_000_000).contains(&count)) {
            Err(ArgumentError::Concurrency)
        } else if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
            Err(ArgumentError::Rate)
        } else if self.users.saturating_mul(self.contacts_per_user) > CONTACTS_MAX {
            Err(ArgumentError::Contacts)
        } else if has_calls && self.users < 2 {
            Err(ArgumentError::Users)
        } else if scenario == ScenarioName::Echo && is_stream {
            Err(ArgumentError::Transport { scenario: scenario.as_str(), transport: "udp" })
        } else if has_own_flows && !is_stream {
            Err(ArgumentError::Transport { scenario: scenario.as_str(), transport: "tcp" })
        } else if has_own_flows && self.users > FLOWS_MAX {
            Err(ArgumentError::Flows)
        } else if has_own_flows && self.contacts_per_user > 1 {
            Err(ArgumentError::OneContact)
        } else if self.server_pid.iter().any(|pid| *pid <= 0) {
            Err(ArgumentError::Pid)
        } else if self.ring > RING_MAX {
            Err(ArgumentError::Ring)
        } else if Host::parse(self.domain.as_bytes()).is_none() {
            Err(ArgumentError::Domain)
        } else if self.duration.is_zero() {
            Err(ArgumentError::Duration)
        } else if passes_ports {
            Err(ArgumentError::LocalPort)
        } else {
            Ok(())
        }
    }
}

/// The address of HOST:PORT; of several the first, IPv4 before IPv6.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    let addresses = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; it needs HOST:PORT, for example 127.0.0.1:5060"))?;
    addresses.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "the name has no address".to_owned())
}
