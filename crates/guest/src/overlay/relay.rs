//! Passing the message of an event on to the linked leg.
//!
//! What one side asks is asked on the other, and the answer goes back to the request that waits for it: the oldest of its
//! method. So that this is the right one, a request is not passed on while one of the same method waits on the other side.

use bytes::Bytes;
use container::application::{Body, FieldName, Header, Response};
use container::session::{LegName, LegState, RequestId, SessionEvent};
use sip::{HeaderName, Message};

use super::{Overlay, Refusal};

/// Headers that speak of one leg: of its dialog, its credentials, its extensions. All others go on.
const OF_ONE_LEG: &[HeaderName] = &[
    HeaderName::Via,
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::MaxForwards,
    HeaderName::MaxBreadth,
    HeaderName::Contact,
    HeaderName::Route,
    HeaderName::RecordRoute,
    HeaderName::Path,
    HeaderName::ServiceRoute,
    HeaderName::ContentLength,
    HeaderName::ContentType,
    HeaderName::Require,
    HeaderName::ProxyRequire,
    HeaderName::Supported,
    HeaderName::Unsupported,
    HeaderName::Authorization,
    HeaderName::WwwAuthenticate,
    HeaderName::ProxyAuthorization,
    HeaderName::ProxyAuthenticate,
    HeaderName::AuthenticationInfo,
    HeaderName::Replaces,
    HeaderName::Join,
    HeaderName::RSeq,
    HeaderName::RAck,
    HeaderName::FlowTimer,
    HeaderName::SessionExpires,
    HeaderName::MinSe,
    HeaderName::RetryAfter,
];

impl Overlay {
    /// Passes the message of `event` on: a request as a request, a response or a failure as the answer to the request that
    /// caused it, an ACK as an ACK, a CANCEL as a CANCEL.
    ///
    /// # Errors
    /// [`Refusal`]: its leg is linked with none, nothing on the other one waits for it, or the other one cannot have it now.
    pub fn relay(&mut self, event: &SessionEvent) -> Result<(), Refusal> {
        match event {
            SessionEvent::Request { leg, message, .. } => self.relay_request(leg, message),
            SessionEvent::Acknowledged { leg, message } => {
                let other = self.other(leg)?;
                self.acknowledge(other.as_str(), headers(message), body(message))
            }
            SessionEvent::Response { leg, message } => {
                let method = message.cseq().map(|cseq| cseq.method.as_bytes()).unwrap_or_default();
                let other = self.other(leg)?;
                let request = self.waits(&other, method)?;
                self.respond(request, answer(message))
            }
            SessionEvent::Cancelled { leg, .. } => {
                let other = self.other(leg)?;
                self.cancel(other.as_str())
            }
            // Nobody acknowledged us: the leg is over.
            SessionEvent::Failed { leg, method, .. } if &method[..] == b"ACK" => {
                let other = self.other(leg)?;
                self.hang_up(&other)
            }
            SessionEvent::Failed { leg, method, status } => {
                let other = self.other(leg)?;
                let request = self.waits(&other, method)?;
                self.respond(request, Response::new(told(*status)))
            }
            SessionEvent::Timer { .. }
            | SessionEvent::Signal { .. }
            | SessionEvent::Http(_)
            | SessionEvent::Ending
            | SessionEvent::Ended => {
                let why = "this event came with no message".to_owned();
                Err(Refusal::WrongState(why))
            }
        }
    }

    fn relay_request(&mut self, leg: &LegName, message: &Message) -> Result<(), Refusal> {
        let method = message.method().map(|method| method.as_bytes()).unwrap_or_default();
        let other = self.other(leg)?;
        if method == b"BYE" {
            return self.hang_up(&other);
        }
        let waiting = self.view.leg(other.as_str()).map_or(&[][..], |leg| &leg.waiting);
        if waiting.iter().any(|waiting| waiting == method) {
            let method = String::from_utf8_lossy(method);
            let why = format!("leg {other} has not answered an earlier {method} yet");
            return Err(Refusal::WrongState(why));
        }
        let method = Bytes::copy_from_slice(method);
        self.send(other.as_str(), method, headers(message), body(message))
    }

    /// Ends a leg in the way that its state asks for.
    fn hang_up(&mut self, leg: &LegName) -> Result<(), Refusal> {
        match self.view.leg(leg.as_str()).map(|leg| leg.state) {
            Some(LegState::Early) => self.cancel(leg.as_str()),
            Some(LegState::Confirmed | LegState::Ended) | None => {
                self.send(leg.as_str(), Bytes::from_static(b"BYE"), Vec::new(), None)
            }
        }
    }

    fn other(&self, leg: &LegName) -> Result<LegName, Refusal> {
        let linked = self.view.leg(leg.as_str()).and_then(|leg| leg.linked.clone());
        linked.ok_or_else(|| Refusal::WrongState(format!("leg {leg} is linked with none")))
    }

    /// The oldest request of that method that waits on a leg.
    fn waits(&self, leg: &LegName, method: &[u8]) -> Result<RequestId, Refusal> {
        let mut waiting = self.view.leg(leg.as_str()).into_iter().flat_map(|leg| &leg.unanswered);
        let found = waiting.find(|(_, waiting)| waiting == method);
        found.map(|(request, _)| *request).ok_or_else(|| {
            let method = String::from_utf8_lossy(method);
            Refusal::WrongState(format!("no {method} waits on leg {leg} for an answer"))
        })
    }
}

/// The headers of a message that go on.
fn headers(message: &Message) -> Vec<Header> {
    let passed = message.all_fields().filter(|(name, _, _)| !OF_ONE_LEG.contains(name));
    passed
        .map(|(_, name, value)| Header {
            name: FieldName::Named(Bytes::copy_from_slice(name)),
            value: Bytes::copy_from_slice(value),
        })
        .collect()
}

/// The body of a message, if it has one and says of what type.
fn body(message: &Message) -> Option<Body> {
    let content_type = message.field(HeaderName::ContentType)?;
    (!message.body().is_empty()).then(|| Body {
        content_type: Bytes::copy_from_slice(content_type),
        content: Bytes::copy_from_slice(message.body()),
    })
}

/// A response for the other leg.
fn answer(message: &Message) -> Response {
    let status = message.status().unwrap_or(500);
    let mut response = Response::new(told(status));
    if response.status == status {
        response.reason = Bytes::copy_from_slice(message.reason());
        response.headers = headers(message);
        response.body = body(message);
    }
    response
}

/// What a refusal is on the other leg: some speak of our own leg only.
fn told(status: u16) -> u16 {
    match status {
        // The Contact would name a way past us.
        300..=399 => 480,
        // Whoever asks it of us asks nothing that the other side could prove.
        401 | 407 => 403,
        // RFC 3261 §16.7(6): overload of one way is not overload of the other.
        503 => 500,
        _ => status,
    }
}
