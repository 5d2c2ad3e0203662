//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route, Record-Route, Path, Refer-To.
//!
//! RFC 3261 §20.10: without `<>` every parameter belongs to the header, so a URI with a comma, question mark or
//! semicolon needs the brackets. A display name without quotes is tokens only (RFC 4475 §3.1.2.15); bytes above
//! 0x7f are tolerated in it, because phones send UTF-8 names bare.

use crate::grammar::{Cursor, is_lws, is_token_byte, is_uri_byte, trim_lws, uri_span};
use crate::params::{First, Params};

/// One address with its display name and header parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    display: &'a [u8],
    uri: &'a [u8],
    params: Params<'a>,
    tag: Option<&'a [u8]>,
}

/// Why a value is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameAddrError {
    /// A quote that never closes, or a display name with something else than tokens.
    #[error("malformed display name")]
    Display,
    /// No URI, white space in it, or brackets that do not close.
    #[error("malformed URI")]
    Uri,
    /// A URI with `,` or `?` outside `<>`. Source: RFC 3261 §20.10.
    #[error("URI needs angle brackets")]
    Brackets,
    /// An empty or malformed header parameter.
    #[error("malformed parameter")]
    Parameter,
}

impl<'a> NameAddr<'a> {
    /// Reads one value (a list must be split before, see [`Message::values`](crate::Message::values)).
    ///
    /// The URI is only delimited, not read: see [`Uri::parse`](crate::Uri::parse).
    ///
    /// # Errors
    /// See [`NameAddrError`].
    pub fn parse(value: &'a [u8]) -> Result<NameAddr<'a>, NameAddrError> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        if cursor.peek() == Some(b'"') {
            let display = cursor.quoted_string().ok_or(NameAddrError::Display)?;
            cursor.skip_lws();
            return NameAddr::bracketed(display, cursor);
        }
        let mut ahead = cursor;
        let words = ahead.take_while(|b| is_token_byte(b) || is_lws(b) || b >= 0x80);
        if ahead.peek() == Some(b'<') {
            return NameAddr::bracketed(trim_lws(words), ahead);
        }
        NameAddr::bare(cursor)
    }

    fn bracketed(display: &'a [u8], mut cursor: Cursor<'a>) -> Result<NameAddr<'a>, NameAddrError> {
        if !cursor.eat(b'<') {
            return Err(NameAddrError::Uri);
        }
        let uri = cursor.take(uri_span(cursor.rest()));
        if !cursor.eat(b'>') || !has_scheme(uri) {
            return Err(NameAddrError::Uri);
        }
        NameAddr::with_params(display, uri, cursor.rest())
    }

    fn bare(mut cursor: Cursor<'a>) -> Result<NameAddr<'a>, NameAddrError> {
        let uri = cursor.take_while(|b| is_uri_byte(b) && b != b';');
        if !has_scheme(uri) {
            return Err(NameAddrError::Uri);
        }
        if memchr::memchr2(b',', b'?', uri).is_some() {
            return Err(NameAddrError::Brackets);
        }
        NameAddr::with_params(&[], uri, cursor.rest())
    }

    fn with_params(
        display: &'a [u8],
        uri: &'a [u8],
        params: &'a [u8],
    ) -> Result<NameAddr<'a>, NameAddrError> {
        // Asked for of nearly every message, so it is noted on the way.
        let mut tag = First::of(b"tag");
        let params = Params::parse(params, |name, value| tag.see(name, value))
            .ok_or(NameAddrError::Parameter)?;
        Ok(NameAddr { display, uri, params, tag: tag.found().flatten() })
    }

    /// The display name as on the wire, quotes included; empty if there is none.
    pub fn display(&self) -> &'a [u8] {
        self.display
    }

    /// The URI, without brackets.
    pub fn uri(&self) -> &'a [u8] {
        self.uri
    }

    /// The tag parameter.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.tag
    }

    /// A header parameter: `None` if absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.params.get(name)
    }

    /// All header parameters.
    pub fn params(&self) -> Params<'a> {
        self.params
    }
}

/// Whether `uri` begins with `scheme:` and has something behind it. Source: RFC 3986 §3.1.
fn has_scheme(uri: &[u8]) -> bool {
    crate::uri::split_scheme(uri).is_some_and(|(_, rest)| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<NameAddr<'_>, NameAddrError> {
        NameAddr::parse(value.as_bytes())
    }

    #[test]
    fn parameters_outside_brackets_belong_to_the_header() {
        let address = parse("sip:+19725552222@gw1.example.net;unknownparam").expect("cparam01");
        assert_eq!(address.uri(), b"sip:+19725552222@gw1.example.net");
        assert_eq!(address.param(b"unknownparam"), Some(None));
        let address = parse("<sip:a@b;unknownparam>;tag=7").expect("cparam02");
        assert_eq!((address.uri(), address.tag()), (&b"sip:a@b;unknownparam"[..], Some(&b"7"[..])));
        assert_eq!(address.param(b"unknownparam"), None);
    }

    #[test]
    fn display_names_are_tokens_or_one_quoted_string() {
        assert_eq!(parse("caller<sip:caller@example.com>").expect("lwsdisp").display(), b"caller");
        assert_eq!(
            parse("token1~` token2'+_ token3*%!.- <sip:m@e>").expect("intmeth").display(),
            b"token1~` token2'+_ token3*%!.-"
        );
        assert_eq!(
            parse(r#""J Rosenberg \\\""       <sip:j@e>"#).expect("wsinv").display(),
            br#""J Rosenberg \\\"""#
        );
        assert_eq!(parse("Bell, Alexander <sip:a@b>"), Err(NameAddrError::Uri));
        assert_eq!(parse("\"Mr. J. User <sip:j.user@example.com>"), Err(NameAddrError::Display));
    }

    #[test]
    fn white_space_is_lawful_around_parameters_but_not_inside_brackets() {
        let to =
            parse("sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n").expect("wsinv");
        assert_eq!(to.tag(), Some(&b"1918181833n"[..]));
        assert_eq!(
            parse("\"Watson, Thomas\" < sip:t.watson@example.org >"),
            Err(NameAddrError::Uri)
        );
    }

    #[test]
    fn addresses_that_need_brackets_are_refused_without() {
        assert_eq!(
            parse("sip:user@example.com?Route=%3Csip:sip.example.com%3E"),
            Err(NameAddrError::Brackets)
        );
        for value in ["", "<>", "<sip:>", "sip:", "<sip:a@b", "a@b", "<sip:a@b>;;;;", "<sip:a@b> x"]
        {
            assert!(parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn any_scheme_is_an_address() {
        assert_eq!(parse("isbn:2983792873").expect("unksm2").uri(), b"isbn:2983792873");
        assert_eq!(
            parse("<http://www.example.com>;tag=3234233").expect("unksm2").tag(),
            Some(&b"3234233"[..])
        );
    }
}
