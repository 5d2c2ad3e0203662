//! What is counted of a run, and between which moments.
//!
//! The *window* is the measured time: it begins when the warm-up is over and ends with the duration. Operations that
//! were meant to begin in it are counted by how they ended, whenever that was, and their latencies recorded.
//! Throughput is what ended in it; so is the server's CPU per operation, which is read at both of its ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Shortest latency that is told apart from zero, in nanoseconds.
const LATENCY_NS_MIN: u64 = 1_000;
/// Longest latency that is told apart from longer ones: more than an operation may take in all.
const LATENCY_NS_MAX: u64 = 300_000_000_000;
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// An operation that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    /// When it was meant to begin; its latency counts from here.
    pub(crate) intended: Instant,
}

/// Why an operation did not do what it should, other than that no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// A final response with another status than asked for.
    Status(u16),
    /// The challenge cannot be answered: no digest, another algorithm, or no password was given.
    Challenge,
    /// The flow's connection could not be opened.
    Connect,
    /// The flow's connection ended before its time.
    Closed,
    /// A response without what it must have.
    Malformed,
}

impl Failure {
    /// A final response with this status.
    pub(crate) fn of(status: Option<u16>) -> Failure {
        status.map_or(Failure::Malformed, Failure::Status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => write!(f, "{status}"),
            Failure::Challenge => f.write_str("challenge"),
            Failure::Connect => f.write_str("connect"),
            Failure::Closed => f.write_str("closed"),
            Failure::Malformed => f.write_str("malformed"),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should.
    Done,
    /// With an answer, but not the right one.
    Failed(Failure),
    /// Without an answer.
    Lost,
}

/// What happened since the last line of progress.
#[derive(Debug)]
pub(crate) struct Interval {
    /// Operations that ended well.
    pub(crate) done: u64,
    /// Operations that got no answer.
    pub(crate) lost: u64,
    /// Operations that got a wrong one.
    pub(crate) failed: u64,
    /// Latencies of those that ended well, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Interval {
    fn new() -> Interval {
        Interval { done: 0, lost: 0, failed: 0, latency: histogram() }
    }
}

/// All counts of a run.
#[derive(Debug)]
pub(crate) struct Statistics {
    window: (Instant, Option<Instant>),
    /// Operations meant to begin in the window, of which the following four tell.
    pub(crate) begun: u64,
    /// … ended well.
    pub(crate) ok: u64,
    /// … got no answer.
    pub(crate) lost: u64,
    /// … got a wrong one.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// Latencies of those that ended well, in nanoseconds from the intended time.
    pub(crate) latency: Histogram<u64>,
    /// From an INVITE's intended time to its 180, in nanoseconds.
    pub(crate) invite_to_180: Histogram<u64>,
    /// Operations that ended well in the window, whenever they began.
    pub(crate) completed: u64,
    /// Messages sent in the window.
    pub(crate) sent: u64,
    /// Messages received in the window.
    pub(crate) received: u64,
    /// Requests and responses sent again since the window began.
    pub(crate) retransmissions: u64,
    /// Challenges answered since the window began.
    pub(crate) challenges: u64,
    /// Operations that were put off as a 503 asked for.
    pub(crate) put_off: u64,
    /// Messages that belong to nothing: repetitions of what was answered, or not for us.
    pub(crate) strays: u64,
    /// Datagrams and frames that are no SIP messages.
    pub(crate) malformed: u64,
    /// By how much an operation began later than intended, at most.
    pub(crate) lag_max: Duration,
    lost_and_failed: u64,
    /// By how much the last operation began late.
    lag: Duration,
    interval: Interval,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds are in order")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Statistics {
    /// Nothing counted yet; the window ends when [`close`](Self::close) says so, if it has no end.
    pub(crate) fn new(from: Instant, until: Option<Instant>) -> Statistics {
        Statistics {
            window: (from, until),
            begun: 0,
            ok: 0,
            lost: 0,
            failed: BTreeMap::new(),
            latency: histogram(),
            invite_to_180: histogram(),
            completed: 0,
            sent: 0,
            received: 0,
            retransmissions: 0,
            challenges: 0,
            put_off: 0,
            strays: 0,
            malformed: 0,
            lag_max: Duration::ZERO,
            lost_and_failed: 0,
            lag: Duration::ZERO,
            interval: Interval::new(),
        }
    }

    fn is_in_window(&self, at: Instant) -> bool {
        at >= self.window.0 && self.window.1.is_none_or(|until| at < until)
    }

    /// Ends a window without an end, or earlier.
    pub(crate) fn close(&mut self, until: Instant) {
        self.window.1 = Some(self.window.1.map_or(until, |planned| planned.min(until)));
    }

    /// How long the window is.
    ///
    /// # Panics
    /// While it has no end.
    pub(crate) fn window(&self) -> Duration {
        self.window.1.expect("a report is made at the end").saturating_duration_since(self.window.0)
    }

    /// When the window begins and ends, if that is known.
    pub(crate) fn window_ends(&self) -> (Instant, Option<Instant>) {
        self.window
    }

    /// An operation begins at `now`.
    pub(crate) fn begin(&mut self, intended: Instant, now: Instant) -> Begun {
        self.lag = now.saturating_duration_since(intended);
        if self.is_in_window(intended) {
            self.begun += 1;
            self.lag_max = self.lag_max.max(self.lag);
        }
        Begun { intended }
    }

    /// An operation has ended.
    pub(crate) fn end(&mut self, begun: Begun, outcome: Outcome, now: Instant) {
        let latency = nanos(now.saturating_duration_since(begun.intended));
        match outcome {
            Outcome::Done => {
                self.completed += u64::from(self.is_in_window(now));
                self.interval.done += 1;
                self.interval.latency.saturating_record(latency);
            }
            Outcome::Failed(_) => self.interval.failed += 1,
            Outcome::Lost => self.interval.lost += 1,
        }
        self.lost_and_failed += u64::from(outcome != Outcome::Done);
        if !self.is_in_window(begun.intended) {
            return;
        }
        match outcome {
            Outcome::Done => {
                self.ok += 1;
                self.latency.saturating_record(latency);
            }
            Outcome::Failed(failure) => *self.failed.entry(failure).or_default() += 1,
            Outcome::Lost => self.lost += 1,
        }
    }

    /// The callee of a call rings.
    pub(crate) fn rings(&mut self, begun: Begun, now: Instant) {
        if self.is_in_window(begun.intended) {
            let latency = nanos(now.saturating_duration_since(begun.intended));
            self.invite_to_180.saturating_record(latency);
        }
    }

    /// A message was sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent += u64::from(self.is_in_window(now));
    }

    /// A message was received.
    pub(crate) fn received(&mut self, now: Instant) {
        self.received += u64::from(self.is_in_window(now));
    }

    /// A message was sent again.
    pub(crate) fn retransmitted(&mut self, now: Instant) {
        self.retransmissions += u64::from(now >= self.window.0);
    }

    /// A challenge was answered.
    pub(crate) fn challenged(&mut self, now: Instant) {
        self.challenges += u64::from(now >= self.window.0);
    }

    /// By how much the last operation began later than intended.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// What happened since the last call.
    pub(crate) fn take_interval(&mut self) -> Interval {
        std::mem::replace(&mut self.interval, Interval::new())
    }

    /// Operations that ended otherwise than they should, warm-up included.
    pub(crate) fn lost_and_failed(&self) -> u64 {
        self.lost_and_failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_the_window_counts_and_latency_is_from_the_intended_time() {
        let start = Instant::now();
        let mut statistics = Statistics::new(start + SECOND, Some(start + 3 * SECOND));
        let warm = statistics.begin(start, start);
        let measured = statistics.begin(start + SECOND, start + SECOND + SECOND / 4);
        let after = statistics.begin(start + 3 * SECOND, start + 3 * SECOND);
        statistics.end(warm, Outcome::Done, start + SECOND);
        statistics.end(measured, Outcome::Done, start + 4 * SECOND);
        statistics.end(after, Outcome::Done, start + 4 * SECOND);
        assert_eq!((statistics.begun, statistics.ok, statistics.completed), (1, 1, 1));
        assert_eq!((statistics.lag_max, statistics.window()), (SECOND / 4, 2 * SECOND));
        let recorded = statistics.latency.max();
        assert!(statistics.latency.equivalent(recorded, 3_000_000_000), "{recorded} ns");
        assert_eq!((statistics.take_interval().done, statistics.take_interval().done), (3, 0));
    }

    #[test]
    fn every_operation_of_the_window_ends_in_one_way() {
        let start = Instant::now();
        let mut statistics = Statistics::new(start, None);
        let outcomes = [
            Outcome::Done,
            Outcome::Lost,
            Outcome::Failed(Failure::Status(503)),
            Outcome::Failed(Failure::Status(503)),
            Outcome::Failed(Failure::Malformed),
        ];
        for outcome in outcomes {
            let begun = statistics.begin(start, start);
            statistics.end(begun, outcome, start + SECOND);
        }
        statistics.close(start + 2 * SECOND);
        let failed: Vec<String> =
            statistics.failed.iter().map(|(why, count)| format!("{why}: {count}")).collect();
        assert_eq!(failed, ["503: 2", "malformed: 1"]);
        assert_eq!((statistics.begun, statistics.ok, statistics.lost), (5, 1, 1));
        assert_eq!(statistics.lost_and_failed(), 4);
    }
}
