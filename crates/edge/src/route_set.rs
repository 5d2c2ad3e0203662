//! The Route values and the Request-URI of one request while its next hop is decided.
//!
//! RFC 3261 §16.4 and §16.6(6): a strict router before us leaves our own URI as Request-URI, one
//! behind us wants its own there. Both swaps are made here, on borrowed pieces; nothing is written
//! before the next hop is known.

use sip::{Edits, HeaderName, Message, NameAddr, SipUri, Uri};
use smallvec::SmallVec;

use crate::header_value::HeaderValue;
use crate::route::sip_uri;

/// Where a request says it wants to go.
#[derive(Clone, Debug)]
pub(crate) struct RouteSet<'a> {
    request_uri: &'a [u8],
    /// The same, read; `None` if it is malformed.
    target: Option<Uri<'a>>,
    values: SmallVec<[&'a [u8]; 8]>,
    /// Leading values that were consumed.
    consumed: usize,
    rewrite: Rewrite<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rewrite<'a> {
    /// Only leading values go.
    None,
    /// The Request-URI was our own, the last Route value took its place.
    RestoredFromStrict,
    /// The next hop routes strictly: it gets its own URI, this one follows as last Route value.
    ForStrict(&'a [u8]),
}

impl<'a> RouteSet<'a> {
    /// The route set as received.
    pub(crate) fn of(request: &'a Message) -> RouteSet<'a> {
        RouteSet::toward(Uri::parse(request.request_uri().unwrap_or_default()).ok(), request)
    }

    /// The route set as received, of a request whose Request-URI is read already.
    pub(crate) fn toward(target: Option<Uri<'a>>, request: &'a Message) -> RouteSet<'a> {
        RouteSet {
            request_uri: request.request_uri().unwrap_or_default(),
            target,
            values: request.values(HeaderName::Route).collect(),
            consumed: 0,
            rewrite: Rewrite::None,
        }
    }

    /// Puts the last Route value back into the Request-URI. Source: RFC 3261 §16.4.
    pub(crate) fn restore_from_strict(&mut self) {
        let last = self.values.pop().and_then(|value| NameAddr::parse(value).ok());
        if let Some(last) = last {
            self.request_uri = last.uri();
            self.target = Uri::parse(last.uri()).ok();
            self.rewrite = Rewrite::RestoredFromStrict;
        }
    }

    /// Consumes that many leading values.
    pub(crate) fn consume(&mut self, count: usize) {
        self.consumed += count;
    }

    /// Takes back the last consumed value: the next hop needs it.
    pub(crate) fn give_back(&mut self) {
        self.consumed = self.consumed.saturating_sub(1);
    }

    /// The Route values that are left.
    pub(crate) fn values(&self) -> impl Iterator<Item = &'a [u8]> {
        self.values[self.consumed..].iter().copied()
    }

    /// The topmost Route value that is left.
    pub(crate) fn next(&self) -> Option<&'a [u8]> {
        self.values().next()
    }

    /// Where the request goes next: the topmost Route value that is left, without one the Request-URI; `None` if that
    /// is no SIP URI.
    pub(crate) fn target(&self) -> Option<SipUri<'a>> {
        match (self.next(), self.target) {
            (Some(value), _) => sip_uri(value),
            (None, Some(Uri::Sip(uri))) => Some(uri),
            (None, Some(Uri::Tel(_) | Uri::Other { .. }) | None) => None,
        }
    }

    /// Gives the next hop, a strict router, its own URI as Request-URI. Source: RFC 3261 §16.6(6).
    pub(crate) fn swap_for_strict(&mut self) {
        if let Some(strict) = self.next().and_then(|value| NameAddr::parse(value).ok()) {
            self.consumed += 1;
            self.rewrite = Rewrite::ForStrict(self.request_uri);
            self.request_uri = strict.uri();
            self.target = Uri::parse(strict.uri()).ok();
        }
    }

    /// Writes what changed.
    pub(crate) fn apply(&self, edits: &mut Edits) {
        if self.rewrite == Rewrite::None {
            for _ in 0..self.consumed {
                edits.remove_first_value(HeaderName::Route);
            }
            return;
        }
        edits.set_request_uri(self.request_uri);
        edits.remove_all(HeaderName::Route);
        for value in self.values() {
            edits.push_back(HeaderName::Route, value);
        }
        if let Rewrite::ForStrict(request_uri) = self.rewrite {
            let last = HeaderValue::new().with(b"<").with(request_uri).with(b">");
            edits.push_back(HeaderName::Route, &last);
        }
    }
}
