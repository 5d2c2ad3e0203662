//! Renders the responses that a container makes itself: those of applications, 100, and refusals.
//!
//! The To tag is a keyed hash of the server transaction's branch: the same for all responses of a transaction
//! (RFC 3261 §8.2.6.2) and for its CANCEL (§9.2), the same after a restart or in another container, and
//! recognised again in the ACK to a failure, for which no state need be kept (§8.2.7).

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use sip::{HeaderName, Message, ResponseBuilder, forms_dialog};
use topology::{Key, KeyRing};

use crate::application::{FieldName, Response};

/// 72 bits, 12 characters: RFC 3261 §19.3 asks for 32 at least.
const TAG_BYTES: usize = 9;

/// Retry-After of a 503, in seconds; which one, is chance, so that phones that were turned away together do not come
/// back together.
const RETRY_AFTER_S: RangeInclusive<u8> = 2..=9;

/// Renders responses under To tags of its own.
#[derive(Clone)]
pub struct Responder {
    key: Key,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

impl Responder {
    /// A responder of this cluster.
    pub fn new(keys: &KeyRing) -> Responder {
        Responder { key: keys.derive("to-tag") }
    }

    /// The complete message for `response` to `request`.
    pub fn render(&self, request: &Message, response: &Response) -> Bytes {
        let tag = self.tag(request);
        let mut builder = ResponseBuilder::new(request, response.status).to_tag(tag.as_bytes());
        if request.method().is_some_and(|method| forms_dialog(method, response.status)) {
            builder = builder.record_route();
        }
        if !response.reason.is_empty() {
            builder = builder.reason(&response.reason);
        }
        for header in &response.headers {
            builder = match &header.name {
                FieldName::Known(name) => builder.header(*name, &header.value),
                FieldName::Named(name) => builder.header_named(name, &header.value),
            };
        }
        if let Some(body) = &response.body {
            builder = builder.body(&body.content_type, body.content.clone());
        }
        builder.build()
    }

    /// 100 Trying: hop by hop, so without a tag (§8.2.6).
    pub fn trying(request: &Message) -> Bytes {
        ResponseBuilder::new(request, 100).build()
    }

    /// Whether `ack` acknowledges a failure that this cluster answered itself: it has the branch of the
    /// INVITE (§17.1.1.3), and so the tag made of it.
    pub fn is_own_answer(&self, ack: &Message) -> bool {
        let tag = self.tag(ack);
        ack.to().is_ok_and(|to| to.tag() == Some(tag.as_bytes()))
    }

    /// 503 to a request that may well be served in a moment. How long a moment is depends on nothing but its
    /// branch, so that a repetition gets the same answer, and differs from phone to phone.
    pub fn try_again(&self, request: &Message) -> Response {
        Response::new(503)
            .header(HeaderName::RetryAfter, self.seconds_by_chance(request, RETRY_AFTER_S))
    }

    /// Some time within these bounds, as text: a function of the request's branch.
    pub fn seconds_by_chance(&self, request: &Message, bounds: RangeInclusive<u8>) -> String {
        let [chance] = self.key.tag(branch(request));
        let spread = bounds.end() - bounds.start() + 1;
        (bounds.start() + chance % spread).to_string()
    }

    fn tag(&self, request: &Message) -> String {
        let tag: [u8; TAG_BYTES] = self.key.tag(branch(request));
        URL_SAFE_NO_PAD.encode(tag)
    }
}

/// What stands for the transaction: the branch, else (RFC 2543) the Call-ID.
fn branch(request: &Message) -> &[u8] {
    let branch = request.top_via().ok().and_then(|via| via.rfc3261_branch());
    branch.or_else(|| request.call_id().ok()).unwrap_or_default()
}
