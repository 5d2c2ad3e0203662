//! What of a message of one leg goes on to the other: status, reason, body, and headers that mean the same there.

use bytes::Bytes;
use container::application::{Body, FieldName, Header, Response};
use sip::{HeaderName, Message};

/// Headers that speak from person to person. All others speak of one leg: of its dialog, its credentials, its
/// extensions.
const PASSED: &[HeaderName] = &[
    HeaderName::Subject,
    HeaderName::Priority,
    HeaderName::Organization,
    HeaderName::Date,
    HeaderName::ReplyTo,
    HeaderName::InReplyTo,
    HeaderName::AlertInfo,
    HeaderName::CallInfo,
    HeaderName::ErrorInfo,
    HeaderName::Reason,
];

/// The headers of a message that go on.
pub(super) fn headers(message: &Message) -> Vec<Header> {
    let passed = message.all_fields().filter(|(name, _, _)| PASSED.contains(name));
    passed
        .map(|(name, _, value)| Header {
            name: FieldName::Known(name),
            value: Bytes::copy_from_slice(value),
        })
        .collect()
}

/// The body of a message, if it has one and says of what type.
pub(super) fn body(message: &Message) -> Option<Body> {
    let content_type = message.field(HeaderName::ContentType)?;
    (!message.body().is_empty()).then(|| Body {
        content_type: Bytes::copy_from_slice(content_type),
        content: Bytes::copy_from_slice(message.body()),
    })
}

/// A response as it came, for the other leg.
pub(super) fn response(message: &Message) -> Response {
    let mut response = Response::new(message.status().unwrap_or(500));
    response.reason = Bytes::copy_from_slice(message.reason());
    response.headers = headers(message);
    response.body = body(message);
    response
}

/// A refusal, for the other leg: what it says of the agent's own leg is not for the other side.
pub(super) fn outcome(message: &Message, is_answered: bool) -> Response {
    let status = message.status().unwrap_or(500);
    let told = match status {
        // The agent follows no redirection, and its Contact would name a way past it.
        300..=399 => 480,
        // The callee's domain does not know the agent: nothing that the caller could prove.
        401 | 407 => 403,
        // RFC 3261 §16.7(6): overload of one way is not overload of the other.
        503 => 500,
        // Of the dialog of the other leg; in a call it ends this one as well.
        481..=483 if !is_answered => 500,
        _ => status,
    };
    if told == status { response(message) } else { Response::new(told) }
}
