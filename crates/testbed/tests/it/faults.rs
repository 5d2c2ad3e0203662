//! Faults of the processes of a node, chosen by a seed, and how soon it serves again.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testbed::node::Node;
use testbed::wait;

use crate::world::DOMAIN;

/// A killed or stopped process serves again within this, or the test fails.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// A small deterministic sequence (xorshift), so that a failing run can be run again by its seed.
pub(crate) struct Sequence(pub(crate) u64);

impl Sequence {
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Process(&'static str),
    Manager,
    Guardian,
}

impl Victim {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Victim::Process(name) => name.trim_end_matches(|digit: char| digit.is_ascii_digit()),
            Victim::Manager => "manager",
            Victim::Guardian => "guardian",
        }
    }

    /// Hits it and waits until everything serves again.
    pub(crate) fn strike(self, node: &mut Node, signal: Signal) {
        match self {
            Victim::Process(name) => {
                let before = node.process(name);
                send(before.pid.expect("everything serves"), signal);
                wait::until("the process to be replaced", BACK_LIMIT, || {
                    let process = node.process(name);
                    if process.restarts > before.restarts { Ok(()) } else { Err(process) }
                });
            }
            Victim::Manager => {
                let pid = node.manager_pid();
                send(pid, signal);
                node.wait_for_manager_after(pid);
            }
            Victim::Guardian => {
                node.kill_guardian();
                node.up_again();
            }
        }
        wait::until("everything to serve", BACK_LIMIT, || {
            let status = node.status();
            match status.processes.iter().all(|process| process.state == "ready") {
                true => Ok(()),
                false => Err(status),
            }
        });
    }
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it runs");
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// By whom it met and what was done: how long after each time everything served again.
pub(crate) type Hits = BTreeMap<(&'static str, &'static str), Vec<Duration>>;

/// Each kind of victim and of fault, as a table.
pub(crate) fn table(hits: &Hits) -> String {
    let mut text =
        "| process | fault | times | back, median | back, longest |\n|---|---|---|---|---|\n"
            .to_owned();
    for ((kind, way), backs) in hits {
        let mut backs = backs.clone();
        backs.sort_unstable();
        let (median, longest) = (backs[backs.len() / 2], backs[backs.len() - 1]);
        let (times, median, longest) = (backs.len(), median.as_millis(), longest.as_millis());
        writeln!(text, "| {kind} | {way} | {times} | {median} ms | {longest} ms |")
            .expect("a String takes it all");
    }
    text
}

/// Those of a crowd's users whose bindings a node does not know.
pub(crate) fn lost_bindings(node: &Node, users: std::ops::Range<usize>) -> Vec<usize> {
    let there: HashSet<String> = node
        .registrations()
        .iter()
        .filter_map(|binding| binding["aor"].as_str().map(str::to_owned))
        .collect();
    users.filter(|user| !there.contains(&format!("sip:user{user}@{DOMAIN}"))).collect()
}
