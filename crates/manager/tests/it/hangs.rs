//! Children that live and do nothing, and a manager that was kept from looking.

use std::thread;
use std::time::{Duration, Instant};

use config::NodeConfig;
use rustix::process::{Pid, Signal, kill_process};
use testbed::pace::Pace;
use topology::ProcessState;

use crate::name;
use crate::node::{Node, config_on_free_ports};

const SILENCE: Duration = Duration::from_millis(600);

/// Interval × (2 misses + 1) is [`SILENCE`].
fn impatient() -> NodeConfig {
    let mut config = config_on_free_ports();
    config.heartbeat.interval = SILENCE / 3;
    config
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_stopped_child_is_announced_as_hung_killed_and_started_again() {
    let node = Node::start(impatient());
    // The other one of each type is told of it, and notes it.
    for (victim, witness) in [("container1", "edge1"), ("edge1", "container1")] {
        let before = node.process(victim);
        let pace = Pace::watch();
        let stopped = Instant::now();
        signal(before.pid.unwrap(), Signal::STOP);
        let told = node.wait_for_note(witness, &format!("{victim} hung"));
        let noticed = told.duration_since(stopped);
        assert!(noticed >= SILENCE / 2, "{victim}: {noticed:?}");
        let bound = SILENCE + pace.end().allows(SILENCE * 2);
        assert!(noticed < bound, "{victim}: {noticed:?}, {bound:?}");
        let after = node.wait_for("its next life", |view| {
            let process = view.process(&name(victim))?;
            (process.state == ProcessState::Ready && process.pid != before.pid)
                .then(|| process.clone())
        });
        assert_eq!(after.restarts, 1, "{victim}");
    }
    node.stop();
}

#[test]
fn nobody_is_killed_because_the_manager_was_kept_from_looking() {
    let node = Node::start(impatient());
    let before = node.status();
    for _ in 0..3 {
        signal(node.manager_pid(), Signal::STOP);
        thread::sleep(SILENCE * 2);
        signal(node.manager_pid(), Signal::CONT);
        // It looks, and looks again.
        thread::sleep(SILENCE);
    }
    assert_eq!(node.status().processes, before.processes);
    node.stop();
}
