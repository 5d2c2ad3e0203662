//! How fast the machine is for us while a test takes a time: a promise in real time is one of the product, and must not be
//! broken by whatever else the machine has to do.
//!
//! A thread beside the test does a little work again and again, and compares the time that it took with the time that it
//! got. A bound is stretched by as much, never shortened: on a machine that is idle it is what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Work of one round: longer than what a scheduler gives to anybody who has slept.
const WORK: Duration = Duration::from_millis(10);
/// Between two rounds: the watching takes a tenth of one core.
const REST: Duration = Duration::from_millis(90);

/// Watches until it is asked.
pub struct Pace {
    is_over: Arc<AtomicBool>,
    /// Until it is asked.
    watcher: Option<JoinHandle<Slowness>>,
}

/// How much slower than an idle machine this one was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowness {
    /// The time that work took, divided by the time that it needed: 1 or more.
    factor: f64,
    /// The longest that a wake-up came too late.
    late_max: Duration,
}

impl Pace {
    /// Begins to watch.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn watch() -> Pace {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        Pace { is_over, watcher: Some(thread::spawn(move || watch(&ends))) }
    }

    /// What was seen since.
    ///
    /// # Panics
    /// Never: the watcher does not panic.
    pub fn end(mut self) -> Slowness {
        self.is_over.store(true, Ordering::Relaxed);
        let watcher = self.watcher.take().expect("asked once");
        watcher.join().expect("the watcher does not panic")
    }
}

impl Drop for Pace {
    /// Of a test that failed before it asked.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Slowness {
    /// How long something may take here and now that an idle machine does within `bound`.
    pub fn allows(&self, bound: Duration) -> Duration {
        bound.mul_f64(self.factor) + self.late_max
    }
}

fn watch(is_over: &AtomicBool) -> Slowness {
    let (mut took, mut needed, mut late_max) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    loop {
        let (begun, got_before) = (Instant::now(), got());
        while got() - got_before < WORK {
            std::hint::spin_loop();
        }
        took += begun.elapsed();
        needed += got() - got_before;
        if is_over.load(Ordering::Relaxed) {
            let factor = (took.as_secs_f64() / needed.as_secs_f64()).max(1.0);
            return Slowness { factor, late_max };
        }
        let rests = Instant::now();
        thread::sleep(REST);
        late_max = late_max.max(rests.elapsed().saturating_sub(REST));
    }
}

/// Processor time that this thread has got so far.
fn got() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_stretched_by_what_the_machine_was_slower() {
        let idle = Slowness { factor: 1.0, late_max: Duration::ZERO };
        assert_eq!(idle.allows(Duration::from_secs(1)), Duration::from_secs(1));
        let busy = Slowness { factor: 2.5, late_max: Duration::from_millis(100) };
        assert_eq!(busy.allows(Duration::from_secs(1)), Duration::from_millis(2_600));
    }

    #[test]
    fn threads_that_want_the_same_processors_are_seen() {
        let is_over = AtomicBool::new(false);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let seen = thread::scope(|scope| {
            for _ in 0..processors * 4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let pace = Pace::watch();
            thread::sleep(Duration::from_millis(500));
            let seen = pace.end();
            is_over.store(true, Ordering::Relaxed);
            seen
        });
        assert!(seen.factor > 1.5, "{seen:?}");
    }
}
