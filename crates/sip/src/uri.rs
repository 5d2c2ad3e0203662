//! SIP, SIPS, tel and other URIs: split into parts, compared, never rewritten.
//!
//! RFC 3261 §19.1, RFC 3966 (tel, kept whole), RFC 5954 (IPv6). Reading is liberal in the characters of the user
//! part, because dial strings hold `#` in the wild; it is strict about what delimits the parts, because that decides
//! where a message goes. Deliberately absent: resolving names (transport), normalising in place (nobody may).

use crate::error::UriError;
use crate::escape::{Case, equivalent, is_well_escaped};
use crate::grammar::{decimal, host_span, is_plain_uri, uri_span};
use crate::host::Host;

/// A URI of any scheme, borrowed.
#[derive(Clone, Copy, Debug)]
pub enum Uri<'a> {
    /// `sip:` or `sips:`.
    Sip(SipUri<'a>),
    /// `tel:`, without the scheme.
    Tel(&'a [u8]),
    /// Any other scheme; `rest` is what follows the colon.
    Other {
        /// Scheme as on the wire, without colon.
        scheme: &'a [u8],
        /// Everything behind the colon.
        rest: &'a [u8],
    },
}

impl<'a> Uri<'a> {
    /// Reads a URI without brackets around it.
    ///
    /// # Errors
    /// There is no scheme, or a `sip:`/`sips:` URI is malformed; see [`UriError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Uri<'a>, UriError> {
        let (scheme, rest) = split_scheme(bytes).ok_or(UriError::Scheme)?;
        if scheme.eq_ignore_ascii_case(b"sip") {
            SipUri::parse_rest(false, rest).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case(b"sips") {
            SipUri::parse_rest(true, rest).map(Uri::Sip)
        } else if uri_span(rest) != rest.len() {
            Err(UriError::Byte)
        } else if scheme.eq_ignore_ascii_case(b"tel") {
            Ok(Uri::Tel(rest))
        } else {
            Ok(Uri::Other { scheme, rest })
        }
    }

    /// The SIP or SIPS URI, if it is one.
    pub fn as_sip(&self) -> Option<&SipUri<'a>> {
        match self {
            Uri::Sip(uri) => Some(uri),
            Uri::Tel(_) | Uri::Other { .. } => None,
        }
    }

    /// Whether both name the same resource: §19.1.4 for SIP and SIPS, else scheme without case and the rest byte by byte.
    pub fn equivalent(&self, other: &Uri<'_>) -> bool {
        match (self, other) {
            (Uri::Sip(a), Uri::Sip(b)) => a.equivalent(b),
            (Uri::Tel(a), Uri::Tel(b)) => a.eq_ignore_ascii_case(b),
            (Uri::Other { scheme: a, rest: x }, Uri::Other { scheme: b, rest: y }) => {
                a.eq_ignore_ascii_case(b) && x == y
            }
            (Uri::Sip(_) | Uri::Tel(_) | Uri::Other { .. }, _) => false,
        }
    }
}

/// Splits off `scheme:`; `None` if there is none. Source: RFC 3986 §3.1.
pub(crate) fn split_scheme(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.starts_with(b"sip:") {
        return Some((&bytes[..3], &bytes[4..])); // nearly all of them
    }
    let colon = bytes.iter().position(|&b| !(b.is_ascii_alphanumeric() || b"+-.".contains(&b)))?;
    let (scheme, rest) = bytes.split_at(colon);
    (rest[0] == b':' && scheme.first()?.is_ascii_alphabetic()).then_some((scheme, &rest[1..]))
}

/// Whether every byte may stand in a URI, and every `%` has its two digits.
fn is_well_formed(bytes: &[u8]) -> bool {
    is_plain_uri(bytes) || (uri_span(bytes) == bytes.len() && is_well_escaped(bytes))
}

/// The parts of a SIP or SIPS URI, all as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct SipUri<'a> {
    /// `sips:`.
    pub secure: bool,
    /// User part, escapes unresolved; `None` if there is no `@`.
    pub user: Option<&'a [u8]>,
    /// Password, if the user part has one.
    pub password: Option<&'a [u8]>,
    /// Host.
    pub host: Host<'a>,
    /// Port; `None` means the default of transport and scheme, or SRV.
    pub port: Option<u16>,
    params: &'a [u8],
    headers: &'a [u8],
    host_port: &'a [u8],
}

impl<'a> SipUri<'a> {
    fn parse_rest(secure: bool, rest: &'a [u8]) -> Result<SipUri<'a>, UriError> {
        if !is_well_formed(rest) {
            return Err(UriError::Byte);
        }
        // RFC 3261 §25.1: "@" is lawful nowhere else unescaped, and "?", ";" and "/" are lawful in the user part.
        let (user, password, after) = match memchr::memchr(b'@', rest) {
            None => (None, None, rest),
            Some(at) => {
                let (user, password) = split_once(&rest[..at], b':');
                if user.is_empty() {
                    return Err(UriError::User);
                }
                (Some(user), password, &rest[at + 1..])
            }
        };
        let host_length = match after.first() {
            Some(b'[') => memchr::memchr(b']', after).ok_or(UriError::Host)? + 1,
            Some(_) | None => host_span(after),
        };
        let (host, tail) = after.split_at(host_length);
        let host = Host::parse(host).ok_or(UriError::Host)?;
        let (port, tail) = split_port(tail)?;
        let host_port = &after[..after.len() - tail.len()];
        let params_end = memchr::memchr(b'?', tail).unwrap_or(tail.len());
        let (params, headers) = tail.split_at(params_end);
        check_params(params)?;
        check_headers(headers)?;
        Ok(SipUri { secure, user, password, host, port, params, headers, host_port })
    }

    /// A URI parameter: `None` if absent, `Some(None)` if it has no value. Values are not unescaped.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.params()
            .find(|(found, _)| equivalent(found, name, Case::Insensitive))
            .map(|(_, value)| value)
    }

    /// All URI parameters in order.
    pub fn params(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        pieces(self.params, b';').map(|piece| split_once(piece, b'='))
    }

    /// The URI headers behind `?`, in order, not unescaped.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        pieces(self.headers, b'&')
            .map(|piece| split_once(piece, b'='))
            .map(|(name, value)| (name, value.unwrap_or_default()))
    }

    /// Whether the URI has a `?` part.
    pub fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Whether the URI belongs to a loose router. Source: RFC 3261 §19.1.1.
    pub fn lr(&self) -> bool {
        self.param(b"lr").is_some()
    }

    /// The transport parameter.
    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param(b"transport").flatten()
    }

    /// The maddr parameter.
    pub fn maddr(&self) -> Option<&'a [u8]> {
        self.param(b"maddr").flatten()
    }

    /// Host and port as on the wire.
    pub fn host_port(&self) -> &'a [u8] {
        self.host_port
    }

    /// Whether both URIs name the same resource. Source: RFC 3261 §19.1.4, RFC 5954 §4.2. Not transitive.
    pub fn equivalent(&self, other: &SipUri<'_>) -> bool {
        let same = |a: Option<&[u8]>, b: Option<&[u8]>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => equivalent(a, b, Case::Sensitive),
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.secure == other.secure
            && same(self.user, other.user)
            && same(self.password, other.password)
            && self.host == other.host
            && self.port == other.port
            && self.params_agree(other)
            && other.params_agree(self)
            && self.headers_within(other)
            && other.headers_within(self)
    }

    /// Whether no parameter of this URI contradicts `other`.
    fn params_agree(&self, other: &SipUri<'_>) -> bool {
        self.params().all(|(name, value)| match other.param(name) {
            Some(found) => {
                equivalent(value.unwrap_or_default(), found.unwrap_or_default(), Case::Insensitive)
            }
            None => !DECISIVE_PARAMS
                .iter()
                .any(|decisive| equivalent(name, decisive, Case::Insensitive)),
        })
    }

    fn headers_within(&self, other: &SipUri<'_>) -> bool {
        self.headers().all(|(name, value)| {
            other.headers().any(|(found, other_value)| {
                equivalent(name, found, Case::Insensitive)
                    && equivalent(value, other_value, Case::Sensitive)
            })
        })
    }
}

/// Splits `[:port]` off what follows the host of a URI, up to its parameters, its headers or the end.
fn split_port(tail: &[u8]) -> Result<(Option<u16>, &[u8]), UriError> {
    match tail {
        [] | [b';' | b'?', ..] => Ok((None, tail)),
        [b':', tail @ ..] => {
            let is_end = |byte: &u8| matches!(byte, b';' | b'?');
            let end = tail.iter().position(is_end).unwrap_or(tail.len());
            let number = decimal(&tail[..end]).and_then(|number| u16::try_from(number).ok());
            Ok((Some(number.ok_or(UriError::Port)?), &tail[end..]))
        }
        [_, ..] => Err(UriError::Host),
    }
}

/// The most parameters, and the most headers, of one URI; one with more is refused. Comparing two URIs looks at each
/// pair, so this also bounds what a comparison costs.
const PARAMETERS_MAX: usize = 32;

/// None empty, none twice: which of two `transport` would count? Source: RFC 3261 §19.1.1.
fn check_params(params: &[u8]) -> Result<(), UriError> {
    if params.is_empty() || params == b";lr" {
        return Ok(()); // nearly all of them
    }
    for (index, piece) in pieces(params, b';').enumerate() {
        let name = split_once(piece, b'=').0;
        let mut earlier = pieces(params, b';').take(index);
        if index >= PARAMETERS_MAX
            || name.is_empty()
            || earlier.any(|piece| equivalent(split_once(piece, b'=').0, name, Case::Insensitive))
        {
            return Err(UriError::Parameter);
        }
    }
    Ok(())
}

fn check_headers(headers: &[u8]) -> Result<(), UriError> {
    for (index, piece) in pieces(headers, b'&').enumerate() {
        let named = memchr::memchr(b'=', piece).is_some_and(|at| at > 0);
        if index >= PARAMETERS_MAX || !named {
            return Err(UriError::Parameter);
        }
    }
    Ok(())
}

/// Parameters that never match if only one URI has them. The text of §19.1.4 names the first four; its examples of
/// URIs that differ have `transport` as well.
const DECISIVE_PARAMS: [&[u8]; 5] = [b"user", b"ttl", b"method", b"maddr", b"transport"];

/// Splits `bytes`, which begins with its introducing `;` or `?` if not empty, at `separator`.
fn pieces(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let inner = bytes.get(1..);
    inner.into_iter().flat_map(move |inner| inner.split(move |&b| b == separator))
}

fn split_once(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, bytes) {
        None => (bytes, None),
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
    }
}

#[cfg(test)]
mod tests;
