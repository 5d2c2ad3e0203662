//! The engines behind [`crate::Store`].

pub mod cluster;
pub mod embedded;
pub mod fake;
mod ordered_key;
