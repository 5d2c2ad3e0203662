//! Calls that are ours and wait to be gone on with.
//!
//! A takeover has two halves. To *claim* a call is to write our name into its record, and is done for all that a dead
//! container has left before anything else: nobody else takes them then. To *go on with* a call ([`Shard::take_over`])
//! costs several times as much (transactions, the context, the messages that may have been lost), and is done for some
//! calls at each turn, so that messages and heartbeats are looked after in between. A message of a call comes before
//! its turn: the record is read, as that of any call that is not here, the call is gone on with, and then the message is
//! looked at.
//!
//! After a standstill nothing is known of these calls any more; they are looked up again, like those in an estate.
//!
//! Bounds: as many as were in the estates, in the memory that they need once they are gone on with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use state::Version;
use tracing::info;

use super::{Shard, ShardEffect};
use crate::ownership::identity::SetUpId;
use crate::setup::SetUp;

/// So many calls are gone on with before the clock is looked at: some tenths of a millisecond of work.
const GONE_ON_WITH_AT_ONCE: usize = 16;

/// Claims go first, but not for longer than this: their store may be slow.
const CLAIMS_FIRST_MAX: Duration = Duration::from_secs(5);

/// Links that do not take what was sent for so long are not waited for: one edge that hangs is not to hold up the calls
/// of all others.
const HELD_MAX: Duration = Duration::from_secs(5);

/// The calls that wait.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    calls: AHashMap<SetUpId, (Box<SetUp>, Version)>,
    /// In the order in which they became ours; those gone on with before their turn stand here until it comes.
    order: VecDeque<SetUpId>,
    /// Since when somebody waits.
    since: Option<Instant>,
    /// Since when what was sent before is not written: what they send would make other messages wait.
    held_since: Option<Instant>,
    /// How many were gone on with, and not told of.
    untold: u64,
}

impl Inherited {
    pub(super) fn has(&self, id: SetUpId) -> bool {
        self.calls.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    fn add(&mut self, id: SetUpId, record: Box<SetUp>, version: Version, now: Instant) {
        self.since.get_or_insert(now);
        self.order.push_back(id);
        self.calls.insert(id, (record, version));
    }

    fn take(&mut self, id: SetUpId) -> Option<(Box<SetUp>, Version)> {
        let taken = self.calls.remove(&id);
        if self.calls.is_empty() {
            self.clear();
        }
        taken
    }

    /// Gives the memory of a burst back.
    fn clear(&mut self) {
        self.calls = AHashMap::new();
        self.order = VecDeque::new();
        self.since = None;
    }

    fn next(&mut self) -> Option<SetUpId> {
        while let Some(id) = self.order.pop_front() {
            if self.calls.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }
}

impl Shard {
    /// A call has become ours. It is gone on with at once if messages wait for it, else in its turn.
    pub(super) fn inherit(
        &mut self,
        id: SetUpId,
        record: Box<SetUp>,
        version: Version,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.inherited.add(id, record, version, now);
        if self.is_inquired_of(id) {
            self.go_on_with(id, now, effects);
            self.answer_inquiry(id, now, effects);
        } else {
            self.end_inquiry(id, effects);
        }
    }

    /// Goes on with a call out of its turn; false if it does not wait here.
    pub(super) fn go_on_with(
        &mut self,
        id: SetUpId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some((record, version)) = self.inherited.take(id) else { return false };
        self.inherited.untold += 1;
        self.take_over(id, *record, version, now, effects);
        true
    }

    /// Goes on with some of the calls whose turn it is.
    pub(super) fn go_on(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.next_to_go_on().is_none_or(|at| now < at) {
            return;
        }
        for _ in 0..GONE_ON_WITH_AT_ONCE {
            let Some(id) = self.inherited.next() else { break };
            self.go_on_with(id, now, effects);
        }
        if self.inherited.calls.is_empty() {
            self.tell_of_inherited();
        }
    }

    /// When somebody's turn is.
    pub(super) fn next_to_go_on(&self) -> Option<Instant> {
        let since = self.inherited.since?;
        let at = if self.estates.is_claiming() { since + CLAIMS_FIRST_MAX } else { since };
        Some(self.inherited.held_since.map_or(at, |held| at.max(held + HELD_MAX)))
    }

    /// Whether calls that wait are to be held back, since links have not taken yet what was sent before; a message of
    /// one brings it on all the same. [`next_timeout`](Self::next_timeout) may be another one then.
    pub fn hold_back(&mut self, is_held: bool, now: Instant) {
        let since = self.inherited.held_since.unwrap_or(now);
        self.inherited.held_since = is_held.then_some(since);
    }

    /// The record of a call names another owner. If the call waits here, we were taken for dead: the others that wait
    /// may be somebody else's, too.
    pub(super) fn disown(&mut self, id: SetUpId) {
        self.is_doubtful |= self.inherited.take(id).is_some();
    }

    /// We may have been taken for dead: the calls that wait may be somebody else's by now.
    pub(super) fn doubt_inherited(&mut self, effects: &mut Vec<ShardEffect>) {
        while let Some(id) = self.inherited.next() {
            if let Some((record, _)) = self.inherited.calls.remove(&id) {
                self.estates.add(record.entry(id));
            }
        }
        self.inherited.clear();
        self.claim_on(effects);
    }

    /// Says how many calls were taken over since it was said last.
    pub(super) fn tell_of_inherited(&mut self) {
        let calls = std::mem::take(&mut self.inherited.untold);
        if calls > 0 {
            info!(calls, "took calls over");
        }
    }
}
