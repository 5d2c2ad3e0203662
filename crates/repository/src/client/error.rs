//! What can go wrong with a member, and whether the request may have been done all the same.

use std::error::Error;

use super::messages::{CODE_INVALID, CODE_NOT_FOUND, CODE_OUT_OF_RANGE, CODE_RESOURCE_EXHAUSTED};

/// A member did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The request did not reach it, or it said that it did nothing.
    #[error("{address}: {reason}")]
    Unreachable {
        /// Which member.
        address: String,
        /// Why.
        reason: String,
    },
    /// The request was sent, and no answer came that could be read: it may have been done.
    #[error("{address}: {reason}")]
    Broken {
        /// Which member.
        address: String,
        /// What happened instead.
        reason: String,
    },
    /// It was understood and will not be done, whoever is asked.
    #[error("etcd at {address} refuses: {message}{}", advice(message))]
    Refused {
        /// Which member.
        address: String,
        /// By the numbers of gRPC.
        code: u32,
        /// In etcd's words.
        message: String,
    },
}

impl ClientError {
    pub(super) fn unreachable(address: &str, reason: impl Into<String>) -> ClientError {
        ClientError::Unreachable { address: address.to_owned(), reason: reason.into() }
    }

    pub(super) fn broken(address: &str, error: &(dyn Error + 'static)) -> ClientError {
        let reason = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        ClientError::Broken { address: address.to_owned(), reason }
    }

    pub(super) fn silent(address: &str) -> ClientError {
        ClientError::Broken { address: address.to_owned(), reason: "no answer in time".to_owned() }
    }

    pub(super) fn refused(address: &str, code: u32, message: String) -> ClientError {
        let address = address.to_owned();
        match code {
            CODE_INVALID | CODE_NOT_FOUND | CODE_RESOURCE_EXHAUSTED | CODE_OUT_OF_RANGE => {
                ClientError::Refused { address, code, message }
            }
            // It looks for a leader, and at what it is itself, before it does anything.
            _ if message.contains("no leader") || message.contains("not supported for learner") => {
                ClientError::Unreachable { address, reason: message }
            }
            _ => ClientError::Broken { address, reason: message },
        }
    }

    /// Whether the request may have been done, or may be done yet.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, ClientError::Broken { .. })
    }

    /// Whether another member, or the same one later, may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Broken { .. })
    }
}

/// What the operator can do about it.
fn advice(message: &str) -> &'static str {
    if message.contains("too many operations") {
        "; start it with --max-txn-ops 1100"
    } else if message.contains("request is too large") {
        "; start it with --max-request-bytes 4194304"
    } else if message.contains("database space exceeded") {
        "; free some room (etcdctl compact, defrag, alarm disarm) or give it more with --quota-backend-bytes"
    } else {
        ""
    }
}
