//! The CSeq header: a number and a method.
//!
//! RFC 3261 §20.16. Numbers up to 2³²−1 are taken: §8.1.1.5 wants senders to stay below 2³¹, but refusing more
//! would break a dialog that works.

use crate::error::HeaderError;
use crate::grammar::{Cursor, decimal, is_lws};
use crate::header_name::HeaderName;
use crate::method::Method;

/// The parts of a CSeq header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Sequence number, 0 to 2³²−1.
    pub number: u32,
    /// Method of the request, repeated in its responses.
    pub method: Method<'a>,
}

impl<'a> CSeq<'a> {
    /// Reads a CSeq value; any white space, folds included, may stand between number and method.
    ///
    /// # Errors
    /// Number or method is missing, the number is too large, or something follows the method.
    pub fn parse(value: &'a [u8]) -> Result<CSeq<'a>, HeaderError> {
        let parts = || {
            let mut cursor = Cursor::new(value);
            let digits = cursor.take_while(|b| b.is_ascii_digit());
            let number = u32::try_from(decimal(digits)?).ok()?;
            if cursor.take_while(is_lws).is_empty() {
                return None;
            }
            let method = Method::parse(cursor.rest())?;
            Some(CSeq { number, method })
        };
        parts().ok_or(HeaderError::new(HeaderName::CSeq, "Malformed CSeq"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_method_may_be_far_apart() {
        let cseq = CSeq::parse(b"0009\r\n  INVITE").expect("folded CSeq");
        assert_eq!(cseq, CSeq { number: 9, method: Method::Invite });
    }

    #[test]
    fn malformed_values_are_refused() {
        for value in [
            &b""[..],
            b"1",
            b"1INVITE",
            b"INVITE",
            b"-1 INVITE",
            b"4294967296 ACK",
            b"1 INV ITE",
            b"1 a/b",
        ] {
            assert!(CSeq::parse(value).is_err(), "{}", value.escape_ascii());
        }
        assert!(CSeq::parse(b"4294967295 ACK").is_ok());
    }
}
