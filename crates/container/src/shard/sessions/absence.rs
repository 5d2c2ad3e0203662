//! Sessions whose application, of their version, is not hosted here: it was removed, or is not there yet.
//!
//! Nothing of them is lost. A request is told to come again; a BYE, a CANCEL, an ACK, a response or a failure comes once
//! and waits, and so do timers and the session's end, until the application is there. A BYE or CANCEL waits no longer
//! than its phone: then the container ends the leg, and the application hears that when it is there. A session that waits is
//! its owner's, and its successor's should that die: there the messages come again, as the outbox says.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::{Shard, ShardEffect, taken};
use super::steps::is_refusable;
use super::{Queued, SessionApplications, Step};
use crate::session::receive::Input;
use crate::session::{SessionEvent, SessionId};

/// For so long a BYE or CANCEL waits: its phone gives up after 32 s (RFC 3261 §17.1.2.2), and is to hear an answer.
const PHONE_PATIENCE: Duration = Duration::from_secs(20);
/// What is due is looked at again after so long, if the application has not come before.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Shard {
    /// Other applications, or other versions of them, are hosted from now on. Handlers that run end as they were begun.
    pub fn use_applications(
        &mut self,
        applications: SessionApplications,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        self.sessions.applications = applications;
        let waits = self.sessions.entries.iter().filter(|(_, entry)| entry.awaits_application);
        // In an order of their own, not of the table: what a shard does depends on its events alone.
        let mut waiting: Vec<SessionId> = waits.map(|(id, _)| *id).collect();
        waiting.sort_unstable();
        for id in waiting {
            self.wait_no_more(id, now, effects);
        }
        self.settle(now, effects);
    }

    fn wait_no_more(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(live) = self.sessions.wake(id) else { return };
        live.parked = 0;
        if live.session.has_failures() {
            live.waiting.push_front(Queued::of(Input::Failure));
        }
        let is_paused = live.step.as_ref().is_some_and(|step| step.is_paused);
        if let Some(entry) = self.sessions.entries.get_mut(&id) {
            entry.awaits_application = false;
            // Else it is the store that is waited for.
            entry.not_before = entry.not_before.filter(|_| is_paused);
        }
        self.arm_session(id, now);
        self.advance(id, now, effects);
    }

    /// The application is not there to be told what `input` means, which would lead to `step`.
    pub(super) fn cannot_tell(
        &mut self,
        id: SessionId,
        input: Input,
        step: Step,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let application = step.draft.application();
        if is_refusable(&step) {
            info!(session = %id, application, "its application is not here; told a request to come again");
            return self.refuse_step(id, step, now, effects);
        }
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(live) = entry.live.as_deref_mut() else { return };
        if !entry.awaits_application {
            warn!(session = %id, application, "its application is not here; deploy that version of it, and what waits for it goes on");
        }
        entry.awaits_application = true;
        let Step { mut held, mut cancel, ask, note, event, .. } = step;
        match input {
            // They come again by themselves.
            Input::Deadline | Input::Failure => entry.not_before = Some(now + LOOK_AGAIN),
            input => {
                // Else what came behind it by its link would wait for it.
                let cancelled = cancel.as_mut().map(|cancel| &mut cancel.held);
                for held in held.iter_mut().chain(cancelled) {
                    taken(held.offered.take(), effects);
                }
                let hangs_up = matches!(
                    &event,
                    Some(SessionEvent::Request { .. } | SessionEvent::Cancelled { .. })
                );
                let until = hangs_up.then(|| now + PHONE_PATIENCE);
                live.waiting.insert(live.parked, Queued { input, held, cancel, ask, note, until });
                live.parked += 1;
            }
        }
        self.arm_session(id, now);
    }
}
