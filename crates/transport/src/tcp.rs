//! TCP: non-blocking connections of one worker, from bytes to frames and back.
//!
//! First and last station of a message that comes or goes by a stream (RFC 3261 §18). The worker's
//! mio loop drives a [`Connections`]; what happens comes out as [`ConnectionEvent`]s, whole frames
//! among them:
//!
//! ```text
//! listener readable ─▶ accept_from ─▶ (admission) ─▶ slab
//! token readable    ─▶ handle ─▶ read ─▶ StreamFramer ─▶ ConnectionEvent::Frame
//! find / connect    ─▶ send … send ─▶ flush ─▶ one writev a connection
//! deadline          ─▶ tick ─▶ ConnectionEvent::Closed
//! ```
//!
//! A connection is found again by its remote address (RFC 3261 §18.2.2, RFC 5626 §5.3), whoever
//! opened it. What costs memory or descriptors is limited ([`TcpLimits`]); what only waits is
//! timed: an idle connection, a message that was begun and does not end, a connect without answer,
//! a peer that stops reading.
//!
//! Decisions without sockets: `admission` (who may connect), `timing` (what is overdue),
//! `write_queue`. Deliberately absent: TLS and WebSocket (later issues wrap the same slab), and
//! reuse by certificate (RFC 5923).

mod admission;
mod connection;
mod connections;
mod limits;
mod listener;
mod slab;
mod socket;
mod timing;
mod write_queue;

pub use connection::{CloseReason, ConnectionEvent, Direction};
pub use connections::{ConnectRefused, Connections, SendRefused, TcpCounters};
pub use limits::TcpLimits;
pub use listener::{Accepted, Listener, bind_listener};
pub use slab::ConnectionId;
pub(crate) use socket::begin_connect;
