//! Whether a process lives: each of its serving loops counts its rounds, and the manager is told only while
//! all of them go round. A deadlock in one of four workers is as bad as a dead process, and looks alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Reporter;
use crate::protocol::ToManager;

/// The rounds of one serving loop. Clones count for the same loop.
///
/// The loop must go round at least once between two beats, also when there is nothing to do:
/// [`HeartbeatSettings::round_max`](crate::HeartbeatSettings::round_max).
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop went round once more.
    pub fn count(&self) {
        // A number that only grows, and nothing else hangs on it.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it went round.
    pub fn rounds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells the manager [`ToManager::Alive`] at every `interval` in which all `pulses` advanced, on a thread of
/// its own that ends with the process. `left` is asked for each time.
///
/// # Panics
/// When the system has no thread left.
pub fn beat(
    reporter: Reporter,
    interval: Duration,
    pulses: Vec<Pulse>,
    left: impl Fn() -> u64 + Send + 'static,
) {
    let mut watch = Watch::new(pulses);
    let beating = move || {
        loop {
            thread::sleep(interval);
            if watch.all_advanced() {
                reporter.report(&ToManager::Alive { left: left() });
            }
        }
    };
    thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(beating)
        .expect("a thread at the start of a process");
}

/// Compares the pulses with what they were.
struct Watch {
    pulses: Vec<(Pulse, u64)>,
}

impl Watch {
    fn new(pulses: Vec<Pulse>) -> Watch {
        let pulses = pulses.into_iter().map(|pulse| {
            let rounds = pulse.rounds();
            (pulse, rounds)
        });
        Watch { pulses: pulses.collect() }
    }

    /// Since the last time that all had. A loop that was slow once is not held to have stood still for ever.
    fn all_advanced(&mut self) -> bool {
        let now: Vec<u64> = self.pulses.iter().map(|(pulse, _)| pulse.rounds()).collect();
        let advanced = self.pulses.iter().zip(&now).all(|((_, before), now)| now != before);
        if advanced {
            for ((_, before), now) in self.pulses.iter_mut().zip(now) {
                *before = now;
            }
        }
        advanced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loop_that_stands_still_is_silence_and_one_that_goes_on_is_life() {
        let (fast, slow) = (Pulse::default(), Pulse::default());
        let mut watch = Watch::new(vec![fast.clone(), slow.clone()]);
        assert!(!watch.all_advanced());
        fast.count();
        assert!(!watch.all_advanced(), "only one of two");
        slow.count();
        assert!(watch.all_advanced(), "both since the last time that all had");
        fast.count();
        assert!(!watch.all_advanced());
    }
}
