//! From the bindings of an address-of-record to the targets of a request for it.
//!
//! Source: RFC 3261 §16.5 (target set), RFC 3327 §5.4 (stored Path becomes Route), RFC 5626 §7 (flows of one
//! instance). The order among targets is the proxy's business: here they only get their q and instance.

use bytes::Bytes;
use container::application::{QValue, Target};
use sip::Uri;
use state::UnixMillis;

use crate::bindings::{Binding, Bindings};

/// The targets of a request that comes at `now`: one for each living binding, the newest first.
pub fn targets(bindings: &Bindings, now: UnixMillis) -> Vec<Target> {
    let mut living: Vec<&Binding> = bindings.living(now).collect();
    // Of several flows of one instance the proxy tries the first first: the newest is the likeliest to be there.
    living.reverse();
    living.into_iter().map(target).collect()
}

fn target(binding: &Binding) -> Target {
    Target {
        uri: request_uri(&binding.contact),
        route: binding.path.clone(),
        q: QValue::from_thousandths(binding.q.thousandths()),
        // RFC 5626 §7: only flows are alternatives of one another; two plain bindings of one instance are two contacts.
        instance: binding.reg_id.and(binding.instance.clone()),
    }
}

/// The contact as a Request-URI: without its headers, which are not allowed there (RFC 3261 §19.1.1) and must never
/// become header fields of ours (RFC 4475 §3.1.2.11).
fn request_uri(contact: &Bytes) -> Bytes {
    let has_headers =
        Uri::parse(contact).is_ok_and(|uri| uri.as_sip().is_some_and(sip::SipUri::has_headers));
    if !has_headers {
        return contact.clone();
    }
    // A user part may hold a question mark, nothing behind it but the headers may.
    let host = contact.iter().position(|&octet| octet == b'@').unwrap_or(0);
    let end = contact[host..]
        .iter()
        .position(|&octet| octet == b'?')
        .map_or(contact.len(), |at| host + at);
    contact.slice(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_uri_has_no_headers() {
        for (contact, expected) in [
            ("sip:bob@192.0.2.1", "sip:bob@192.0.2.1"),
            ("sip:bob@192.0.2.1;ob", "sip:bob@192.0.2.1;ob"),
            ("sip:bob@192.0.2.1;x?Route=%3Csip:evil%3E", "sip:bob@192.0.2.1;x"),
            ("sip:a?b@192.0.2.1?Subject=x?", "sip:a?b@192.0.2.1"),
            ("sip:192.0.2.1?Subject=x", "sip:192.0.2.1"),
        ] {
            assert_eq!(request_uri(&Bytes::from_static(contact.as_bytes())), expected);
        }
    }
}
