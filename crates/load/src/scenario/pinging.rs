//! OPTIONS to the server, which answers with a 2xx: what phones and monitors send as keep-alive.

use std::time::Instant;

use sip::{Message, Method};

use super::{Context, Scenario, Stage, Start};
use crate::phones::{User, Values};
use crate::statistics::{Begun, Failure, Outcome};
use crate::table::Table;
use crate::transactions::ClientTransaction;

/// Users ping in turn.
#[derive(Debug)]
pub(crate) struct Pinging {
    users: User,
    next: User,
    pings: Table<Begun>,
}

impl Pinging {
    pub(crate) fn new(users: User) -> Pinging {
        Pinging { users, next: 0, pings: Table::default() }
    }
}

impl Scenario for Pinging {
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
        self.next = (user + 1) % self.users;
        let owner = self.pings.insert(context.begin(intended, now));
        let route = (context.phones.flow_of(user), context.target);
        let values = Values { user, ..Values::default() };
        context.request(owner, Method::Options, route, now, |phones, key| {
            phones.options(key, &values)
        });
        Start::Begun
    }

    fn answered(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        response: &Message,
        now: Instant,
    ) {
        let Some(begun) = self.pings.remove(request.owner) else {
            return;
        };
        let outcome = match response.status() {
            Some(200..=299) => Outcome::Done,
            status => Outcome::Failed(Failure::of(status)),
        };
        context.end(begun, outcome, now);
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        let Some(begun) = self.pings.remove(request.owner) else {
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
        let Some(begun) = self.pings.remove(request.owner) else {
            return;
        };
        context.end(begun, Outcome::Failed(failure), now);
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        for begun in self.pings.drain() {
            context.end(begun, Outcome::Lost, now);
        }
    }
}
