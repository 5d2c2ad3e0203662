//! What must be true before a run, and what it is made of: the server is there, files suffice, flows are open; from the
//! command line to a [`Generator`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use transport::Transport;

use crate::command_line::{LoadArgs, MethodArg, ScenarioName};
use crate::flows::Flows;
use crate::generator::{Generator, NotPrepared, Plan};
use crate::logins::{Habit, Logins};
use crate::node_processes::{self, NodeError};
use crate::outbox::FlowIndex;
use crate::phones::{Outbound, PhoneSettings, Phones};
use crate::process_cost::{is_alive, with_descendants};
use crate::run_id::RunId;
use crate::scenario::{
    AskedInDialog, CallTimes, Calling, Context, Echoing, FlowUse, Idling, InDialog, Pinging,
    Registering, Repetition, Scenario,
};
use crate::statistics::Statistics;
use crate::tcp_flows::{self, TcpFlows};
use crate::transactions::{Reliability, Transactions};
use crate::udp_flows::UdpFlows;

/// How long a server may take to refuse the first datagram.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(200);

/// How long it may take to accept the first connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// Descriptors beside those of the flows.
const OTHER_FILES: u64 = 64;

/// Most connections from one address of the loopback, where users have one each: servers bound them (Outlast at 1,000).
const CONNECTIONS_PER_ADDRESS: u32 = 500;

/// Why a run could not be made.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    /// A local address.
    #[error("{local} cannot be bound: {source}; give another --local, --local-port or --listen")]
    Bind {
        /// Which.
        local: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Nobody listens at the target.
    #[error(
        "nothing listens at {target} ({transport}): {source}; start the server, or correct --target"
    )]
    NobodyThere {
        /// The target.
        target: SocketAddr,
        /// The transport.
        transport: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The flows need more descriptors than this process may have.
    #[error(
        "{needed} files are needed and {allowed} allowed: raise the limit (ulimit -n), or run several processes"
    )]
    Files {
        /// For the flows and some more.
        needed: u64,
        /// The hard limit.
        allowed: u64,
    },
    /// Something that must be there before was not answered as it should be.
    #[error("{0}; does the server know --domain and its users, and is --digest right?")]
    NotPrepared(NotPrepared),
    /// The processes of the node are not known.
    #[error("--server-node: {0}")]
    Node(#[from] NodeError),
    /// A process does not run.
    #[error("--server-pid {0}: no such process")]
    NoProcess(i32),
    /// The system failed us.
    #[error("{what}: {source}")]
    System {
        /// In what.
        what: &'static str,
        /// How.
        source: io::Error,
    },
    /// The report cannot be written.
    #[error("{path}: {source}; give another --json", path = path.display())]
    Report {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An error of the system in `what`.
pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// The processes of the server whose costs are read.
pub(crate) fn server_pids(arguments: &LoadArgs) -> Result<Vec<i32>, RunError> {
    if let Some(directory) = &arguments.server_node {
        return Ok(node_processes::pids(directory)?);
    }
    if let Some(pid) = arguments.server_pid.iter().find(|pid| !is_alive(**pid)) {
        return Err(RunError::NoProcess(*pid));
    }
    Ok(with_descendants(&arguments.server_pid))
}

/// A port that nobody has is told before anything else. A UDP server that is silent is found out by the run.
pub(crate) fn require_server(scenario: ScenarioName, arguments: &LoadArgs) -> Result<(), RunError> {
    let (target, transport) = (arguments.target, arguments.transport(scenario));
    let result = match transport {
        Transport::Udp => match probe(arguments) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Ok(()),
            result => result,
        },
        Transport::Tcp => tcp_flows::probe(target, CONNECT_PATIENCE),
    };
    let transport = transport.uri_name();
    result.map_err(|source| RunError::NobodyThere { target, transport, source })
}

/// Whether the system says that nobody has the port.
fn probe(arguments: &LoadArgs) -> io::Result<()> {
    let local = local_addresses(ScenarioName::Options, arguments)[0];
    let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
    socket.connect(arguments.target)?;
    socket.set_read_timeout(Some(REFUSAL_PATIENCE))?;
    // A keep-alive (RFC 5626 §4.4.1): nobody has to answer it.
    socket.send(b"\r\n\r\n")?;
    socket.recv(&mut [0; 64]).map(drop)
}

/// Takes as many descriptors as this process may have, if they are needed.
pub(crate) fn require_files(flows: u32) -> Result<(), RunError> {
    let needed = u64::from(flows) + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(allowed) = limit.maximum.filter(|maximum| *maximum < needed) {
        return Err(RunError::Files { needed, allowed });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit })
        .map_err(|error| system("limit of files")(error.into()))
}

/// Local addresses to send from: as given, else the one that reaches the target; on the loopback, which has many, as
/// many as connections of one's own need.
fn local_addresses(scenario: ScenarioName, arguments: &LoadArgs) -> Vec<IpAddr> {
    if !arguments.local.is_empty() {
        return arguments.local.clone();
    }
    if let (true, SocketAddr::V4(target)) = (scenario.has_own_flows(), arguments.target)
        && target.ip().is_loopback()
    {
        let count = arguments.users.div_ceil(CONNECTIONS_PER_ADDRESS);
        let first = u32::from(Ipv4Addr::LOCALHOST);
        return (0..count).map(|number| Ipv4Addr::from(first + number).into()).collect();
    }
    let any: IpAddr = match arguments.target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The route decides; nothing is sent by a connect of UDP.
    let chosen = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(arguments.target)?;
        socket.local_addr()
    });
    vec![chosen.map_or(any, |address| address.ip())]
}

/// Opens the flows, and tells the phones their addresses. Connections that users open themselves are not begun.
pub(crate) fn open_flows(
    scenario: ScenarioName,
    arguments: &LoadArgs,
    registry: &Registry,
    phones: &mut Phones,
    now: Instant,
) -> Result<Flows, RunError> {
    let (count, locals) = (arguments.flows(scenario), local_addresses(scenario, arguments));
    if arguments.transport(scenario) == Transport::Udp {
        let flows = UdpFlows::open(count, &locals, arguments.local_port, registry)
            .map_err(|(local, source)| RunError::Bind { local, source })?;
        flows.addresses().for_each(|(flow, local)| phones.set_address(flow, local));
        return Ok(Flows::Udp(Box::new(flows)));
    }
    let mut flows = TcpFlows::new(count, arguments.target, &locals);
    if !scenario.has_own_flows() {
        for flow in (0..count).map(FlowIndex) {
            if let Some(local) = flows.connect(flow, registry, now) {
                phones.set_address(flow, local);
            }
        }
    }
    Ok(Flows::Tcp(Box::new(flows)))
}

/// The phones of a run.
pub(crate) fn phones(scenario: ScenarioName, arguments: &LoadArgs, run: RunId) -> Phones {
    let settings = PhoneSettings {
        run,
        domain: arguments.domain.clone(),
        transport: arguments.transport(scenario),
        expires: u32::try_from(arguments.expires.as_secs()).unwrap_or(u32::MAX),
        first_user: arguments.first_user,
        outbound: if arguments.outbound || scenario.has_own_flows() {
            Outbound::Yes
        } else {
            Outbound::No
        },
        echo_bytes: arguments.bytes as usize,
    };
    Phones::new(settings, arguments.flows(scenario) as usize)
}

/// The generator of a run.
pub(crate) fn generator(
    scenario: ScenarioName,
    arguments: &LoadArgs,
    (run, phones): (RunId, Phones),
    now: Instant,
) -> Generator {
    let reliability = if arguments.transport(scenario).is_stream() {
        Reliability::Reliable
    } else {
        Reliability::Unreliable
    };
    let habit = if arguments.challenge_each { Habit::Forget } else { Habit::Remember };
    let password = arguments.digest.clone();
    let context = Context {
        target: arguments.target,
        phones,
        logins: Logins::new(password, habit, arguments.first_user, arguments.users),
        transactions: Transactions::new(run, reliability),
        statistics: Statistics::new(now, None),
        outbox: Vec::new(),
        in_flight: 0,
    };
    // A storm has no steady state: it is measured from its first request to its last answer.
    let is_storm = scenario == ScenarioName::Storm;
    let plan = Plan {
        pace: arguments.pace(scenario),
        warmup: arguments.warmup(scenario),
        duration: (!is_storm).then_some(arguments.duration),
        // Calls that begin last take as long as the others.
        drain: arguments.drain + arguments.ring + arguments.hold,
    };
    Generator::new(plan, make_scenario(scenario, arguments), context, now)
}

fn make_scenario(scenario: ScenarioName, arguments: &LoadArgs) -> Box<dyn Scenario> {
    let users = arguments.users;
    let registering = |repetition, flow_use| {
        let contacts = arguments.contacts_per_user;
        Box::new(Registering::new(users, contacts, repetition, flow_use))
    };
    match scenario {
        ScenarioName::Register => registering(Repetition::InTurn, FlowUse::Shared),
        ScenarioName::Storm => registering(Repetition::Once, FlowUse::Shared),
        ScenarioName::Churn => registering(Repetition::InTurn, FlowUse::OwnClosed),
        ScenarioName::Idle => Box::new(Idling::new(users)),
        ScenarioName::Options => Box::new(Pinging::new(users)),
        ScenarioName::Call => {
            let times = CallTimes { ring: arguments.ring, hold: arguments.hold };
            Box::new(Calling::new(users, times))
        }
        ScenarioName::Dialog => {
            let asked = match arguments.method {
                MethodArg::Info => AskedInDialog::Info,
                MethodArg::Invite => AskedInDialog::Invite,
            };
            Box::new(InDialog::new(users, arguments.dialogs(), asked))
        }
        ScenarioName::Echo => Box::new(Echoing::new()),
    }
}
