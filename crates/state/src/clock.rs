//! The clock by which engines end lifetimes.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::time::UnixMillis;

/// Tells engines and applications what time it is. One for each process, so that all of it sees the same.
pub trait Clock: Send + Sync + Debug {
    /// Now, for the purpose of ending lifetimes. Never later than [`wall`](Self::wall).
    fn now(&self) -> UnixMillis;

    /// Now, for the purpose of dating what begins: lifetimes are counted from here.
    fn wall(&self) -> UnixMillis {
        self.now()
    }
}

/// The machine's clock was set to another time than it would have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// Milliseconds by which it was set forward; negative: back.
    pub by_ms: i64,
    /// Until then (by the clock as it runs now) no lifetime ends.
    pub frozen_until: UnixMillis,
}

type OnStep = Box<dyn Fn(ClockStep) + Send + Sync>;

/// The machine's clock, except that a step of it ends no lifetimes for a minute (see [`StepGuard`]).
pub struct SystemClock {
    started: Instant,
    guard: Mutex<StepGuard>,
    on_step: Option<OnStep>,
}

impl SystemClock {
    /// Calls `on_step` once for each step that it notices, on the thread that noticed.
    pub fn reporting(on_step: impl Fn(ClockStep) + Send + Sync + 'static) -> Self {
        Self { on_step: Some(Box::new(on_step)), ..Self::default() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now(), guard: Mutex::default(), on_step: None }
    }
}

impl Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemClock").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let (shown, step) = {
            // A guard is plain values: a panic elsewhere cannot leave it half-changed.
            let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
            // Read under the lock: two threads must not hand over their looks in the wrong order.
            guard.observe(self.wall(), self.started.elapsed())
        };
        if let (Some(step), Some(on_step)) = (step, &self.on_step) {
            on_step(step);
        }
        shown
    }

    fn wall(&self) -> UnixMillis {
        SystemTime::now().into()
    }
}

/// How far the wall clock may run from the monotonic one between two looks and not count as stepped, beside the
/// thousandth by which clocks are slewed.
const STEP_MIN: Duration = Duration::from_secs(1);
/// How long time stands still after a step: long enough to notice a wrong clock, or for clients to refresh.
const STEP_FREEZE: Duration = Duration::from_secs(60);

/// Notices that the wall clock was stepped, and then lets no lifetime end for a minute that the step would end, so that
/// a wrongly set clock does not end all of them at once. Set forward, time stands still; set back, it goes on from
/// there, for everything ends later by it. Pure.
#[derive(Debug, Default)]
pub struct StepGuard {
    /// The last look: wall clock, and how long the process has run.
    last: Option<(UnixMillis, Duration)>,
    /// What is shown, and until when (in running time).
    frozen: Option<(UnixMillis, Duration)>,
}

impl StepGuard {
    /// The time to end lifetimes by, given the wall clock and how long the process has run by the monotonic one; and
    /// the step that this look noticed, if there was one.
    pub fn observe(
        &mut self,
        wall: UnixMillis,
        running: Duration,
    ) -> (UnixMillis, Option<ClockStep>) {
        let mut step = None;
        if let Some((last_wall, last_running)) = self.last {
            let elapsed = running.saturating_sub(last_running);
            let expected = last_wall.saturating_add(elapsed);
            let off = wall.saturating_since(expected).max(expected.saturating_since(wall));
            if off > STEP_MIN + elapsed / 1_000 {
                // Whatever is shown by now is the latest that may be: a clock set back and then forward again ends
                // nothing that began in between.
                let shown = self.frozen.map_or(expected, |(shown, _)| shown.min(expected));
                self.frozen = Some((shown, running + STEP_FREEZE));
                let by_ms = i128::from(wall.0) - i128::from(expected.0);
                step = Some(ClockStep {
                    by_ms: i64::try_from(by_ms).unwrap_or(if by_ms < 0 {
                        i64::MIN
                    } else {
                        i64::MAX
                    }),
                    frozen_until: wall.saturating_add(STEP_FREEZE),
                });
            }
        }
        self.last = Some((wall, running));
        let shown = match self.frozen {
            Some((shown, until)) if running < until => shown.min(wall),
            Some(_) | None => {
                self.frozen = None;
                wall
            }
        };
        (shown, step)
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
            assert_eq!(guard.observe(wall, seconds(second)), (wall, None));
        }
    }

    #[test]
    fn a_step_forward_freezes_time_for_a_minute() {
        let start = UnixMillis(1_000_000_000);
        let stepped = start.saturating_add(HOUR + seconds(1));
        let mut guard = StepGuard::default();
        guard.observe(start, seconds(0));
        let frozen = start.saturating_add(seconds(1));
        let step =
            ClockStep { by_ms: 3_600_000, frozen_until: stepped.saturating_add(seconds(60)) };
        assert_eq!(guard.observe(stepped, seconds(1)), (frozen, Some(step)));
        let later = stepped.saturating_add(seconds(59));
        assert_eq!(guard.observe(later, seconds(60)), (frozen, None), "told once");
        let thawed = stepped.saturating_add(seconds(60));
        assert_eq!(guard.observe(thawed, seconds(61)), (thawed, None));
    }

    #[test]
    fn a_step_back_ends_nothing_earlier_and_is_told() {
        let start = UnixMillis(1_000_000_000);
        let stepped = start.saturating_sub(HOUR);
        let mut guard = StepGuard::default();
        guard.observe(start, seconds(0));
        let (shown, step) = guard.observe(stepped, seconds(0));
        assert_eq!((shown, step.map(|step| step.by_ms)), (stepped, Some(-3_600_000)));
        // What begins now ends at its own time, not an hour later.
        let later = stepped.saturating_add(seconds(10));
        assert_eq!(guard.observe(later, seconds(10)).0, later);
    }

    #[test]
    fn a_clock_set_forward_by_mistake_and_back_again_has_ended_nothing() {
        let start = UnixMillis(1_000_000_000);
        let mut guard = StepGuard::default();
        guard.observe(start, seconds(0));
        for second in 1..30 {
            let wall = start.saturating_add(HOUR + seconds(second));
            assert!(
                guard.observe(wall, seconds(second)).0 <= start.saturating_add(seconds(second))
            );
        }
        let back = start.saturating_add(seconds(30));
        assert!(guard.observe(back, seconds(30)).0 <= back);
        let later = start.saturating_add(seconds(100));
        assert_eq!(guard.observe(later, seconds(100)).0, later);
    }

    #[test]
    fn a_clock_set_back_by_mistake_and_forward_again_ends_nothing_that_began_in_between() {
        let start = UnixMillis(1_000_000_000);
        let mut guard = StepGuard::default();
        guard.observe(start, seconds(0));
        let began = start.saturating_sub(HOUR).saturating_add(seconds(10));
        assert_eq!(guard.observe(began, seconds(10)).0, began);
        let again = start.saturating_add(seconds(20));
        let soon_after = began.saturating_add(seconds(10));
        assert_eq!(guard.observe(again, seconds(20)).0, soon_after);
    }

    #[test]
    fn a_slewed_clock_is_not_a_step() {
        let mut guard = StepGuard::default();
        let start = UnixMillis(1_000_000_000);
        guard.observe(start, seconds(0));
        let slewed = start.saturating_add(HOUR + seconds(1));
        assert_eq!(guard.observe(slewed, HOUR), (slewed, None));
    }
}
