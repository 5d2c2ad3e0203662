//! Three real nodes on one machine, made a cluster by the commands that an operator uses.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use testbed::loopback::Loopback;
use testbed::node::{Node, NodeOptions, outlast_in};
use testbed::pace::Pace;
use testbed::wait;

use crate::world::has_etcd;

/// How long a debug build on a busy machine may take to see what an idle one sees in milliseconds.
const LIMIT: Duration = Duration::from_secs(30);

fn address(node: u8, hosts: Loopback) -> String {
    SocketAddr::from((hosts.host(node), 6200)).to_string()
}

fn told(output: &std::process::Output) -> (Option<i32>, String) {
    let text =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (output.status.code(), text.concat())
}

fn done(output: &std::process::Output) -> String {
    let (code, text) = told(output);
    assert_eq!(code, Some(0), "{text}");
    text
}

fn refused(output: &std::process::Output, because: &str) {
    let (code, text) = told(output);
    assert!(code == Some(1) && text.contains(because), "{code:?} {text}");
}

/// What `outlast status --cluster --json` says.
fn status(node: &Node) -> serde_json::Value {
    let output = node.outlast(&["status", "--cluster", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The state of one process, or node, of the cluster as that node sees it.
fn state(node: &Node, kind: &str, name: &str) -> String {
    let status = status(node);
    let found = status[kind].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    found.map_or_else(|| "unknown".to_owned(), |one| one["state"].as_str().unwrap_or("").to_owned())
}

fn wait_for(node: &Node, kind: &str, name: &str, wanted: &str) {
    wait::until(&format!("{name} to be {wanted}"), LIMIT, || {
        let seen = state(node, kind, name);
        if seen == wanted { Ok(()) } else { Err(seen) }
    });
}

fn token(node: &Node) -> String {
    let output = node.outlast(&["cluster", "token"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn join(directory: &Path, token: &str, number: u8, hosts: Loopback) -> std::process::Output {
    let (name, address) = (format!("node{number}"), address(number, hosts));
    let arguments =
        ["cluster", "join", token, "--name", &name, "--address", &address, "--sip", "127.0.0.1:0"];
    outlast_in(directory, &[&arguments[..], &["--domain", "example.com"]].concat(), b"")
}

fn start_joined(member: &Node, number: u8, hosts: Loopback) -> Node {
    let directory = tempfile::tempdir().unwrap();
    done(&join(directory.path(), &token(member), number, hosts));
    Node::start_in(directory, &NodeOptions::arguments(&[]))
}

/// Every node sees all processes of all three ready.
fn wait_until_whole(nodes: [&Node; 3]) {
    for node in nodes {
        for name in ["node1", "node2", "node3"] {
            wait_for(node, "nodes", name, "up");
            for process in ["edge1", "container1", "container2"] {
                wait_for(node, "processes", &format!("{process}@{name}"), "ready");
            }
        }
    }
}

#[test]
fn three_nodes_become_one_system_by_copy_and_paste_and_see_each_others_deaths() {
    if !has_etcd() {
        return;
    }
    let hosts = Loopback::new();
    let one = Node::start(&NodeOptions::default());
    one.add_user("alice@example.com", "secret");
    refused(&one.outlast(&["status", "--cluster"]), "in no cluster");
    refused(&one.outlast(&["cluster", "token"]), "outlast cluster create");
    let created = done(&one.outlast(&["cluster", "create", "--address", &address(1, hosts)]));
    assert!(created.contains("node1 is the first member"), "{created}");
    refused(&one.outlast(&["cluster", "create"]), "already");
    let config = std::fs::read_to_string(one.directory().join("outlast.toml")).unwrap();
    assert!(config.contains(&format!("address = \"{}\"", address(1, hosts))), "{config}");

    let before = one.process("container1");
    let two = start_joined(&one, 2, hosts);
    let three = start_joined(&two, 3, hosts);
    assert_eq!(one.process("container1").pid, before.pid, "nothing was restarted");
    wait_until_whole([&one, &two, &three]);
    let shown = done(&two.outlast(&["status", "--cluster"]));
    assert!(
        shown.contains("coordinated by node1") && shown.contains("container2@node3"),
        "{shown}"
    );
    let shown = done(&two.outlast(&["status"]));
    assert!(!shown.contains('@'), "{shown}");

    a_death_is_seen(&two, &three);
    processes_of_other_nodes_are_commanded(&one, &two, &three);
    let three = a_node_without_power_is_lost_and_comes_back(&one, &two, three);

    let directories = [one, two, three].map(Node::stop);
    // All at once: what the one that was stopped last took over lies with it only.
    let nodes = thread::scope(|scope| {
        let start = |directory| Node::start_in(directory, &NodeOptions::arguments(&[]));
        let starting = directories.map(|directory| scope.spawn(move || start(directory)));
        starting.map(|node| node.join().expect("it starts"))
    });
    wait_until_whole(nodes.each_ref());
    let users = done(&nodes[0].outlast(&["user", "list"]));
    assert!(users.contains("alice@example.com"), "the first keeps what it had: {users}");
}

fn a_death_is_seen(two: &Node, three: &Node) {
    let pid = two.process("container1").pid;
    two.signal("container1", Signal::KILL);
    wait::until("another life of it", LIMIT, || {
        let status = status(three);
        let seen = status["processes"].as_array().and_then(|all| {
            all.iter().find(|process| process["name"] == "container1@node2").cloned()
        });
        match seen {
            Some(seen)
                if seen["state"] == "ready" && seen["pid"].as_i64() != pid.map(i64::from) =>
            {
                Ok(())
            }
            other => Err(other),
        }
    });
}

fn processes_of_other_nodes_are_commanded(one: &Node, two: &Node, three: &Node) {
    done(&one.outlast(&["stop", "container2@node3"]));
    assert_eq!(three.process("container2").state, "down");
    refused(&one.outlast(&["stop", "container9@node3"]), "node3: no process is named container9");
    done(&one.outlast(&["start", "container2@node3"]));
    let restarted = done(&two.outlast(&["restart", "container2", "--cluster"]));
    for node in ["node1", "node2", "node3"] {
        assert!(restarted.contains(&format!("container2@{node} is ready again")), "{restarted}");
    }
    done(&two.outlast(&["drain", "container1@node1", "--deadline", "2s"]));
    wait_for(three, "processes", "container1@node1", "down");
    done(&two.outlast(&["start", "container1@node1"]));
}

fn a_node_without_power_is_lost_and_comes_back(one: &Node, two: &Node, three: Node) -> Node {
    refused(&one.outlast(&["cluster", "remove", "node3"]), "is up");
    let pace = Pace::watch();
    let killed = Instant::now();
    let directory = three.kill_everything();
    for node in [one, two] {
        wait_for(node, "nodes", "node3", "lost");
    }
    let noticed = killed.elapsed();
    // The command that asks takes its time, too.
    let bound = pace.end().allows(Duration::from_millis(2500));
    assert!(noticed < bound, "noticed after {noticed:?}, not within {bound:?}");
    refused(&one.outlast(&["start", "edge1@node3"]), "node3 cannot be reached");
    let three = Node::start_in(directory, &NodeOptions::arguments(&[]));
    wait_for(one, "nodes", "node3", "up");
    three
}

#[test]
fn who_may_not_join_is_told_what_to_do_and_who_leaves_is_a_single_node_again() {
    if !has_etcd() {
        return;
    }
    let hosts = Loopback::new();
    let one = Node::start(&NodeOptions::default());
    done(&one.outlast(&["cluster", "create", "--address", &address(1, hosts)]));

    // A node that runs, one that holds something, one without a token, one that is a member.
    let two = Node::start(&NodeOptions::default());
    let token_of_one = token(&one);
    refused(&join(two.directory(), &token_of_one, 2, hosts), "stop it before it joins");
    two.add_user("bob@example.com", "secret");
    let directory = two.stop();
    refused(&join(directory.path(), &token_of_one, 2, hosts), "1 accounts");
    let directory = tempfile::tempdir().unwrap();
    refused(&join(directory.path(), "nonsense", 2, hosts), "no join token");
    assert!(!directory.path().join("outlast.toml").exists(), "wishes that did not work are kept");
    let expired = done(&one.outlast(&["cluster", "token", "--valid-for", "0s"]));
    let expired = expired.lines().next().unwrap().to_owned();
    // It is good until the end of the second that it was made in, or of an earlier one.
    let made = unix_seconds();
    wait::until("the token's last second to be over", LIMIT, || {
        let now = unix_seconds();
        if now > made { Ok(()) } else { Err(now) }
    });
    refused(&join(directory.path(), &expired, 2, hosts), "has expired");
    done(&join(directory.path(), &token_of_one, 2, hosts));
    refused(&join(directory.path(), &token_of_one, 2, hosts), "already");

    leaves(&one, Node::start_in(directory, &NodeOptions::arguments(&[])));
    hears_that_it_was_removed(&one, start_joined(&one, 3, hosts));
}

fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

fn leaves(one: &Node, two: Node) {
    wait_for(one, "nodes", "node2", "up");
    done(&two.outlast(&["cluster", "rotate-certificates"]));
    two.add_user("carol@example.com", "secret");
    done(&two.outlast(&["cluster", "leave"]));
    wait_for(one, "nodes", "node2", "unknown");
    refused(&two.outlast(&["status", "--cluster"]), "in no cluster");
    let directory = two.stop();
    let config = std::fs::read_to_string(directory.path().join("outlast.toml")).unwrap();
    assert!(!config.contains("\n[cluster]"), "{config}");
    let two = Node::start_in(directory, &NodeOptions::arguments(&[]));
    assert_eq!(two.status().processes.len(), 3);
    let users = |node: &Node| done(&node.outlast(&["user", "list"]));
    assert!(users(one).contains("carol@example.com"), "accounts are the cluster's: {}", users(one));
    assert!(!users(&two).contains("carol@example.com"), "{}", users(&two));
}

/// It was away meanwhile.
fn hears_that_it_was_removed(one: &Node, three: Node) {
    wait_for(one, "nodes", "node3", "up");
    let directory = three.kill_everything();
    wait_for(one, "nodes", "node3", "lost");
    done(&one.outlast(&["cluster", "remove", "node3"]));
    let three = Node::start_in(directory, &NodeOptions::arguments(&[]));
    wait::until("node3 to know", LIMIT, || {
        let shown = done(&three.outlast(&["status"]));
        if shown.contains("removed from its cluster") { Ok(()) } else { Err(shown) }
    });
    assert_eq!(state(one, "nodes", "node3"), "unknown");
}
