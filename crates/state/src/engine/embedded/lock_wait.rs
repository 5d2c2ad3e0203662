//! Decides when a holder of the write lock is to be reported. Pure.
//!
//! Only a holder that has kept the lock all the while is reported: on a busy node a long wait may mean many short
//! holdings, and whoever gets a report may end the process it names.

use std::time::{Duration, Instant};

use super::lock::Holder;

/// How long one holding of the write lock goes unreported.
const REPORTED: Duration = Duration::from_millis(100);

/// Follows the writer's wait for the lock.
#[derive(Debug, Default)]
pub(super) struct LockWaitWatch {
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    began: Instant,
    /// When `holder` was read.
    since: Instant,
    holder: Option<Holder>,
}

impl LockWaitWatch {
    /// When to look again, if anybody waits.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.wait.as_ref().map(|wait| wait.since + REPORTED)
    }

    /// Looks at the wait that began at `waiting_since`; returns a holder to report (`None` inside if its name is not
    /// known), and how long the wait has been.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        waiting_since: Option<Instant>,
        read_holder: impl FnOnce() -> Option<Holder>,
    ) -> Option<(Option<Holder>, Duration)> {
        let Some(began) = waiting_since else {
            self.wait = None;
            return None;
        };
        match &mut self.wait {
            Some(wait) if wait.began == began => {
                if now < wait.since + REPORTED {
                    return None;
                }
                wait.since = now;
                let before = std::mem::replace(&mut wait.holder, read_holder());
                (before == wait.holder).then(|| (before, now.saturating_duration_since(began)))
            }
            Some(_) | None => {
                self.wait = Some(Wait { began, since: now, holder: read_holder() });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(turn: u64) -> Option<Holder> {
        Some(Holder { pid: 4_711, turn, name: "container".into() })
    }

    /// Looks every 100 ms at a wait that began at the first look, and says which looks reported.
    fn reports(holders: &[Option<Holder>]) -> Vec<usize> {
        let start = Instant::now();
        let mut watch = LockWaitWatch::default();
        let mut reported = Vec::new();
        for (look, holder) in (0u32..).zip(holders) {
            let now = start + REPORTED * look;
            if let Some((named, waited)) = watch.observe(now, Some(start), || holder.clone()) {
                assert_eq!((&named, waited), (holder, now - start));
                reported.push(look as usize);
            }
        }
        reported
    }

    #[test]
    fn one_long_holding_is_reported_every_100_ms() {
        assert_eq!(reports(&[holder(1), holder(1), holder(1)]), [1, 2]);
    }

    #[test]
    fn many_short_holdings_are_nobodys_fault() {
        assert_eq!(reports(&[holder(1), holder(2), holder(3), holder(4)]), [0; 0]);
    }

    #[test]
    fn a_holder_without_a_name_is_reported_too() {
        assert_eq!(reports(&[holder(1), None, None]), [2]);
    }

    #[test]
    fn nothing_is_due_when_nobody_waits() {
        let now = Instant::now();
        let mut watch = LockWaitWatch::default();
        watch.observe(now, Some(now), || None);
        assert_eq!(watch.due_at(), Some(now + REPORTED));
        assert!(watch.observe(now + REPORTED / 2, Some(now), || None).is_none());
        assert!(watch.observe(now + REPORTED, None, || None).is_none());
        assert_eq!(watch.due_at(), None);
    }
}
