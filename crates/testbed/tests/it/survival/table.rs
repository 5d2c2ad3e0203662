//! `docs/what-survives-what.md`: the rows as a table for whoever runs a node.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::rows::Row;

/// Set: the document is written anew with what this run measured.
const WRITE: &str = "OUTLAST_WRITE_DOCS";

const HEAD: &str = "\
# What survives what

Written by the tests of `crates/testbed/tests/it/survival.rs`, which do each fault to a real node and count; do not edit it by
hand. Each cell is a test (`cargo test -p testbed --test it survival::`), and fails when anything is lost.

    apps/build b2bua && OUTLAST_APPS=$PWD/target/apps OUTLAST_WRITE_DOCS=1 cargo test -p testbed --test it survival

While a fault comes, 1,000 and some bindings are there, direct calls and calls with an application session (through a native
back-to-back agent, and through the sample application `b2bua` in WebAssembly) are established, and as many of each are
ringing. Afterwards each established call is changed by both sides (re-INVITE) and hung up, each ringing one is answered and hung up,
each phone registers again; the callee must have rung once, with CSeq and tags in order.
The times are those of one run of a debug build on two cores with other tests beside it: *noticed* is when those who depend on the
failed process acted, *back* when every process served again; *promised* is the bound that the tests hold (plus half a second, and
more where a thread beside the test found the machine slower than an idle one).

| fault | bindings | direct calls | session calls | WebAssembly calls | calls being set up | noticed | promised | back |
|---|---|---|---|---|---|---|---|---|
";

/// Compares the document with the rows, or writes it.
pub(super) fn check_or_write(rows: &[&Row]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/what-survives-what.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, document(rows)).expect("the repository is writable");
        return;
    }
    let written = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; set {WRITE}=1 once", path.display()));
    assert!(written.starts_with(HEAD), "the head differs: set {WRITE}=1 once");
    for row in rows {
        let is_told = written.lines().any(|line| line.starts_with(&format!("| {} |", row.fault)));
        assert!(is_told, "no row for \"{}\": set {WRITE}=1 once", row.fault);
    }
}

fn document(rows: &[&Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        let told = row.get();
        let survivors = &told.survivors;
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.fault,
            survivors.bindings,
            survivors.direct_calls,
            survivors.session_calls,
            survivors.guest_calls,
            survivors.set_ups,
            shown(told.times.noticed),
            shown(row.promise),
            shown(told.times.back),
        )
        .expect("a String takes it all");
    }
    text
}

fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..10_000 => format!("{millis} ms"),
        millis => format!("{} s", millis / 1_000),
    }
}
