//! `Authorization` and `Proxy-Authorization` values: read by the server, rendered by the client.
//!
//! Source: RFC 7616 §3.4, RFC 3261 §20.7 and §20.28. Unknown parameters are ignored; a parameter that
//! occurs twice is refused, because the two sides of an intermediary might each read another one.

use std::borrow::Cow;

use super::parameters::{self, Malformed, push_quoted};
use super::{Algorithm, Digest};

/// Digest credentials, unquoted and unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// The name that the client authenticates with: a private identity.
    pub username: Cow<'a, [u8]>,
    /// The protection space that the client answers for.
    pub realm: Cow<'a, [u8]>,
    /// The nonce of the challenge.
    pub nonce: Cow<'a, [u8]>,
    /// The `digest-uri`; should be the Request-URI, but RFC 7616 §3.4.6 lets proxies have changed that one.
    pub uri: Cow<'a, [u8]>,
    /// The response as it was sent: hexadecimal digits.
    pub response: Cow<'a, [u8]>,
    /// The hash; MD5 when the client names none.
    pub algorithm: Algorithm,
    /// The client's nonce.
    pub cnonce: Cow<'a, [u8]>,
    /// The nonce count as it was sent: eight hexadecimal digits.
    pub nonce_count_digits: [u8; 8],
    /// What the challenge gave as `opaque`.
    pub opaque: Option<Cow<'a, [u8]>>,
}

/// Why a value holds no credentials that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Another scheme than Digest; ignored, as if the value were not there (RFC 4475 §3.3.7).
    #[error("the credentials' scheme is not Digest")]
    OtherScheme,
    /// Not a list of parameters, a mandatory one is missing, or one occurs twice.
    #[error("the credentials are malformed or incomplete")]
    Malformed,
    /// An algorithm that no challenge of ours names.
    #[error("the credentials use an unknown algorithm")]
    UnknownAlgorithm,
    /// `qop` is missing or not `auth`.
    #[error("the credentials do not use qop=auth")]
    NoQopAuth,
}

impl<'a> Credentials<'a> {
    /// Reads one `Authorization` or `Proxy-Authorization` value.
    ///
    /// # Errors
    /// [`CredentialsError::OtherScheme`] asks to be ignored; the others mean that the sender must be challenged
    /// again or refused.
    pub fn parse(value: &'a [u8]) -> Result<Credentials<'a>, CredentialsError> {
        let (scheme, rest) = parameters::split_scheme(value).ok_or(CredentialsError::Malformed)?;
        if !parameters::is_digest(scheme) {
            return Err(CredentialsError::OtherScheme);
        }
        let mut found = Found::default();
        parameters::visit(rest, |name, value| found.put(name, value))
            .map_err(|Malformed| CredentialsError::Malformed)?;
        found.complete()
    }

    /// The nonce count as a number.
    pub fn nonce_count(&self) -> u32 {
        self.nonce_count_digits.iter().fold(0, |count, &digit| {
            let digit = char::from(digit).to_digit(16).expect("checked when it was read");
            (count << 4) | digit
        })
    }

    /// The header value that carries these credentials.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"Digest username=");
        push_quoted(&mut out, &self.username);
        for (name, value) in [
            ("realm", &self.realm),
            ("nonce", &self.nonce),
            ("uri", &self.uri),
            ("response", &self.response),
            ("cnonce", &self.cnonce),
        ] {
            out.extend_from_slice(b", ");
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            push_quoted(&mut out, value);
        }
        if let Some(opaque) = &self.opaque {
            out.extend_from_slice(b", opaque=");
            push_quoted(&mut out, opaque);
        }
        // RFC 7616 §3.4: algorithm, qop and nc are not quoted.
        out.extend_from_slice(b", algorithm=");
        out.extend_from_slice(self.algorithm.token().as_bytes());
        out.extend_from_slice(b", qop=auth, nc=");
        out.extend_from_slice(&self.nonce_count_digits);
        out
    }
}

/// The parameters as they are come across, each at most once.
#[derive(Default)]
struct Found<'a> {
    username: Option<Cow<'a, [u8]>>,
    realm: Option<Cow<'a, [u8]>>,
    nonce: Option<Cow<'a, [u8]>>,
    uri: Option<Cow<'a, [u8]>>,
    response: Option<Cow<'a, [u8]>>,
    algorithm: Option<Cow<'a, [u8]>>,
    cnonce: Option<Cow<'a, [u8]>>,
    qop: Option<Cow<'a, [u8]>>,
    nonce_count: Option<Cow<'a, [u8]>>,
    opaque: Option<Cow<'a, [u8]>>,
}

impl<'a> Found<'a> {
    fn put(&mut self, name: &[u8], value: Cow<'a, [u8]>) -> Result<(), Malformed> {
        let slot = match name.to_ascii_lowercase().as_slice() {
            b"username" => &mut self.username,
            b"realm" => &mut self.realm,
            b"nonce" => &mut self.nonce,
            b"uri" => &mut self.uri,
            b"response" => &mut self.response,
            b"algorithm" => &mut self.algorithm,
            b"cnonce" => &mut self.cnonce,
            b"qop" => &mut self.qop,
            b"nc" => &mut self.nonce_count,
            b"opaque" => &mut self.opaque,
            _ => return Ok(()),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }

    fn complete(self) -> Result<Credentials<'a>, CredentialsError> {
        use CredentialsError::Malformed;
        let algorithm = match &self.algorithm {
            None => Algorithm::Md5,
            Some(token) => Algorithm::parse(token).ok_or(CredentialsError::UnknownAlgorithm)?,
        };
        if !self.qop.is_some_and(|qop| qop.eq_ignore_ascii_case(b"auth")) {
            return Err(CredentialsError::NoQopAuth);
        }
        let response = self.response.ok_or(Malformed)?;
        let hexadecimal = response.iter().all(u8::is_ascii_hexdigit);
        if !hexadecimal || response.len() > 2 * Digest::BYTES_MAX {
            return Err(Malformed);
        }
        let nonce_count_digits: [u8; 8] =
            self.nonce_count.ok_or(Malformed)?.as_ref().try_into().map_err(|_| Malformed)?;
        if !nonce_count_digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Malformed);
        }
        Ok(Credentials {
            username: self.username.ok_or(Malformed)?,
            realm: self.realm.ok_or(Malformed)?,
            nonce: self.nonce.ok_or(Malformed)?,
            uri: self.uri.ok_or(Malformed)?,
            response,
            algorithm,
            cnonce: self.cnonce.ok_or(Malformed)?,
            nonce_count_digits,
            opaque: self.opaque,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"Digest username="bob", realm="example.com", nonce="n", uri="sip:example.com", response="00ff", cnonce="c", qop=auth, nc=0000000a"#;

    #[test]
    fn credentials_are_read_with_md5_as_the_default() {
        let read = Credentials::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(read.username.as_ref(), b"bob");
        assert_eq!(read.uri.as_ref(), b"sip:example.com");
        assert_eq!(read.algorithm, Algorithm::Md5);
        assert_eq!(read.nonce_count(), 10);
    }

    #[test]
    fn rendered_credentials_read_back_whatever_they_hold() {
        let text = GOOD.replace("bob", r#"b\"o\\b"#) + ", opaque=\"x\", algorithm=SHA-256";
        let read = Credentials::parse(text.as_bytes()).unwrap();
        assert_eq!(read.username.as_ref(), br#"b"o\b"#);
        assert_eq!(Credentials::parse(&read.render()).unwrap(), read);
    }

    #[test]
    fn sloppy_but_unambiguous_forms_are_accepted() {
        for text in [
            GOOD.replace("qop=auth", "qop=\"auth\""),
            GOOD.replace("Digest", "DIGEST"),
            GOOD.replace("nc=0000000a", "nc=0000000A"),
            GOOD.to_string() + ", algorithm=\"md5\", future=\"x\"",
        ] {
            assert!(Credentials::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused_with_its_reason() {
        use CredentialsError::*;
        for (text, expected) in [
            ("NoOneKnowsThisScheme opaque-data=here".to_string(), OtherScheme),
            ("\"Digest\"".to_string(), Malformed),
            (GOOD.replace("qop=auth, ", ""), NoQopAuth),
            (GOOD.replace("qop=auth", "qop=auth-int"), NoQopAuth),
            (GOOD.replace("nc=0000000a", "nc=a"), Malformed),
            (GOOD.replace("nc=0000000a", "nc=0000000g"), Malformed),
            (GOOD.replace("00ff", "zz"), Malformed),
            (GOOD.replace("00ff", &"0".repeat(65)), Malformed),
            (GOOD.replace("username=\"bob\", ", ""), Malformed),
            (GOOD.to_string() + ", realm=\"other\"", Malformed),
            (GOOD.to_string() + ", algorithm=MD5-sess", UnknownAlgorithm),
        ] {
            assert_eq!(Credentials::parse(text.as_bytes()), Err(expected), "{text}");
        }
    }
}
