//! For tests only: whole nodes as real processes, crowds, SIPp, faults and counting. The phones of the tests
//! are those of the crate `phone`.
//!
//! | module | what it is |
//! |---|---|
//! | [`binary`] | the `outlast` binary under test, built when it is stale |
//! | [`clock`] | the wall clock of a node, set without touching the machine's |
//! | [`crowd`] | thousands of registrations through one socket |
//! | [`etcd`] | an operator's own etcd, by TLS and with users |
//! | [`lab`] | several hosts on this machine, and faults of the network between them |
//! | [`loopback`] | addresses that no other test has |
//! | [`members`] | nodes on hosts of a lab, one on each |
//! | [`node`] | a running node on a temporary directory: start, status, kill, stop |
//! | [`pace`] | how much slower the machine was than an idle one while a time was taken |
//! | [`sipp`] | SIPp as an independent peer |
//! | [`stores`] | Redis servers as the stores of a node, without a manager |
//! | [`turn`] | one at a time: tests that need most of the machine, or measure how late something is |
//! | [`wait`] | waiting for a condition with a deadline and a message, in place of sleeping |
//!
//! Nothing outside the tests depends on this crate. Everything listens on loopback with ports that the
//! system gave, or on hosts of a lab, lives in a temporary directory and ends with the value that owns it.

pub mod binary;
pub mod clock;
pub mod crowd;
pub mod etcd;
pub mod lab;
pub mod loopback;
pub mod members;
pub mod node;
pub mod pace;
pub mod ports;
pub mod sipp;
pub mod stores;
pub mod turn;
pub mod wait;
