//! Three real nodes whose accounts lie in the repository that they run: made by the commands that an operator uses, used by
//! phones, and with members of it dead.

use std::path::Path;
use std::time::Duration;

use phone::{LineTransport, Phone, PhoneError};
use rustix::process::Signal;
use testbed::loopback::Loopback;
use testbed::node::{Node, NodeOptions, outlast_in};
use testbed::wait;

use crate::world::{DOMAIN, PASSWORD, address, has_etcd};

/// etcd wants to see its members for five seconds before it takes another one; the rest is for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn done(directory: &Path, arguments: &[&str], input: &str) -> String {
    let output = outlast_in(directory, arguments, input.as_bytes());
    let told =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{arguments:?}: {told:?}");
    told.concat().trim().to_owned()
}

/// A directory with the configuration of that node, at a loopback address of its own.
fn configured(number: u8, hosts: Loopback) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let at = hosts.host(number).to_string();
    let config = format!(
        "[node]\nname = \"node{number}\"\n[registrar]\ndomains = [\"{DOMAIN}\"]\n[container]\nhttp = \"off\"\n\
         [cluster]\naddress = \"{at}:6200\"\nstores = 0\n\
         [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.{number}:0\"]\n"
    );
    std::fs::write(directory.path().join("outlast.toml"), config).unwrap();
    (directory, at)
}

pub(crate) fn start(directory: tempfile::TempDir) -> Node {
    Node::start_in(directory, &NodeOptions { config: None, arguments: Vec::new() })
}

/// The nodes that have a member which counts, as that node has noted it.
fn members(node: &Node) -> Vec<String> {
    let text = std::fs::read(node.directory().join("cluster/repository.json")).unwrap_or_default();
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let members = list["members"].as_array().cloned().unwrap_or_default();
    members.iter().filter_map(|member| Some(member["node"].as_str()?.to_owned())).collect()
}

pub(crate) fn wait_for_members(nodes: &[Node], expected: &[&str]) {
    for node in nodes {
        wait::until(&format!("members {expected:?}"), LIMIT, || match members(node) {
            found if found == expected => Ok(()),
            found => Err(found),
        });
    }
}

/// A cluster of three, whose first node had an account before it had others.
pub(crate) fn three() -> Vec<Node> {
    let hosts = Loopback::new();
    let (directory, _) = configured(1, hosts);
    let one = start(directory);
    one.add_user(&format!("alice@{DOMAIN}"), PASSWORD);
    let created = done(one.directory(), &["cluster", "create"], "");
    assert!(created.contains("lie in the cluster's repository now"), "{created}");
    let mut nodes = vec![one];
    for number in [2, 3] {
        let (directory, at) = configured(number, hosts);
        let token = done(nodes[0].directory(), &["cluster", "token"], "");
        let token = token.lines().next().unwrap_or_default().to_owned();
        done(directory.path(), &["cluster", "join", &token, "--address", &at], "");
        nodes.push(start(directory));
    }
    wait_for_members(&nodes, &["node1", "node2", "node3"]);
    nodes
}

async fn registers(node: &Node, user: &str) -> Result<(), PhoneError> {
    let phone =
        Phone::new(user, DOMAIN, PASSWORD, LineTransport::Udp, address(node, LineTransport::Udp))
            .await?;
    phone.register(600).await.map(drop)
}

/// As soon as that node's copy has the account, and somebody serves.
pub(crate) async fn wait_until_registered(node: &Node, user: &str) {
    let began = std::time::Instant::now();
    while let Err(error) = registers(node, user).await {
        assert!(began.elapsed() < LIMIT, "{user} cannot register: {error}\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn users(node: &Node) -> String {
    done(node.directory(), &["user", "list"], "")
}

pub(crate) fn add_user(node: &Node, name: &str) -> std::process::Output {
    let name = format!("{name}@{DOMAIN}");
    outlast_in(node.directory(), &["user", "add", &name, "--password-stdin"], PASSWORD.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_one_node_are_all_nodes_and_outlast_members_of_the_repository() {
    if !has_etcd() {
        return;
    }
    let nodes = three();
    for node in &nodes {
        assert!(users(node).contains("alice@"), "it was carried along: {}", users(node));
        wait_until_registered(node, "alice").await;
    }
    done(
        nodes[0].directory(),
        &["user", "add", &format!("bob@{DOMAIN}"), "--password-stdin"],
        PASSWORD,
    );
    wait_until_registered(&nodes[2], "bob").await;

    // One of three members dies: changes go on.
    nodes[1].signal("repository", Signal::KILL);
    let added = add_user(&nodes[0], "carol");
    assert!(added.status.success(), "{added:?}");
    wait_until_registered(&nodes[2], "carol").await;
    wait_until_registered(&nodes[1], "carol").await;

    // Two are away: what is known is served, changes are refused and say why.
    wait::until("the killed member to be back", LIMIT, || {
        let process = nodes[1].process("repository");
        if process.state == "ready" { Ok(()) } else { Err(process) }
    });
    for node in &nodes[1..] {
        done(node.directory(), &["stop", "repository"], "");
    }
    let refused = wait_for_refusal(&nodes[0]);
    assert!(refused.contains("changes are refused until it answers"), "{refused}");
    for node in &nodes {
        assert!(users(node).contains("carol@"), "{}", users(node));
        assert!(!users(node).contains("erin@"), "{}", users(node));
        wait_until_registered(node, "bob").await;
    }
    for node in &nodes[1..] {
        done(node.directory(), &["start", "repository"], "");
    }
    wait::until("changes to go on", LIMIT, || {
        let added = add_user(&nodes[0], "dave");
        if added.status.success() { Ok(()) } else { Err(format!("{added:?}")) }
    });
    wait_until_registered(&nodes[2], "dave").await;

    // A node that starts while nobody else is there serves what it knows.
    let mut directories: Vec<_> = nodes.into_iter().map(Node::stop).collect();
    let alone = start(directories.pop().unwrap());
    wait_until_registered(&alone, "dave").await;
    assert!(wait_for_refusal(&alone).contains("changes are refused until it answers"));
}

/// What `outlast user add` says once nobody answers for the repository.
fn wait_for_refusal(node: &Node) -> String {
    wait::until("changes to be refused", LIMIT, || {
        let added = add_user(node, "erin");
        let told = String::from_utf8_lossy(&added.stderr).into_owned();
        if !added.status.success() && told.contains("refused") { Ok(told) } else { Err(told) }
    })
}
