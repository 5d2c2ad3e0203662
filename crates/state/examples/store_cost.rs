//! Prints the CPU time per put (in a group commit) and per get of the embedded store, in microseconds.
//!
//! `cargo run --release -p state --example store_cost`. All threads of the process count.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use state::engine::embedded::{EmbeddedStore, Options};
use state::{Batch, Expect, Key, Space, Store, UnixMillis};

const RECORDS: usize = 100_000;
/// Commits under way at a time: what a group can take together.
const AT_A_TIME: usize = 64;
const VALUE_BYTES: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = EmbeddedStore::open(directory.path(), Options::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // In no order, as registrations come; the factor shares no divisor with the number of records.
    let key = |n: usize| {
        Key::new(
            Space::named("cost"),
            format!("sip:{}@example.org", n * 7_919 % RECORDS),
            "binding",
        )
    };
    let put_all = |expires_at: UnixMillis| {
        for start in (0..RECORDS).step_by(AT_A_TIME) {
            let commits = (start..RECORDS.min(start + AT_A_TIME)).map(|n| {
                let batch =
                    Batch::new().put(key(n), Expect::Any, vec![7; VALUE_BYTES], Some(expires_at));
                store.commit(batch)
            });
            for outcome in runtime.block_on(futures_util::future::join_all(commits)) {
                outcome.expect("the commit succeeds");
            }
        }
    };
    let far = |hours: u64| UnixMillis(4_000_000_000_000 + hours * 3_600_000);
    report("put, new record", || put_all(far(0)));
    report("put, refresh", || put_all(far(1)));
    report("get", || {
        for n in 0..RECORDS {
            let found = runtime.block_on(store.read(&key(n))).expect("reads succeed");
            assert_eq!(found.map(|record| record.value.len()), Some(VALUE_BYTES));
        }
    });
    let size = |bytes: u64| bytes / RECORDS as u64;
    println!("{:>18}: {} B per record", "file", size(store.file_bytes()?));
    let snapshot = store.snapshot(&directory.path().join("snapshots"), 1)?;
    println!("{:>18}: {} B per record", "snapshot", size(snapshot.metadata()?.len()));
    Ok(())
}

fn report(what: &str, work: impl FnOnce()) {
    let before = cpu();
    work();
    let each = (cpu() - before) / u32::try_from(RECORDS).expect("a small number");
    println!("{what:>18}: {:.2} µs of CPU", each.as_secs_f64() * 1e6);
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}
