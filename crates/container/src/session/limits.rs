//! The bounds of a session. What an application asks for beyond them makes its effects void; what comes from outside
//! beyond them is refused as said here.

use std::time::Duration;

/// The longest name of a leg, a timer or an attribute, in octets.
pub const NAME_BYTES_MAX: usize = 64;
/// What all attributes of a session may hold, names included, in octets.
pub const ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;
/// The most legs of a session, ended ones that still wait for something included.
pub const LEGS_MAX: usize = 16;
/// The most timers of a session.
pub const TIMERS_MAX: usize = 32;
/// The shortest time of a timer, and its shortest period.
pub const TIMER_MIN: Duration = Duration::from_millis(10);
/// The longest time of a timer, and its longest period.
pub const TIMER_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most effects of one event.
pub const EFFECTS_MAX: usize = 64;
/// How long a session lives without being told to live longer, and how much longer it can be told.
pub const SESSION_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most requests of ours that have no final response.
pub const OUTGOING_MAX: usize = 64;
/// At so many requests without answer a further one is answered 503.
pub const UNANSWERED_MAX: usize = 32;
/// Past so many answers kept for repetitions, those to other requests than INVITE are forgotten, the oldest first: a
/// repetition then reaches the application again, should the container have died meanwhile.
pub const ANSWERS_MAX: usize = 32;
/// Forks of one INVITE that answer 2xx and are acknowledged and ended; further ones give up by themselves.
pub const FORKS_MAX: usize = 8;
/// The longest record, in octets; an event that would make a longer one has no effects.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;
