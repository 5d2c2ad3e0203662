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
/// What an application puts into one message, in octets: addresses, headers and body. A message has 64 KiB at most
/// ([`sip::MESSAGE_BYTES_MAX`]); the rest is for the fields of the container and of those that it passes.
pub const MESSAGE_CONTENT_BYTES_MAX: usize = 48 * 1024;
/// The head of a request that is kept leaves so much of a message to the container's own answer, in octets; one with less
/// room is answered 513.
pub const ANSWER_ROOM_BYTES: usize = 512;
/// The most header fields that it puts there.
pub const MESSAGE_HEADERS_MAX: usize = 128;
/// The most effects of one event.
pub const EFFECTS_MAX: usize = 64;
/// How long a session lives without being told to live longer, and how much longer it can be told.
pub const SESSION_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most requests of ours that have no final response, and INVITEs that had theirs lately.
pub const OUTGOING_MAX: usize = 64;
/// Timer C: an INVITE of ours that has had no provisional response but 100 for so long is cancelled (RFC 3261 §16.6(11)
/// asks a proxy for more than three minutes; a user agent may choose).
pub const TIMER_C: Duration = crate::application::TIMER_C_DEFAULT;
/// An application's own Timer C for requests that it lets go on is longer than this.
pub const TIMER_C_ABOVE: Duration = Duration::from_secs(180);
/// The most values of Route that an application puts on a request for one target.
pub const ROUTES_MAX: usize = 16;
/// An INVITE of ours that has no final response by then is cancelled, whatever rings or waits in queues.
pub const INVITE_TIME_MAX: Duration = Duration::from_secs(3_600);
/// A callee that never heard of our CANCEL, or that we never heard of, rings on for so long, perhaps: until then its
/// 2xx is acknowledged and ended by a BYE.
pub const LATE_ANSWER_KEPT: Duration = TIMER_C;
/// A BYE that found no way to the other side leaves again after so long, unless the answer says when (RFC 3261 §20.33).
pub const BYE_PUT_OFF: Duration = Duration::from_secs(2);
/// At so many requests without answer a further one is answered 503.
pub const UNANSWERED_MAX: usize = 32;
/// At so many INVITEs of the other side that are not answered, or were within 64·T1, a further one is answered 503.
pub const INVITES_MAX: usize = 32;
/// Past so many answers kept for repetitions, those to other requests than INVITE are forgotten, the oldest first: a
/// repetition then reaches the application again, should the container have died meanwhile.
pub const ANSWERS_MAX: usize = 32;
/// Forks of one INVITE that answer 2xx and are acknowledged and ended; further ones give up by themselves.
pub const FORKS_MAX: usize = 8;
/// The longest key of a session, in octets; a request with a longer one is answered 500.
pub const KEY_BYTES_MAX: usize = 255;
/// The most signals of a session that were not heard yet.
pub const SIGNALS_MAX: usize = 16;
/// What comes with a signal, in octets.
pub const SIGNAL_BYTES_MAX: usize = 8 * 1024;
/// A signal that was not heard is sent again after so long.
pub const SIGNAL_REPEATED_AFTER: Duration = Duration::from_secs(1);
/// A session that has ended keeps signals that nobody hears for so long.
pub const SIGNAL_KEPT_BEYOND_END: Duration = Duration::from_secs(3_600);
/// So many signals, the last ones, are known again when they are repeated.
pub const SIGNALS_KNOWN_MAX: usize = 64;
/// The longest body of an HTTP request or response, in octets.
pub const HTTP_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most header fields of one.
pub const HTTP_HEADERS_MAX: usize = 128;
/// What they may hold together, with method and path, in octets.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest record, in octets; an event that would make a longer one has no effects, and a request that would all
/// the same is answered 503 and changes nothing. What must be heard (a BYE, a response, a failure, the time) may take a
/// quarter more with its effects, and is noted without them whatever it takes.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;
/// At so many sessions of a shard a request that would begin another one is answered 503; what belongs to a session goes
/// on, and those of dead containers are taken over all the same. A session with a long record counts as several, so that
/// this bounds memory as well: at 2 kB for an idle one, half a gigabyte. HTTP requests begin none past the half of it: they
/// cost a stranger nothing, and their sessions live until they expire.
pub const SESSIONS_MAX: usize = 250_000;
/// The record of a usual session, in octets; one that is so many times as long counts for so many more.
pub const USUAL_RECORD_BYTES: usize = 2 * 1024;
