//! Application sessions: what an application knows of one use of it, and the dialogs it holds for it.
//!
//! A session is begun by an initial request that a [`SessionApplication`] accepts. Every later message of its
//! dialogs, every timer and every failure becomes a [`SessionEvent`]; the handler's [`SessionEffect`]s are
//! applied to the session as one commit, and only then do messages leave. Events of one session are handled one
//! at a time, in the order of their coming.
//!
//! Deliberately absent: WebAssembly (the trait is shaped so that a guest can stand behind it: plain values, no
//! callbacks, nothing borrowed but for the length of a call), HTTP, proxying by a session, reliable provisional
//! responses (RFC 3262), subscriptions (RFC 6665).

mod application;

pub use application::{
    ATTRIBUTE_BYTES_MAX, CALLER, EFFECTS_MAX, LEGS_MAX, LegDirection, LegName, LegState, LegView,
    NAME_BYTES_MAX, RequestId, SessionApplication, SessionEffect, SessionEvent, SessionId,
    SessionView, TIMER_MIN, TIMERS_MAX, TimerView,
};
