//! The steps of a session: its queue, the run of a handler, and what follows from it up to the commit.

use std::sync::Arc;
use std::time::Instant;

use sip::Method;
use tracing::{debug, error, warn};

use super::super::jobs::HeldCancel;
use super::super::set_ups::drop_step;
use super::super::{HttpOutcome, JobId, Shard, ShardEffect, taken};
use super::{Entry, EventEnd, Queued, Sessions, Step};
use crate::application::Response;
use crate::session::receive::Input;
use crate::session::state::Context;
use crate::session::{
    HttpResponse, SessionApplication, SessionEffect, SessionEvent, SessionId, SessionView, limits,
};

/// More inputs of one session do not wait: a request is answered 503, other messages come again.
const WAITING_MAX: usize = 64;

impl Shard {
    /// Puts something into the queue of a session that is ours.
    pub(super) fn queue(
        &mut self,
        id: SessionId,
        queued: Queued,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(live) = self.sessions.wake(id) else { return self.unqueue(queued, now, effects) };
        let Some(queued) = queued.supersedes(&mut live.waiting) else { return };
        if live.waiting.len() >= WAITING_MAX && !queued.is_of_its_own(&live.waiting) {
            warn!(session = %id, "too much waits for a session; refused or dropped");
            return self.refuse_queued(queued, now, effects);
        }
        live.waiting.push_back(queued);
        self.advance(id, now, effects);
    }

    /// Takes the next input in hand, unless one is.
    pub(super) fn advance(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let clocks = self.clocks;
        loop {
            let sessions = &mut self.sessions;
            let Some(live) = sessions.entries.get_mut(&id).and_then(|entry| entry.live.as_mut())
            else {
                return;
            };
            if live.is_busy() {
                return;
            }
            let has_waited = |queued: &Queued| queued.until.is_some_and(|until| until <= now);
            let late = live.waiting.iter().take(live.parked).position(has_waited);
            live.parked -= usize::from(late.is_some());
            let Some(queued) = live.waiting.remove(late.unwrap_or(live.parked)) else {
                return self.rest(id, now);
            };
            let Sessions { identity, timers, .. } = sessions;
            let (wall, guarded) = (clocks.wall(now), clocks.guarded(now));
            let context = Context { now: wall, guarded, identity, timers: *timers };
            let (mut draft, mut actions) = (live.session.clone(), Vec::new());
            let Queued { input, held, cancel, ask, note, .. } = queued;
            let name = live.session.application();
            let application = sessions.applications.find(name).map(Arc::clone);
            let kept = application.is_none().then(|| input.clone());
            let event = draft.receive(input, context, &mut actions);
            let event = if late.is_some() { draft.note_untold(event) } else { event };
            let step = Step { held, cancel, ask, note, ..Step::new(draft, event, actions) };
            match (application, kept) {
                (Some(application), _) if step.event.is_some() => {
                    return self.tell(id, step, &application, now, effects);
                }
                (None, Some(input)) if step.event.is_some() => {
                    self.cannot_tell(id, input, step, now, effects);
                }
                _ => self.conclude_step(id, step, Vec::new(), now, effects),
            }
        }
    }

    /// Asks the application.
    pub(super) fn tell(
        &mut self,
        id: SessionId,
        step: Step,
        application: &Arc<dyn SessionApplication>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(event) = &step.event else { return };
        let application = Arc::clone(application);
        let is_new = self.sessions.entries.get(&id).is_some_and(|entry| {
            let has_ended = entry.live.as_ref().is_some_and(|live| live.session.is_over());
            entry.record.is_empty() || has_ended
        });
        let record_bytes = self.sessions.entries.get(&id).map_or(0, |entry| entry.record.len());
        let view = step.draft.view(self.wall(now));
        let session = SessionView { is_new, record_bytes, ..view };
        let (event, session) = (Box::new(event.clone()), Box::new(session));
        let job = JobId(self.take_id());
        self.sessions.runs.insert(job, id);
        effects.push(ShardEffect::HandleEvent { job, application, session, event });
        if let Some(live) = self.sessions.wake(id) {
            live.step = Some(step);
        }
    }

    /// The session ends with this step: tells its application, if that wants to know; else hands the step back.
    fn tell_of_end(
        &mut self,
        id: SessionId,
        mut step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Option<Step> {
        let had_ended =
            |entry: &Entry| entry.live.as_ref().is_some_and(|live| live.session.is_ending());
        let is_end =
            step.draft.is_ending() && !self.sessions.entries.get(&id).is_some_and(had_ended);
        let application = self.sessions.applications.find(step.draft.application());
        let application = application.filter(|known| is_end && known.hears_ended()).cloned();
        let Some(application) = application else { return Some(step) };
        let session = Box::new(step.draft.view(self.wall(now)));
        let event = Box::new(SessionEvent::Ended);
        let job = JobId(self.take_id());
        self.sessions.runs.insert(job, id);
        effects.push(ShardEffect::HandleEvent { job, application, session, event });
        step.is_farewell = true;
        if let Some(live) = self.sessions.wake(id) {
            live.step = Some(step);
        }
        None
    }

    /// Commits a step of which nobody is to be told any more.
    fn complete_step(
        &mut self,
        id: SessionId,
        mut step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        step.draft.bury();
        step.value = step.draft.encode();
        self.commit_step(id, step, now, effects);
    }

    /// A handler of a session has ended.
    pub fn event_handled(
        &mut self,
        job: JobId,
        end: EventEnd,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(id) = self.sessions.runs.remove(&job) else { return };
        let Some(live) = self.sessions.entries.get_mut(&id).and_then(|entry| entry.live.as_mut())
        else {
            return;
        };
        let Some(step) = live.step.take() else { return };
        let asked = match end {
            EventEnd::Done(asked) => asked,
            EventEnd::Panicked => {
                error!(session = %id, application = step.draft.application(), "an application panicked");
                refusal(step.event.as_ref())
            }
            EventEnd::TimedOut => {
                warn!(session = %id, application = step.draft.application(), "an application took too long");
                refusal(step.event.as_ref())
            }
        };
        if step.is_farewell {
            self.complete_step(id, step, now, effects);
        } else {
            self.conclude_step(id, step, asked, now, effects);
        }
        self.advance(id, now, effects);
        self.settle(now, effects);
    }

    /// Applies what the application wants, and commits what has changed.
    fn conclude_step(
        &mut self,
        id: SessionId,
        mut step: Step,
        asked: Vec<SessionEffect>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let context = self.sessions.context(self.clocks, now);
        let (untouched, done) = (step.draft.clone(), step.actions.len());
        let mut applied = step.draft.apply(asked, context, &mut step.actions);
        if applied.is_ok() {
            step.draft.settle(step.event.as_ref(), context, &mut step.actions);
            step.value = step.draft.encode();
            if step.value.len() > record_bytes_max(&step) {
                applied = Err(crate::session::rules::BrokenRule::Record(step.value.len()));
            }
        }
        if let Err(broken) = applied {
            error!(session = %id, application = untouched.application(), %broken, "an application broke a rule");
            step.draft = untouched;
            step.actions.truncate(done);
            let refused =
                step.draft.apply(refusal(step.event.as_ref()), context, &mut step.actions);
            debug_assert!(refused.is_ok(), "a plain refusal breaks no rule");
            step.draft.settle(step.event.as_ref(), context, &mut step.actions);
            step.value = step.draft.encode();
            if step.value.len() > limits::RECORD_BYTES_MAX && is_refusable(&step) {
                warn!(session = %id, octets = step.value.len(), "a session is too long; refused a request");
                return self.refuse_step(id, step, now, effects);
            }
        }
        if let Some(step) = self.tell_of_end(id, step, now, effects) {
            self.complete_step(id, step, now, effects);
        }
    }

    /// Refuses the request that a step is of; the session is as before.
    pub(super) fn refuse_step(
        &mut self,
        id: SessionId,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Step { held, ask, is_first, .. } = step;
        let queued = Queued { held, ask, ..Queued::of(Input::Deadline) };
        self.refuse_queued(queued, now, effects);
        if is_first {
            self.forget_session(id, now, effects);
        }
    }

    /// What cannot wait for its session.
    pub(super) fn refuse_queued(
        &mut self,
        queued: Queued,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(held) = queued.held {
            if held.message.is_request()
                && let Some(server) = self.transactions.server_of(&held.message)
            {
                let response = self.responder.try_again(&held.message);
                self.transactions.respond_own(server, &response, now, &mut self.pending);
            }
            taken(held.offered, effects);
        }
        if let Some(HeldCancel { cancel, held }) = queued.cancel {
            let response = self.responder.try_again(&held.message);
            self.transactions.respond_own(cancel, &response, now, &mut self.pending);
            taken(held.offered, effects);
        }
        if let Some(ask) = queued.ask {
            ask.ends(HttpOutcome::Refused(503), effects);
        }
        if let Some(note) = queued.note {
            drop_step(note.step, effects);
        }
    }

    /// The session is not ours any more: its messages are looked at again, and go to whom it belongs.
    pub(super) fn unqueue(&mut self, queued: Queued, now: Instant, effects: &mut Vec<ShardEffect>) {
        if let Some(held) = queued.held {
            if let Some(server) = self.transactions.server_of(&held.message) {
                self.transactions.drop_server(server);
            }
            self.dispatch_again(held, now, effects);
        }
        if let Some(HeldCancel { cancel, held }) = queued.cancel {
            self.transactions.drop_server(cancel);
            self.dispatch_again(held, now, effects);
        }
        if let Some(ask) = queued.ask {
            self.ask_again(ask, now, effects);
        }
        let Some(mut note) = queued.note else { return };
        if note.step.held().is_some() {
            self.release_step(note.step, now, effects);
        } else {
            // Without a message it does not come again, and there is no record to note it in.
            self.act(note.server, note.step, now, effects);
        }
    }

    /// Nothing is under way: if nothing is to be repeated either, the record is enough; if there is none, there is nothing
    /// to remember.
    fn rest(&mut self, id: SessionId, now: Instant) {
        self.arm_session(id, now);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        if entry.record.is_empty()
            && entry.live.as_ref().is_some_and(|live| live.session.is_blank())
        {
            self.sessions.remove(id);
            return;
        }
        let is_at_rest = entry.live.as_ref().is_some_and(|live| {
            let is_idle = live.waiting.is_empty() && live.repeats.is_empty();
            is_idle && !live.session.is_open() && !entry.record.is_empty()
        });
        if is_at_rest {
            debug!(session = %id, octets = entry.record.len(), "at rest");
            entry.live = None;
        }
    }
}

/// How long a record may become by a step.
fn record_bytes_max(step: &Step) -> usize {
    let max = limits::RECORD_BYTES_MAX;
    if is_refusable(step) { max } else { max + max / 4 }
}

/// Whether the other side may be told to come again: by any request but BYE, which it says once and is gone.
pub(super) fn is_refusable(step: &Step) -> bool {
    match &step.event {
        Some(SessionEvent::Request { message, .. }) => message.method() != Some(Method::Bye),
        // A signal is repeated until it is heard.
        Some(SessionEvent::Http(_) | SessionEvent::Signal { .. }) => true,
        Some(
            SessionEvent::Cancelled { .. }
            | SessionEvent::Acknowledged { .. }
            | SessionEvent::Response { .. }
            | SessionEvent::Failed { .. }
            | SessionEvent::Timer { .. }
            | SessionEvent::Ending
            | SessionEvent::Ended,
        )
        | None => false,
    }
}

/// What is done in place of what an application failed to say.
fn refusal(event: Option<&SessionEvent>) -> Vec<SessionEffect> {
    match event {
        Some(SessionEvent::Request { request, .. }) => {
            vec![SessionEffect::Respond { request: *request, response: Response::new(500) }]
        }
        Some(SessionEvent::Http(_)) => vec![SessionEffect::HttpRespond(HttpResponse::new(500))],
        Some(_) | None => Vec::new(),
    }
}
