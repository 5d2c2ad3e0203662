//! Starts, watches, revives and stops the processes of a node.
//!
//! `outlast up` calls [`guard`]: the guardian takes the node's lock, starts the manager, revives it when it dies or
//! hangs, keeps the listening sockets for the next one, and passes the operator's signals on. The manager is [`run`]: it
//! binds every SIP listening socket, starts edges and containers, hands each its sockets and settings over
//! `DIR/run/manager.sock`, pushes the topology to all of them whenever it changes, restarts what dies or hangs, and
//! stops everything in order. No process ends with its parent: a manager that follows another one adopts what runs,
//! and a guardian that follows another one adopts the manager.
//!
//! The managers of a cluster speak with each other over the peer port; each merges what they say into the view that it
//! pushes, and passes on what is asked of another node.
//!
//! Decisions are pure: [`cluster`] (who is lost, who decides), [`guardian`] (when a manager is started and killed), [`restart`] (how long to wait before the
//! next start), [`stores`] (who serves the cluster's state), [`repository`] (who runs a member of its repository), [`process_table`] (the life cycle of each process; events in, effects out) and [`deployment`] (which
//! applications the containers shall have loaded). I/O is [`server`]; [`configuration`] is how the cluster's configuration lies in its repository.

pub mod cluster;
pub mod configuration;
pub mod deployment;
pub mod format_level;
pub mod guardian;
pub mod process_table;
pub mod repository;
pub mod restart;
pub mod server;
pub mod stores;

pub use guardian::protocol::Serving;
pub use restart::RestartPolicy;
pub use server::founding;
pub use server::{
    ApplicationsDirectory, ChildStart, GuardOptions, Guarded, GuardianError, Held, Hook, HookError,
    JoinError, Joined, OperatorLines, OperatorWriter, Options, Prepare, RepositoryAccess,
    RepositoryAccessError, UpError, applications_directory, guard, hold, join, repository_access,
    run, run_by, store_options, stores_are_installed,
};
