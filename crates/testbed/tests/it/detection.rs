//! What the manager does about a process that hangs: it is shown, killed and started again, in the time that the
//! heartbeats allow; one that keeps the others from the store, much sooner.

use std::time::{Duration, Instant};

use phone::LineTransport;
use rustix::process::{Pid, Signal, kill_process};
use testbed::node::{Node, ProcessStatus};
use testbed::pace::Pace;
use testbed::{crowd, wait};

use crate::world::{self, DOMAIN};

/// 500 ms × 3: the silence after which a process counts as hung.
const SILENCE: Duration = Duration::from_millis(1_500);
/// A heartbeat may just have gone out, and whoever asks is a process of its own.
const GRACE: Duration = Duration::from_millis(1_000);
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for the next life of a process, and gives the moment.
fn ready_again(node: &Node, before: &ProcessStatus) -> Instant {
    let name = &before.name;
    wait::until(&format!("{name} to be ready again"), LIMIT, || match node.process(name) {
        now if now.state == "ready" && now.pid != before.pid => Ok(Instant::now()),
        now => Err(now),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_and_a_stopped_edge_are_killed_and_come_back() {
    let node = world::node_of(&world::open_config(1, ""));
    for name in ["container1", "edge1"] {
        let before = node.process(name);
        let pace = Pace::watch();
        let stopped = Instant::now();
        node.signal(name, Signal::STOP);
        let hung = wait::until("its end", LIMIT, || match node.process(name) {
            now if now.state == "ready" && now.pid == before.pid => Err(now),
            _ => Ok(Instant::now()),
        });
        let noticed = hung.duration_since(stopped);
        let back = ready_again(&node, &before).duration_since(stopped);
        println!("{name} stopped: noticed after {noticed:?}, ready again after {back:?}");
        let bound = SILENCE + pace.end().allows(GRACE);
        assert!(noticed < bound, "{noticed:?}, not within {bound:?}");
        assert!(noticed > SILENCE / 2, "{noticed:?}: it was given no time");
        let log = node.log();
        let killed = |line: &str| line.contains("no sign of life") && line.contains(name);
        assert!(log.lines().any(killed), "{log}");
        assert_eq!(node.process(name).restarts, 1);
    }
    world::registered_openly(&node, "alice", LineTransport::Udp).await;
    node.stop();
}

/// Stops a container at a moment at which it holds the store's write lock, whose file names the holder.
fn stop_with_the_lock(node: &Node, name: &str) -> Instant {
    let pid = node.process(name).pid.expect("it runs");
    let process = Pid::from_raw(pid).expect("a process id");
    let lock = node.directory().join("state").join("write.lock");
    let deadline = Instant::now() + LIMIT;
    loop {
        let stopped = Instant::now();
        kill_process(process, Signal::STOP).expect("it runs");
        wait::until("it to be stopped", LIMIT, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            if stat.rsplit(") ").next().unwrap().starts_with('T') { Ok(()) } else { Err(stat) }
        });
        let holder = std::fs::read_to_string(&lock).unwrap();
        if holder.split(' ').next() == Some(pid.to_string().as_str()) {
            return stopped;
        }
        kill_process(process, Signal::CONT).expect("it runs");
        assert!(Instant::now() < deadline, "never with the lock: {holder}");
        std::thread::sleep(Duration::from_millis(3)); // it has to get on in between
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_stopped_with_the_stores_lock_holds_up_the_others_for_less_than_a_second() {
    const USERS: usize = 60;
    let node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let before = node.process("container1");
    let storm = tokio::spawn(crowd::register(edge, DOMAIN, 0..30_000, 1, 3_600));
    let pace = Pace::watch();
    let stopped = tokio::task::block_in_place(|| stop_with_the_lock(&node, "container1"));
    // Users of both containers: those of the stopped one are offered to the other when it is killed.
    let outcome = crowd::register(edge, DOMAIN, 100_000..100_000 + USERS, 1, 3_600).await;
    let took = stopped.elapsed();
    println!("{USERS} users registered {took:?} after the holder of the lock was stopped");
    assert_eq!(outcome.registered, USERS, "{outcome:?}");
    // The storm goes on all the while, and takes its share of the machine.
    let bound = pace.end().allows(Duration::from_secs(1));
    assert!(took < bound, "{took:?}, not within {bound:?}");
    let back = ready_again(&node, &before).duration_since(stopped);
    println!("and it was ready again after {back:?}");
    let log = node.log();
    assert!(log.contains("store's write lock"), "{log}");
    assert_eq!(node.process("container1").restarts, 1);
    assert_eq!(node.process("container2").restarts, 0);
    storm.abort();
}
