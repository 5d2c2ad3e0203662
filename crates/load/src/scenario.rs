//! Scenarios: what phones do, as decisions. A scenario begins operations when the pace asks for one, and is told what
//! arrives and what time it is; what it wants sent goes through [`Context`]. No sockets and no clock in here.

mod calling;
mod calls;
mod echoing;
mod idling;
mod in_dialog;
mod pinging;
mod registering;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip::{Message, Method};

pub(crate) use calling::{CallTimes, Calling};
pub(crate) use echoing::Echoing;
pub(crate) use idling::Idling;
pub(crate) use in_dialog::{Asked as AskedInDialog, InDialog};
pub(crate) use pinging::Pinging;
pub(crate) use registering::{FlowUse, Registering, Repetition};

use crate::logins::Logins;
use crate::outbox::{FlowIndex, Outbox, Output};
use crate::phones::Phones;
use crate::statistics::{Begun, Failure, Outcome, Statistics};
use crate::table::Key;
use crate::transactions::{ClientTransaction, Transactions};

/// What all scenarios use.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where requests go.
    pub(crate) target: SocketAddr,
    pub(crate) phones: Phones,
    pub(crate) logins: Logins,
    pub(crate) transactions: Transactions,
    pub(crate) statistics: Statistics,
    pub(crate) outbox: Outbox,
    /// Operations that have begun and not ended.
    pub(crate) in_flight: usize,
}

impl Context {
    /// An operation begins.
    pub(crate) fn begin(&mut self, intended: Instant, now: Instant) -> Begun {
        self.in_flight += 1;
        self.statistics.begin(intended, now)
    }

    /// An operation has ended.
    pub(crate) fn end(&mut self, begun: Begun, outcome: Outcome, now: Instant) {
        self.in_flight -= 1;
        self.statistics.end(begun, outcome, now);
    }

    /// Sends a message that nobody answers, or that is an answer.
    pub(crate) fn send(&mut self, flow: FlowIndex, to: SocketAddr, message: Bytes) {
        self.outbox.push(Output::Send { flow, to, message });
    }

    /// Sends a request that waits for its answer; `render` makes it with its transaction's key.
    pub(crate) fn request(
        &mut self,
        owner: Key,
        method: Method<'static>,
        route: (FlowIndex, SocketAddr),
        now: Instant,
        render: impl FnOnce(&Phones, Key) -> Bytes,
    ) -> Key {
        let Context { transactions, phones, outbox, .. } = self;
        transactions.send(owner, method, route, now, outbox, |key| render(phones, key))
    }
}

/// Where a request came from, and how its answer goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The flow that it came by.
    pub(crate) flow: FlowIndex,
    /// Who sent it.
    pub(crate) from: SocketAddr,
}

/// Which part of a run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// What must be there before: registrations of those who are called, calls that are up.
    Preparing,
    /// What is measured, and its warm-up.
    Main,
    /// What is left behind is cleared up.
    Leaving,
}

/// Whether an operation was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It was.
    Begun,
    /// Nothing is free for it now; something will be when an operation ends.
    NothingFree,
    /// There will not be another one.
    NoMore,
}

/// What phones do.
pub(crate) trait Scenario: std::fmt::Debug {
    /// Begins an operation of this stage.
    fn begin(
        &mut self,
        stage: Stage,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start;

    /// The final response of a request.
    fn answered(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        response: &Message,
        now: Instant,
    );

    /// No final response came in time.
    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant);

    /// A request got no answer, and will not: its flow is gone.
    fn failed(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        failure: Failure,
        now: Instant,
    );

    /// A provisional response to a request.
    fn provisional(
        &mut self,
        _context: &mut Context,
        _request: &ClientTransaction,
        _response: &Message,
        _now: Instant,
    ) {
    }

    /// A response to no request that waits: most often the repetition of one that was answered.
    fn repeated(&mut self, context: &mut Context, _response: &Message, _now: Instant) {
        context.statistics.strays += 1;
    }

    /// A request from the server.
    fn requested(&mut self, context: &mut Context, _request: &Message, _: Origin, _now: Instant) {
        context.statistics.strays += 1;
    }

    /// A flow's connection is up.
    fn flow_up(&mut self, _context: &mut Context, _flow: FlowIndex, _now: Instant) {}

    /// A flow's connection is gone, or did not come up; what waited on it has been told as failed.
    fn flow_down(
        &mut self,
        _context: &mut Context,
        _flow: FlowIndex,
        _failure: Failure,
        _now: Instant,
    ) {
    }

    /// The time that is measured is over.
    fn time_is_up(&mut self, _context: &mut Context, _now: Instant) {}

    /// Does what is due at `now`.
    fn tick(&mut self, _context: &mut Context, _now: Instant) {}

    /// When [`tick`](Self::tick) has something to do.
    fn next_due(&self) -> Option<Instant> {
        None
    }

    /// The time for answers is over: whatever is in flight is lost.
    fn abandon(&mut self, context: &mut Context, now: Instant);
}
