//! Builds a request of our own from nothing.
//!
//! RFC 3261 §8.1.1. Via, From, To, Call-ID and CSeq are the caller's to give, in the order they shall have;
//! Max-Forwards, Content-Type and Content-Length are added here.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::header_name::HeaderName;
use crate::method::Method;
use crate::write::{put_body, put_field, put_value};

/// What a new request starts with, recommended by RFC 3261 §8.1.1.6.
pub const MAX_FORWARDS_INITIAL: u8 = 70;

/// Collects the parts of a request.
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    out: BytesMut,
    has_max_forwards: bool,
    content_type: SmallVec<[u8; 32]>,
    body: Bytes,
}

impl RequestBuilder {
    /// Starts a request of `method` for `uri`.
    pub fn new(method: Method<'_>, uri: &[u8]) -> RequestBuilder {
        let mut out = BytesMut::with_capacity(512);
        put_value(&mut out, method.as_bytes());
        out.extend_from_slice(b" ");
        put_value(&mut out, uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        RequestBuilder {
            out,
            has_max_forwards: false,
            content_type: SmallVec::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header field below the ones added before.
    pub fn header(mut self, name: HeaderName, value: &[u8]) -> Self {
        self.has_max_forwards |= name == HeaderName::MaxForwards;
        put_field(&mut self.out, name.as_str().as_bytes(), value);
        self
    }

    /// Adds any header field by name.
    pub fn header_named(mut self, name: &[u8], value: &[u8]) -> Self {
        self.has_max_forwards |= HeaderName::parse(name) == HeaderName::MaxForwards;
        put_field(&mut self.out, name, value);
        self
    }

    /// Gives the request a body.
    pub fn body(mut self, content_type: &[u8], body: impl Into<Bytes>) -> Self {
        self.content_type = SmallVec::from_slice(content_type);
        self.body = body.into();
        self
    }

    /// Renders the request; Max-Forwards is [`MAX_FORWARDS_INITIAL`] unless given.
    pub fn build(mut self) -> Bytes {
        if !self.has_max_forwards {
            put_field(&mut self.out, b"Max-Forwards", b"70");
        }
        put_body(&mut self.out, &self.content_type, &self.body);
        self.out.freeze()
    }
}
