//! What came of many kills, as `docs/reports/kills.md` and `docs/reports/kills-webassembly.md` tell it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::calls::Tally;
use super::{Agent, SERVES_FOR, USERS};
use crate::faults::{Hits, table};

/// What came of it.
pub(super) struct Report<'t> {
    pub(super) agent: Agent,
    /// See [`commit`].
    pub(super) commit: String,
    pub(super) seed: u64,
    pub(super) took: Duration,
    pub(super) hits: Hits,
    pub(super) tally: &'t Tally,
    pub(super) bindings_lost: usize,
}

impl Report<'_> {
    /// Writes the document anew.
    pub(super) fn write(&self) {
        let directory = repository().join("docs/reports");
        std::fs::create_dir_all(&directory).expect("the repository is writable");
        let name = match self.agent {
            Agent::Native => "kills.md",
            Agent::Guest => "kills-webassembly.md",
        };
        std::fs::write(directory.join(name), self.document()).expect("the repository is writable");
    }

    fn document(&self) -> String {
        let kills: usize = self.hits.values().map(Vec::len).sum();
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        let (test, agent) = match self.agent {
            Agent::Native => ("random_kills_lose_no_call_and_no_binding", "back-to-back agent"),
            Agent::Guest => (
                "random_kills_lose_no_call_through_a_guest",
                "sample application `b2bua` (WebAssembly, a fresh instance for each event)",
            ),
        };
        let rate = self.agent.pairs() / 2;
        let (seed, calls) = (self.seed, self.tally.whole + self.tally.losses.len());
        format!(
            "# {kills} kills\n\n\
             Written by `crates/testbed/tests/it/kills.rs`; do not edit it by hand.\n\n    \
             OUTLAST_KILLS={kills} OUTLAST_SEED={seed} OUTLAST_WRITE_DOCS=1 \\\n        \
             cargo test {profile}-p testbed --test it {test}\n\n\
             One node (two edges, two containers, the embedded store, durability and heartbeats as by default) with \
             10,000 bindings and\n{rate} calls a second over UDP, every second one through the {agent}.\nOne \
             process after the other is killed (SIGKILL) or stopped (SIGSTOP), chosen at random, the next one when all \
             serve again,\nnone twice within {} s. A call counts when it rang once, was answered and was hung up, with \
             CSeq and tags in order\non both sides. *Back* is the time until every process served again.\n\n\
             Commit {}, seed {seed}, {} build, {}.\n\n{}\n\
             | in {} min {} s | |\n|---|---|\n\
             | calls | {calls} |\n\
             | calls lost | {} |\n\
             | bindings lost of {USERS} | {} |\n",
            SERVES_FOR.as_secs_f32(),
            self.commit,
            if cfg!(debug_assertions) { "debug" } else { "release" },
            machine(),
            table(&self.hits),
            self.took.as_secs() / 60,
            self.took.as_secs() % 60,
            self.tally.losses.len(),
            self.bindings_lost,
        )
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The commit that is checked out, with a word if the sources differ from it.
pub(crate) fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(repository());
    let said = git.output().ok().filter(|output| output.status.success());
    said.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// Processors, memory and kernel, and how busy it was at the end.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown".to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "{processors} cores ({model}), {} GB, Linux {}, load {} at the end",
        kilobytes >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        load.join(" ")
    )
}
