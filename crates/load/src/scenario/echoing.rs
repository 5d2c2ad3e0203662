//! Datagrams that the target sends back as they are: what this machine's sockets cost, without any SIP server.
//!
//! A datagram is the response to itself, so the way back through this generator is that of every other answer.

use std::time::Instant;

use sip::{Message, Method};

use super::{Context, Scenario, Stage, Start};
use crate::phones::{User, Values};
use crate::statistics::{Begun, Failure, Outcome};
use crate::table::Table;
use crate::transactions::ClientTransaction;

/// Flows send in turn.
#[derive(Debug)]
pub(crate) struct Echoing {
    next: User,
    sent: Table<Begun>,
}

impl Echoing {
    pub(crate) fn new() -> Echoing {
        Echoing { next: 0, sent: Table::default() }
    }
}

impl Scenario for Echoing {
    fn begin(
        &mut self,
        stage: Stage,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start {
        if stage != Stage::Main {
            return Start::NoMore;
        }
        let user = self.next;
        self.next = (user + 1) % context.phones.flows();
        let owner = self.sent.insert(context.begin(intended, now));
        let route = (context.phones.flow_of(user), context.target);
        let values = Values { user, ..Values::default() };
        context
            .request(owner, Method::Options, route, now, |phones, key| phones.echo(key, &values));
        Start::Begun
    }

    fn answered(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        _response: &Message,
        now: Instant,
    ) {
        let Some(begun) = self.sent.remove(request.owner) else {
            return;
        };
        context.end(begun, Outcome::Done, now);
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        let Some(begun) = self.sent.remove(request.owner) else {
            return;
        };
        context.end(begun, Outcome::Lost, now);
    }

    fn failed(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        failure: Failure,
        now: Instant,
    ) {
        let Some(begun) = self.sent.remove(request.owner) else {
            return;
        };
        context.end(begun, Outcome::Failed(failure), now);
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        for begun in self.sent.drain() {
            context.end(begun, Outcome::Lost, now);
        }
    }
}
