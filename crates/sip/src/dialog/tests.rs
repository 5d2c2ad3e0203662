//! Dialogs at both ends, by the rules and examples of RFC 3261 §12.
#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::framer::Framing;

const INVITE: &str = "INVITE sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
    RECORDFrom: \"A\" <sip:alice@atlanta.example>;tag=alice\r\nTo: Bob <sip:bob@biloxi.example>\r\n\
    Call-ID: c1\r\nCSeq: 314 INVITE\r\nContact: <sip:alice@192.0.2.1:5062>\r\nContent-Length: 0\r\n\r\n";
const RECORDED: &str = "Record-Route: <sip:p3;lr>, <sip:p2;lr>\r\nRecord-Route: <sip:p1;lr>\r\n";

fn message(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn invite() -> Message {
    message(&INVITE.replace("RECORD", RECORDED))
}

/// The response to [`invite`], with these fields more.
fn response(status: u16, tag: &str, fields: &str) -> Message {
    message(&format!(
        "SIP/2.0 {status} X\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n{fields}\
         From: \"A\" <sip:alice@atlanta.example>;tag=alice\r\nTo: Bob <sip:bob@biloxi.example>{tag}\r\n\
         Call-ID: c1\r\nCSeq: 314 INVITE\r\nContent-Length: 0\r\n\r\n"
    ))
}

const CONTACT: &str = "Contact: <sip:bob@192.0.2.4>\r\n";

fn answered() -> Message {
    response(200, ";tag=bob", &format!("{RECORDED}{CONTACT}"))
}

/// Both ends of one dialog.
fn ends() -> (Dialog, Dialog) {
    let client = Dialog::at_client(&invite(), &answered()).unwrap();
    let server = Dialog::at_server(&invite(), &answered()).unwrap();
    (client, server)
}

fn within(method: &str, cseq: u32, from: &str, to: &str, fields: &str) -> Message {
    message(&format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bK2\r\nFrom: {from}\r\nTo: {to}\r\n\
         Call-ID: c1\r\nCSeq: {cseq} {method}\r\n{fields}Content-Length: 0\r\n\r\n"
    ))
}

#[test]
fn both_ends_see_the_same_dialog_turned_round() {
    // RFC 3261 §12.1.1, §12.1.2
    let (client, server) = ends();
    assert_eq!((client.local_tag(), client.remote_tag()), (&b"alice"[..], &b"bob"[..]));
    assert_eq!((server.local_tag(), server.remote_tag()), (&b"bob"[..], &b"alice"[..]));
    assert_eq!((&client.local, &client.remote), (&server.remote, &server.local));
    assert_eq!(client.route_set, ["<sip:p1;lr>", "<sip:p2;lr>", "<sip:p3;lr>"]);
    assert_eq!(server.route_set, ["<sip:p3;lr>", "<sip:p2;lr>", "<sip:p1;lr>"]);
    assert_eq!(client.remote_target, "sip:bob@192.0.2.4");
    assert_eq!(server.remote_target, "sip:alice@192.0.2.1:5062");
    assert_eq!((client.local_cseq, client.remote_cseq), (314, None));
    assert_eq!((server.local_cseq, server.remote_cseq), (0, Some(314)));
}

#[test]
fn which_responses_make_a_dialog() {
    use DialogError::{Field, NoDialog};
    use DialogState::{Confirmed, Early};
    let contact = Field(HeaderName::Contact);
    // status, To tag, has Contact: at the client, at the server
    for (status, tag, fields, client, server) in [
        (100, "", CONTACT, Err(NoDialog), Err(NoDialog)),
        (180, ";tag=t", CONTACT, Ok(Early), Ok(Early)),
        (183, ";tag=t", "", Err(contact), Ok(Early)),
        (180, "", CONTACT, Ok(Early), Err(NoDialog)),
        (200, ";tag=t", CONTACT, Ok(Confirmed), Ok(Confirmed)),
        // An RFC 2543 callee has no tag (§12.1.2).
        (200, "", CONTACT, Ok(Confirmed), Err(NoDialog)),
        // It rings no more, so it must be possible to acknowledge and end it.
        (200, ";tag=t", "", Ok(Confirmed), Ok(Confirmed)),
        (302, ";tag=t", CONTACT, Err(NoDialog), Err(NoDialog)),
        (486, ";tag=t", CONTACT, Err(NoDialog), Err(NoDialog)),
    ] {
        let response = response(status, tag, fields);
        let state = |dialog: Result<Dialog, _>| dialog.map(|dialog| dialog.state);
        assert_eq!(state(Dialog::at_client(&invite(), &response)), client, "{status}{tag}");
        assert_eq!(state(Dialog::at_server(&invite(), &response)), server, "{status}{tag}");
    }
}

#[test]
fn request_without_one_contact_makes_no_dialog_at_the_server() {
    for contact in ["", "Contact: *\r\n", "Contact: <sip:a@x>, <sip:b@x>\r\n"] {
        let invite = INVITE
            .replace("RECORD", "")
            .replace("Contact: <sip:alice@192.0.2.1:5062>\r\n", contact);
        let found = Dialog::at_server(&message(&invite), &answered());
        assert_eq!(found, Err(DialogError::Field(HeaderName::Contact)), "{contact}");
    }
}

#[test]
fn second_response_confirms_and_brings_its_own_route() {
    // RFC 3261 §13.2.2.4
    let early = response(180, ";tag=bob", &format!("Record-Route: <sip:old;lr>\r\n{CONTACT}"));
    let mut dialog = Dialog::at_client(&invite(), &early).unwrap();
    dialog.confirm(&answered());
    assert_eq!(dialog, ends().0);
    // A later 2xx, that of a re-INVITE, moves the target but never the route.
    let moved = response(200, ";tag=bob", "Record-Route: <sip:new;lr>\r\nContact: <sip:m@x>\r\n");
    dialog.confirm(&moved);
    assert_eq!(dialog.route_set, ends().0.route_set);
    assert_eq!(dialog.remote_target, "sip:m@x");
}

#[test]
fn requests_carry_the_dialogs_identity() {
    let (mut client, server) = ends();
    let cseq = client.take_cseq();
    let bye = client.request(Method::Bye, cseq, b"SIP/2.0/TCP c;branch=z9hG4bKx").build();
    let bye = Message::parse(bye).unwrap();
    assert_eq!(bye.check_request(Framing::Stream), Ok(()));
    assert_eq!(bye.request_uri(), Some(&b"sip:bob@192.0.2.4"[..]));
    let routes: Vec<&[u8]> = bye.values(HeaderName::Route).collect();
    assert_eq!(routes, [&b"<sip:p1;lr>"[..], b"<sip:p2;lr>", b"<sip:p3;lr>"]);
    assert_eq!(bye.cseq().unwrap().number, 315);
    assert!(server.has_request(&bye));
    assert!(!client.has_request(&bye), "tags have a direction");
    let ack = client.request(Method::Ack, 314, b"SIP/2.0/TCP c;branch=z9hG4bKy").build();
    assert_eq!(Message::parse(ack).unwrap().cseq().unwrap().number, 314);
}

#[test]
fn strict_router_gets_its_own_uri_and_the_target_last() {
    // RFC 3261 §12.2.1.1
    let mut dialog = ends().0;
    dialog.route_set[0] = Bytes::from_static(b"<sip:strict>");
    let request = dialog.request(Method::Bye, 1, b"SIP/2.0/TCP c;branch=z9hG4bKx").build();
    let request = Message::parse(request).unwrap();
    assert_eq!(request.request_uri(), Some(&b"sip:strict"[..]));
    let routes: Vec<&[u8]> = request.values(HeaderName::Route).collect();
    assert_eq!(routes, [&b"<sip:p2;lr>"[..], b"<sip:p3;lr>", b"<sip:bob@192.0.2.4>"]);
}

#[test]
fn requests_of_others_are_told_apart() {
    let server = ends().1;
    let check = |from: &str, to: &str, belongs: bool| {
        assert_eq!(server.has_request(&within("BYE", 315, from, to, "")), belongs, "{from} {to}");
    };
    check("<sip:a@x>;tag=alice", "<sip:b@x>;tag=bob", true);
    check("<sip:a@x>;tag=bob", "<sip:b@x>;tag=alice", false);
    check("<sip:a@x>;tag=alice", "<sip:b@x>", false);
    check("<sip:a@x>;tag=ALICE", "<sip:b@x>;tag=bob", false);
}

#[test]
fn forks_are_told_apart_by_their_tag() {
    let client = ends().0;
    assert!(client.has_response(&answered()));
    assert!(!client.has_response(&response(200, ";tag=other", CONTACT)));
}

#[test]
fn numbers_must_grow_and_a_refused_request_changes_nothing() {
    // RFC 3261 §12.2.2
    let mut server = ends().1;
    let request = |method: &str, cseq| {
        let (from, to) = ("<sip:a@x>;tag=alice", "<sip:b@x>;tag=bob");
        within(method, cseq, from, to, &format!("Contact: <sip:moved@x{cseq}>\r\n"))
    };
    for (method, cseq, expected) in [
        ("INFO", 313, Err(OutOfOrder::CSeq { found: 313, last: 314 })),
        ("INFO", 314, Err(OutOfOrder::CSeq { found: 314, last: 314 })),
        ("ACK", 314, Ok(())),
        ("CANCEL", 314, Ok(())),
        // Gaps are allowed.
        ("INVITE", 400, Ok(())),
        ("INVITE", 399, Err(OutOfOrder::CSeq { found: 399, last: 400 })),
        ("BYE", 401, Ok(())),
    ] {
        assert_eq!(server.receive(&request(method, cseq)), expected, "{method} {cseq}");
    }
    assert_eq!(server.remote_target, "sip:moved@x400", "a BYE refreshes no target");
    let mut fresh = ends().0;
    assert_eq!(fresh.receive(&request("INFO", 0)), Ok(()), "any first number is taken");
}

proptest! {
    /// What one end sends the other accepts, in order, whatever was sent in between by the other.
    #[test]
    fn ends_understand_each_other(sends: Vec<bool>) {
        let (mut client, mut server) = ends();
        for by_client in sends {
            let (from, to) = match by_client {
                true => (&mut client, &mut server),
                false => (&mut server, &mut client),
            };
            let cseq = from.take_cseq();
            let bytes = from.request(Method::Info, cseq, b"SIP/2.0/TCP c;branch=z9hG4bKx").build();
            let request = Message::parse(bytes).unwrap();
            prop_assert!(to.has_request(&request));
            prop_assert_eq!(to.receive(&request), Ok(()));
            prop_assert!(to.receive(&request).is_err(), "the same number again");
        }
    }

    #[test]
    fn arbitrary_messages_never_panic(octets: Vec<u8>) {
        if let Ok(message) = Message::parse(octets.into()) {
            let _ = Dialog::at_client(&invite(), &message);
            let _ = Dialog::at_server(&message, &answered());
            let mut dialog = ends().0;
            let _ = dialog.receive(&message);
            dialog.confirm(&message);
        }
    }
}
