//! How long to wait before a dead process is started again. Pure.
//!
//! Exponential, so that a process that cannot live does not eat the machine; capped, so that it
//! comes back soon after its cause is gone; forgotten after a stable time, so that one death a day
//! costs nothing. A restart by hand is no death and clears the count (systemd#10529 counts them).

use std::time::{Duration, Instant};

use config::RestartSettings;

/// The delays between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// After the first death; doubles with each further one.
    pub delay_min: Duration,
    /// The longest delay.
    pub delay_max: Duration,
    /// A process that served this long has its deaths forgotten.
    pub stable_after: Duration,
}

impl From<RestartSettings> for RestartPolicy {
    fn from(settings: RestartSettings) -> RestartPolicy {
        let RestartSettings { delay_min, delay_max, stable_after } = settings;
        RestartPolicy { delay_min, delay_max, stable_after }
    }
}

impl Default for RestartPolicy {
    /// That of a node whose configuration does not speak of it.
    fn default() -> RestartPolicy {
        RestartSettings::default().into()
    }
}

/// The deaths of one process.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: RestartPolicy,
    deaths: u32,
    ready_since: Option<Instant>,
}

impl Backoff {
    /// A process that never died.
    pub fn new(policy: RestartPolicy) -> Backoff {
        Backoff { policy, deaths: 0, ready_since: None }
    }

    /// The process serves from now on.
    pub fn ready(&mut self, now: Instant) {
        self.ready_since = Some(now);
    }

    /// The process died; the time until it is started again.
    pub fn died(&mut self, now: Instant) -> Duration {
        let served = self.ready_since.take().map(|since| now.saturating_duration_since(since));
        if served.is_some_and(|served| served >= self.policy.stable_after) {
            self.deaths = 0;
        }
        let doubled = 2_u32.saturating_pow(self.deaths);
        self.deaths = self.deaths.saturating_add(1);
        self.policy.delay_min.saturating_mul(doubled).min(self.policy.delay_max)
    }

    /// Somebody started or restarted it by hand.
    pub fn reset(&mut self) {
        self.deaths = 0;
        self.ready_since = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        delay_min: Duration::from_millis(100),
        delay_max: Duration::from_secs(1),
        stable_after: Duration::from_secs(10),
    };

    fn delays(backoff: &mut Backoff, now: Instant, count: usize) -> Vec<u128> {
        (0..count).map(|_| backoff.died(now).as_millis()).collect()
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let mut backoff = Backoff::new(POLICY);
        assert_eq!(delays(&mut backoff, Instant::now(), 6), [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_stable_life_is_forgiven_and_a_short_one_is_not() {
        let start = Instant::now();
        let mut backoff = Backoff::new(POLICY);
        delays(&mut backoff, start, 3);
        backoff.ready(start);
        assert_eq!(
            backoff.died(start + POLICY.stable_after - Duration::from_millis(1)),
            Duration::from_millis(800)
        );
        backoff.ready(start);
        assert_eq!(backoff.died(start + POLICY.stable_after), Duration::from_millis(100));
    }

    #[test]
    fn a_process_that_was_never_ready_is_not_stable_however_long_it_took() {
        let start = Instant::now();
        let mut backoff = Backoff::new(POLICY);
        backoff.ready(start);
        backoff.died(start);
        assert_eq!(backoff.died(start + POLICY.stable_after * 9), Duration::from_millis(200));
    }

    #[test]
    fn a_restart_by_hand_clears_the_count() {
        let mut backoff = Backoff::new(POLICY);
        delays(&mut backoff, Instant::now(), 5);
        backoff.reset();
        assert_eq!(delays(&mut backoff, Instant::now(), 1), [100]);
    }

    proptest! {
        #[test]
        fn the_delay_stays_within_its_bounds(deaths in 0..200_usize, min in 0..5_000_u64, more in 0..100_000_u64) {
            let policy = RestartPolicy {
                delay_min: Duration::from_millis(min),
                delay_max: Duration::from_millis(min + more),
                ..POLICY
            };
            let mut backoff = Backoff::new(policy);
            let all = delays(&mut backoff, Instant::now(), deaths);
            prop_assert!(all.is_sorted());
            prop_assert!(all.iter().all(|delay| (min.into()..=(min + more).into()).contains(delay)));
        }
    }
}
