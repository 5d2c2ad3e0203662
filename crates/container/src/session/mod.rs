//! Application sessions: what an application knows of one use of it, and the dialogs it holds for it.
//!
//! A session is begun by an initial request that a [`SessionApplication`] accepts. Every later message of its
//! dialogs, every timer and every failure becomes a [`SessionEvent`]; the handler's [`SessionEffect`]s are
//! applied to the session as one commit, and only then do messages leave. Events of one session are handled one
//! at a time, in the order of their coming.
//!
//! ```text
//! Input ─▶ Session::receive ─▶ SessionEvent ─▶ handler ─▶ SessionEffects ─▶ Session::apply ─▶ record, Actions
//! ```
//!
//! All of it is pure, and works on a copy: what was not committed has not happened. [`state`] is what a session
//! is, [`receive`] and `responses` what comes in,
//! [`apply`] what an application wants, [`rules`] what it may want, `legs` how legs begin, [`proxying`] requests that go on
//! to others, [`chain`] to whom they go on, [`settle`] what follows by itself, `byes` how legs of ours are hung up, [`codec`] its record, [`identity`] the names
//! in its messages.
//!
//! Deliberately absent: WebAssembly (the trait is shaped so that a guest can stand behind it: plain values, no
//! callbacks, nothing borrowed but for the length of a call), speaking HTTP, reliable provisional
//! responses (RFC 3262), subscriptions (RFC 6665).

mod action;
mod application;
pub mod apply;
mod byes;
pub mod chain;
pub mod codec;
pub mod http;
pub mod identity;
mod input;
mod legs;
pub mod limits;
pub mod proxying;
pub mod receive;
mod responses;
pub mod rules;
pub mod settle;
pub mod signal;
pub mod state;
pub mod summary;
#[cfg(test)]
mod tests;

pub use application::{
    CALLER, Callers, LegDirection, LegName, LegState, LegView, NoKey, ProxyOptions, Replication,
    RequestId, SessionApplication, SessionEffect, SessionEvent, SessionId, SessionView, Supervised,
    TimerView, name_of,
};
pub use chain::{Directive, Region};
pub use http::{HttpRequest, HttpResponse};
pub use state::Session;
