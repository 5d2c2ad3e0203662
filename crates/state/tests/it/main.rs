//! Integration tests: the contract on every engine, and what is the embedded engine's own.

mod contract;
mod kill;
mod model;
mod power_loss;
mod snapshots;
