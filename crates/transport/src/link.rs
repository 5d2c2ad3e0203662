//! The link: one framed stream between an edge worker and a container.
//!
//! Turns SIP messages with their flows into frames on a byte stream, and back, without touching a
//! socket ([`stream`] is what the octets go by): the edge drives it from its mio loop, the container from tokio. It stands between the
//! edge's sockets and the container's transactions.
//!
//! ```text
//! edge       LinkSender ── Hello, Incoming, SendFailed, Probe ─────▶ LinkReceiver   container
//!            LinkReceiver ◀── HelloAnswer, Taken, Outgoing, KeepAlive, Heartbeat,
//!                             HandOn, ProbeAnswer ────────────────────── LinkSender
//! ```
//!
//! The edge keeps every `Incoming` frame until the container has taken it; when the link dies the
//! untaken ones are offered to the next candidate ([`LinkSender::drain_untaken`]). So a message is
//! on its way in at least one process until a container answers for it. A container takes messages
//! in any order; what it acknowledges is the highest sequence below which nothing is missing.
//!
//! Bounds: frames have a largest size, the sender a most of untaken frames and of unwritten bytes.
//! At a bound the sender answers [`Refused::Full`], and the caller chooses another candidate or
//! says 503. Nothing ever waits.

mod frame;
mod receiver;
mod sender;
pub mod stream;

pub use frame::{
    ADDRESSES_MAX, Accepting, Destination, EdgeAddress, FRAME_BYTES_MAX, FrameError, HOPS_MAX,
    Incoming, LinkFrame, SendError, TEXT_BYTES_MAX,
};
pub use receiver::{LinkError, LinkReceiver};
pub use sender::{
    LinkSender, Refused, UNTAKEN_BYTES_MAX, UNTAKEN_FRAMES_MAX, UNWRITTEN_BYTES_MAX, Untaken,
};
pub use stream::LinkStream;
