//! One good request, and what each single fault in it is answered with.

use bytes::Bytes;

use crate::framer::Framing;
use crate::message::Message;

const LINES: [&str; 9] = [
    "INVITE sip:bob@example.com SIP/2.0",
    "Via: SIP/2.0/UDP pc33.example.com;branch=z9hG4bK776",
    "Max-Forwards: 70",
    "To: Bob <sip:bob@example.com>",
    "From: Alice <sip:alice@example.com>;tag=1928301774",
    "Call-ID: a84b4c76e66710@pc33.example.com",
    "CSeq: 314159 INVITE",
    "Contact: <sip:alice@pc33.example.com>",
    "Content-Length: 4",
];

/// The good request, with the lines that begin like one of `changes` replaced (or, if empty, left out).
fn request(changes: &[(&str, &str)]) -> Message {
    let mut text = String::new();
    for line in LINES {
        let changed =
            changes.iter().find(|(start, _)| line.starts_with(start)).map_or(line, |(_, new)| new);
        if !changed.is_empty() {
            text.push_str(changed);
            text.push_str("\r\n");
        }
    }
    text.push_str("\r\nbody");
    Message::parse(Bytes::from(text)).expect("structure")
}

fn refused(changes: &[(&str, &str)]) -> (u16, &'static str) {
    let rejection = request(changes).check_request(Framing::Datagram).expect_err("a fault");
    (rejection.status, rejection.reason)
}

#[test]
fn a_good_request_passes() {
    assert_eq!(request(&[]).check_request(Framing::Datagram), Ok(()));
    assert_eq!(request(&[]).check_request(Framing::Stream), Ok(()));
}

#[test]
fn missing_mandatory_headers_are_named() {
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        assert_eq!(
            refused(&[(&format!("{name}:"), "")]),
            (400, format!("Missing {name}").leak() as &str)
        );
    }
}

#[test]
fn rfc_2543_requests_pass_without_max_forwards_tag_branch_and_on_udp_length() {
    let old = request(&[
        ("Max", ""),
        ("From", "From: sip:a@b"),
        ("Via", "Via: SIP/2.0/UDP host"),
        ("Content-L", ""),
    ]);
    assert_eq!(old.check_request(Framing::Datagram), Ok(()));
    assert_eq!(
        old.check_request(Framing::Stream).map_err(|r| r.reason),
        Err("Missing Content-Length")
    );
}

#[test]
fn repeated_headers_are_refused_even_if_they_agree() {
    for line in ["From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Length"] {
        let original =
            LINES.iter().find(|found| found.starts_with(&format!("{line}:"))).expect("line");
        let twice = format!("{original}\r\n{original}");
        assert_eq!(
            refused(&[(&format!("{line}:"), &twice)]),
            (400, format!("More Than One {line}").leak() as &str)
        );
    }
    assert_eq!(
        refused(&[("Content-L", "Content-Length: 4\r\nl: 4")]).1,
        "More Than One Content-Length"
    );
}

#[test]
fn malformed_start_lines_are_refused() {
    assert_eq!(refused(&[("INVITE", "INVITE sip:bob@example.com SIP/3.0")]).0, 505);
    for uri in ["<sip:bob@example.com>", "sip:bob@example.com; lr", "sip:bob@", "bob", "sip:a\tb@c"]
    {
        assert_eq!(
            refused(&[("INVITE", &format!("INVITE {uri} SIP/2.0"))]),
            (400, "Malformed Request-URI"),
            "{uri}"
        );
    }
    assert_eq!(
        refused(&[("INVITE", "INVITE sip:a@b?Route=%3Csip:x%3E SIP/2.0")]),
        (400, "Request-URI Has Headers")
    );
}

#[test]
fn malformed_headers_are_named() {
    for (start, line, reason) in [
        ("Via", "Via: SIP/2.0/UDP host;;", "Malformed Via"),
        ("Via", "Via: SIP/2.0/UDP host;branch=z9hG4bK", "Empty Branch"),
        ("Via", "Via: SIP/2.0/UDP host;branch=z9hG4bKa, ", "Malformed Via"),
        ("Max", "Max-Forwards: 256", "Malformed Max-Forwards"),
        ("To", "To: \"Bob <sip:bob@example.com>", "Malformed To"),
        ("From", "From: Bell, Alexander <sip:a@b>;tag=1", "Malformed From"),
        ("Call", "Call-ID: a b", "Malformed Call-ID"),
        ("CSeq", "CSeq: 4294967296 INVITE", "Malformed CSeq"),
        ("CSeq", "CSeq: 1 BYE", "CSeq Method Does Not Match"),
        ("Contact", "Contact: sip:a@b?c=d", "Address Needs Angle Brackets"),
        ("Contact", "Contact: <sip:a@b>, <sip:>", "Malformed Contact"),
        ("Contact", "Route: <sip:p;lr", "Malformed Route"),
        ("Content-L", "Content-Length: -4", "Malformed Content-Length"),
        ("Content-L", "Content-Length: 5", "Body Shorter Than Content-Length"),
    ] {
        assert_eq!(refused(&[(start, line)]), (400, reason), "{line}");
    }
}

#[test]
fn an_unterminated_header_is_refused_but_can_be_answered() {
    let message = Message::parse(Bytes::from_static(b"OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n"))
        .expect("structure");
    assert_eq!(
        message.check_request(Framing::Datagram).map_err(|r| r.reason),
        Err("Missing Empty Line After Header")
    );
}

#[test]
fn responses_towards_broadcast_or_multicast_are_dropped() {
    let response = |second: &str| {
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP {second}\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).expect("structure").check_response().is_ok()
    };
    assert!(response("192.0.2.1;branch=z9hG4bK2"));
    assert!(!response("255.255.255.255;branch=z9hG4bK2"));
    assert!(!response("224.0.1.75;branch=z9hG4bK2"));
    assert!(!response("[ff02::1];branch=z9hG4bK2"));
    assert!(response("255.255.255.255;received=192.0.2.7;branch=z9hG4bK2"));
}
