//! Splits a header value at the commas that separate list values.
//!
//! RFC 3261 §7.3.1: a comma inside a quoted string or between `<` and `>` belongs to its value. What stands between
//! two commas is trimmed and otherwise left as it is, empty included, so that a typed parser can refuse it.

use crate::grammar::{quoted_string_length, trim_lws};

/// Iterator over the list values of one header field.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Values<'a> {
    /// Splits `field`, a whole field value. An empty field has no values.
    pub fn new(field: &'a [u8]) -> Values<'a> {
        Values { rest: (!trim_lws(field).is_empty()).then_some(field) }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let length = value_length(rest);
        self.rest = rest.get(length + 1..);
        Some(trim_lws(&rest[..length]))
    }
}

/// How many bytes the first list value of `bytes` has, up to its comma or the end.
pub(crate) fn value_length(bytes: &[u8]) -> usize {
    // Most values have no comma at all, or none that could be misread.
    let Some(comma) = memchr::memchr(b',', bytes) else { return bytes.len() };
    if memchr::memchr2(b'"', b'<', &bytes[..comma]).is_none() {
        return comma;
    }
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b',' => return at,
            // A quote that never closes makes the rest one value; its typed parser refuses it.
            b'"' => at += quoted_string_length(&bytes[at..]).unwrap_or(bytes.len() - at),
            b'<' => at += memchr::memchr(b'>', &bytes[at..]).unwrap_or(bytes.len() - at),
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(field: &str) -> Vec<&str> {
        Values::new(field.as_bytes()).map(|v| std::str::from_utf8(v).expect("ASCII")).collect()
    }

    #[test]
    fn commas_in_quotes_and_brackets_do_not_separate() {
        assert_eq!(
            split("\"a,\\\",b\" <sip:x,y@z>;p=\"q,r\" , <sip:b>"),
            ["\"a,\\\",b\" <sip:x,y@z>;p=\"q,r\"", "<sip:b>"]
        );
        assert_eq!(split("a,b ,\r\n c"), ["a", "b", "c"]);
    }

    #[test]
    fn empty_places_are_kept_and_an_empty_field_has_none() {
        assert_eq!(split("a,,b,"), ["a", "", "b", ""]);
        assert_eq!(split(""), Vec::<&str>::new());
        assert_eq!(split(" \r\n "), Vec::<&str>::new());
    }

    #[test]
    fn an_unclosed_quote_or_bracket_swallows_the_rest() {
        assert_eq!(split("\"a, b"), ["\"a, b"]);
        assert_eq!(split("<a, b"), ["<a, b"]);
    }
}
