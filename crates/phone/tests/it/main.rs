//! The phone itself, against another one: between the two stands a relay that loses, repeats and changes what
//! the test wants.

#![allow(missing_docs, clippy::unwrap_used)]

mod calls;
mod order;
mod reconnect;
mod relay;
