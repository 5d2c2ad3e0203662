//! The commands, on the real binary and real processes: what an operator types, and what a mistake is
//! answered.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod accounts;
mod command;
mod configuration;
mod control;
mod demo;
mod down;
mod guardian;
mod power_loss;
mod registrations;
mod up;

use std::time::Duration;

/// How long a test waits; a debug build on a busy machine needs a part of it.
const LIMIT: Duration = Duration::from_secs(30);

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A node after its first run on free ports of the loopback, for `example.com`.
fn node() -> testbed::node::Node {
    testbed::node::Node::start(&testbed::node::NodeOptions::default())
}
