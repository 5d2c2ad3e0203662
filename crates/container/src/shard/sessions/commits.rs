//! Brings a step of a session to its end: commits what has changed, and then lets it happen.
//!
//! What changes nothing in the record needs no commit. Whoever finds its commit refused reads the record: if it is
//! another container's by now, the session is dropped without a word; if our commit did come about, it stands.

use std::time::Instant;

use bytes::Bytes;
use state::{CommitError, Record, StoreError, Version};
use tracing::{error, info, warn};

use super::super::jobs::HeldCancel;
use super::super::{CommitUse, ReadUse, Shard, ShardEffect, taken};
use super::steps::is_refusable;
use super::{Entered, Entry, Live, Queued, Step, records};
use crate::application::Response;
use crate::session::receive::Input;
use crate::session::state::Action;
use crate::session::{Replication, Session, SessionId, codec};

/// A commit that fails so often is given up when its input is a request that can be refused: nothing has happened.
/// Anything else (a BYE, too) comes once only (a response by a stream, the end of a transaction) and is tried again, with a pause.
const ATTEMPTS_MAX: u32 = 8;

impl Shard {
    /// Commits a step, if there is anything to commit.
    pub(super) fn commit_step(
        &mut self,
        id: SessionId,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let application = self.sessions.applications.find(step.draft.application());
        let may_happen =
            application.is_some_and(|known| known.replication() == Replication::AfterReply);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(live) = entry.live.as_mut() else { return };
        let is_changed = step.value != entry.record && !entry.is_volatile;
        let is_wanted = entry.version.is_some() || !step.draft.is_blank();
        let is_first = entry.version.is_none();
        let happens_first = may_happen && !is_first && !step.actions.iter().any(Action::begins);
        live.step = Some(step);
        if !(is_changed && is_wanted) {
            return self.session_stands(id, None, now, effects);
        }
        if happens_first {
            self.step_happens(id, now, effects);
        }
        self.write_session(id, effects);
    }

    fn write_session(&mut self, id: SessionId, effects: &mut Vec<ShardEffect>) {
        let Some(entry) = self.sessions.entries.get(&id) else { return };
        let Some(Live { step: Some(step), .. }) = entry.live.as_deref() else { return };
        let before = entry.version.map(|version| (entry.entered, version));
        let batch = records::update(before, &step.draft, step.value.clone());
        self.commit(CommitUse::Session(id), batch, effects);
    }

    /// A commit of a session has ended.
    pub(in super::super) fn session_committed(
        &mut self,
        id: SessionId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match result {
            Ok(versions) => {
                self.session_stands(id, versions.first().copied(), now, effects);
                self.advance(id, now, effects);
                self.settle(now, effects);
            }
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {
                if let Some(step) = self.sessions.wake(id).and_then(|live| live.step.as_mut()) {
                    step.is_in_doubt = true;
                }
                self.ask(ReadUse::SessionDoubt(id), records::key(id), effects);
            }
            Err(error) => self.write_session_again(id, &error, now, effects),
        }
    }

    /// The record was read, since it was not known whether our commit came about.
    pub(in super::super) fn session_settled(
        &mut self,
        id: SessionId,
        result: Result<Option<Record>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let own = self.sessions.identity.owner();
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(Live { step: Some(step), .. }) = entry.live.as_deref_mut() else { return };
        let was_to_go = step.draft.is_over() && !step.draft.is_open();
        step.is_in_doubt = result.is_err();
        match result {
            Ok(Some(record)) if record.value == step.value => {
                self.session_stands(id, Some(record.version), now, effects);
                self.advance(id, now, effects);
                self.settle(now, effects);
            }
            Ok(None) if was_to_go => {
                self.session_stands(id, None, now, effects);
                self.settle(now, effects);
            }
            Ok(None) if entry.version.is_none() => {
                let error = CommitError::Unknown { reason: "there is no record" };
                self.write_session_again(id, &error, now, effects);
            }
            Ok(Some(record))
                if (entry.version.is_some() || was_to_go)
                    && codec::owner(&record.value) == Ok(own) =>
            {
                entry.version = Some(record.version);
                if let Ok(stored) = Session::decode(id, &record.value) {
                    entry.entered = Entered::of(&stored);
                }
                let error = CommitError::Unknown { reason: "the record is as it was" };
                self.write_session_again(id, &error, now, effects);
            }
            Ok(Some(_) | None) => self.lose_session(id, now, effects),
            Err(error) => self.write_session_again(id, &error.into(), now, effects),
        }
    }

    fn write_session_again(
        &mut self,
        id: SessionId,
        error: &CommitError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(Live { step, .. }) = entry.live.as_deref_mut() else { return };
        let Some(waiting) = step else { return };
        waiting.attempts += 1;
        if waiting.attempts < ATTEMPTS_MAX {
            return self.write_session(id, effects);
        }
        // What has happened cannot be refused any more.
        if waiting.has_happened || !is_refusable(waiting) {
            warn!(%error, session = %id, "a session cannot be stored; trying again in a while");
            waiting.is_paused = true;
            // Else what came behind it by its link would wait for it.
            let cancelled = waiting.cancel.as_mut().map(|cancel| &mut cancel.held);
            let noted = waiting.note.as_mut().and_then(|note| note.step.held());
            for held in waiting.held.iter_mut().chain(cancelled).chain(noted) {
                taken(held.offered.take(), effects);
            }
            return self.pause_session(id, now);
        }
        error!(%error, session = %id, "a session could not be stored; refused a request");
        let Some(mut refused) = step.take() else { return };
        if refused.is_in_doubt {
            refused.is_first = false;
            self.refuse_step(id, refused, now, effects);
            self.undo_step(id, now);
        } else {
            self.refuse_step(id, refused, now, effects);
            self.advance(id, now, effects);
        }
        self.settle(now, effects);
    }

    /// Nobody knows whether a refused step came about: the record becomes what it was, or goes if it was none, as soon
    /// as the store can be asked. Else a successor would do what was refused.
    fn undo_step(&mut self, id: SessionId, now: Instant) {
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(live) = entry.live.as_deref_mut() else { return };
        let is_new = entry.record.is_empty();
        let draft = if is_new { live.session.void() } else { live.session.clone() };
        let value = if is_new { draft.encode() } else { entry.record.clone() };
        let (is_in_doubt, is_paused) = (true, true);
        let undoing = Step::new(draft, None, Vec::new());
        live.step = Some(Step { value, is_in_doubt, is_paused, ..undoing });
        self.pause_session(id, now);
    }

    /// The pause of a step is over.
    pub(super) fn resume_step(&mut self, id: SessionId, effects: &mut Vec<ShardEffect>) {
        let Some(live) = self.sessions.wake(id) else { return };
        let Some(step) = live.step.as_mut().filter(|step| step.is_paused) else { return };
        (step.is_paused, step.attempts) = (false, 0);
        self.write_session(id, effects);
    }

    /// What follows from a step happens, for once.
    fn step_happens(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let (is_stored, is_volatile) = (entry.version.is_some(), entry.is_volatile);
        let Some(live) = entry.live.as_deref_mut() else { return };
        let Some(step) = live.step.as_mut() else { return };
        let is_kept = is_stored || (is_volatile && !step.draft.is_blank());
        if std::mem::replace(&mut step.has_happened, true) {
            return;
        }
        let mut actions = std::mem::take(&mut step.actions);
        let lives_on = is_kept && !step.draft.is_over();
        let begins_leg = step.is_first || live.session.is_joined_by(step.event.as_ref());
        let hears = step.event.is_some();
        let (ask, note) = (step.ask.take(), step.note.take());
        let cancelled = step.cancel.as_ref().map(|HeldCancel { cancel, .. }| *cancel);
        if begins_leg
            && let Some(held) = &step.held
            && let Some(server) = self.transactions.server_of(&held.message)
        {
            self.transactions.trying(server, now, &mut self.pending);
        }
        match ask {
            Some(ask) if hears => {
                ask.ends_with_answer(lives_on.then_some(id), &mut actions, effects);
            }
            // It has ended, and hears nothing any more.
            Some(ask) => ask.ends_unheard(effects),
            None => {}
        }
        if let Some(cancel) = cancelled {
            let response = Response::new(200);
            self.transactions.respond_own(cancel, &response, now, &mut self.pending);
            self.settle(now, effects);
        }
        self.act_for_session(id, actions, now, effects);
        if let Some(note) = note {
            self.act(note.server, note.step, now, effects);
        }
    }

    /// A step stands: what follows from it happens now, if it has not. Without a version nothing was written, or the record
    /// is gone.
    fn session_stands(
        &mut self,
        id: SessionId,
        version: Option<Version>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        entry.version = version.or(entry.version);
        self.step_happens(id, now, effects);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(live) = entry.live.as_deref_mut() else { return };
        let Some(step) = live.step.take() else { return };
        let Step { draft, held, cancel, value, .. } = step;
        entry.entered = Entered::of(&draft);
        let is_kept = entry.version.is_some() || (entry.is_volatile && !draft.is_blank());
        let value = if is_kept { value } else { Bytes::new() };
        self.sessions.weight += super::weight(&value);
        self.sessions.weight -= super::weight(&std::mem::replace(&mut entry.record, value));
        entry.has_calls = draft.has_calls();
        let is_gone = draft.is_over() && !draft.is_open();
        if draft.has_failures() {
            live.waiting.insert(live.parked, Queued::of(Input::Failure));
        }
        live.session = draft;
        let first = now + self.sessions.timers.t1;
        self.repeat_successes(id, first, now);
        let cancelled = cancel.map(|HeldCancel { held, .. }| held);
        for held in cancelled.into_iter().chain(held) {
            taken(held.offered, effects);
        }
        if is_gone {
            self.forget_session(id, now, effects);
        } else {
            self.arm_session(id, now);
        }
    }

    /// Nothing is left of a session.
    pub(super) fn forget_session(
        &mut self,
        id: SessionId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(entry) = self.sessions.remove(id) else { return };
        for queued in entry.live.into_iter().flat_map(|live| live.waiting) {
            self.unqueue(queued, now, effects);
        }
    }

    /// The session is another container's: nothing of it leaves here any more.
    fn lose_session(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(Entry { live: Some(live), version, .. }) = self.sessions.remove(id) else {
            return;
        };
        let Live { session, waiting, step, .. } = *live;
        match version {
            Some(_) => info!(session = %id, "another container has taken a session over"),
            None => info!(session = %id, "another copy of its initial request was sooner"),
        }
        self.drop_transactions(&session, step.as_ref().map(|step| &step.draft));
        match step {
            // Its own record is in the way: whose it is decides what becomes of the request.
            Some(Step { held: Some(held), is_first: true, .. }) => {
                if let Some(server) = self.transactions.server_of(&held.message) {
                    self.transactions.drop_server(server);
                }
                self.inquire_session(id, held, effects);
            }
            Some(Step { held, cancel, ask, note, .. }) => {
                let input = Input::Deadline;
                self.unqueue(Queued { held, cancel, ask, note, ..Queued::of(input) }, now, effects);
            }
            None => {}
        }
        for queued in waiting {
            self.unqueue(queued, now, effects);
        }
        self.settle(now, effects);
    }

    /// Ends the transactions of a session without a word, and those that a step had begun.
    fn drop_transactions(&mut self, session: &Session, draft: Option<&Session>) {
        for key in session.request_keys() {
            if let Some(server) = self.transactions.server_by_key(key) {
                self.drop_context(server);
                self.transactions.drop_server(server);
            }
        }
        // By their names: who loses a thousand sessions does not look a thousand times through all that was sent.
        for (branch, method) in draft.into_iter().chain([session]).flat_map(Session::sent) {
            let Some(client) = self.transactions.client_by_branch(branch, method) else { continue };
            let sent = self.sessions.clients.get(&client);
            if sent.is_some_and(|sent| sent.session == session.id) {
                self.transactions.abandon(client, &mut self.pending);
                self.sessions.clients.remove(&client);
            }
        }
    }
}
