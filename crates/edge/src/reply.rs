//! Error responses that the edge makes itself, without a transaction.
//!
//! RFC 3261 §8.2.7, §16.3: a request that cannot be forwarded is answered statelessly. A
//! retransmission gets the same answer (the To tag is a function of the request), an ACK never gets
//! one, and 100 is never sent from here.

use bytes::{Bytes, BytesMut};
use sip::{Edits, HeaderName, Message, Method, ResponseBuilder};
use topology::Key;
use transport::Flow;

use crate::branch::{Sender, to_tag};
use crate::header_value::HeaderValue;
use crate::via::{ReplyAddress, filled_in, reply_address};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is malformed: 400 or 505, with the fault as reason phrase.
    Malformed(sip::Rejection),
    /// Its Route has a flow token with a wrong tag. Source: RFC 5626 §5.3.
    TamperedToken,
    /// Its Request-URI has a scheme that nobody here resolves. Source: RFC 3261 §16.3(2).
    UnknownScheme,
    /// It asks of proxies what this one cannot do. Source: RFC 3261 §16.3(5).
    UnknownExtension,
    /// The flow its Route names is gone. Source: RFC 5626 §5.3.
    FlowGone,
    /// Max-Forwards is 0. Source: RFC 3261 §16.3(3).
    TooManyHops,
    /// With what the edge adds it is longer than a message may be.
    TooLarge,
    /// No container serves, or those that do are full. The sender may retry after a few seconds.
    Unavailable {
        /// Seconds until a retry makes sense.
        retry_after: u8,
    },
    /// It names a next hop that cannot be reached.
    NoRoute,
}

impl Refusal {
    /// The status code of the response.
    pub fn status(self) -> u16 {
        match self {
            Refusal::Malformed(rejection) => rejection.status,
            Refusal::TamperedToken => 403,
            Refusal::UnknownScheme => 416,
            Refusal::UnknownExtension => 420,
            Refusal::FlowGone => 430,
            Refusal::TooManyHops => 483,
            Refusal::TooLarge => 513,
            Refusal::Unavailable { .. } | Refusal::NoRoute => 503,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Refusal::Malformed(rejection) => rejection.reason,
            Refusal::TamperedToken => "Forbidden",
            Refusal::UnknownScheme => "Unsupported URI Scheme",
            Refusal::UnknownExtension => "Bad Extension",
            Refusal::FlowGone => "Flow Failed",
            Refusal::TooManyHops => "Too Many Hops",
            Refusal::TooLarge => "Message Too Large",
            Refusal::Unavailable { .. } => "Service Unavailable",
            Refusal::NoRoute => "Next Hop Unreachable",
        }
    }
}

/// Retry-After of a 503 lies between these, in seconds: long enough to let a container come back,
/// spread so that phones do not return all at once.
const RETRY_AFTER: std::ops::RangeInclusive<u8> = 2..=10;

/// A refusal because nothing serves; `seed` spreads the Retry-After and may be any number.
pub(crate) fn unavailable(seed: u64) -> Refusal {
    let width = u64::from(RETRY_AFTER.end() - RETRY_AFTER.start()) + 1;
    let spread = u8::try_from(seed % width).expect("the width is below 256");
    Refusal::Unavailable { retry_after: RETRY_AFTER.start() + spread }
}

/// The response to a request that came by `flow`, and where it goes; `None` to an ACK, which has no
/// response.
pub(crate) fn refuse(
    request: &Message,
    sender: Sender,
    flow: Flow,
    refusal: Refusal,
    branch_key: &Key,
) -> Option<(ReplyAddress, Bytes)> {
    if request.method() == Some(Method::Ack) {
        return None;
    }
    let via = request.top_via().ok();
    let address = reply_address(via.as_ref(), flow);
    let response = build(request, sender, refusal, branch_key);
    let bytes = match via.and_then(|via| filled_in(&via, flow.remote)) {
        Some(filled) => with_top_via(&response, &filled),
        None => response,
    };
    Some((address, bytes))
}

/// The response to a request that already has this edge's own Via on top, to be sent as if a
/// container had made it.
pub(crate) fn build(
    request: &Message,
    sender: Sender,
    refusal: Refusal,
    branch_key: &Key,
) -> Bytes {
    let mut response = ResponseBuilder::new(request, refusal.status())
        .reason(refusal.reason().as_bytes())
        .to_tag(&to_tag(request, sender, branch_key));
    if let Refusal::Unavailable { retry_after } = refusal {
        let mut value = HeaderValue::new();
        value.push_display(retry_after);
        response = response.header(HeaderName::RetryAfter, &value);
    }
    if refusal == Refusal::UnknownExtension {
        // RFC 3261 §16.3(5): Unsupported lists what is not understood, and nothing is.
        for option_tag in request.values(HeaderName::ProxyRequire) {
            response = response.header(HeaderName::Unsupported, option_tag);
        }
    }
    response.build()
}

/// The sender shall see what its NAT made of it (RFC 3261 §18.2.1 comes before any response).
fn with_top_via(response: &Bytes, via: &[u8]) -> Bytes {
    let Ok(message) = Message::parse(response.clone()) else { return response.clone() };
    let mut edits = Edits::new();
    edits.replace_first_value(HeaderName::Via, via);
    let mut out = BytesMut::with_capacity(response.len() + via.len());
    edits.render(&message, &mut out);
    out.freeze()
}
