//! Prints the CPU time per put (in a group commit) and per get of the embedded store, that of a get of 64 KiB and of asking
//! for the last commit (what a copy could be checked by), and that of the 256 short scans by which a container finds what a
//! dead one owned, in microseconds.
//!
//! `cargo run --release -p state --example store_cost`. All threads of the process count.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use state::engine::embedded::{EmbeddedStore, Options};
use state::{Batch, Expect, Key, Prefix, Space, Store, UnixMillis};

const RECORDS: usize = 100_000;
/// Commits under way at a time: what a group can take together.
const AT_A_TIME: usize = 64;
const VALUE_BYTES: usize = 200;
const LONG_VALUE_BYTES: usize = 64 * 1024;

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
    let long = Key::new(Space::named("cost"), "long", "value");
    let put = Batch::new().put(long.clone(), Expect::Any, vec![7; LONG_VALUE_BYTES], None);
    runtime.block_on(store.commit(put))?;
    report("get of 64 KiB", || {
        for _ in 0..RECORDS {
            let found = runtime.block_on(store.read(&long)).expect("reads succeed");
            assert_eq!(found.map(|record| record.value.len()), Some(LONG_VALUE_BYTES));
        }
    });
    report("last commit", || assert!((0..RECORDS).all(|_| store.last_commit().is_some())));
    estate(&store, &runtime);
    let size = |bytes: u64| bytes / RECORDS as u64;
    println!("{:>18}: {} B per record", "file", size(store.file_bytes()?));
    let snapshot = store.snapshot(&directory.path().join("snapshots"), 1)?;
    println!("{:>18}: {} B per record", "snapshot", size(snapshot.metadata()?.len()));
    Ok(())
}

/// As many index records as there are others, of ten owners, in 256 tags; then what one of them owned.
fn estate(store: &EmbeddedStore, runtime: &tokio::runtime::Runtime) {
    const OWNERS: usize = 10;
    let space = Space::named("owned");
    let owner = |n: usize| (n as u64).to_be_bytes();
    report("put, of an index", || {
        for start in (0..RECORDS).step_by(AT_A_TIME) {
            let commits = (start..RECORDS.min(start + AT_A_TIME)).map(|n| {
                let id = [&owner(n % OWNERS)[..], &(n as u128).to_le_bytes()].concat();
                let key = Key::new(space.clone(), vec![(n % 251) as u8], id);
                store.commit(Batch::new().put(key, Expect::Absent, [0; 8].to_vec(), None))
            });
            for outcome in runtime.block_on(futures_util::future::join_all(commits)) {
                outcome.expect("the commit succeeds");
            }
        }
    });
    for (what, one) in [("of nobody's", owner(OWNERS)), ("of 10,000 records", owner(0))] {
        let before = cpu();
        let mut found = 0;
        for tag in 0..=255_u8 {
            let prefix = Prefix::Tag { tag: [tag].to_vec().into(), id_start: one.to_vec().into() };
            let page = runtime.block_on(store.scan(&space, &prefix, None, usize::MAX));
            found += page.expect("scans succeed").len();
        }
        let all = (cpu() - before).as_secs_f64() * 1e6;
        println!("256 scans {what}: {all:.0} µs of CPU in all, {found} found");
    }
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
