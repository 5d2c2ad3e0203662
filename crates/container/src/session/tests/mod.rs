//! Sessions step by step. After every step the session is what its record says: every test is one of takeovers, too.

#![allow(clippy::unwrap_used)]

mod bench;
mod duties;
mod endings;
mod legs;
mod proxying;
mod rules;
mod sizes;
mod takeover;

use bench::{Bench, call, invite, ok, response_to};
