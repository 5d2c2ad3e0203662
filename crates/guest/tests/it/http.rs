//! Handlers of HTTP requests: a component that knows nothing of Outlast but `wasi:http`, and one with a session beside it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use container::http_port::{HttpApplication as _, HttpBody};
use container::session::{HttpRequest, HttpResponse, SessionEffect, SessionEvent};
use guest::{FailureKind, Guest, HttpAnswer};
use http_body_util::BodyExt as _;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::bench::*;

/// The part of `wasi:http` (and what it stands on) that these guests use, as its authors wrote it.
const WIT: [&str; 3] = [
    "package wasi:io@0.2.3;
     interface error { resource error; }
     interface streams {
       use error.{error};
       variant stream-error { last-operation-failed(error), closed }
       resource output-stream {
         blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
       }
     }",
    "package wasi:http@0.2.3;
     interface types {
       use wasi:io/streams@0.2.3.{output-stream};
       record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
       record TLS-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
       record field-size-payload { field-name: option<string>, field-size: option<u32> }
       variant error-code {
         DNS-timeout, DNS-error(DNS-error-payload), destination-not-found, destination-unavailable,
         destination-IP-prohibited, destination-IP-unroutable, connection-refused, connection-terminated,
         connection-timeout, connection-read-timeout, connection-write-timeout, connection-limit-reached,
         TLS-protocol-error, TLS-certificate-error, TLS-alert-received(TLS-alert-received-payload),
         HTTP-request-denied, HTTP-request-length-required, HTTP-request-body-size(option<u64>),
         HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
         HTTP-request-header-section-size(option<u32>), HTTP-request-header-size(option<field-size-payload>),
         HTTP-request-trailer-section-size(option<u32>), HTTP-request-trailer-size(field-size-payload),
         HTTP-response-incomplete, HTTP-response-header-section-size(option<u32>),
         HTTP-response-header-size(field-size-payload), HTTP-response-body-size(option<u64>),
         HTTP-response-trailer-section-size(option<u32>), HTTP-response-trailer-size(field-size-payload),
         HTTP-response-transfer-coding(option<string>), HTTP-response-content-coding(option<string>),
         HTTP-response-timeout, HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
         internal-error(option<string>),
       }
       resource fields { constructor(); }
       type headers = fields;
       type trailers = fields;
       resource incoming-request;
       resource outgoing-response {
         constructor(headers: headers);
         set-status-code: func(status-code: u16) -> result;
         body: func() -> result<outgoing-body>;
       }
       resource outgoing-body {
         write: func() -> result<output-stream>;
         finish: static func(this: outgoing-body, trailers: option<trailers>) -> result<_, error-code>;
       }
       resource response-outparam {
         set: static func(param: response-outparam, response: result<outgoing-response, error-code>);
       }
     }
     interface incoming-handler {
       use types.{incoming-request, response-outparam};
       handle: func(request: incoming-request, response-out: response-outparam);
     }",
    "package test:web@0.1.0;
     world web {
       import outlast:app/session@0.1.0;
       import wasi:http/types@0.2.3;
       export wasi:http/incoming-handler@0.2.3;
     }",
];

/// Makes a response with status 201 and sets it.
const SET: &str = "
  (local.set $response (call $new_response (call $fields)))
  (drop (call $status (local.get $response) (i32.const 201)))
  (call $body (local.get $response) (i32.const 16))
  (local.set $stuff (i32.load offset=4 (i32.const 16)))
  (call $set_response (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
    (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
/// Opens the body's stream.
const OPEN: &str = "
  (call $write (local.get $stuff) (i32.const 16))
  (local.set $stream (i32.load offset=4 (i32.const 16)))";
/// Writes so many octets of whatever is in memory at 256.
fn write(octets: u32) -> String {
    format!("(call $put (local.get $stream) (i32.const 256) (i32.const {octets}) (i32.const 16))")
}
/// Ends the body.
const FINISH: &str = "
  (call $drop_stream (local.get $stream))
  (call $finish (local.get $stuff) (i32.const 0) (i32.const 0) (i32.const 16))";
/// Remembers `a` = `hello` in the session.
const REMEMBER: &str =
    "(call $set (i32.const 261) (i32.const 1) (i32.const 256) (i32.const 5) (i32.const 16))";

fn component(code: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "outlast:app/session@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
          (import "wasi:http/types@0.2.3" "[constructor]fields" (func $fields (result i32)))
          (import "wasi:http/types@0.2.3" "[constructor]outgoing-response"
            (func $new_response (param i32) (result i32)))
          (import "wasi:http/types@0.2.3" "[method]outgoing-response.set-status-code"
            (func $status (param i32 i32) (result i32)))
          (import "wasi:http/types@0.2.3" "[method]outgoing-response.body"
            (func $body (param i32 i32)))
          (import "wasi:http/types@0.2.3" "[method]outgoing-body.write"
            (func $write (param i32 i32)))
          (import "wasi:http/types@0.2.3" "[static]outgoing-body.finish"
            (func $finish (param i32 i32 i32 i32)))
          (import "wasi:http/types@0.2.3" "[static]response-outparam.set"
            (func $set_response (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
          (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
            (func $put (param i32 i32 i32 i32)))
          (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream"
            (func $drop_stream (param i32)))
          (memory (export "memory") 2)
          (data (i32.const 256) "helloa")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
          (func (export "wasi:http/incoming-handler@0.2.3#handle") (param $request i32) (param $out i32)
            (local $response i32) (local $stuff i32) (local $stream i32) (local $left i32)
            {code}))"#
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit")).unwrap();
    let mut package = None;
    for (number, text) in WIT.iter().enumerate() {
        package = Some(resolve.push_str(format!("{number}.wit"), text).unwrap());
    }
    let world = resolve.select_world(&[package.unwrap()], Some("web")).unwrap();
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

async fn asked(guest: &Guest, is_in_session: bool) -> Result<HttpAnswer, guest::Failure> {
    let request = http::Request::get("http://127.0.0.1/path?x=y").body(Bytes::from("asked"));
    guest.handle_http(request.unwrap(), is_in_session.then(session)).await
}

#[tokio::test]
async fn a_component_without_a_session_answers() {
    let guest = guest(&component(&format!("{SET} {OPEN} {} {FINISH}", write(5))));
    assert!(guest.handlers().http && !guest.handlers().sip);
    assert!(!container::session::SessionApplication::accepts(&guest, &invite()), "no SIP handler");
    let HttpAnswer { response, effects } = asked(&guest, false).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.body()[..]), (201, &b"hello"[..]));
    assert_eq!(effects, []);
    assert_eq!((guest.counts().events, guest.counts().failed()), (1, 0));
}

#[tokio::test]
async fn the_session_is_the_one_that_sip_handlers_see() {
    let guest = guest(&component(&format!("{REMEMBER} {SET} {OPEN} {} {FINISH}", write(5))));
    let set = SessionEffect::Set { name: "a".to_owned(), value: "hello".into() };
    assert_eq!(asked(&guest, true).await.unwrap().effects, [set]);
    assert_eq!(asked(&guest, false).await.unwrap().effects, [], "refused: there is none");
}

#[tokio::test]
async fn a_body_that_is_longer_than_any_buffer_comes_whole() {
    let code = format!(
        "{SET} {OPEN} (local.set $left (i32.const 500))
         (loop $again {} (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $again (local.get $left)))
         {FINISH}",
        write(4096)
    );
    let mut settings = settings();
    settings.limits.cpu_time = Duration::from_secs(60);
    let answer = asked(&load(&component(&code), settings), false).await.unwrap();
    assert_eq!(answer.response.body().len(), 500 * 4096);
}

#[tokio::test]
async fn what_is_begun_and_not_brought_to_its_end_is_a_failure() {
    let endless = "(loop $again (br $again))";
    let flood = format!("{SET} {OPEN} (loop $again {} (br $again))", write(4096));
    for (code, kind) in [
        ("(unreachable)".to_owned(), FailureKind::Trap),
        (String::new(), FailureKind::Trap),
        (format!("{REMEMBER} {SET} {OPEN} {} {FINISH} (unreachable)", write(5)), FailureKind::Trap),
        (format!("{SET} {OPEN} {} {FINISH} {endless}", write(5)), FailureKind::Time),
        (endless.to_owned(), FailureKind::Time),
        (flood, FailureKind::Memory),
    ] {
        let mut settings = settings();
        if kind != FailureKind::Time {
            // However slow the machine is, something else stops it.
            settings.limits.cpu_time = Duration::from_secs(60);
        }
        let guest = load(&component(&code), settings);
        let failure = asked(&guest, true).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{code}: {failure}");
        assert_eq!(guest.counts().failures(kind), 1);
    }
}

#[tokio::test]
async fn a_request_of_a_session_becomes_effects_and_an_answer_among_them() {
    let answer = |status, body: &str| {
        let body = Bytes::copy_from_slice(body.as_bytes());
        SessionEffect::HttpRespond(HttpResponse { status, headers: Vec::new(), body })
    };
    let event = SessionEvent::Http(HttpRequest {
        method: "POST".to_owned(),
        path_with_query: "/path?x=y".to_owned(),
        headers: vec![("host".to_owned(), "example.com".into())],
        body: "asked".into(),
    });
    let guest = guest(&component(&format!("{REMEMBER} {SET} {OPEN} {} {FINISH}", write(5))));
    assert!(guest.has_sessions());
    let set = SessionEffect::Set { name: "a".to_owned(), value: "hello".into() };
    assert_eq!(handled(&guest, &event).await, [set, answer(201, "hello")]);
    assert_eq!((guest.counts().events, guest.counts().failed()), (1, 0));

    let guest = load(&component(&format!("{REMEMBER} (unreachable)")), settings());
    assert_eq!(handled(&guest, &event).await, [answer(500, "")]);
    assert_eq!((guest.counts().events, guest.counts().failures(FailureKind::Trap)), (1, 1));
}

/// A request without a session, and what it is answered.
async fn streamed(guest: &Arc<Guest>) -> Result<http::Response<HttpBody>, guest::Failure> {
    streamed_holding(guest, ()).await
}

async fn streamed_holding(
    guest: &Arc<Guest>,
    held: impl Send + 'static,
) -> Result<http::Response<HttpBody>, guest::Failure> {
    let none = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::get("http://127.0.0.1/path").body(none).unwrap();
    Arc::clone(guest).stream_http(request, held).await
}

#[tokio::test]
async fn a_response_begins_while_its_handler_runs_and_ends_with_its_client() {
    let flood = format!("{SET} {OPEN} (loop $again {} (br $again))", write(4096));
    let mut settings = settings();
    settings.limits.cpu_time = Duration::from_secs(60);
    settings.limits.wall_time = Duration::from_millis(10);
    let guest = Arc::new(load(&component(&flood), settings));
    let place = Arc::new(());
    let answered = streamed_holding(&guest, Arc::clone(&place)).await;
    let mut body = answered.unwrap().into_body();
    let mut octets = 0;
    while octets < 3 * 1024 * 1024 {
        octets += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    drop(body);
    assert_eq!(Arc::strong_count(&place), 2, "it has not ended yet");
    while Arc::strong_count(&guest) > 1 || Arc::strong_count(&place) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((guest.counts().events, guest.counts().failed()), (1, 0), "the client's doing");
}

#[tokio::test]
async fn a_stream_that_fails_breaks_off() {
    let begun = format!("{SET} {OPEN} {}", write(5));
    for (code, kind) in [
        (format!("{begun} (unreachable)"), FailureKind::Trap),
        (format!("{begun} (loop $again (br $again))"), FailureKind::Time),
    ] {
        let guest = Arc::new(guest(&component(&code)));
        let answered = streamed(&guest).await.unwrap();
        answered.into_body().collect().await.expect_err(&code);
        assert_eq!(guest.counts().failures(kind), 1, "{code}");
    }
    for code in ["(unreachable)", "", "(loop $again (br $again))"] {
        let guest = Arc::new(guest(&component(code)));
        streamed(&guest).await.expect_err(code);
        assert_eq!(guest.counts().failed(), 1, "{code}");
    }
}

#[tokio::test]
async fn handlers_that_compute_side_by_side_do_not_make_each_other_late() {
    let code = format!(
        "(local.set $left (i32.const 30000000))
         (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $again (local.get $left)))
         {SET} {OPEN} {} {FINISH}",
        write(5)
    );
    let mut settings = settings();
    settings.limits.cpu_time = Duration::from_secs(60);
    settings.limits.wall_time = Duration::from_millis(100);
    let guest = load(&component(&code), settings);
    let answers = futures_util::future::join_all((0..32).map(|_| asked(&guest, true))).await;
    let failed: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
