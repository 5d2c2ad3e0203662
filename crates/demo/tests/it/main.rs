//! The back-to-back agents, the native one and the one in WebAssembly, on the container's own sessions, without a container around them.

#![allow(missing_docs, clippy::unwrap_used)]

mod agent;
mod bench;
