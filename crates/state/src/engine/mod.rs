//! The engines behind [`crate::Store`].

pub mod embedded;
pub mod fake;
