//! Guests with HTTP handlers, written by hand: `desk` with sessions and calls, `echo` that knows nothing of Outlast.

use std::fs;
use std::path::{Path, PathBuf};

use wit_component::StringEncoding;
use wit_parser::Resolve;

/// The part of `wasi:http` (and what it stands on) that these guests use, as its authors wrote it.
const WASI: [&str; 2] = [
    "package wasi:io@0.2.3;
     interface error { resource error; }
     interface streams {
       use error.{error};
       variant stream-error { last-operation-failed(error), closed }
       resource input-stream;
       resource output-stream {
         blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
         blocking-splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
         blocking-flush: func() -> result<_, stream-error>;
       }
     }",
    "package wasi:http@0.2.3;
     interface types {
       use wasi:io/streams@0.2.3.{input-stream, output-stream};
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
       resource incoming-request {
         path-with-query: func() -> option<string>;
         consume: func() -> result<incoming-body>;
       }
       resource incoming-body { %stream: func() -> result<input-stream>; }
       resource outgoing-response {
         constructor(headers: headers);
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
];

const IMPORTS: &str = r#"
  (import "wasi:http/types@0.2.3" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-request.consume" (func $consume (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-body.stream" (func $read (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[constructor]outgoing-response" (func $new_response (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.3" "[static]response-outparam.set"
    (func $set_response (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
    (func $put (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-splice"
    (func $splice (param i32 i32 i64 i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-flush" (func $flush (param i32 i32)))
  (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop_stream (param i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 16384))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 15))
      (i32.const -16)))
    (local.get $at))
  ;; Begins a 200 and its body; what is 16 and behind is where outcomes go.
  (func $begin (param $out i32) (result i32)
    (local $response i32)
    (local.set $response (call $new_response (call $fields)))
    (call $body (local.get $response) (i32.const 16))
    (global.set $stuff (i32.load offset=4 (i32.const 16)))
    (call $set_response (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
      (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (global.get $stuff) (i32.const 16))
    (i32.load offset=4 (i32.const 16)))
  (global $stuff (mut i32) (i32.const 0))
  (func $end (param $stream i32)
    (call $drop_stream (local.get $stream))
    (call $finish (global.get $stuff) (i32.const 0) (i32.const 0) (i32.const 16)))
"#;

/// Answers with what it is sent, piece by piece.
fn echo() -> Vec<u8> {
    let text = format!(
        r#"(module {IMPORTS}
          (func (export "wasi:http/incoming-handler@0.2.3#handle") (param $request i32) (param $out i32)
            (local $in i32) (local $stream i32)
            (call $consume (local.get $request) (i32.const 16))
            (call $read (i32.load offset=4 (i32.const 16)) (i32.const 16))
            (local.set $in (i32.load offset=4 (i32.const 16)))
            (local.set $stream (call $begin (local.get $out)))
            (loop $again
              (call $splice (local.get $stream) (local.get $in) (i64.const 4096) (i32.const 16))
              (if (i32.eqz (i32.load8_u (i32.const 16)))
                (then
                  (call $flush (local.get $stream) (i32.const 16))
                  (br $again))))
            (call $end (local.get $stream))))"#
    );
    let world = "package test:web@0.1.0;
        world web {
          import wasi:http/types@0.2.3;
          export wasi:http/incoming-handler@0.2.3;
        }";
    module(&text, world)
}

/// What is done follows from the last octet of the path: `n` counts, `d` calls `sip:callee@DOMAIN`, `s` says what became
/// of that, `l` computes without end, `x` counts and traps. The answer is the count, or 1 when the callee has answered.
/// If the octet before it is a digit, the path up to there is the key of the session.
fn desk(domain: &str) -> Vec<u8> {
    let target = format!("sip:callee@{domain}");
    let from = format!("<sip:desk@{domain}>");
    let to = format!("<{target}>");
    let (target_at, from_at) = (512, 640);
    let to_at = 768;
    let text = format!(
        r#"(module
          (import "outlast:app/session@0.1.0" "get" (func $get (param i32 i32 i32)))
          (import "outlast:app/session@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
          (import "outlast:app/sip@0.1.0" "invite" (func $invite (param
            i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (import "outlast:app/sip@0.1.0" "acknowledge" (func $acknowledge (param
            i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          {IMPORTS}
          (data (i32.const 256) "nua")
          (data (i32.const {target_at}) "{target}")
          (data (i32.const {from_at}) "{from}")
          (data (i32.const {to_at}) "{to}")
          ;; The octet that an attribute holds; 0 if there is none.
          (func $remembered (param $name i32) (result i32)
            (call $get (local.get $name) (i32.const 1) (i32.const 16))
            (if (result i32) (i32.load8_u (i32.const 16))
              (then (i32.load8_u (i32.load offset=4 (i32.const 16))))
              (else (i32.const 0))))
          (func $remember (param $name i32) (param $octet i32)
            (i32.store8 (i32.const 128) (local.get $octet))
            (call $set (local.get $name) (i32.const 1) (i32.const 128) (i32.const 1) (i32.const 16)))
          (func $count (result i32)
            (local $count i32)
            (local.set $count (i32.add (call $remembered (i32.const 256)) (i32.const 1)))
            (call $remember (i32.const 256) (local.get $count))
            (local.get $count))
          (func (export "wasi:http/incoming-handler@0.2.3#handle") (param $request i32) (param $out i32)
            (local $what i32) (local $answer i32) (local $stream i32)
            (call $path (local.get $request) (i32.const 16))
            (local.set $what (i32.load8_u (i32.sub
              (i32.add (i32.load offset=4 (i32.const 16)) (i32.load offset=8 (i32.const 16)))
              (i32.const 1))))
            (if (i32.eq (local.get $what) (i32.const 110)) ;; n
              (then (local.set $answer (call $count))))
            (if (i32.eq (local.get $what) (i32.const 120)) ;; x
              (then (drop (call $count)) (unreachable)))
            (if (i32.eq (local.get $what) (i32.const 108)) ;; l
              (then (loop $again (br $again))))
            (if (i32.eq (local.get $what) (i32.const 115)) ;; s
              (then (local.set $answer (call $remembered (i32.const 257)))))
            (if (i32.eq (local.get $what) (i32.const 100)) ;; d
              (then
                (call $remember (i32.const 257) (i32.const 0))
                (call $invite (i32.const 258) (i32.const 1)
                  (i32.const {target_at}) (i32.const {}) (i32.const {from_at}) (i32.const {})
                  (i32.const {to_at}) (i32.const {}) (i32.const 0) (i32.const 0)
                  (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))
                (local.set $answer (i32.load8_u (i32.const 16)))))
            (local.set $stream (call $begin (local.get $out)))
            (i32.store8 (i32.const 128) (local.get $answer))
            (call $put (local.get $stream) (i32.const 128) (i32.const 1) (i32.const 16))
            (call $end (local.get $stream)))
          (func (export "outlast:app/http-router@0.1.0#session-key")
            (param i32 i32 i32 i32 i32 i32) (result i32)
            (local $octet i32)
            (local.set $octet (i32.load8_u (i32.sub
              (i32.add (local.get 2) (local.get 3)) (i32.const 2))))
            (i32.store (i32.const 64) (i32.and
              (i32.ge_u (local.get $octet) (i32.const 48)) (i32.le_u (local.get $octet) (i32.const 57))))
            (i32.store offset=4 (i32.const 64) (local.get 2))
            (i32.store offset=8 (i32.const 64) (i32.sub (local.get 3) (i32.const 1)))
            (i32.const 64))
          (func (export "outlast:app/handler@0.1.0#handle")
            (param $event i32) (param i32 i32 i64 i32 i32 i32)
            (if (i32.eq (local.get $event) (i32.const 5)) ;; success
              (then
                (call $acknowledge (i32.const 258) (i32.const 1) (i32.const 0) (i32.const 0)
                  (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))
                (call $remember (i32.const 257) (i32.const 1))))))"#,
        target.len(),
        from.len(),
        to.len(),
    );
    let world = "package test:web@0.1.0;
        world web {
          import outlast:app/session@0.1.0;
          import outlast:app/sip@0.1.0;
          import wasi:http/types@0.2.3;
          export outlast:app/handler@0.1.0;
          export outlast:app/http-router@0.1.0;
          export wasi:http/incoming-handler@0.2.3;
        }";
    module(&text, world)
}

/// A module as a compiler writes it for that world.
fn module(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let mut package = None;
    for (number, text) in WASI.iter().chain([&world]).enumerate() {
        package = Some(resolve.push_str(format!("{number}.wit"), text).unwrap());
    }
    let world = resolve.select_world(&[package.unwrap()], Some("web")).unwrap();
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

/// Writes `desk`, below `/desk`, ready to be deployed.
pub(crate) fn write_desk(at: &Path, domain: &str) -> PathBuf {
    written(at, "desk", &desk(domain), "http_body = \"64KiB\"\ntime = \"200ms\"")
}

/// Writes `echo`, below `/echo`, ready to be deployed.
pub(crate) fn write_echo(at: &Path) -> PathBuf {
    written(at, "echo", &echo(), "time = \"5s\"")
}

fn written(at: &Path, name: &str, component: &[u8], limits: &str) -> PathBuf {
    let directory = at.join(name);
    fs::create_dir(&directory).unwrap();
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\ncomponent = \"{name}.wasm\"\n\
         [http]\npath = \"/{name}\"\n[limits]\n{limits}\n"
    );
    fs::write(directory.join("outlast-app.toml"), manifest).unwrap();
    fs::write(directory.join(format!("{name}.wasm")), component).unwrap();
    directory
}
