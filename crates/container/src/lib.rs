//! Hosts applications: transactions and transaction-stateful proxying.
//!
//! A request comes over a link from an edge, begins a server transaction or is absorbed by one
//! ([`transactions`]), runs through an [`application`], and is answered or proxied ([`proxy`]); responses and
//! new requests go back to an edge ([`edges`], [`next_hop`]). [`shard`] holds it together without any I/O;
//! [`server`] drives it: links, handlers, commits, look-ups, heartbeats.
//!
//! [`http_port`] speaks HTTP with clients of applications; [`cluster_port`] is where edges and containers of other nodes
//! come in.
//!
//! [`session`] is for applications that hold state of their own beside their dialogs.
//!
//! Deliberately absent: WebAssembly.

pub mod application;
pub mod cluster_port;
pub mod edges;
pub mod http_port;
mod long_queue;
pub mod next_hop;
mod own_route;
pub mod ownership;
mod polled;
pub mod proxy;
pub mod responder;
pub mod server;
pub mod session;
pub mod setup;
pub mod shard;
mod sliced_table;
pub mod transactions;
