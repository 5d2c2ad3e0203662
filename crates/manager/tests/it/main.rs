//! The manager with real processes: this test binary, started again as its child, speaks the protocol.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod applications;
mod cluster;
mod fake_child;
mod hangs;
mod node;
mod repository;
mod revival;
mod stores;

use std::time::{Duration, Instant};

use config::{NodeConfig, RestartSettings};
use node::{Node, config_on_free_ports};
use testbed::pace::Pace;
use topology::protocol::{Answer, Request};
use topology::{ProcessName, ProcessState};

fn name(name: &str) -> ProcessName {
    ProcessName::new(name)
}

#[test]
fn the_node_serves_when_all_children_are_ready_and_tells_real_ports() {
    let node = Node::start(config_on_free_ports());
    let serving = node.serving();
    assert_eq!(serving.edges.len(), 1);
    let (edge, addresses) = &serving.edges[0];
    assert_eq!(edge, "edge1");
    assert!(
        addresses[0].starts_with("udp:127.0.0.1:") && addresses[1].starts_with("tcp:127.0.0.1:")
    );
    assert!(!addresses[0].ends_with(":0"), "{addresses:?}");
    for process in node.status().processes {
        assert_eq!(process.state, ProcessState::Ready, "{process:?}");
    }
    node.stop();
}

#[test]
fn an_edge_is_handed_its_listening_sockets() {
    let node = Node::start(config_on_free_ports());
    let address = node.serving().edges[0].1[0].strip_prefix("udp:").unwrap().to_owned();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"who are you", address).unwrap();
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).expect("the fake edge answers");
    assert_eq!(&answer[..length], b"edge1");
    node.stop();
}

#[test]
fn a_killed_child_is_announced_within_milliseconds_and_comes_back_as_another_incarnation() {
    let node = Node::start(config_on_free_ports());
    let before = node.process("container1");
    let pace = Pace::watch();
    let killed = Instant::now();
    node.kill("container1");
    // The fake edge notes each death that it is told of.
    let told = node.wait_for_note("edge1", "container1 backoff");
    let noticed = told.duration_since(killed);
    let bound = pace.end().allows(Duration::from_millis(500));
    assert!(noticed < bound, "noticed after {noticed:?}, not within {bound:?}");
    let after = node.wait_for("container1 ready again", |view| {
        let process = view.process(&name("container1"))?;
        (process.state == ProcessState::Ready && process.pid != before.pid).then(|| process.clone())
    });
    assert_eq!(after.restarts, 1);
    assert!(after.incarnation > before.incarnation);
    node.stop();
}

#[test]
fn a_child_that_cannot_live_waits_longer_before_each_start() {
    let node = Node::start_without_waiting(config_on_free_ports(), &[("container2", "dies")]);
    let started = Instant::now();
    let restarts = |count: u32| {
        node.wait_for("more restarts", |view| {
            let process = view.process(&name("container2"))?;
            (process.restarts >= count).then_some(())
        });
        started.elapsed()
    };
    restarts(6);
    // 20 + 40 + 80 + 160 + 320 ms lie between the first death and the sixth.
    let elapsed = restarts(6);
    assert!(elapsed >= Duration::from_millis(620), "{elapsed:?}");
    node.stop();
}

#[test]
fn the_delay_before_a_restart_is_configured_and_not_for_a_start_by_hand() {
    let mut config = config_on_free_ports();
    let hour = Duration::from_secs(3600);
    (config.restart.delay_min, config.restart.delay_max) = (hour, hour);
    let node = Node::start(config);
    node.kill("container1");
    let backoff = |view: &topology::TopologyView| {
        let process = view.process(&name("container1"))?;
        (process.state == ProcessState::Backoff).then_some(())
    };
    node.wait_for("its death to be noticed", backoff);
    // Longer than the default.
    let begun = Instant::now();
    while begun.elapsed() < RestartSettings::default().delay_min * 4 {
        assert_eq!(node.process("container1").state, ProcessState::Backoff);
    }
    assert_eq!(node.request(Request::Start { name: name("container1") }), Answer::Done);
    assert_eq!(node.process("container1").state, ProcessState::Ready);
    node.stop();
}

#[test]
fn processes_are_stopped_started_and_restarted_by_hand() {
    let node = Node::start(config_on_free_ports());
    let request = |request| node.request(request);
    assert_eq!(request(Request::Stop { name: name("container1") }), Answer::Done);
    assert_eq!(node.process("container1").state, ProcessState::Down);
    assert_eq!(request(Request::Start { name: name("container1") }), Answer::Done);
    assert_eq!(node.process("container1").state, ProcessState::Ready);
    let before = node.process("edge1");
    assert_eq!(request(Request::Restart { name: name("edge1") }), Answer::Done);
    let after = node.process("edge1");
    assert_ne!(after.pid, before.pid);
    assert_eq!((after.state, after.restarts), (ProcessState::Ready, 0));
    let answer = request(Request::Stop { name: name("edge7") });
    assert!(
        matches!(&answer, Answer::Refused { reason } if reason.contains("edge7")),
        "{answer:?}"
    );
    node.stop();
}

#[test]
fn an_orderly_stop_drains_containers_before_edges_and_leaves_nobody() {
    let node = Node::start(config_on_free_ports());
    let pids: Vec<u32> = node.status().processes.iter().filter_map(|process| process.pid).collect();
    let ended = node.stop();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
    let notes = ended.notes("edge1");
    let stopped = notes.iter().position(|note| note == "told stop").expect("told to stop");
    for container in ["container1 down", "container2 down"] {
        let down = notes.iter().position(|note| note == container);
        assert!(down.is_some_and(|down| down < stopped), "{notes:?}");
    }
}

#[test]
fn a_container_that_does_not_stop_is_killed_at_its_deadline() {
    let mut config = config_on_free_ports();
    config.container.drain_timeout = Duration::from_millis(100);
    let node = Node::start_with(config, &[("container1", "stubborn")]);
    let stopping = Instant::now();
    node.stop();
    let took = stopping.elapsed();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_second_node_on_the_same_directory_is_refused_with_the_holders_pid() {
    let node = Node::start(config_on_free_ports());
    let told = node::refusal(node.directory(), &config_on_free_ports(), &[]);
    assert!(
        told.contains(&format!(
            "another node runs on this directory (pid {})",
            node.guardian_pid()
        )),
        "{told}"
    );
    node.stop();
}

#[test]
fn a_taken_port_is_refused_before_anything_is_started() {
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config: NodeConfig = config_on_free_ports();
    config.edge.instances[0].listen =
        vec![format!("udp:{}", holder.local_addr().unwrap()).parse().unwrap()];
    let directory = tempfile::tempdir().unwrap();
    let told = node::refusal(directory.path(), &config, &[]);
    assert!(told.contains("address in use"), "{told}");
    assert!(!directory.path().join("run/manager.sock").exists());
}

#[test]
fn a_node_comes_up_although_orphans_of_a_killed_manager_hold_its_port_for_a_moment() {
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config_on_free_ports();
    config.edge.instances[0].listen =
        vec![format!("udp:{}", holder.local_addr().unwrap()).parse().unwrap()];
    let orphan = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300)); // the time that it takes to end
        drop(holder);
    });
    let node = Node::start_after_a_kill(config);
    assert_eq!(node.serving().edges.len(), 1);
    orphan.join().unwrap();
    let ended = node.stop();
    assert!(!ended.path().join("run/manager.sock").exists(), "an orderly stop takes it along");
}

#[test]
fn a_stranger_is_not_welcomed_under_a_childs_name() {
    let node = Node::start(config_on_free_ports());
    let hello = topology::protocol::Hello {
        name: name("edge1"),
        process_type: topology::ProcessType::Edge,
        pid: node.process("edge1").pid.unwrap(),
        life: None,
    };
    let error = topology::server::Subscription::connect(&node.socket(), hello).unwrap_err();
    assert!(error.to_string().contains("is not the edge1 that was started"), "{error}");
    node.stop();
}
