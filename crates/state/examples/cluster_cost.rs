//! Prints the CPU time per operation of the cluster engine, of the client (all threads of this process) and of the servers
//! (three primaries and a replica each, on this machine), in microseconds: puts one at a time and 64 at a time, gets the
//! same, a list of all; and what a record takes of a primary's memory.
//!
//! `cargo run --release -p state --example cluster_cost`. It starts the servers itself.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, WriteQuota};
use state::{Batch, Expect, Key, Prefix, Space, Store, UnixMillis};

#[path = "../tests/it/cluster/servers.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod servers;

use servers::{PRIMARIES, Plan, Servers};

const RECORDS: usize = 30_000;
const VALUE_BYTES: usize = 200;
/// Of those one at a time.
const ALONE: usize = 3_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = Servers::start(&Plan { replicas: 1, ..Plan::default() });
    let options = Options {
        seeds: servers.seeds(),
        quota: WriteQuota { copies: 1, below: BelowQuota::Refuse, own_host_counts: true },
        ..Options::default()
    };
    let store = ClusterStore::connect(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    assert!(runtime.block_on(store.is_ready_within(Duration::from_secs(10))));
    let bench = Bench { servers, store, runtime };
    let before = bench.memory();
    bench.report("put, new, 64 at a time", RECORDS, bench.puts(0, RECORDS, 64, 0));
    println!("memory: {} B per record and primary", (bench.memory() - before) / RECORDS);
    bench.report("put, refresh, 64 at a time", RECORDS, bench.puts(0, RECORDS, 64, 1));
    bench.report("put, refresh, 1 at a time", ALONE, bench.puts(0, ALONE, 1, 2));
    bench.report("get, 64 at a time", RECORDS, bench.gets(RECORDS, 64));
    bench.report("get, 1 at a time", ALONE, bench.gets(ALONE, 1));
    bench.report("list, pages of 1,000", RECORDS, bench.list());
    Ok(())
}

struct Bench {
    servers: Servers,
    store: ClusterStore,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn key(n: usize) -> Key {
        Key::new(
            Space::named("cost"),
            format!("sip:{}@example.org", n * 7_919 % RECORDS),
            "binding",
        )
    }

    async fn puts(&self, from: usize, to: usize, at_a_time: usize, hours: u64) {
        let expires_at = UnixMillis(4_000_000_000_000 + hours * 3_600_000);
        for start in (from..to).step_by(at_a_time) {
            let batches = (start..to.min(start + at_a_time)).map(|n| {
                Batch::new().put(Self::key(n), Expect::Any, vec![7; VALUE_BYTES], Some(expires_at))
            });
            for outcome in self.store.commit_all(batches.collect()).await {
                outcome.expect("the commit succeeds");
            }
        }
    }

    async fn gets(&self, to: usize, at_a_time: usize) {
        for start in (0..to).step_by(at_a_time) {
            let keys: Vec<_> = (start..to.min(start + at_a_time)).map(Self::key).collect();
            for found in join_all(keys.iter().map(|key| self.store.read(key))).await {
                assert!(found.expect("reads succeed").is_some());
            }
        }
    }

    async fn list(&self) {
        let (mut listed, mut after) = (0, None);
        while listed < RECORDS {
            let space = Space::named("cost");
            let page = self.store.scan(&space, &Prefix::All, after.as_ref(), 1_000).await;
            let page = page.expect("scans succeed");
            listed += page.len();
            after = page.last().map(|(key, _)| key.clone());
        }
    }

    /// Runs something that does so many operations, and prints what one of them took.
    fn report(&self, what: &str, operations: usize, work: impl Future<Output = ()>) {
        let began = Instant::now();
        let before = (cpu(), self.cpu_of(0..PRIMARIES), self.cpu_of(PRIMARIES..2 * PRIMARIES));
        self.runtime.block_on(work);
        let after = (cpu(), self.cpu_of(0..PRIMARIES), self.cpu_of(PRIMARIES..2 * PRIMARIES));
        let each = |before: Duration, after: Duration| {
            (after.saturating_sub(before)).as_secs_f64() * 1e6 / operations as f64
        };
        println!(
            "{what:>27}: client {:6.2} µs, primary {:6.2} µs, replica {:6.2} µs; {:6.1} µs of time",
            each(before.0, after.0),
            each(before.1, after.1),
            each(before.2, after.2),
            each(Duration::ZERO, began.elapsed()),
        );
    }

    /// What servers have used, by their own account.
    fn cpu_of(&self, which: std::ops::Range<usize>) -> Duration {
        let used = |server: &servers::Server| {
            let info = server.info("cpu").expect("the server answers");
            let field = |name: &str| {
                let value = info.lines().find_map(|line| line.strip_prefix(name));
                value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
            };
            Duration::from_secs_f64(field("used_cpu_user:") + field("used_cpu_sys:"))
        };
        self.servers.nodes[which].iter().map(used).sum()
    }

    /// What the data of all primaries takes.
    fn memory(&self) -> usize {
        let used = |server: &servers::Server| {
            let info = server.info("memory").expect("the server answers");
            let dataset = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
            let all = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
            let number = |value: Option<&str>| {
                value.and_then(|value| value.trim().parse::<usize>().ok()).unwrap_or_default()
            };
            number(dataset).max(number(all))
        };
        self.servers.nodes[..PRIMARIES].iter().map(used).sum()
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}
