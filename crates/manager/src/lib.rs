//! Starts, watches, revives and stops the processes of a node.
//!
//! `outlast up` calls [`run`]: it takes the node's lock, binds every SIP listening socket, starts
//! edges and containers, hands each its sockets and settings over `DIR/run/manager.sock`, pushes the
//! topology to all of them whenever it changes, restarts what dies, and stops everything in order on
//! SIGTERM.
//!
//! Decisions are pure: [`restart`] (how long to wait before the next start) and [`process_table`] (the
//! life cycle of each process; events in, effects out). I/O is [`server`]. Deliberately absent, and to
//! come with the guardian: detection of hung processes, adoption of processes that a dead manager
//! left; they end with it instead.

pub mod process_table;
pub mod restart;
pub mod server;

pub use restart::RestartPolicy;
pub use server::{ChildStart, Hook, HookError, Options, Serving, UpError, run};
