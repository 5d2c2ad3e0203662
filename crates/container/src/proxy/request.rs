//! Builds the request that leaves to one target from the one that came in (RFC 3261 §16.6).
//!
//! Only what §16.6 names is touched; everything else, unknown headers and body included, is copied
//! byte-exact. Deliberately absent: choosing address and transport (§16.6(7)), which
//! [`crate::next_hop`] does from the topmost Route or the Request-URI; Content-Length, which the framer made sure of.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use sip::{
    Edits, FIELDS_MAX, HeaderName, MAX_FORWARDS_INITIAL, MESSAGE_BYTES_MAX, Message, NameAddr, Uri,
};

use super::NextHop;
use super::branch::BranchDeriver;
use crate::application::{RecordRoute, Target};

/// How many header fields [`forward`] adds at most: Via, Record-Route, Max-Forwards, Max-Breadth, Route twice.
const FIELDS_ADDED_MAX: usize = 6;

/// A request ready to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// Complete, own Via on top.
    pub request: Bytes,
    /// What its next hop is determined by.
    pub destination: NextHop,
}

/// Why a request cannot leave to this target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// What of the forwarded request is not in the received one.
pub(super) struct Forwarding<'a> {
    pub(super) target: &'a Target,
    pub(super) deriver: &'a BranchDeriver,
    pub(super) branch: &'a [u8],
    /// Share of this branch in the request's Max-Breadth; None for ACK, which never forks.
    pub(super) max_breadth: Option<u32>,
    pub(super) record_route: RecordRoute,
}

/// The copy of `received` for one target.
///
/// # Errors
/// [`TooLarge`] when what we add pushes it over [`MESSAGE_BYTES_MAX`] or may push it over [`FIELDS_MAX`]: no
/// edge would take it.
pub(super) fn forward(
    received: &Message,
    forwarding: &Forwarding<'_>,
) -> Result<Forwarded, TooLarge> {
    if received.all_fields().count() + FIELDS_ADDED_MAX > FIELDS_MAX {
        return Err(TooLarge);
    }
    let mut edits = Edits::new();
    // §16.6(3). The proxy context refused zero.
    let max_forwards = match received.max_forwards() {
        Ok(Some(left)) => left.saturating_sub(1),
        Ok(None) | Err(_) => MAX_FORWARDS_INITIAL,
    };
    edits.set(HeaderName::MaxForwards, max_forwards.to_string().as_bytes());
    if let Some(breadth) = forwarding.max_breadth {
        edits.set(HeaderName::MaxBreadth, breadth.to_string().as_bytes());
    }
    match forwarding.record_route {
        RecordRoute::Yes => {
            edits.push_front(HeaderName::RecordRoute, &forwarding.deriver.record_route());
        }
        RecordRoute::No => {}
    }
    let destination = route(received, forwarding.target, &mut edits);
    edits
        .push_front(HeaderName::Via, &forwarding.deriver.via(forwarding.target, forwarding.branch));

    let mut request = BytesMut::with_capacity(received.buffer().len() + 512);
    edits.render(received, &mut request);
    if request.len() > MESSAGE_BYTES_MAX {
        return Err(TooLarge);
    }
    Ok(Forwarded { request: request.freeze(), destination })
}

/// The copy of an ACK to a 2xx, which has no transaction: it is forwarded once, statelessly
/// (RFC 3261 §16.11, §17.1.1.3). None if it must not go on: no hops left, a loop, or too large.
pub fn forward_ack(
    ack: &Message,
    target: &Target,
    deriver: &BranchDeriver,
    server_branch: &[u8],
) -> Option<Forwarded> {
    let mark = deriver.loop_mark(ack);
    if matches!(ack.max_forwards(), Ok(Some(0))) || BranchDeriver::is_loop(ack, &mark) {
        return None;
    }
    let branch = deriver.branch(server_branch, target, 0, &mark);
    let forwarding = Forwarding {
        target,
        deriver,
        branch: &branch,
        max_breadth: None,
        record_route: RecordRoute::No,
    };
    forward(ack, &forwarding).ok()
}

/// Sets Request-URI and Route: the target behind its Path, behind whatever Route the request still has
/// (§16.6(2) and (6), RFC 3327 §5.4).
fn route(received: &Message, target: &Target, edits: &mut Edits) -> NextHop {
    let request_uri = without_forbidden_parts(&target.uri);
    let path: Vec<&[u8]> = target.route.iter().map(|value| &value[..]).collect();
    let first_hop = path.first().copied().or_else(|| received.values(HeaderName::Route).next());
    let Some(first_hop) = first_hop else {
        edits.set_request_uri(&request_uri);
        return NextHop::RequestUri;
    };
    let Some(strict_router) = strict_router(first_hop) else {
        edits.set_request_uri(&request_uri);
        if !path.is_empty() {
            edits.push_front(HeaderName::Route, &path.join(&b", "[..]));
        }
        return NextHop::Route;
    };
    // §16.6(6): a strict router expects its own URI as Request-URI, and the real one at the end of Route.
    match path.split_first() {
        Some((_strict, [])) => {}
        Some((_strict, rest)) => edits.push_front(HeaderName::Route, &rest.join(&b", "[..])),
        None => edits.remove_first_value(HeaderName::Route),
    }
    edits.push_back(HeaderName::Route, &[b"<", &request_uri[..], b">"].concat());
    edits.set_request_uri(strict_router);
    NextHop::RequestUri
}

/// The URI of a hop that routes strictly, as RFC 2543 had it: a SIP URI without `;lr`.
fn strict_router(route_value: &[u8]) -> Option<&[u8]> {
    let uri = NameAddr::parse(route_value).ok()?.uri();
    match Uri::parse(uri) {
        Ok(Uri::Sip(sip_uri)) if !sip_uri.lr() => Some(uri),
        // What is no SIP URI cannot say `lr`; the next hop will know.
        Ok(Uri::Sip(_) | Uri::Tel(_) | Uri::Other { .. }) | Err(_) => None,
    }
}

/// A contact may carry what a Request-URI must not: `?headers` and `;method=` (RFC 3261 §19.1.1 table 1).
fn without_forbidden_parts(uri: &[u8]) -> Cow<'_, [u8]> {
    if !matches!(Uri::parse(uri), Ok(Uri::Sip(_))) {
        return Cow::Borrowed(uri);
    }
    // Neither character stands unescaped in host or port; in the user part both may.
    let host_start = uri.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1);
    let end = uri[host_start..]
        .iter()
        .position(|&byte| byte == b'?')
        .map_or(uri.len(), |at| host_start + at);
    let uri = &uri[..end];
    let mut parts = uri[host_start..].split(|&byte| byte == b';');
    let is_method =
        |part: &[u8]| part.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"method="));
    if !parts.clone().any(is_method) {
        return Cow::Borrowed(uri);
    }
    let host = parts.next().unwrap_or_default();
    let mut kept = [&uri[..host_start], host].concat();
    for part in parts.filter(|part| !is_method(part)) {
        kept.push(b';');
        kept.extend_from_slice(part);
    }
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::KeyRing;
    use topology::token::OWNER_TOKEN_CHARS;

    use super::*;

    const OURS: &str = "Via: SIP/2.0/TCP c1.invalid;branch=z9hG4bKnew\r\n";
    const RECEIVED: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
        v: SIP/2.0/UDP edge;branch=z9hG4bKserver\r\n\
        f:<sip:alice@example.com>;tag=1\r\nTo :  <sip:bob@example.com>\r\n\
        Call-ID: call-1\r\nCSeq: 1 INVITE\r\nX-Unknown:\tas it  is\r\n\
        Content-Type: text/plain\r\nContent-Length: 4\r\n\r\n\x01b\r\n";

    fn deriver() -> BranchDeriver {
        let key = KeyRing::new([7; 32]).derive("branch");
        BranchDeriver::new(&key, [b'o'; OWNER_TOKEN_CHARS], "c1.invalid")
    }

    fn parsed(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn target(uri: &str, path: &[&str]) -> Target {
        Target {
            route: path.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect(),
            ..Target::new(uri.to_owned())
        }
    }

    fn forwarded(received: &str, target: &Target, record_route: RecordRoute) -> (Message, NextHop) {
        let forwarding = Forwarding {
            target,
            deriver: &deriver(),
            branch: b"z9hG4bKnew",
            max_breadth: Some(60),
            record_route,
        };
        let forwarded = forward(&parsed(received), &forwarding).unwrap();
        (Message::parse(forwarded.request).unwrap(), forwarded.destination)
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn everything_a_proxy_must_not_touch_is_copied_byte_exact() {
        let received =
            RECEIVED.replace("Call-ID", "Max-Forwards: 70\r\nMax-Breadth: 60\r\nCall-ID");
        let (sent, destination) =
            forwarded(&received, &target("sip:bob@192.0.2.1;x=%41", &[]), RecordRoute::No);
        let expected = received
            .replace("INVITE sip:bob@example.com", "INVITE sip:bob@192.0.2.1;x=%41")
            .replace("v: SIP", &format!("{OURS}v: SIP"))
            .replace("Max-Forwards: 70", "Max-Forwards: 69");
        assert_eq!(text(sent.buffer()), expected);
        assert_eq!(destination, NextHop::RequestUri);
    }

    #[test]
    fn request_uri_becomes_the_target_without_what_only_a_contact_may_carry() {
        for (uri, expected) in [
            ("sip:b@192.0.2.1:5070;transport=tcp", "sip:b@192.0.2.1:5070;transport=tcp"),
            ("sip:b@h?Subject=x", "sip:b@h"),
            ("sip:b@h;a=1;Method=INVITE;lr?Subject=x;y", "sip:b@h;a=1;lr"),
            ("sip:b;method=x?y@h;method=INVITE", "sip:b;method=x?y@h"),
            ("sip:h;method=INVITE", "sip:h"),
            ("tel:+358-555-1234567;method=x", "tel:+358-555-1234567;method=x"),
        ] {
            let (sent, _) = forwarded(RECEIVED, &target(uri, &[]), RecordRoute::No);
            assert_eq!(text(sent.request_uri().unwrap()), expected, "{uri}");
        }
    }

    #[test]
    fn max_forwards_falls_by_one_or_begins_at_70() {
        for (received, expected) in
            [("", "70"), ("Max-Forwards: 70\r\n", "69"), ("Max-Forwards: 1\r\n", "0")]
        {
            let request = RECEIVED.replace("Call-ID", &format!("{received}Call-ID"));
            let (sent, _) = forwarded(&request, &target("sip:b@h", &[]), RecordRoute::No);
            let values: Vec<_> = sent.fields(HeaderName::MaxForwards).map(text).collect();
            assert_eq!(values, [expected], "{received}");
        }
    }

    /// Request-URI, Route values and next hop after forwarding to `sip:bob@phone` over `path` a request that
    /// still has the `route` lines.
    fn routed(path: &[&str], route: &str) -> (String, Vec<String>, NextHop) {
        let request = RECEIVED.replace("Call-ID", &format!("{route}Call-ID"));
        let (sent, destination) =
            forwarded(&request, &target("sip:bob@phone", path), RecordRoute::No);
        let route = sent.values(HeaderName::Route).map(text).collect();
        (text(sent.request_uri().unwrap()), route, destination)
    }

    #[test]
    fn path_is_preloaded_in_order_above_the_requests_own_route() {
        // RFC 3327 §5.4
        let cases: [(&[&str], &str, &[&str]); 4] = [
            (&["<sip:f1@edge;lr>"], "", &["<sip:f1@edge;lr>"]),
            (&["<sip:f1@e1;lr>", "<sip:e2;lr>"], "", &["<sip:f1@e1;lr>", "<sip:e2;lr>"]),
            (
                &["<sip:f1@e1;lr>", "<sip:e2;lr>"],
                "Route: <sip:r1;lr>,<sip:r2>\r\nRoute: <sip:r3;lr>\r\n",
                &["<sip:f1@e1;lr>", "<sip:e2;lr>", "<sip:r1;lr>", "<sip:r2>", "<sip:r3;lr>"],
            ),
            (&[], "Route: <sip:r1;lr>,<sip:r2>\r\n", &["<sip:r1;lr>", "<sip:r2>"]),
        ];
        for (path, route, expected) in cases {
            let (uri, values, destination) = routed(path, route);
            assert_eq!(uri, "sip:bob@phone");
            assert_eq!(values, expected);
            assert_eq!(destination, NextHop::Route);
        }
    }

    #[test]
    fn strict_router_gets_its_own_uri_and_the_real_one_at_the_end_of_route() {
        // RFC 3261 §16.6(6)
        let cases: [(&[&str], &str, &[&str]); 5] = [
            (&["<sip:strict>"], "", &["<sip:bob@phone>"]),
            (&["<sip:strict>"], "Route: <sip:r1;lr>\r\n", &["<sip:r1;lr>", "<sip:bob@phone>"]),
            (&["<sip:strict>", "<sip:e2;lr>"], "", &["<sip:e2;lr>", "<sip:bob@phone>"]),
            (
                &["<sip:strict>", "<sip:e2;lr>"],
                "Route: <sip:r1;lr>\r\n",
                &["<sip:e2;lr>", "<sip:r1;lr>", "<sip:bob@phone>"],
            ),
            (
                &[],
                "Route: <sip:strict>, <sip:r2;lr>\r\nRoute: <sip:r3>\r\n",
                &["<sip:r2;lr>", "<sip:r3>", "<sip:bob@phone>"],
            ),
        ];
        for (path, route, expected) in cases {
            let (uri, values, destination) = routed(path, route);
            assert_eq!(uri, "sip:strict");
            assert_eq!(values, expected);
            assert_eq!(destination, NextHop::RequestUri);
        }
        let (uri, values, _) = routed(&[], "Route: <sip:strict>\r\n");
        assert_eq!(
            (uri.as_str(), &values[..]),
            ("sip:strict", &["<sip:bob@phone>".to_owned()][..])
        );
    }

    #[test]
    fn record_route_is_added_on_top_only_when_the_plan_says_so() {
        let request = RECEIVED.replace("Call-ID", "Record-Route: <sip:edge;lr>\r\nCall-ID");
        for (record_route, expected) in [
            (RecordRoute::No, vec!["<sip:edge;lr>".to_owned()]),
            (
                RecordRoute::Yes,
                vec![
                    format!("<sip:{}@c1.invalid;lr>", "o".repeat(OWNER_TOKEN_CHARS)),
                    "<sip:edge;lr>".to_owned(),
                ],
            ),
        ] {
            let (sent, _) = forwarded(&request, &target("sip:b@h", &[]), record_route);
            let values: Vec<_> = sent.values(HeaderName::RecordRoute).map(text).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn ack_is_forwarded_without_max_breadth_unless_its_hops_are_spent() {
        let ack = RECEIVED.replace("INVITE", "ACK");
        let bob = target("sip:bob@phone", &["<sip:f1@edge;lr>"]);
        let sent = forward_ack(&parsed(&ack), &bob, &deriver(), b"z9hG4bKserver").unwrap();
        assert_eq!(sent.destination, NextHop::Route);
        let sent = Message::parse(sent.request).unwrap();
        assert_eq!(sent.request_uri(), Some(&b"sip:bob@phone"[..]));
        assert_eq!(sent.field(HeaderName::MaxBreadth), None);
        assert_eq!(sent.field(HeaderName::MaxForwards), Some(&b"70"[..]));

        let spent = ack.replace("Call-ID", "Max-Forwards: 0\r\nCall-ID");
        assert_eq!(forward_ack(&parsed(&spent), &bob, &deriver(), b"z9hG4bKserver"), None);
    }
}
