//! For tests only: whole nodes as real processes, SIP phones, SIPp, faults and counting.
//!
//! | module | what it is |
//! |---|---|
//! | [`binary`] | the `outlast` binary under test, built when it is stale |
//! | [`crowd`] | thousands of registrations through one socket |
//! | [`node`] | a running node on a temporary directory: start, status, kill, stop |
//! | [`phone`] | a small SIP phone: registers, calls, answers, cancels, holds several flows |
//! | [`sipp`] | SIPp as an independent peer |
//! | [`wait`] | waiting for a condition with a deadline and a message, in place of sleeping |
//!
//! Nothing outside the tests depends on this crate. Everything listens on loopback with ports that the
//! system gave, lives in a temporary directory and ends with the value that owns it.

pub mod binary;
pub mod crowd;
pub mod node;
pub mod phone;
pub mod sipp;
pub mod wait;
