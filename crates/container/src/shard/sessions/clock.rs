//! What sessions do by the clock: repeat a 2xx until its ACK comes, come to their deadlines.

use std::time::{Duration, Instant};

use sip::transaction::Timers;
use state::UnixMillis;

use super::super::proxying::NO_LINK;
use super::super::{Shard, ShardEffect};
use super::{Queued, Sessions};
use crate::session::receive::{Input, next_repetition};
use crate::session::{RequestId, SessionId};
use crate::transactions::Origin;

/// A deadline farther away is looked at again after so long: the wall clock may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// What could not be stored is tried again after so long.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// A 2xx whose ACK has not come.
pub(super) struct Repeat {
    request: RequestId,
    next: Instant,
    interval: Duration,
}

impl Sessions {
    pub(in super::super) fn next_timeout(&self) -> Option<Instant> {
        [self.deadlines.next(), self.due.next_timeout()].into_iter().flatten().min()
    }
}

impl Shard {
    /// Repeats from `first` on what is to be repeated and is not yet.
    pub(super) fn repeat_successes(&mut self, id: SessionId, first: Instant, now: Instant) {
        let Timers { t1, t2, .. } = self.sessions.timers;
        // RFC 3261 §13.3.1.4: the first pause is T1, each further one twice as long.
        let interval = if first > now { next_repetition(t1, t2) } else { t1 };
        let Some(live) = self.sessions.entries.get_mut(&id).and_then(|entry| entry.live.as_mut())
        else {
            return;
        };
        let session = &live.session;
        let awaited = |request| session.unacknowledged().any(|open| open.request == request);
        live.repeats.retain(|repeat| awaited(repeat.request));
        for open in session.unacknowledged() {
            if !live.repeats.iter().any(|repeat| repeat.request == open.request) {
                live.repeats.push(Repeat { request: open.request, next: first, interval });
            }
        }
        self.arm_session(id, now);
    }

    /// Makes sure that the session is looked at when it wants to be.
    pub(super) fn arm_session(&mut self, id: SessionId, now: Instant) {
        let (clocks, timers) = (self.clocks, self.sessions.timers);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let Some(live) = entry.live.as_deref() else { return };
        let deadline = clocks.until(live.session.next_deadline(timers), now).min(LOOK_AGAIN);
        // A step that pauses is tried again first, and looks at the deadline when it stands.
        let next = entry.not_before.unwrap_or(now + deadline);
        let repeats = live.repeats.iter().map(|repeat| repeat.next);
        let next = repeats.chain(live.waits_until()).fold(next, Instant::min);
        self.sessions.deadlines.arm(id, &mut entry.armed, Some(next));
    }

    /// The store refused a step: it is tried again in a while.
    pub(super) fn pause_session(&mut self, id: SessionId, now: Instant) {
        if let Some(entry) = self.sessions.entries.get_mut(&id) {
            entry.not_before = Some(now + STORE_PAUSE);
        }
        self.arm_session(id, now);
    }

    pub(in super::super) fn sessions_timeout(
        &mut self,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        while let Some((at, id)) = self.sessions.deadlines.pop_due(now) {
            let entry = self.sessions.entries.get_mut(&id);
            if entry.is_some_and(|entry| entry.armed.take(at)) {
                self.session_timeout(id, now, effects);
            }
        }
        let entries = &self.sessions.entries;
        self.sessions.deadlines.sweep(entries.len(), |id, at| {
            entries.get(&id).is_some_and(|entry| entry.armed.is_at(at))
        });
        self.look_for_due(now, effects);
    }

    fn session_timeout(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let (clocks, timers) = (self.clocks, self.sessions.timers);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        if entry.not_before.take_if(|at| *at <= now).is_some() {
            self.resume_step(id, effects);
        }
        let Some(live) = self.sessions.wake(id) else { return };
        let mut leaving = Vec::new();
        for open in live.session.unacknowledged() {
            let repeat = live.repeats.iter_mut().find(|repeat| repeat.request == open.request);
            if let Some(repeat) = repeat.filter(|repeat| repeat.next <= now) {
                repeat.next = now + repeat.interval;
                repeat.interval = next_repetition(repeat.interval, timers.t2);
                leaving.push((open.flow, open.response.clone()));
            }
        }
        let is_due = live.session.next_deadline(timers) <= clocks.guarded(now)
            || live.session.is_dated_ahead(clocks.wall(now));
        let is_busy = live.is_busy();
        for (flow, response) in leaving {
            self.send_response(None, Origin { link: NO_LINK, flow }, response, effects);
        }
        if is_busy && is_due {
            // The step under way may change it, and looks at it when it stands; until then there are the repetitions.
            self.arm_repeats(id);
        } else if is_due {
            self.queue(id, Queued::of(Input::Deadline), now, effects);
        } else {
            self.advance(id, now, effects);
            self.arm_session(id, now);
        }
    }

    fn arm_repeats(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let repeats = entry.live.iter().flat_map(|live| &live.repeats);
        let next = repeats.map(|repeat| repeat.next).chain(entry.not_before).min();
        self.sessions.deadlines.arm(id, &mut entry.armed, next);
    }

    /// When `at` may have come.
    pub(super) fn instant_of(&self, at: UnixMillis, now: Instant) -> Instant {
        now + self.clocks.until(at, now).min(LOOK_AGAIN)
    }
}
