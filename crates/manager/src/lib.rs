//! Starts, watches, revives and stops the processes of a node.
//!
//! `outlast up` calls [`guard`]: the guardian takes the node's lock, starts the manager, revives it when it dies or
//! hangs, keeps the listening sockets for the next one, and passes the operator's signals on. The manager is [`run`]: it
//! binds every SIP listening socket, starts edges and containers, hands each its sockets and settings over
//! `DIR/run/manager.sock`, pushes the topology to all of them whenever it changes, restarts what dies or hangs, and
//! stops everything in order. No process ends with its parent: a manager that follows another one adopts what runs,
//! and a guardian that follows another one adopts the manager.
//!
//! Decisions are pure: [`guardian`] (when a manager is started and killed), [`restart`] (how long to wait before the
//! next start), [`process_table`] (the life cycle of each process; events in, effects out) and [`deployment`] (which
//! applications the containers shall have loaded). I/O is [`server`].

pub mod deployment;
pub mod guardian;
pub mod process_table;
pub mod restart;
pub mod server;

pub use guardian::protocol::Serving;
pub use restart::RestartPolicy;
pub use server::{
    ApplicationsDirectory, ChildStart, GuardOptions, Guarded, GuardianError, Hook, HookError,
    OperatorLines, OperatorWriter, Options, UpError, applications_directory, guard, run,
};
