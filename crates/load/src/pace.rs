//! When operations begin: closed loop (so many at a time) or open loop (so many a second, whatever the server does).
//!
//! In an open loop an operation has an *intended* time, and its latency counts from there: what waited because the
//! server, or this generator, was slow is not left out (no "coordinated omission").

use std::time::{Duration, Instant};

/// How operations are started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PaceSetting {
    /// The next one begins when one ends.
    Closed {
        /// Operations in flight.
        concurrency: usize,
    },
    /// At even intervals.
    Open {
        /// Operations a second.
        rate: f64,
        /// Most operations in flight; beyond, the next one is late.
        in_flight_max: usize,
    },
}

/// Starts operations.
#[derive(Debug)]
pub(crate) struct Pace {
    setting: PaceSetting,
    started: Instant,
    begun: u64,
}

impl Pace {
    pub(crate) fn new(setting: PaceSetting, now: Instant) -> Pace {
        Pace { setting, started: now, begun: 0 }
    }

    /// The intended time of the next operation.
    fn intended(&self, now: Instant) -> Instant {
        match self.setting {
            PaceSetting::Closed { .. } => now,
            PaceSetting::Open { rate, .. } => {
                self.started + Duration::from_secs_f64(self.begun as f64 / rate)
            }
        }
    }

    fn in_flight_max(&self) -> usize {
        match self.setting {
            PaceSetting::Closed { concurrency } => concurrency,
            PaceSetting::Open { in_flight_max, .. } => in_flight_max,
        }
    }

    /// The intended time of an operation that may begin at `now`. Whoever begins it calls [`begin`](Self::begin).
    pub(crate) fn due(&self, now: Instant, in_flight: usize) -> Option<Instant> {
        let intended = self.intended(now);
        (in_flight < self.in_flight_max() && intended <= now).then_some(intended)
    }

    /// An operation begins.
    pub(crate) fn begin(&mut self) {
        self.begun += 1;
    }

    /// When [`due`](Self::due) will say something that it does not say yet, if only time must pass.
    pub(crate) fn next_due(&self, now: Instant, in_flight: usize) -> Option<Instant> {
        match self.setting {
            PaceSetting::Closed { .. } => None,
            PaceSetting::Open { in_flight_max, .. } => {
                (in_flight < in_flight_max).then(|| self.intended(now))
            }
        }
    }

    /// Operations that should have begun before `until` and did not: none in a closed loop.
    pub(crate) fn missed(&self, until: Instant) -> u64 {
        match self.setting {
            PaceSetting::Closed { .. } => 0,
            PaceSetting::Open { rate, .. } => {
                let planned = until.saturating_duration_since(self.started).as_secs_f64() * rate;
                // What is meant for the very end, but for a rounding, is not meant before it.
                ((planned - 1e-6).ceil() as u64).saturating_sub(self.begun)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_begins_one_for_each_that_ends() {
        let now = Instant::now();
        let mut pace = Pace::new(PaceSetting::Closed { concurrency: 2 }, now);
        assert_eq!(pace.due(now, 0), Some(now));
        pace.begin();
        assert_eq!((pace.due(now, 1), pace.due(now, 2)), (Some(now), None));
        assert_eq!((pace.next_due(now, 2), pace.missed(now + Duration::from_secs(9))), (None, 0));
    }

    #[test]
    fn an_open_loop_keeps_its_intended_times_when_it_is_late() {
        let start = Instant::now();
        let mut pace = Pace::new(PaceSetting::Open { rate: 100.0, in_flight_max: 50 }, start);
        for operation in 0..5_u32 {
            let intended = start + operation * Duration::from_millis(10);
            assert_eq!(pace.next_due(start, 0), Some(intended));
            // Late by 45 ms for the first and by 5 ms for the last.
            assert_eq!(pace.due(start + Duration::from_millis(45), 0), Some(intended));
            pace.begin();
        }
        let late = start + Duration::from_millis(45);
        assert_eq!(pace.due(late, 0), None, "the sixth is due after 50 ms");
        assert_eq!(pace.due(start + Duration::from_secs(1), 50), None, "the bound");
        assert_eq!(pace.next_due(late, 50), None, "time alone does not help at the bound");
        assert_eq!(pace.missed(start + Duration::from_secs(1)), 95);
        // Three times a third of a second is a little more than one second in binary.
        let mut pace = Pace::new(PaceSetting::Open { rate: 7.0, in_flight_max: 50 }, start);
        (0..21).for_each(|_| pace.begin());
        assert_eq!(pace.missed(start + Duration::from_secs(3)), 0);
    }
}
