//! What one event may cost a container. Defaults are what the manifest says when it says nothing.

use std::time::Duration;

/// Memory that all instances of one event may have together, in octets.
pub const MEMORY_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// What a manifest may ask for at most; the engine reserves address space for so much.
pub const MEMORY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Elements of all tables together.
pub const TABLE_ELEMENTS_DEFAULT: usize = 20_000;
/// What a manifest may ask for at most.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Processor time of one event.
pub const CPU_TIME_DEFAULT: Duration = Duration::from_millis(50);
/// What one event may wait for store and clock.
pub const WALL_TIME_DEFAULT: Duration = Duration::from_secs(1);
/// What an event may spend, beyond its processor time and its waits, on standing back behind other work before its container
/// gives it up: by then who waits for an answer has gone as well.
pub const TURNS_TIME_MAX: Duration = Duration::from_secs(30);
/// Events of one application that are handled at the same time, and as many responses to HTTP requests without a session;
/// others wait.
pub const EVENTS_OF_ONE_MAX: usize = 128;
/// The largest component that is taken in, in octets: one of JavaScript has 12 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Octets of all messages and attributes that one event adds to a session's record, together with those that it has
/// already. What the record may hold beyond is for what the event itself brought, and for the container's own fields of each
/// message: an event that is over that limit would have no effects at all.
pub const EFFECT_BYTES_MAX: usize = container::session::limits::RECORD_BYTES_MAX - 128 * 1024;
/// What is told of one failure, in octets: the names in a backtrace are the guest's, and as long as it likes.
pub const FAILURE_BYTES_MAX: usize = 16 * 1024;
/// Lines that one event may log, also of what it prints.
pub const LOG_LINES_MAX: usize = 64;
/// Lines that all events of one application may log in one second.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 1_000;
/// The longest of them, in octets; what is longer is cut.
pub const LOG_LINE_BYTES_MAX: usize = 4 * 1024;
/// How many events a live instance handles before it is replaced: what its guest leaks goes with it.
pub const REUSES_MAX: u32 = 10_000;
/// How many live instances of one application wait for events at a time.
pub const LIVE_INSTANCES_MAX: usize = 8;
/// A response to an HTTP request without a session begins within this.
pub const HTTP_HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// And ends within this: its instance is one of those that serve calls too.
pub const HTTP_STREAM_TIME_MAX: Duration = Duration::from_secs(600);
/// Streams, bodies, clocks' pollables and the like that one instance may hold at a time; one more traps. Each holds two
/// pieces of a body or one set of fields at most: 16 MiB of the container's memory in all, beside the guest's own.
pub const RESOURCES_MAX: usize = 128;
/// The longest piece of an HTTP body that is written at once, in octets; while one is on its way, one more waits.
pub const HTTP_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// The fields of one HTTP message that a guest makes, in octets, about.
pub const HTTP_FIELDS_BYTES_MAX: usize = 16 * 1024;
/// The longest body of an HTTP response of a session, in octets.
pub const HTTP_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest name that a key function may give, in octets.
pub const KEY_BYTES_MAX: usize = 255;

/// The limits of one application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all instances of one event together, in octets; up to [`MEMORY_BYTES_MAX`].
    pub memory_bytes: usize,
    /// Elements of all tables together; up to [`TABLE_ELEMENTS_MAX`].
    pub table_elements: usize,
    /// Processor time of one event, in steps of [`TICK`](crate::engine::TICK).
    pub cpu_time: Duration,
    /// How long one event may wait, all its waits together; a response to HTTP, from its beginning to its end.
    pub wall_time: Duration,
    /// Effects of one event; up to the container's own limit.
    pub effects: usize,
    /// Names and values of all attributes of a session, in octets; up to the container's own limit.
    pub attribute_bytes: usize,
    /// How long a session lives unless it is told otherwise, and how much longer it can be told to; up to the container's own
    /// limit.
    pub session_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: MEMORY_BYTES_DEFAULT,
            table_elements: TABLE_ELEMENTS_DEFAULT,
            cpu_time: CPU_TIME_DEFAULT,
            wall_time: WALL_TIME_DEFAULT,
            effects: container::session::limits::EFFECTS_MAX,
            attribute_bytes: container::session::limits::ATTRIBUTE_BYTES_MAX,
            session_time: container::session::limits::SESSION_TIME_MAX,
        }
    }
}
