//! `outlast-load` as a process, against a bare echo and against real nodes.

#![allow(missing_docs, clippy::unwrap_used)]

mod outlast_load;
mod responder;
mod scenarios;
mod usage;
