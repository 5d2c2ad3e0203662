//! A dialog: what two user agents must remember of each other to go on talking (RFC 3261 §12).
//!
//! Made of a request and a response to it, on either side; builds the requests within it and judges those that come.
//! Stands between the transactions, which know nothing beyond one request, and a session, which has several dialogs.
//!
//! From and To are kept as they stood on the wire, tags included, so that they are repeated byte by byte; nothing of
//! a dialog depends on who holds it, so another process continues it from the same fields.
//!
//! Deliberately absent: which requests cross (§14) and who repeats a 2xx (§13), which are the session's; `sips:`
//! (§12.1.1), which is not spoken yet.

use std::borrow::Cow;

use bytes::Bytes;

use crate::contact::Contacts;
use crate::header_name::HeaderName;
use crate::message::Message;
use crate::method::Method;
use crate::name_addr::NameAddr;
use crate::request::RequestBuilder;
use crate::uri::Uri;

#[cfg(test)]
mod tests;

/// The state of a dialog at one of its two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// Its Call-ID.
    pub call_id: Bytes,
    /// What we say in From of our requests: own address with own tag.
    pub local: Bytes,
    /// What we say in To of our requests: the other's address with its tag, which an RFC 2543 element may lack.
    pub remote: Bytes,
    /// The CSeq number of our last request; that before the first one when we have sent none.
    pub local_cseq: u32,
    /// The highest CSeq number of the other side; None before its first request.
    pub remote_cseq: Option<u32>,
    /// Route values from us to the other side, as they stood in Record-Route.
    pub route_set: Vec<Bytes>,
    /// The URI of the other side's Contact.
    pub remote_target: Bytes,
    /// How far it has come.
    pub state: DialogState,
}

/// How far a dialog has come. Source: RFC 3261 §12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialogState {
    /// Made by a provisional response.
    Early,
    /// Made or confirmed by a 2xx.
    Confirmed,
}

/// Why request and response make no dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// The response is a failure, 100, or (at the server) without a tag in To.
    #[error("this response makes no dialog")]
    NoDialog,
    /// A field that dialogs are made of is missing or malformed; this one.
    #[error("{0} is missing or malformed")]
    Field(HeaderName),
}

/// Why a request in a dialog is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Its CSeq is not above the last one: 500. Source: RFC 3261 §12.2.2.
    #[error("CSeq {found} after {last}")]
    CSeq {
        /// The request's.
        found: u32,
        /// The highest before it.
        last: u32,
    },
    /// It has no readable CSeq.
    #[error("no CSeq")]
    Missing,
}

/// The first CSeq number of our requests in a dialog that the other side began. Source: RFC 3261 §12.1.1.
const CSEQ_BEFORE_FIRST: u32 = 0;

impl Dialog {
    /// The dialog at the server of `request`, made by its own `response` (RFC 3261 §12.1.1).
    ///
    /// # Errors
    /// See [`DialogError`]; a request without a Contact makes no dialog.
    pub fn at_server(request: &Message, response: &Message) -> Result<Dialog, DialogError> {
        let state = state_made_by(response)?;
        let local = field(response, HeaderName::To)?;
        if tag_of(&local).is_none() {
            return Err(DialogError::NoDialog);
        }
        let routes = request.values(HeaderName::RecordRoute);
        let cseq = request.cseq().map_err(|_| DialogError::Field(HeaderName::CSeq))?;
        Ok(Dialog {
            call_id: field(request, HeaderName::CallId)?,
            local,
            remote: field(request, HeaderName::From)?,
            local_cseq: CSEQ_BEFORE_FIRST,
            remote_cseq: Some(cseq.number),
            route_set: routes.map(Bytes::copy_from_slice).collect(),
            remote_target: contact(request).ok_or(DialogError::Field(HeaderName::Contact))?,
            state,
        })
    }

    /// The dialog at the client that sent `request`, made by `response` (RFC 3261 §12.1.2).
    ///
    /// A 2xx without Contact makes one to where the request went, so that it can be acknowledged and ended.
    ///
    /// # Errors
    /// See [`DialogError`].
    pub fn at_client(request: &Message, response: &Message) -> Result<Dialog, DialogError> {
        let state = state_made_by(response)?;
        let remote = field(response, HeaderName::To)?;
        let target = match (contact(response), state) {
            (Some(target), _) => target,
            (None, DialogState::Confirmed) => {
                Bytes::copy_from_slice(request.request_uri().ok_or(DialogError::NoDialog)?)
            }
            (None, DialogState::Early) => return Err(DialogError::Field(HeaderName::Contact)),
        };
        let cseq = request.cseq().map_err(|_| DialogError::Field(HeaderName::CSeq))?;
        Ok(Dialog {
            call_id: field(request, HeaderName::CallId)?,
            local: field(request, HeaderName::From)?,
            remote,
            local_cseq: cseq.number,
            remote_cseq: None,
            route_set: reversed_route(response),
            remote_target: target,
            state,
        })
    }

    /// The 2xx to the client's first request has come: the dialog is confirmed, by what this response says of the
    /// route (RFC 3261 §13.2.2.4).
    pub fn confirm(&mut self, response: &Message) {
        if self.state == DialogState::Early {
            self.route_set = reversed_route(response);
            self.state = DialogState::Confirmed;
        }
        self.refresh_target(response);
    }

    /// Our tag.
    pub fn local_tag(&self) -> &[u8] {
        tag_of(&self.local).unwrap_or_default()
    }

    /// The other side's tag; empty for an RFC 2543 element.
    pub fn remote_tag(&self) -> &[u8] {
        tag_of(&self.remote).unwrap_or_default()
    }

    /// Whether a request from outside belongs to this dialog (RFC 3261 §12.2.2).
    pub fn has_request(&self, request: &Message) -> bool {
        let tag = |address: Result<NameAddr<'_>, _>, own: &[u8]| {
            address.is_ok_and(|address| address.tag().unwrap_or_default() == own)
        };
        request.call_id().is_ok_and(|call_id| call_id == self.call_id)
            && tag(request.to(), self.local_tag())
            && tag(request.from(), self.remote_tag())
    }

    /// Whether a response to a request of ours was given by the other end of this dialog, and no other fork.
    pub fn has_response(&self, response: &Message) -> bool {
        response.to().is_ok_and(|to| to.tag().unwrap_or_default() == self.remote_tag())
    }

    /// Takes note of a request that came, but for ACK and CANCEL, which have the number of another request.
    ///
    /// # Errors
    /// [`OutOfOrder`]; then nothing has changed. RFC 3261 §12.2.2 speaks of lower numbers only; the same number on
    /// what is no repetition is refused as well, since numbers must grow (§12.2.1.1).
    pub fn receive(&mut self, request: &Message) -> Result<(), OutOfOrder> {
        let cseq = request.cseq().map_err(|_| OutOfOrder::Missing)?;
        match cseq.method {
            Method::Ack | Method::Cancel => return Ok(()),
            _ => {}
        }
        if let Some(last) = self.remote_cseq.filter(|last| cseq.number <= *last) {
            return Err(OutOfOrder::CSeq { found: cseq.number, last });
        }
        self.remote_cseq = Some(cseq.number);
        if is_target_refresh(cseq.method) {
            self.refresh_target(request);
        }
        Ok(())
    }

    /// Takes the target from a target refresh request, or from the 2xx to one (RFC 3261 §12.2.1.2); a message without
    /// one Contact changes nothing.
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(target) = contact(message) {
            self.remote_target = target;
        }
    }

    /// The CSeq number of the next request of ours.
    pub fn take_cseq(&mut self) -> u32 {
        // Nobody sends four billion requests in a dialog, and a number used twice is better than a panic.
        self.local_cseq = self.local_cseq.saturating_add(1);
        self.local_cseq
    }

    /// Begins a request in this dialog (RFC 3261 §12.2.1.1): start line, Via, Route, From, To, Call-ID and CSeq. An ACK
    /// has the number of the INVITE it acknowledges, every other request a new one.
    pub fn request(&self, method: Method<'_>, cseq: u32, via: &[u8]) -> RequestBuilder {
        let (uri, routes) = self.next_hop();
        let mut request = RequestBuilder::new(method, uri).header(HeaderName::Via, via);
        for route in routes {
            request = request.header(HeaderName::Route, &route);
        }
        let cseq = [cseq.to_string().as_bytes(), b" ", method.as_bytes()].concat();
        request
            .header(HeaderName::From, &self.local)
            .header(HeaderName::To, &self.remote)
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, &cseq)
    }

    /// Request-URI and Route values; a strict router is asked by its own URI, the target goes to the end.
    fn next_hop(&self) -> (&[u8], Vec<Cow<'_, [u8]>>) {
        let routes = self.route_set.iter().map(|route| Cow::Borrowed(&route[..]));
        let first = self.route_set.first().and_then(|first| NameAddr::parse(first).ok());
        match first {
            Some(first) if !is_loose(first.uri()) => {
                // RFC 3261 §12.2.1.1
                let target = [b"<", &self.remote_target[..], b">"].concat();
                (first.uri(), routes.skip(1).chain([Cow::Owned(target)]).collect())
            }
            Some(_) | None => (&self.remote_target, routes.collect()),
        }
    }
}

/// Whether a request of this method tells its sender's new target. Source: RFC 3261 §12.2, RFC 3311, RFC 6665 §4.4.1.
pub fn is_target_refresh(method: Method<'_>) -> bool {
    matches!(
        method,
        Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer
    )
}

fn state_made_by(response: &Message) -> Result<DialogState, DialogError> {
    match response.status() {
        Some(101..=199) => Ok(DialogState::Early),
        Some(200..=299) => Ok(DialogState::Confirmed),
        Some(_) | None => Err(DialogError::NoDialog),
    }
}

/// RFC 3261 §12.1.2: the client sees the proxies in the opposite order.
fn reversed_route(response: &Message) -> Vec<Bytes> {
    let mut routes: Vec<Bytes> =
        response.values(HeaderName::RecordRoute).map(Bytes::copy_from_slice).collect();
    routes.reverse();
    routes
}

fn field(message: &Message, name: HeaderName) -> Result<Bytes, DialogError> {
    message.field(name).map(Bytes::copy_from_slice).ok_or(DialogError::Field(name))
}

/// The URI of the only Contact.
fn contact(message: &Message) -> Option<Bytes> {
    match message.contacts() {
        Ok(Contacts::List(list)) => match list.as_slice() {
            [one] => Some(Bytes::copy_from_slice(one.uri())),
            [] | [_, ..] => None,
        },
        Ok(Contacts::Star) | Err(_) => None,
    }
}

fn tag_of(address: &[u8]) -> Option<&[u8]> {
    NameAddr::parse(address).ok().and_then(|address| address.tag())
}

fn is_loose(uri: &[u8]) -> bool {
    match Uri::parse(uri) {
        Ok(Uri::Sip(uri)) => uri.lr(),
        Ok(Uri::Tel(_) | Uri::Other { .. }) | Err(_) => false,
    }
}
