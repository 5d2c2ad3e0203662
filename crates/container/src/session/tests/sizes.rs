//! Messages of as many fields and octets as there may be.

use sip::Message;

use super::bench::{new_request, parse};
use super::*;
use crate::application::RecordRoute;
use crate::session::receive::Input;
use crate::session::{ProxyOptions, RequestId, SessionEffect, Supervised};

/// A request with so many fields of this kind, each so long, on top of what it has.
fn with(request: &Message, count: usize, field: &str, octets: usize) -> Message {
    let text = String::from_utf8(request.buffer().to_vec()).unwrap();
    let (head, rest) = text.split_once("\r\n").unwrap();
    let one = format!("{field}{}\r\n", "x".repeat(octets));
    parse(&format!("{head}\r\n{}{rest}", one.repeat(count)))
}

/// Without what a head does not keep or has in any case.
fn bare(request: &Message) -> Message {
    let mut text = String::from_utf8(request.buffer().to_vec()).unwrap();
    for field in ["Max-Forwards: 70", "Subject: x", "Content-Type: application/sdp"] {
        text = text.replace(&format!("{field}\r\n"), "");
    }
    parse(&text)
}

/// As many fields as a message may have, and a few octets less than one may have.
fn largest(request: &Message) -> [Message; 2] {
    let request = &bare(request);
    let fields = sip::FIELDS_MAX - request.all_fields().count();
    let via = "v: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK";
    let room = sip::MESSAGE_BYTES_MAX - request.buffer().len();
    let octets = room / 240 - via.len() - 2;
    let long = with(request, 240, via, octets);
    assert!(long.buffer().len() + 512 > sip::MESSAGE_BYTES_MAX);
    let routes = "Record-Route: <sip:192.0.2.9;lr>;x=";
    [with(request, fields, routes, 1), long]
}

#[test]
fn request_that_is_too_large_to_be_kept_begins_nothing() {
    for request in largest(&invite()) {
        let refused = Bench::begun_by(request.clone()).map(|_| ()).unwrap_err();
        assert_eq!((refused.status, refused.reason), (513, "Message Too Large"));
        let mut bench = Bench::opened();
        assert_eq!(bench.comes(Input::Join(new_request(request))), "nothing");
        assert_eq!(bench.words(), ["513"]);
        assert!(bench.session.legs.is_empty() && bench.session.incoming.is_empty());
    }
}

#[test]
fn request_in_a_dialog_that_is_too_large_to_be_kept_changes_nothing() {
    let mut bench = Bench::talking();
    let before = bench.session.clone();
    for request in largest(&bench.request("caller", "INFO", 8)) {
        assert_eq!(bench.comes(Input::Request(new_request(request))), "nothing");
        assert_eq!(bench.words(), ["513"]);
        assert_eq!(bench.session, before);
    }
    assert_eq!(bench.requests("caller", "INFO", 8), "caller INFO");
}

#[test]
fn request_that_would_grow_beyond_a_message_does_not_go_on() {
    let fields = sip::FIELDS_MAX - invite().all_fields().count();
    let long = sip::MESSAGE_BYTES_MAX - invite().buffer().len() - "X: \r\n".len();
    for request in [with(&invite(), fields, "X: ", 1), with(&invite(), 1, "X: ", long)] {
        let mut bench = Bench::begun_by(request).unwrap();
        let (supervised, record_route) = (Supervised::Yes, RecordRoute::Yes);
        let headers = Vec::new();
        let options = ProxyOptions { record_route, supervised, timer_c: None, headers };
        let effect = SessionEffect::Proxy { request: RequestId(1), targets: Vec::new(), options };
        bench.apply(vec![effect]).unwrap();
        assert_eq!(bench.words(), ["513"]);
        assert!(bench.session.is_over());
    }
}
