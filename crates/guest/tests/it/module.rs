//! Guests in text: what a compiler would write around a handler, so that a test says only what its handler does.
//!
//! The functions of `wit/` have the flat signatures of the component model's canonical interface; strings and lists are
//! pointer and length, and results of more than one value go to memory at [`RESULT`].

use std::fmt::Write as _;
use std::path::Path;

use wit_component::StringEncoding;
use wit_parser::Resolve;

/// Where results of host functions are written; the first word of a `result` is 0 for ok.
pub(crate) const RESULT: &str = "(i32.const 16)";
/// The event's number, as `event` counts its cases.
pub(crate) const REQUEST: u32 = 1;

/// Functions that a guest can call, with the names that the text knows them by.
const IMPORTS: &str = r#"
  (import "outlast:app/session@0.1.0" "id" (func $id (param i32)))
  (import "outlast:app/session@0.1.0" "key" (func $key (param i32)))
  (import "outlast:app/session@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
  (import "outlast:app/session@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "outlast:app/session@0.1.0" "invalidate" (func $invalidate))
  (import "outlast:app/session@0.1.0" "start-timer"
    (func $start_timer (param i32 i32 i64 i32 i64 i32)))
  (import "outlast:app/sip@0.1.0" "respond"
    (func $respond (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "outlast:app/sip@0.1.0" "relay" (func $relay (param i32)))
  (import "outlast:app/sip@0.1.0" "proxy"
    (func $proxy (param i64 i32 i32 i32 i32 i32 i64 i32 i32 i32)))
  (import "outlast:app/sessions@0.1.0" "signal"
    (func $signal (param i32 i32 i32 i32 i32 i32 i32)))
  (import "outlast:app/config@0.1.0" "get" (func $config (param i32 i32 i32)))
  (import "outlast:app/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (import "outlast:app/naming@0.1.0" "bind" (func $bind (param i32 i32 i32 i32 i32)))
  (import "outlast:app/message@0.1.0" "[method]message.header"
    (func $header (param i32 i32 i32 i32)))
  (import "outlast:app/message@0.1.0" "[resource-drop]message" (func $drop (param i32)))
"#;

/// A guest that is being written.
#[derive(Default)]
pub(crate) struct Module {
    data: Vec<u8>,
    handler: String,
    session_key: Option<String>,
    start: String,
    pages: u32,
    table: u32,
}

impl Module {
    /// A guest whose handler does nothing.
    pub(crate) fn new() -> Module {
        Module { pages: 2, ..Module::default() }
    }

    /// A text of the guest, as the two arguments that it is passed as.
    pub(crate) fn text(&mut self, text: &str) -> String {
        let at = DATA_START + self.data.len();
        self.data.extend_from_slice(text.as_bytes());
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    /// What the handler does. It knows `$event`, the number of the event; of a request, `$request`, its id, and `$message`,
    /// its message; of other events `$message` is at another place, so that only requests have it.
    pub(crate) fn handler(mut self, code: &str) -> Module {
        self.handler = code.to_owned();
        self
    }

    /// What the key function does with `$message`; leaves where its answer stands.
    pub(crate) fn session_key(mut self, code: &str) -> Module {
        self.session_key = Some(code.to_owned());
        self
    }

    /// What each instance does when it begins.
    pub(crate) fn start(mut self, code: &str) -> Module {
        self.start = code.to_owned();
        self
    }

    /// Memory to begin with, in pages of 64 KiB.
    pub(crate) fn pages(mut self, pages: u32) -> Module {
        self.pages = pages;
        self
    }

    /// Elements of a table.
    pub(crate) fn table(mut self, elements: u32) -> Module {
        self.table = elements;
        self
    }

    /// The module, with the section that says which world it was built for.
    pub(crate) fn build(self) -> Vec<u8> {
        let world =
            if self.session_key.is_some() { "keyed-sip-application" } else { "sip-application" };
        let mut module = wat::parse_str(self.source()).unwrap();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(wit).unwrap();
        let world = resolve.select_world(&[package], Some(world)).unwrap();
        let encoding = StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
        module
    }

    fn source(&self) -> String {
        let data: String = self.data.iter().fold(String::new(), |mut text, octet| {
            write!(text, "\\{octet:02x}").unwrap();
            text
        });
        let key = self.session_key.as_ref().map_or(String::new(), |code| {
            format!(
                r#"(func (export "outlast:app/router@0.1.0#session-key")
                  (param $message i32) (result i32) {code})"#
            )
        });
        format!(
            r#"(module
              {IMPORTS}
              (memory (export "memory") {pages})
              (table {table} funcref)
              (global $top (mut i32) (i32.const {heap}))
              (global $calls (mut i32) (i32.const 0))
              (data (i32.const {DATA_START}) "{data}")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
              (func $recurse (param i32) (result i32)
                (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
              (func $start {start})
              (start $start)
              {key}
              (func (export "outlast:app/handler@0.1.0#handle")
                (param $event i32) (param $a i32) (param $b i32) (param $request i64)
                (param $initial i32) (param $message i32) (param $f i32)
                {handler}
                (global.set $top (i32.const {heap}))))"#,
            pages = self.pages,
            table = self.table,
            heap = DATA_START + DATA_BYTES_MAX,
            start = self.start,
            handler = self.handler,
        )
    }
}

/// Behind the place for results.
const DATA_START: usize = 256;
const DATA_BYTES_MAX: usize = 16 * 1024;

/// An answer without reason, headers or body; leaves its result at [`RESULT`].
pub(crate) fn respond(status: u16) -> String {
    let nothing = "(i32.const 0) ".repeat(9 - 1);
    format!(
        "(call $respond (local.get $request) (i32.const {status}) {nothing} (i32.const 0) {RESULT})"
    )
}
