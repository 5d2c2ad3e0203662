//! HTTP requests and responses as an application gets and gives them: whole, as plain values.
//!
//! Who speaks HTTP with the outside has parsed them, and writes them out again; here are the bounds that both keep, so that
//! one request cannot fill a container.

use bytes::Bytes;

use super::limits;

/// A request for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// Such as `/desk?name=anna`, with its escapes.
    pub path_with_query: String,
    /// In order; names as they came.
    pub headers: Vec<(String, Bytes)>,
    /// All of it, without transfer coding.
    pub body: Bytes,
}

/// What a session answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// 200–599.
    pub status: u16,
    /// In order; none that tells how long the body is or how it is transferred.
    pub headers: Vec<(String, Bytes)>,
    /// All of it, without transfer coding.
    pub body: Bytes,
}

impl HttpRequest {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The status that says which one is broken.
    pub fn check(&self) -> Result<(), u16> {
        let head = self.method.len() + self.path_with_query.len() + octets(&self.headers);
        if self.body.len() > limits::HTTP_BODY_BYTES_MAX {
            return Err(413);
        }
        if self.headers.len() > limits::HTTP_HEADERS_MAX || head > limits::HTTP_HEAD_BYTES_MAX {
            return Err(431);
        }
        Ok(())
    }
}

impl HttpResponse {
    /// One without headers and body.
    pub fn new(status: u16) -> HttpResponse {
        HttpResponse { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Whether it can be sent as it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !(200..=599).contains(&self.status) {
            return Err("its status is not 200 to 599");
        }
        if self.body.len() > limits::HTTP_BODY_BYTES_MAX {
            return Err("its body is too long");
        }
        if self.headers.len() > limits::HTTP_HEADERS_MAX
            || octets(&self.headers) > limits::HTTP_HEAD_BYTES_MAX
        {
            return Err("it has too many headers");
        }
        // RFC 9110 §5.6.2: the same token as SIP's.
        let is_name = |name: &str| sip::is_token(name.as_bytes());
        let is_value = |value: &[u8]| !value.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
        if !self.headers.iter().all(|(name, value)| is_name(name) && is_value(value)) {
            return Err("a header has no name, or a line break in it");
        }
        Ok(())
    }
}

fn octets(headers: &[(String, Bytes)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}
