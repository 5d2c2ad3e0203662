//! The usual setting of a test: a node, and phones with accounts on it.

use std::net::SocketAddr;
use std::time::Duration;

use phone::{LineTransport, Phone};
use testbed::node::{Node, NodeOptions};
use testbed::stores::Stores;

pub(crate) const DOMAIN: &str = "example.com";
pub(crate) const PASSWORD: &str = "correct-horse";
/// How long a test waits for what the node does by itself.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A node with one edge on 127.0.0.1 and authentication on.
pub(crate) fn node() -> Node {
    Node::start(&NodeOptions::default())
}

/// A node of this configuration; edges listen where it says. `OUTLAST_STATE=shared` gives any test one whose state lies in
/// the stores of a cluster.
pub(crate) fn node_of(config: &str) -> Node {
    let options = NodeOptions { config: Some(config.to_owned()), arguments: Vec::new() };
    match std::env::var("OUTLAST_STATE").as_deref() {
        Ok("shared") => Node::start_on_stores(&options, STORES),
        Ok(other) => panic!("OUTLAST_STATE={other}: needs shared, or not to be set"),
        Err(_) => Node::start(&options),
    }
}

/// The same with the state in the node's own directory, whatever `OUTLAST_STATE` says.
pub(crate) fn node_of_its_own(config: &str) -> Node {
    Node::start(&NodeOptions { config: Some(config.to_owned()), arguments: Vec::new() })
}

/// How many stores: enough for what lies in one to be found by who asks another.
pub(crate) const STORES: usize = 3;

/// A node of this configuration whose state lies in the stores of a cluster; None: there are none on this machine.
pub(crate) fn node_on_stores(config: &str) -> Option<Node> {
    let options = NodeOptions { config: Some(config.to_owned()), arguments: Vec::new() };
    Stores::are_installed().then(|| Node::start_on_stores(&options, STORES))
}

/// Configuration of a node with so many edges on 127.0.0.1, no authentication, and more lines.
pub(crate) fn open_config(edges: usize, more: &str) -> String {
    config(edges, &format!("authenticate = false\n\n{more}"))
}

/// Configuration of a node with so many edges on 127.0.0.1, authentication, and more lines.
pub(crate) fn guarded_config(edges: usize, more: &str) -> String {
    config(edges, more)
}

/// `more` goes on with the section `[registrar]`.
fn config(edges: usize, more: &str) -> String {
    let mut text = format!("[registrar]\ndomains = [\"{DOMAIN}\"]\n{more}\n");
    for number in 1..=edges {
        text +=
            &format!("[[edge.instances]]\nname = \"edge{number}\"\nlisten = [\"127.0.0.1:0\"]\n\n");
    }
    text
}

/// The addresses of an edge other than the first, from the ready line's `sip.NAME=udp:…,tcp:…`.
pub(crate) fn edge_address(node: &Node, edge: &str, transport: &str) -> SocketAddr {
    let prefix = format!("sip.{edge}=");
    node.ready_line()
        .split_whitespace()
        .find_map(|word| word.strip_prefix(prefix.as_str()))
        .into_iter()
        .flat_map(|list| list.split(','))
        .find_map(|entry| entry.strip_prefix(transport)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {edge} {transport} in {:?}", node.ready_line()))
        .parse()
        .expect("the ready line has addresses")
}

/// The node's address of a transport.
pub(crate) fn address(node: &Node, transport: LineTransport) -> SocketAddr {
    node.sip(match transport {
        LineTransport::Udp => "udp",
        LineTransport::Tcp => "tcp",
    })
}

/// A phone of a user, not registered yet; the account is the test's business.
pub(crate) async fn phone(node: &Node, user: &str, transport: LineTransport) -> Phone {
    Phone::new(user, DOMAIN, PASSWORD, transport, address(node, transport))
        .await
        .expect("the edge accepts a phone")
}

/// A phone of a new account, registered for ten minutes.
pub(crate) async fn registered(node: &Node, user: &str, transport: LineTransport) -> Phone {
    node.add_user(&format!("{user}@{DOMAIN}"), PASSWORD);
    let phone = phone(node, user, transport).await;
    phone.register(600).await.expect("the account may register");
    phone
}

/// A phone registered on a node without authentication.
pub(crate) async fn registered_openly(node: &Node, user: &str, transport: LineTransport) -> Phone {
    let phone = phone(node, user, transport).await;
    phone.register(600).await.expect("anybody may register");
    phone
}

/// Whether there is etcd, which every cluster needs; says so where not.
pub(crate) fn has_etcd() -> bool {
    if std::path::Path::new("/usr/bin/etcd").exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "install etcd-server");
    eprintln!("skipped: there is no etcd; ./test says how to install it");
    false
}
