//! End-to-end tests on real processes and real sockets, and the rules of the house.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod accounts;
mod applications;
mod back_to_back;
mod calls;
mod clock;
mod cluster_page;
mod clusters;
mod composition;
mod deployable;
mod detection;
mod drains;
mod faults;
mod flows;
mod forking;
mod guest_services;
mod hangs;
mod hostile_guests;
mod hostile_input;
mod http;
mod keys;
mod kills;
mod lab;
mod matrix;
mod membership;
mod other_nodes;
mod peers;
mod proxied;
mod registration;
mod revival;
mod samples;
mod set_ups;
mod shared_state;
mod sipp_peer;
mod strangers;
mod survival;
mod tidy;
mod trial;
mod turnstile;
mod two_edges;
mod wedges;
mod witnessed;
mod world;
