//! Builds the response to a request: what must be copied is copied byte by byte, the rest is said by the caller.
//!
//! RFC 3261 §8.2.6. A request that was refused may lack the mandatory headers or hold malformed ones: what is there
//! is copied, what is not is left out, so that even the sender of nonsense gets an answer it may recognise.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::header_name::HeaderName;
use crate::message::Message;
use crate::method::Method;
use crate::name_addr::NameAddr;
use crate::reason::reason_phrase;
use crate::structure::Field;
use crate::write::{put_body, put_decimal, put_field, put_value};

/// Version, status and line ends, `;tag=`, and the names of Content-Type and Content-Length with the length.
const FRAME_BYTES: usize = 80;

/// Room for the fields of a usual response.
const FIELDS_BYTES_USUAL: usize = 256;

/// The fields that a response takes from its request, or some of them.
const COPIED: u128 = HeaderName::Via.bit()
    | HeaderName::RecordRoute.bit()
    | HeaderName::From.bit()
    | HeaderName::To.bit()
    | HeaderName::CallId.bit()
    | HeaderName::CSeq.bit();

/// Collects what a response has beyond what it copies from the request.
#[derive(Clone, Debug)]
pub struct ResponseBuilder<'a> {
    request: &'a Message,
    status: u16,
    reason: SmallVec<[u8; 32]>,
    to_tag: SmallVec<[u8; 32]>,
    record_route: bool,
    fields: BytesMut,
    content_type: SmallVec<[u8; 32]>,
    body: Bytes,
}

impl<'a> ResponseBuilder<'a> {
    /// Starts a response with `status`, 100 to 699, and its usual reason phrase.
    pub fn new(request: &'a Message, status: u16) -> ResponseBuilder<'a> {
        debug_assert!((100..=699).contains(&status) && request.is_request());
        ResponseBuilder {
            request,
            status,
            reason: SmallVec::from_slice(reason_phrase(status).as_bytes()),
            to_tag: SmallVec::new(),
            record_route: false,
            fields: BytesMut::new(),
            content_type: SmallVec::new(),
            body: Bytes::new(),
        }
    }

    /// Another reason phrase.
    pub fn reason(mut self, reason: &[u8]) -> Self {
        self.reason = SmallVec::from_slice(reason);
        self
    }

    /// The tag to add to To, if it has none yet. Every response but 100 needs one. Source: RFC 3261 §8.2.6.2.
    pub fn to_tag(mut self, tag: &[u8]) -> Self {
        self.to_tag = SmallVec::from_slice(tag);
        self
    }

    /// Copies the Record-Route headers, as responses that form a dialog must. Source: RFC 3261 §12.1.1.
    pub fn record_route(mut self) -> Self {
        self.record_route = true;
        self
    }

    /// Adds a header field; not one of those that are copied, nor Content-Type or Content-Length.
    pub fn header(self, name: HeaderName, value: &[u8]) -> Self {
        self.header_named(name.as_str().as_bytes(), value)
    }

    /// Adds any header field by name.
    pub fn header_named(mut self, name: &[u8], value: &[u8]) -> Self {
        if self.fields.capacity() == 0 {
            self.fields.reserve(FIELDS_BYTES_USUAL);
        }
        put_field(&mut self.fields, name, value);
        self
    }

    /// Gives the response a body.
    pub fn body(mut self, content_type: &[u8], body: impl Into<Bytes>) -> Self {
        self.content_type = SmallVec::from_slice(content_type);
        self.body = body.into();
        self
    }

    /// Renders the response.
    pub fn build(self) -> Bytes {
        // What is copied, not all of the request: a response is kept for its repetition, a large request's too.
        let copied =
            self.request.raw_fields().iter().filter(|field| COPIED & field.name.bit() != 0);
        let copied: usize = copied.map(|field| usize::from(field.end - field.start)).sum();
        let said = self.reason.len() + self.to_tag.len() + self.content_type.len();
        let capacity = copied + said + self.fields.len() + self.body.len() + FRAME_BYTES;
        let mut out = BytesMut::with_capacity(capacity);
        out.extend_from_slice(b"SIP/2.0 ");
        put_decimal(&mut out, u64::from(self.status));
        out.extend_from_slice(b" ");
        put_value(&mut out, &self.reason);
        out.extend_from_slice(b"\r\n");

        self.copy_all(HeaderName::Via, &mut out);
        if self.record_route {
            self.copy_all(HeaderName::RecordRoute, &mut out);
        }
        self.copy_first(HeaderName::From, &mut out);
        self.copy_to(&mut out);
        self.copy_first(HeaderName::CallId, &mut out);
        self.copy_first(HeaderName::CSeq, &mut out);
        if self.status == 100 {
            // RFC 3261 §8.2.6.1
            self.copy_first(HeaderName::Timestamp, &mut out);
        }
        out.extend_from_slice(&self.fields);
        put_body(&mut out, &self.content_type, &self.body);
        out.freeze()
    }

    fn copy_all(&self, name: HeaderName, out: &mut BytesMut) {
        for field in self.request.raw_fields().iter().filter(|field| field.name == name) {
            out.extend_from_slice(self.request.slice((field.start, field.end)));
        }
    }

    fn copy_first(&self, name: HeaderName, out: &mut BytesMut) {
        if let Some(field) = self.first(name) {
            out.extend_from_slice(self.request.slice((field.start, field.end)));
        }
    }

    fn copy_to(&self, out: &mut BytesMut) {
        let Some(field) = self.first(HeaderName::To) else { return };
        let tagless = NameAddr::parse(self.request.value(field)).is_ok_and(|to| to.tag().is_none());
        if self.to_tag.is_empty() || self.status == 100 || !tagless {
            return out.extend_from_slice(self.request.slice((field.start, field.end)));
        }
        out.extend_from_slice(self.request.slice((field.start, field.value_end)));
        out.extend_from_slice(b";tag=");
        put_value(out, &self.to_tag);
        out.extend_from_slice(b"\r\n");
    }

    fn first(&self, name: HeaderName) -> Option<&Field> {
        self.request.raw_fields().iter().find(|field| field.name == name)
    }
}

/// Whether a response to `method` with `status` can form a dialog, and so copies Record-Route and has a Contact.
///
/// Source: RFC 3261 §12.1, RFC 6665 §4.4.1, RFC 3515 §2.4.4.
pub fn forms_dialog(method: Method<'_>, status: u16) -> bool {
    matches!(method, Method::Invite | Method::Subscribe | Method::Refer)
        && (101..=299).contains(&status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_response_to_a_large_request_is_as_small_as_any() {
        let text = format!(
            "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:a@x>;tag=f\r\n\
             To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nSubject: {}\r\n\r\n",
            "x".repeat(60_000)
        );
        let request = Message::parse(text.into_bytes().into()).unwrap();
        let response = ResponseBuilder::new(&request, 404).to_tag(b"t").build();
        let capacity = response.try_into_mut().unwrap().capacity();
        assert!(capacity < 1_000, "{capacity}");
    }
}
