//! Idle flows: each user opens a connection of its own, registers over it and keeps it. An operation is a flow that is
//! still there when the time is over.

use std::time::Instant;

use sip::Message;

use super::{Context, FlowUse, Registering, Repetition, Scenario, Stage, Start};
use crate::outbox::FlowIndex;
use crate::phones::User;
use crate::statistics::{Begun, Failure, Outcome};
use crate::transactions::ClientTransaction;

/// How a flow is.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// Since the preparation.
    Open,
    /// The server, or the system, has ended it.
    Gone(Failure),
    /// It is counted.
    Counted(Begun),
    /// It was counted, and is gone.
    Ended,
}

/// Users hold flows.
#[derive(Debug)]
pub(crate) struct Idling {
    registering: Registering,
    /// By user, and that is by flow.
    held: Vec<Held>,
    next: User,
}

impl Idling {
    pub(crate) fn new(users: User) -> Idling {
        Idling {
            registering: Registering::new(users, 1, Repetition::Once, FlowUse::OwnKept),
            held: vec![Held::Open; users as usize],
            next: 0,
        }
    }
}

impl Scenario for Idling {
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
                let Some(held) = self.held.get_mut(self.next as usize) else {
                    // Held until the time is over, which this must not end.
                    return Start::NothingFree;
                };
                self.next += 1;
                let begun = context.begin(intended, now);
                match *held {
                    Held::Gone(failure) => context.end(begun, Outcome::Failed(failure), now),
                    _ => *held = Held::Counted(begun),
                }
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
        self.registering.answered(context, request, response, now);
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        self.registering.given_up(context, request, now);
    }

    fn failed(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        failure: Failure,
        now: Instant,
    ) {
        self.registering.failed(context, request, failure, now);
    }

    fn flow_up(&mut self, context: &mut Context, flow: FlowIndex, now: Instant) {
        self.registering.flow_up(context, flow, now);
    }

    fn flow_down(
        &mut self,
        context: &mut Context,
        flow: FlowIndex,
        failure: Failure,
        now: Instant,
    ) {
        self.registering.flow_down(context, flow, failure, now);
        let Some(held) = self.held.get_mut(flow.0 as usize) else {
            return;
        };
        match *held {
            Held::Open => *held = Held::Gone(failure),
            Held::Counted(begun) => {
                *held = Held::Ended;
                context.end(begun, Outcome::Failed(failure), now);
            }
            Held::Gone(_) | Held::Ended => {}
        }
    }

    fn time_is_up(&mut self, context: &mut Context, now: Instant) {
        for held in &mut self.held {
            if let Held::Counted(begun) = *held {
                *held = Held::Ended;
                context.end(begun, Outcome::Done, now);
            }
        }
    }

    fn tick(&mut self, context: &mut Context, now: Instant) {
        self.registering.tick(context, now);
    }

    fn next_due(&self) -> Option<Instant> {
        self.registering.next_due()
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        self.registering.abandon(context, now);
    }
}
