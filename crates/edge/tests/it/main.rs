//! A real edge between phones on loopback sockets and containers at the other ends of real links.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../transport/tests/it/allocations.rs"]
mod allocations;
mod cluster;
mod container;
mod drains;
mod forwarding;
mod links;
mod other_nodes;
mod owners;
mod peers;
mod phone;
mod phones;
mod running;
