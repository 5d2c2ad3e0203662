//! What the transaction layer is told and what it asks for.

use bytes::Bytes;
use sip::Message;
use sip::transaction::Timers;
use transport::Flow;

use crate::edges::LinkId;
use crate::proxy::TransportFailure;

/// Names a server transaction of this container's life; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(super) u64);

/// Names a client transaction of this container's life; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) u64);

impl ServerId {
    /// As a number, for link frames; shared by no client transaction.
    pub fn to_raw(self) -> u64 {
        self.0
    }

    /// The id that a link frame names; it may be nobody's.
    pub fn from_raw(id: u64) -> ServerId {
        ServerId(id)
    }
}

impl ClientId {
    /// As a number, for link frames; shared by no server transaction.
    pub fn to_raw(self) -> u64 {
        self.0
    }

    /// The id that a link frame names; it may be nobody's.
    pub fn from_raw(id: u64) -> ClientId {
        ClientId(id)
    }
}

/// Where a request came from, so that its responses go back there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The link of the edge worker that brought it.
    pub link: LinkId,
    /// The flow between phone and edge.
    pub flow: Flow,
}

/// What the owner of the layer has to do, in this order.
#[derive(Debug, Clone)]
pub enum TransactionEffect {
    /// A request began a server transaction: answer it.
    Begun {
        /// To be named in [`Transactions::respond`](super::Transactions::respond).
        server: ServerId,
        /// The request.
        request: Message,
        /// Where it came from.
        origin: Origin,
    },
    /// An ACK came that acknowledges a 2xx, and belongs to no transaction.
    Acknowledged {
        /// The ACK.
        request: Message,
        /// Where it came from.
        origin: Origin,
    },
    /// The caller cancels its INVITE, which has had no final response. Answer the CANCEL 200 when that stands.
    Cancelled {
        /// The INVITE's transaction.
        server: ServerId,
        /// The CANCEL's.
        cancel: ServerId,
        /// The CANCEL.
        request: Message,
        /// Where it came from.
        origin: Origin,
    },
    /// A response that is no repetition, or any 2xx to an INVITE.
    Delivered {
        /// Of which transaction.
        client: ClientId,
        /// The response, our Via still on top.
        response: Message,
    },
    /// A client transaction ended without a final response.
    Failed {
        /// Which one.
        client: ClientId,
        /// Why.
        failure: TransportFailure,
    },
    /// The client transaction is gone; its id will not be named again.
    ClientEnded {
        /// Which one.
        client: ClientId,
    },
    /// A CANCEL of ours has had a response.
    CancelAnswered {
        /// The CANCEL's transaction.
        client: ClientId,
        /// What it says.
        status: u16,
    },
    /// The server transaction of an INVITE is over; its id will not be named again.
    ServerEnded {
        /// Which one.
        server: ServerId,
    },
    /// Send a request (or an ACK) to where this transaction's request goes.
    SendRequest {
        /// Whose.
        client: ClientId,
        /// Complete message.
        bytes: Bytes,
    },
    /// Send a response to where the request came from.
    SendResponse {
        /// Who wants to know when that fails; None for a response without a transaction.
        server: Option<ServerId>,
        /// Where to.
        origin: Origin,
        /// Complete message.
        bytes: Bytes,
    },
}

/// Bounds and timers of the layer.
#[derive(Debug, Clone, Copy)]
pub struct TransactionSettings {
    /// The base timers.
    pub timers: Timers,
    /// At so many open transactions a request outside a dialog is answered 503, at a quarter more every new
    /// request; client transactions beyond half as many again are refused like an unreachable target. Twice as
    /// many answered non-INVITE transactions are remembered for repetitions; beyond, the oldest are forgotten.
    /// A transaction with a large message counts as several, so that this bounds memory as well.
    pub transactions_max: usize,
}
