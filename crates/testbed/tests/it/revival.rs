//! Manager and guardian are killed and stopped under phones that register and call: nobody notices.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use phone::LineTransport;
use rustix::process::{Pid, Signal, kill_process};
use sip::Message;
use testbed::node::{Node, NodeOptions, lives};
use testbed::wait;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::hangs::{Callee, GRACE, Stopped, everybody_calls, everybody_registers, register};
use crate::world;

const CALLERS: usize = 8;
const USERS: usize = 200;

/// Who runs, as which process, restarted how often.
fn lives_of(node: &Node) -> Vec<(String, Option<i32>, String, u64)> {
    let processes = node.status().processes.into_iter();
    processes.map(|process| (process.name, process.pid, process.state, process.restarts)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_and_containers_have_no_huge_pages_unless_the_operator_wants_them() {
    let options = NodeOptions::default();
    for (environment, enabled) in [(&[][..], "0"), (&[("MIMALLOC_ALLOW_THP", "1")][..], "1")] {
        let node = Node::start_with_environment(&options, environment);
        for process in node.status().processes {
            let pid = process.pid.expect("everybody runs");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let found = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
            assert_eq!(found.map(str::trim), Some(enabled), "{}", process.name);
        }
    }
}

async fn callers(node: &Node) -> Vec<phone::Phone> {
    let mut phones = Vec::new();
    for number in 0..CALLERS {
        let user = format!("caller{number}");
        phones.push(world::registered_openly(node, &user, LineTransport::Udp).await);
    }
    phones
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_killed_or_stopped_costs_no_call_and_no_registration() {
    let node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let callee = Callee::register(edge).await;
    let mut phones = callers(&node).await;
    let before = lives_of(&node);
    for (round, signal) in [Signal::KILL, Signal::STOP].into_iter().enumerate() {
        let manager = node.manager_pid();
        let users = round * USERS..(round + 1) * USERS;
        (phones, ()) = tokio::join!(everybody_calls(phones, GRACE), async {
            kill_process(Pid::from_raw(manager).unwrap(), signal).unwrap();
            everybody_registers(edge, users, GRACE).await;
        });
        let status = tokio::task::block_in_place(|| node.wait_for_manager_after(manager));
        assert_eq!(status.manager.restarts, round as u64 + 1);
        assert_eq!(lives_of(&node), before, "{signal:?}");
    }
    everybody_calls(phones, GRACE).await;
    assert_eq!(callee.rang_again(), Vec::new());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardian_killed_with_its_manager_costs_no_call_and_no_registration() {
    let mut node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let callee = Callee::register(edge).await;
    let phones = callers(&node).await;
    let (before, ready_line) = (lives_of(&node), node.ready_line().to_owned());
    let manager = node.manager_pid();
    node.kill_guardian();
    kill_process(Pid::from_raw(manager).unwrap(), Signal::KILL).unwrap();
    let (phones, ()) =
        tokio::join!(everybody_calls(phones, GRACE), everybody_registers(edge, 0..USERS, GRACE));
    let (phones, ()) = tokio::join!(everybody_calls(phones, GRACE), async {
        tokio::task::block_in_place(|| node.up_again());
    });
    let without_pid = |line: &str| line.rsplit_once(" pid=").map(|(rest, _)| rest.to_owned());
    assert_eq!(without_pid(node.ready_line()), without_pid(&ready_line), "the same addresses");
    assert_eq!(lives_of(&node), before);
    everybody_calls(phones, GRACE).await;
    assert_eq!(callee.rang_again(), Vec::new());
    assert_eq!(node.registrations().len(), USERS + CALLERS + 1);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_sent_while_edge_and_manager_are_dead_are_answered_by_the_next_edge() {
    // What a default receive buffer holds.
    const DATAGRAMS: usize = 60;
    let node = world::node_of(&world::open_config(1, ""));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(node.sip("udp")).await.unwrap();
    let local = socket.local_addr().unwrap();
    let pids = [node.process("edge1").pid.unwrap(), node.manager_pid()];
    // The guardian sleeps, so that they stay dead until everything is sent.
    let guardian = Stopped::stop(node.guardian_pid());
    for pid in pids {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        wait::until("its end", Duration::from_secs(5), || {
            if lives(pid) { Err("it lives") } else { Ok(()) }
        });
    }
    for number in 0..DATAGRAMS {
        socket.send(register(&format!("late{number}"), local).as_bytes()).await.unwrap();
    }
    drop(guardian);

    let mut answered = HashSet::new();
    let mut buffer = vec![0; 65_535];
    while answered.len() < DATAGRAMS {
        let length = match timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await {
            Ok(length) => length.unwrap(),
            Err(_) => panic!("{} of {DATAGRAMS} were answered", answered.len()),
        };
        let answer = Message::parse(Bytes::copy_from_slice(&buffer[..length])).unwrap();
        assert_eq!(answer.status(), Some(200));
        answered.insert(answer.call_id().unwrap().to_vec());
    }
    node.stop();
}
