//! What a manifest allows an event to use, in the words of the crate that keeps to it.

use config::manifest::Manifest;
use guest::Limits;

/// The limits of an application; what its manifest does not speak of has its default.
pub(crate) fn guest_limits(manifest: &Manifest) -> Limits {
    Limits {
        memory_bytes: usize::try_from(manifest.limits.memory).unwrap_or(usize::MAX),
        cpu_time: manifest.limits.time,
        session_time: manifest.session.expires,
        ..Limits::default()
    }
}
