//! `outlast up` as the operator meets it: killed, started twice, and with nobody who reads what it says.

use std::fs::File;
use std::io::Write as _;

use rustix::process::{Pid, Signal, kill_process};
use testbed::node::{Node, NodeOptions, lives, outlast_in};
use testbed::wait;

use crate::command::{done, done_json, refused};
use crate::{LIMIT, directory, node};

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn status_tells_guardian_and_manager() {
    let mut node = node();
    let status = node.status();
    assert_eq!(status.guardian.map(|guardian| guardian.pid), Some(node.guardian_pid()));
    assert_eq!(status.manager.restarts, 0);
    node.kill_guardian();
    wait::until("the manager to notice", LIMIT, || {
        match done_json(node.directory(), &["status", "--json"]).get("guardian") {
            None => Ok(()),
            Some(guardian) => Err(guardian.clone()),
        }
    });
    assert!(done(node.directory(), &["status"], "").contains("without guardian"));
}

#[test]
fn after_a_kill_up_takes_over_what_runs_and_two_of_them_never_do() {
    let mut node = node();
    let (before, sip) = (node.status(), node.sip_addresses("udp"));
    node.kill_guardian();
    node.up_again();
    let after = node.status();
    assert_eq!(after.manager.pid, before.manager.pid);
    assert_eq!(node.sip_addresses("udp"), sip);
    for (now, then) in after.processes.iter().zip(&before.processes) {
        assert_eq!((now.pid, now.restarts, &*now.state), (then.pid, 0, "ready"), "{}", now.name);
    }
    let error = refused(node.directory(), &["up"], "", 1);
    let holder = format!("another node runs on this directory (pid {}", node.guardian_pid());
    assert!(error.contains(&holder), "{error}");
    node.stop();
}

#[test]
fn a_node_without_guardian_and_manager_is_told_as_what_it_is() {
    let mut node = node();
    let before = node.status();
    let pid = |name: &str| {
        let process = before.processes.iter().find(|process| process.name == name).unwrap();
        process.pid.unwrap()
    };
    node.kill_guardian();
    node.kill_manager();
    send(pid("container2"), Signal::KILL);
    wait::until("its end", LIMIT, || if lives(pid("container2")) { Err(()) } else { Ok(()) });

    let output = outlast_in(node.directory(), &["status"], b"");
    let shown = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    assert!(shown.contains("without guardian and manager"), "{shown}");
    let of = |name| shown.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(of("container1").contains(&pid("container1").to_string()), "{shown}");
    assert!(of("container2").contains("down"), "{shown}");
    assert!(of("edge1").contains(&node.sip("udp").to_string()), "{shown}");
    let next = format!("outlast up --dir {}", node.directory().display());
    assert!(told.contains(&next) && told.contains("container1 (pid"), "{told}");
    assert!(!told.contains("container2"), "{told}");

    let output = outlast_in(node.directory(), &["status", "--json"], b"");
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(status.get("manager").is_none() && status.get("guardian").is_none(), "{status}");
    assert_eq!(status["processes"].as_array().unwrap().len(), 3, "{status}");
    let told = refused(node.directory(), &["stop", "edge1"], "", 70);
    assert!(told.contains(&next), "{told}");

    node.up_again();
    assert_eq!(node.process("container1").pid, Some(pid("container1")));
    node.stop();
}

#[test]
fn a_manager_that_hangs_without_a_guardian_is_not_waited_for() {
    let mut node = node();
    let manager = node.manager_pid();
    node.kill_guardian();
    send(manager, Signal::STOP);
    let output = outlast_in(node.directory(), &["status"], b"");
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    node.up_again();
    assert_ne!(node.manager_pid(), manager);
    node.stop();
}

#[test]
fn a_node_that_comes_up_is_not_said_to_be_down() {
    let mut node = node();
    // Nobody revives the manager as long as the guardian stands still.
    send(node.guardian_pid(), Signal::STOP);
    node.kill_manager();
    let told = refused(node.directory(), &["status"], "", 69);
    let guardian = format!("its guardian (pid {}) runs", node.guardian_pid());
    assert!(told.contains(&guardian) && told.contains("log/manager.log"), "{told}");
    send(node.guardian_pid(), Signal::CONT);
    node.kill_guardian();
}

#[test]
fn a_changed_configuration_waits_for_a_stop_and_that_is_said() {
    let text = "[[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n";
    let options = NodeOptions { config: Some(text.to_owned()), arguments: Vec::new() };
    let mut node = Node::start(&options);
    node.kill_guardian();
    let text = format!("{text}[heartbeat]\ninterval = \"250ms\"\n");
    std::fs::write(node.directory().join("outlast.toml"), text).unwrap();
    node.up_again();
    wait::until("it to be said", LIMIT, || {
        let shown = node.shown();
        if shown.contains("runs with the old one") { Ok(()) } else { Err(shown) }
    });
    node.stop();
}

#[test]
fn nobody_who_reads_stderr_holds_up_nothing() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Full to the brim; `up` gets the same pipe.
    let full = writer.try_clone().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    drop(writer);
    let options = NodeOptions::default();
    let node = Node::start_with_stderr(directory(), &options, std::os::fd::OwnedFd::from(full));
    node.kill_and_wait_ready("container1");
    let manager = node.kill_manager();
    node.wait_for_manager_after(manager);
    // Now nobody ever will read.
    drop(reader);
    node.kill_and_wait_ready("container1");
    let pids = node.pids();
    node.stop();
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
}

#[test]
fn an_error_is_not_held_up_by_a_full_pipe() {
    let node = node();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut up = std::process::Command::new(testbed::binary::outlast())
        .args(["up", "--dir"])
        .arg(node.directory())
        .stdin(std::process::Stdio::null())
        .stdout(File::create("/dev/null").unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let status = wait::until("its end", LIMIT, || up.try_wait().unwrap().ok_or("still there"));
    assert_eq!(status.code(), Some(1));
    node.stop();
}
