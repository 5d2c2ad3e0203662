//! When something happened, as the processes' logs tell it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testbed::node::Node;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after `moment` the first line with all these words was logged by a process; None: no such line (yet).
pub(super) fn logged_after(
    node: &Node,
    process: &str,
    words: &[&str],
    moment: SystemTime,
) -> Option<Duration> {
    let moment = time_of_day(moment);
    node.process_log(process)
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .filter_map(|line| since(moment, written_at(line)?))
        .min()
}

/// The part of a day that has passed, UTC.
fn time_of_day(moment: SystemTime) -> Duration {
    let since_epoch = moment.duration_since(UNIX_EPOCH).expect("after 1970");
    Duration::new(since_epoch.as_secs() % DAY.as_secs(), since_epoch.subsec_nanos())
}

/// A line of another half of the day was written before the moment, over midnight or not.
fn since(moment: Duration, line: Duration) -> Option<Duration> {
    let passed = (line + DAY).checked_sub(moment)?;
    let passed = if passed >= DAY { passed - DAY } else { passed };
    (passed < DAY / 2).then_some(passed)
}

/// `2026-11-22T03:31:09.398681Z …`
fn written_at(line: &str) -> Option<Duration> {
    let (_, time) = line.split_once(' ')?.0.trim_end_matches('Z').split_once('T')?;
    let mut parts = time.split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(Duration::from_secs((hours * 60 + minutes) * 60) + Duration::from_secs_f64(seconds))
}

#[test]
fn a_line_is_as_late_as_its_time_says_over_midnight_too() {
    let at = |line: &str| written_at(line).unwrap();
    let before = at("2026-11-22T23:59:59.500000Z WARN x");
    let after = at("2026-11-23T00:00:00.250000Z WARN x");
    assert_eq!(since(before, after), Some(Duration::from_millis(750)));
    assert_eq!(since(after, before), None, "it was there already");
    assert_eq!(since(before, before), Some(Duration::ZERO));
}
