//! The set-up record: what a successor must know to go on with a call that is being set up.
//!
//! Written before a new INVITE is answered 100 or forwarded, read by whoever takes over. A proxy context
//! ([`crate::proxy::ProxyContext`]) is a function of the request, the plan, the Via it writes and the *events* that
//! happened to it, so the record holds these and nothing of the context's insides; a successor replays them and goes
//! on under the same branches. What is committed before the container acts on it:
//!
//! | event | before |
//! |---|---|
//! | the INVITE itself, with its plan | 100, the first forwarded INVITE, *taken* |
//! | final response of a branch, not 2xx | its ACK, and everything that follows from it |
//! | a branch that failed or had its time | everything that follows from it |
//! | Timer C | the CANCEL |
//! | CANCEL of the caller | its 200, and the CANCELs of the branches |
//! | first 2xx | relaying it |
//!
//! Provisional responses are not recorded: the callee repeats the last one when it gets the INVITE again. The final
//! response that the caller gets follows from the events. Once the call is answered nothing more is recorded.
//!
//! | | |
//! |---|---|
//! | space | `setup` |
//! | tag | bucket |
//! | id | [`SetUpId`] |
//! | value | [`SetUp`] |
//!
//! Deliberately absent: when what is committed and what follows from it (the shard's), the replay (the proxy
//! context's).

mod codec;

use std::time::Duration;

use bytes::Bytes;
use sip::transaction::Timers;
use state::{Batch, Expect, Key, Record, Space, UnixMillis, Version};
use topology::token::OWNER_TOKEN_CHARS;
use topology::{ChoiceHash, Incarnation};
use transport::Flow;

use crate::application::ProxyPlan;
use crate::ownership::bucket;
use crate::ownership::identity::SetUpId;
use crate::ownership::index::{Owned, RecordKind};

pub use codec::{FORMAT_LEVEL, RecordError};

/// Where the records lie.
pub const SET_UPS: Space = Space::named("setup");

/// A response that would make a record longer is kept as its status only.
const RECORD_BYTES_MAX: usize = 512 * 1024;

/// No record of a call that is not answered lives shorter without being refreshed. Far longer than anything rings: a
/// clock that is set forward must not end the record under a ringing call, which then nobody could end.
const LIFETIME_MIN: Duration = Duration::from_secs(24 * 3_600);

/// How much longer than its transactions an answered call's record lives, for clocks that differ.
const ANSWERED_SLACK: Duration = Duration::from_secs(10);

/// The record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUp {
    /// The life of the container that may act for it.
    pub owner: Incarnation,
    /// Of the container that began it; stands in its branches, whoever owns it.
    pub token: [u8; OWNER_TOKEN_CHARS],
    /// What the Vias of the container that began it say.
    pub sent_by: Bytes,
    /// The flow that the INVITE came by.
    pub flow: Flow,
    /// By which its messages are routed.
    pub choice: ChoiceHash,
    /// The INVITE, as the application saw it.
    pub request: Bytes,
    /// What the application decided.
    pub plan: ProxyPlan,
    /// What has happened, in the order in which it took effect.
    pub events: Vec<Event>,
}

/// Something that happened to a branch, or to the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A branch got its final response, not 2xx.
    Ended {
        /// Which.
        branch: usize,
        /// Whether it rang before.
        progressed: bool,
        /// The response.
        response: Bytes,
    },
    /// A branch ended without one, or with one that is too long to be kept.
    Failed {
        /// Which.
        branch: usize,
        /// Whether it rang before.
        progressed: bool,
        /// As what that counts, 300–699.
        status: u16,
    },
    /// A branch rang for too long and is cancelled.
    TimerC {
        /// Which.
        branch: usize,
    },
    /// The caller sent CANCEL.
    Cancelled,
    /// A branch answered with 2xx.
    Answered {
        /// Which.
        branch: usize,
    },
}

impl SetUp {
    /// Where the record of this set-up lies.
    pub fn key(id: SetUpId) -> Key {
        Key::new(SET_UPS, bucket(&id.0), Bytes::copy_from_slice(&id.0))
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`RecordError`]: the call cannot be taken over; its phones time out.
    pub fn decode(value: &Bytes) -> Result<SetUp, RecordError> {
        codec::decode(value)
    }

    /// The record as it is stored.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Whether a 2xx came: then nothing more is recorded.
    pub fn is_answered(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Answered { .. }))
    }

    /// The event that `response` ended a branch, kept whole if there is room for it.
    pub fn ended(&self, branch: usize, progressed: bool, status: u16, response: &[u8]) -> Event {
        let kept: usize = self.events.iter().map(Event::bytes).sum();
        if self.request.len() + kept + response.len() > RECORD_BYTES_MAX {
            // A 503 that came is no 503 of ours, after which the phone's next flow would be tried; the caller would
            // see a 500 in its place (RFC 3261 §16.7(6)).
            let status = if status == 503 { 500 } else { status };
            return Event::Failed { branch, progressed, status };
        }
        // In memory of its own: it is kept for long, and shall not keep what it was read into.
        let response = Bytes::copy_from_slice(response);
        Event::Ended { branch, progressed, response }
    }

    /// How long the record lives unless it is written again.
    pub fn lifetime(&self) -> Duration {
        if self.is_answered() {
            return Timers::default().patience() + ANSWERED_SLACK;
        }
        LIFETIME_MIN.max(self.plan.timer_c.saturating_mul(2))
    }

    /// The batch that begins the record.
    pub fn begin(&self, id: SetUpId, now: UnixMillis) -> Batch {
        let expires_at = Some(now.saturating_add(self.lifetime()));
        let batch = Batch::new().put(SetUp::key(id), Expect::Absent, self.encode(), expires_at);
        // Without a lifetime, which the store would have to watch: it is struck with the record, or when the owner is
        // dead and it is found without one.
        self.entry(id).enter(batch, None)
    }

    /// The batch that puts `value`, this record encoded, in the place of the version that we own.
    pub fn update(&self, id: SetUpId, value: Bytes, version: Version, now: UnixMillis) -> Batch {
        let expires_at = Some(now.saturating_add(self.lifetime()));
        Batch::new().put(SetUp::key(id), Expect::Version(version), value, expires_at)
    }

    /// The batch that puts `value`, this record encoded, in its place for the last time: nothing is left to do for
    /// the call but what messages ask for, so the record ends by itself and no heir need look for it.
    pub fn settle(&self, id: SetUpId, value: Bytes, version: Version, now: UnixMillis) -> Batch {
        self.entry(id).strike(self.update(id, value, version, now))
    }

    /// The batch by which `heir` takes over from its dead owner what was read as `record`: another name stands in it
    /// then, and nothing else is changed.
    pub fn claim(
        self,
        id: SetUpId,
        heir: Incarnation,
        record: &Record,
        now: UnixMillis,
    ) -> (SetUp, Batch) {
        let left = self.entry(id);
        let claimed = SetUp { owner: heir, ..self };
        let expires_at = Some(now.saturating_add(claimed.lifetime()));
        let value = codec::in_the_hands_of(heir, &record.value);
        let expect = Expect::Version(record.version);
        let batch = Batch::new().put(SetUp::key(id), expect, value, expires_at);
        let batch = claimed.entry(id).enter(left.strike(batch), None);
        (claimed, batch)
    }

    /// The batch that ends the record.
    pub fn remove(&self, id: SetUpId, version: Version) -> Batch {
        let batch = Batch::new().delete(SetUp::key(id), Expect::Version(version));
        self.entry(id).strike(batch)
    }

    /// Its entry in the index by owner.
    pub fn entry(&self, id: SetUpId) -> Owned {
        let (owner, choice) = (self.owner, self.choice);
        Owned { owner, kind: RecordKind::SetUp, id: id.0, choice }
    }
}

impl Event {
    fn bytes(&self) -> usize {
        match self {
            Event::Ended { response, .. } => response.len(),
            Event::Failed { .. }
            | Event::TimerC { .. }
            | Event::Cancelled
            | Event::Answered { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests;
