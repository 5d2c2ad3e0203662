//! Real guests, written in WebAssembly's text format, run as a container runs them.

#![allow(clippy::unwrap_used)]

mod bench;
mod handling;
mod hostile;
mod http;
mod module;
mod overlay;
mod preparing;
mod reusing;
mod samples;
mod services;
