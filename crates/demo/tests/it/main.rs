//! The back-to-back agent on the container's own sessions, without a container around them.

#![allow(missing_docs, clippy::unwrap_used)]

mod agent;
mod bench;
