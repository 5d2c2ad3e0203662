//! The loss of power, simulated: of the pages that were written and not synced, any subset is on the disk.
//!
//! A store is filled and synced, its file copied, and written to further; a file is then put together of pages of
//! both, page by page by a seed, the meta pages too, as a kernel may have written them. A child process
//! verifies it as a node does after an unclean boot. It must end, and when it says sound, the records must be exactly
//! what *one* commit left that is not older than the sync.
//!
//! `OUTLAST_STATE_TEST_POWER_LOSSES=N` runs N seeds; `OUTLAST_STATE_TEST_POWER_LOSS_SEED=S` runs one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use state::engine::embedded::{EmbeddedStore, Options, verify_and_rewrite};
use state::{Batch, Expect, Key, Prefix, Space, Store, UnixMillis};

const CHILD: &str = "OUTLAST_STATE_TEST_VERIFY";
const SEEDS: &str = "OUTLAST_STATE_TEST_POWER_LOSSES";
const ONE_SEED: &str = "OUTLAST_STATE_TEST_POWER_LOSS_SEED";
const SEEDS_DEFAULT: u64 = 300;
/// What the child says by its exit code.
const SOUND: i32 = 0;
const DAMAGED: i32 = 3;
/// A verification of this size takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

const SPACE: Space = Space::named("bindings");
const PAGE_BYTES: usize = 4_096;

/// Every record, by its id.
type State = BTreeMap<String, Vec<u8>>;

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The child: does nothing unless a test of this file started it.
#[test]
fn verifying_process() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let code = match verify_and_rewrite(Path::new(&directory)) {
        Ok(report) if report.is_sound() => SOUND,
        Ok(_) | Err(_) => DAMAGED,
    };
    std::process::exit(code);
}

fn verify_in_a_child(directory: &Path) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().expect("the test has an executable"))
        .args(["--exact", "power_loss::verifying_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test executable starts again");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our child can be waited for") {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().expect("our child can be killed");
            child.wait().expect("our child can be waited for");
            panic!("the verification hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn options() -> Options {
    Options { map_size: 1 << 30, ..Options::default() }
}

/// One commit: a few puts and deletes, some values longer than a page.
async fn change(store: &EmbeddedStore, random: &mut Random, state: &mut State) {
    let tag = format!("user{}", random.below(60));
    let mut batch = Batch::new();
    let mut ids = Vec::new();
    for _ in 0..=random.below(6) {
        let id = format!("{tag}/{}", random.below(8));
        if ids.contains(&id) {
            continue;
        }
        let key = Key::new(SPACE, tag.clone(), id.clone());
        if random.below(4) == 0 {
            batch = batch.delete(key, Expect::Any);
            state.remove(&id);
        } else {
            let length = if random.below(12) == 0 { 6_000 } else { 20 + random.below(400) };
            let octet = random.next() as u8;
            let value = vec![octet; usize::try_from(length).expect("lengths are small")];
            // Far away, so that nothing expires while the test runs.
            let until =
                (random.below(2) == 0).then_some(UnixMillis(u64::MAX / 2 + random.below(9)));
            batch = batch.put(key, Expect::Any, value.clone(), until);
            state.insert(id.clone(), value);
        }
        ids.push(id);
    }
    store.commit(batch).await.expect("the commit succeeds");
}

async fn records(store: &EmbeddedStore) -> State {
    let mut all = State::new();
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&SPACE, &Prefix::All, after.as_ref(), 500).await;
        let page = page.expect("a sound store can be scanned");
        let Some((last, _)) = page.last() else { return all };
        after = Some(last.clone());
        for (key, record) in page {
            let read = store.read(&key).await.expect("a sound store can be read");
            assert_eq!(read.as_ref(), Some(&record), "{key} is found by its key too");
            let id = String::from_utf8(key.id.to_vec()).expect("ids are text");
            all.insert(id, record.value.to_vec());
        }
    }
}

/// The file at the last sync, the file at the loss of power, and the state after each commit since the sync.
struct Loss {
    synced: Vec<u8>,
    written: Vec<u8>,
    states: Vec<State>,
}

async fn lose_power(home: &Path, random: &mut Random) -> Loss {
    let directory = home.join("running");
    let file = directory.join("data.mdb");
    let mut state = State::new();
    let store = EmbeddedStore::open(&directory, options()).expect("the store opens");
    for _ in 0..random.below(120) {
        change(&store, random, &mut state).await;
    }
    store.sync().expect("the store syncs");
    let synced = std::fs::read(&file).expect("the file can be read");
    let mut states = vec![state.clone()];
    for _ in 0..random.below(40) {
        change(&store, random, &mut state).await;
        states.push(state.clone());
    }
    let written = std::fs::read(&file).expect("the file can be read");
    Loss { synced, written, states }
}

/// The file as the disk may hold it.
fn mixed(loss: &Loss, random: &mut Random) -> Vec<u8> {
    // From "nothing more was written" to "nearly all was".
    let written_of_100 = [0, 3, 20, 50, 80, 97, 99][random.below(7) as usize];
    let mut file = Vec::with_capacity(loss.written.len());
    for (number, page) in loss.written.chunks(PAGE_BYTES).enumerate() {
        let at = number * PAGE_BYTES;
        // A page that the file did not have yet, and that was not written: a hole.
        let old = loss
            .synced
            .get(at..at + page.len())
            .map_or_else(|| vec![0; page.len()], <[u8]>::to_vec);
        let is_meta = number < 2;
        // The meta pages go each way as often, whatever becomes of the others.
        let written =
            if is_meta { random.below(2) == 0 } else { random.below(100) < written_of_100 };
        file.extend_from_slice(if written { page } else { &old });
    }
    // The file's length is not synced either.
    if random.below(4) == 0 {
        file.truncate(loss.synced.len().max(file.len() / 2 / PAGE_BYTES * PAGE_BYTES));
    }
    file
}

/// What became of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Sound { commits_after_the_sync: usize },
    Damaged,
}

async fn run(seed: u64) -> Outcome {
    let mut random = Random(seed);
    let home = tempfile::tempdir().expect("a temporary directory");
    let loss = lose_power(home.path(), &mut random).await;
    let after: PathBuf = home.path().join("after");
    std::fs::create_dir(&after).expect("a directory");
    let file = mixed(&loss, &mut random);
    std::fs::write(after.join("data.mdb"), file).expect("the file can be written");

    let status = verify_in_a_child(&after);
    if status.code() != Some(SOUND) {
        return Outcome::Damaged;
    }
    let store = EmbeddedStore::open(&after, options()).expect("a sound store opens");
    let found = records(&store).await;
    let commits_after_the_sync = loss.states.iter().rposition(|state| *state == found);
    let Some(commits_after_the_sync) = commits_after_the_sync else {
        panic!("sound, but of no one commit since the sync: {} records", found.len());
    };
    // It can be used: nothing that is written now damages what is there.
    let mut state = found;
    for _ in 0..20 {
        change(&store, &mut random, &mut state).await;
    }
    assert_eq!(records(&store).await, state, "after further commits");
    Outcome::Sound { commits_after_the_sync }
}

#[tokio::test]
async fn any_subset_of_unsynced_pages_gives_one_commits_state_or_is_called_damaged() {
    let one = std::env::var(ONE_SEED).ok().map(|seed| seed.parse().expect("a number"));
    let count =
        std::env::var(SEEDS).map_or(SEEDS_DEFAULT, |count| count.parse().expect("a number"));
    let seeds = one.map_or(1..count + 1, |seed: u64| seed..seed + 1);
    let (mut sound, mut newer, mut damaged) = (0, 0, 0);
    for seed in seeds {
        // A failure is the last line's.
        eprintln!("{ONE_SEED}={seed} cargo test -p state power_loss");
        match run(seed).await {
            Outcome::Sound { commits_after_the_sync } => {
                sound += 1;
                newer += u32::from(commits_after_the_sync > 0);
            }
            Outcome::Damaged => damaged += 1,
        }
    }
    eprintln!("{sound} sound ({newer} of them newer than the sync), {damaged} damaged");
    // Otherwise the test has tested one side only.
    assert!(one.is_some() || (sound > 0 && damaged > 0), "{sound} sound, {damaged} damaged");
}
