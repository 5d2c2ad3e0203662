//! `outlast up` as the operator meets it: killed, started twice, and with nobody who reads what it says.

use std::fs::File;
use std::io::Write as _;

use testbed::node::{Node, NodeOptions, lives};
use testbed::wait;

use crate::command::{done, done_json, refused};
use crate::{LIMIT, directory, node};

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
