//! Sessions that are not here: whose are they?
//!
//! The record says it, as with set-ups: of a container that lives, so the message is handed on there; of a dead one, so
//! the session is taken over by compare-and-set and goes on under the same branches, tags and numbers; nobody's, so
//! the dialog does not exist. One that is asked for since it is overdue is taken over from a silent container, too (`due`).

use std::time::Instant;

use bytes::Bytes;
use sip::Method;
use state::{Batch, CommitError, Record, StoreError, Version};
use topology::Incarnation;
use tracing::{debug, error, info, warn};
use transport::link::HOPS_MAX;

use super::super::inquiries::is_late;
use super::super::proxying::NO_LINK;
use super::super::{CommitUse, Held, HttpOutcome, InHand, ReadUse, Shard, ShardEffect, taken};
use super::{Ask, Entered, Entry, Live, Queued, records};
use crate::ownership::index::Owned;
use crate::ownership::neighbours::Standing;
use crate::session::receive::Input;
use crate::session::{Session, SessionId, signal};
use crate::transactions::deadlines::Armed;
use crate::transactions::{Origin, ServerId};

/// More inquiries at a time are dropped: whoever wants an answer repeats its message.
const INQUIRIES_MAX: usize = 10_000;
/// More messages of one session do not wait for the answer.
const WAITING_MAX: usize = 16;
/// A record that changes hands so often while we look is left alone.
const ATTEMPTS_MAX: u32 = 4;

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum Asking {
    Message(Box<Held>),
    Http(Box<Ask>),
    /// The initial request of this transaction, whose key leads to the session.
    Keyed(ServerId),
}

/// A question that is open.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    waiting: Vec<Asking>,
    /// The entry of the index that made us ask.
    estate: Option<Owned>,
    /// Something was due in it, and it is not ours.
    is_for_due: bool,
    /// What we want to own, and its record.
    claim: Option<Box<(Session, Bytes)>>,
    /// When that was asked for.
    claimed_at: Option<Instant>,
    attempts: u32,
    /// A claim of ours may stand, although nobody knows.
    is_unsure: bool,
}

impl Shard {
    /// Asks whose session a message is for.
    pub(in super::super) fn inquire_session(
        &mut self,
        id: SessionId,
        held: Held,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Err(Asking::Message(held)) =
            self.inquire_for(id, Asking::Message(Box::new(held)), effects)
        {
            debug!(session = %id, "too many messages wait for a record; dropped one");
            taken(held.offered, effects);
        }
    }

    /// Asks whose a session is.
    ///
    /// # Errors
    /// Too many ask already.
    pub(super) fn inquire_for(
        &mut self,
        id: SessionId,
        asking: Asking,
        effects: &mut Vec<ShardEffect>,
    ) -> Result<(), Asking> {
        let under_way = self.sessions.inquiries.len();
        match self.sessions.inquiries.get_mut(&id) {
            Some(inquiry) if inquiry.waiting.len() < WAITING_MAX => inquiry.waiting.push(asking),
            None if under_way < INQUIRIES_MAX => {
                let inquiry = Inquiry { waiting: vec![asking], ..Inquiry::default() };
                self.ask_for_session(id, inquiry, effects);
            }
            Some(_) | None => return Err(asking),
        }
        Ok(())
    }

    /// Asks for the session that a dead container has left; false when that is under way already.
    pub(in super::super) fn inquire_session_for_estate(
        &mut self,
        estate: Owned,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let id = SessionId(estate.id);
        if self.sessions.has(id) || self.sessions.inquiries.contains_key(&id) {
            return false;
        }
        self.ask_for_session(id, Inquiry { estate: Some(estate), ..Inquiry::default() }, effects);
        true
    }

    /// Asks for a session of which something was due and has not happened.
    pub(super) fn inquire_due_session(&mut self, id: SessionId, effects: &mut Vec<ShardEffect>) {
        if self.sessions.has(id) {
            return;
        }
        match self.sessions.inquiries.get_mut(&id) {
            // Whoever else waits for the answer: what is due counts, too.
            Some(inquiry) => inquiry.is_for_due = true,
            None => {
                let inquiry = Inquiry { is_for_due: true, ..Inquiry::default() };
                self.ask_for_session(id, inquiry, effects);
            }
        }
    }

    fn ask_for_session(&mut self, id: SessionId, inquiry: Inquiry, effects: &mut Vec<ShardEffect>) {
        self.sessions.inquiries.insert(id, inquiry);
        self.ask(ReadUse::Session(id), records::key(id), effects);
    }

    /// The record of an inquiry was read.
    pub(in super::super) fn session_inquired(
        &mut self,
        id: SessionId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let record = match result {
            Ok(Some(record)) => record,
            Ok(None) => return self.no_such_session(id, now, effects),
            Err(error) => {
                warn!(%error, session = %id, "the record of a session cannot be read; dropped its messages");
                return self.give_up_session(id, now, effects);
            }
        };
        if let Some(session) = records::read_alias(&record.value) {
            return self.follow_alias(id, session, now, effects);
        }
        let session = match Session::decode(id, &record.value) {
            Ok(session) => session,
            Err(error) => {
                error!(%error, session = %id, "a session cannot be taken over");
                return self.give_up_session(id, now, effects);
            }
        };
        let owner = session.owner.incarnation;
        let inquiry = self.sessions.inquiries.get(&id);
        let is_for_due = inquiry.is_some_and(|inquiry| inquiry.is_for_due);
        let standing = match self.neighbours.standing(owner) {
            Standing::Living if is_for_due && self.is_left_undone(&session, now) => Standing::Dead,
            standing => standing,
        };
        let is_to_be_taken_over = match standing {
            Standing::Mine => !self.sessions.has(id),
            Standing::Living => false,
            Standing::Dead => true,
        };
        if is_to_be_taken_over && !self.may_take_over(ReadUse::Session(id), records::key(id), now) {
            return;
        }
        match standing {
            Standing::Mine => {
                self.resume_session(session, record.value, record.version, now, effects);
                self.session_answered(id, now, effects);
            }
            Standing::Living => {
                for asking in self.end_session_inquiry(id, effects) {
                    match asking {
                        Asking::Message(held) => self.hand_on(*held, owner, now, effects),
                        Asking::Http(ask) => ask.ends(HttpOutcome::Elsewhere(owner), effects),
                        Asking::Keyed(server) => self.hand_on_keyed(server, owner, now, effects),
                    }
                }
            }
            Standing::Dead => {
                let mut claimed = session.clone();
                claimed.owner = self.sessions.identity.owner();
                if self.sessions.spoke_before_commits(&claimed) {
                    claimed.skip_numbers();
                }
                let value = claimed.encode();
                let before = Some((Entered::of(&session), record.version));
                let batch = records::update(before, &claimed, value.clone());
                let Some(inquiry) = self.sessions.inquiries.get_mut(&id) else { return };
                inquiry.claim = Some(Box::new((claimed, value)));
                inquiry.claimed_at = Some(now);
                self.commit(CommitUse::SessionClaim(id), batch, effects);
            }
        }
    }

    /// A claim has ended.
    pub(in super::super) fn session_claimed(
        &mut self,
        id: SessionId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(inquiry) = self.sessions.inquiries.get_mut(&id) else { return };
        let is_late = is_late(inquiry.claimed_at, now);
        inquiry.is_unsure |= matches!(result, Err(CommitError::Unknown { .. }));
        match (result, inquiry.claim.take()) {
            (Ok(_), Some(_)) if is_late && inquiry.attempts < ATTEMPTS_MAX => {
                inquiry.attempts += 1;
                self.ask(ReadUse::Session(id), records::key(id), effects);
            }
            (Ok(versions), Some(claimed)) => {
                let (session, value) = *claimed;
                let version = *versions.first().expect("the store gives a version for each write");
                info!(session = %id, "took a session over");
                self.resume_session(session, value, version, now, effects);
                self.session_answered(id, now, effects);
            }
            // Somebody else was sooner, or it is not known: the record says who has it now.
            (Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }), _)
                if inquiry.attempts < ATTEMPTS_MAX =>
            {
                inquiry.attempts += 1;
                self.ask(ReadUse::Session(id), records::key(id), effects);
            }
            (Err(error), _) => {
                warn!(%error, session = %id, "a session cannot be taken over now");
                self.give_up_session(id, now, effects);
            }
            (Ok(_), None) => self.give_up_session(id, now, effects),
        }
    }

    /// Goes on with a session from its record.
    fn resume_session(
        &mut self,
        mut session: Session,
        record: Bytes,
        version: Version,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let id = session.id;
        if self.sessions.has(id) {
            return;
        }
        for transaction in session.server_transactions() {
            let origin = Origin { link: NO_LINK, flow: transaction.flow };
            let (key, is_invite) = (transaction.key, transaction.is_invite);
            let head = sip::Message::parse(transaction.head.clone()).ok();
            let resumed = self.transactions.resume_kept(key, is_invite, head, origin, now);
            match transaction.answer {
                Some((status, response)) => {
                    let response = response.clone();
                    self.transactions.respond(resumed, status, response, now, &mut self.pending);
                }
                None => {
                    self.sessions.keys.found(resumed, id, &self.transactions);
                    self.transactions.trying(resumed, now, &mut self.pending);
                }
            }
        }
        let actions = session.resume(self.wall(now));
        let entry = Entry {
            record,
            version: Some(version),
            is_volatile: false,
            entered: Entered::of(&session),
            has_calls: session.has_calls(),
            live: Some(Box::new(Live::new(session))),
            armed: Armed::default(),
            not_before: None,
            awaits_application: false,
        };
        self.sessions.insert(id, entry);
        self.act_for_session(id, actions, now, effects);
        self.repeat_successes(id, now, now);
        if let Some(live) = self.sessions.wake(id)
            && live.session.has_failures()
        {
            live.waiting.push_back(Queued::of(Input::Failure));
        }
        self.advance(id, now, effects);
        self.settle(now, effects);
    }

    /// There is no record: the messages are treated as those of dialogs that never were.
    fn no_such_session(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let estate = self.sessions.inquiries.get(&id).and_then(|inquiry| inquiry.estate);
        if let Some(estate) = estate {
            self.commit(CommitUse::Tidy, estate.strike(Batch::new()), effects);
        }
        for asking in self.end_session_inquiry(id, effects) {
            match asking {
                Asking::Message(held) => match self.volatile_holder(&held) {
                    Some(holder) => self.hand_on(*held, holder, now, effects),
                    None => self.is_for_no_session(id, *held, now, effects),
                },
                Asking::Http(ask) => self.begin_or_end_ask(*ask, now, effects),
                Asking::Keyed(server) => self.begin_keyed(server, now, effects),
            }
        }
    }

    /// Who else lives and may hold the session that a message names, which is not stored: it has ended, or never was.
    fn volatile_holder(&self, held: &Held) -> Option<Incarnation> {
        let holder = self.sessions.holder_named_by(&held.message)?;
        let is_living = self.neighbours.standing(holder) == Standing::Living;
        (is_living && held.hops < HOPS_MAX).then_some(holder)
    }

    fn is_for_no_session(
        &mut self,
        id: SessionId,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if held.message.method() == Some(signal::METHOD) {
            return self.is_heard_by_nobody(held, now, effects);
        }
        let is_named = self.sessions.named_by(&held.message) == Some(id);
        match held.message.method() {
            // Its record was there a moment ago.
            Some(Method::Invite) if !is_named => self.dispatch_again(held, now, effects),
            Some(_) => self.give_to_transactions(held, now, effects),
            None => {
                debug!("dropped a response to a session that is over");
                taken(held.offered, effects);
            }
        }
    }

    fn give_to_transactions(&mut self, held: Held, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Held { message, origin, hops, offered, rounds } = held;
        self.in_hand = InHand { offered, hops, rounds };
        self.transactions.request(message, origin, now, &mut self.pending);
        self.hand_empty(now, effects);
    }

    /// The INVITE of these messages went to the session `id`.
    fn follow_alias(
        &mut self,
        alias: SessionId,
        id: SessionId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        for asking in self.end_session_inquiry(alias, effects) {
            match asking {
                // It is here, and knows their INVITE no more.
                Asking::Message(held) if self.sessions.has(id) => {
                    self.give_to_transactions(*held, now, effects);
                }
                Asking::Message(held) => self.inquire_session(id, *held, effects),
                Asking::Http(ask) => ask.ends(HttpOutcome::NoSession, effects),
                Asking::Keyed(server) => self.refuse_keyed(server, 500, now, effects),
            }
        }
    }

    /// The session is here now.
    fn session_answered(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        for asking in self.end_session_inquiry(id, effects) {
            match asking {
                Asking::Message(held) => self.dispatch_again(*held, now, effects),
                Asking::Http(ask) => self.ask_again(*ask, now, effects),
                Asking::Keyed(server) => self.find_keyed(server, now, effects),
            }
        }
    }

    fn give_up_session(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.sessions.inquiries.get(&id).is_some_and(|inquiry| inquiry.is_unsure) {
            self.estates.look_again(records::owned(id, self.settings.incarnation));
        }
        for asking in self.end_session_inquiry(id, effects) {
            match asking {
                Asking::Message(held) => self.drop_held(*held, effects),
                Asking::Http(ask) => ask.ends(HttpOutcome::Refused(503), effects),
                Asking::Keyed(server) => self.refuse_keyed(server, 503, now, effects),
            }
        }
        self.settle(now, effects);
    }

    fn end_session_inquiry(
        &mut self,
        id: SessionId,
        effects: &mut Vec<ShardEffect>,
    ) -> Vec<Asking> {
        let Some(inquiry) = self.sessions.inquiries.remove(&id) else { return Vec::new() };
        if inquiry.estate.is_some() {
            self.estate_done(effects);
        }
        inquiry.waiting
    }
}
