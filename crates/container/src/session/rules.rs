//! The rules that an effect of an application must keep, apart from the session that it is for.
//!
//! [`super::apply`] keeps them whoever asks; what runs an application for others may look before it asks, so that the
//! application hears which of its calls was refused.

use std::time::Duration;

use bytes::Bytes;
use sip::{HeaderName, Method, NameAddr, Uri};

use super::limits;
use super::{LegName, RequestId, signal};
use crate::application::{Body, FieldName, Header, TARGETS_MAX, Target};

/// The rule that an effect breaks: a bug of the application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    /// More than [`limits::EFFECTS_MAX`].
    #[error("{0} effects of one event; at most {max} are done", max = limits::EFFECTS_MAX)]
    TooManyEffects(usize),
    /// Empty or longer than [`limits::NAME_BYTES_MAX`].
    #[error("{0:?} is no name: 1 to {max} octets", max = limits::NAME_BYTES_MAX)]
    Name(String),
    /// More than [`limits::ATTRIBUTE_BYTES_MAX`].
    #[error("{0} octets in attributes; at most {max} are kept", max = limits::ATTRIBUTE_BYTES_MAX)]
    Attributes(usize),
    /// More than [`limits::TIMERS_MAX`].
    #[error("{0} timers; at most {max} run", max = limits::TIMERS_MAX)]
    TooManyTimers(usize),
    /// Shorter than [`limits::TIMER_MIN`] or longer than [`limits::TIMER_MAX`], or for the session's own time
    /// [`limits::SESSION_TIME_MAX`].
    #[error("{0:?} is no time for a timer or a session")]
    Time(Duration),
    /// The session has never had it.
    #[error("there is no request {0:?}")]
    NoRequest(RequestId),
    /// Not 101 to 699, or a provisional one to another request than INVITE.
    #[error("status {0} does not answer that request")]
    Status(u16),
    /// It cannot go on.
    #[error(
        "request {0:?} cannot be proxied: only the first one of a leg can, at its event, and while it has no final answer"
    )]
    NotProxied(RequestId),
    /// It goes on, and gets the answer of those it goes to.
    #[error("request {0:?} is proxied already, and gets its answer from there")]
    Proxied(RequestId),
    /// More than [`TARGETS_MAX`].
    #[error("{0} targets; at most {TARGETS_MAX} are tried")]
    TooManyTargets(usize),
    /// No value of Route, or more than [`limits::ROUTES_MAX`] of one target.
    #[error("{0:?} cannot be put into Route, or there are more than {max} of them", max = limits::ROUTES_MAX)]
    Route(Bytes),
    /// Not over three minutes, or over [`limits::INVITE_TIME_MAX`].
    #[error("{0:?} is no Timer C: over 3 minutes, and at most an hour")]
    TimerC(Duration),
    /// It belongs to the container.
    #[error("header {0} is the container's to write")]
    Header(String),
    /// More than [`limits::MESSAGE_HEADERS_MAX`].
    #[error("{0} headers in a message; at most {max} are sent", max = limits::MESSAGE_HEADERS_MAX)]
    TooManyHeaders(usize),
    /// More than [`limits::MESSAGE_CONTENT_BYTES_MAX`].
    #[error("{0} octets in a message; at most {max} are sent", max = limits::MESSAGE_CONTENT_BYTES_MAX)]
    MessageTooLong(usize),
    /// No token (RFC 3261 §25.1).
    #[error("{0:?} is no name of a header")]
    HeaderName(Bytes),
    /// No leg of that name, or no dialog on it.
    #[error("leg {0} has no dialog in which that can be sent")]
    NoDialog(LegName),
    /// The name is taken, or there are [`limits::LEGS_MAX`] legs.
    #[error("there can be no new leg {0}: the name is taken, or there are {max} legs", max = limits::LEGS_MAX)]
    NoLeg(LegName),
    /// No leg of that name, or both are the same.
    #[error("leg {0} cannot be linked: there is none of that name, or it is the other one as well")]
    NoLink(LegName),
    /// Not a `sip:` URI without headers.
    #[error("{0:?} cannot be called: it is no sip: URI without headers")]
    Target(Bytes),
    /// Not an address, or one with a tag.
    #[error("{0:?} is no address for From or To")]
    Address(Bytes),
    /// No method, one that the container sends, or, outside of dialogs, one that belongs into one.
    #[error("a session cannot send {0:?} there")]
    Method(Bytes),
    /// More than [`limits::OUTGOING_MAX`].
    #[error("{0} requests without a final response, or INVITEs with a late one; at most {max} are sent", max = limits::OUTGOING_MAX)]
    TooManyRequests(usize),
    /// More than [`limits::SIGNAL_BYTES_MAX`].
    #[error("{0} octets with a signal; at most {max} are sent", max = limits::SIGNAL_BYTES_MAX)]
    SignalTooLong(usize),
    /// More than [`limits::SIGNALS_MAX`].
    #[error("{max} signals were not heard yet; no more are sent", max = limits::SIGNALS_MAX)]
    TooManySignals,
    /// It is no HTTP response.
    #[error("an HTTP response cannot be sent: {0}")]
    HttpResponse(&'static str),
    /// More than [`limits::RECORD_BYTES_MAX`].
    #[error("{0} octets in the record; at most {max} are stored", max = limits::RECORD_BYTES_MAX)]
    Record(usize),
}

/// What can be called: a `sip:` URI without headers.
///
/// # Errors
/// [`BrokenRule::Target`]
pub fn checked_target(target: &Bytes) -> Result<(), BrokenRule> {
    let is_target = match Uri::parse(target) {
        Ok(Uri::Sip(uri)) => !uri.secure && !uri.has_headers(),
        Ok(Uri::Tel(_) | Uri::Other { .. }) | Err(_) => false,
    };
    if is_target { Ok(()) } else { Err(BrokenRule::Target(target.clone())) }
}

/// A value of From or To without tag.
///
/// # Errors
/// [`BrokenRule::Address`]
pub fn checked_address(address: &Bytes) -> Result<(), BrokenRule> {
    let is_free = NameAddr::parse(address).is_ok_and(|address| address.tag().is_none());
    if is_free { Ok(()) } else { Err(BrokenRule::Address(address.clone())) }
}

/// A status that answers a request of that method.
///
/// # Errors
/// [`BrokenRule::Status`]
pub fn checked_status(status: u16, method: &[u8]) -> Result<(), BrokenRule> {
    let is_allowed = match status {
        // RFC 4320 §4.1: no other request has provisional responses.
        101..=199 => Method::parse(method) == Some(Method::Invite),
        _ => (200..=699).contains(&status),
    };
    if is_allowed { Ok(()) } else { Err(BrokenRule::Status(status)) }
}

/// A method that may be sent outside of dialogs and begins none.
///
/// # Errors
/// [`BrokenRule::Method`]: it begins a dialog or belongs into one, or is no method at all.
pub fn checked_outside_method(method: &Bytes) -> Result<Method<'_>, BrokenRule> {
    match Method::parse(method) {
        Some(
            Method::Invite
            | Method::Subscribe
            | Method::Refer
            | Method::Bye
            | Method::Ack
            | Method::Cancel
            | Method::Prack
            | Method::Update
            | Method::Info,
        )
        | None => Err(BrokenRule::Method(method.clone())),
        Some(signal::METHOD) => Err(BrokenRule::Method(method.clone())),
        Some(method) => Ok(method),
    }
}

/// A method that a session may send in a dialog by itself.
///
/// # Errors
/// [`BrokenRule::Method`]: ACK, CANCEL, or no method at all.
pub fn checked_method(method: &Bytes) -> Result<Method<'_>, BrokenRule> {
    match Method::parse(method) {
        Some(Method::Ack | Method::Cancel | signal::METHOD) | None => {
            Err(BrokenRule::Method(method.clone()))
        }
        Some(parsed) => Ok(parsed),
    }
}

/// Whose Contact a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// The container's, if any.
    Ours,
    /// The application's.
    Theirs,
}

impl Contact {
    /// In a response of this status.
    pub fn of_response(status: u16) -> Contact {
        match status {
            // RFC 3261 §21.3, §21.4.23: there it says where else to look.
            300..=399 | 485 => Contact::Theirs,
            _ => Contact::Ours,
        }
    }
}

/// Headers with names, none of which belongs to the container.
///
/// # Errors
/// [`BrokenRule::HeaderName`] or [`BrokenRule::Header`]: the first that is not so.
pub fn checked_headers(headers: &[Header], contact: Contact) -> Result<(), BrokenRule> {
    for header in headers {
        let name = match &header.name {
            FieldName::Known(name) => *name,
            // `Via ` would be read as Via by whoever gets it (RFC 3261 §7.3.1).
            FieldName::Named(name) if !sip::is_token(name) => {
                return Err(BrokenRule::HeaderName(name.clone()));
            }
            FieldName::Named(name) => HeaderName::parse(name),
        };
        let is_container_s = match name {
            HeaderName::Contact => contact == Contact::Ours,
            HeaderName::Via
            | HeaderName::From
            | HeaderName::To
            | HeaderName::CallId
            | HeaderName::CSeq
            | HeaderName::Route
            | HeaderName::RecordRoute
            | HeaderName::MaxForwards
            | HeaderName::ContentLength
            | HeaderName::ContentType => true,
            _ => false,
        };
        if is_container_s {
            return Err(BrokenRule::Header(name.as_str().to_owned()));
        }
    }
    Ok(())
}

/// What a message is to say: headers of which none belongs to the container, a body, and `more` octets (addresses, a reason
/// phrase); as much as fits into a message. Returns the octets of all of it.
///
/// # Errors
/// [`BrokenRule::HeaderName`], [`BrokenRule::Header`], [`BrokenRule::TooManyHeaders`] or [`BrokenRule::MessageTooLong`].
pub fn checked_message(
    headers: &[Header],
    body: Option<&Body>,
    more: usize,
    contact: Contact,
) -> Result<usize, BrokenRule> {
    checked_headers(headers, contact)?;
    if headers.len() > limits::MESSAGE_HEADERS_MAX {
        return Err(BrokenRule::TooManyHeaders(headers.len()));
    }
    let header = |header: &Header| match &header.name {
        FieldName::Known(name) => name.as_str().len() + header.value.len(),
        FieldName::Named(name) => name.len() + header.value.len(),
    };
    let headers: usize = headers.iter().map(header).sum();
    let body = body.map_or(0, |body| body.content_type.len() + body.content.len());
    match headers + body + more {
        octets @ 0..=limits::MESSAGE_CONTENT_BYTES_MAX => Ok(octets),
        octets => Err(BrokenRule::MessageTooLong(octets)),
    }
}

/// The name of a leg, a timer, an attribute or a signal.
///
/// # Errors
/// [`BrokenRule::Name`]: empty or too long.
pub fn checked_name(name: &str) -> Result<(), BrokenRule> {
    match name.len() {
        1..=limits::NAME_BYTES_MAX => Ok(()),
        _ => Err(BrokenRule::Name(name.chars().take(limits::NAME_BYTES_MAX).collect())),
    }
}

/// A signal of a session of which `unheard` were not heard yet.
///
/// # Errors
/// [`BrokenRule::Name`], [`BrokenRule::SignalTooLong`] or [`BrokenRule::TooManySignals`].
pub fn checked_signal(name: &str, payload: &[u8], unheard: usize) -> Result<(), BrokenRule> {
    checked_name(name)?;
    if payload.len() > limits::SIGNAL_BYTES_MAX {
        return Err(BrokenRule::SignalTooLong(payload.len()));
    }
    if unheard >= limits::SIGNALS_MAX {
        return Err(BrokenRule::TooManySignals);
    }
    Ok(())
}

/// Where a request may go on to.
///
/// # Errors
/// [`BrokenRule::TooManyTargets`], [`BrokenRule::Target`] or [`BrokenRule::Route`]: the first that is not so.
pub fn checked_targets(targets: &[Target]) -> Result<(), BrokenRule> {
    if targets.len() > TARGETS_MAX {
        return Err(BrokenRule::TooManyTargets(targets.len()));
    }
    for target in targets {
        checked_target(&target.uri)?;
        let is_route = |route: &&Bytes| {
            let uri = NameAddr::parse(route).map(|address| Uri::parse(address.uri()));
            matches!(uri, Ok(Ok(Uri::Sip(uri))) if !uri.secure && !uri.has_headers())
        };
        let wrong = target.route.iter().find(|route| !is_route(route));
        if let Some(route) = wrong.or_else(|| target.route.get(limits::ROUTES_MAX)) {
            return Err(BrokenRule::Route(route.clone()));
        }
    }
    Ok(())
}

/// A time for Timer C (RFC 3261 §16.6(11)).
///
/// # Errors
/// [`BrokenRule::TimerC`]
pub fn checked_timer_c(time: Duration) -> Result<Duration, BrokenRule> {
    let is_allowed = time > limits::TIMER_C_ABOVE && time <= limits::INVITE_TIME_MAX;
    if is_allowed { Ok(time) } else { Err(BrokenRule::TimerC(time)) }
}

/// A time of a timer or a session, at most `max`.
///
/// # Errors
/// [`BrokenRule::Time`]
pub fn checked_time(time: Duration, max: Duration) -> Result<Duration, BrokenRule> {
    if (limits::TIMER_MIN..=max).contains(&time) { Ok(time) } else { Err(BrokenRule::Time(time)) }
}
