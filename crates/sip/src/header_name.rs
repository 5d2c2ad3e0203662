//! Header names: bytes as they stand on the wire to one small code, long and compact forms alike.
//!
//! RFC 3261 §7.3.1 (case-insensitive), §7.3.3 (compact forms), IANA registry of SIP header fields. A name that is
//! not listed is [`HeaderName::Other`]: the message keeps its bytes and forwards them untouched.

use std::fmt;

macro_rules! header_names {
    ($($variant:ident $long:literal $($compact:literal)?),* $(,)?) => {
        /// A header that this crate knows by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum HeaderName {
            $(#[doc = concat!("`", $long, "`")] $variant,)*
            /// Any header that is not listed; look for it with [`Message::field_named`](crate::Message::field_named).
            Other,
        }

        impl HeaderName {
            /// Every known header, in declaration order; `Other` is not among them.
            pub const ALL: &[HeaderName] = &[$(HeaderName::$variant),*];

            const LONG: &[&str] = &[$($long),*];

            fn from_compact(letter: u8) -> HeaderName {
                match letter.to_ascii_lowercase() {
                    $($($compact => HeaderName::$variant,)?)*
                    _ => HeaderName::Other,
                }
            }
        }
    };
}

header_names! {
    Via "Via" b'v',
    From "From" b'f',
    To "To" b't',
    CallId "Call-ID" b'i',
    CSeq "CSeq",
    MaxForwards "Max-Forwards",
    Contact "Contact" b'm',
    Route "Route",
    RecordRoute "Record-Route",
    Path "Path",
    ServiceRoute "Service-Route",
    Expires "Expires",
    MinExpires "Min-Expires",
    ContentLength "Content-Length" b'l',
    ContentType "Content-Type" b'c',
    ContentEncoding "Content-Encoding" b'e',
    ContentDisposition "Content-Disposition",
    ContentLanguage "Content-Language",
    Require "Require",
    ProxyRequire "Proxy-Require",
    Supported "Supported" b'k',
    Unsupported "Unsupported",
    Allow "Allow",
    AllowEvents "Allow-Events" b'u',
    Accept "Accept",
    AcceptEncoding "Accept-Encoding",
    AcceptLanguage "Accept-Language",
    AcceptContact "Accept-Contact" b'a',
    RejectContact "Reject-Contact" b'j',
    RequestDisposition "Request-Disposition" b'd',
    Authorization "Authorization",
    WwwAuthenticate "WWW-Authenticate",
    ProxyAuthorization "Proxy-Authorization",
    ProxyAuthenticate "Proxy-Authenticate",
    AuthenticationInfo "Authentication-Info",
    RetryAfter "Retry-After",
    Warning "Warning",
    Server "Server",
    UserAgent "User-Agent",
    Event "Event" b'o',
    SubscriptionState "Subscription-State",
    ReferTo "Refer-To" b'r',
    ReferredBy "Referred-By" b'b',
    Replaces "Replaces",
    Join "Join",
    RSeq "RSeq",
    RAck "RAck",
    MaxBreadth "Max-Breadth",
    FlowTimer "Flow-Timer",
    SessionExpires "Session-Expires" b'x',
    MinSe "Min-SE",
    Identity "Identity" b'y',
    Date "Date",
    Timestamp "Timestamp",
    Subject "Subject" b's',
    Organization "Organization",
    Priority "Priority",
    InReplyTo "In-Reply-To",
    ReplyTo "Reply-To",
    AlertInfo "Alert-Info",
    CallInfo "Call-Info",
    ErrorInfo "Error-Info",
    MimeVersion "MIME-Version",
    Privacy "Privacy",
    PAssertedIdentity "P-Asserted-Identity",
    PPreferredIdentity "P-Preferred-Identity",
    PAssociatedUri "P-Associated-URI",
    HistoryInfo "History-Info",
    Diversion "Diversion",
    Reason "Reason",
    SipEtag "SIP-ETag",
    SipIfMatch "SIP-If-Match",
}

/// Open-addressed table of the long names, built at compile time; 0 is an empty slot, n is `ALL[n - 1]`.
static SLOTS: [u8; SLOT_COUNT] = slots();
const SLOT_COUNT: usize = 512;

/// Length, first and last letter spread these names well; letters are folded by setting the lower-case bit.
const fn slot_of(name: &[u8]) -> usize {
    let first = (name[0] | 0x20) as usize;
    let last = (name[name.len() - 1] | 0x20) as usize;
    let middle = (name[name.len() / 2] | 0x20) as usize;
    (name.len() * 67 + first * 31 + last * 7 + middle * 13) % SLOT_COUNT
}

const fn slots() -> [u8; SLOT_COUNT] {
    let mut table = [0_u8; SLOT_COUNT];
    let mut index = 0;
    while index < HeaderName::LONG.len() {
        let mut slot = slot_of(HeaderName::LONG[index].as_bytes());
        while table[slot] != 0 {
            slot = (slot + 1) % SLOT_COUNT;
        }
        table[slot] = index as u8 + 1;
        index += 1;
    }
    table
}

impl HeaderName {
    /// Recognises a header name in long or compact form, in any case.
    pub fn parse(name: &[u8]) -> HeaderName {
        match name {
            [] => HeaderName::Other,
            [letter] => HeaderName::from_compact(*letter),
            _ => HeaderName::from_long(name),
        }
    }

    fn from_long(name: &[u8]) -> HeaderName {
        let mut slot = slot_of(name);
        loop {
            match SLOTS[slot] {
                0 => return HeaderName::Other,
                found => {
                    let index = usize::from(found) - 1;
                    let long = HeaderName::LONG[index].as_bytes();
                    // Nearly everybody writes the usual case, and equal bytes are compared faster than folded ones.
                    if long == name || long.eq_ignore_ascii_case(name) {
                        return HeaderName::ALL[index];
                    }
                }
            }
            slot = (slot + 1) % SLOT_COUNT;
        }
    }

    /// The long form, as we write it; empty for `Other`.
    pub fn as_str(self) -> &'static str {
        HeaderName::LONG.get(self as usize).copied().unwrap_or_default()
    }

    /// The one bit that stands for this name in a set of names.
    pub(crate) const fn bit(self) -> u128 {
        1 << (self as u8)
    }
}

// A set of names is one u128.
const _: () = assert!(HeaderName::ALL.len() < 128);

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeaderName::Other => "header",
            name => name.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for name in HeaderName::ALL {
            assert_eq!(HeaderName::parse(name.as_str().as_bytes()), *name);
            assert_eq!(HeaderName::parse(name.as_str().to_ascii_uppercase().as_bytes()), *name);
            assert_eq!(HeaderName::parse(name.as_str().to_ascii_lowercase().as_bytes()), *name);
        }
    }

    #[test]
    fn compact_forms_stand_for_their_long_names() {
        for (compact, long) in [
            (b"v", "Via"),
            (b"F", "From"),
            (b"t", "To"),
            (b"I", "Call-ID"),
            (b"m", "Contact"),
            (b"l", "Content-Length"),
            (b"c", "Content-Type"),
            (b"k", "Supported"),
            (b"o", "Event"),
            (b"r", "Refer-To"),
        ] {
            assert_eq!(HeaderName::parse(compact), HeaderName::parse(long.as_bytes()), "{long}");
        }
    }

    #[test]
    fn escaped_or_unknown_names_are_other() {
        for name in [&b"C%6Fntact"[..], b"X-Via", b"Vi", b"", b"z", b"Via "] {
            assert_eq!(HeaderName::parse(name), HeaderName::Other);
        }
    }
}
