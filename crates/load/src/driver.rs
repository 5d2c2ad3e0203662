//! The loop around the generator: sockets, clock, readings of what processes cost. One thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use thiserror::Error;
use transport::Transport;

use crate::command_line::{LoadArgs, ScenarioName};
use crate::generator::{Generator, NotPrepared, Phase, Plan, Room};
use crate::logins::{Habit, Logins};
use crate::node_processes::{self, NodeError};
use crate::outbox::Output;
use crate::phones::{PhoneSettings, Phones};
use crate::process_cost::{cpu_time, is_alive, usage, with_descendants};
use crate::report::{Readings, Report, RunFacts};
use crate::run_id::RunId;
use crate::scenario::{
    CallTimes, Calling, Context, Echoing, Origin, Pinging, Registering, Repetition, Scenario,
};
use crate::statistics::Statistics;
use crate::transactions::{Reliability, Transactions};
use crate::udp_flows::UdpFlows;

/// Events of one poll.
const EVENTS: usize = 1_024;

/// The timer's token; flows have theirs from 0 on.
const TIMER: Token = Token(usize::MAX - 1);

/// How long a server may take to refuse the first datagram.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(200);

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
    #[error("nothing listens at {target} ({transport}): start the server, or correct --target")]
    NobodyThere {
        /// The target.
        target: SocketAddr,
        /// The transport.
        transport: &'static str,
    },
    /// Something that must be there before was not answered as it should be.
    #[error("{} users were registered, {} could not be; {hint}", .0.done, .0.not_done, hint = NOT_PREPARED)]
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

const NOT_PREPARED: &str = "does the server know --domain and its users, and is --digest right?";

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// Makes a run and reports it.
///
/// # Errors
/// [`RunError`], if it came to nothing.
pub(crate) fn run(scenario: ScenarioName, arguments: &LoadArgs) -> Result<Report, RunError> {
    let pids = server_pids(arguments)?;
    refuse_silence(arguments)?;
    Driver::new(scenario, arguments, pids)?.run()
}

fn server_pids(arguments: &LoadArgs) -> Result<Vec<i32>, RunError> {
    if let Some(directory) = &arguments.server_node {
        return Ok(node_processes::pids(directory)?);
    }
    if let Some(pid) = arguments.server_pid.iter().find(|pid| !is_alive(**pid)) {
        return Err(RunError::NoProcess(*pid));
    }
    Ok(with_descendants(&arguments.server_pid))
}

/// A UDP port that nobody has is told at once, where the system tells; one that is silent is found out by the run.
fn refuse_silence(arguments: &LoadArgs) -> Result<(), RunError> {
    let probe = || -> io::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::new(local_addresses(arguments)[0], 0))?;
        socket.connect(arguments.target)?;
        socket.set_read_timeout(Some(REFUSAL_PATIENCE))?;
        // A keep-alive (RFC 5626 §4.4.1): nobody has to answer it.
        socket.send(b"\r\n\r\n")?;
        socket.recv(&mut [0; 64]).map(|_| ())
    };
    match probe() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let transport = Transport::from(arguments.transport).uri_name();
            Err(RunError::NobodyThere { target: arguments.target, transport })
        }
        _ => Ok(()),
    }
}

/// Local addresses to send from: as given, else what reaches the target.
fn local_addresses(arguments: &LoadArgs) -> Vec<IpAddr> {
    if !arguments.local.is_empty() {
        return arguments.local.clone();
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

struct Driver<'a> {
    arguments: &'a LoadArgs,
    scenario: ScenarioName,
    generator: Generator,
    flows: UdpFlows,
    poll: Poll,
    timer: OwnedFd,
    /// When the timer fires, while it is armed.
    armed: Option<Instant>,
    pids: Vec<i32>,
    readings: Readings,
}

impl<'a> Driver<'a> {
    fn new(
        scenario: ScenarioName,
        arguments: &'a LoadArgs,
        pids: Vec<i32>,
    ) -> Result<Driver<'a>, RunError> {
        let poll = Poll::new().map_err(system("epoll"))?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|error| system("timerfd")(error.into()))?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .map_err(system("epoll"))?;
        let flows = UdpFlows::open(
            arguments.sockets,
            &local_addresses(arguments),
            arguments.local_port,
            poll.registry(),
        )
        .map_err(|(local, source)| RunError::Bind { local, source })?;
        let now = Instant::now();
        let generator = generator(scenario, arguments, &flows, now)?;
        let readings = Readings { before: usage(&pids), ..Readings::default() };
        Ok(Driver {
            arguments,
            scenario,
            generator,
            flows,
            poll,
            timer,
            armed: None,
            pids,
            readings,
        })
    }

    fn run(mut self) -> Result<Report, RunError> {
        let mut events = Events::with_capacity(EVENTS);
        while self.generator.phase() != Phase::Over {
            self.wait(&mut events)?;
            self.turn().map_err(system("socket"))?;
        }
        if let Some(not_prepared) = self.generator.not_prepared() {
            return Err(RunError::NotPrepared(not_prepared));
        }
        Ok(self.report())
    }

    /// Waits until something arrives or is due.
    fn wait(&mut self, events: &mut Events) -> Result<(), RunError> {
        let now = Instant::now();
        let is_busy =
            self.flows.has_unread() || (!self.flows.is_blocked() && self.generator.has_more(now));
        let due = self.generator.next_due(now).filter(|_| !is_busy);
        let is_due = due.is_some_and(|due| due <= now);
        if let Some(due) = due.filter(|_| !is_due) {
            self.arm(due, now).map_err(system("timerfd"))?;
        }
        let timeout = (is_busy || is_due).then_some(Duration::ZERO);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(system("epoll"))?,
        }
        for event in events.iter() {
            if event.token() == TIMER {
                self.armed = None;
            } else {
                self.flows.note(event);
            }
        }
        Ok(())
    }

    /// Makes sure that the timer fires by `due`. One that fires earlier than needed costs a turn, not more.
    fn arm(&mut self, due: Instant, now: Instant) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed <= due) {
            return Ok(());
        }
        // Zero would disarm it.
        let delay = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = Timespec::try_from(delay).expect("delays are seconds");
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        self.armed = Some(due);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let generator = &mut self.generator;
        let mut now = Instant::now();
        let mut last = None;
        self.flows.receive(|flow, from, bytes| {
            // The clock is read once for what one socket brought.
            if last.replace(flow) != Some(flow) {
                now = Instant::now();
            }
            generator.receive(Origin { flow, from }, bytes, now);
        })?;
        let before = generator.phase();
        let room = if self.flows.is_blocked() { Room::None } else { Room::Some };
        let now = Instant::now();
        generator.turn(now, room);
        for output in generator.context.outbox.drain(..) {
            let Output::Send { flow, to, message } = output;
            generator.context.statistics.sent(now);
            self.flows.queue(flow, to, message);
        }
        self.flows.flush()?;
        self.read_costs(before);
        Ok(())
    }

    /// Reads what processes cost when the window begins and when it ends.
    fn read_costs(&mut self, before: Phase) {
        let own = || i32::try_from(std::process::id()).ok().and_then(|pid| cpu_time(pid).ok());
        match (before, self.generator.phase()) {
            (before, now) if before == now => {}
            (_, Phase::Measuring) => {
                self.readings.begin = usage(&self.pids);
                self.readings.own_begin = own().unwrap_or_default();
            }
            (Phase::Measuring, _) => {
                self.readings.end = usage(&self.pids);
                self.readings.own_end = own().unwrap_or_default();
            }
            _ => {}
        }
    }

    fn report(mut self) -> Report {
        let pace = self.arguments.pace(self.scenario);
        let facts = RunFacts {
            pace,
            scenario: self.scenario.as_str(),
            transport: Transport::from(self.arguments.transport).uri_name(),
            target: self.arguments.target.to_string(),
            users: self.arguments.users,
            sockets: self.arguments.sockets as usize,
            digest: self.arguments.digest.is_some(),
            warmup: self.arguments.warmup,
            missed: self.generator.missed(),
            unsent: self.flows.unsent(),
        };
        Report::new(facts, self.generator.statistics(), self.pids, &self.readings)
    }
}

fn generator(
    scenario: ScenarioName,
    arguments: &LoadArgs,
    flows: &UdpFlows,
    now: Instant,
) -> Result<Generator, RunError> {
    let random = getrandom::u32()
        .map_err(|error| system("random numbers")(io::Error::other(error.to_string())))?;
    let run = RunId::new(random);
    let transport = Transport::from(arguments.transport);
    let reliability =
        if transport.is_stream() { Reliability::Reliable } else { Reliability::Unreliable };
    let settings = PhoneSettings {
        run,
        domain: arguments.domain.clone(),
        transport,
        expires: u32::try_from(arguments.expires.as_secs()).unwrap_or(u32::MAX),
        first_user: arguments.first_user,
        echo_bytes: arguments.bytes as usize,
    };
    let mut phones = Phones::new(settings, arguments.sockets as usize);
    for (flow, local) in flows.addresses() {
        phones.set_address(flow, local);
    }
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
        warmup: if is_storm { Duration::ZERO } else { arguments.warmup },
        duration: (!is_storm).then_some(arguments.duration),
        drain: arguments.drain,
    };
    let times = CallTimes { ring: arguments.ring, hold: arguments.hold };
    let scenario: Box<dyn Scenario> = match scenario {
        ScenarioName::Register => Box::new(Registering::new(
            arguments.users,
            arguments.contacts_per_user,
            Repetition::InTurn,
        )),
        ScenarioName::Options => Box::new(Pinging::new(arguments.users)),
        ScenarioName::Call => Box::new(Calling::new(arguments.users, times)),
        ScenarioName::Storm => Box::new(Registering::new(
            arguments.users,
            arguments.contacts_per_user,
            Repetition::Once,
        )),
        ScenarioName::Echo => Box::new(Echoing::new()),
    };
    Ok(Generator::new(plan, scenario, context, now))
}
