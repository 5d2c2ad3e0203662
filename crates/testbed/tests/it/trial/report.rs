//! What came of a trial, as `docs/reports/trial.md` tells it.

use std::time::Duration;

use super::AWAY;
use super::load::{Losses, Size};
use crate::faults::{Hits, table};
use crate::kills::report::{machine, repository};

/// What came of it.
pub(super) struct Report<'t> {
    /// Which nodes.
    pub(super) what: &'t str,
    pub(super) commit: String,
    pub(super) seed: u64,
    pub(super) size: Size,
    pub(super) took: Duration,
    pub(super) hits: Hits,
    pub(super) losses: &'t Losses,
}

impl Report<'_> {
    /// Writes the document anew.
    pub(super) fn write(&self) {
        let path = repository().join("docs/reports/trial.md");
        std::fs::write(path, self.document()).expect("the repository is writable");
    }

    fn document(&self) -> String {
        let Report { what, commit, seed, size, took, hits, losses } = self;
        let faults: usize = hits.values().map(Vec::len).sum();
        let Size { bindings, calls_per_second, sessions } = size;
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let away = AWAY.as_secs_f32();
        format!(
            "# {faults} faults to {what}\n\n\
             Written by `crates/testbed/tests/it/trial.rs`; do not edit it by hand.\n\n    \
             OUTLAST_TRIAL_FAULTS={faults} OUTLAST_TRIAL_BINDINGS={bindings} \
             OUTLAST_TRIAL_CALLS={calls_per_second} \\\n        \
             OUTLAST_SEED={seed} OUTLAST_WRITE_DOCS=1 cargo test {profile}-p testbed --test it trial::\n\n\
             Hosts are network namespaces of one machine. The load: {bindings} bindings, {calls_per_second} calls a \
             second over UDP, each held for 0.8 s,\nand writes by HTTP to {sessions} sessions in turn. One fault after \
             the other, the next when all serve again; a host is away for {away} s.\n*Back* is the time until every \
             process of every node served again, from the fault, or from its end if a host was away. An acknowledged \
             write is lost\nwhen a later answer of its session does not count it.\n\n\
             Commit {commit}, seed {seed}, {build} build, {} min {} s, {}.\n\n{}\n{losses}",
            took.as_secs() / 60,
            took.as_secs() % 60,
            machine(),
            table(hits),
        )
    }
}
