//! A header value while it is written: on the stack for usual lengths, so that forwarding allocates
//! nothing.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

/// Bytes that need no heap: a Via with an IPv6 flow token has about 190.
const INLINE_BYTES: usize = 224;

/// Bytes of one header value, written from front to back.
#[derive(Clone, Debug)]
pub(crate) struct HeaderValue {
    inline: [u8; INLINE_BYTES],
    inline_length: usize,
    /// All of a value that is longer; empty as long as it is not.
    long: Vec<u8>,
}

impl Default for HeaderValue {
    fn default() -> HeaderValue {
        HeaderValue { inline: [0; INLINE_BYTES], inline_length: 0, long: Vec::new() }
    }
}

impl HeaderValue {
    /// An empty value.
    pub(crate) fn new() -> HeaderValue {
        HeaderValue::default()
    }

    /// Appends bytes and returns the value, so that pieces can be chained.
    pub(crate) fn with(mut self, bytes: &[u8]) -> HeaderValue {
        self.push(bytes);
        self
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let end = self.inline_length + bytes.len();
        match self.inline.get_mut(self.inline_length..end) {
            Some(room) if self.long.is_empty() => {
                room.copy_from_slice(bytes);
                self.inline_length = end;
            }
            Some(_) | None => self.push_long(bytes),
        }
    }

    #[cold]
    fn push_long(&mut self, bytes: &[u8]) {
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.inline[..self.inline_length]);
        }
        self.long.extend_from_slice(bytes);
    }

    /// Appends a number in decimal.
    pub(crate) fn push_number(&mut self, mut number: u16) {
        let mut digits = [b'0'; 5];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] += u8::try_from(number % 10).expect("a digit");
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[start..]);
    }

    /// Appends an address, without brackets.
    pub(crate) fn push_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                for (place, octet) in ip.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.push(b".");
                    }
                    self.push_number(octet.into());
                }
            }
            IpAddr::V6(ip) => self.push_display(ip),
        }
    }

    /// Appends what `value` prints.
    pub(crate) fn push_display(&mut self, value: impl fmt::Display) {
        fmt::Write::write_fmt(self, format_args!("{value}"))
            .expect("writing to memory cannot fail");
    }
}

impl Deref for HeaderValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.long.is_empty() { &self.inline[..self.inline_length] } else { &self.long }
    }
}

impl fmt::Write for HeaderValue {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_be_longer_than_its_room_on_the_stack() {
        for first in [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1] {
            let (first, second) = (vec![b'a'; first], vec![b'b'; INLINE_BYTES]);
            let value = HeaderValue::new().with(&first).with(&second).with(b"").with(b"c");
            assert_eq!(*value, *[first, second, vec![b'c']].concat());
        }
    }

    #[test]
    fn numbers_and_addresses_are_written_as_they_print() {
        for number in [0, 1, 9, 10, 70, 99, 100, 255, 999, 1_000, 5_060, 9_999, 10_000, 65_535] {
            let mut value = HeaderValue::new();
            value.push_number(number);
            assert_eq!(*value, *number.to_string().as_bytes());
        }
        for text in ["0.0.0.0", "192.0.2.10", "255.255.255.255", "2001:db8::9:1"] {
            let mut value = HeaderValue::new();
            value.push_ip(text.parse().expect("an address"));
            assert_eq!(*value, *text.as_bytes());
        }
    }
}
