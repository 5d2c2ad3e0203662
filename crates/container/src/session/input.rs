//! What reaches a session.

use bytes::Bytes;
use sip::Message;
use transport::Flow;

use super::RequestId;
use super::http::HttpRequest;
use super::proxying::{Reply, Routed};
use super::signal::Signal;
use crate::setup::Event;

/// Something that reached a session.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request that begins a server transaction, in a dialog of the session.
    Request(NewRequest),
    /// An initial request that belongs to the session by its key, and begins a leg of its own.
    Join(NewRequest),
    /// An HTTP request.
    Http(HttpRequest),
    /// An HTTP request that belongs to the session by its key: one that is over begins anew.
    HttpByKey(HttpRequest),
    /// Another session says something.
    Signal {
        /// What.
        signal: Signal,
        /// Says that it was heard: complete message.
        response: Bytes,
    },
    /// The other side cancels the INVITE of this key.
    Cancelled {
        /// The INVITE's.
        key: Bytes,
    },
    /// An ACK to a 2xx.
    Acknowledged {
        /// The ACK.
        ack: Message,
    },
    /// A response to a request of the session.
    Response {
        /// Our Via on top.
        response: Message,
    },
    /// A client transaction ended without a final response.
    Failed {
        /// Which.
        branch: Bytes,
        /// 408 or 503.
        status: u16,
    },
    /// The registrar has said what becomes of a request that goes on.
    Routed {
        /// Which.
        request: RequestId,
        /// What it would do.
        outcome: Routed,
    },
    /// Something has happened to a request that goes on, and takes effect once that is committed.
    Noted {
        /// Which.
        request: RequestId,
        /// None: it only keeps its place behind others.
        event: Option<Event>,
    },
    /// A response to a request that goes on is to be passed back.
    Relay {
        /// To which.
        request: RequestId,
        /// The response.
        reply: Reply,
    },
    /// Nothing more will come for a request that goes on.
    Finished {
        /// Which.
        request: RequestId,
    },
    /// [`Session::next_deadline`](super::Session::next_deadline) has come.
    Deadline,
    /// What the application has not heard yet of requests that could not be sent.
    Failure,
}

/// A request that begins a server transaction.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// It passed its checks.
    pub request: Message,
    /// By what its repetitions are known.
    pub key: Bytes,
    /// The flow it came by.
    pub flow: Flow,
}

/// Why a request begins no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoSession {
    /// What to answer.
    pub status: u16,
    /// What is wrong, fit to be a reason phrase.
    pub reason: &'static str,
}
