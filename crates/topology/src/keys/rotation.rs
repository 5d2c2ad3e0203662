//! Whether the rotating root is old enough to be replaced. Pure; the manager asks, writes and tells.

use std::time::Duration;

use super::KeyRing;

/// A secret that seems to come from further in the future than this was dated by a clock that was wrong.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3_600);

/// How long (from `now`, Unix milliseconds) the current secret still signs: zero when it is to be rotated now.
///
/// A secret dated in the future by more than an hour is rotated at once: dated by a clock that ran ahead, it would sign
/// for ever so long. One without a date counts as new; the file gives it one when it is read.
pub fn due_in(ring: &KeyRing, rotate_every: Duration, now: u64) -> Duration {
    let Some(since) = ring.current_since() else {
        return rotate_every;
    };
    match now.checked_sub(since) {
        Some(age) => rotate_every.saturating_sub(Duration::from_millis(age)),
        None if Duration::from_millis(since - now) > CLOCK_TOLERANCE => Duration::ZERO,
        None => rotate_every,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SECRET_BYTES;

    const HOUR_MS: u64 = 3_600_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn due(since: u64, now: u64) -> Duration {
        due_in(&KeyRing::made([1; SECRET_BYTES], [2; SECRET_BYTES], since), DAY, now)
    }

    #[test]
    fn a_secret_signs_for_its_time() {
        let made = 1_000 * HOUR_MS;
        assert_eq!(due(made, made), DAY);
        assert_eq!(due(made, made + HOUR_MS), DAY - Duration::from_secs(3_600));
        assert_eq!(due(made, made + 24 * HOUR_MS), Duration::ZERO);
        assert_eq!(due(made, made + 1_000 * HOUR_MS), Duration::ZERO);
    }

    #[test]
    fn a_secret_from_the_future_is_not_kept_until_then() {
        let made = 1_000 * HOUR_MS;
        assert_eq!(due(made, made - HOUR_MS), DAY);
        assert_eq!(due(made, made - HOUR_MS - 1), Duration::ZERO);
    }

    #[test]
    fn a_secret_without_a_date_is_new() {
        assert_eq!(due_in(&KeyRing::new([1; SECRET_BYTES]), DAY, HOUR_MS), DAY);
    }
}
