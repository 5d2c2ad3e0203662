//! How a header line is put on the wire: the one place where a value could start a line of its own, and may not.

use bytes::{BufMut, BytesMut};
use memchr::memchr2;

/// Appends `bytes`; CR and LF become spaces, which unfolds a folded value and lets nothing inject a header.
pub(crate) fn put_value(out: &mut BytesMut, mut bytes: &[u8]) {
    while let Some(at) = memchr2(b'\r', b'\n', bytes) {
        out.put_slice(&bytes[..at]);
        out.put_u8(b' ');
        bytes = &bytes[at + 1..];
    }
    out.put_slice(bytes);
}

/// Appends `name: value` and the line end.
pub(crate) fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    put_value(out, name);
    out.put_slice(b": ");
    put_value(out, value);
    out.put_slice(b"\r\n");
}

/// Appends `number` in decimal.
pub(crate) fn put_decimal(out: &mut BytesMut, number: u64) {
    out.put_slice(Digits::of(number).as_bytes());
}

/// A number in decimal, without heap.
pub(crate) struct Digits {
    digits: [u8; 20],
    start: usize,
}

impl Digits {
    pub(crate) fn of(mut number: u64) -> Digits {
        let mut digits = [b'0'; 20];
        let mut start = digits.len() - 1;
        while number > 9 {
            digits[start] += u8::try_from(number % 10).expect("a digit");
            number /= 10;
            start -= 1;
        }
        digits[start] += u8::try_from(number).expect("a digit");
        Digits { digits, start }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// Appends Content-Type (if there is a body), Content-Length, the empty line and the body.
pub(crate) fn put_body(out: &mut BytesMut, content_type: &[u8], body: &[u8]) {
    if !body.is_empty() {
        put_field(out, b"Content-Type", content_type);
    }
    out.put_slice(b"Content-Length: ");
    put_decimal(out, body.len() as u64);
    out.put_slice(b"\r\n\r\n");
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_begin_a_new_line() {
        let mut out = BytesMut::new();
        put_field(&mut out, b"Subject", b"a\r\n b\r\nRoute: <sip:evil>");
        assert_eq!(&out[..], b"Subject: a   b  Route: <sip:evil>\r\n");
    }

    #[test]
    fn numbers_are_decimal() {
        let mut out = BytesMut::new();
        put_decimal(&mut out, 0);
        out.put_u8(b' ');
        put_decimal(&mut out, u64::MAX);
        assert_eq!(&out[..], b"0 18446744073709551615");
    }
}
