//! Percent-encoding in URIs.
//!
//! RFC 3261 §19.1.2 and §19.1.4; decoded once, never again (`%2541` is `%41`, not `A`). A message on its way is never
//! rewritten: this serves comparison and the lookup keys derived from URIs.

use std::borrow::Cow;

/// `bytes` with every `%HH` replaced by the byte it stands for; a `%` without two digits stays.
pub fn unescape(bytes: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(Decoded { bytes }.map(|(byte, _)| byte).collect())
}

/// Whether every `%` in `bytes` is followed by two hexadecimal digits.
pub(crate) fn is_well_escaped(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'%', bytes)
        .all(|at| matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

/// Whether two pieces of URIs are the same after unescaping.
///
/// RFC 3261 §19.1.4: characters outside the reserved set equal their encoding, reserved ones do not (`%3B` is not `;`).
pub(crate) fn equivalent(a: &[u8], b: &[u8], case: Case) -> bool {
    if a == b {
        return true;
    }
    let fold = |(byte, escaped): (u8, bool)| {
        let byte = if case == Case::Insensitive { byte.to_ascii_lowercase() } else { byte };
        (byte, escaped && is_reserved(byte))
    };
    Decoded { bytes: a }.map(fold).eq(Decoded { bytes: b }.map(fold))
}

/// Whether letters of different case are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Sensitive,
    Insensitive,
}

/// The reserved set of RFC 2396, plus `%` itself: `%25` is never the start of an escape.
fn is_reserved(byte: u8) -> bool {
    b";/?:@&=+$,%".contains(&byte)
}

/// Decoded bytes, each with whether it was escaped.
pub(crate) struct Decoded<'a> {
    pub(crate) bytes: &'a [u8],
}

impl Iterator for Decoded<'_> {
    type Item = (u8, bool);

    fn next(&mut self) -> Option<(u8, bool)> {
        let (&first, rest) = self.bytes.split_first()?;
        if first == b'%'
            && let [high, low, rest @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            self.bytes = rest;
            return Some((high << 4 | low, true));
        }
        self.bytes = rest;
        Some((first, false))
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescaping_happens_once() {
        assert_eq!(unescape(b"v%61lue%25%34%31"), &b"value%41"[..]);
        assert_eq!(unescape(b"%Z%45%4"), &b"%ZE%4"[..]);
        assert_eq!(unescape(b"null-%00-null"), &b"null-\0-null"[..]);
    }

    #[test]
    fn reserved_characters_differ_from_their_escapes() {
        assert!(equivalent(b"%61lice", b"alice", Case::Sensitive));
        assert!(!equivalent(b"a%3Bb", b"a;b", Case::Sensitive));
        assert!(equivalent(b"a%3bb", b"a%3Bb", Case::Sensitive));
        assert!(!equivalent(b"Alice", b"alice", Case::Sensitive));
        assert!(equivalent(b"%41lice", b"alice", Case::Insensitive));
        assert!(!equivalent(b"%2541", b"%41", Case::Sensitive));
    }
}
