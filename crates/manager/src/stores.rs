//! The stores of a cluster: Redis servers that the managers run. What each is configured as, and who serves what. Pure.

pub mod configuration;
