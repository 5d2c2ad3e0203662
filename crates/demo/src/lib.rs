//! What `outlast demo` shows, and the application that it shows it with.
//!
//! | module | what it is |
//! |---|---|
//! | [`back_to_back`] | the back-to-back agent: a native application with sessions |
//! | [`webassembly`] | another one as a WebAssembly module, in three versions |
//! | [`story`] | phones, calls, processes that die, versions that come, and a count of what survived |
//! | [`report`] | that count, as a table or JSON |
//!
//! The story is told on a node that somebody else started; it knows the node by its addresses and by a way to look
//! at its processes ([`story::Stage`]), and it ends processes by their ids.

pub mod back_to_back;
pub mod report;
pub mod story;
pub mod webassembly;

pub use back_to_back::{BackToBack, Limits};
