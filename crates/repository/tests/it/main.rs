//! The client and the store on real etcd processes. Where etcd is missing they are skipped and say so; in CI they fail.

#![allow(clippy::unwrap_used)]

mod client;
mod doubt;
mod etcd;
mod faults;
mod fences;
mod files;
mod own;
mod records;
mod tls;
