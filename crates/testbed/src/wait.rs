//! Waiting for a condition: no test sleeps for luck, and one that gives up says what it saw last.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `look` until it answers `Ok`, at most for `limit`.
///
/// # Panics
/// When the limit is over: with `what` and the last `Err` that `look` gave.
pub fn until<T, E: Debug>(what: &str, limit: Duration, look: impl FnMut() -> Result<T, E>) -> T {
    at_most(limit, look)
        .unwrap_or_else(|seen| panic!("waited {limit:?} for {what}; last seen: {seen:?}"))
}

/// Calls `look` until it answers `Ok`, at most for `limit`: for a `Drop`, which must not panic while a test does.
///
/// # Errors
/// When the limit is over: the last `Err` that `look` gave.
pub fn at_most<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
            looked => return looked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_as_soon_as_it_is_there() {
        let mut calls = 0;
        let value = until("the third call", Duration::from_secs(5), || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err(calls) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "waited 20ms for rain; last seen: \"sun\"")]
    fn says_what_it_saw_when_the_limit_is_over() {
        until::<(), _>("rain", Duration::from_millis(20), || Err("sun"));
    }
}
