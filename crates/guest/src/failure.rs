//! How a handler fails, and how often each kind has happened.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::FAILURE_BYTES_MAX;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The guest trapped: a panic, an access out of bounds, recursion without end, a value that the interface forbids.
    Trap,
    /// It used up its processor time, or did not come to its end in time.
    Time,
    /// It wanted more memory or longer tables than it may have.
    Memory,
    /// Too many events at the same time: there was no room to run it.
    Busy,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [FailureKind; 4] =
        [FailureKind::Trap, FailureKind::Time, FailureKind::Memory, FailureKind::Busy];

    /// In one word, for logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Trap => "trap",
            FailureKind::Time => "time",
            FailureKind::Memory => "memory",
            FailureKind::Busy => "busy",
        }
    }

    fn index(self) -> usize {
        match self {
            FailureKind::Trap => 0,
            FailureKind::Time => 1,
            FailureKind::Memory => 2,
            FailureKind::Busy => 3,
        }
    }
}

/// A handler failed; nothing that it wanted happens.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", kind.as_str())]
pub struct Failure {
    /// What kind it was.
    pub kind: FailureKind,
    /// What happened, with the guest's backtrace where there is one.
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: impl std::fmt::Display) -> Failure {
        let mut cut = Cut(String::new());
        // It ends where it is full.
        let _is_whole = write!(cut, "{detail}");
        Failure { kind, detail: cut.0 }
    }

    /// There is no room to run it.
    pub(crate) fn busy() -> Failure {
        Failure::new(FailureKind::Busy, "too many events are handled at the same time")
    }

    /// It did not come to its end in so long.
    pub(crate) fn late(wall_time: Duration) -> Failure {
        Failure::new(FailureKind::Time, format!("it did not come to its end within {wall_time:?}"))
    }
}

/// Takes text until it is full.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let fits = text.floor_char_boundary(FAILURE_BYTES_MAX - self.0.len());
        self.0.push_str(&text[..fits]);
        if fits < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// What an application has done since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events and HTTP requests that were handled, failed ones included.
    pub events: u64,
    failures: [u64; 4],
}

impl Counts {
    /// Failures of one kind.
    pub fn failures(&self, kind: FailureKind) -> u64 {
        self.failures[kind.index()]
    }

    /// Failures of all kinds.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }
}

/// Counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    events: AtomicU64,
    failures: [AtomicU64; 4],
}

impl Counters {
    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failure(&self, kind: FailureKind) {
        self.failures[kind.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        Counts {
            events: self.events.load(Ordering::Relaxed),
            failures: FailureKind::ALL
                .map(|kind| self.failures[kind.index()].load(Ordering::Relaxed)),
        }
    }
}

/// Failures that are logged in one second, of one application; others are counted, and told with the next one.
pub(crate) const LOGGED_PER_SECOND_MAX: u32 = 10;

/// How much an application has logged lately, of its failures or of its own lines.
#[derive(Debug)]
pub(crate) struct LogRate {
    per_second_max: u32,
    second: u64,
    logged: u32,
    left_out: u64,
}

impl LogRate {
    pub(crate) fn new(per_second_max: u32) -> LogRate {
        LogRate { per_second_max, second: 0, logged: 0, left_out: 0 }
    }

    /// Whether one more in this second is logged, and then how many before it were not.
    pub(crate) fn admits(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            (self.second, self.logged) = (second, 0);
        }
        if self.logged >= self.per_second_max {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_up_to_a_length() {
        let told = |text: &str| Failure::new(FailureKind::Trap, format_args!("a{text}")).detail;
        assert_eq!(told("b"), "ab");
        assert_eq!(told(&"é".repeat(FAILURE_BYTES_MAX)).len(), FAILURE_BYTES_MAX - 1);
    }

    #[test]
    fn so_many_failures_are_logged_a_second_and_the_others_are_told_with_the_next() {
        let mut rate = LogRate::new(LOGGED_PER_SECOND_MAX);
        let logged = (0..100).filter(|_| rate.admits(7).is_some()).count();
        assert_eq!(logged, 10);
        assert_eq!(rate.admits(8), Some(90));
        assert_eq!(rate.admits(8), Some(0));
    }
}
