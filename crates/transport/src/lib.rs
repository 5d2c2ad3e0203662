//! Sockets that carry SIP: UDP, TCP and the link between edge and container.
//!
//! First on a message's way and last: bytes of a socket become framed messages with the [`Flow`]
//! they came by, and rendered messages become bytes of a socket.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`udp`] | datagrams, in batches, into `Bytes` and back; one endpoint per socket and worker |
//! | [`tcp`] | byte streams into frames (RFC 3261 §18.3) and back; limits and time-outs |
//! | [`link`] | the framed stream between an edge worker and a container, and what it goes by |
//! | [`tls`] | TLS over a non-blocking socket, for links between hosts |
//! | [`flow`] | transport, local and remote address: what a flow token names (RFC 5626 §3.3) |
//! | [`Arena`] | room in recycled chunks for what is read and rendered, so that no message costs an allocation |
//! | [`local_addresses`] | the addresses that a wildcard listener stands for |
//!
//! Nothing here blocks, reads a clock or spawns a thread: `now` is an argument, readiness comes
//! from the caller's mio loop (or, for links, from whatever runtime the owner has). Everything that
//! queues has a bound.
//!
//! Deliberately absent: DNS (RFC 3263), SIP over TLS and WebSocket, which later issues bring; and any choice
//! of where a message goes, which is the edge's.

mod arena;
pub mod flow;
mod interfaces;
pub mod link;
pub mod tcp;
pub mod tls;
pub mod udp;

pub use arena::Arena;
pub use flow::{Flow, Transport};
pub use interfaces::local_addresses;
pub use tcp::Connections;
pub use udp::UdpEndpoint;
