//! The configuration of all nodes of a cluster, as operators change it: taken by each node at its next start, remembered, refused
//! where somebody else was first or nobody answers for the repository, and kept by nodes that begin without it.

use std::fs;
use std::path::{Path, PathBuf};

use phone::{LineTransport, Phone, PhoneError};
use serde_json::Value;
use testbed::node::{Node, outlast_in};
use testbed::wait;

use crate::accounts::{LIMIT, done, start, three, wait_until_registered};
use crate::world::{DOMAIN, PASSWORD, address, has_etcd, node_of_its_own, open_config};

/// What the command says that does not do it.
fn refused(node: &Node, arguments: &[&str], code: i32) -> String {
    let output = outlast_in(node.directory(), arguments, b"");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    told
}

/// A file of an operator, beside the nodes.
struct Draft(tempfile::TempDir);

impl Draft {
    fn new() -> Draft {
        Draft(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cluster.toml")
    }

    /// What the node shows, with more lines.
    fn of(&self, node: &Node, more: &str) -> String {
        let shown = done(node.directory(), &["config", "show", "--cluster"], "");
        self.write(&format!("{shown}\n{more}"))
    }

    fn write(&self, text: &str) -> String {
        fs::write(self.path(), text).unwrap();
        self.path().to_str().unwrap().to_owned()
    }
}

fn config(node: &Node, arguments: &[&str]) -> String {
    done(node.directory(), &[&["config"], arguments].concat(), "")
}

/// The lines of `outlast status` about the configuration.
fn standing(node: &Node, arguments: &[&str]) -> Vec<String> {
    let shown = done(node.directory(), &[&["status"], arguments].concat(), "");
    let lines = shown.lines().filter(|line| line.starts_with("configuration:"));
    lines.map(str::to_owned).collect()
}

fn wait_for_standing(node: &Node, arguments: &[&str], what: &str, is: impl Fn(&[String]) -> bool) {
    wait::until(what, LIMIT, || match standing(node, arguments) {
        lines if is(&lines) => Ok(()),
        lines => Err(lines),
    });
}

/// The version that a node has taken, as `config show` says.
fn taken(directory: &Path) -> u64 {
    let shown: Value =
        serde_json::from_str(&done(directory, &["config", "show", "--json"], "")).unwrap();
    shown["configuration"]["cluster_version"].as_u64().unwrap_or(0)
}

fn containers(node: &Node) -> usize {
    let processes = node.status().processes;
    processes.iter().filter(|process| process.process_type == "container").count()
}

/// Stops it and starts it again.
fn restarted(nodes: &mut Vec<Node>, number: usize) {
    let node = nodes.remove(number);
    let directory = node.stop();
    nodes.insert(number, start(directory));
}

async fn registers_for(node: &Node, seconds: u32) -> Result<(), PhoneError> {
    let at = address(node, LineTransport::Udp);
    let phone = Phone::new("alice", DOMAIN, PASSWORD, LineTransport::Udp, at).await?;
    phone.register(seconds).await.map(drop)
}

#[test]
fn a_single_node_shows_what_it_is_configured_as_and_has_nothing_to_share() {
    let node = node_of_its_own(&open_config(1, "expires_min = \"2m\""));
    let shown = config(&node, &["show", "--origin"]);
    assert!(shown.contains("registrar.expires_min = \"2m\"  # outlast.toml:"), "{shown}");
    assert!(shown.contains("container.count = 2  # default"), "{shown}");
    let again = config(&node, &["show"]);
    let parsed: Value = serde_json::from_str(&config(&node, &["show", "--json"])).unwrap();
    assert_eq!(parsed["configuration"]["registrar"]["expires_min"], "2m");
    // What is shown is a file that says the same.
    fs::write(node.directory().join("outlast.toml"), &again).unwrap();
    assert_eq!(config(&node, &["show"]), again);
    let draft = Draft::new();
    let file = draft.write("");
    for arguments in [["history"].as_slice(), &["show", "--cluster"], &["apply", &file]] {
        let told = refused(&node, &[&["config"], arguments].concat(), 1);
        assert!(told.contains("in no cluster"), "{told}");
    }
    assert_eq!(standing(&node, &[]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_document_configures_all_nodes_and_outlives_those_who_hold_it() {
    if !has_etcd() {
        return;
    }
    let mut nodes = three();
    let draft = Draft::new();
    for node in &nodes {
        assert_eq!(standing(node, &["--cluster"]), [""; 0], "nothing to be said");
    }

    // What is wrong is told with its line, and nothing changes.
    let wrong = "[container]\ncuont = 3\nhttp = \"off\"\n[on.node2.heartbeat]\ninterval = \"1s\"\n";
    let file = draft.of(&nodes[0], wrong);
    for command in ["diff", "apply"] {
        let told = refused(&nodes[0], &["config", command, &file], 64);
        assert!(told.contains("cluster.toml:3 container.cuont: unknown; did you mean"), "{told}");
        assert!(told.contains("cluster.toml:4 container.http: names addresses"), "{told}");
        assert!(told.contains("cluster.toml:5 on.node2.heartbeat: needs to be alike"), "{told}");
    }
    let file = draft.write("[log]\n# The cluster's configuration, version 7\nlevel = \"warn\"\n");
    let told = refused(&nodes[0], &["config", "apply", &file], 64);
    assert!(told.contains("cluster.toml:2 looks like the line that says the version"), "{told}");

    // One operator changes it; another one, who began with the same version, is told.
    let late = Draft::new();
    let late = late.of(&nodes[2], "[log]\nlevel = \"debug\"\n");
    let first = "[registrar]\nexpires_min = \"10m\"\ndomains = [\"example.com\", \"example.org\"]\n\
                 [on.node2.container]\ncount = 3\n[on.node9.log]\nlevel = \"warn\"\n";
    let file = draft.of(&nodes[0], first);
    let differs = config(&nodes[0], &["diff", &file]);
    assert!(differs.contains("registrar.expires_min: not set → \"10m\""), "{differs}");
    assert!(differs.contains("no member is named node9"), "{differs}");
    let said = config(&nodes[0], &["apply", &file, "--comment", "fewer registrations"]);
    assert!(said.contains("on.node2.container.count: not set → 3"), "{said}");
    assert!(said.contains("version 1 of the cluster's configuration holds"), "{said}");
    for node in ["node1", "node2", "node3"] {
        assert!(said.contains(&format!("{node} (version 0)")), "{said}");
    }
    // What holds already makes no version, with a line more at its end or without.
    let file = draft.of(&nodes[0], "\n");
    for arguments in [["apply", file.as_str()], ["rollback", "1"]] {
        let said = config(&nodes[1], &arguments);
        assert!(said.starts_with("nothing to change"), "{arguments:?}: {said}");
    }
    let told = refused(&nodes[2], &["config", "apply", &late], 1);
    assert!(told.contains("is version 1 by now, and this was made from version 0"), "{told}");
    assert!(told.contains("nothing was changed") && told.contains("config diff"), "{told}");

    // Nobody runs with it yet; who is started again does.
    let behind = "this node runs with version 0, the cluster has version 1";
    for node in &nodes {
        wait_for_standing(node, &[], behind, |lines| lines.len() == 1 && lines[0].contains(behind));
        assert_eq!(containers(node), 2);
    }
    wait_for_standing(&nodes[0], &["--cluster"], "the others to be behind", |lines| {
        let says =
            |node| lines.iter().any(|line| line.contains(&format!("{node} runs with version 0")));
        says("node2") && says("node3")
    });
    for number in 0..3 {
        restarted(&mut nodes, number);
        assert_eq!(containers(&nodes[number]), if number == 1 { 3 } else { 2 }, "node {number}");
        // Its file has other domains, which is without effect.
        let lines = standing(&nodes[number], &[]);
        let is_hidden =
            |line: &String| line.contains("registrar.domains") && line.contains("without effect");
        assert!(lines.len() == 1 && is_hidden(&lines[0]), "{lines:?}");
    }
    let shown = config(&nodes[1], &["show", "--origin"]);
    let origin = "container.count = 3  # the cluster's configuration (version 1):6, for this node";
    assert!(shown.contains(origin), "{shown}");
    assert!(config(&nodes[1], &["check"]).contains("without effect"));
    wait_until_registered(&nodes[0], "alice").await;
    for node in &nodes {
        let told = registers_for(node, 60).await.unwrap_err();
        assert!(matches!(told, PhoneError::Refused { status: 423, .. }), "{told}");
    }

    // A version that one node cannot take: it goes on with what it has, and says so.
    let file = draft.of(&nodes[0], "[[peer]]\nname = \"pbx\"\naddress = \"127.0.0.1:9\"\n");
    assert!(config(&nodes[1], &["apply", &file]).contains("version 2"));
    let node = nodes.remove(2);
    let directory = node.stop();
    let own = directory.path().join("outlast.toml");
    let text = fs::read_to_string(&own).unwrap();
    fs::write(&own, text.replace("name = \"edge1\"", "name = \"pbx\"")).unwrap();
    nodes.push(start(directory));
    assert_eq!(taken(nodes[2].directory()), 1);
    let refusal = "cannot take version 2: the cluster's configuration (version 2):10 peer.name";
    wait_for_standing(&nodes[2], &[], refusal, |lines| lines.iter().any(|it| it.contains(refusal)));
    assert!(nodes[2].log().contains("the node begins with version 1"), "{}", nodes[2].log());

    // All of it is remembered, and can be had back.
    let said = config(&nodes[2], &["rollback", "1"]);
    assert!(said.contains("version 3 of the cluster's configuration holds"), "{said}");
    let history: Value = serde_json::from_str(&config(&nodes[1], &["history", "--json"])).unwrap();
    let told =
        |number: usize, key: &str| history[number][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");
    assert_eq!(
        (told(0, "node"), told(0, "comment")),
        ("node3".to_owned(), "back to version 1".to_owned())
    );
    assert_eq!(
        (told(2, "node"), told(2, "comment")),
        ("node1".to_owned(), "fewer registrations".to_owned())
    );
    assert_eq!(told(0, "text"), told(2, "text"));
    assert!(config(&nodes[0], &["history"]).contains("fewer registrations"));
    let told = refused(&nodes[0], &["config", "rollback", "7"], 1);
    assert!(told.contains("there is no version 7"), "{told}");

    // Most of the repository's members are away: what is known is shown, and nothing can be changed.
    wait_for_standing(&nodes[0], &[], "version 3 to be known", |lines| {
        lines.iter().any(|line| line.contains("the cluster has version 3"))
    });
    for node in &nodes[1..] {
        done(node.directory(), &["stop", "repository"], "");
    }
    let file = draft.write("[log]\nlevel = \"warn\"\n");
    let told = wait::until("changes to be refused", LIMIT, || {
        let output = nodes[0].outlast(&["config", "apply", &file]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(1) { Ok(told) } else { Err(told) }
    });
    assert!(told.contains("changes are refused until it answers"), "{told}");
    let shown = config(&nodes[0], &["show", "--cluster"]);
    assert!(shown.contains("version 3") && shown.contains("[on.node2.container]"), "{shown}");

    // A node that begins while nobody else is there has what its copy has.
    let mut directories: Vec<_> = nodes.into_iter().map(Node::stop).collect();
    let alone = start(directories.swap_remove(1));
    assert_eq!((containers(&alone), taken(alone.directory())), (3, 3));
    let lines = standing(&alone, &[]);
    assert!(lines.iter().all(|line| line.contains("without effect")), "{lines:?}");
    // What it has taken may be damaged: it takes it anew, and says so.
    let directory = alone.stop();
    fs::write(directory.path().join("cluster/configuration.toml"), "[container]\n").unwrap();
    let alone = start(directory);
    assert_eq!((containers(&alone), taken(alone.directory())), (3, 3));
    assert!(alone.shown().contains("does not begin with the line"), "{}", alone.shown());
}
