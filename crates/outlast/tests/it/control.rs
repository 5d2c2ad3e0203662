//! `outlast status`, `start`, `stop` and `restart`, and processes that end without being told to.

use serde_json::Value;
use testbed::node::lives;

use crate::command::{done, done_json, refused};
use crate::node;

#[test]
fn status_lists_every_process() {
    let node = node();
    let status = node.status();
    assert_eq!(status.node, "node1");
    let shown: Vec<_> = status
        .processes
        .iter()
        .map(|process| {
            let texts = (&*process.name, &*process.process_type, &*process.state);
            (texts, process.restarts, process.pid.is_some())
        })
        .collect();
    // The order is what an operator sees.
    let expected = [
        (("container1", "container", "ready"), 0, true),
        (("container2", "container", "ready"), 0, true),
        (("edge1", "edge", "ready"), 0, true),
    ];
    assert_eq!(shown, expected);
    assert!(done(node.directory(), &["status"], "").contains("container2  container  ready"));
    node.stop();
}

#[test]
fn an_orderly_stop_leaves_nobody() {
    let node = node();
    let mut pids = node.pids();
    pids.push(node.manager_pid());
    assert_eq!(pids.len(), 4);
    let directory = node.stop();
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
    for left in ["manager.sock", "guardian.sock", "processes.json"] {
        assert!(!directory.path().join("run").join(left).exists(), "{left}");
    }
}

#[test]
fn a_killed_process_is_restarted_and_counted() {
    let node = node();
    for name in ["edge1", "container1"] {
        node.kill_and_wait_ready(name);
        assert_eq!(node.process(name).restarts, 1, "{name}");
    }
    assert_eq!(node.process("container2").restarts, 0);
    node.stop();
}

#[test]
fn a_command_waits_for_the_manager_that_follows_a_killed_one() {
    let node = node();
    let path = node.directory();
    for command in [&["status"][..], &["keys", "show"], &["stop", "container2"]] {
        let before = node.kill_manager();
        done(path, command, "");
        assert_ne!(node.manager_pid(), before);
    }
    assert_eq!(node.process("container2").state, "down");
    node.stop();
}

#[test]
fn processes_are_stopped_started_and_restarted_by_name() {
    let node = node();
    let path = node.directory();
    done(path, &["stop", "container2"], "");
    let status = done_json(path, &["status", "--json"]);
    let container2 = &status["processes"][1];
    assert_eq!((&container2["name"], &container2["state"]), (&"container2".into(), &"down".into()));
    assert_eq!(container2["pid"], Value::Null);
    done(path, &["start", "container2"], "");
    assert_eq!(node.process("container2").state, "ready");
    for name in ["edge1", "container2"] {
        let before = node.process(name);
        done(path, &["restart", name], "");
        let after = node.process(name);
        // A restart on an operator's word is no failure, so it is not counted.
        assert_eq!((&*after.state, after.restarts), ("ready", 0), "{name}");
        assert_ne!(after.pid, before.pid, "{name}");
    }
    let error = refused(path, &["stop", "edge9"], "", 1);
    assert!(
        error.contains("no process is named edge9; this node has container1, container2, edge1"),
        "{error}"
    );
    node.stop();
}
