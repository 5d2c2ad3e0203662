//! Calls from one user to the next: INVITE, 180, 200, ACK, BYE, 200. An operation is a call, from the INVITE to the 200
//! of its BYE. Everybody registers first.

use std::time::{Duration, Instant};

use sip::{Message, Method};

use super::calls::{CallEvent, CalleeKeeps, Calls, Side};
use super::{Context, FlowUse, Origin, Registering, Repetition, Scenario, Stage, Start};
use crate::delays::Delays;
use crate::phones::User;
use crate::statistics::{Failure, Outcome};
use crate::table::Key;
use crate::transactions::ClientTransaction;

/// How long phones wait before they do what they are there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallTimes {
    /// From 180 to 200.
    pub(crate) ring: Duration,
    /// From the caller's ACK to its BYE.
    pub(crate) hold: Duration,
}

/// User *n* calls user *n* + 1.
#[derive(Debug)]
pub(crate) struct Calling {
    users: User,
    next: User,
    hold: Duration,
    registering: Registering,
    calls: Calls,
    held: Delays<Key>,
}

impl Calling {
    /// So many users, two at least.
    pub(crate) fn new(users: User, times: CallTimes) -> Calling {
        Calling {
            users,
            next: 0,
            hold: times.hold,
            registering: Registering::new(users, 1, Repetition::OnceAlone, FlowUse::Shared),
            calls: Calls::new(times.ring, CalleeKeeps::Answers),
            held: Delays::default(),
        }
    }

    fn happened(&mut self, context: &mut Context, event: Option<CallEvent>, now: Instant) {
        match event {
            None => {}
            Some(CallEvent::Up(key)) if self.hold.is_zero() => {
                self.calls.ask(context, key, (Side::Caller, Method::Bye), now);
            }
            Some(CallEvent::Up(key)) => self.held.add(self.hold, now, key),
            Some(CallEvent::Over(key, outcome)) => {
                if let Some(call) = self.calls.remove(key) {
                    context.end(call.begun, outcome, now);
                }
            }
        }
    }
}

impl Scenario for Calling {
    fn begin(
        &mut self,
        stage: Stage,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start {
        match stage {
            Stage::Preparing => self.registering.begin_next(context, intended, now),
            Stage::Leaving => Start::NoMore,
            Stage::Main => {
                let caller = self.next;
                self.next = (caller + 1) % self.users;
                let begun = context.begin(intended, now);
                self.calls.begin(context, begun, (caller, self.next), now);
                Start::Begun
            }
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
        let event = self.calls.answered(context, &request, response, now);
        self.happened(context, event, now);
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        if request.method == Method::Register {
            return self.registering.given_up(context, request, now);
        }
        self.happened(context, Some(CallEvent::Over(request.owner, Outcome::Lost)), now);
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
        let outcome = Outcome::Failed(failure);
        self.happened(context, Some(CallEvent::Over(request.owner, outcome)), now);
    }

    fn provisional(
        &mut self,
        context: &mut Context,
        request: &ClientTransaction,
        response: &Message,
        now: Instant,
    ) {
        if request.method == Method::Invite {
            self.calls.provisional(context, request.owner, response, now);
        }
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
        while let Some(key) = self.held.take_due(now) {
            self.calls.ask(context, key, (Side::Caller, Method::Bye), now);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let all = [self.registering.next_due(), self.calls.next_due(), self.held.next_due()];
        all.into_iter().flatten().min()
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        self.registering.abandon(context, now);
        for call in self.calls.drain() {
            context.end(call.begun, Outcome::Lost, now);
        }
    }
}
