//! Responses that need nothing but the request.
//!
//! Source: RFC 3261 §11.2 (OPTIONS), §21.4.6 (405), §21.5.2 (501), §8.2.2.3 (420).

use container::application::{Action, Effects, Response};
use sip::{HeaderName, Message, Method, Rejection};
use state::Batch;

/// Methods that the server itself answers.
const ALLOW: &str = "REGISTER, OPTIONS";

/// Option tags that the registrar understands, as Supported lists them.
pub(super) const SUPPORTED: &str = "path, outbound";

pub(super) fn status(status: u16) -> Effects {
    Effects::respond(Response::new(status))
}

pub(super) fn plain(status: u16, reason: &'static str) -> Effects {
    Effects::respond(Response::new(status).reason(reason))
}

/// What to answer to a request that cannot be processed.
pub(super) fn rejection(status: u16, reason: &'static str) -> Rejection {
    Rejection { status, reason }
}

pub(super) fn rejected(rejection: Rejection) -> Effects {
    plain(rejection.status, rejection.reason)
}

/// The store has too much to do.
pub(super) fn busy() -> Effects {
    // Spread over some seconds, so that phones turned away together do not come back together. Without random
    // octets they do, which is no reason to fail.
    let spread = super::random::<1>().map_or(0, |[octet]| octet % 5);
    let retry_after = (1 + spread).to_string();
    Effects::respond(Response::new(503).header(HeaderName::RetryAfter, retry_after))
}

pub(super) fn nothing() -> Effects {
    Effects { batch: Batch::new(), action: Action::Drop }
}

/// RFC 3261 §17: nothing answers an ACK.
pub(super) fn unless_ack(method: Method<'_>, answer: Effects) -> Effects {
    if method == Method::Ack { nothing() } else { answer }
}

/// 420 when the request requires what the registrar does not understand.
pub(super) fn unsupported(message: &Message, header: HeaderName) -> Option<Effects> {
    let understands = |tag: &[u8]| {
        // Nothing can be required of the proxy: it does not look into what it forwards.
        header == HeaderName::Require
            && SUPPORTED.split(", ").any(|known| known.as_bytes().eq_ignore_ascii_case(tag))
    };
    let unknown: Vec<&[u8]> = message.values(header).filter(|tag| !understands(tag)).collect();
    if unknown.is_empty() {
        return None;
    }
    let response = Response::new(420).header(HeaderName::Unsupported, unknown.join(&b", "[..]));
    Some(Effects::respond(response))
}

/// A request to no user, but to the server.
pub(super) fn server_itself(message: &Message, method: Method<'_>) -> Effects {
    match method {
        Method::Ack => nothing(),
        Method::Options => unsupported(message, HeaderName::Require).unwrap_or_else(|| {
            Effects::respond(
                Response::new(200)
                    .header(HeaderName::Allow, ALLOW)
                    .header(HeaderName::Supported, SUPPORTED)
                    .header(HeaderName::Accept, "application/sdp")
                    .header(HeaderName::AcceptEncoding, "identity")
                    .header(HeaderName::AcceptLanguage, "en"),
            )
        }),
        // RFC 3261 §21.5.2: not known at all.
        Method::Extension(_) => refused(501),
        Method::Invite
        | Method::Bye
        | Method::Cancel
        | Method::Register
        | Method::Prack
        | Method::Update
        | Method::Info
        | Method::Subscribe
        | Method::Notify
        | Method::Refer
        | Method::Message
        | Method::Publish => refused(405),
    }
}

fn refused(status: u16) -> Effects {
    Effects::respond(Response::new(status).header(HeaderName::Allow, ALLOW))
}
