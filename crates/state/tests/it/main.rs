//! Integration tests: the contract on every engine, and what is each engine's own.

mod cluster;
mod contract;
mod kill;
mod model;
mod power_loss;
mod snapshots;
