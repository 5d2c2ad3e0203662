//! Guardian and manager are killed and stopped: the node goes on, with the same processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testbed::pace::Pace;
use topology::protocol::{Answer, Hello, Life, NodeStatus, Request};
use topology::server::{ManagerError, Subscription};
use topology::{Incarnation, ProcessState, ProcessType};

use crate::name;
use crate::node::{self, Node, config_on_free_ports, lives, until};

/// Each process's id, life, state and count of restarts.
type Lives = BTreeMap<String, (Option<u32>, Incarnation, ProcessState, u32)>;

fn lives_of(status: &NodeStatus) -> Lives {
    let life = |process: &topology::ProcessEntry| {
        let life = (process.pid, process.incarnation, process.state, process.restarts);
        (process.name.to_string(), life)
    };
    status.view.processes.iter().map(life).collect()
}

/// Asks the edge's first UDP address who is there.
fn edge_answers(node: &Node) {
    let address = node.serving().edges[0].1[0].strip_prefix("udp:").unwrap().to_owned();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"who are you", address).unwrap();
    let length = socket.recv(&mut [0; 64]).expect("the fake edge answers");
    assert_eq!(length, "edge1".len());
}

fn note_count(node: &Node, name: &str) -> usize {
    let notes = fs::read_to_string(node.directory().join(format!("{name}.notes")));
    notes.unwrap_or_default().lines().count()
}

/// Waits until every process has said so itself that it is there.
fn wait_for_all(node: &Node) {
    node.wait_for_shown(3, "has come back");
}

#[test]
fn a_killed_manager_is_followed_by_another_and_nobody_else_notices() {
    let node = Node::start(config_on_free_ports());
    let before = node.node_status();
    let pid = node.kill_manager();
    edge_answers(&node);
    let after = node.wait_for_manager_after(pid);
    assert_eq!(lives_of(&after), lives_of(&before));
    assert!(
        after.view.version > before.view.version,
        "who has seen the old one believes the new one"
    );
    assert_eq!(after.manager.unwrap().restarts, 1);
    assert_eq!(after.guardian.unwrap().pid, node.guardian_pid());
    wait_for_all(&node);
    assert_eq!(lives_of(&node.node_status()), lives_of(&before));
    assert_eq!(note_count(&node, "before_start"), 1);
    // Whom another one started is watched and commanded like any other.
    node.kill("container1");
    node.wait_for("container1 again", |view| {
        let process = view.process(&name("container1"))?;
        (process.state == ProcessState::Ready && process.restarts == 1).then_some(())
    });
    assert_eq!(node.request(Request::Restart { name: name("edge1") }), Answer::Done);
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_stopped_manager_is_killed_and_followed_by_another() {
    let node = Node::start(config_on_free_ports());
    let before = node.node_status();
    let pid = node.manager_pid();
    node::signal(pid, Signal::STOP);
    until("its end", || (!lives(pid)).then_some(()));
    let after = node.wait_for_manager_after(pid);
    assert_eq!(lives_of(&after), lives_of(&before));
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_node_goes_on_without_guardian_and_the_next_one_takes_over() {
    let mut node = Node::start(config_on_free_ports());
    let before = node.node_status();
    let serving = node.serving();
    node.kill_guardian();
    let alone = until("the manager to notice", || {
        let status = node.node_status();
        status.guardian.is_none().then_some(status)
    });
    assert_eq!(lives_of(&alone), lives_of(&before));
    edge_answers(&node);
    node.guard_again();
    node.awaits_serving();
    assert_eq!(node.serving(), serving, "the same ports");
    let after = node.node_status();
    assert_eq!(after.manager, before.manager, "the same manager");
    assert_eq!(lives_of(&after), lives_of(&before));
    // The new guardian has the sockets too.
    let pid = node.kill_manager();
    assert_eq!(lives_of(&node.wait_for_manager_after(pid)), lives_of(&before));
    edge_answers(&node);
    node.stop();
}

#[test]
fn after_the_death_of_guardian_and_manager_the_next_ones_take_over_what_lives() {
    let mut node = Node::start(config_on_free_ports());
    let before = node.node_status();
    let serving = node.serving();
    node.kill_guardian();
    node.kill_manager();
    edge_answers(&node);
    node.guard_again();
    node.awaits_serving();
    assert_eq!(node.serving(), serving, "the same ports");
    assert_eq!(lives_of(&node.node_status()), lives_of(&before));
    assert_eq!(note_count(&node, "before_start"), 1, "not for a node that runs");
    wait_for_all(&node);
    // The edge brought its sockets, and they are the next edge's, with what waits in them.
    let edge = node.process("edge1").pid.unwrap();
    node::signal(edge, Signal::KILL);
    until("its end", || (!lives(edge)).then_some(()));
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_guardian_that_dies_before_its_manager_runs_needs_no_more_than_one_other() {
    let mut node = Node::start_hidden(config_on_free_ports(), &[("manager", "waits for its turn")]);
    until("the first", || (note_count(&node, "welcomed") == 1).then_some(()));
    node.kill_guardian();
    node.guard_again();
    // The next guardian has looked for a manager, found none that runs, and started one.
    until("the next one", || (note_count(&node, "welcomed") == 2).then_some(()));
    fs::write(node.directory().join("turn1"), "").unwrap();
    let lock = node.directory().join("run/manager.lock");
    until("the first to run", || {
        fs::metadata(&lock).is_ok_and(|lock| lock.len() > 0).then_some(())
    });
    fs::write(node.directory().join("turn2"), "").unwrap();
    node.awaits_serving();
    assert_eq!(node.node_status().guardian.unwrap().pid, node.guardian_pid());
    assert_eq!(note_count(&node, "before_start"), 1);
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_manager_that_was_stopped_before_it_wrote_who_it_is_is_in_nobodys_way() {
    let mut node = Node::start(config_on_free_ports());
    node.kill_guardian();
    node.kill_manager();
    // What such a manager leaves: the lock, with the last one's name in the file.
    let mut holder = Stranger(node.stopped_manager());
    node.guard_again();
    node.awaits_serving();
    assert!(holder.0.try_wait().unwrap().is_some(), "it was killed");
    node.stop();
}

#[test]
fn a_manager_that_took_the_lock_after_the_guardian_looked_is_in_nobodys_way() {
    let node = Node::start_hidden(config_on_free_ports(), &[("manager", "waits for its turn")]);
    until("the first", || (note_count(&node, "welcomed") == 1).then_some(()));
    let mut holder = Stranger(node.stopped_manager());
    for turn in ["turn1", "turn2"] {
        fs::write(node.directory().join(turn), "").unwrap();
    }
    node.awaits_serving();
    assert!(holder.0.try_wait().unwrap().is_some(), "it was killed");
    node.stop();
}

#[test]
fn a_stranger_that_holds_the_managers_lock_is_told_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("run")).unwrap();
    let lock = directory.path().join("run/manager.lock");
    let held = directory.path().join("held");
    let mut stranger = Command::new("flock");
    stranger
        .arg("--no-fork")
        .arg(&lock)
        .args(["sh", "-c", r#"touch "$0"; exec sleep 600"#])
        .arg(&held);
    let mut stranger = Stranger(stranger.stdin(Stdio::null()).spawn().unwrap());
    until("the lock to be held", || held.exists().then_some(()));
    let error = node::refusal(directory.path(), &config_on_free_ports(), &[]);
    let told = format!("is held by process {} (sleep), which is no manager", stranger.0.id());
    assert!(error.contains(&told), "{error}");
    assert_eq!(stranger.0.try_wait().unwrap(), None, "it lives");
}

#[test]
fn a_child_that_died_meanwhile_is_started_again() {
    let mut node = Node::start(config_on_free_ports());
    let before = node.node_status();
    node.kill_guardian();
    node.kill_manager();
    let dead = before.view.process(&name("container1")).unwrap().pid.unwrap();
    node::signal(dead, Signal::KILL);
    until("its end", || (!lives(dead)).then_some(()));
    node.guard_again();
    node.awaits_serving();
    let (before, after) = (lives_of(&before), lives_of(&node.node_status()));
    let (was, is) = (before["container1"], after["container1"]);
    assert!(is.0 != was.0 && is.1 > was.1, "{is:?}");
    assert_eq!((is.2, is.3), (ProcessState::Ready, 1));
    assert_eq!((after["container2"], after["edge1"]), (before["container2"], before["edge1"]));
    node.stop();
}

#[test]
fn a_child_that_hangs_when_its_manager_dies_is_found_by_the_next_one() {
    let mut config = config_on_free_ports();
    config.heartbeat.interval = Duration::from_millis(100);
    let node = Node::start(config);
    let before = node.process("container1");
    node::signal(before.pid.unwrap(), Signal::STOP);
    let pid = node.kill_manager();
    node.wait_for_manager_after(pid);
    node.wait_for("container1 again", |view| {
        let process = view.process(&name("container1"))?;
        (process.state == ProcessState::Ready && process.pid != before.pid).then_some(())
    });
    assert_eq!(node.process("container2").restarts, 0);
    node.stop();
}

/// A process that has nothing to do with the node.
struct Stranger(Child);

impl Stranger {
    fn start() -> Stranger {
        let mut sleep = Command::new("sleep");
        Stranger(sleep.arg("600").stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_process_that_got_a_dead_ones_id_is_left_alone() {
    let mut node = Node::start(config_on_free_ports());
    let pid = node.process("container1").pid.unwrap();
    node.kill_guardian();
    node.kill_manager();
    node::signal(pid, Signal::KILL);
    let mut stranger = Stranger::start();
    let record = node.directory().join("run/processes.json");
    let text = fs::read_to_string(&record).unwrap();
    let id = stranger.0.id();
    let text = text.replace(&format!("\"pid\":{pid},"), &format!("\"pid\":{id},"));
    assert!(text.contains(&format!("\"pid\":{id},\"start_time\"")), "{text}");
    fs::write(&record, text).unwrap();
    node.guard_again();
    node.awaits_serving();
    let after = node.process("container1");
    assert!(after.pid != Some(id) && after.pid != Some(pid), "{after:?}");
    assert_eq!(stranger.0.try_wait().unwrap(), None, "it lives");
    node.stop();
    assert_eq!(stranger.0.try_wait().unwrap(), None, "it lives");
}

#[test]
fn processes_that_nobody_knows_any_more_end_and_leave_their_ports() {
    let mut config = config_on_free_ports();
    config.edge.instances[0].listen =
        vec![format!("127.0.0.1:{}", node::free_port()).parse().unwrap()];
    let mut node = Node::start(config);
    let pids: Vec<u32> = node.status().processes.iter().filter_map(|process| process.pid).collect();
    node.kill_guardian();
    node.kill_manager();
    fs::write(node.directory().join("run/processes.json"), "half a rec").unwrap();
    node.guard_again();
    node.awaits_serving();
    for pid in pids {
        assert!(!lives(pid), "{pid} lives");
    }
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_manager_that_dies_during_the_nodes_stop_is_followed_by_one_that_goes_on_with_it() {
    let mut config = config_on_free_ports();
    config.container.drain_timeout = Duration::from_secs(2);
    let node = Node::start_with(config, &[("container1", "stubborn")]);
    let pids: Vec<u32> = node.status().processes.iter().filter_map(|process| process.pid).collect();
    node::signal(node.guardian_pid(), Signal::TERM);
    node.wait_for_note("container1", "told drain");
    node.kill_manager();
    let ended = node.ends();
    for pid in pids {
        assert!(!lives(pid), "{pid} lives");
    }
    let hooks = fs::read_to_string(ended.path().join("after_stop.notes")).unwrap();
    assert_eq!(hooks.lines().count(), 1);
    assert!(!ended.path().join("run/manager.sock").exists());
    assert!(!ended.path().join("run/processes.json").exists());
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let mut config = config_on_free_ports();
    config.container.drain_timeout = Duration::from_secs(600);
    let node = Node::start_with(config, &[("container1", "stubborn")]);
    node::signal(node.guardian_pid(), Signal::TERM);
    node.wait_for_note("container1", "told drain");
    node::signal(node.guardian_pid(), Signal::INT);
    node.ends();
}

#[test]
fn a_manager_without_guardian_stops_the_node_when_it_is_told_itself() {
    let mut node = Node::start(config_on_free_ports());
    let pids: Vec<u32> = node.status().processes.iter().filter_map(|process| process.pid).collect();
    let manager = node.manager_pid();
    node.kill_guardian();
    node::signal(manager, Signal::TERM);
    until("everybody's end", || {
        pids.iter().chain([&manager]).all(|pid| !lives(*pid)).then_some(())
    });
}

#[test]
fn a_hook_that_fails_is_told_by_the_guardian() {
    let directory = tempfile::tempdir().unwrap();
    let behaviours = [("before_start", "fails")];
    let told = node::refusal(directory.path(), &config_on_free_ports(), &behaviours);
    assert_eq!(told, "the hook fails\n");
}

#[test]
fn a_node_that_is_about_to_start_is_stopped_without_waiting_for_it() {
    let node = Node::start_hidden(config_on_free_ports(), &[("before_start", "takes long")]);
    until("the hook", || (note_count(&node, "before_start") == 1).then_some(()));
    // Longer than a manager that is watched may be silent.
    thread::sleep(Duration::from_millis(900));
    assert_eq!(note_count(&node, "before_start"), 1, "nobody took it for dead");
    node::signal(node.guardian_pid(), Signal::TERM);
    let ended = node.ends();
    assert!(!ended.path().join("after_stop.notes").exists());
}

#[test]
fn a_signal_to_guardian_and_manager_both_is_one_wish() {
    let mut config = config_on_free_ports();
    config.container.drain_timeout = Duration::from_secs(1);
    let node = Node::start_with(config, &[("container1", "stubborn")]);
    // As a service manager does it that signals every process of a service.
    node::signal(node.manager_pid(), Signal::TERM);
    node.wait_for_note("container1", "told drain");
    let ended = node.stop();
    let notes = ended.notes("container1");
    assert!(notes.contains(&"told stop".to_owned()), "killed before its deadline: {notes:?}");
}

#[test]
fn a_guardian_that_finds_a_node_being_stopped_starts_it_again() {
    let mut config = config_on_free_ports();
    config.container.drain_timeout = Duration::from_millis(500);
    let mut node = Node::start_with(config, &[("container1", "stubborn")]);
    let before = node.node_status();
    node::signal(node.guardian_pid(), Signal::TERM);
    node.wait_for_note("container1", "told drain");
    node.kill_guardian();
    node.guard_again();
    node.awaits_serving();
    let after = node.node_status();
    assert_ne!(after.manager.unwrap().pid, before.manager.unwrap().pid, "the other one stopped");
    assert!(after.view.processes.iter().all(|process| process.state == ProcessState::Ready));
    edge_answers(&node);
    node.stop();
}

#[test]
fn a_stranger_that_claims_a_life_is_refused() {
    let node = Node::start(config_on_free_ports());
    let edge = node.process("edge1");
    let hello = Hello {
        name: name("edge1"),
        process_type: ProcessType::Edge,
        pid: edge.pid.unwrap(),
        life: Some(Life {
            incarnation: edge.incarnation,
            state: ProcessState::Ready,
            sockets: Vec::new(),
        }),
    };
    let error = Subscription::connect(&node.socket(), hello).unwrap_err();
    assert!(matches!(error, ManagerError::Refused(_)), "{error}");
    edge_answers(&node);
    node.stop();
}

#[test]
fn what_the_manager_says_reaches_the_guardian() {
    let node = Node::start(config_on_free_ports());
    node.wait_for_shown(1, "a line of the manager");
    node.stop();
}

/// `OUTLAST_MEASURE=20 cargo test -p manager --test it -- --nocapture how_long`: how long after its end or stop another
/// manager answers.
#[test]
fn how_long_a_node_is_without_a_manager() {
    let times = std::env::var("OUTLAST_MEASURE").ok().and_then(|times| times.parse().ok());
    let times = times.unwrap_or(3);
    let node = Node::start(config_on_free_ports());
    for signal in [Signal::KILL, Signal::STOP] {
        let pace = Pace::watch();
        let mut took: Vec<Duration> = (0..times)
            .map(|_| {
                // Deaths closer than this put each other off.
                thread::sleep(Duration::from_millis(700));
                let pid = node.manager_pid();
                let begun = Instant::now();
                node::signal(pid, signal);
                // Who asks a stopped one waits until it is killed.
                node.wait_for_manager_after(pid);
                begun.elapsed()
            })
            .collect();
        took.sort_unstable();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{signal:?}: median {median:?}, worst {worst:?} of {times}");
        assert!(median < pace.end().allows(Duration::from_secs(1)), "{took:?}");
    }
    node.stop();
}
