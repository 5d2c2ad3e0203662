//! The processor time of a guest that waits a lot.
//!
//! Ticks that find a guest running measure what computes. What streams waits for its client all the time, and would be found
//! at each waking: its time is read from the thread's clock instead, around each poll.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What one call has used. A call is polled by one thread at a time, so its steps are seen in their order.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// In nanoseconds: of all polls that have ended.
    used: AtomicU64,
    /// By the thread's clock: when the present poll began.
    began: AtomicU64,
}

impl Meter {
    /// Up to now; only while it is polled.
    pub(crate) fn used(&self) -> Duration {
        let present = thread_nanos().saturating_sub(self.began.load(Ordering::Relaxed));
        Duration::from_nanos(self.used.load(Ordering::Relaxed).saturating_add(present))
    }
}

/// Measures a future.
pub(crate) struct Metered<F> {
    pub(crate) future: Pin<Box<F>>,
    pub(crate) meter: Arc<Meter>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_nanos();
        self.meter.began.store(began, Ordering::Relaxed);
        let polled = self.future.as_mut().poll(cx);
        self.meter.used.fetch_add(thread_nanos().saturating_sub(began), Ordering::Relaxed);
        polled
    }
}

fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_costs_nothing_and_computing_does() {
        let meter = Arc::new(Meter::default());
        let waits = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
        Metered { future: waits, meter: Arc::clone(&meter) }.await;
        let waited = Duration::from_nanos(meter.used.load(Ordering::Relaxed));
        assert!(waited < Duration::from_millis(20), "{waited:?}");
        let of = Arc::clone(&meter);
        let computes = Box::pin(async move { while of.used() < Duration::from_millis(30) {} });
        Metered { future: computes, meter: Arc::clone(&meter) }.await;
        assert!(meter.used.load(Ordering::Relaxed) >= 30_000_000);
    }
}
