//! How long a process waits for a processor, by the kernel's account of each of its threads (`/proc/PID/task/TID/schedstat`).

use std::fs;
use std::path::Path;
use std::time::Duration;

/// More threads than a process of a node has. What others wait is not counted.
const THREADS_MAX: usize = 64;

/// Follows one process at a time.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    /// Of which process, and what its threads have waited so far.
    last: Option<(u32, Duration)>,
}

impl Starvation {
    /// What the threads of a process have waited since the last question about it, all together. Nothing on the first one, and
    /// where the kernel keeps no account.
    pub(crate) fn since_last(&mut self, pid: u32) -> Duration {
        let waited = waited(pid);
        let last = self.last.replace((pid, waited)).filter(|(last, _)| *last == pid);
        last.map_or(Duration::ZERO, |(_, last)| waited.saturating_sub(last))
    }
}

/// What the threads of a process have waited since they began, all together. Nothing where the kernel keeps no account.
///
/// A wait counts when it is over. A stopped thread waits for no processor, nor does one that sleeps.
pub(crate) fn waited(pid: u32) -> Duration {
    let threads = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let threads = threads.into_iter().flatten().flatten().take(THREADS_MAX);
    let accounts =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    accounts.filter_map(|account| parse(&account)).sum()
}

/// Nanoseconds on a processor, nanoseconds of waiting for one, number of turns.
fn parse(account: &str) -> Option<Duration> {
    account.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waiting_is_the_second_of_three_numbers() {
        assert_eq!(parse("100 2500000000 7\n").unwrap(), Duration::from_millis(2_500));
        assert_eq!(parse("100"), None);
    }

    #[test]
    fn only_what_one_process_waited_since_the_last_question_counts() {
        let mut starvation = Starvation { last: Some((u32::MAX, Duration::ZERO)) };
        assert_eq!(starvation.since_last(std::process::id()), Duration::ZERO);
        starvation.last = Some((std::process::id(), Duration::MAX));
        assert_eq!(starvation.since_last(std::process::id()), Duration::ZERO);
        assert_eq!(starvation.since_last(u32::MAX), Duration::ZERO, "who has gone");
    }
}
