//! Releases that write other formats, side by side in one cluster: it goes up when all can, who cannot read it is refused, and who
//! has gone up can go back.

use std::path::Path;

use serde_json::Value;
use testbed::node::{Node, NodeOptions, outlast_with_environment};
use testbed::wait;

use crate::accounts::{LIMIT, done, start, three, wait_until_registered};
use crate::world::{DOMAIN, has_etcd};

/// What the next release would say of itself, and the one after it.
const NEWEST: &str = "OUTLAST_NEWEST_FORMAT";

/// Stops a node and starts it as the release that writes up to that level.
fn become_release(nodes: &mut Vec<Node>, number: usize, newest: &str) {
    let directory = nodes.remove(number).stop();
    let options = NodeOptions { config: None, arguments: Vec::new() };
    let node = Node::start_in_with_environment(directory, &options, &[(NEWEST, newest)]);
    nodes.insert(number, node);
}

/// What the cluster writes, and what a node's release can, as it knows them.
fn formats(node: &Node) -> (u64, u64) {
    let shown = done(node.directory(), &["status", "--json"], "");
    let status: Value = serde_json::from_str(&shown).expect("JSON");
    let of = |name: &str| status["cluster"]["formats"][name].as_u64().expect("a level");
    (of("level"), of("newest"))
}

fn wait_for_formats(node: &Node, expected: (u64, u64)) {
    wait::until(&format!("formats {expected:?}"), LIMIT, || match formats(node) {
        found if found == expected => Ok(()),
        found => Err(found),
    });
}

/// The line of `outlast status --cluster` about formats.
fn line(node: &Node) -> String {
    let shown = done(node.directory(), &["status", "--cluster"], "");
    shown.lines().filter(|line| line.starts_with("formats: ")).collect()
}

/// What a command of a release that is two levels up says, which fails.
fn refused(directory: &Path, arguments: &[&str]) -> String {
    let output = outlast_with_environment(directory, arguments, b"", &[(NEWEST, "4")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_writes_the_next_format_when_all_its_releases_can() {
    if !has_etcd() {
        return;
    }
    let mut nodes = three();
    for node in &nodes {
        assert_eq!((formats(node), line(node)), ((1, 1), String::new()), "nothing to be said");
    }

    // One after the other; until the last one all write what the old release reads.
    for number in [0, 1] {
        become_release(&mut nodes, number, "2");
        wait_for_formats(&nodes[number], (1, 2));
        wait::until("who cannot to be named", LIMIT, || {
            let (said, last) = (line(&nodes[number]), [": node2, node3", ": node3"][number]);
            let expected = "formats: the cluster writes level 1; this node's release can write 2";
            match said.starts_with(expected) && said.ends_with(last) {
                true => Ok(()),
                false => Err(said),
            }
        });
    }
    become_release(&mut nodes, 2, "2");
    for node in &nodes {
        wait_for_formats(node, (2, 2));
        assert_eq!(line(node), "");
    }

    // Back to the old release: it reads one up, and says what it writes.
    become_release(&mut nodes, 0, "1");
    wait_for_formats(&nodes[0], (2, 1));
    let said = line(&nodes[0]);
    assert!(said.contains("writes level 2, and this node's release level 1"), "{said}");
    wait_until_registered(&nodes[0], "alice").await;

    // Two up is too far, for a member and for a node that would be one.
    let too_far = "the cluster writes formats of level 2, and this release reads 3 to 5: install an earlier release";
    let token = done(nodes[0].directory(), &["cluster", "token"], "");
    let token = token.lines().next().expect("a token");
    let stranger = tempfile::tempdir().expect("a temporary directory");
    let joins = ["cluster", "join", token, "--address", "127.0.0.1", "--domain", DOMAIN];
    let told = refused(stranger.path(), &joins);
    assert!(told.contains(too_far), "{told}");
    assert!(!stranger.path().join("cluster").exists(), "nothing was made");
    let directory = nodes.remove(0).stop();
    let told = refused(directory.path(), &["up"]);
    assert!(told.contains(too_far), "{told}");
    nodes.insert(0, start(directory));
    wait_for_formats(&nodes[0], (2, 1));
}
