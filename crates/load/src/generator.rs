//! The generator: from what arrives and what time it is to what is sent. One scenario, its pace, its stages.
//!
//! ```text
//! preparing ─▶ warming up ─▶ measuring ─▶ draining ─▶ leaving ─▶ over
//! ```
//!
//! No sockets, no clock: the driver brings datagrams and the time, and empties the [`Outbox`](crate::outbox::Outbox).

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::Message;
use sip::framer::{self, Frame};

use crate::flows::FlowEvent;
use crate::pace::{Pace, PaceSetting};
use crate::scenario::{Context, Origin, Scenario, Stage, Start};
use crate::statistics::Statistics;
use crate::transactions::{Answered, Overdue};

/// Most operations that begin in one turn, so that answers are read between them.
const BEGINS_PER_TURN: usize = 256;

/// Operations in flight while preparing and leaving.
const PREPARING_CONCURRENCY: usize = 128;

/// When things begin and end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) pace: PaceSetting,
    pub(crate) warmup: Duration,
    /// `None`: until the scenario has no more to do.
    pub(crate) duration: Option<Duration>,
    /// How long answers are waited for after the end.
    pub(crate) drain: Duration,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Preparing,
    WarmingUp,
    Measuring,
    Draining,
    Leaving,
    Over,
}

/// Why a run did not come to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotPrepared {
    done: u64,
    not_done: u64,
    /// How they ended, and why the first connection did, if any.
    how: String,
}

impl fmt::Display for NotPrepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotPrepared { done, not_done, how } = self;
        write!(
            f,
            "not prepared: {done} registrations and calls succeeded, {not_done} did not ({how})"
        )
    }
}

/// A run.
#[derive(Debug)]
pub(crate) struct Generator {
    plan: Plan,
    scenario: Box<dyn Scenario>,
    pub(crate) context: Context,
    pace: Pace,
    phase: Phase,
    /// Statistics of the measured part, while the context counts what comes after.
    measured: Option<Statistics>,
    /// When the phase ends at the latest.
    deadline: Option<Instant>,
    has_no_more: bool,
    /// Nothing was free for the operation that is due; an answer will change that.
    waits_for_free: bool,
    missed: u64,
    not_prepared: Option<NotPrepared>,
    first_down: Option<String>,
}

impl Generator {
    /// A run that begins with its preparation at `now`.
    pub(crate) fn new(
        plan: Plan,
        scenario: Box<dyn Scenario>,
        context: Context,
        now: Instant,
    ) -> Generator {
        let pace = Pace::new(PaceSetting::Closed { concurrency: PREPARING_CONCURRENCY }, now);
        Generator {
            plan,
            scenario,
            context,
            pace,
            phase: Phase::Preparing,
            measured: None,
            deadline: None,
            has_no_more: false,
            waits_for_free: false,
            missed: 0,
            not_prepared: None,
            first_down: None,
        }
    }

    /// Where the run stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The counts of the measured part.
    pub(crate) fn statistics(&mut self) -> &mut Statistics {
        self.measured.as_mut().unwrap_or(&mut self.context.statistics)
    }

    /// Operations that an open loop should have begun in time and did not.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Why nothing was measured, if so.
    pub(crate) fn not_prepared(&mut self) -> Option<NotPrepared> {
        self.not_prepared.take()
    }

    /// Why the first connection that ended did.
    pub(crate) fn first_down(&self) -> Option<&str> {
        self.first_down.as_deref()
    }

    /// Takes in what a flow brought: a datagram, or a message of a stream.
    fn receive(&mut self, origin: Origin, bytes: Bytes, now: Instant) {
        let Generator { scenario, context, .. } = self;
        context.statistics.received(now);
        let message = match framer::datagram(bytes) {
            Some(Frame::Message(bytes)) => Message::parse(bytes),
            // Keep-alives of the server: nothing to do.
            Some(Frame::Ping | Frame::Pong | Frame::Stun(_)) => return,
            None => return context.statistics.malformed += 1,
        };
        let Ok(message) = message else {
            return context.statistics.malformed += 1;
        };
        if message.is_request() {
            return scenario.requested(context, &message, origin, now);
        }
        match context.transactions.receive(&message) {
            Some(Answered::Final(request)) => scenario.answered(context, request, &message, now),
            Some(Answered::Provisional(request)) => {
                scenario.provisional(context, &request, &message, now);
            }
            None => scenario.repeated(context, &message, now),
        }
    }

    /// Takes in what happened on a flow.
    pub(crate) fn handle(&mut self, event: FlowEvent, now: Instant) {
        match event {
            FlowEvent::Message { flow, from, bytes } => {
                self.receive(Origin { flow, from }, bytes, now);
            }
            FlowEvent::Up { flow, local } => {
                self.context.phones.set_address(flow, local);
                self.scenario.flow_up(&mut self.context, flow, now);
            }
            FlowEvent::Down { flow, failure, why } => {
                self.first_down.get_or_insert(why);
                let Generator { scenario, context, .. } = self;
                for request in context.transactions.take_of_flow(flow) {
                    scenario.failed(context, request, failure, now);
                }
                scenario.flow_down(context, flow, failure, now);
            }
        }
    }

    /// Does what is due: repetitions, time-outs, what phones do by themselves, new operations (if the sockets
    /// have room), the next phase.
    pub(crate) fn turn(&mut self, now: Instant, room: Room) {
        let Generator { scenario, context, .. } = self;
        while let Some(overdue) = context.transactions.take_due(now, &mut context.outbox) {
            match overdue {
                Overdue::Repeated => context.statistics.retransmitted(now),
                Overdue::GivenUp(request) => scenario.given_up(context, request, now),
            }
        }
        scenario.tick(context, now);
        if room == Room::Some {
            self.begin_operations(now);
        }
        self.advance(now);
    }

    fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Preparing => Some(Stage::Preparing),
            Phase::WarmingUp | Phase::Measuring => Some(Stage::Main),
            Phase::Leaving => Some(Stage::Leaving),
            Phase::Draining | Phase::Over => None,
        }
    }

    fn begin_operations(&mut self, now: Instant) {
        let Some(stage) = self.stage() else { return };
        self.waits_for_free = false;
        for _ in 0..BEGINS_PER_TURN {
            if self.has_no_more {
                return;
            }
            let Some(intended) = self.pace.due(now, self.context.in_flight) else {
                return;
            };
            if self.phase == Phase::Measuring && self.deadline.is_some_and(|end| intended >= end) {
                return;
            }
            match self.scenario.begin(stage, &mut self.context, intended, now) {
                Start::Begun => self.pace.begin(),
                Start::NothingFree => return self.waits_for_free = true,
                Start::NoMore => self.has_no_more = true,
            }
        }
    }

    /// Whether more can be done without that anything arrives or time goes by.
    pub(crate) fn has_more(&self, now: Instant) -> bool {
        self.stage().is_some()
            && !self.has_no_more
            && !self.waits_for_free
            && self.pace.due(now, self.context.in_flight).is_some()
    }

    fn advance(&mut self, now: Instant) {
        let is_quiet = self.context.in_flight == 0;
        let is_overdue = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::Preparing if self.has_no_more && is_quiet => self.begin_main(now),
            Phase::WarmingUp if is_overdue => {
                let (_, until) = self.context.statistics.window_ends();
                self.enter(Phase::Measuring, until);
            }
            Phase::Measuring if is_overdue || (self.has_no_more && is_quiet) => {
                let end = self.deadline.unwrap_or(now).min(now);
                self.missed = self.pace.missed(end);
                self.scenario.time_is_up(&mut self.context, now);
                self.context.statistics.close(end);
                self.enter(Phase::Draining, Some(now + self.plan.drain));
            }
            Phase::Draining if is_quiet || is_overdue => {
                self.scenario.abandon(&mut self.context, now);
                self.begin_leaving(now);
            }
            Phase::Leaving if (self.has_no_more && is_quiet) || is_overdue => {
                self.enter(Phase::Over, None);
            }
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        (self.phase, self.deadline) = (phase, deadline);
    }

    fn begin_main(&mut self, now: Instant) {
        let not_done = self.context.statistics.lost_and_failed();
        if not_done > 0 {
            let done = self.context.statistics.completed;
            let statistics = &self.context.statistics;
            let failed = statistics.failed.iter().map(|(why, count)| format!("{why}: {count}"));
            let lost = (statistics.lost > 0).then(|| format!("no answer: {}", statistics.lost));
            let how = failed.chain(lost).chain(self.first_down.clone());
            let how = how.collect::<Vec<_>>().join(", ");
            self.not_prepared = Some(NotPrepared { done, not_done, how });
            return self.enter(Phase::Over, None);
        }
        let from = now + self.plan.warmup;
        let until = self.plan.duration.map(|duration| from + duration);
        self.context.statistics = Statistics::new(from, until);
        self.pace = Pace::new(self.plan.pace, now);
        self.has_no_more = false;
        self.enter(Phase::WarmingUp, Some(from));
        self.advance(now);
    }

    fn begin_leaving(&mut self, now: Instant) {
        let fresh = Statistics::new(now, None);
        self.measured = Some(std::mem::replace(&mut self.context.statistics, fresh));
        self.pace = Pace::new(PaceSetting::Closed { concurrency: PREPARING_CONCURRENCY }, now);
        self.has_no_more = false;
        self.enter(Phase::Leaving, Some(now + self.plan.drain));
    }

    /// When [`turn`](Self::turn) has something to do, if nothing arrives.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let may_begin = !self.has_no_more && !self.waits_for_free;
        let pace = self
            .stage()
            .filter(|_| may_begin)
            .and_then(|_| self.pace.next_due(now, self.context.in_flight));
        let all =
            [self.context.transactions.next_due(), self.scenario.next_due(), pace, self.deadline];
        all.into_iter().flatten().min()
    }
}

/// Whether the sockets take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Some,
    None,
}

#[cfg(test)]
mod tests;
