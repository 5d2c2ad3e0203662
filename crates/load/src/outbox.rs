//! What the scenarios want of the sockets: filled by decisions, emptied by the driver.

use std::net::SocketAddr;

use bytes::Bytes;

/// A UDP socket, or a place for a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowIndex(pub(crate) u32);

/// Something to do with a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a message. On a TCP flow it goes to whom that is connected to.
    Send {
        /// By which flow.
        flow: FlowIndex,
        /// Where to, by UDP.
        to: SocketAddr,
        /// The message.
        message: Bytes,
    },
    /// Open the flow's connection; it says when it is up or could not be.
    Connect(FlowIndex),
    /// Close the flow's connection.
    Close(FlowIndex),
}

/// What is to be done, in order.
pub(crate) type Outbox = Vec<Output>;
