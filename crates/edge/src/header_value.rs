//! A header value while it is written: on the stack for usual lengths, so that forwarding allocates
//! nothing.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

/// Bytes that need no heap: a Via with an IPv6 flow token has about 190.
const INLINE_BYTES: usize = 224;

/// Bytes of one header value, written from front to back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderValue(SmallVec<[u8; INLINE_BYTES]>);

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
        self.0.extend_from_slice(bytes);
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
        &self.0
    }
}

impl fmt::Write for HeaderValue {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
