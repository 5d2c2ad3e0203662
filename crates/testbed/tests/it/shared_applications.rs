//! Applications of a cluster of three real nodes: what is deployed on one answers on each, and what cannot come in everywhere
//! comes in nowhere.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use phone::{Call, LineTransport, Phone};
use serde_json::Value;
use testbed::node::{Node, outlast_in};
use testbed::wait;

use crate::accounts::{LIMIT, done, start, three, wait_until_registered};
use crate::applications::guests::{Handler, application};
use crate::world::{DOMAIN, PASSWORD, address, has_etcd};

/// `outlast app list --json`.
fn list(node: &Node) -> Vec<Value> {
    let listed = node.outlast(&["app", "list", "--json"]);
    let all: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    all.as_array().cloned().unwrap_or_default()
}

/// What is current on each node, as one of them says.
pub(crate) fn current(node: &Node) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let nodes = list(node).first().and_then(|gate| gate["nodes"].as_array().cloned());
    let pair = |one: &Value| (text(&one["node"]).unwrap_or_default(), text(&one["current"]));
    let mut all: Vec<_> = nodes.unwrap_or_default().iter().map(pair).collect();
    all.sort();
    all
}

/// Waits until each node says that all three have that version.
fn wait_for(nodes: &[&Node], version: &str) {
    let has = |name: &str| (name.to_owned(), Some(version.to_owned()));
    let expected = ["node1", "node2", "node3"].map(has);
    for node in nodes {
        wait::until(&format!("gate {version} on all nodes"), LIMIT, || match current(node) {
            found if found == expected => Ok(()),
            found => Err((found, list(node))),
        });
    }
}

fn app(node: &Node, arguments: &[&str]) -> Output {
    outlast_in(node.directory(), &[&["app"], arguments].concat(), b"")
}

/// What the command says, which does not do it.
fn refused(node: &Node, arguments: &[&str], code: i32) -> String {
    let output = app(node, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{told}");
    told
}

async fn phone(node: &Node) -> Phone {
    wait_until_registered(node, "alice").await;
    let edge = address(node, LineTransport::Udp);
    Phone::new("alice", DOMAIN, PASSWORD, LineTransport::Udp, edge).await.unwrap()
}

/// What a call to the application is answered.
async fn answer(phone: &Phone) -> u16 {
    let mut invitation = phone.call(0, &format!("sip:gate@{DOMAIN}")).await.unwrap();
    invitation.final_response().await.unwrap().status().unwrap()
}

/// A call to the application that stands.
async fn call(phone: &Phone) -> Call {
    phone.call(0, &format!("sip:gate@{DOMAIN}")).await.unwrap().answered().await.unwrap()
}

fn containers(node: &Node, word: &str) {
    for name in ["container1", "container2"] {
        done(node.directory(), &[word, name], "");
    }
}

fn versions_kept(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.directory().join("apps/gate"));
    let names = entries.into_iter().flatten().flatten();
    let mut names: Vec<String> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_deployed_on_one_node_is_on_all() {
    if !has_etcd() {
        return;
    }
    let mut nodes = three();
    let sources = tempfile::tempdir().unwrap();
    let source = |version: &str, handler: &Handler| {
        application(sources.path(), version, handler).to_str().unwrap().to_owned()
    };
    let one = source("1.0.0", &Handler::Answers(486));
    let said = done(nodes[0].directory(), &["app", "deploy", &one], "");
    assert!(said.contains("node2 (2 of 3) takes it") && said.contains("node3 (3 of 3)"), "{said}");
    wait_for(&[&nodes[0], &nodes[1], &nodes[2]], "1.0.0");
    same_files(&nodes);

    // Each of the others answers while it alone has containers.
    containers(&nodes[0], "stop");
    for [serving, other] in [[1, 2], [2, 1]] {
        containers(&nodes[other], "stop");
        let caller = phone(&nodes[serving]).await;
        assert_eq!(answer(&caller).await, 486);
        containers(&nodes[other], "start");
    }
    containers(&nodes[0], "start");

    // What one node cannot take none has, and it is said which.
    let staging = nodes[1].directory().join("apps/.staging");
    fs::remove_dir_all(&staging).unwrap();
    fs::write(&staging, "").unwrap();
    let told = refused(&nodes[2], &["upgrade", &source("2.0.0", &Handler::Answers(603))], 71);
    assert!(told.contains("node2") && told.contains("apps/.staging"), "{told}");
    wait_for(&[&nodes[0], &nodes[1], &nodes[2]], "1.0.0");
    fs::remove_file(&staging).unwrap();

    // A node that is down takes it when it is back.
    let down = nodes.pop().unwrap().stop();
    let two = source("2.1.0", &Handler::Holds(200));
    let upgraded = app(&nodes[1], &["upgrade", &two]);
    let said = String::from_utf8_lossy(&upgraded.stdout).into_owned();
    assert!(upgraded.status.success(), "{upgraded:?}");
    assert!(said.contains("container1@node1 (1 of 2)"), "{said}");
    nodes.push(start(down));
    wait_for(&[&nodes[0], &nodes[2]], "2.1.0");

    // A call keeps it, whichever container has it: each node of a cluster without stores counts its own.
    let caller = phone(&nodes[1]).await;
    let standing = call(&caller).await;
    let told = refused(with_the_session(&nodes), &["remove", "gate"], 1);
    assert!(told.contains("1 session that lives"), "{told}");
    standing.hang_up().await.unwrap();
    without_a_majority(&nodes, &source("3.0.0", &Handler::Answers(486)));
    // Members that were away vote again.
    wait::until("gate to be removed", LIMIT, || {
        let removed = app(&nodes[2], &["remove", "gate", "--force"]);
        if removed.status.success() { Ok(()) } else { Err(removed) }
    });
    for node in &nodes {
        wait::until("gate to be gone", LIMIT, || {
            let (listed, kept) = (list(node), versions_kept(node));
            if listed.is_empty() && kept.is_empty() { Ok(()) } else { Err((listed, kept)) }
        });
    }
}

/// The node whose container has the call.
fn with_the_session(nodes: &[Node]) -> &Node {
    wait::until("the session to be stored", LIMIT, || {
        let shown = |node: &Node| node.outlast(&["sessions", "--application", "gate", "--json"]);
        let has_one = |node: &&Node| {
            let all: Value = serde_json::from_slice(&shown(node).stdout).unwrap_or_default();
            all.as_array().is_some_and(|all| !all.is_empty())
        };
        nodes.iter().find(has_one).ok_or("none")
    })
}

fn same_files(nodes: &[Node]) {
    let read = |node: &Node, file: &str| {
        let path = node.directory().join("apps/gate/1.0.0").join(file);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for file in ["outlast-app.toml", "component.wasm", "settings.toml"] {
        for node in &nodes[1..] {
            assert_eq!(read(node, file), read(&nodes[0], file), "{file}");
        }
    }
    // Made on each node for itself, before any container asked for it.
    assert!(nodes.iter().all(|node| !read(node, "component.cwasm").is_empty()));
}

/// With most members of the repository away nothing changes.
fn without_a_majority(nodes: &[Node], source: &str) {
    for node in &nodes[1..] {
        done(node.directory(), &["stop", "repository"], "");
    }
    wait::until("changes to be refused", LIMIT, || {
        let told = refused(&nodes[0], &["upgrade", source], 65);
        if told.contains("changes are refused until it answers") { Ok(()) } else { Err(told) }
    });
    let is_there = |node: &Node| Path::exists(&node.directory().join("apps/gate/3.0.0"));
    assert!(!nodes.iter().any(is_there), "{:?}", list(&nodes[0]));
    for node in &nodes[1..] {
        done(node.directory(), &["start", "repository"], "");
    }
    wait::until("changes to go on", LIMIT, || {
        let removed = app(&nodes[0], &["remove", "gate@9.9.9"]);
        let told = String::from_utf8_lossy(&removed.stderr).into_owned();
        if told.contains("until it answers") { Err(told) } else { Ok(()) }
    });
}

/// Begins an upgrade on that node, and waits until a container of another one begins sessions with the new version.
fn upgrade_until_on(node: &Node, source: &str, container: &str) {
    let mut upgrade = Command::new(testbed::binary::outlast())
        .args(["app", "upgrade", source, "--dir"])
        .arg(node.directory())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut lines = BufReader::new(upgrade.stdout.take().unwrap()).lines();
    while !said.last().is_some_and(|line: &String| line.starts_with(container))
        && let Some(line) = lines.next()
    {
        said.push(line.unwrap());
    }
    node.kill_manager();
    let ended = upgrade.wait().unwrap();
    assert!(said.iter().any(|line| line.starts_with(container)) && !ended.success(), "{said:?}");
}

#[test]
fn what_a_node_brings_in_whose_manager_dies_goes_back_on_all() {
    if !has_etcd() {
        return;
    }
    let nodes = three();
    let all = [&nodes[0], &nodes[1], &nodes[2]];
    let sources = tempfile::tempdir().unwrap();
    let source = |version: &str| {
        let at = application(sources.path(), version, &Handler::Answers(486));
        at.to_str().unwrap().to_owned()
    };
    done(nodes[0].directory(), &["app", "deploy", &source("1.0.0")], "");
    wait_for(&all, "1.0.0");
    upgrade_until_on(&nodes[0], &source("2.0.0"), "container1@node2");
    // The second node goes on with what it was asked for; the third is asked by nobody.
    wait::until("the second node to have it", LIMIT, || {
        let found = current(&nodes[1]);
        let second = found.iter().find(|(node, _)| node == "node2").cloned();
        if second.and_then(|(_, version)| version).as_deref() == Some("2.0.0") {
            Ok(())
        } else {
            Err(found)
        }
    });
    // It does not count, and goes back with the lock of the manager that is dead.
    wait_for(&all, "1.0.0");
    // Nothing is left of it that would be in the way.
    done(nodes[2].directory(), &["app", "upgrade", &source("3.0.0")], "");
    wait_for(&all, "3.0.0");
    // A version that some nodes keep and others never had.
    done(nodes[1].directory(), &["app", "upgrade", "gate@2.0.0"], "");
    wait_for(&all, "2.0.0");
}
