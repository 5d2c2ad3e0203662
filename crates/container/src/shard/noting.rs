//! What changes the course of a proxied request is noted before it takes effect: where it is noted, and which responses
//! have to wait for that.
//!
//! A call of the registrar has a set-up record of its own (`set_ups`). Of what a session has let go on the record lies in
//! the session's, and each note is a step of the session.

use std::time::Instant;

use sip::Message;
use sip::transaction::ResponseClass;

use super::set_ups::Step;
use super::{Shard, ShardEffect};
use crate::ownership::identity::SetUpId;
use crate::proxy::{BranchIndex, TransportFailure};
use crate::session::{RequestId, SessionId};
use crate::setup::{Event, SetUp};
use crate::transactions::{ClientId, ServerId};

/// Where what happens to a proxied request is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notes {
    /// Nowhere: it is no INVITE, or has no record.
    Nowhere,
    /// In this set-up record.
    SetUp(SetUpId),
    /// In the record of the session that has let this request of its go on.
    Session(SessionId, RequestId),
}

/// Whether a response may go to its transaction at once.
pub(super) enum Gate {
    /// It may: it changes nothing that a successor must know.
    Open,
    /// Not before this is committed, in the record of this transaction's request; without an event, not before what came
    /// before it.
    Closed(ServerId, Option<Event>),
    /// The same response waits already.
    Repeated,
}

impl Shard {
    /// Whether a response to a client transaction changes the course of a call.
    pub(super) fn gate(&self, client: ClientId, response: &Message) -> Gate {
        let Some((server, branch)) = self.branch_of(client) else { return Gate::Open };
        let Some(notes) = self.notes(server) else { return Gate::Open };
        let (Some(context), Some(record)) = (self.contexts.get(&server), self.record_of(notes))
        else {
            return Gate::Open;
        };
        let status = response.status().unwrap_or_default();
        match ResponseClass::of(status) {
            Some(ResponseClass::Success) => {
                // Another fork's, or the same again: behind the first.
                if self.awaits(notes, |event| matches!(event, Event::Answered { .. })) {
                    return Gate::Closed(server, None);
                }
                Gate::Closed(server, Some(Event::Answered { branch: branch.number() }))
            }
            Some(ResponseClass::Failure) if context.proxy.is_pending(branch) => {
                let number = branch.number();
                let is_same = |event: &Event| matches!(event, Event::Ended { branch, .. } if *branch == number);
                if self.awaits(notes, is_same) {
                    return Gate::Repeated;
                }
                let progressed = context.proxy.has_progressed(branch);
                let event = record.ended(number, progressed, status, response.buffer());
                Gate::Closed(server, Some(event))
            }
            // The branch is over: the repeated final gets its ACK again.
            Some(ResponseClass::Failure | ResponseClass::Provisional) | None => Gate::Open,
        }
    }

    /// Where to note what happens to this call; None when it has no record any more, or is answered.
    pub(super) fn notes(&self, server: ServerId) -> Option<Notes> {
        let context = self.contexts.get(&server)?;
        let is_noted = match context.notes {
            Notes::Nowhere => false,
            Notes::SetUp(_) => true,
            // Of others than INVITE it is enough to ask again, under the same branches.
            // A session that has ended is not waited for by phones that ring on.
            Notes::Session(id, _) => &context.method[..] == b"INVITE" && self.sessions.has(id),
        };
        (is_noted && !context.proxy.is_answered()).then_some(context.notes)
    }

    fn record_of(&self, notes: Notes) -> Option<&SetUp> {
        match notes {
            Notes::Nowhere => None,
            Notes::SetUp(id) => self.set_ups.get(&id).map(|ledger| ledger.record()),
            Notes::Session(id, request) => self.sessions.forwarded(id, request),
        }
    }

    fn awaits(&self, notes: Notes, is_meant: impl Fn(&Event) -> bool) -> bool {
        match notes {
            Notes::Nowhere => false,
            Notes::SetUp(id) => self.set_ups.get(&id).is_some_and(|ledger| ledger.awaits(is_meant)),
            Notes::Session(id, request) => self.sessions.awaits_note(id, request, is_meant),
        }
    }

    /// The event that a branch ended without a response that counts.
    pub(super) fn failed_event(
        &self,
        server: ServerId,
        branch: BranchIndex,
        failure: TransportFailure,
    ) -> Option<Event> {
        let progressed = self.contexts.get(&server)?.proxy.has_progressed(branch);
        Some(Event::Failed { branch: branch.number(), progressed, status: failure.status() })
    }

    /// Notes something that happened to a call; it takes effect when that is committed, at once where there is no record.
    pub(super) fn note_of(
        &mut self,
        server: ServerId,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match self.notes(server) {
            Some(Notes::SetUp(id)) => self.note(id, step, now, effects),
            Some(Notes::Session(id, request)) => {
                self.note_for_session(id, request, server, step, now, effects);
            }
            Some(Notes::Nowhere) | None => self.act(server, step, now, effects),
        }
    }
}
