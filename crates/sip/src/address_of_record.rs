//! An address-of-record in canonical form: the key under which bindings are found.
//!
//! RFC 3261 §10.3(5): URI parameters removed, escapes resolved. To keep one spelling per address and the text
//! unambiguous, exactly those bytes are escaped again that could not stand in a user part; so `sip:%61lice@X` and
//! `sip:alice@x` are one address, and `null-%00-null` stays whole. `sips:` names the same address (RFC 5630 §3.3).

use std::fmt;

use crate::error::UriError;
use crate::escape::Decoded;
use crate::uri::{SipUri, Uri};

/// Room for the text of a usual address.
const TEXT_BYTES_USUAL: usize = 64;

/// `sip:user@host` or `sip:host`, canonical; ordered and hashed as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressOfRecord {
    text: Box<str>,
}

impl AddressOfRecord {
    /// Reads a SIP or SIPS URI and makes it canonical.
    ///
    /// # Errors
    /// It is malformed, or of another scheme ([`UriError::Scheme`]).
    pub fn parse(uri: &[u8]) -> Result<AddressOfRecord, UriError> {
        match Uri::parse(uri)? {
            Uri::Sip(uri) => Ok(AddressOfRecord::from(&uri)),
            Uri::Tel(_) | Uri::Other { .. } => Err(UriError::Scheme),
        }
    }

    /// The canonical text, with scheme.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The user part in canonical escapes; `None` for a whole domain.
    pub fn user(&self) -> Option<&str> {
        self.address().split_once('@').map(|(user, _)| user)
    }

    /// Host, lower case, with `:port` if that is not the default one.
    pub fn domain(&self) -> &str {
        let address = self.address();
        address.split_once('@').map_or(address, |(_, domain)| domain)
    }

    fn address(&self) -> &str {
        self.text.strip_prefix("sip:").expect("built with this scheme")
    }

    /// Writes the canonical text of a URI's address, for whoever needs no copy of it.
    ///
    /// # Errors
    /// Only what `out` answers.
    pub fn write(uri: &SipUri<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str("sip:")?;
        if let Some(user) = uri.user {
            match std::str::from_utf8(user) {
                // Nearly all of them: at once.
                Ok(text) if user.iter().all(|&byte| may_stand_in_user(byte)) => {
                    out.write_str(text)?
                }
                Ok(_) | Err(_) => write_escaped(user, out)?,
            }
            out.write_char('@')?;
        }
        write!(out, "{}", uri.host)?;
        let default = if uri.secure { 5061 } else { 5060 };
        match uri.port.filter(|&port| port != default) {
            Some(port) => write!(out, ":{port}"),
            None => Ok(()),
        }
    }
}

impl From<&SipUri<'_>> for AddressOfRecord {
    fn from(uri: &SipUri<'_>) -> Self {
        let mut text = String::with_capacity(TEXT_BYTES_USUAL);
        AddressOfRecord::write(uri, &mut text).expect("a String takes all");
        AddressOfRecord { text: text.into_boxed_str() }
    }
}

fn write_escaped(user: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    for (byte, _) in (Decoded { bytes: user }) {
        if may_stand_in_user(byte) {
            out.write_char(char::from(byte))?;
        } else {
            write!(out, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// `unreserved` and `user-unreserved` of RFC 3261 §25.1.
fn may_stand_in_user(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte)
}

impl fmt::Display for AddressOfRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for AddressOfRecord {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        AddressOfRecord::parse(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(uri: &str) -> String {
        AddressOfRecord::parse(uri.as_bytes()).expect("SIP URI").to_string()
    }

    #[test]
    fn spellings_of_one_address_are_one_key() {
        for uri in [
            "sip:%61lice@Atlanta.COM",
            "sips:alice@atlanta.com",
            "sip:alice:pw@atlanta.com:5060;transport=tcp?a=b",
        ] {
            assert_eq!(canonical(uri), "sip:alice@atlanta.com");
        }
        assert_eq!(canonical("sip:a@[2001:0db8::01]:5070"), "sip:a@[2001:db8::1]:5070");
        assert_eq!(canonical("sip:a%3bb@x"), canonical("sip:a;b@x"));
    }

    #[test]
    fn bytes_that_cannot_stand_in_a_user_part_stay_escaped() {
        assert_eq!(canonical("sip:null-%00-null@example.com"), "sip:null-%00-null@example.com");
        assert_eq!(
            canonical("sip:user;par=u%40example.net@example.com"),
            "sip:user;par=u%40example.net@example.com"
        );
        assert_eq!(canonical("sip:%2541@x"), "sip:%2541@x");
    }

    #[test]
    fn case_of_the_user_part_counts() {
        assert_ne!(canonical("sip:Alice@x"), canonical("sip:alice@x"));
    }

    #[test]
    fn parts_can_be_read_back() {
        let aor = AddressOfRecord::parse(b"sip:alice@example.com").expect("AOR");
        assert_eq!((aor.user(), aor.domain()), (Some("alice"), "example.com"));
        let domain = AddressOfRecord::parse(b"sip:example.com").expect("AOR");
        assert_eq!((domain.user(), domain.domain()), (None, "example.com"));
        assert_eq!(AddressOfRecord::parse(b"tel:+1"), Err(UriError::Scheme));
    }
}
