//! Requests in dialogs: calls come up and stay up, and their two sides ask each other in turn. An operation is such a
//! request, INFO or INVITE. At the end the callers hang up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sip::{Message, Method};

use super::calls::{CallEvent, CalleeKeeps, Calls, Side};
use super::{Context, FlowUse, Origin, Registering, Repetition, Scenario, Stage, Start};
use crate::phones::User;
use crate::statistics::{Failure, Outcome};
use crate::table::Key;
use crate::transactions::ClientTransaction;

/// What the sides of a call ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Info,
    Invite,
}

impl Asked {
    fn method(self) -> Method<'static> {
        match self {
            Asked::Info => Method::Info,
            Asked::Invite => Method::Invite,
        }
    }
}

/// User *n* has calls with user *n* + 1.
#[derive(Debug)]
pub(crate) struct InDialog {
    users: User,
    next: User,
    asked: Asked,
    registering: Registering,
    calls: Calls,
    /// Calls that are still to be begun.
    missing: u32,
    /// What the run does: operations of an earlier stage are over when the next begins.
    stage: Stage,
    /// Calls in which nobody waits for an answer.
    idle: VecDeque<Key>,
}

impl InDialog {
    /// So many calls between so many users, two at least.
    pub(crate) fn new(users: User, calls: u32, asked: Asked) -> InDialog {
        let (repetition, flow_use) = (Repetition::OnceAlone, FlowUse::Shared);
        InDialog {
            users,
            next: 0,
            asked,
            registering: Registering::new(users, 1, repetition, flow_use),
            calls: Calls::new(Duration::ZERO, CalleeKeeps::Dialog),
            missing: calls,
            stage: Stage::Preparing,
            idle: VecDeque::new(),
        }
    }

    /// Everybody registers, then the calls come up.
    fn prepare(&mut self, context: &mut Context, intended: Instant, now: Instant) -> Start {
        match self.registering.begin_next(context, intended, now) {
            Start::NoMore if self.registering.is_busy() => Start::NothingFree,
            Start::NoMore if self.missing == 0 => Start::NoMore,
            Start::NoMore => {
                self.missing -= 1;
                let caller = self.next;
                self.next = (caller + 1) % self.users;
                let begun = context.begin(intended, now);
                self.calls.begin(context, begun, (caller, self.next), now);
                Start::Begun
            }
            begun => begun,
        }
    }

    /// The next idle call has a request: of the side whose turn it is, or the caller's BYE.
    fn ask(&mut self, context: &mut Context, intended: Instant, now: Instant) -> Start {
        let Some(key) = self.idle.pop_front() else {
            return match self.stage {
                Stage::Preparing | Stage::Main => Start::NothingFree,
                Stage::Leaving => Start::NoMore,
            };
        };
        let Some(call) = self.calls.get_mut(key) else {
            return Start::NothingFree;
        };
        let request = match self.stage {
            Stage::Preparing | Stage::Main => (call.asks_next, self.asked.method()),
            Stage::Leaving => (Side::Caller, Method::Bye),
        };
        call.begun = context.begin(intended, now);
        call.is_waiting = true;
        self.calls.ask(context, key, request, now);
        Start::Begun
    }

    /// The operation of a call has ended; the call itself goes on or does not.
    fn end(&mut self, context: &mut Context, key: Key, outcome: Outcome, now: Instant) {
        let Some(call) = self.calls.get_mut(key).filter(|call| call.is_waiting) else {
            return;
        };
        call.is_waiting = false;
        call.asks_next = call.asks_next.other();
        context.end(call.begun, outcome, now);
        // A dialog that one side does not know, or that does not answer, is over (RFC 3261 §12.2.1.2).
        let is_over = match outcome {
            Outcome::Done => self.stage == Stage::Leaving,
            Outcome::Lost | Outcome::Failed(Failure::Status(408 | 481)) => true,
            Outcome::Failed(_) => self.stage != Stage::Main,
        };
        if is_over {
            self.calls.remove(key);
        } else {
            self.idle.push_back(key);
        }
    }

    fn happened(&mut self, context: &mut Context, event: Option<CallEvent>, now: Instant) {
        match event {
            None => {}
            Some(CallEvent::Up(key)) => self.end(context, key, Outcome::Done, now),
            Some(CallEvent::Over(key, outcome)) => self.end(context, key, outcome, now),
        }
    }
}

impl Scenario for InDialog {
    fn begin(
        &mut self,
        stage: Stage,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start {
        self.stage = stage;
        match stage {
            Stage::Preparing => self.prepare(context, intended, now),
            Stage::Main | Stage::Leaving => self.ask(context, intended, now),
        }
    }

    fn answered(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        response: &Message,
        now: Instant,
    ) {
        if request.method == Method::Register {
            return self.registering.answered(context, request, response, now);
        }
        let event = match self.stage {
            Stage::Main => self.calls.answered_in_dialog(context, &request, response),
            Stage::Preparing | Stage::Leaving => {
                self.calls.answered(context, &request, response, now)
            }
        };
        self.happened(context, event, now);
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        if request.method == Method::Register {
            return self.registering.given_up(context, request, now);
        }
        self.end(context, request.owner, Outcome::Lost, now);
    }

    fn failed(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        failure: Failure,
        now: Instant,
    ) {
        if request.method == Method::Register {
            return self.registering.failed(context, request, failure, now);
        }
        self.end(context, request.owner, Outcome::Failed(failure), now);
    }

    fn repeated(&mut self, context: &mut Context, response: &Message, now: Instant) {
        self.calls.repeated(context, response, now);
    }

    fn requested(
        &mut self,
        context: &mut Context,
        request: &Message,
        origin: Origin,
        now: Instant,
    ) {
        self.calls.requested(context, request, origin, now);
    }

    fn tick(&mut self, context: &mut Context, now: Instant) {
        self.registering.tick(context, now);
        self.calls.tick(context, now);
    }

    fn next_due(&self) -> Option<Instant> {
        [self.registering.next_due(), self.calls.next_due()].into_iter().flatten().min()
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        self.registering.abandon(context, now);
        // The calls are still up for all that is known, and the callers are to hang up.
        for key in self.calls.waiting() {
            if let Some(call) = self.calls.get_mut(key) {
                call.is_waiting = false;
                context.end(call.begun, Outcome::Lost, now);
                self.idle.push_back(key);
            }
        }
    }
}
