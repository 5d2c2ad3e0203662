//! What came that should not have: kept for whoever asks, bounded.

use std::sync::Mutex;

use crate::PhoneError;

/// More are only counted: the first ones tell what is wrong.
const KEPT_MAX: usize = 100;

/// What was seen of broken order.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    seen: Mutex<Vec<String>>,
}

impl Violations {
    /// Notes one and gives it back as an error.
    pub(crate) fn note(&self, what: String) -> PhoneError {
        let mut seen = self.seen.lock().expect("no panic under the lock");
        if seen.len() < KEPT_MAX {
            seen.push(what.clone());
        }
        PhoneError::Violation(what)
    }

    /// All that were noted.
    pub(crate) fn all(&self) -> Vec<String> {
        self.seen.lock().expect("no panic under the lock").clone()
    }
}
