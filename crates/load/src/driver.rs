//! The loop around the generator: sockets, clock, readings of what processes cost. One thread.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::command_line::{LoadArgs, ScenarioName};
use crate::flows::{Flows, TIMER};
use crate::generator::{Generator, Phase, Room};
use crate::outbox::Output;
use crate::preparation::{self, RunError, system};
use crate::process_cost::{cpu_time, cpu_usage, usage};
use crate::progress::Progress;
use crate::report::{Readings, Report, RunFacts};
use crate::run_id::RunId;

/// Events of one poll.
const EVENTS: usize = 1_024;

/// Makes a run and reports it.
///
/// # Errors
/// [`RunError`], if it came to nothing.
pub(crate) fn run(scenario: ScenarioName, arguments: &LoadArgs) -> Result<Report, RunError> {
    let pids = preparation::server_pids(arguments)?;
    preparation::require_server(scenario, arguments)?;
    preparation::require_files(arguments.flows(scenario))?;
    Driver::new(scenario, arguments, pids)?.run()
}

struct Driver<'a> {
    arguments: &'a LoadArgs,
    scenario: ScenarioName,
    generator: Generator,
    flows: Flows,
    poll: Poll,
    timer: OwnedFd,
    /// When the timer fires, while it is armed.
    armed: Option<Instant>,
    progress: Progress,
    pids: Vec<i32>,
    readings: Readings,
}

impl<'a> Driver<'a> {
    fn new(
        scenario: ScenarioName,
        arguments: &'a LoadArgs,
        pids: Vec<i32>,
    ) -> Result<Driver<'a>, RunError> {
        let random = getrandom::u32()
            .map_err(|error| system("random numbers")(io::Error::other(error.to_string())))?;
        // Before the flows: what their buffers cost the server is a part of what they cost.
        let readings = Readings { before: usage(&pids), ..Readings::default() };
        let poll = Poll::new().map_err(system("epoll"))?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|error| system("timerfd")(error.into()))?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .map_err(system("epoll"))?;
        let (run, now) = (RunId::new(random), Instant::now());
        let mut phones = preparation::phones(scenario, arguments, run);
        let flows =
            preparation::open_flows(scenario, arguments, poll.registry(), &mut phones, now)?;
        Ok(Driver {
            arguments,
            scenario,
            generator: preparation::generator(scenario, arguments, (run, phones), now),
            flows,
            poll,
            timer,
            armed: None,
            progress: Progress::new(now),
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
        self.progress.finish();
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
        let due = [self.generator.next_due(now), self.flows.next_due()].into_iter().flatten();
        let due = due.fold(self.progress.next_due(), Instant::min);
        let is_due = is_busy || due <= now;
        if !is_due {
            self.arm(due, now).map_err(system("timerfd"))?;
        }
        match self.poll.poll(events, is_due.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(system("epoll"))?,
        }
        let now = Instant::now();
        for event in events.iter() {
            if event.token() == TIMER {
                self.armed = None;
            } else {
                self.flows.note(event, now);
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
        self.flows.receive(|event, now| generator.handle(event, now))?;
        let before = generator.phase();
        let room = if self.flows.is_blocked() { Room::None } else { Room::Some };
        let now = Instant::now();
        generator.turn(now, room);
        self.carry_out(now);
        self.flows.flush(now)?;
        self.read_costs(before);
        self.progress.show(&mut self.generator, now);
        Ok(())
    }

    /// Does what the scenario wants of the sockets.
    fn carry_out(&mut self, now: Instant) {
        let context = &mut self.generator.context;
        let registry = self.poll.registry();
        for output in context.outbox.drain(..) {
            let (flow, local) = match output {
                Output::Send { flow, to, message } => {
                    context.statistics.sent(now);
                    (flow, self.flows.queue((flow, to), message, registry, now))
                }
                Output::Connect(flow) => (flow, self.flows.connect(flow, registry, now)),
                Output::Close(flow) => {
                    self.flows.close(flow);
                    continue;
                }
            };
            if let Some(local) = local {
                context.phones.set_address(flow, local);
            }
        }
    }

    /// Reads what processes cost when the window begins and when it ends.
    fn read_costs(&mut self, before: Phase) {
        let own = || i32::try_from(std::process::id()).ok().and_then(|pid| cpu_time(pid).ok());
        match (before, self.generator.phase()) {
            (before, now) if before == now => {}
            (_, Phase::Measuring) => {
                self.readings.begin = cpu_usage(&self.pids);
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
        let facts = RunFacts {
            scenario: self.scenario,
            transport: self.arguments.transport(self.scenario).uri_name(),
            target: self.arguments.target.to_string(),
            pace: self.arguments.pace(self.scenario),
            users: self.arguments.users,
            flows: self.arguments.flows(self.scenario),
            digest: self.arguments.digest.is_some(),
            warmup: self.arguments.warmup(self.scenario),
            missed: self.generator.missed(),
            unsent: self.flows.unsent(),
            first_down: self.generator.first_down().map(str::to_owned),
        };
        Report::new(facts, self.generator.statistics(), self.pids, &self.readings)
    }
}
