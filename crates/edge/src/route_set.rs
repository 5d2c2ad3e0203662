//! The Route values and the Request-URI of one request while its next hop is decided.
//!
//! RFC 3261 §16.4 and §16.6(6): a strict router before us leaves our own URI as Request-URI, one
//! behind us wants its own there. Both swaps are made here, on borrowed pieces; nothing is written
//! before the next hop is known.

use sip::{Edits, HeaderName, Message, NameAddr};
use smallvec::SmallVec;

use crate::header_value::HeaderValue;

/// Where a request says it wants to go.
#[derive(Clone, Debug)]
pub(crate) struct RouteSet<'a> {
    request_uri: &'a [u8],
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
        RouteSet {
            request_uri: request.request_uri().unwrap_or_default(),
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

    /// The Request-URI.
    pub(crate) fn request_uri(&self) -> &'a [u8] {
        self.request_uri
    }

    /// Gives the next hop, a strict router, its own URI as Request-URI. Source: RFC 3261 §16.6(6).
    pub(crate) fn swap_for_strict(&mut self) {
        if let Some(strict) = self.next().and_then(|value| NameAddr::parse(value).ok()) {
            self.consumed += 1;
            self.rewrite = Rewrite::ForStrict(self.request_uri);
            self.request_uri = strict.uri();
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
