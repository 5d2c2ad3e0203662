//! Messages that belong to no call here: whose are they?
//!
//! The record says it. Nobody's: the message is treated as if there had never been records. Of a container that
//! lives: it is handed on there, by way of an edge. Of a dead one, or ours but forgotten: the call is taken over, and
//! then the message is looked at again.
//!
//! Whom we take for living may have died a moment ago, and then what was handed on is lost, which over a stream nobody
//! repeats. So it is remembered for a while, and looked at again when its owner turns out to be dead; all messages of
//! a set-up may come twice.

use std::time::{Duration, Instant};

use sip::{Edits, Method};
use state::{Batch, CommitError, Record, StoreError, Version};
use topology::{ChoiceHash, Incarnation};
use tracing::{debug, error, warn};
use transport::link::{HOPS_MAX, LinkFrame};

use super::{CommitUse, Held, ReadUse, STANDSTILL, Shard, ShardEffect, taken};
use crate::ownership::identity::SetUpId;
use crate::ownership::index::{Owned, RecordKind};
use crate::ownership::neighbours::Standing;
use crate::proxy;
use crate::session::SessionId;
use crate::setup::SetUp;
use crate::transactions::Origin;

/// More inquiries at a time are dropped: whoever wants an answer repeats its message.
const INQUIRIES_MAX: usize = 10_000;
/// More messages of one call do not wait for the answer.
const WAITING_MAX: usize = 16;
/// A message is looked at so often, then it is dropped.
const ROUNDS_MAX: u8 = 4;
/// A record that changes hands so often while we look is left alone.
const ATTEMPTS_MAX: u32 = 4;
/// How long we may take for living who is dead, and more.
const HANDED_ON_TIME: Duration = Duration::from_secs(3);
/// More handed-on messages are not remembered: the oldest are forgotten first.
const HANDED_ON_MAX: usize = 1_024;

/// A question that is open.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    waiting: Vec<Held>,
    /// The entry of the index that made us ask.
    estate: Option<Owned>,
    /// What we want to own.
    claim: Option<Box<SetUp>>,
    /// When that was asked for.
    claimed_at: Option<Instant>,
    attempts: u32,
    /// A claim of ours may stand, although nobody knows.
    is_unsure: bool,
}

/// A message that went to its owner.
#[derive(Debug)]
pub(super) struct HandedOn {
    owner: Incarnation,
    until: Instant,
    held: Held,
}

impl Shard {
    /// Asks whose a message is.
    pub(super) fn inquire(&mut self, id: SetUpId, held: Held, effects: &mut Vec<ShardEffect>) {
        if let Some(inquiry) = self.inquiries.get_mut(&id) {
            if inquiry.waiting.len() < WAITING_MAX {
                return inquiry.waiting.push(held);
            }
        } else if self.inquiries.len() < INQUIRIES_MAX {
            let inquiry = Inquiry { waiting: vec![held], ..Inquiry::default() };
            self.inquiries.insert(id, inquiry);
            return self.ask(ReadUse::Inquiry(id), SetUp::key(id), effects);
        }
        debug!(set_up = %id, "too many messages wait for a record; dropped one");
        taken(held.offered, effects);
    }

    /// Asks for the record that a dead container has left; false when that is under way already.
    pub(super) fn inquire_for_estate(
        &mut self,
        estate: Owned,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let id = SetUpId(estate.id);
        if self.is_here(id) || self.inquiries.contains_key(&id) {
            return false;
        }
        self.inquiries.insert(id, Inquiry { estate: Some(estate), ..Inquiry::default() });
        self.ask(ReadUse::Inquiry(id), SetUp::key(id), effects);
        true
    }

    /// A response that no client transaction waits for.
    pub(super) fn response_to_nobody(
        &mut self,
        response: sip::Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let is_for_invite = response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        let id = self.identifier.of_response(&response).filter(|_| is_for_invite);
        let Some(id) = id else {
            return debug!("dropped a response that no client transaction waits for");
        };
        let Some(ledger) = self.set_ups.get(&id) else {
            let held = self.hold(response.detached(), origin);
            return self.inquire(id, held, effects);
        };
        // RFC 3261 §16.7(5): the callee takes the call for answered, so the caller must hear of it.
        let status = response.status().unwrap_or_default();
        if status / 100 == 2
            && let Some(relayed) = proxy::relayed(&response, Edits::new())
        {
            let server = ledger.server();
            self.transactions.respond(server, status, relayed, now, &mut self.pending);
        }
    }

    /// The record of an inquiry was read.
    pub(super) fn inquired(
        &mut self,
        id: SetUpId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let record = match result {
            Ok(Some(record)) => record,
            Ok(None) => return self.belongs_to_nobody(id, now, effects),
            Err(error) => {
                warn!(%error, set_up = %id, "the record of a call cannot be read; dropped its messages");
                return self.give_up_inquiry(id, now, effects);
            }
        };
        let set_up = match SetUp::decode(&record.value) {
            Ok(set_up) => set_up,
            Err(error) => {
                error!(%error, set_up = %id, "a call cannot be taken over");
                return self.give_up_inquiry(id, now, effects);
            }
        };
        let standing = self.neighbours.standing(set_up.owner);
        if standing != Standing::Mine {
            self.disown(id);
        }
        let is_to_be_taken_over = match standing {
            Standing::Mine => !self.is_here(id),
            Standing::Living => false,
            Standing::Dead => true,
        };
        if is_to_be_taken_over && !self.may_take_over(ReadUse::Inquiry(id), SetUp::key(id), now) {
            return;
        }
        match standing {
            Standing::Mine => {
                if is_to_be_taken_over {
                    return self.inherit(id, Box::new(set_up), record.version, now, effects);
                }
                self.go_on_with(id, now, effects);
                self.answer_inquiry(id, now, effects);
            }
            Standing::Living => {
                for held in self.end_inquiry(id, effects) {
                    self.hand_on(held, set_up.owner, now, effects);
                }
            }
            Standing::Dead => {
                let (own, wall) = (self.settings.incarnation, self.wall(now));
                let (claimed, batch) = set_up.claim(id, own, &record, wall);
                let Some(inquiry) = self.inquiries.get_mut(&id) else { return };
                inquiry.claim = Some(Box::new(claimed));
                inquiry.claimed_at = Some(now);
                self.commit(CommitUse::Claim(id), batch, effects);
            }
        }
    }

    /// A claim has ended.
    pub(super) fn claimed(
        &mut self,
        id: SetUpId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(inquiry) = self.inquiries.get_mut(&id) else { return };
        let is_late = is_late(inquiry.claimed_at, now);
        inquiry.is_unsure |= matches!(result, Err(CommitError::Unknown { .. }));
        match (result, inquiry.claim.take()) {
            (Ok(_), Some(_)) if is_late && inquiry.attempts < ATTEMPTS_MAX => {
                inquiry.attempts += 1;
                self.ask(ReadUse::Inquiry(id), SetUp::key(id), effects);
            }
            (Ok(versions), Some(claimed)) => {
                let version = *versions.first().expect("the store gives a version for each write");
                self.inherit(id, claimed, version, now, effects);
            }
            // Somebody else was sooner, or it is not known: the record says who has it now.
            (Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }), _)
                if inquiry.attempts < ATTEMPTS_MAX =>
            {
                inquiry.attempts += 1;
                self.ask(ReadUse::Inquiry(id), SetUp::key(id), effects);
            }
            (Err(error), _) => {
                warn!(%error, set_up = %id, "a call cannot be taken over now");
                self.give_up_inquiry(id, now, effects);
            }
            (Ok(_), None) => self.give_up_inquiry(id, now, effects),
        }
    }

    /// There is no record: the messages are treated as those of calls that never had one.
    fn belongs_to_nobody(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let estate = self.inquiries.get(&id).and_then(|inquiry| inquiry.estate);
        if let Some(estate) = estate {
            self.commit(CommitUse::Tidy, estate.strike(Batch::new()), effects);
        }
        if self.sessions.are_hosted() {
            // What begins a session has its record under the same id.
            for held in self.end_inquiry(id, effects) {
                self.inquire_session(SessionId(id.0), held, effects);
            }
            return;
        }
        for held in self.end_inquiry(id, effects) {
            match held.message.method() {
                // Its record was there a moment ago.
                Some(Method::Invite) => self.dispatch_again(held, now, effects),
                Some(_) => {
                    let Held { message, origin, hops, offered, rounds } = held;
                    self.in_hand = super::InHand { offered, hops, rounds };
                    self.transactions.request(message, origin, now, &mut self.pending);
                    self.hand_empty(now, effects);
                }
                None => {
                    debug!("dropped a response that no client transaction waits for");
                    taken(held.offered, effects);
                }
            }
        }
    }

    /// Whether a call is ours already, gone on with or not.
    fn is_here(&self, id: SetUpId) -> bool {
        self.set_ups.contains_key(&id) || self.inherited.has(id)
    }

    /// Whether messages wait for the record of a call.
    pub(super) fn is_inquired_of(&self, id: SetUpId) -> bool {
        self.inquiries.get(&id).is_some_and(|inquiry| !inquiry.waiting.is_empty())
    }

    /// The call is here now.
    pub(super) fn answer_inquiry(
        &mut self,
        id: SetUpId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        for held in self.end_inquiry(id, effects) {
            self.dispatch_again(held, now, effects);
        }
    }

    /// Nothing can be said now. An INVITE is answered, so that its caller tries again; other messages are repeated.
    fn give_up_inquiry(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.inquiries.get(&id).is_some_and(|inquiry| inquiry.is_unsure) {
            let (kind, owner) = (RecordKind::SetUp, self.settings.incarnation);
            // What is looked for by its id falls to nobody else.
            let choice = ChoiceHash(0);
            self.estates.look_again(Owned { owner, kind, id: id.0, choice });
        }
        for held in self.end_inquiry(id, effects) {
            self.drop_held(held, effects);
        }
        self.settle(now, effects);
    }

    /// The messages that waited for an answer.
    pub(super) fn end_inquiry(&mut self, id: SetUpId, effects: &mut Vec<ShardEffect>) -> Vec<Held> {
        let Some(inquiry) = self.inquiries.remove(&id) else { return Vec::new() };
        if inquiry.estate.is_some() {
            self.estate_done(effects);
        }
        inquiry.waiting
    }

    /// Looks at a message again, unless that was done too often.
    pub(super) fn dispatch_again(
        &mut self,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if held.rounds >= ROUNDS_MAX {
            return self.drop_held(held, effects);
        }
        self.dispatch(Held { rounds: held.rounds + 1, ..held }, now, effects);
    }

    pub(super) fn drop_held(&mut self, held: Held, effects: &mut Vec<ShardEffect>) {
        if held.message.method() == Some(Method::Invite) {
            let response = self.responder.try_again(&held.message);
            let bytes = self.responder.render(&held.message, &response);
            self.send_response(None, held.origin, bytes, effects);
        }
        taken(held.offered, effects);
    }

    /// Sends a message to the container that owns its call.
    pub(super) fn hand_on(
        &mut self,
        held: Held,
        owner: Incarnation,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let link = self.edges.for_response(held.origin.link, held.origin.flow.local);
        // What came from no phone, a signal, goes by any edge.
        let link = link.or_else(|| self.edges.links().next());
        if let Some(link) = link.filter(|_| held.hops < HOPS_MAX) {
            let frame = LinkFrame::HandOn {
                to: owner.0,
                hops: held.hops,
                flow: held.origin.flow,
                bytes: held.message.buffer().clone(),
            };
            effects.push(ShardEffect::Send { link, frame });
        } else {
            warn!(%owner, hops = held.hops, "cannot hand a message on; it waits for its owner's end");
        }
        taken(held.offered, effects);
        while self.handed_on.len() >= HANDED_ON_MAX
            || self.handed_on.front().is_some_and(|oldest| oldest.until <= now)
        {
            self.handed_on.pop_front();
        }
        let held = Held { offered: None, hops: 0, ..held };
        self.handed_on.push_back(HandedOn { owner, until: now + HANDED_ON_TIME, held });
    }

    /// Some owners may have died: what was handed on to them came too late, perhaps.
    pub(super) fn look_again_at_handed_on(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        for handed_on in std::mem::take(&mut self.handed_on) {
            if handed_on.until <= now {
                continue;
            }
            match self.neighbours.standing(handed_on.owner) {
                Standing::Dead => self.dispatch_again(handed_on.held, now, effects),
                Standing::Mine | Standing::Living => self.handed_on.push_back(handed_on),
            }
        }
    }
}

/// Whether a claim stands for so long, unread, that others may have taken us for dead meanwhile: then its record says whose
/// it is now.
pub(super) fn is_late(claimed_at: Option<Instant>, now: Instant) -> bool {
    claimed_at.is_some_and(|at| now.saturating_duration_since(at) > STANDSTILL)
}
