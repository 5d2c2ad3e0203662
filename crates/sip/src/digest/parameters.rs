//! The `scheme name=value, name="value"` form that challenges and credentials share.
//!
//! Turns header octets into (name, unquoted value) pairs, and values into quoted strings.
//! Source: RFC 3261 §25.1 (`auth-param`, `quoted-string`), RFC 7616 §3.3–3.4.

use std::borrow::Cow;

/// More parameters than this in one value are refused: Digest defines a dozen, the rest is noise.
const PARAMETERS_MAX: usize = 32;

/// The value is not a list of `name=value` parameters, or there are too many of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Splits a value into its scheme and what follows; `None` when there is no scheme.
pub(super) fn split_scheme(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = value.trim_ascii_start();
    let end = value.iter().position(|&octet| !is_token(octet)).unwrap_or(value.len());
    (end > 0).then(|| value.split_at(end))
}

/// Whether the scheme is Digest, in any case of letters.
pub(super) fn is_digest(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"Digest")
}

/// Hands each parameter to `visit`: its name as written and its value unquoted.
pub(super) fn visit<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(&'a [u8], Cow<'a, [u8]>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for _ in 0..PARAMETERS_MAX {
        // RFC 3261 §7.3.1 lists may have empty elements in what real phones send; they mean nothing.
        while let [b',' | b' ' | b'\t' | b'\r' | b'\n', tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let name_end = rest.iter().position(|&octet| !is_token(octet)).ok_or(Malformed)?;
        let (name, tail) = rest.split_at(name_end);
        if name.is_empty() {
            return Err(Malformed);
        }
        let tail = tail.trim_ascii_start().strip_prefix(b"=").ok_or(Malformed)?;
        let (value, tail) = take_value(tail.trim_ascii_start())?;
        visit(name, value)?;
        rest = tail.trim_ascii_start();
        if !rest.is_empty() && rest[0] != b',' {
            return Err(Malformed);
        }
    }
    if rest.trim_ascii_start().is_empty() { Ok(()) } else { Err(Malformed) }
}

fn take_value(rest: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    if let Some(inner) = rest.strip_prefix(b"\"") {
        return take_quoted(inner);
    }
    // Unquoted values end at the comma only: phones send `uri=sip:example.com` bare, and nonces with `=`.
    let end = rest
        .iter()
        .position(|&octet| matches!(octet, b',' | b' ' | b'\t' | b'\r' | b'\n' | b'"'))
        .unwrap_or(rest.len());
    let (value, tail) = rest.split_at(end);
    if value.is_empty() { Err(Malformed) } else { Ok((Cow::Borrowed(value), tail)) }
}

/// Reads up to the closing quote; copies only when there are escapes to undo.
fn take_quoted(inner: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    let mut unescaped: Option<Vec<u8>> = None;
    let mut index = 0;
    while index < inner.len() {
        match inner[index] {
            b'"' => {
                let tail = &inner[index + 1..];
                let value = unescaped.map_or(Cow::Borrowed(&inner[..index]), Cow::Owned);
                return Ok((value, tail));
            }
            b'\\' => {
                let escaped = *inner.get(index + 1).ok_or(Malformed)?;
                unescaped.get_or_insert_with(|| inner[..index].to_vec()).push(escaped);
                index += 2;
            }
            octet => {
                if let Some(unescaped) = &mut unescaped {
                    unescaped.push(octet);
                }
                index += 1;
            }
        }
    }
    Err(Malformed)
}

/// Appends `value` as a quoted string, with `"` and `\` escaped.
///
/// Octets that a quoted string cannot hold even escaped (CR, LF, NUL) are left out, so that no value can
/// begin a header field of its own.
pub(super) fn push_quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    for &octet in value {
        match octet {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', octet]),
            b'\r' | b'\n' | 0 => {}
            _ => out.push(octet),
        }
    }
    out.push(b'"');
}

fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&octet)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pairs(rest: &str) -> Result<Vec<(String, String)>, Malformed> {
        let mut found = Vec::new();
        visit(rest.as_bytes(), |name, value| {
            found.push((
                String::from_utf8(name.to_vec()).unwrap(),
                String::from_utf8(value.to_vec()).unwrap(),
            ));
            Ok(())
        })?;
        Ok(found)
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn forms_seen_on_the_wire_are_read() {
        for (text, expected) in [
            ("a=b", owned(&[("a", "b")])),
            (" a = \"b\" ,c=d ", owned(&[("a", "b"), ("c", "d")])),
            ("a=\"x,y=z\"", owned(&[("a", "x,y=z")])),
            (r#"a="say \"hi\" \\""#, owned(&[("a", r#"say "hi" \"#)])),
            ("a=b,,c=\"\"", owned(&[("a", "b"), ("c", "")])),
            ("uri=sip:example.com,n=a==", owned(&[("uri", "sip:example.com"), ("n", "a==")])),
            ("a=\"b\",\r\n c=d", owned(&[("a", "b"), ("c", "d")])),
            ("", vec![]),
        ] {
            assert_eq!(pairs(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn broken_forms_are_refused() {
        for text in ["a", "=b", "a=", "a=\"b", "a=\"b\\", "a=b c=d", "a=\"b\"c", "\"a\"=b"] {
            assert_eq!(pairs(text), Err(Malformed), "{text}");
        }
        assert_eq!(pairs(&"a=b,".repeat(PARAMETERS_MAX + 1)), Err(Malformed));
        let most = "a=b,".repeat(PARAMETERS_MAX);
        assert!(pairs(most.trim_end_matches(',')).is_ok());
    }

    #[test]
    fn a_quoted_value_cannot_begin_another_header_field() {
        let mut out = Vec::new();
        push_quoted(&mut out, b"a\"b\\c\r\nVia: x");
        assert_eq!(out, br#""a\"b\\cVia: x""#);
    }
}
