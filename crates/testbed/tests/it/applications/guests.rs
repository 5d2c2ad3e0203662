//! Guests as a compiler would write them, in text, and directories to deploy them from.

use std::fs;
use std::path::{Path, PathBuf};

use wit_component::StringEncoding;
use wit_parser::Resolve;

/// What an application does.
pub(crate) enum Handler {
    /// Answers every request with one status.
    Answers(u16),
    /// Answers an initial INVITE with 200, and what comes in its dialog with this status.
    Holds(u16),
    /// Traps.
    Traps,
    /// Does not even begin.
    TrapsAtStart,
}

/// A module as a compiler writes it for the world `sip-application`.
pub(super) fn module(handler: &Handler) -> Vec<u8> {
    // Request, status, then neither reason nor headers nor body; 16 is where the outcome goes.
    let respond = |status: &str| {
        let nothing = "(i32.const 0) ".repeat(9);
        format!("(call $respond (local.get $request) {status} {nothing} (i32.const 16))")
    };
    let code = match handler {
        Handler::Traps | Handler::TrapsAtStart => "(call $fall_over)".to_owned(),
        Handler::Answers(status) => respond(&format!("(i32.const {status})")),
        Handler::Holds(status) => {
            respond(&format!("(select (i32.const 200) (i32.const {status}) (local.get $initial))"))
        }
    };
    let start = match handler {
        Handler::TrapsAtStart => "(start $fall_over)",
        Handler::Traps | Handler::Answers(_) | Handler::Holds(_) => "",
    };
    let text = format!(
        r#"(module
          (import "outlast:app/sip@0.1.0" "respond"
            (func $respond (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (memory (export "memory") 2)
          (func $fall_over (unreachable))
          {start}
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
          (func $handle (export "outlast:app/handler@0.1.0#handle")
            (param $event i32) (param i32 i32) (param $request i64) (param $initial i32) (param i32 i32)
            (if (i32.eq (local.get $event) (i32.const 1)) (then {code}))))"#
    );
    embedded(&text, "sip-application")
}

/// A module of this text, with the section that says which world it was built for.
pub(crate) fn embedded(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

/// Writes the application `gate`, which takes calls to `sip:gate@…`, into a directory of its own.
pub(crate) fn application(at: &Path, version: &str, handler: &Handler) -> PathBuf {
    let directory = at.join(format!("gate-{version}"));
    fs::create_dir(&directory).unwrap();
    let manifest = format!(
        "name = \"gate\"\nversion = \"{version}\"\ncomponent = \"gate.wasm\"\n\
         [sip]\nmatch = {{ equal = [\"request.uri.user\", \"gate\"] }}\n\
         [config]\ngreeting = \"hello\"\n[health]\nwatch = \"500ms\"\n"
    );
    fs::write(directory.join("outlast-app.toml"), manifest).unwrap();
    fs::write(directory.join("gate.wasm"), module(handler)).unwrap();
    directory
}
