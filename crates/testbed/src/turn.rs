//! One at a time: tests that need most of a small machine, and those that measure how late something is on it.
//!
//! Two clusters at once have more to do than two processors can, and to be late is to be dead to them; a timer beside one is late
//! by what the cluster needs. All other tests run beside whoever has the turn.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the turn, which ends when the value is dropped. Whoever has it must not take it again.
pub fn take() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that panicked had it: its turn is over, too.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
