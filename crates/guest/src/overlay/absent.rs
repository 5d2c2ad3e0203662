//! What the interface promises and a session cannot do yet: refused in words, so that nobody believes that it was done.
//!
//! Each function here goes when the container's core learns what it needs; ARCHITECTURE.md lists them.

use super::Refusal;

fn absent(what: &str) -> Refusal {
    Refusal::Unavailable(format!("{what} is not built into this release"))
}

/// Proxying by a session.
pub fn proxy() -> Refusal {
    absent("sip.proxy")
}
