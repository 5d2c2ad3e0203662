//! A node whose machine went down under it: what its next start makes of the state, and what it says.
//!
//! The loss of power is made of what it leaves: the mark of another boot beside the store, and a file some of
//! whose pages are old.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use phone::{LineTransport, Phone};
use testbed::node::{Node, NodeOptions};
use testbed::wait;

use crate::command::{done, done_json, refused};
use crate::{LIMIT, directory};

const CONFIG: &str = r#"[registrar]
authenticate = false
domains = ["example.com"]
[state]
snapshot_every = "1s"
[[edge.instances]]
name = "edge1"
listen = ["127.0.0.1:0"]
"#;

fn options() -> NodeOptions {
    NodeOptions { config: Some(CONFIG.to_owned()), arguments: Vec::new() }
}

async fn register(node: &Node, user: &str) {
    let phone =
        Phone::new(user, "example.com", "", LineTransport::Udp, node.sip("udp")).await.unwrap();
    phone.register(3_600).await.unwrap();
}

/// Registrations of a node that is up or down.
fn registered(directory: &Path) -> Vec<String> {
    let listed = done_json(directory, &["registrations", "--json"]);
    let all = listed.as_array().unwrap();
    all.iter().map(|one| one["aor"].as_str().unwrap().to_owned()).collect()
}

/// A node that served a while, with a snapshot, and then somebody who registered after it; stopped.
async fn after_some_service() -> tempfile::TempDir {
    let node = Node::start(&options());
    register(&node, "early").await;
    let snapshots = node.directory().join("snapshots");
    // The first may have begun before the registration. The two after it have it for sure, so that the newest can be
    // done without.
    for _ in 0..3 {
        let before = newest(&snapshots);
        wait::until("a snapshot", LIMIT, || {
            let now = newest(&snapshots);
            if now.is_some() && now != before { Ok(()) } else { Err(now) }
        });
    }
    node.stop()
}

fn newest(snapshots: &Path) -> Option<String> {
    let entries = fs::read_dir(snapshots).ok()?;
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".mdb")).max()
}

/// Leaves what another boot would have left that never stopped.
fn went_down(directory: &Path) {
    fs::write(directory.join("state").join("running-boot"), "another boot\n").unwrap();
}

/// Every page but the two that LMDB begins with is what it was before anything was written.
fn lose_pages(directory: &Path) {
    let file = File::options().write(true).open(directory.join("state").join("data.mdb")).unwrap();
    let length = file.metadata().unwrap().len();
    let pages = length / 4_096;
    for page in (2..pages).filter(|page| page % 2 == 0) {
        file.write_all_at(&[0; 4_096], page * 4_096).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_state_is_verified_and_said_to_be() {
    let directory = after_some_service().await;
    went_down(directory.path());
    let node = Node::start_in(directory, &options());
    assert_eq!(registered(node.directory()), ["sip:early@example.com"]);
    assert!(node.log().contains("the state is sound"), "{}", node.log());
    let state = &done_json(node.directory(), &["status", "--json"])["state"];
    assert_eq!(state["verdict"], "sound");
    assert!(state["verified_at_ms"].as_u64().unwrap() > 1_700_000_000_000, "{state}");
    let shown = done(node.directory(), &["status"], "");
    assert!(shown.contains("state verified after a loss of power at 20"), "{shown}");
    assert!(shown.contains(": sound"), "{shown}");
    register(&node, "late").await;
    assert_eq!(registered(node.directory()).len(), 2);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_goes_back_to_the_snapshot_and_says_what_is_lost() {
    let directory = after_some_service().await;
    // A damaged newest snapshot is passed over for the one before it.
    let newest = newest(&directory.path().join("snapshots")).unwrap();
    fs::write(directory.path().join("snapshots").join(newest), [7; 40_000]).unwrap();
    went_down(directory.path());
    lose_pages(directory.path());
    let node = Node::start_in(directory, &options());
    assert_eq!(registered(node.directory()), ["sip:early@example.com"]);
    let log = node.log();
    assert!(
        log.contains("the state is damaged") && log.contains("went back to a snapshot"),
        "{log}"
    );
    let state = &done_json(node.directory(), &["status", "--json"])["state"];
    assert_eq!(state["verdict"], "restored");
    assert!(state["restored_from"].as_str().unwrap().contains("/snapshots/snapshot-"), "{state}");
    assert!(state["snapshot_age_ms"].is_u64(), "{state}");
    assert!(state["lost"].as_str().unwrap().contains("since the snapshot"), "{state}");
    let shown = done(node.directory(), &["status"], "");
    assert!(shown.contains("damaged; restored from") && shown.contains("lost: "), "{shown}");
    register(&node, "late").await;
    assert_eq!(registered(node.directory()).len(), 2);
    // Stopped in order, the next start has nothing to verify; what was found stays to be seen.
    let node = Node::start_in(node.stop(), &options());
    assert!(!node.shown().contains("verifying its state"), "{}", node.shown());
    assert_eq!(done_json(node.directory(), &["status", "--json"])["state"]["verdict"], "restored");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_without_a_snapshot_is_refused_with_what_to_do() {
    let directory = after_some_service().await;
    fs::remove_dir_all(directory.path().join("snapshots")).unwrap();
    went_down(directory.path());
    lose_pages(directory.path());
    let said = refused(directory.path(), &["up"], "", 1);
    assert!(said.contains("no sound snapshot") && said.contains("mv "), "{said}");
    // What it says works.
    let state = directory.path().join("state");
    fs::rename(&state, directory.path().join("state.damaged")).unwrap();
    let node = Node::start_in(directory, &options());
    assert_eq!(registered(node.directory()), [""; 0]);
    register(&node, "early").await;
    node.stop();
}

#[test]
fn a_first_start_verifies_nothing_and_says_nothing() {
    let directory = directory();
    let node = Node::start_in(directory, &options());
    assert_eq!(done_json(node.directory(), &["status", "--json"]).get("state"), None);
    node.stop();
}
