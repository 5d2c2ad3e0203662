//! The interface `message`: fields of the message of the present event, read when they are asked for.
//!
//! A message is known by a number that no other message of the instance had. So a guest that keeps one beyond its event,
//! against the interface, finds nothing under it and traps, instead of reading the message of somebody else's session.

use bytes::Bytes;
use container::session::SessionEvent;
use sip::{HeaderName, NameAddr, Uri, Via};
use wasmtime::component::Resource;

use super::{Host, wit};

/// The type that the bindings give a message: a name only.
#[allow(unreachable_pub)] // the bindings hand it on
pub struct Present;

/// What happens at present, and under which name its message is known.
pub(super) struct Subject {
    name: u32,
    what: What,
}

enum What {
    /// An event of a session.
    Event(SessionEvent),
    /// A request that is asked about.
    Request(sip::Message),
}

impl Subject {
    /// The event, if it is one.
    pub(super) fn event(&self) -> Option<&SessionEvent> {
        match &self.what {
            What::Event(event) => Some(event),
            What::Request(_) => None,
        }
    }

    fn message(&self) -> Option<&sip::Message> {
        match &self.what {
            What::Request(message)
            | What::Event(
                SessionEvent::Request { message, .. }
                | SessionEvent::Acknowledged { message, .. }
                | SessionEvent::Response { message, .. },
            ) => Some(message),
            What::Event(
                SessionEvent::Cancelled { .. }
                | SessionEvent::Failed { .. }
                | SessionEvent::Timer { .. }
                | SessionEvent::Signal { .. }
                | SessionEvent::Http(_)
                | SessionEvent::Ending
                | SessionEvent::Ended,
            ) => None,
        }
    }
}

impl Host {
    /// An event is about to be told. Its message, if it has one, is the guest's for as long as the event is handled.
    pub(crate) fn happens(&mut self, event: &SessionEvent) -> Resource<Present> {
        Resource::new_own(self.subject(What::Event(event.clone())))
    }

    /// A request is about to be asked about; the guest may look at it during one call.
    pub(crate) fn lend(&mut self, message: &sip::Message) -> Resource<Present> {
        Resource::new_borrow(self.subject(What::Request(message.clone())))
    }

    fn subject(&mut self, what: What) -> u32 {
        self.messages = self.messages.wrapping_add(1);
        self.subject = Some(Subject { name: self.messages, what });
        self.messages
    }

    fn message(&self, named: &Resource<Present>) -> wasmtime::Result<&sip::Message> {
        let present = self.subject.as_ref().filter(|present| present.name == named.rep());
        let why = "a message can be read only during the event that it came with";
        present.and_then(Subject::message).ok_or_else(|| wasmtime::Error::msg(why))
    }
}

impl super::wit::message::Host for Host {}

impl super::wit::message::HostMessage for Host {
    fn method(&mut self, this: Resource<Present>) -> wasmtime::Result<String> {
        let message = self.message(&this)?;
        let method = match message.method() {
            Some(method) => text(method.as_bytes()),
            None => message.cseq().map(|cseq| text(cseq.method.as_bytes())).unwrap_or_default(),
        };
        Ok(method)
    }

    fn status(&mut self, this: Resource<Present>) -> wasmtime::Result<Option<u16>> {
        Ok(self.message(&this)?.status())
    }

    fn reason(&mut self, this: Resource<Present>) -> wasmtime::Result<String> {
        Ok(text(self.message(&this)?.reason()))
    }

    fn request_uri(
        &mut self,
        this: Resource<Present>,
    ) -> wasmtime::Result<Option<wit::message::Uri>> {
        Ok(self.message(&this)?.request_uri().map(uri))
    }

    fn header(
        &mut self,
        this: Resource<Present>,
        name: String,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.message(&this)?.field_named(name.as_bytes()).map(text))
    }

    fn headers(&mut self, this: Resource<Present>, name: String) -> wasmtime::Result<Vec<String>> {
        let message = self.message(&this)?;
        let known = HeaderName::parse(name.as_bytes());
        if is_list(known) {
            return Ok(message.values(known).map(text).collect());
        }
        let is_asked = |found: HeaderName, written: &[u8]| match known {
            HeaderName::Other => written.eq_ignore_ascii_case(name.as_bytes()),
            known => found == known,
        };
        let fields = message.all_fields().filter(|(found, written, _)| is_asked(*found, written));
        Ok(fields.map(|(_, _, value)| text(value)).collect())
    }

    fn all_headers(
        &mut self,
        this: Resource<Present>,
    ) -> wasmtime::Result<Vec<wit::types::Header>> {
        let fields = self.message(&this)?.all_fields();
        let header = |(_, name, value): (HeaderName, &[u8], &[u8])| wit::types::Header {
            name: text(name),
            value: text(value),
        };
        Ok(fields.map(header).collect())
    }

    fn address(
        &mut self,
        this: Resource<Present>,
        name: String,
    ) -> wasmtime::Result<Option<wit::message::Address>> {
        let message = self.message(&this)?;
        let value = match HeaderName::parse(name.as_bytes()) {
            known if is_list(known) => message.values(known).next(),
            _ => message.field_named(name.as_bytes()),
        };
        let parsed = value.and_then(|value| NameAddr::parse(value).ok());
        Ok(parsed.map(|address| wit::message::Address {
            display_name: text(&sip::unquote(address.display())),
            uri: uri(address.uri()),
            parameters: address.params().iter().map(parameter).collect(),
        }))
    }

    fn body(&mut self, this: Resource<Present>) -> wasmtime::Result<Option<wit::types::Body>> {
        let message = self.message(&this)?;
        let content = message.body();
        let content_type = message.field(HeaderName::ContentType).map(text).unwrap_or_default();
        let body = || wit::types::Body { content_type, content: content.to_vec() };
        Ok((!content.is_empty()).then(body))
    }

    fn bytes(&mut self, this: Resource<Present>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.message(&this)?.buffer().to_vec())
    }

    fn source(&mut self, this: Resource<Present>) -> wasmtime::Result<String> {
        Ok(senders_via(self.message(&this)?).map(|via| source_of(&via)).unwrap_or_default())
    }

    fn transport(&mut self, this: Resource<Present>) -> wasmtime::Result<String> {
        let via = senders_via(self.message(&this)?);
        Ok(via.map(|via| text(via.transport).to_ascii_lowercase()).unwrap_or_default())
    }

    fn drop(&mut self, _this: Resource<Present>) -> wasmtime::Result<()> {
        Ok(()) // it goes with its event
    }
}

/// The Via below the edge's own, in which the edge has noted where the request came from (RFC 3261 §18.2.1, RFC 3581).
fn senders_via(message: &sip::Message) -> Option<Via<'_>> {
    if !message.is_request() {
        return None;
    }
    message.values(HeaderName::Via).nth(1).and_then(|value| Via::parse(value).ok())
}

fn source_of(via: &Via<'_>) -> String {
    let host = match via.params.value(b"received") {
        Some(received) if received.contains(&b':') && !received.starts_with(b"[") => {
            format!("[{}]", text(received))
        }
        Some(received) => text(received),
        None => via.host.to_string(),
    };
    let noted = via.params.value(b"rport").and_then(|port| text(port).parse().ok());
    let default = if via.transport.eq_ignore_ascii_case(b"TLS") { 5061 } else { 5060 };
    format!("{host}:{}", noted.or(via.port).unwrap_or(default))
}

/// Headers whose values are lists: one field with commas is the same as several (RFC 3261 §7.3.1).
fn is_list(name: HeaderName) -> bool {
    use HeaderName as N;
    matches!(
        name,
        N::Via
            | N::Contact
            | N::Route
            | N::RecordRoute
            | N::Path
            | N::ServiceRoute
            | N::ContentEncoding
            | N::ContentLanguage
            | N::Require
            | N::ProxyRequire
            | N::Supported
            | N::Unsupported
            | N::Allow
            | N::AllowEvents
            | N::Accept
            | N::AcceptEncoding
            | N::AcceptLanguage
            | N::AcceptContact
            | N::RejectContact
            | N::RequestDisposition
            | N::Warning
            | N::InReplyTo
            | N::AlertInfo
            | N::CallInfo
            | N::ErrorInfo
            | N::PAssertedIdentity
            | N::PPreferredIdentity
            | N::PAssociatedUri
            | N::HistoryInfo
            | N::Diversion
            | N::Reason
    )
}

fn uri(octets: &[u8]) -> wit::message::Uri {
    let mut parts = wit::message::Uri {
        scheme: String::new(),
        user: String::new(),
        host: String::new(),
        port: None,
        parameters: Vec::new(),
        text: text(octets),
    };
    match Uri::parse(octets) {
        Ok(Uri::Sip(sip)) => {
            parts.scheme = if sip.secure { "sips" } else { "sip" }.to_owned();
            parts.user = sip.user.map(text).unwrap_or_default();
            parts.host = sip.host.to_string().to_ascii_lowercase();
            parts.port = sip.port;
            parts.parameters = sip.params().map(parameter).collect();
        }
        Ok(Uri::Tel(tel)) => {
            parts.scheme = "tel".to_owned();
            let mut pieces = tel.split(|&octet| octet == b';');
            parts.user = pieces.next().map(text).unwrap_or_default();
            parts.parameters = pieces.map(|piece| parameter(halves(piece))).collect();
        }
        Ok(Uri::Other { scheme, .. }) => parts.scheme = text(scheme).to_ascii_lowercase(),
        Err(_) => {}
    }
    parts
}

fn halves(piece: &[u8]) -> (&[u8], Option<&[u8]>) {
    match piece.iter().position(|&octet| octet == b'=') {
        Some(at) => (&piece[..at], Some(&piece[at + 1..])),
        None => (piece, None),
    }
}

fn parameter((name, value): (&[u8], Option<&[u8]>)) -> (String, String) {
    let value = value.map(|value| text(&sip::unquote(value))).unwrap_or_default();
    (text(name).to_ascii_lowercase(), value)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

impl From<wit::types::Body> for container::application::Body {
    fn from(body: wit::types::Body) -> container::application::Body {
        container::application::Body {
            content_type: Bytes::from(body.content_type),
            content: Bytes::from(body.content),
        }
    }
}

impl From<wit::types::Header> for container::application::Header {
    fn from(header: wit::types::Header) -> container::application::Header {
        use container::application::FieldName;
        // Written as given, so that a handler sees its own spelling on the wire.
        let name = FieldName::Named(Bytes::from(header.name));
        container::application::Header { name, value: Bytes::from(header.value) }
    }
}
