//! kill -9 of processes that hold, wait for, or give back the write lock, or that read.
//!
//! The test executable runs itself again as the processes to be killed ([`process`]); what they do stands in an
//! environment variable. A victim kills itself from inside the writing thread, or from another thread a few
//! microseconds after a phase of the lock, so that the kills hit where they are aimed at.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use state::engine::embedded::{
    Durability, EmbeddedStore, LockPhase, LockProbe, Options, TallyVerdict, verify,
};
use state::{Batch, CommitError, Expect, Key, Prefix, Space, Store, StoreError};

const ROLE: &str = "OUTLAST_STATE_TEST_ROLE";
/// More rounds than the default, for long runs by hand.
const ROUNDS: &str = "OUTLAST_STATE_TEST_KILLS";
const ROUNDS_DEFAULT: u32 = 70;
/// Writers that live through all rounds.
const SURVIVORS: usize = 2;
/// Commits that each process has under way at a time.
const LANES: usize = 4;
const GO_ON_WITHIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

const SPACE: Space = Space::named("lanes");
const PHASES: [LockPhase; 5] = [
    LockPhase::Waiting,
    LockPhase::Held,
    LockPhase::Committing,
    LockPhase::Committed,
    LockPhase::Released,
];
/// Between the phase and the kill; none: in the very thread that writes.
const DELAYS_US: [Option<u64>; 6] = [None, Some(0), Some(10), Some(40), Some(120), Some(500)];

/// What a process of this test does.
#[derive(Clone, Debug, PartialEq)]
enum Role {
    /// Commits until killed; `kill` says when it kills itself.
    Writer { directory: PathBuf, durability: Durability, name: String, kill: Option<Kill> },
    /// Reads large pages until killed.
    Reader { directory: PathBuf },
}

/// Which occurrence of a phase, and how long after it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kill {
    phase: usize,
    occurrence: u32,
    delay_us: Option<u64>,
}

impl Role {
    fn spawn(&self) -> Child {
        let text = match self {
            Self::Writer { directory, durability, name, kill } => {
                let durability = match durability {
                    Durability::Relaxed => "relaxed",
                    Durability::EveryCommit => "every-commit",
                };
                let kill = kill.map(|kill| {
                    let delay = kill.delay_us.map_or("at-once".to_owned(), |us| us.to_string());
                    format!("|{}|{}|{delay}", kill.phase, kill.occurrence)
                });
                format!(
                    "writer|{}|{durability}|{name}{}",
                    directory.display(),
                    kill.unwrap_or_default()
                )
            }
            Self::Reader { directory } => format!("reader|{}", directory.display()),
        };
        let executable = std::env::current_exe().expect("the test has an executable");
        let mut command = Command::new(executable);
        command
            .args(["--exact", "kill::process", "--nocapture", "--test-threads=1"])
            .env(ROLE, text);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().expect("the test executable starts again")
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split('|').collect();
        match words[..] {
            ["writer", directory, durability, name, ref kill @ ..] => {
                let durability = match durability {
                    "relaxed" => Durability::Relaxed,
                    "every-commit" => Durability::EveryCommit,
                    _ => return Err("durability"),
                };
                let kill = match *kill {
                    [] => None,
                    [phase, occurrence, delay] => Some(Kill {
                        phase: phase.parse().map_err(|_| "phase")?,
                        occurrence: occurrence.parse().map_err(|_| "occurrence")?,
                        delay_us: delay.parse().ok(),
                    }),
                    _ => return Err("kill"),
                };
                Ok(Self::Writer {
                    directory: directory.into(),
                    durability,
                    name: name.into(),
                    kill,
                })
            }
            ["reader", directory] => Ok(Self::Reader { directory: directory.into() }),
            _ => Err("role"),
        }
    }
}

/// The other processes: does nothing unless this executable was started by a test of this file.
#[test]
fn process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.parse().expect("the parent writes a valid role") {
        Role::Writer { directory, durability, name, kill } => {
            write_for_ever(&directory, durability, &name, kill);
        }
        Role::Reader { directory } => read_for_ever(&directory),
    }
}

fn kill_self() {
    let kill =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    kill.expect("a process may kill itself");
}

/// Calls [`kill_self`] when the planned moment comes.
fn probe(kill: Kill) -> LockProbe {
    let seen = AtomicU32::new(0);
    Arc::new(move |phase| {
        if phase != PHASES[kill.phase]
            || seen.fetch_add(1, Ordering::Relaxed) + 1 != kill.occurrence
        {
            return;
        }
        let Some(delay) = kill.delay_us.map(Duration::from_micros) else { return kill_self() };
        let at = Instant::now() + delay;
        std::thread::spawn(move || {
            while Instant::now() < at {
                std::hint::spin_loop();
            }
            kill_self();
        });
    })
}

fn acknowledged_file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("acknowledged-{name}"))
}

/// Each lane counts up: one batch puts the count under two ids and a log record for it, and only when it is
/// acknowledged is the count written to the file that the parent reads.
fn write_for_ever(directory: &Path, durability: Durability, name: &str, kill: Option<Kill>) {
    let options = Options { durability, lock_probe: kill.map(probe), ..options() };
    let store = EmbeddedStore::open(directory, options).expect("the store opens");
    let acknowledged =
        File::create(acknowledged_file(directory, name)).expect("the file can be created");
    let lane = async |lane: usize| {
        for count in 1u64.. {
            let key = |id: String| Key::new(SPACE, format!("{name}-{lane}"), id);
            let value = count.to_be_bytes().to_vec();
            let batch = Batch::new()
                .put(key("left".into()), Expect::Any, value.clone(), None)
                .put(key(format!("log-{count:08}")), Expect::Absent, value.clone(), None)
                .put(key("right".into()), Expect::Any, value, None);
            store.commit(batch).await.expect("commits succeed");
            acknowledged
                .write_all_at(&count.to_be_bytes(), 8 * lane as u64)
                .expect("the count can be written");
        }
    };
    runtime().block_on(futures_util::future::join_all((0..LANES).map(lane)));
}

fn read_for_ever(directory: &Path) {
    let store = EmbeddedStore::open(directory, options()).expect("the store opens");
    File::create(directory.join(format!("reading-{}", std::process::id())))
        .expect("the file can be created");
    loop {
        runtime()
            .block_on(store.scan(&SPACE, &Prefix::All, None, usize::MAX))
            .expect("scans succeed");
    }
}

fn options() -> Options {
    Options { map_size: 1 << 30, ..Options::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts")
}

/// Ends a child when dropped, so that a failing test leaves none behind.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn acknowledged(directory: &Path, name: &str) -> [u64; LANES] {
    let mut counts = [0; LANES];
    let bytes = std::fs::read(acknowledged_file(directory, name)).unwrap_or_default();
    for (count, bytes) in counts.iter_mut().zip(bytes.chunks_exact(8)) {
        *count = u64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
    }
    counts
}

fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// Every acknowledged commit is there, and no batch is there in part.
fn check_lanes(store: &EmbeddedStore, directory: &Path, name: &str) {
    // Read before the store: what is acknowledged meanwhile only makes the store newer.
    let acknowledged = acknowledged(directory, name);
    for (lane, acknowledged) in acknowledged.into_iter().enumerate() {
        let tag = format!("{name}-{lane}");
        let prefix = Prefix::tag(tag.clone());
        let mut counts = Vec::new();
        let (mut after, mut ends) = (None, Vec::new());
        loop {
            let page = runtime().block_on(store.scan(&SPACE, &prefix, after.as_ref(), 10_000));
            let page = page.expect("scans succeed");
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, record) in page {
                let count = u64::from_be_bytes(record.value[..].try_into().expect("a count"));
                if key.id.starts_with(b"log-") { counts.push(count) } else { ends.push(count) }
            }
        }
        let last = counts.last().copied().unwrap_or(0);
        assert!(last >= acknowledged, "{tag}: {acknowledged} acknowledged, {last} found");
        assert!(counts.into_iter().eq(1..=last), "{tag}: the log has a gap");
        assert!(
            ends == [last, last] || (ends.is_empty() && last == 0),
            "{tag}: torn: {ends:?} after {last}"
        );
    }
}

#[test]
fn killed_writers_neither_strand_others_nor_lose_or_tear_a_commit() {
    kill_writers(Durability::Relaxed, ROUNDS_DEFAULT);
}

/// A kill in the middle of a commit that goes to the disk.
#[test]
fn killed_writers_of_a_store_that_survives_power_loss_do_no_harm_either() {
    kill_writers(Durability::EveryCommit, ROUNDS_DEFAULT / 2);
}

fn kill_writers(durability: Durability, rounds_default: u32) {
    let rounds =
        std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(rounds_default);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let survivor_names: Vec<String> = (0..SURVIVORS).map(|n| format!("survivor{n}")).collect();
    let writer = |name: &str, kill| {
        Role::Writer { directory: directory.into(), durability, name: name.into(), kill }.spawn()
    };
    let survivors: Vec<Process> =
        survivor_names.iter().map(|name| Process(writer(name, None))).collect();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let kill = Kill {
            phase: round as usize % PHASES.len(),
            occurrence: 1 + round % 17,
            delay_us: DELAYS_US[round as usize / PHASES.len() % DELAYS_US.len()],
        };
        let name = format!("victim{round}");
        let mut victim = Process(writer(&name, Some(kill)));
        wait_until(&format!("round {round}: {kill:?} happens"), PATIENCE, || {
            victim.0.try_wait().expect("a child can be waited for").is_some()
        });
        let before: Vec<_> =
            survivor_names.iter().map(|name| acknowledged(directory, name)).collect();
        let went_on = wait_until(
            &format!("the others go on after round {round}, {kill:?}"),
            GO_ON_WITHIN,
            || {
                let now = survivor_names.iter().map(|name| acknowledged(directory, name));
                // Two more: the first one may have been under way already.
                before.iter().zip(now).all(|(before, now)| {
                    before.iter().zip(now).all(|(before, now)| now >= before + 2)
                })
            },
        );
        slowest = slowest.max(went_on);
    }
    drop(survivors); // killed too, at moments nobody chose
    let options = Options { durability, ..options() };
    let store = EmbeddedStore::open(directory, options).expect("the store opens");
    for name in (0..rounds).map(|round| format!("victim{round}")).chain(survivor_names) {
        check_lanes(&store, directory, &name);
    }
    let report = verify(directory).expect("the store can be walked");
    assert!(report.is_sound(), "{report:?}");
    // Kept by every process, killed in the middle of it or not.
    assert_eq!(report.tally, TallyVerdict::Agrees);
    eprintln!("{rounds} kills; the others went on within {slowest:?}; {} records", report.records);
}

#[test]
fn a_killed_reader_does_not_make_the_file_grow() {
    const READERS: usize = 6;
    const COMMITS: usize = 5_000;
    const GROWTH_MAX: u64 = 32 << 20;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = EmbeddedStore::open(directory.path(), options()).expect("the store opens");
    let commit = |batch| match runtime().block_on(store.commit(batch)) {
        Err(CommitError::Store(StoreError::Busy { .. })) | Ok(_) => {}
        Err(error) => panic!("{error}"),
    };
    let key = |n: usize| Key::new(SPACE, "tag", n.to_string());
    for n in 0..3_000 {
        commit(Batch::new().put(key(n), Expect::Any, vec![0; 1_000], None));
    }
    let readers: Vec<Process> = (0..READERS)
        .map(|_| Process(Role::Reader { directory: directory.path().into() }.spawn()))
        .collect();
    for reader in &readers {
        let reading = directory.path().join(format!("reading-{}", reader.0.id()));
        wait_until("a reader reads", PATIENCE, || reading.exists());
    }
    // Killed in the middle of a scan (they do nothing else), some of them at least.
    drop(readers);
    let before = store.file_bytes().expect("the file can be measured");
    for n in 0..COMMITS {
        commit(Batch::new().put(key(n % 3_000), Expect::Any, vec![1; 1_000], None));
    }
    let grown = store.file_bytes().expect("the file can be measured") - before;
    assert!(grown <= GROWTH_MAX, "the file grew by {grown} bytes in {COMMITS} commits");
}
