//! What a proxy context and its owner say to each other.

use bytes::Bytes;

use super::BranchIndex;

/// What the owner of a [`super::ProxyContext`] has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyEffect {
    /// Begin a client transaction and send its request.
    Start {
        /// By this index its events are reported.
        branch: BranchIndex,
        /// Complete, own Via on top.
        request: Bytes,
        /// Branch of that Via.
        branch_id: Bytes,
        /// What its next hop is determined by.
        destination: NextHop,
    },
    /// Go on with the client transaction of a branch that another owner began, without sending its request again.
    Resume {
        /// By this index its events are reported; those of an acknowledged one are not.
        branch: BranchIndex,
        /// As it was sent.
        request: Bytes,
        /// Branch of its Via.
        branch_id: Bytes,
        /// What its next hop is determined by.
        destination: NextHop,
        /// What is left to do.
        resumption: Resumption,
    },
    /// A branch has had no final response in its time: note it, then call [`super::ProxyContext::give_up`].
    Overdue {
        /// Which one.
        branch: BranchIndex,
    },
    /// Timer C: a branch rings for too long (§16.8). Note it, then call [`super::ProxyContext::stop_ringing`].
    RingsTooLong {
        /// Which one.
        branch: BranchIndex,
    },
    /// Send a CANCEL for this branch (§9.1); a provisional response has come, and it is asked for once.
    Cancel {
        /// Which one.
        branch: BranchIndex,
    },
    /// Forget the client transaction of this branch: nothing will come any more, or nobody waits for it.
    Abandon {
        /// Which one.
        branch: BranchIndex,
    },
    /// Pass this response to the server transaction: own Via popped, everything else as it came.
    Reply {
        /// Complete.
        response: Bytes,
    },
    /// Answer the server transaction with a response of our own.
    ReplyOwn {
        /// 400–599, with the RFC's reason phrase.
        status: u16,
    },
    /// Forget the context: no event of its branches matters any more. A non-INVITE server transaction that
    /// has had no final response by now gets none (RFC 4320 §4.2).
    Finished,
}

/// What is left to do for a branch whose owner died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumption {
    /// Send a CANCEL at once: nobody wants its answer any more. A 481 says that the callee knows nothing of the
    /// call, and ends the branch ([`super::ProxyContext::give_up`]).
    Cancel,
    /// Wait for repeated 2xx, to relay them.
    Relay,
    /// Acknowledge this final response, which may not have been yet.
    Acknowledge(Bytes),
}

/// What decides where a forwarded request goes (§16.6(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// Its topmost Route value.
    Route,
    /// Its Request-URI.
    RequestUri,
}

/// Why a client transaction ended without a final response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFailure {
    /// The flow that the Path names is dead: like a 430 (RFC 5626 §5.3).
    FlowGone,
    /// The request could not be sent: like a 503 (RFC 3261 §16.9).
    Unreachable,
    /// Timer B or F: like a 408 (RFC 3261 §8.1.3.1).
    TimedOut,
}

impl TransportFailure {
    /// As what it counts.
    pub fn status(self) -> u16 {
        match self {
            TransportFailure::FlowGone => 430,
            TransportFailure::Unreachable => 503,
            TransportFailure::TimedOut => 408,
        }
    }
}
