//! Applications as an operator has them: deployed, upgraded, rolled back and removed by commands, while phones call and
//! processes die.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use phone::{LineTransport, Phone};
use serde_json::Value;
use testbed::node::{Node, outlast_in};
use testbed::wait;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::world::{self, DOMAIN};

/// An application that answers every INVITE with one status, or traps.
enum Handler {
    Answers(u16),
    Traps,
}

/// A module as a compiler writes it for the world `sip-application`.
fn module(handler: &Handler) -> Vec<u8> {
    let code = match handler {
        Handler::Traps => "(unreachable)".to_owned(),
        // Request, status, then neither reason nor headers nor body; 16 is where the outcome goes.
        Handler::Answers(status) => format!(
            "(call $respond (local.get $request) (i32.const {status}) {} (i32.const 16))",
            "(i32.const 0) ".repeat(9)
        ),
    };
    let text = format!(
        r#"(module
          (import "outlast:app/sip@0.1.0" "respond"
            (func $respond (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (memory (export "memory") 2)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
          (func (export "outlast:app/handler@0.1.0#handle")
            (param $event i32) (param i32 i32) (param $request i64) (param i32 i32 i32)
            (if (i32.eq (local.get $event) (i32.const 1)) (then {code}))))"#
    );
    let mut module = wat::parse_str(text).unwrap();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some("sip-application")).unwrap();
    let encoding = StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    module
}

/// Writes the application `gate`, which takes calls to `sip:gate@…`, into a directory of its own.
fn application(at: &Path, version: &str, handler: &Handler) -> PathBuf {
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

fn app(node: &Node, arguments: &[&str]) -> Output {
    node.outlast(&[&["app"], arguments].concat())
}

fn done(node: &Node, arguments: &[&str]) -> String {
    let output = app(node, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(node: &Node, arguments: &[&str], code: i32) -> String {
    let output = app(node, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn list(node: &Node) -> Vec<Value> {
    serde_json::from_str(&done(node, &["list", "--json"])).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn phone(node: &Node) -> Phone {
    world::registered_openly(node, "caller", LineTransport::Udp).await
}

/// What a call to the application is answered.
async fn answer(phone: &Phone) -> u16 {
    let mut invitation = phone.call(0, &format!("sip:gate@{DOMAIN}")).await.unwrap();
    invitation.final_response().await.unwrap().status().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployed_application_answers_calls_and_outlives_manager_containers_and_node() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    assert_eq!(answer(&caller).await, 404, "nobody is called so yet");
    let first = application(sources.path(), "1.0.0", &Handler::Answers(486));
    let said = done(&node, &["deploy", text(&first), "--set", "greeting=good morning"]);
    assert!(said.contains("into 2 containers") && said.contains("1.0.0"), "{said}");
    assert_eq!(answer(&caller).await, 486);
    assert!(done(&node, &["show", "gate"]).contains("greeting = \"good morning\""));

    let before = node.kill_manager();
    node.wait_for_manager_after(before);
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    assert_eq!(answer(&caller).await, 486);
    wait::until("both containers to say that they have it", world::LIMIT, || {
        let all = list(&node);
        let loaded = all[0]["versions"][0]["loaded_by"].as_array().map(Vec::len);
        if loaded == Some(2) { Ok(()) } else { Err(all) }
    });
    let ports = node.config_with_its_ports();
    let directory = node.stop();
    let options = testbed::node::NodeOptions { config: Some(ports), arguments: Vec::new() };
    let node = Node::start_in(directory, &options);
    let caller = phone(&node).await;
    assert_eq!(answer(&caller).await, 486);
    let shown = node.outlast(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("gate"), "{shown:?}");
    done(&node, &["remove", "gate"]);
    assert_eq!((answer(&caller).await, list(&node).len()), (404, 0));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_brings_the_new_version_in_and_a_failing_one_is_taken_back() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Answers(486));
    let second = application(sources.path(), "1.1.0", &Handler::Answers(603));
    let third = application(sources.path(), "1.2.0", &Handler::Traps);
    done(&node, &["deploy", text(&first), "--set", "greeting=hi"]);
    let said = done(&node, &["upgrade", text(&second)]);
    for line in ["loaded 1.1.0", "container1 (1 of 2)", "container2 (2 of 2)", "is well"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(answer(&caller).await, 603);
    assert!(done(&node, &["show", "gate"]).contains("greeting = \"hi\""), "what was set stays set");

    let upgrade = tokio::task::spawn_blocking({
        let (directory, third) = (node.directory().to_owned(), third.clone());
        move || outlast_in(&directory, &["app", "upgrade", text(&third)], b"")
    });
    let mut trapped = 0;
    while !upgrade.is_finished() {
        match answer(&caller).await {
            500 => trapped += 1,
            status => assert_eq!(status, 603),
        }
    }
    let output = upgrade.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{said}, after {trapped} calls that met it");
    assert!(said.contains("gate 1.2.0") && said.contains("handlers failed"), "{said}");
    for _ in 0..10 {
        assert_eq!(answer(&caller).await, 603);
    }
    assert_eq!(list(&node)[0]["current"], "1.1.0");
    // By hand, back to the first one.
    done(&node, &["upgrade", "gate@1.0.0"]);
    assert_eq!(answer(&caller).await, 486);
    done(&node, &["remove", "gate@1.2.0"]);
    node.stop();
}

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
    let directory = node.stop();
    let output = outlast_in(directory.path(), &["app", "list"], b"");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}
