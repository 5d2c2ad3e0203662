//! Applications as an operator has them: deployed, upgraded, rolled back and removed by commands, while phones call and
//! processes die.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use phone::{Call, LineTransport, Phone};
use serde_json::Value;
use sip::Method;
use testbed::node::Node;
use testbed::wait;

use crate::world::{self, DOMAIN};

pub(crate) mod guests;
mod refusals;
mod removals;
mod upgrades;

use guests::{Handler, application};

fn app(node: &Node, arguments: &[&str]) -> Output {
    node.outlast(&[&["app"], arguments].concat())
}

pub(crate) fn done(node: &Node, arguments: &[&str]) -> String {
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

/// Waits until both containers serve and have loaded that version.
fn until_both_have(node: &Node, version: &str) {
    wait::until("both containers to say that they have it", world::LIMIT, || {
        let all = list(node);
        let mut versions = all[0]["versions"].as_array().into_iter().flatten();
        let loaded = versions.find(|one| one["version"] == version);
        let loaded = loaded.and_then(|one| one["loaded_by"].as_array()).map(Vec::len);
        let ready = |name: &str| node.process(name).state == "ready";
        if loaded == Some(2) && ready("container1") && ready("container2") {
            Ok(())
        } else {
            Err(all)
        }
    });
}

/// A call that the application holds.
async fn held(phone: &Phone) -> Call {
    let invitation = phone.call(0, &format!("sip:gate@{DOMAIN}")).await.unwrap();
    invitation.answered().await.unwrap()
}

/// The version that a call is held by: what it answers to an INFO.
async fn asked(call: &mut Call) -> u16 {
    call.request_by(0, Method::Info).await.unwrap().status().unwrap()
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
    until_both_have(&node, "1.0.0");
    let directory = node.stop();
    let options = testbed::node::NodeOptions { config: None, arguments: Vec::new() };
    let node = Node::start_in(directory, &options);
    let caller = phone(&node).await;
    assert_eq!(answer(&caller).await, 486);
    let shown = node.outlast(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("gate"), "{shown:?}");
    // Calls that are over are remembered for 32 s; that keeps nobody waiting.
    let asked = Instant::now();
    done(&node, &["remove", "gate"]);
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    assert_eq!((answer(&caller).await, list(&node).len()), (404, 0));
    node.stop();
}
