//! The allocator of an application that runs on nothing but WebAssembly (`wasm32-unknown-unknown`).
//!
//! The standard library's own, in a version that begins with what an instance has of memory behind its data. The one of the
//! standard library asks for a further page at its first allocation, so every fresh instance would grow, and the host change
//! what can be reached of its memory twice an event.

#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
