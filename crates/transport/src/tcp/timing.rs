//! What a connection waits for, since when, and which connection is due next. Pure: `now` is an
//! argument.
//!
//! Every byte moves a connection's deadline, so deadlines are kept lazily: [`Deadlines`] holds one
//! entry per connection that is never later than its deadline. An entry that comes due early is put
//! back at the real one; traffic costs nothing as long as it only moves deadlines later.

use std::collections::BTreeSet;
use std::time::Instant;

use super::limits::TcpLimits;

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The connect got no answer.
    Connect,
    /// A message was begun and not finished.
    Message,
    /// The peer read nothing of what waits for it.
    Write,
    /// Nothing happened at all.
    Idle,
}

/// The moments of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    last_activity: Instant,
    connecting_since: Option<Instant>,
    message_since: Option<Instant>,
    unwritten_since: Option<Instant>,
}

impl Timing {
    pub(super) fn accepted(now: Instant) -> Timing {
        Timing {
            last_activity: now,
            connecting_since: None,
            message_since: None,
            unwritten_since: None,
        }
    }

    pub(super) fn connecting(now: Instant) -> Timing {
        Timing { connecting_since: Some(now), ..Timing::accepted(now) }
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.connecting_since = None;
        self.last_activity = now;
        // What was queued while connecting begins to wait for the peer now.
        self.unwritten_since = self.unwritten_since.map(|_| now);
    }

    /// Bytes came. `finished_any`: a frame was completed; `begun`: bytes of an incomplete message
    /// are left.
    pub(super) fn read(&mut self, now: Instant, finished_any: Finished, begun: Begun) {
        self.last_activity = now;
        self.message_since = match (begun, finished_any) {
            (Begun::Nothing, _) => None,
            // What is left begins after the frame that was just finished.
            (Begun::Message, Finished::Some) => Some(now),
            // Single bytes must not buy time.
            (Begun::Message, Finished::None) => Some(self.message_since.unwrap_or(now)),
        };
    }

    /// Bytes were queued for the peer.
    pub(super) fn queued(&mut self, now: Instant) {
        self.unwritten_since.get_or_insert(now);
    }

    /// The peer's window took bytes.
    pub(super) fn written(&mut self, now: Instant, left: Left) {
        self.last_activity = now;
        self.unwritten_since = match left {
            Left::Nothing => None,
            Left::Some => Some(now),
        };
    }

    /// When something will have taken too long, and what.
    pub(super) fn deadline(&self, limits: &TcpLimits) -> (Instant, Overdue) {
        if let Some(since) = self.connecting_since {
            return (since + limits.connect_timeout, Overdue::Connect);
        }
        let idle = (self.last_activity + limits.idle_timeout, Overdue::Idle);
        let message =
            self.message_since.map(|since| (since + limits.message_timeout, Overdue::Message));
        let write =
            self.unwritten_since.map(|since| (since + limits.write_timeout, Overdue::Write));
        [message, write]
            .into_iter()
            .flatten()
            .fold(idle, |first, other| if other.0 < first.0 { other } else { first })
    }
}

/// Whether a read completed a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    Some,
    None,
}

/// Whether bytes of an incomplete message are left after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Message,
    Nothing,
}

/// Whether bytes are left after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Some,
    Nothing,
}

/// Which connection to look at next: exactly one entry per connection.
#[derive(Debug)]
pub(super) struct Deadlines<K: Ord> {
    entries: BTreeSet<(Instant, K)>,
}

impl<K: Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { entries: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    /// Looks at connection `key` at `at`, or earlier if `scheduled` (its entry so far) says so.
    /// Returns its entry.
    pub(super) fn schedule(&mut self, key: K, scheduled: Option<Instant>, at: Instant) -> Instant {
        match scheduled {
            Some(scheduled) if scheduled <= at => scheduled,
            Some(scheduled) => {
                self.entries.remove(&(scheduled, key));
                self.entries.insert((at, key));
                at
            }
            None => {
                self.entries.insert((at, key));
                at
            }
        }
    }

    /// Forgets the entry of connection `key`.
    pub(super) fn cancel(&mut self, key: K, scheduled: Instant) {
        self.entries.remove(&(scheduled, key));
    }

    /// Takes out the next entry that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(key)
    }

    /// When the next entry is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> TcpLimits {
        TcpLimits {
            connect_timeout: 4 * SECOND,
            message_timeout: 10 * SECOND,
            write_timeout: 20 * SECOND,
            idle_timeout: 100 * SECOND,
            ..TcpLimits::default()
        }
    }

    #[test]
    fn a_message_sent_byte_by_byte_keeps_its_first_deadline() {
        let start = Instant::now();
        let mut timing = Timing::accepted(start);
        for second in 0..9 {
            timing.read(start + second * SECOND, Finished::None, Begun::Message);
        }
        assert_eq!(timing.deadline(&limits()), (start + 10 * SECOND, Overdue::Message));
    }

    #[test]
    fn a_finished_message_gives_the_next_one_its_own_time() {
        let start = Instant::now();
        let mut timing = Timing::accepted(start);
        timing.read(start, Finished::None, Begun::Message);
        timing.read(start + 9 * SECOND, Finished::Some, Begun::Message);
        assert_eq!(timing.deadline(&limits()), (start + 19 * SECOND, Overdue::Message));
        timing.read(start + 12 * SECOND, Finished::Some, Begun::Nothing);
        assert_eq!(timing.deadline(&limits()), (start + 112 * SECOND, Overdue::Idle));
    }

    #[test]
    fn a_peer_that_reads_a_little_is_not_overdue_and_one_that_stops_is() {
        let start = Instant::now();
        let mut timing = Timing::accepted(start);
        timing.queued(start);
        timing.queued(start + 5 * SECOND);
        assert_eq!(timing.deadline(&limits()), (start + 20 * SECOND, Overdue::Write));
        timing.written(start + 19 * SECOND, Left::Some);
        assert_eq!(timing.deadline(&limits()), (start + 39 * SECOND, Overdue::Write));
        timing.written(start + 20 * SECOND, Left::Nothing);
        assert_eq!(timing.deadline(&limits()), (start + 120 * SECOND, Overdue::Idle));
    }

    #[test]
    fn only_the_connect_is_timed_while_connecting() {
        let start = Instant::now();
        let mut timing = Timing::connecting(start);
        timing.queued(start);
        assert_eq!(timing.deadline(&limits()), (start + 4 * SECOND, Overdue::Connect));
        timing.connected(start + 3 * SECOND);
        assert_eq!(timing.deadline(&limits()), (start + 23 * SECOND, Overdue::Write));
    }

    #[test]
    fn a_connection_has_one_entry_which_moves_earlier_only() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        let first = deadlines.schedule(7, None, start + 100 * SECOND);
        assert_eq!(deadlines.schedule(7, Some(first), start + 200 * SECOND), first);
        let earlier = deadlines.schedule(7, Some(first), start + 10 * SECOND);
        assert_eq!((earlier, deadlines.entries.len()), (start + 10 * SECOND, 1));
        assert_eq!(deadlines.pop_due(start + 9 * SECOND), None);
        assert_eq!(deadlines.pop_due(start + 10 * SECOND), Some(7));
        assert_eq!(deadlines.next(), None);
    }
}
