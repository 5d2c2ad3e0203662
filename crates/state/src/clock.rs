//! The clock by which engines end lifetimes.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::time::UnixMillis;

/// Tells engines what time it is.
pub trait Clock: Send + Sync + Debug {
    /// Now, for the purpose of ending lifetimes.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock, except that a step of it ends no lifetimes for a minute (see [`StepGuard`]).
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    guard: Mutex<StepGuard>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now(), guard: Mutex::default() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let (wall, running) = (UnixMillis::from(SystemTime::now()), self.started.elapsed());
        // A guard is plain values: a panic elsewhere cannot leave it half-changed.
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).observe(wall, running)
    }
}

/// How far the wall clock may run from the monotonic one between two looks and not count as stepped, beside the
/// thousandth by which clocks are slewed.
const STEP_MIN: Duration = Duration::from_secs(1);
/// How long time stands still after a step: long enough to notice a wrong clock, or for clients to refresh.
const STEP_FREEZE: Duration = Duration::from_secs(60);

/// Notices that the wall clock was stepped, and then lets time stand still for a minute, so that a wrongly set clock does
/// not end all lifetimes at once. Pure.
#[derive(Debug, Default)]
pub struct StepGuard {
    /// The last look: wall clock, and how long the process has run.
    last: Option<(UnixMillis, Duration)>,
    /// What is shown, and until when (in running time).
    frozen: Option<(UnixMillis, Duration)>,
}

impl StepGuard {
    /// The time to end lifetimes by, given the wall clock and how long the process has run by the monotonic one.
    pub fn observe(&mut self, wall: UnixMillis, running: Duration) -> UnixMillis {
        if let Some((last_wall, last_running)) = self.last {
            let elapsed = running.saturating_sub(last_running);
            let expected = last_wall.saturating_add(elapsed);
            let off = wall.saturating_since(expected).max(expected.saturating_since(wall));
            if off > STEP_MIN + elapsed / 1_000 {
                let shown = self.frozen.map_or(expected, |(shown, _)| shown);
                self.frozen = Some((shown, running + STEP_FREEZE));
            }
        }
        self.last = Some((wall, running));
        match self.frozen {
            Some((shown, until)) if running < until => shown,
            Some(_) | None => {
                self.frozen = None;
                wall
            }
        }
    }
}

/// A clock that tests move by hand.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UnixMillis) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock, backwards if need be.
    pub fn set(&self, now: UnixMillis) {
        self.0.store(now.0, Ordering::Release);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_runs_shows_the_wall() {
        let mut guard = StepGuard::default();
        let start = UnixMillis(1_000_000_000);
        for second in [0, 1, 2, 100, 4_000] {
            let wall = start.saturating_add(seconds(second));
            assert_eq!(guard.observe(wall, seconds(second)), wall);
        }
    }

    #[test]
    fn a_step_either_way_freezes_time_for_a_minute() {
        let start = UnixMillis(1_000_000_000);
        for stepped in [start.saturating_add(HOUR), start.saturating_sub(HOUR)] {
            let mut guard = StepGuard::default();
            guard.observe(start, seconds(0));
            let frozen = start.saturating_add(seconds(1));
            assert_eq!(guard.observe(stepped, seconds(1)), frozen);
            assert_eq!(guard.observe(stepped.saturating_add(seconds(59)), seconds(60)), frozen);
            let thawed = stepped.saturating_add(seconds(60));
            assert_eq!(guard.observe(thawed, seconds(61)), thawed);
        }
    }

    #[test]
    fn a_slewed_clock_is_not_a_step() {
        let mut guard = StepGuard::default();
        let start = UnixMillis(1_000_000_000);
        guard.observe(start, seconds(0));
        let slewed = start.saturating_add(HOUR + seconds(1));
        assert_eq!(guard.observe(slewed, HOUR), slewed);
    }
}
