//! What is deployed, and what is refused with which words.

use guest::{Guest, Limits, Refused};

use crate::bench::*;
use crate::module::Module;

fn refused(wasm: &[u8]) -> Refused {
    guest::prepare(&ENGINE, wasm, Limits::default()).unwrap_err()
}

#[test]
fn a_module_that_names_its_world_becomes_a_component() {
    let prepared = prepared(&Module::new().build());
    assert_eq!(&prepared.component[..4], b"\0asm");
    assert_eq!(prepared.component[6], 1, "a component");
    assert!(prepared.handlers.sip && !prepared.handlers.http && !prepared.handlers.session_key);
    assert!(prepared.imports.is_empty() || prepared.imports[0].starts_with("outlast:app/"));
    let again = guest::prepare(&ENGINE, &prepared.component, Limits::default()).unwrap();
    assert_eq!(again.component, prepared.component, "a component stays what it is");
}

#[test]
fn what_is_no_webassembly_is_refused() {
    for wasm in [&b""[..], b"\0asm", b"(module)", b"\x7fELF\x02\x01\x01\0"] {
        assert!(matches!(refused(wasm), Refused::NotWebAssembly), "{wasm:?}");
    }
    let huge = vec![0; guest::limits::COMPONENT_BYTES_MAX + 1];
    assert!(matches!(refused(&huge), Refused::TooLarge(_)));
    let plain = wat::parse_str(r#"(module (import "env" "open" (func)))"#).unwrap();
    assert!(matches!(refused(&plain), Refused::NoWorld));
    let module = Module::new().build();
    assert!(matches!(refused(&module[..module.len() - 9]), Refused::NotComponent(_)));
    let cut = &prepared(&Module::new().build()).component[..200];
    assert!(matches!(refused(cut), Refused::Compile(_)));
}

#[test]
fn unknown_imports_are_named_with_what_was_meant_and_what_there_is() {
    let wasm = wat::parse_str(
        r#"(component
          (import "acme:coffee/pot@1.0.0" (instance (export "brew" (func))))
          (import "outlast:app/sesion@0.1.0" (instance (export "id" (func)))))"#,
    );
    let text = refused(&wasm.unwrap()).to_string();
    for said in [
        "\n  acme:coffee/pot@1.0.0\n",
        "\n  outlast:app/sesion@0.1.0 (did you mean outlast:app/session@0.1.0?)\n",
        "can import outlast:app/{types,",
    ] {
        assert!(text.contains(said), "{said:?}: {text}");
    }
}

#[test]
fn a_known_import_of_another_type_is_refused() {
    let wasm = wat::parse_str(
        r#"(component
          (import "outlast:app/config@0.1.0" (instance (export "get" (func (param "key" u32))))))"#,
    );
    let refused = refused(&wasm.unwrap());
    assert!(matches!(refused, Refused::OtherInterface(_)), "{refused}");
}

#[test]
fn a_component_without_a_handler_is_refused() {
    let refused = refused(&wat::parse_str("(component)").unwrap());
    assert!(matches!(&refused, Refused::NoHandler { exports } if exports.is_empty()));
    assert!(refused.to_string().contains("wasi:http/incoming-handler"), "{refused}");
    let exports = ["outlast:app/handler@0.2.0".to_owned(), "wasi:cli/run@0.2.6".to_owned()].into();
    let text = Refused::NoHandler { exports }.to_string();
    assert!(text.contains("mean outlast:app/handler@0.1.0?") && text.contains("cdylib"), "{text}");
}

#[test]
fn code_that_does_not_fit_is_made_again() {
    let one = prepared(&Module::new().build());
    let other = prepared(&Module::new().pages(3).build());
    let mut damaged = one.code.to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for code in [&b""[..], b"outlast-code-1\n", &damaged, &other.code] {
        let loaded = Guest::load(&ENGINE, &one.component, Some(code), settings());
        let (_, made) = loaded.unwrap();
        assert_eq!(made.as_deref(), Some(&one.code[..]), "as it was compiled at first");
    }
    let (_, made) = Guest::load(&ENGINE, &one.component, None, settings()).unwrap();
    assert!(made.is_some());
}
