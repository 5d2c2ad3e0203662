//! What can be wrong with a message: three errors for three readers.
//!
//! [`ParseError`]: the octets are no SIP message at all, there is nothing to answer. [`HeaderError`]: one header
//! cannot be read, said to whoever asked for it. [`Rejection`]: what to tell the sender.

use crate::HeaderName;

/// Why octets are not a SIP message. The sender is at fault; trying again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More octets than [`MESSAGE_BYTES_MAX`](crate::MESSAGE_BYTES_MAX).
    #[error("message is longer than 65,535 bytes")]
    TooLong,
    /// More header fields than [`FIELDS_MAX`](crate::FIELDS_MAX).
    #[error("message has more than 256 header fields")]
    TooManyFields,
    /// Neither a request line nor a status line.
    #[error("start line is neither a request line nor a status line")]
    StartLine,
    /// A status code outside 100 to 699. Source: RFC 3261 §7.2, RFC 4475 §3.1.2.19.
    #[error("status code is outside 100 to 699")]
    StatusCode,
    /// A line ends in a bare LF or holds a bare CR: the next hop might see other lines than we do.
    #[error("bare CR or LF at byte {0}")]
    BareLineEnd(usize),
    /// A NUL outside a quoted pair.
    #[error("NUL in the header at byte {0}")]
    Nul(usize),
    /// A header line without a colon or whose name is not a token.
    #[error("malformed header field at byte {0}")]
    Field(usize),
    /// The octets end inside a line.
    #[error("message ends inside its header")]
    Truncated,
}

/// Why one header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header}: {fault}")]
pub struct HeaderError {
    /// Which header.
    pub header: HeaderName,
    /// What is wrong with it; fit to be a reason phrase.
    pub fault: &'static str,
}

impl HeaderError {
    pub(crate) const fn new(header: HeaderName, fault: &'static str) -> Self {
        HeaderError { header, fault }
    }
}

/// Why a URI could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `scheme:` at the start.
    #[error("URI has no scheme")]
    Scheme,
    /// A byte that must be escaped, or `%` without two hexadecimal digits.
    #[error("URI has a byte that must be escaped")]
    Byte,
    /// Empty or malformed user part.
    #[error("URI has a malformed user part")]
    User,
    /// Empty or malformed host, or an IPv6 reference that is none (RFC 5954).
    #[error("URI has a malformed host")]
    Host,
    /// A port that is not a number below 65,536.
    #[error("URI has a malformed port")]
    Port,
    /// An empty, malformed or repeated parameter or header, or more than 32 of them.
    #[error("URI has a malformed or repeated parameter")]
    Parameter,
}

/// What to answer to a request that cannot be processed; for a response it means: drop it silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// SIP status code: 400, 505.
    pub status: u16,
    /// Reason phrase naming the fault, as RFC 3261 §21.4.1 asks.
    pub reason: &'static str,
}

impl Rejection {
    pub(crate) const fn bad_request(reason: &'static str) -> Self {
        Rejection { status: 400, reason }
    }
}
