//! Contact values: addresses with q, expires, instance id and reg-id, or the `*` of a REGISTER.
//!
//! RFC 3261 §20.10, RFC 5626 §4.1 (`+sip.instance`, `reg-id`). All values are read before the first is handed out,
//! so that a registration is done as a whole or not at all (§10.3(7)).

use std::borrow::Cow;
use std::fmt;

use crate::error::HeaderError;
use crate::grammar::{decimal, decimal_saturating};
use crate::header_name::HeaderName;
use crate::message::Message;
use crate::name_addr::NameAddr;
use crate::params::unquote;

/// The Contact values of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contacts<'a> {
    /// `Contact: *`, alone.
    Star,
    /// Addresses, in order; empty if there is no Contact.
    List(Vec<Contact<'a>>),
}

const MALFORMED: HeaderError = HeaderError::new(HeaderName::Contact, "Malformed Contact");

impl<'a> Contacts<'a> {
    pub(crate) fn of(message: &'a Message) -> Result<Contacts<'a>, HeaderError> {
        let mut list = Vec::new();
        let mut star = false;
        for value in message.values(HeaderName::Contact) {
            match value {
                b"*" => star = true,
                value => list.push(Contact::parse(value)?),
            }
        }
        match (star, list.is_empty()) {
            (false, _) => Ok(Contacts::List(list)),
            (true, true) if message.values(HeaderName::Contact).count() == 1 => Ok(Contacts::Star),
            (true, _) => Err(HeaderError::new(HeaderName::Contact, "Contact * must stand alone")),
        }
    }
}

/// One Contact value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact<'a> {
    /// Address and header parameters.
    pub address: NameAddr<'a>,
}

impl<'a> Contact<'a> {
    /// Reads one Contact value other than `*`.
    ///
    /// # Errors
    /// It is no address.
    pub fn parse(value: &'a [u8]) -> Result<Contact<'a>, HeaderError> {
        NameAddr::parse(value).map(|address| Contact { address }).map_err(|_| MALFORMED)
    }

    /// The URI, without brackets.
    pub fn uri(&self) -> &'a [u8] {
        self.address.uri()
    }

    /// Preference among contacts; `None` if absent.
    ///
    /// # Errors
    /// It is there but no number from 0 to 1.
    pub fn q(&self) -> Result<Option<QValue>, HeaderError> {
        match self.address.param(b"q") {
            None => Ok(None),
            Some(value) => value.and_then(QValue::parse).map(Some).ok_or(MALFORMED),
        }
    }

    /// Lifetime in seconds, saturating; `None` if absent or malformed, which §10.2.1.1 lets stand for the default.
    pub fn expires(&self) -> Option<u32> {
        self.address.param(b"expires").flatten().and_then(decimal_saturating)
    }

    /// The instance id without quotes, angle brackets kept: `<urn:uuid:...>`. Source: RFC 5626 §4.1.
    pub fn instance(&self) -> Option<Cow<'a, [u8]>> {
        self.address.param(b"+sip.instance").flatten().map(unquote)
    }

    /// The reg-id, 1 to 2³¹−1. Source: RFC 5626 §4.2.
    pub fn reg_id(&self) -> Option<u32> {
        let number = decimal(self.address.param(b"reg-id").flatten()?)?;
        u32::try_from(number).ok().filter(|id| (1..1 << 31).contains(id))
    }
}

/// A preference from 0 to 1, in thousandths. Source: RFC 3261 §25.1 `qvalue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QValue(u16);

impl QValue {
    /// The highest preference, and what a contact without q has.
    pub const ONE: QValue = QValue(1000);

    /// The lowest preference.
    pub const ZERO: QValue = QValue(0);

    /// Reads `0`, `1`, `0.7`, `1.000`, ...; at most three decimals.
    pub fn parse(text: &[u8]) -> Option<QValue> {
        let (whole, decimals) = match text {
            [b'0'] | [b'0', b'.'] => return Some(QValue::ZERO),
            [b'1'] | [b'1', b'.'] => return Some(QValue::ONE),
            [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => {
                (*whole, decimals)
            }
            _ => return None,
        };
        let scale = [1000, 100, 10, 1][decimals.len()];
        let thousandths =
            u16::try_from(decimal(decimals)?).ok()? * scale + u16::from(whole - b'0') * 1000;
        (thousandths <= 1000).then_some(QValue(thousandths))
    }

    /// From thousandths, 0 to 1000; more is taken for 1000.
    pub fn from_thousandths(thousandths: u16) -> QValue {
        QValue(thousandths.min(1000))
    }

    /// In thousandths, 0 to 1000.
    pub fn thousandths(self) -> u16 {
        self.0
    }
}

impl Default for QValue {
    fn default() -> Self {
        QValue::ONE
    }
}

impl fmt::Display for QValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1000 => f.write_str("1"),
            0 => f.write_str("0"),
            thousandths => {
                let digits = format!("{thousandths:03}");
                write!(f, "0.{}", digits.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_values_have_three_decimals_at_most() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.33", Some(330)),
            ("1.000", Some(1000)),
            ("0.001", Some(1)),
            ("1.001", None),
            ("0.1234", None),
            ("2", None),
            ("", None),
            (".5", None),
            ("0.x", None),
        ] {
            assert_eq!(QValue::parse(text.as_bytes()).map(QValue::thousandths), expected, "{text}");
        }
        assert_eq!(QValue::parse(b"0.330").expect("q").to_string(), "0.33");
    }

    #[test]
    fn outbound_parameters_are_read() {
        let value = br#"<sip:a@192.0.2.2;transport=tcp>;reg-id=1;+sip.instance="<urn:uuid:0C67446E-F1A1>";q=0.5;expires=99999999999"#;
        let contact = Contact::parse(value).expect("contact");
        assert_eq!(contact.instance().as_deref(), Some(&b"<urn:uuid:0C67446E-F1A1>"[..]));
        assert_eq!((contact.reg_id(), contact.expires()), (Some(1), Some(u32::MAX)));
        assert_eq!(contact.q(), Ok(Some(QValue(500))));
        assert!(Contact::parse(b"<sip:a@b>;q=7").expect("contact").q().is_err());
    }
}
