//! Versions side by side, and an upgrade that goes through the containers while calls are up and processes die.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use rustix::process::Signal;
use testbed::binary;
use testbed::node::outlast_in;

use super::*;
use crate::http::guests::write_desk;

/// A running `outlast app upgrade … --json`; killed with its value.
struct Upgrade {
    command: Child,
    steps: Receiver<Value>,
}

impl Upgrade {
    fn start(node: &Node, path: &Path) -> Upgrade {
        let mut command = Command::new(binary::outlast())
            .args(["app", "upgrade", text(path), "--json", "--dir"])
            .arg(node.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the outlast binary starts");
        let stdout = BufReader::new(command.stdout.take().expect("stdout is piped"));
        let (sender, steps) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let step = serde_json::from_str(&line).expect("each line is JSON");
                if sender.send(step).is_err() {
                    return;
                }
            }
        });
        Upgrade { command, steps }
    }

    /// Waits until that container begins sessions with the new version, and is watched.
    fn until_switched(&self, container: &str) {
        loop {
            let step = self.steps.recv_timeout(world::LIMIT).expect("another step");
            if step["step"] == "switched" && step["container"] == container {
                return;
            }
        }
    }

    /// Its exit code, and what it said in the end.
    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = self.command.stderr.take().expect("it is piped");
        wait::until("the upgrade's end", world::LIMIT, || {
            self.command.try_wait().expect("our child").ok_or("it still runs")
        });
        let code = self.command.wait().expect("our child").code();
        (code, std::io::read_to_string(&mut stderr).expect("stderr is text"))
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
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
    println!("{said}");
    assert!(said.contains("gate 1.2.0") && said.contains("handlers failed"), "{said}");
    let log = node.process_log("container1");
    let trapped: Vec<&str> = log.lines().filter(|line| line.contains("fall_over")).collect();
    assert!(!trapped.is_empty() && said.contains("log/container1.log"), "where it trapped: {log}");
    println!("{}", trapped[0]);
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

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_old_version_end_on_the_old_one_whichever_container_has_them() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let second = application(sources.path(), "1.1.0", &Handler::Holds(204));
    done(&node, &["deploy", text(&first)]);
    let mut old = Vec::new();
    for _ in 0..8 {
        old.push(held(&caller).await);
    }
    done(&node, &["upgrade", text(&second)]);
    let mut new = held(&caller).await;
    assert_eq!(asked(&mut new).await, 204);
    for call in &mut old {
        assert_eq!(asked(call).await, 202);
    }
    // Whoever takes them over knows their version too, also when nobody has it in memory.
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    for mut call in old {
        assert_eq!(asked(&mut call).await, 202);
        call.hang_up().await.unwrap();
    }
    assert_eq!(asked(&mut new).await, 204);
    let listed = node.outlast(&["sessions", "--application", "gate@1.1.0", "--json"]);
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    new.hang_up().await.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_container_that_is_killed_takes_the_upgrade_back_and_another_one_does_not() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let second = application(sources.path(), "1.1.0", &Handler::Holds(204));
    let third = application(sources.path(), "1.2.0", &Handler::Holds(209));
    done(&node, &["deploy", text(&first)]);
    let mut old = held(&caller).await;

    let upgrade = Upgrade::start(&node, &second);
    upgrade.until_switched("container1");
    node.signal("container1", Signal::KILL);
    let (code, said) = upgrade.end();
    assert_eq!(code, Some(71), "{said}");
    assert!(said.contains("container1 ended") && said.contains("outlast app list"), "{said}");
    until_both_have(&node, "1.0.0");
    assert_eq!(asked(&mut old).await, 202);
    let mut new = held(&caller).await;
    assert_eq!(asked(&mut new).await, 202, "new ones begin as before");

    let upgrade = Upgrade::start(&node, &third);
    upgrade.until_switched("container1");
    node.signal("container2", Signal::KILL);
    let (code, said) = upgrade.end();
    assert_eq!(code, Some(0), "{said}");
    until_both_have(&node, "1.2.0");
    for mut call in [old, new] {
        assert_eq!(asked(&mut call).await, 202);
        call.hang_up().await.unwrap();
    }
    let mut new = held(&caller).await;
    assert_eq!(asked(&mut new).await, 209, "whichever container it is");
    new.hang_up().await.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_whose_manager_dies_is_taken_back_by_the_next_one() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    let second = application(sources.path(), "1.1.0", &Handler::Holds(204));
    done(&node, &["deploy", text(&first)]);
    let upgrade = Upgrade::start(&node, &second);
    upgrade.until_switched("container1");
    let before = node.kill_manager();
    let (code, said) = upgrade.end();
    println!("{said}");
    assert_eq!(code, Some(1), "nobody knows what became of it: {said}");
    node.wait_for_manager_after(before);
    until_both_have(&node, "1.0.0");
    assert_eq!(list(&node)[0]["current"], "1.0.0");
    for _ in 0..4 {
        let mut call = held(&caller).await;
        assert_eq!(asked(&mut call).await, 202);
        call.hang_up().await.unwrap();
    }
    done(&node, &["upgrade", "gate@1.1.0"]);
    let mut call = held(&caller).await;
    assert_eq!(asked(&mut call).await, 204);
    call.hang_up().await.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_drains_leaves_its_calls_to_the_others() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, ""));
    let caller = phone(&node).await;
    let first = application(sources.path(), "1.0.0", &Handler::Holds(202));
    done(&node, &["deploy", text(&first)]);
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(held(&caller).await);
    }
    let drained = node.outlast(&["drain", "container1", "--deadline", "2s"]);
    assert!(drained.status.success(), "{drained:?}");
    assert_eq!(node.process("container1").state, "down");
    for call in &mut calls {
        assert_eq!(asked(call).await, 202);
    }
    let mut new = held(&caller).await;
    assert_eq!(asked(&mut new).await, 202);
    for call in calls.into_iter().chain([new]) {
        call.hang_up().await.unwrap();
    }
    node.stop();
}

#[test]
fn a_version_that_does_not_answer_well_by_http_is_taken_back() {
    let sources = tempfile::tempdir().unwrap();
    let node = world::node_of(&world::open_config(1, "[container]\nhttp = \"127.0.0.1:0\"\n"));
    let directory = write_desk(sources.path(), DOMAIN);
    let manifest = directory.join("outlast-app.toml");
    let first = fs::read_to_string(&manifest).unwrap();
    done(&node, &["deploy", text(&directory)]);
    // `desk` counts at `n`, and traps at `x`.
    let is = |version: &str, path: &str| {
        let health = format!(
            "[health]\nwatch = \"500ms\"\nfailures_percent_max = 100\nhttp_path = \"{path}\"\n"
        );
        fs::write(&manifest, first.replace("1.0.0", version) + &health).unwrap();
    };
    is("1.1.0", "/desk/x");
    let said = refused(&node, &["upgrade", text(&directory)], 71);
    let expected = "container1 is not well: GET /desk/x was answered 500, and not 2xx";
    assert!(said.contains(expected), "{said}");
    assert_eq!(list(&node)[0]["current"], "1.0.0");
    is("1.2.0", "/desk/n");
    let said = done(&node, &["upgrade", text(&directory)]);
    assert!(said.contains("container2 is well"), "{said}");
    assert_eq!(list(&node)[0]["current"], "1.2.0");
    node.stop();
}
