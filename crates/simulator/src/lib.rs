//! Production code under virtual time, a seeded network, crashes and a faulty store.
//!
//! A *world* is one node, or two or three as a cluster, with their phones: the edges' forwarder and routing tables, the
//! containers' shards, the registrar over a store, the managers' process tables and what they know of each other, all of
//! it the code that ships, driven by one queue of events ordered by (time, sequence). All chance comes from one seed. So a run takes milliseconds for minutes, a fault can
//! come between any two messages, and what was seen once is seen again.
//!
//! | module | what it is |
//! |---|---|
//! | [`random`], [`schedule`], [`clock`] | chance, time |
//! | [`network`], [`streams`], [`store`] | what lies between the processes, and how it fails |
//! | [`cables`], [`shards`] | what lies between nodes: cuts, and who can have which records of the store they share |
//! | [`edge_process`], [`container_process`], [`word`] | the thin loops around the production decisions |
//! | [`agent`] | the application with sessions that every container hosts |
//! | [`phone`] | user agents of the simulator's own |
//! | [`scenario`] | what a seed comes to: how many of what, who calls whom, which faults when |
//! | [`world`] | the loop |
//! | [`invariants`] | what must hold, and who sees when it does not |
//! | [`trace`] | the story and its hash |
//!
//! How to run: `cargo test -p simulator` runs 150 seeds; `OUTLAST_SEEDS=10000` more of them, `OUTLAST_SEED=N` that one
//! only, with its whole story (`--nocapture`). `cargo run -p simulator -- --seeds 10000` and `-- --seed N` do the same
//! without the test harness; a failing seed prints its last events and the command that runs it again.
//!
//! Deliberately absent: TCP, digest authentication (its nonces are random octets of the system); nodes that join or leave,
//! operators' commands to other nodes, a write quota that lets writes through below it.

pub mod agent;
pub mod cables;
pub mod clock;
pub mod container_process;
pub mod edge_process;
pub mod invariants;
pub mod network;
pub mod phone;
pub mod random;
pub mod runs;
pub mod scenario;
pub mod schedule;
pub mod shards;
pub mod store;
pub mod streams;
pub mod trace;
pub mod word;
pub mod world;
