//! One SIP message: a refcounted buffer plus the offsets of its parts; everything else is read when asked for.
//!
//! What travels through the whole house. RFC 3261 §7. Nothing is copied, unescaped or normalised: each accessor
//! returns bytes of the buffer as they came by the wire, so that what we forward is what we received. Whether the
//! message makes sense is judged by [`Message::check_request`] and [`Message::check_response`].

use std::time::Duration;

use bytes::Bytes;

use crate::contact::Contacts;
use crate::cseq::CSeq;
use crate::error::{HeaderError, ParseError};
use crate::grammar::{decimal, decimal_saturating, is_call_id};
use crate::header_name::HeaderName;
use crate::method::Method;
use crate::name_addr::NameAddr;
use crate::structure::{self, Field, StartLine, Structure};
use crate::values::Values;
use crate::via::Via;

/// A SIP request or response. Cloning shares the octets.
#[derive(Clone, Debug)]
pub struct Message {
    buffer: Bytes,
    structure: Structure,
}

impl Message {
    /// Finds start line, header fields and body of one message; allocates nothing up to 32 header fields.
    ///
    /// Octets past Content-Length stay in [`buffer`](Message::buffer) but belong to no part of the message
    /// (RFC 3261 §18.3). A Content-Length that promises more than is there is the caller's to refuse, with
    /// [`check_request`](Message::check_request).
    ///
    /// # Errors
    /// The octets are not one SIP message; see [`ParseError`].
    pub fn parse(buffer: Bytes) -> Result<Message, ParseError> {
        let structure = structure::parse(&buffer)?;
        Ok(Message { buffer, structure })
    }

    /// All octets as received.
    pub fn buffer(&self) -> &Bytes {
        &self.buffer
    }

    /// The same message in a buffer of its own, for whoever keeps it: the octets of a message that was read from a
    /// socket or link are a slice of a much larger buffer, which lives as long as any slice of it.
    pub fn detached(&self) -> Message {
        Message { buffer: Bytes::copy_from_slice(&self.buffer), structure: self.structure.clone() }
    }

    /// Whether this is a request; otherwise it is a response.
    pub fn is_request(&self) -> bool {
        matches!(self.structure.start_line, StartLine::Request { .. })
    }

    /// The method of a request.
    pub fn method(&self) -> Option<Method<'_>> {
        match self.structure.start_line {
            StartLine::Request { method_end, .. } => Method::parse(self.slice((0, method_end))),
            StartLine::Response { .. } => None,
        }
    }

    /// The Request-URI as it stands on the wire.
    pub fn request_uri(&self) -> Option<&[u8]> {
        match self.structure.start_line {
            StartLine::Request { uri, .. } => Some(self.slice(uri)),
            StartLine::Response { .. } => None,
        }
    }

    /// The status code of a response, 100 to 699.
    pub fn status(&self) -> Option<u16> {
        match self.structure.start_line {
            StartLine::Request { .. } => None,
            StartLine::Response { status, .. } => Some(status),
        }
    }

    /// The reason phrase of a response, often empty; empty for a request.
    pub fn reason(&self) -> &[u8] {
        match self.structure.start_line {
            StartLine::Request { .. } => &[],
            StartLine::Response { reason, .. } => self.slice(reason),
        }
    }

    /// The SIP version of the start line, such as `SIP/2.0`.
    pub fn version(&self) -> &[u8] {
        match self.structure.start_line {
            StartLine::Request { version, .. } => self.slice(version),
            StartLine::Response { version_end, .. } => self.slice((0, version_end)),
        }
    }

    /// The value of the first header field of that name, trimmed, folds as on the wire.
    pub fn field(&self, name: HeaderName) -> Option<&[u8]> {
        self.raw_fields().iter().find(|field| field.name == name).map(|field| self.value(field))
    }

    /// The values of all header fields of that name, top-most first, one a field.
    pub fn fields(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.raw_fields()
            .iter()
            .filter(move |field| field.name == name)
            .map(|field| self.value(field))
    }

    /// The list values of all header fields of that name, top-most first: split at commas outside quotes and `<>`.
    ///
    /// A field without any value yields nothing; an empty place between two commas yields an empty value.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.fields(name).flat_map(Values::new)
    }

    /// The value of the first header field with that name, any header, case-insensitive.
    ///
    /// For headers in [`HeaderName`] both forms are found whichever is asked for.
    pub fn field_named(&self, name: &[u8]) -> Option<&[u8]> {
        match HeaderName::parse(name) {
            HeaderName::Other => self
                .all_fields()
                .find(|(known, wire_name, _)| {
                    *known == HeaderName::Other && wire_name.eq_ignore_ascii_case(name)
                })
                .map(|(_, _, value)| value),
            known => self.field(known),
        }
    }

    /// Every header field in order: its name as known here, its name on the wire, its trimmed value.
    pub fn all_fields(&self) -> impl Iterator<Item = (HeaderName, &[u8], &[u8])> {
        self.raw_fields()
            .iter()
            .map(|field| (field.name, self.slice((field.start, field.name_end)), self.value(field)))
    }

    /// The body: as many octets as Content-Length says, or all that follow the header.
    pub fn body(&self) -> &[u8] {
        self.slice(self.structure.body)
    }

    /// The top-most Via value.
    ///
    /// # Errors
    /// There is none, or it is malformed.
    pub fn top_via(&self) -> Result<Via<'_>, HeaderError> {
        let value = self.values(HeaderName::Via).next();
        Via::parse(value.ok_or(HeaderError::new(HeaderName::Via, "Missing Via"))?)
    }

    /// The CSeq header.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn cseq(&self) -> Result<CSeq<'_>, HeaderError> {
        CSeq::parse(
            self.field(HeaderName::CSeq)
                .ok_or(HeaderError::new(HeaderName::CSeq, "Missing CSeq"))?,
        )
    }

    /// The Call-ID, compared byte by byte.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn call_id(&self) -> Result<&[u8], HeaderError> {
        let value = self.field(HeaderName::CallId);
        let value = value.ok_or(HeaderError::new(HeaderName::CallId, "Missing Call-ID"))?;
        if is_call_id(value) {
            Ok(value)
        } else {
            Err(HeaderError::new(HeaderName::CallId, "Malformed Call-ID"))
        }
    }

    /// The From header.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn from(&self) -> Result<NameAddr<'_>, HeaderError> {
        let value = self
            .field(HeaderName::From)
            .ok_or(HeaderError::new(HeaderName::From, "Missing From"))?;
        NameAddr::parse(value).map_err(|_| HeaderError::new(HeaderName::From, "Malformed From"))
    }

    /// The To header.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn to(&self) -> Result<NameAddr<'_>, HeaderError> {
        let value =
            self.field(HeaderName::To).ok_or(HeaderError::new(HeaderName::To, "Missing To"))?;
        NameAddr::parse(value).map_err(|_| HeaderError::new(HeaderName::To, "Malformed To"))
    }

    /// Max-Forwards, 0 to 255; `None` if there is none. Source: RFC 3261 §20.22.
    ///
    /// # Errors
    /// It is no number or above 255.
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        let Some(value) = self.field(HeaderName::MaxForwards) else { return Ok(None) };
        decimal(value)
            .and_then(|number| u8::try_from(number).ok())
            .map(Some)
            .ok_or(HeaderError::new(HeaderName::MaxForwards, "Malformed Max-Forwards"))
    }

    /// After how long the sender of a response wants to be asked again, in whole seconds; `None` if it does not say so, or
    /// nothing that can be read. Source: RFC 3261 §20.33, whose comment and parameters are passed over.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.field(HeaderName::RetryAfter)?;
        let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
        decimal_saturating(&value[..digits]).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Content-Length in octets; `None` if there is none.
    ///
    /// # Errors
    /// It is no number, or there is more than one, even if they agree.
    pub fn content_length(&self) -> Result<Option<usize>, HeaderError> {
        let mut fields = self.fields(HeaderName::ContentLength);
        let Some(value) = fields.next() else { return Ok(None) };
        if fields.next().is_some() {
            return Err(HeaderError::new(
                HeaderName::ContentLength,
                "More than one Content-Length",
            ));
        }
        decimal(value)
            .and_then(|number| usize::try_from(number).ok())
            .map(Some)
            .ok_or(HeaderError::new(HeaderName::ContentLength, "Malformed Content-Length"))
    }

    /// The Expires header in seconds, saturating; `None` if there is none or it is no number.
    ///
    /// Source: RFC 3261 §20.19; for REGISTER §10.2.1.1 lets a malformed value stand for the default.
    pub fn expires(&self) -> Option<u32> {
        decimal_saturating(self.field(HeaderName::Expires)?)
    }

    /// The Contact values: a list or `*`.
    ///
    /// # Errors
    /// One is malformed, or `*` does not stand alone (RFC 3261 §10.3(6)).
    pub fn contacts(&self) -> Result<Contacts<'_>, HeaderError> {
        Contacts::of(self)
    }

    pub(crate) fn structure(&self) -> &Structure {
        &self.structure
    }

    pub(crate) fn raw_fields(&self) -> &[Field] {
        &self.structure.fields
    }

    pub(crate) fn value(&self, field: &Field) -> &[u8] {
        self.slice((field.value_start, field.value_end))
    }

    pub(crate) fn slice(&self, (start, end): (u16, u16)) -> &[u8] {
        &self.buffer[usize::from(start)..usize::from(end)]
    }
}
