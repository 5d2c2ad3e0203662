//! Judges whether a message makes sense: what must be there is there once and well-formed.
//!
//! Second stop of every message, before anything is decided about it. RFC 3261 §8.1.1 (mandatory headers), §16.3(1)
//! (reasonable syntax), §18.3 (length), §20 (each header); RFC 4475 says how strict. A proxy forwards what it does
//! not understand: headers that do not steer the message (Date, Warning, Retry-After, bodies, unknown ones) are not
//! looked at. Deliberately absent: Max-Forwards 0, URI schemes, Require and Proxy-Require, which are decisions (483,
//! 416, 420) and not syntax.

use std::net::IpAddr;

use crate::error::Rejection;
use crate::framer::Framing;
use crate::header_name::HeaderName;
use crate::message::Message;
use crate::method::Method;
use crate::name_addr::{NameAddr, NameAddrError};
use crate::uri::Uri;
use crate::via::{BRANCH_COOKIE, Via};

/// A request that can be processed, with what its check has read: whoever goes on need not read that again.
#[derive(Clone, Copy, Debug)]
pub struct CheckedRequest<'a> {
    /// The method, the same in the start line and in CSeq.
    pub method: Method<'a>,
    /// The Request-URI.
    pub request_uri: Uri<'a>,
    /// The top-most Via value.
    pub top_via: Via<'a>,
    /// The To header.
    pub to: NameAddr<'a>,
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// Max-Forwards, if there is one.
    pub max_forwards: Option<u8>,
}

/// A response that can be processed, with what its check has read.
#[derive(Clone, Copy, Debug)]
pub struct CheckedResponse<'a> {
    /// The top-most Via value.
    pub top_via: Via<'a>,
    /// The one below it.
    pub next_via: Option<Via<'a>>,
}

impl Message {
    /// Whether this request can be processed.
    ///
    /// # Errors
    /// What to answer: 505 for another SIP version, else 400 with the fault as its reason phrase.
    pub fn check_request(&self, framing: Framing) -> Result<(), Rejection> {
        self.read_request(framing).map(drop)
    }

    /// Whether this response can be processed.
    ///
    /// # Errors
    /// Why it cannot; a response is never answered, so it is to be dropped.
    pub fn check_response(&self) -> Result<(), Rejection> {
        self.read_response().map(drop)
    }

    /// [`check_request`](Self::check_request), and what was read for it.
    ///
    /// # Errors
    /// What to answer: 505 for another SIP version, else 400 with the fault as its reason phrase.
    pub fn read_request(&self, framing: Framing) -> Result<CheckedRequest<'_>, Rejection> {
        self.check_version()?;
        self.check_fields_once()?;
        let request_uri = read_request_uri(self.request_uri().unwrap_or_default())?;
        let (call_id, to) = self.check_addresses()?;
        let Vias { top: top_via, .. } = self.check_vias()?;
        let method = self.cseq()?.method;
        if self.method() != Some(method) {
            return Err(Rejection::bad_request("CSeq Method Does Not Match"));
        }
        let max_forwards = self.max_forwards()?;
        match (self.content_length()?, framing) {
            (Some(length), _) if length > self.body().len() => {
                Err(Rejection::bad_request("Body Shorter Than Content-Length"))
            }
            (None, Framing::Stream) => Err(Rejection::bad_request("Missing Content-Length")),
            (Some(_), _) | (None, Framing::Datagram) => {
                Ok(CheckedRequest { method, request_uri, top_via, to, call_id, max_forwards })
            }
        }
    }

    /// [`check_response`](Self::check_response), and what was read for it.
    ///
    /// # Errors
    /// Why it cannot; a response is never answered, so it is to be dropped.
    pub fn read_response(&self) -> Result<CheckedResponse<'_>, Rejection> {
        self.check_version()?;
        self.check_fields_once()?;
        self.check_addresses()?;
        let Vias { top: top_via, next: next_via } = self.check_vias()?;
        if let Some(next_via) = &next_via {
            check_next_via(next_via)?;
        }
        self.cseq()?;
        match self.content_length()? {
            Some(length) if length > self.body().len() => {
                Err(Rejection::bad_request("Body Shorter Than Content-Length"))
            }
            Some(_) | None => Ok(CheckedResponse { top_via, next_via }),
        }
    }

    fn check_version(&self) -> Result<(), Rejection> {
        if self.version().eq_ignore_ascii_case(b"SIP/2.0") {
            Ok(())
        } else {
            Err(Rejection { status: 505, reason: "Version Not Supported" })
        }
    }

    /// Mandatory fields are there, and those that may stand once stand once.
    fn check_fields_once(&self) -> Result<(), Rejection> {
        if !self.structure().terminated {
            return Err(Rejection::bad_request("Missing Empty Line After Header"));
        }
        let mut seen = 0_u128;
        for field in self.raw_fields() {
            if seen & field.name.bit() & ONCE != 0 {
                return Err(Rejection::bad_request(repeated(field.name)));
            }
            seen |= field.name.bit();
        }
        for (name, reason) in MANDATORY {
            if seen & name.bit() == 0 {
                return Err(Rejection::bad_request(reason));
            }
        }
        Ok(())
    }

    /// Call-ID and To are wanted later.
    fn check_addresses(&self) -> Result<(&[u8], NameAddr<'_>), Rejection> {
        let call_id = self.call_id()?;
        check_uri(self.from()?.uri(), "Malformed From")?;
        let to = self.to()?;
        check_uri(to.uri(), "Malformed To")?;
        for value in self.values(HeaderName::Contact).filter(|value| *value != b"*") {
            check_address(value, "Malformed Contact")?;
        }
        for value in self.values(HeaderName::Route) {
            check_address(value, "Malformed Route")?;
        }
        Ok((call_id, to))
    }

    fn check_vias(&self) -> Result<Vias<'_>, Rejection> {
        let mut values = self.values(HeaderName::Via);
        let top = Via::parse(values.next().ok_or(Rejection::bad_request("Missing Via"))?)?;
        let next = values.next().map(Via::parse).transpose()?;
        for value in values {
            Via::parse(value)?;
        }
        // RFC 4475 §3.2.1: the cookie alone would make all such requests one transaction.
        if top.branch() == Some(BRANCH_COOKIE) {
            return Err(Rejection::bad_request("Empty Branch"));
        }
        Ok(Vias { top, next })
    }
}

/// The two Via values that somebody looks at.
struct Vias<'a> {
    top: Via<'a>,
    next: Option<Via<'a>>,
}

/// RFC 4475 §3.3.10: a response must not be sent on to a broadcast or multicast address.
fn check_next_via(via: &Via<'_>) -> Result<(), Rejection> {
    let forbidden = match via.received().or(via.host.ip()) {
        Some(IpAddr::V4(address)) => address.is_broadcast() || address.is_multicast(),
        Some(IpAddr::V6(address)) => address.is_multicast(),
        None => false,
    };
    if forbidden { Err(Rejection::bad_request("Via Is Not Unicast")) } else { Ok(()) }
}

impl From<crate::error::HeaderError> for Rejection {
    fn from(error: crate::error::HeaderError) -> Self {
        Rejection::bad_request(error.fault)
    }
}

/// Fields without which a message cannot be processed. Max-Forwards is not among them: RFC 2543 senders have none.
const MANDATORY: [(HeaderName, &str); 5] = [
    (HeaderName::Via, "Missing Via"),
    (HeaderName::From, "Missing From"),
    (HeaderName::To, "Missing To"),
    (HeaderName::CallId, "Missing Call-ID"),
    (HeaderName::CSeq, "Missing CSeq"),
];

/// Fields of which a second one would let two hops read two different messages.
const ONCE: u128 = (1 << HeaderName::From as u8)
    | (1 << HeaderName::To as u8)
    | (1 << HeaderName::CallId as u8)
    | (1 << HeaderName::CSeq as u8)
    | (1 << HeaderName::MaxForwards as u8)
    | (1 << HeaderName::ContentLength as u8)
    | (1 << HeaderName::ContentType as u8)
    | (1 << HeaderName::Expires as u8);

fn repeated(name: HeaderName) -> &'static str {
    match name {
        HeaderName::From => "More Than One From",
        HeaderName::To => "More Than One To",
        HeaderName::CallId => "More Than One Call-ID",
        HeaderName::CSeq => "More Than One CSeq",
        HeaderName::MaxForwards => "More Than One Max-Forwards",
        HeaderName::ContentLength => "More Than One Content-Length",
        _ => "Repeated Header",
    }
}

/// RFC 3261 §7.1: no white space, no brackets; §19.1.1: no headers.
fn read_request_uri(uri: &[u8]) -> Result<Uri<'_>, Rejection> {
    match Uri::parse(uri) {
        Ok(Uri::Sip(uri)) if uri.has_headers() => {
            Err(Rejection::bad_request("Request-URI Has Headers"))
        }
        Ok(uri) => Ok(uri),
        Err(_) => Err(Rejection::bad_request("Malformed Request-URI")),
    }
}

fn check_address(value: &[u8], reason: &'static str) -> Result<(), Rejection> {
    match NameAddr::parse(value) {
        Ok(address) => check_uri(address.uri(), reason),
        Err(NameAddrError::Brackets) => Err(Rejection::bad_request("Address Needs Angle Brackets")),
        Err(NameAddrError::Display | NameAddrError::Uri | NameAddrError::Parameter) => {
            Err(Rejection::bad_request(reason))
        }
    }
}

fn check_uri(uri: &[u8], reason: &'static str) -> Result<(), Rejection> {
    Uri::parse(uri).map(drop).map_err(|_| Rejection::bad_request(reason))
}

#[cfg(test)]
mod tests;
