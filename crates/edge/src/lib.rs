//! The SIP front door: what phones talk to, and what containers speak to phones through.
//!
//! Turns datagrams and stream frames of phones into link frames of containers, and back. It keeps
//! no state of a call, so any edge may take any datagram; what it has to remember about one it
//! writes, MACed, into the message itself ([`flow_token`]). RFC 3261 §16.11 (stateless proxy), RFC
//! 3581, 3327, 5626, 5658.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`forward`] | one message and a picture of the surroundings into one [`forward::Decision`] |
//! | `via`, `branch` | the Via that is added, filled in, followed and popped |
//! | `route`, `record_route`, `path` | the routes that are consumed and left behind |
//! | `fellow_edges` | a picture of the cluster into the edges that are there and those that were |
//! | `owner` | the token of a container into the life and session that it names |
//! | `reply` | a request that goes nowhere into a stateless error response |
//! | [`keep_alive`] | CRLF and STUN keep-alives into their answers |
//! | [`server`] | sockets, links and time into calls of all these, on worker threads |
//!
//! Open to others is what they use: the decisions for a simulator, the server for the process. Everything but
//! [`server`] is pure: no socket, no clock, no randomness. Deliberately absent:
//! transactions, retransmissions, 100 Trying and DNS, which are the containers'; TLS and WebSocket,
//! which later issues bring.

mod branch;
mod fellow_edges;
pub mod flow_token;
pub mod forward;
mod header_value;
pub mod keep_alive;
mod listener;
mod owner;
mod path;
mod peer;
mod record_route;
mod reply;
mod route;
mod route_set;
pub mod server;
mod via;

pub use fellow_edges::FellowEdges;
pub use listener::{Listener, Listeners, PublicAddressError};
pub use peer::Peer;
pub use reply::Refusal;
pub use server::{Settings, run};
