//! URIs of RFC 3261 §19.1.4, RFC 4475 and RFC 5954, and what must not be taken for one.

use super::*;

fn sip(text: &str) -> SipUri<'_> {
    match Uri::parse(text.as_bytes()) {
        Ok(Uri::Sip(uri)) => uri,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn all_parts_are_found() {
    let uri =
        sip("sips:alice:secret@atlanta.example:5061;transport=tcp;lr?Subject=x&Priority=urgent");
    assert!(uri.secure && uri.lr());
    assert_eq!((uri.user, uri.password), (Some(&b"alice"[..]), Some(&b"secret"[..])));
    assert_eq!((uri.host, uri.port), (Host::Name(b"atlanta.example"), Some(5061)));
    assert_eq!(uri.transport(), Some(&b"tcp"[..]));
    assert_eq!(
        uri.headers().collect::<Vec<_>>(),
        [(&b"Subject"[..], &b"x"[..]), (b"Priority", b"urgent")]
    );
}

#[test]
fn the_user_part_may_hold_what_delimits_elsewhere() {
    assert_eq!(
        sip("sip:user;par=u%40example.net@example.com").user,
        Some(&b"user;par=u%40example.net"[..])
    );
    let uri = sip(
        "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
    );
    assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
    assert!(!uri.has_headers());
}

#[test]
fn other_schemes_are_kept_whole() {
    assert!(matches!(
        Uri::parse(b"tel:+1-201-555-0123;ext=1"),
        Ok(Uri::Tel(b"+1-201-555-0123;ext=1"))
    ));
    assert!(matches!(
        Uri::parse(b"soap.beep://192.0.2.103:3002"),
        Ok(Uri::Other { scheme: b"soap.beep", .. })
    ));
    assert!(matches!(Uri::parse(b"urn:service:sos"), Ok(Uri::Other { scheme: b"urn", .. })));
}

#[test]
fn malformed_uris_are_refused() {
    for (text, error) in [
        ("", UriError::Scheme),
        ("user@example.com", UriError::Scheme),
        ("<sip:user@example.com>", UriError::Scheme),
        ("sip:user@example.com; lr", UriError::Byte),
        ("sip:user%4@example.com", UriError::Byte),
        ("sip:@example.com", UriError::User),
        ("sip:user@", UriError::Host),
        ("sip:", UriError::Host),
        ("sip:user@[2001:db8:::1]", UriError::Host),
        ("sip:user@host:", UriError::Port),
        ("sip:user@host:65536", UriError::Port),
        ("sip:user@host;;lr", UriError::Parameter),
        ("sip:user@host;a=1;A=2", UriError::Parameter),
        ("sip:user@host?", UriError::Parameter),
    ] {
        assert_eq!(Uri::parse(text.as_bytes()).err(), Some(error), "{text}");
    }
}

#[test]
fn parameters_are_bounded() {
    let uri =
        |count: usize| (0..count).fold("sip:a@b".to_owned(), |uri, n| uri + &format!(";p{n}"));
    assert!(Uri::parse(uri(PARAMETERS_MAX).as_bytes()).is_ok());
    assert_eq!(Uri::parse(uri(PARAMETERS_MAX + 1).as_bytes()).err(), Some(UriError::Parameter));
}

#[test]
fn equivalent_uris_of_rfc_3261_19_1_4() {
    for (a, b) in [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a@[2001:db8::1]", "sip:a@[2001:0DB8:0::1]"),
    ] {
        assert!(sip(a).equivalent(&sip(b)) && sip(b).equivalent(&sip(a)), "{a} = {b}");
    }
}

#[test]
fn different_uris_of_rfc_3261_19_1_4() {
    for (a, b) in [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ("sip:bob@biloxi.com;maddr=192.0.2.1", "sip:bob@biloxi.com"),
    ] {
        assert!(!sip(a).equivalent(&sip(b)) && !sip(b).equivalent(&sip(a)), "{a} != {b}");
    }
}
