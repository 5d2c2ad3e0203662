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
    /// We are not whom it believes, or not whom it lets do that; it did nothing.
    #[error("etcd at {address} does not let us: {message}{}", advice(message))]
    NotAdmitted {
        /// Which member.
        address: String,
        /// In etcd's words, or why we could not say who we are.
        message: String,
    },
}

/// What etcd says to strangers, by its words: it numbers most of them like requests that are wrong in themselves.
const STRANGERS: [&str; 4] = [
    "user name is empty",
    "authentication failed",
    "authentication is not enabled",
    "permission denied",
];

/// What it says, with users on, to who shows a certificate with a common name, when it takes those for users' names.
pub(super) const COMMON_NAME: &str = "CommonName of client sending a request against gateway";

/// What it says of tokens that it does not know any more.
const STALE: [&str; 3] =
    ["invalid auth token", "revision in header is old", "revision of auth store is old"];

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
        let is_one_of = |all: &[&str]| all.iter().any(|one| message.contains(one));
        match code {
            _ if is_one_of(&STRANGERS) || is_one_of(&STALE) => {
                ClientError::NotAdmitted { address, message }
            }
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

    pub(super) fn not_admitted(address: &str, message: String) -> ClientError {
        ClientError::NotAdmitted { address: address.to_owned(), message }
    }

    /// Whether another token may do better.
    pub(super) fn is_about_the_token(&self) -> bool {
        let ClientError::NotAdmitted { message, .. } = self else { return false };
        STALE.iter().any(|stale| message.contains(stale))
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
    } else if message.contains("authentication failed") {
        "; correct repository_user in outlast.toml, or the file that repository_password_file names"
    } else if message.contains("user name is empty") {
        "; its users are on: name one with repository_user and repository_password_file in outlast.toml (names in certificates do not \
         reach it by its gateway)"
    } else if message.contains(COMMON_NAME) {
        " is refused while its users are on: start it without --client-cert-auth (--trusted-ca-file alone asks for certificates, too), or \
         show one without a common name (repository_certificate in outlast.toml)"
    } else if message.contains("authentication is not enabled") {
        "; its users are off: etcdctl auth enable, or take repository_user out of outlast.toml"
    } else if message.contains("permission denied") {
        "; let the user read and write there: etcdctl role grant-permission ROLE --prefix=true readwrite outlast"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: etcd 3.4, `v3rpc/rpctypes/error.go`.
    #[test]
    fn strangers_are_told_apart_from_wrong_requests_and_from_old_tokens() {
        for (code, message, is_stranger, is_stale) in [
            (3, "etcdserver: authentication failed, invalid user ID or password", true, false),
            (3, "etcdserver: user name is empty", true, false),
            (7, "etcdserver: permission denied", true, false),
            (9, "etcdserver: authentication is not enabled", true, false),
            (16, "etcdserver: invalid auth token", true, true),
            (3, "etcdserver: too many operations in txn request", false, false),
            (14, "etcdserver: no leader", false, false),
        ] {
            let error = ClientError::refused("m", code, message.to_owned());
            let found = matches!(error, ClientError::NotAdmitted { .. });
            assert_eq!((found, error.is_about_the_token()), (is_stranger, is_stale), "{message}");
            assert!(!is_stranger || !error.is_in_doubt(), "it did nothing: {message}");
            assert!(!is_stranger || is_stale || error.to_string().contains("; "), "{error}");
        }
    }
}
