//! `outlast up`: how a node comes up, and what it says when it cannot.

use std::fs::File;
use std::io::Read as _;
use std::net::UdpSocket;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use testbed::node::{Node, NodeOptions};

use crate::command::refused;
use crate::{directory, node};

#[test]
fn the_ready_line_tells_the_addresses() {
    let node = node();
    let port = node.sip("udp").port();
    let start = format!("outlast ready sip=udp:127.0.0.1:{port},tcp:127.0.0.1:{port}");
    assert!(port != 0 && node.ready_line().starts_with(&start), "{}", node.ready_line());
    node.stop();
}

#[test]
fn a_node_is_ready_in_under_a_second() {
    let mut times: Vec<Duration> = (0..5).map(|_| node().ready_after()).collect();
    times.sort_unstable();
    println!("from start to ready line: {times:?}");
    // The median: one start on a busy machine may take longer.
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
}

#[test]
fn the_node_starts_on_a_terminal_too_and_sends_it_no_escapes() {
    let (mut person, program) = terminal();
    let options = NodeOptions::arguments(&["--sip", "127.0.0.1:0"]);
    Node::start_with_stderr(directory(), &options, program).stop();
    let mut shown = Vec::new();
    // Ends with EIO when nobody has the other end open any more.
    let _ = person.read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("stopped") && !shown.contains('\u{1b}'), "{shown}");
}

/// A terminal's two ends: what a person would see, and what a program writes to.
fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
    let program = File::options().read(true).write(true).open(name).unwrap();
    (File::from(person), program)
}

#[test]
fn what_cannot_come_up_says_why_and_what_to_do() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let first_try = directory();
    let error = refused(first_try.path(), &["up", "--sip", &taken], "", 1);
    assert!(
        error.contains(&taken) && error.contains("address in use") && error.contains("ss -lntup"),
        "{error}"
    );

    assert!(!first_try.path().join("outlast.toml").exists(), "what did not work is not kept");

    let error = refused(directory().path(), &["up", "--sip", "5060"], "", 2);
    assert!(error.contains("0.0.0.0:5060"), "{error}");

    let error = refused(directory().path(), &["up", "--domain", "not a domain"], "", 2);
    assert!(error.contains("not a domain") && error.contains("example.com"), "{error}");

    // Not an address of this machine (RFC 5737); the system's reason is told once.
    let error = refused(directory().path(), &["up", "--sip", "203.0.113.7:5060"], "", 1);
    assert_eq!(error.matches("Cannot assign").count(), 1, "{error}");
}

#[test]
fn an_unusable_directory_is_named() {
    let up = ["up", "--sip", "127.0.0.1:0"];
    let long = directory();
    let error = refused(&long.path().join("d".repeat(100)), &up, "", 1);
    assert!(error.contains("at most 107") && error.contains("shorter --dir"), "{error}");

    // A file in the directory's place: unusable for root as well, whom permissions do not stop.
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), &file.path().join("node")] {
        let error = refused(path, &up, "", 1);
        assert!(error.contains(path.to_str().unwrap()) && error.contains("--dir"), "{error}");
    }
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let node = node();
    let holder = format!("another node runs on this directory (pid {}", node.guardian_pid());
    for arguments in [["up"].as_slice(), &["up", "--sip", "127.0.0.1:0"]] {
        let error = refused(node.directory(), arguments, "", 1);
        assert!(error.contains(&holder), "{error}");
    }
    assert_eq!(node.pids().len(), 3, "the first one goes on");
    node.stop();
}

#[test]
fn after_the_loss_of_power_the_state_is_verified_and_damage_is_told() {
    let directory = node().stop();
    let note = directory.path().join("state/running-boot");
    assert!(!note.exists(), "an orderly stop is no loss of power");

    std::fs::write(&note, "another boot").unwrap();
    let node = Node::start_in(directory, &NodeOptions::arguments(&[]));
    assert!(node.log().contains("the state is sound"), "{}", node.log());
    let directory = node.stop();

    std::fs::write(&note, "another boot").unwrap();
    let file = directory.path().join("state/data.mdb");
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    let error = refused(directory.path(), &["up"], "", 1);
    assert!(error.contains("no sound snapshot") && error.contains("mv "), "{error}");
}
