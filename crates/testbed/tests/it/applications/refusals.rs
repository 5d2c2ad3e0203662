//! What cannot be deployed is refused, with an exit code for programs and words for who wrote it.

use std::fs;
use std::path::Path;

use testbed::node::outlast_in;

use super::guests::module;
use super::*;

#[test]
fn what_cannot_be_deployed_is_refused_with_what_to_do() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let first = application(sources.path(), "1.0.0", &Handler::Answers(486));
    let manifest = first.join("outlast-app.toml");
    let good = fs::read_to_string(&manifest).unwrap();
    let deploy = ["deploy", text(&first)];

    fs::write(&manifest, good.replace("match", "matsch").replace("1.0.0", "one")).unwrap();
    let said = refused(&node, &deploy, 65);
    assert!(said.contains("outlast-app.toml:2 version") && said.contains("match"), "{said}");
    fs::remove_file(&manifest).unwrap();
    assert!(refused(&node, &deploy, 65).contains("outlast app new"));
    fs::write(&manifest, good.replace("gate.wasm", "gone.wasm")).unwrap();
    assert!(refused(&node, &deploy, 65).contains("build it first"));
    fs::write(&manifest, format!("{good}[http]\npath = \"/gate\"\n")).unwrap();
    assert!(refused(&node, &deploy, 65).contains("wasi:http/incoming-handler"));
    fs::write(&manifest, &good).unwrap();
    let set = [&deploy[..], &["--set", "greting=hi"]].concat();
    assert!(refused(&node, &set, 65).contains("did you mean greeting"));
    fs::write(first.join("other.wasm"), "no component").unwrap();
    fs::write(&manifest, good.replace("gate.wasm", "other.wasm")).unwrap();
    assert!(refused(&node, &deploy, 65).contains("\\0asm"));
    fs::write(&manifest, &good).unwrap();
    assert!(list(&node).is_empty());
    let staging = node.directory().join("apps").join(".staging");
    assert_eq!(fs::read_dir(&staging).map_or(0, Iterator::count), 0, "nothing is left behind");

    done(&node, &deploy);
    assert!(refused(&node, &deploy, 65).contains("is deployed already"));
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    assert!(refused(&node, &["show", "gat"], 1).contains("deployed are: gate"));
    assert!(refused(&node, &["remove", "gate@2.0.0"], 1).contains("it has 1.0.0"));
    assert!(refused(&node, &["upgrade", "gate"], 65).contains("a version that is kept (1.0.0)"));
    fs::write(&manifest, good.replace("\"gate\"\n", "\"gat\"\n")).unwrap();
    let said = refused(&node, &["upgrade", text(&first)], 65);
    assert!(said.contains("did you mean gate?") && said.contains("app deploy"), "{said}");
    let directory = node.stop();
    let output = outlast_in(directory.path(), &["app", "list"], b"");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

/// Each with what its developer reads.
#[test]
fn a_component_that_cannot_run_is_refused_with_what_to_build_instead() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, "[container]\ncount = 1\n"));
    let directory = application(sources.path(), "1.0.0", &Handler::Answers(486));
    let say = |wasm: &[u8], expected: &[&str]| {
        fs::write(directory.join("gate.wasm"), wasm).unwrap();
        let said = refused(&node, &["deploy", text(&directory)], 65);
        println!("{said}");
        for words in expected {
            assert!(said.contains(words), "{words:?}: {said}");
        }
    };
    let wat = |text: &str| wat::parse_str(text).unwrap();
    say(
        &wat(r#"(component
            (import "acme:coffee/pot@1.0.0" (instance (export "brew" (func))))
            (import "outlast:app/sesion@0.1.0" (instance (export "id" (func)))))"#),
        &["gate.wasm", "acme:coffee/pot@1.0.0", "did you mean outlast:app/session@0.1.0?"],
    );
    say(&wat("(component)"), &["outlast:app/handler@0.1.0", "It exports nothing"]);
    say(
        &wat(r#"(component
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $run (export "run" (func $f)))
            (export "wasi:cli/run@0.2.3" (instance $run)))"#),
        &["wasi:cli/run@0.2.3 (a program with a main function", "cdylib"],
    );
    say(&wat("(module)"), &["core module", "component-type", "wasm32-wasip2"]);
    say(b"#!/bin/sh\n", &["no WebAssembly", "\\0asm"]);
    say(&module(&Handler::TrapsAtStart), &["trial instance", "unreachable", "fall_over"]);
    let whole = module(&Handler::Answers(486));
    say(&whole[..whole.len() - 5], &["gate.wasm is refused"]);
    let huge = fs::File::create(directory.join("gate.wasm")).unwrap();
    huge.set_len(65 << 20).unwrap();
    let said = refused(&node, &["deploy", text(&directory)], 65);
    assert!(said.contains("68157440 octets") && said.contains("without debug"), "{said}");
    assert!(refused(&node, &["deploy", text(sources.path())], 65).contains("outlast app new"));
    let said = refused(&node, &["deploy", text(&Path::new("/nowhere").join("gate"))], 65);
    assert!(said.contains("name a directory with outlast-app.toml"), "{said}");
    node.stop();
}
