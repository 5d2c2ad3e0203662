//! How long a guest may wait.
//!
//! Only time that it waits counts: for a store, for a clock. What it computes is in its [`budget`](crate::budget), and while
//! its thread is busy with others, or the machine with other programs, it could go on and is not let.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// It waited longer than it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// Brings `work` to its end, unless it waits for longer than `limit`, all its waits together.
pub(crate) async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Late> {
    let mut work = pin!(work);
    let mut alarm = pin!(tokio::time::sleep(limit));
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut waited = Duration::ZERO;
    let mut waits_since: Option<Instant> = None;
    poll_fn(|context| {
        bell.belongs_to(context.waker());
        if let Some(since) = waits_since.take() {
            let until = bell.take().unwrap_or_else(Instant::now);
            waited += until.saturating_duration_since(since);
        }
        if let Poll::Ready(value) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Poll::Ready(Ok(value));
        }
        // One that has only given way can go on at once.
        if bell.is_rung() {
            bell.take();
            return Poll::Pending;
        }
        if waited >= limit {
            return Poll::Ready(Err(Late));
        }
        let now = Instant::now();
        waits_since = Some(now);
        alarm.as_mut().reset(tokio::time::Instant::from_std(now + (limit - waited)));
        alarm.as_mut().poll(context).map(|()| Err(Late))
    })
    .await
}

/// Wakes the task, and knows when it did.
#[derive(Default)]
struct Bell {
    state: Mutex<Rung>,
}

#[derive(Default)]
struct Rung {
    at: Option<Instant>,
    task: Option<Waker>,
}

impl Bell {
    fn state(&self) -> std::sync::MutexGuard<'_, Rung> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn belongs_to(&self, task: &Waker) {
        let known = &mut self.state().task;
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    fn is_rung(&self) -> bool {
        self.state().at.is_some()
    }

    /// When it rang first since it was asked last.
    fn take(&self) -> Option<Instant> {
        self.state().at.take()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut state = self.state();
        state.at.get_or_insert_with(Instant::now);
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_waits_for_too_long_is_late_all_its_waits_together() {
        assert_eq!(within(LIMIT, std::future::pending::<()>()).await, Err(Late));
        let often = async {
            for _ in 0..1_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert_eq!(within(LIMIT, often).await, Err(Late));
        let short = tokio::time::sleep(Duration::from_millis(1));
        assert_eq!(within(Duration::from_secs(60), short).await, Ok(()));
    }

    #[tokio::test]
    async fn a_thread_that_is_busy_with_others_makes_nothing_late() {
        // As the engine does at each tick.
        let mut turns = 10;
        let gives_way = poll_fn(|context| {
            turns -= 1;
            context.waker().wake_by_ref();
            if turns > 0 { Poll::Pending } else { Poll::Ready(()) }
        });
        let others = async {
            for _ in 0..10 {
                thread::sleep(LIMIT / 2);
                tokio::task::yield_now().await;
            }
        };
        let (work, ()) = tokio::join!(within(LIMIT, gives_way), others);
        assert_eq!(work, Ok(()));
    }

    #[tokio::test]
    async fn what_has_come_and_is_not_looked_at_yet_is_not_waited_for() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let others = async {
            sender.send(()).expect("it waits");
            thread::sleep(LIMIT * 2);
        };
        let (work, ()) = tokio::join!(within(LIMIT, receiver), others);
        assert_eq!(work, Ok(Ok(())));
    }
}
