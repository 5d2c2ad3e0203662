//! Who answers nothing: what a container was asked by its link, and whether that is too much.
//!
//! Heartbeats say that a process goes round; they do not say that it works off messages. So the edge asks:
//! a probe at every heartbeat interval takes the way of messages, and a message that was offered is a
//! question too, answered by being taken. *Both* limits must be passed: one lost answer on a quiet link is
//! silence without a count, a burst that is a millisecond old is a count without silence.

use std::time::Instant;

use super::HeartbeatSettings;

/// Questions since the last answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Unanswered {
    count: u32,
    /// When the first of them was asked.
    since: Option<Instant>,
}

impl Unanswered {
    /// One more question.
    pub(super) fn asked(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert(now);
    }

    /// Any answer will do: what it says is that messages are worked off.
    pub(super) fn answered(&mut self) {
        *self = Unanswered::default();
    }

    /// The questions stay, their time begins.
    pub(super) fn start_anew(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Whether they are too many, and have been for too long.
    pub(super) fn is_over_limits(&self, settings: &HeartbeatSettings, now: Instant) -> bool {
        self.deadline(settings).is_some_and(|deadline| deadline <= now)
    }

    /// When [`is_over_limits`](Self::is_over_limits) becomes true, unless there is an answer before; `None` while they
    /// are too few.
    pub(super) fn deadline(&self, settings: &HeartbeatSettings) -> Option<Instant> {
        if self.count < settings.unanswered_max() {
            return None;
        }
        self.since.map(|since| since + settings.silence_max())
    }
}
