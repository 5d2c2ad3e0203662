//! The records of the calls that are set up here: what happens to a call is committed before it takes effect.
//!
//! What would change the course of a call (see [`crate::setup`]) becomes a [`Step`] that waits in the call's
//! [`Ledger`]. One commit at a time is under way for a call; it takes all steps along that wait, and when it stands they
//! take effect in their order. The edge keeps the message of a step until then.
//!
//! ```text
//! response, CANCEL, failure, Timer C ─▶ gate ─▶ waiting ─▶ Commit ─▶ act
//!                                                   ▲          │ conflict, unknown: read
//!                                                   └── again ─┴──▶ somebody else's: lost
//! ```
//!
//! Whoever loses a call drops it without a word, and hands the messages on that waited. A store that refuses a write
//! for reasons of its own (a full disk, too few copies) is asked again, with pauses that grow, for as long as a lost node
//! may take to be replaced. It does not hold up calls that ring for longer: they go on without a record then, which is
//! written again every second until it stands.

mod again;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use state::{Batch, CommitError, Record, StoreError, Version};
use tracing::{debug, info};

use super::jobs::HeldCancel;
use super::{CommitUse, Held, ReadUse, Shard, ShardEffect, taken};
use crate::application::Response;
use crate::ownership::identity::SetUpId;
use crate::proxy::{BranchDeriver, BranchIndex, ProxyContext, TransportFailure};
use crate::setup::{Event, SetUp};
use crate::transactions::ServerId;
use crate::transactions::deadlines::Armed;

/// A record stays for so long after it was begun, however soon its call is over: a container that stood still meanwhile
/// and has another copy of the INVITE in hand must meet it.
const KEPT_MIN: Duration = Duration::from_secs(10);

/// Records are removed together, so that the store commits them together.
const REMOVAL_ROUND: Duration = Duration::from_millis(500);

/// So many removals are under way at a time; others' commits go between them.
const REMOVALS_MAX: usize = 256;

/// So many of the calls that are doubted are looked up at a time, so that heartbeats go on meanwhile.
const VERIFICATIONS_MAX: usize = 256;

/// Whoever begins a record so long after the INVITE came may have missed a whole call.
pub(super) const BEGUN_WITHIN: Duration = Duration::from_secs(5);

/// More messages of one call do not wait at a time; they are dropped, and come again.
const WAITING_MAX: usize = 256;

/// A call that we set up.
pub(super) struct Ledger {
    /// The INVITE's transaction.
    server: ServerId,
    /// With what waits, once that is on its way to the store.
    record: SetUp,
    version: Version,
    waiting: VecDeque<Step>,
    in_flight: Option<InFlight>,
    written_at: Instant,
    /// The index by owner leads to it, or will when what is under way stands.
    is_indexed: bool,
    /// What has happened to the call is not in the record: it could not be stored.
    is_behind: bool,
    /// Nobody needs the record any more.
    is_over: bool,
    begun_at: Instant,
    /// When the record goes, once it is over.
    removed_at: Option<Instant>,
    armed: Armed,
    tried_again: Armed,
}

/// The commit that is under way.
struct InFlight {
    /// What the record will be; None: it goes.
    value: Option<Bytes>,
    /// How many of those that wait it is for.
    steps: usize,
    attempts: u32,
    begun_at: Instant,
    /// It has failed, and is tried again then.
    paused_until: Option<Instant>,
}

impl InFlight {
    fn new(value: Option<Bytes>, steps: usize, now: Instant) -> InFlight {
        InFlight { value, steps, attempts: 0, begun_at: now, paused_until: None }
    }
}

/// Something that happened to a call and has not taken effect.
pub(super) struct Step {
    /// None: it only keeps its place behind others, or refreshes the record.
    pub(super) event: Option<Event>,
    pub(super) act: Act,
}

/// How a step takes effect.
pub(super) enum Act {
    /// The response goes to its transaction.
    Response(Held),
    /// The CANCEL is answered, the call cancelled.
    Cancel(HeldCancel),
    /// The branch has failed.
    Failed(BranchIndex, TransportFailure),
    /// The branch has had its time.
    GiveUp(BranchIndex),
    /// Timer C.
    StopRinging(BranchIndex),
    /// The record lives longer.
    Refresh,
}

impl Step {
    /// The message that it holds.
    pub(super) fn held(&mut self) -> Option<&mut Held> {
        match &mut self.act {
            Act::Response(held) | Act::Cancel(HeldCancel { held, .. }) => Some(held),
            Act::Failed(..) | Act::GiveUp(_) | Act::StopRinging(_) | Act::Refresh => None,
        }
    }

    fn wants_commit(&self) -> bool {
        self.event.is_some() || matches!(self.act, Act::Refresh)
    }
}

impl Ledger {
    pub(super) fn new(server: ServerId, record: SetUp, version: Version, now: Instant) -> Ledger {
        Ledger {
            server,
            record,
            version,
            waiting: VecDeque::new(),
            in_flight: None,
            written_at: now,
            is_indexed: true,
            is_behind: false,
            is_over: false,
            begun_at: now,
            removed_at: None,
            armed: Armed::default(),
            tried_again: Armed::default(),
        }
    }

    pub(super) fn server(&self) -> ServerId {
        self.server
    }

    /// Of the container that began the call, made from that of another one.
    pub(super) fn deriver(&self, other: &BranchDeriver) -> BranchDeriver {
        other.in_place_of(self.record.token, self.record.sent_by.clone())
    }

    pub(super) fn record(&self) -> &SetUp {
        &self.record
    }

    pub(super) fn awaits(&self, is_meant: impl Fn(&Event) -> bool) -> bool {
        self.waiting.iter().filter_map(|step| step.event.as_ref()).any(is_meant)
    }
}

impl Shard {
    /// Notes something in a call's record; it takes effect when that is committed.
    pub(super) fn note(
        &mut self,
        id: SetUpId,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(ledger) = self.set_ups.get_mut(&id) else {
            return drop_step(step, effects);
        };
        if ledger.waiting.len() >= WAITING_MAX && step.event.is_none() {
            debug!(set_up = %id, "too many messages wait for a commit; dropped one");
            return drop_step(step, effects);
        }
        ledger.waiting.push_back(step);
        self.pump(id, now, effects);
    }

    /// A call that rings on is remembered for longer, seldom.
    pub(super) fn refresh(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(ledger) = self.set_ups.get(&id) else { return };
        let is_old =
            now.saturating_duration_since(ledger.written_at) > ledger.record.lifetime() / 2;
        if is_old && ledger.in_flight.is_none() {
            self.note(id, Step { event: None, act: Act::Refresh }, now, effects);
        }
    }

    /// Lets take effect what need not be committed, and commits the rest.
    fn pump(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        while let Some(ledger) =
            self.set_ups.get_mut(&id).filter(|ledger| ledger.in_flight.is_none())
        {
            match ledger.waiting.front() {
                Some(step) if step.wants_commit() && !ledger.is_over => {
                    let events = ledger.waiting.iter_mut().filter_map(|step| step.event.clone());
                    ledger.record.events.extend(events);
                    let context = self.contexts.get(&ledger.server);
                    if context.is_some_and(|context| is_settled(&ledger.record, &context.proxy)) {
                        ledger.is_indexed = false;
                    }
                    let value = Some(ledger.record.encode());
                    let steps = ledger.waiting.len();
                    ledger.in_flight = Some(InFlight::new(value, steps, now));
                    return self.write(id, now, effects);
                }
                Some(_) => {
                    let step = ledger.waiting.pop_front();
                    let server = ledger.server;
                    if let Some(step) = step {
                        self.act(server, step, now, effects);
                    }
                }
                // It ends by itself.
                None if ledger.is_over && !ledger.is_indexed => {
                    return self.forget(id, now, effects);
                }
                None if ledger.is_over => {
                    let at = *ledger.removed_at.get_or_insert_with(|| {
                        let at = now.max(ledger.begun_at + KEPT_MIN);
                        next_round(at, self.started_at)
                    });
                    if now < at {
                        return self.removals.arm(id, &mut ledger.armed, Some(at));
                    }
                    ledger.in_flight = Some(InFlight::new(None, 0, now));
                    self.removing += 1;
                    return self.write(id, now, effects);
                }
                None => return,
            }
        }
    }

    fn write(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let wall = self.wall(now);
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        let Some(in_flight) = &ledger.in_flight else { return };
        let (of, batch) = match &in_flight.value {
            Some(value) => {
                ledger.written_at = now;
                let (record, version) = (&ledger.record, ledger.version);
                let batch = match ledger.is_indexed {
                    true => record.update(id, value.clone(), version, wall),
                    false => record.settle(id, value.clone(), version, wall),
                };
                (CommitUse::Note(id), batch)
            }
            None => (CommitUse::Remove(id), ledger.record.remove(id, ledger.version)),
        };
        self.commit(of, batch, effects);
    }

    /// A commit of a call's record has ended.
    pub(super) fn noted(
        &mut self,
        id: SetUpId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        match result {
            Ok(versions) => {
                ledger.version = versions.first().copied().unwrap_or(ledger.version);
                ledger.is_behind = false;
                self.stands(id, now, effects);
            }
            // Somebody has taken the call over, or a commit of ours has come about of which we were told otherwise.
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {
                self.ask(ReadUse::Doubt(id), SetUp::key(id), effects);
            }
            Err(error) => self.write_again(id, &error, now, effects),
        }
    }

    /// The record was read, since it was not known whether our commit came about.
    pub(super) fn settled(
        &mut self,
        id: SetUpId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let own = self.settings.incarnation;
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        let Some(in_flight) = &ledger.in_flight else { return };
        let is_removal = in_flight.value.is_none();
        let record = match result {
            Ok(Some(record)) => record,
            Ok(None) if is_removal => {
                // It may have ended by itself, which strikes no entry.
                let strike = ledger.record.entry(id).strike(Batch::new());
                self.commit(CommitUse::Tidy, strike, effects);
                return self.forget(id, now, effects);
            }
            Ok(None) => return self.lose(id, now, effects),
            Err(error) => return self.write_again(id, &error.into(), now, effects),
        };
        if in_flight.value.as_ref() == Some(&record.value) {
            (ledger.version, ledger.is_behind) = (record.version, false);
            self.stands(id, now, effects);
        } else if SetUp::decode(&record.value).is_ok_and(|found| found.owner == own) {
            ledger.version = record.version;
            let error = CommitError::Unknown { reason: "the record is as it was" };
            self.write_again(id, &error, now, effects);
        } else if is_removal {
            self.forget(id, now, effects);
        } else {
            self.lose(id, now, effects);
        }
    }

    /// What was committed takes effect.
    fn stands(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        let steps = ledger.in_flight.take().map_or(0, |in_flight| in_flight.steps);
        let server = ledger.server;
        let steps: Vec<Step> = ledger.waiting.drain(..steps.min(ledger.waiting.len())).collect();
        for step in steps {
            self.act(server, step, now, effects);
        }
        self.pump(id, now, effects);
        self.end_if_over(id, now, effects);
    }

    /// What was noted takes effect.
    pub(super) fn act(
        &mut self,
        server: ServerId,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(
            Event::Ended { branch, progressed, .. } | Event::Failed { branch, progressed, .. },
        ) = step.event
            && let Some(context) = self.contexts.get_mut(&server)
        {
            context.proxy.note_progress(branch, progressed);
        }
        let mut offered = None;
        match step.act {
            Act::Response(held) => {
                offered = held.offered;
                self.transactions.response(held.message, now, &mut self.pending);
            }
            Act::Cancel(HeldCancel { cancel, held }) => {
                offered = held.offered;
                let response = Response::new(200);
                self.transactions.respond_own(cancel, &response, now, &mut self.pending);
                self.settle(now, effects);
                self.cancel_context(server, now, effects);
            }
            Act::Failed(branch, failure) => {
                self.with_proxy(server, now, effects, |proxy, asked| {
                    proxy.transport_failed(branch, failure, now, asked);
                })
            }
            Act::GiveUp(branch) => self.with_proxy(server, now, effects, |proxy, asked| {
                proxy.give_up(branch, now, asked);
            }),
            Act::StopRinging(branch) => self.with_proxy(server, now, effects, |proxy, asked| {
                proxy.stop_ringing(branch, now, asked);
            }),
            Act::Refresh => {}
        }
        self.settle(now, effects);
        taken(offered, effects);
    }

    /// Removes the record once neither the context nor the server transaction needs it.
    pub(super) fn end_if_over(
        &mut self,
        id: SetUpId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        let is_needed = self.contexts.contains_key(&ledger.server)
            || self.transactions.has_server(ledger.server);
        if !is_needed && !ledger.is_over {
            ledger.is_over = true;
            self.pump(id, now, effects);
        }
    }

    /// The commit that removes a record has ended.
    pub(super) fn removed(
        &mut self,
        id: SetUpId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match result {
            Ok(_) => self.forget(id, now, effects),
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {
                self.ask(ReadUse::Doubt(id), SetUp::key(id), effects);
            }
            Err(error) => self.write_again(id, &error, now, effects),
        }
    }

    /// The record is gone, or not ours.
    fn forget(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(ledger) = self.set_ups.remove(&id) else { return };
        self.no_longer_removing(&ledger);
        self.set_ups_by_server.remove(&ledger.server);
        for step in ledger.waiting {
            self.act(ledger.server, step, now, effects);
        }
    }

    fn no_longer_removing(&mut self, ledger: &Ledger) {
        let in_flight = ledger.in_flight.as_ref();
        if in_flight.is_some_and(|in_flight| in_flight.value.is_none()) {
            self.removing -= 1;
        }
    }

    /// When the next record may be removed.
    pub(super) fn next_removal(&self) -> Option<Instant> {
        self.removals.next().filter(|_| self.removing < REMOVALS_MAX)
    }

    /// Removes the records that were kept for long enough.
    pub(super) fn removals_due(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while self.removing < REMOVALS_MAX
            && let Some((at, id)) = self.removals.pop_due(now)
        {
            if self.set_ups.get_mut(&id).is_some_and(|ledger| ledger.armed.take(at)) {
                self.pump(id, now, effects);
            }
        }
    }

    /// We may have been taken for dead: before anything is repeated, every call that is not answered is looked up.
    pub(super) fn doubt_everything(&mut self, effects: &mut Vec<ShardEffect>) {
        let doubtful = self.set_ups.iter();
        let doubtful =
            doubtful.filter(|(_, ledger)| !ledger.is_over && !ledger.record.is_answered());
        self.doubtful = doubtful.map(|(id, _)| *id).collect();
        self.unverified = self.doubtful.iter().copied().collect();
        // Not in the order of the table: what a shard does depends on its events alone.
        self.unverified.sort_unstable();
        self.verify_on(effects);
    }

    fn verify_on(&mut self, effects: &mut Vec<ShardEffect>) {
        while self.verifying < VERIFICATIONS_MAX
            && let Some(id) = self.unverified.pop()
        {
            self.verifying += 1;
            self.ask(ReadUse::Verify(id), SetUp::key(id), effects);
        }
    }

    /// A call that was doubted was looked up.
    pub(super) fn verified(
        &mut self,
        id: SetUpId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.doubtful.remove(&id);
        self.verifying -= 1;
        let own = self.settings.incarnation;
        let is_ours = match result {
            Ok(Some(record)) => SetUp::decode(&record.value).is_ok_and(|found| found.owner == own),
            Ok(None) => false,
            // The next commit will tell.
            Err(_) => true,
        };
        if !is_ours {
            self.lose(id, now, effects);
        }
        self.verify_on(effects);
    }

    /// The call is another container's: it is dropped without a word, and the messages that waited go there.
    fn lose(&mut self, id: SetUpId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(ledger) = self.set_ups.remove(&id) else { return };
        info!(set_up = %id, "another container has taken a call over");
        self.no_longer_removing(&ledger);
        self.set_ups_by_server.remove(&ledger.server);
        self.drop_context(ledger.server);
        self.transactions.drop_server(ledger.server);
        self.settle(now, effects);
        for step in ledger.waiting {
            self.release_step(step, now, effects);
        }
    }

    /// A step of a call that is not ours any more: its message goes to whom it belongs.
    pub(super) fn release_step(
        &mut self,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match step.act {
            Act::Response(held) => self.dispatch_again(held, now, effects),
            Act::Cancel(HeldCancel { cancel, held }) => {
                self.transactions.drop_server(cancel);
                self.dispatch_again(held, now, effects);
            }
            Act::Failed(..) | Act::GiveUp(_) | Act::StopRinging(_) | Act::Refresh => {}
        }
    }
}

/// Whether nothing is left to do for a call but what messages ask for: it is answered, and no other phone rings.
fn is_settled(record: &SetUp, proxy: &ProxyContext) -> bool {
    record.events.iter().any(
        |event| matches!(event, Event::Answered { branch } if proxy.pends_only_at_most(*branch)),
    )
}

/// The end of the round that `at` lies in.
fn next_round(at: Instant, started_at: Instant) -> Instant {
    let rounds = at.saturating_duration_since(started_at).as_millis() / REMOVAL_ROUND.as_millis();
    started_at + REMOVAL_ROUND * u32::try_from(rounds + 1).unwrap_or(u32::MAX)
}

/// A step that comes to nothing: its message is repeated by whoever sent it.
pub(super) fn drop_step(step: Step, effects: &mut Vec<ShardEffect>) {
    match step.act {
        Act::Response(held) | Act::Cancel(HeldCancel { held, .. }) => taken(held.offered, effects),
        Act::Failed(..) | Act::GiveUp(_) | Act::StopRinging(_) | Act::Refresh => {}
    }
}
