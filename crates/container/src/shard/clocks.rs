//! What the clocks show: the one that runs evenly, the wall clock, and the wall clock as it is guarded against being set
//! ([`state::Clock`]).
//!
//! What begins is dated by the wall clock, what has its time ends by the guarded reading: set forward, the clock ends
//! nothing for a minute.

use std::time::{Duration, Instant};

use state::UnixMillis;

/// While the guarded reading is held back it stands still: what waits for it is looked at so often.
const LOOK_WHILE_HELD: Duration = Duration::from_secs(1);

/// All clocks at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now: Instant,
    pub(super) wall: UnixMillis,
    pub(super) guarded: UnixMillis,
}

impl Clocks {
    /// The wall clock at `now`.
    pub(super) fn wall(&self, now: Instant) -> UnixMillis {
        self.wall.saturating_add(now.saturating_duration_since(self.now))
    }

    /// Its guarded reading at `now`.
    pub(super) fn guarded(&self, now: Instant) -> UnixMillis {
        self.guarded.saturating_add(now.saturating_duration_since(self.now))
    }

    /// How long until `at` may have come by the guarded reading; zero if it has.
    pub(super) fn until(&self, at: UnixMillis, now: Instant) -> Duration {
        let left = at.saturating_since(self.guarded(now));
        let is_held = self.guarded < self.wall;
        if is_held && !left.is_zero() { left.max(LOOK_WHILE_HELD) } else { left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_that_stands_still_is_not_looked_at_every_millisecond() {
        let (now, shown) = (Instant::now(), UnixMillis(1_000_000));
        let soon = shown.saturating_add(Duration::from_millis(1));
        let even = Clocks { now, wall: shown, guarded: shown };
        assert_eq!(even.until(soon, now), Duration::from_millis(1));
        assert_eq!(even.until(soon, now + Duration::from_secs(1)), Duration::ZERO);
        let set = Clocks { wall: shown.saturating_add(Duration::from_secs(3_600)), ..even };
        assert_eq!(set.until(soon, now), LOOK_WHILE_HELD);
        assert_eq!(set.until(shown, now), Duration::ZERO);
    }
}
