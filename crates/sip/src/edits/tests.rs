//! Each edit changes what it says and nothing else.

use super::*;

const REQUEST: &str = concat!(
    "INVITE sip:bob@example.com SIP/2.0\r\n",
    "Via  : SIP/2.0/UDP a;branch=z9hG4bK1 ,\r\n SIP/2.0/UDP b;branch=z9hG4bK2\r\n",
    "X-Odd:;;,\"x\r\n",
    "v: SIP/2.0/UDP c;branch=z9hG4bK3\r\n",
    "Route: <sip:p1;lr>, <sip:p2;lr>\r\n",
    "MAX-forwards : 70\r\n",
    "l:4\r\n",
    "\r\nbody",
);

fn render(text: &str, edit: impl FnOnce(&mut Edits)) -> String {
    let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).expect("message");
    let mut edits = Edits::new();
    edit(&mut edits);
    let mut out = BytesMut::new();
    edits.render(&message, &mut out);
    String::from_utf8(out.to_vec()).expect("ASCII")
}

/// Renders `REQUEST` with `edit` and expects the `from` part of it to have become `to`.
fn check(edit: impl FnOnce(&mut Edits), from: &str, to: &str) {
    assert!(REQUEST.contains(from));
    assert_eq!(render(REQUEST, edit), REQUEST.replacen(from, to, 1));
}

const VIA_1: &str = "Via  : SIP/2.0/UDP a;branch=z9hG4bK1 ,\r\n SIP/2.0/UDP b;branch=z9hG4bK2\r\n";
const VIA_2: &str = "v: SIP/2.0/UDP c;branch=z9hG4bK3\r\n";

#[test]
fn no_edits_copy_the_message() {
    check(|_| {}, "", "");
}

#[test]
fn pushed_values_go_above_or_below_their_like() {
    check(
        |e| {
            e.push_front(HeaderName::Via, b"one");
            e.push_front(HeaderName::Via, b"two");
        },
        "Via  :",
        "Via: two\r\nVia: one\r\nVia  :",
    );
    check(|e| e.push_back(HeaderName::Via, b"last"), VIA_2, &format!("{VIA_2}Via: last\r\n"));
    check(
        |e| e.push_front(HeaderName::RecordRoute, b"<sip:me;lr>"),
        "Via  :",
        "Record-Route: <sip:me;lr>\r\nVia  :",
    );
    check(
        |e| e.push_back(HeaderName::Path, b"<sip:me;lr>"),
        "l:4\r\n",
        "l:4\r\nPath: <sip:me;lr>\r\n",
    );
    check(|e| e.push_back_named(b"X-Mine", b"1"), "l:4\r\n", "l:4\r\nX-Mine: 1\r\n");
}

#[test]
fn list_values_are_removed_one_by_one() {
    let remove = |count: usize| {
        move |e: &mut Edits| (0..count).for_each(|_| e.remove_first_value(HeaderName::Via))
    };
    check(remove(1), VIA_1, "Via  : SIP/2.0/UDP b;branch=z9hG4bK2\r\n");
    check(remove(2), VIA_1, "");
    assert_eq!(render(REQUEST, remove(3)), REQUEST.replace(VIA_1, "").replace(VIA_2, ""));
    assert_eq!(render(REQUEST, remove(9)), REQUEST.replace(VIA_1, "").replace(VIA_2, ""));
}

#[test]
fn the_first_value_that_stays_is_replaced() {
    check(
        |e| e.replace_first_value(HeaderName::Via, b"new"),
        "SIP/2.0/UDP a;branch=z9hG4bK1 ",
        "new",
    );
    check(
        |e| {
            e.replace_first_value(HeaderName::Via, b"new");
            e.remove_first_value(HeaderName::Via);
        },
        VIA_1,
        "Via  : new\r\n",
    );
    let two = |e: &mut Edits| {
        e.remove_first_value(HeaderName::Via);
        e.remove_first_value(HeaderName::Via);
        e.replace_first_value(HeaderName::Via, b"new");
    };
    assert_eq!(render(REQUEST, two), REQUEST.replace(VIA_1, "").replace(VIA_2, "v: new\r\n"));
}

#[test]
fn a_field_without_values_is_passed_over() {
    let text = "OPTIONS sip:a@b SIP/2.0\r\nv:\r\nVia: one, two\r\n\r\n";
    assert_eq!(
        render(text, |e| e.remove_first_value(HeaderName::Via)),
        text.replace("one, two", "two")
    );
    assert_eq!(
        render(text, |e| e.replace_first_value(HeaderName::Via, b"new")),
        text.replace("one, two", "new, two")
    );
}

#[test]
fn set_keeps_one_field_in_its_place() {
    check(|e| e.set(HeaderName::MaxForwards, b"69"), "MAX-forwards : 70", "MAX-forwards : 69");
    check(|e| e.set(HeaderName::Expires, b"60"), "l:4\r\n", "l:4\r\nExpires: 60\r\n");
    let once = render(REQUEST, |e| e.set(HeaderName::Via, b"x"));
    assert_eq!(once, REQUEST.replace(VIA_1, "Via  : x\r\n").replace(VIA_2, ""));
}

#[test]
fn all_fields_of_a_name_are_removed_and_others_can_take_their_place() {
    let replaced = render(REQUEST, |e| {
        e.remove_all(HeaderName::Route);
        e.push_front(HeaderName::Route, b"<sip:b;lr>");
        e.push_front(HeaderName::Route, b"<sip:a;lr>");
    });
    assert_eq!(
        replaced,
        REQUEST.replace(
            "Route: <sip:p1;lr>, <sip:p2;lr>\r\n",
            "Route: <sip:a;lr>\r\nRoute: <sip:b;lr>\r\n"
        )
    );
}

#[test]
fn request_uri_and_body_are_replaced() {
    check(|e| e.set_request_uri(b"sip:x@y"), "sip:bob@example.com", "sip:x@y");
    let other = render(REQUEST, |e| e.set_body(b"text/plain", &b"longer body"[..]));
    let expected = REQUEST
        .replace("l:4\r\n", "l:11\r\nContent-Type: text/plain\r\n")
        .replace("\r\nbody", "\r\nlonger body");
    assert_eq!(other, expected);
}

#[test]
fn rendering_repairs_the_start_line_the_end_of_the_header_and_surplus_octets() {
    let repaired = render(
        "OPTIONS   sip:a@b   SIP/2.0  \r\nl: 0\r\n\r\nINVITE sip:evil SIP/2.0\r\n\r\n",
        |_| {},
    );
    assert_eq!(repaired, "OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n\r\n");
    assert_eq!(
        render("OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n", |_| {}),
        "OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n\r\n"
    );
}

#[test]
fn content_length_is_added_only_where_it_is_missing() {
    check(Edits::ensure_content_length, "", "");
    let added = render("MESSAGE sip:a@b SIP/2.0\r\n\r\nhello", Edits::ensure_content_length);
    assert_eq!(added, "MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 5\r\n\r\nhello");
}

#[test]
fn values_cannot_inject_header_lines() {
    let out = render(REQUEST, |e| e.push_back(HeaderName::Subject, b"x\r\nRoute: <sip:evil>"));
    assert!(out.contains("Subject: x  Route: <sip:evil>\r\n"));
}
