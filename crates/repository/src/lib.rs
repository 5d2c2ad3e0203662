//! The repository: what a cluster must keep through any crash, and every node must know, in etcd.
//!
//! Accounts, identities and names go through here, by way of [`RepositoryStore`]: the same [`state::Store`] as a
//! single node's, so that nobody above it sees a difference but one: while etcd is away, what is known is read, and
//! changes are refused with the reason.
//!
//! - [`client`]: etcd by its JSON gateway, no more of it than is used here. This crate alone knows that it is etcd.
//! - [`store`]: transactions there, a copy here, and what keeps the copy up with it.
//! - [`files`]: what is too long for a record. - [`lock`]: chores that one node does at a time, with fencing tokens.
//! - [`namespace`]: which keys are ours. - [`seats`]: which nodes run a member of it (decision). - [`member`]: how such a member is run.
//!
//! Deliberately absent: running etcd (the manager's business), and what records mean.

pub mod client;
pub mod files;
pub mod lock;
pub mod member;
pub mod namespace;
pub mod seats;
pub mod store;

pub use client::{Client, ClientError, ClientOptions, Endpoint, Login};
pub use files::{FileError, FileNote, Files, Piece};
pub use lock::{Fence, Lock, Taken};
pub use namespace::Namespace;
pub use store::{Follower, RepositoryOptions, RepositoryStore};
