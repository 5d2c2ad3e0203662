//! The structural pass: octets into a start line, header field lines and a body, as offsets, without allocation.
//!
//! First thing that happens to every message. RFC 3261 §7. Values are not looked into, with one exception:
//! Content-Length, which says where the body ends. Line ends are judged here, once and strictly (a bare CR or LF, or
//! a NUL outside a quoted pair, is refused), because two hops that see different lines is how messages are smuggled.
//! Deliberately lenient: stray spaces around the parts of the start line (RFC 4475 §3.1.2.9, §3.1.2.10) and a
//! missing empty line after the header (`baddn`), both of which `check` judges later, when an answer can be sent.

use memchr::{memchr, memchr3};
use smallvec::SmallVec;

use crate::error::ParseError;
use crate::grammar::{decimal, is_lws, is_token, trim_lws};
use crate::header_name::HeaderName;

/// The longest message, in bytes; a longer one is refused with [`ParseError::TooLong`]. UDP cannot carry more.
pub const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;

/// The most header fields of one message; more are refused with [`ParseError::TooManyFields`].
pub const FIELDS_MAX: usize = 256;

/// Offsets of one header field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// First byte of the name.
    pub(crate) start: u16,
    /// Just past the name (before white space and colon).
    pub(crate) name_end: u16,
    /// First byte of the trimmed value.
    pub(crate) value_start: u16,
    /// Just past the trimmed value.
    pub(crate) value_end: u16,
    /// Just past the line's CRLF, folded lines included.
    pub(crate) end: u16,
    pub(crate) name: HeaderName,
}

/// Offsets of the start line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartLine {
    Request { method_end: u16, uri: (u16, u16), version: (u16, u16) },
    Response { version_end: u16, status: u16, reason: (u16, u16) },
}

/// Fields that fit without heap. A usual INVITE has 12 to 20.
pub(crate) type Fields = SmallVec<[Field; 32]>;

/// What the structural pass finds.
#[derive(Clone, Debug)]
pub(crate) struct Structure {
    pub(crate) start_line: StartLine,
    /// First byte of the first header field.
    pub(crate) fields_start: u16,
    pub(crate) fields: Fields,
    /// Just past the last header field.
    pub(crate) fields_end: u16,
    /// Whether the empty line after the header is there.
    pub(crate) terminated: bool,
    pub(crate) body: (u16, u16),
}

/// Reads the structure of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Structure, ParseError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(ParseError::TooLong);
    }
    let start_line_end = line_end(bytes, 0)?;
    let start_line = parse_start_line(&bytes[..start_line_end])?;

    let fields_start = start_line_end + 2;
    let mut lines = FieldLines { bytes, at: fields_start };
    let mut fields = Fields::new();
    while let Some(field) = lines.next()? {
        if fields.len() == FIELDS_MAX {
            return Err(ParseError::TooManyFields);
        }
        fields.push(field);
    }
    let fields_end = lines.at;
    let terminated = bytes.get(fields_end) == Some(&b'\r');
    let body_start = fields_end + if terminated { 2 } else { 0 };
    let body_end = declared_body_end(bytes, &fields, body_start);
    Ok(Structure {
        start_line,
        fields_start: offset(fields_start),
        fields,
        fields_end: offset(fields_end),
        terminated,
        body: (offset(body_start), offset(body_end)),
    })
}

/// Where the body ends: at Content-Length if that is readable and enough octets are there, else at the end.
fn declared_body_end(bytes: &[u8], fields: &Fields, body_start: usize) -> usize {
    fields
        .iter()
        .find(|field| field.name == HeaderName::ContentLength)
        .and_then(|field| {
            decimal(&bytes[usize::from(field.value_start)..usize::from(field.value_end)])
        })
        .and_then(|length| usize::try_from(length).ok())
        .and_then(|length| body_start.checked_add(length))
        .map_or(bytes.len(), |end| end.min(bytes.len()))
}

/// Narrows an offset into a message whose length was checked.
fn offset(at: usize) -> u16 {
    u16::try_from(at).expect("messages are at most 65,535 bytes long")
}

/// Finds the CR of the next CRLF at or after `from`.
fn line_end(bytes: &[u8], from: usize) -> Result<usize, ParseError> {
    let mut at = from;
    loop {
        at += memchr3(b'\r', b'\n', 0, &bytes[at..]).ok_or(ParseError::Truncated)?;
        match bytes[at] {
            b'\r' => {
                return match bytes.get(at + 1) {
                    Some(b'\n') => Ok(at),
                    Some(_) => Err(ParseError::BareLineEnd(at)),
                    None => Err(ParseError::Truncated),
                };
            }
            b'\n' => return Err(ParseError::BareLineEnd(at)),
            // RFC 3261 §25.1: quoted-pair = "\" (%x00-09 / ...), so "\NUL" in a display name is lawful.
            _ if at > from && bytes[at - 1] == b'\\' => at += 1,
            _ => return Err(ParseError::Nul(at)),
        }
    }
}

/// Walks over header field lines up to the empty line or the end of the octets.
pub(crate) struct FieldLines<'a> {
    bytes: &'a [u8],
    /// Start of the next line; after the last one, of the empty line.
    at: usize,
}

impl<'a> FieldLines<'a> {
    /// Starts behind the start line of `bytes`.
    pub(crate) fn after_start_line(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let at = line_end(bytes, 0)? + 2;
        Ok(FieldLines { bytes, at })
    }

    /// The next field, or `None` behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, ParseError> {
        let start = self.at;
        let bytes = self.bytes;
        match bytes.get(start..start + 2) {
            Some(b"\r\n") => return Ok(None),
            None if start >= bytes.len() => return Ok(None),
            _ => {}
        }
        let mut end = line_end(bytes, start)?;
        // RFC 3261 §7.3.1: a line that begins with SP or HT continues the one before.
        while let Some(b' ' | b'\t') = bytes.get(end + 2) {
            end = line_end(bytes, end + 2)?;
        }
        self.at = end + 2;
        parse_field(bytes, start, end).map(Some)
    }
}

/// Splits one logical line, `bytes[start..end]` without its last CRLF, into name and value.
fn parse_field(bytes: &[u8], start: usize, end: usize) -> Result<Field, ParseError> {
    let line = &bytes[start..end];
    let colon = memchr(b':', line).ok_or(ParseError::Field(start))?;
    let mut name_length = colon;
    // RFC 3261 §25.1 HCOLON = *( SP / HTAB ) ":" SWS; a fold before the colon is not lawful.
    while name_length > 0 && matches!(line[name_length - 1], b' ' | b'\t') {
        name_length -= 1;
    }
    let name = HeaderName::parse(&line[..name_length]);
    if name == HeaderName::Other && !is_token(&line[..name_length]) {
        return Err(ParseError::Field(start));
    }
    let mut value_start = start + colon + 1;
    let mut value_end = end;
    while value_start < value_end && is_lws(bytes[value_start]) {
        value_start += 1;
    }
    while value_end > value_start && is_lws(bytes[value_end - 1]) {
        value_end -= 1;
    }
    Ok(Field {
        start: offset(start),
        name_end: offset(start + name_length),
        value_start: offset(value_start),
        value_end: offset(value_end),
        end: offset(end + 2),
        name,
    })
}

/// Splits the start line, which begins at offset 0 and comes without its CRLF.
fn parse_start_line(line: &[u8]) -> Result<StartLine, ParseError> {
    // "/" is no token byte, so no method begins like this.
    if line.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/")) {
        return parse_status_line(line);
    }
    let method_end = memchr(b' ', line).ok_or(ParseError::StartLine)?;
    if !is_token(&line[..method_end]) {
        return Err(ParseError::StartLine);
    }
    let end = line.iter().rposition(|&b| b != b' ').map_or(0, |at| at + 1);
    let version_start = line[..end].iter().rposition(|&b| b == b' ').map_or(0, |at| at + 1);
    let version = &line[version_start..end];
    if version_start <= method_end
        || !version.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"))
    {
        return Err(ParseError::StartLine);
    }
    let between = &line[method_end..version_start];
    let uri = trim_spaces(between);
    if uri.is_empty() {
        return Err(ParseError::StartLine);
    }
    let uri_start = method_end + between.iter().take_while(|&&b| b == b' ').count();
    Ok(StartLine::Request {
        method_end: offset(method_end),
        uri: (offset(uri_start), offset(uri_start + uri.len())),
        version: (offset(version_start), offset(end)),
    })
}

fn parse_status_line(line: &[u8]) -> Result<StartLine, ParseError> {
    let version_end = memchr(b' ', line).ok_or(ParseError::StartLine)?;
    let rest = &line[version_end + 1..];
    let digits = memchr(b' ', rest).unwrap_or(rest.len());
    // RFC 3261 §7.2: a three-digit integer, 1xx to 6xx.
    let status = decimal(&rest[..digits])
        .filter(|_| digits == 3)
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (100..=699).contains(status))
        .ok_or(ParseError::StatusCode)?;
    let reason_start = (version_end + 1 + digits + 1).min(line.len());
    Ok(StartLine::Response {
        version_end: offset(version_end),
        status,
        reason: (offset(reason_start), offset(line.len())),
    })
}

fn trim_spaces(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().take_while(|&&b| b == b' ').count();
    let end = bytes.iter().rposition(|&b| b != b' ').map_or(start, |at| at + 1);
    &bytes[start..end]
}

/// Reads the value of the only Content-Length among `lines`, for the framer.
pub(crate) fn only_content_length(mut lines: FieldLines<'_>) -> Result<ContentLength, ParseError> {
    let bytes = lines.bytes;
    let mut found = ContentLength::Absent;
    while let Some(field) = lines.next()? {
        if field.name != HeaderName::ContentLength {
            continue;
        }
        let value = trim_lws(&bytes[usize::from(field.value_start)..usize::from(field.value_end)]);
        found = match (found, decimal(value)) {
            (ContentLength::Absent, Some(length)) => ContentLength::Octets(length),
            (ContentLength::Absent, None) => ContentLength::Malformed,
            // Even two equal ones: the next hop may count differently.
            (ContentLength::Octets(_) | ContentLength::Malformed, _) => ContentLength::Malformed,
        };
    }
    Ok(found)
}

/// What a header says about the length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentLength {
    Absent,
    Malformed,
    Octets(u64),
}
