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
//! | [`via`], [`branch`] | the Via that is added, filled in, followed and popped |
//! | [`route`], [`record_route`], [`path`] | the routes that are consumed and left behind |
//! | [`owner`] | the token of a container into the life and session that it names |
//! | [`reply`] | a request that goes nowhere into a stateless error response |
//! | [`keep_alive`] | CRLF and STUN keep-alives into their answers |
//! | [`server`] | sockets, links and time into calls of all these, on worker threads |
//!
//! Everything but [`server`] is pure: no socket, no clock, no randomness. Deliberately absent:
//! transactions, retransmissions, 100 Trying and DNS, which are the containers'; TLS and WebSocket,
//! which later issues bring.

pub mod branch;
pub mod flow_token;
pub mod forward;
pub mod header_value;
pub mod keep_alive;
pub mod listener;
pub mod owner;
pub mod path;
pub mod peer;
pub mod record_route;
pub mod reply;
pub mod route;
pub mod route_set;
pub mod server;
pub mod via;

pub use listener::{Listener, Listeners};
pub use peer::Peer;
pub use server::{Settings, run};
