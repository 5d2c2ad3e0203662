//! What the contract cannot see: damage, bounds, locks, the expiry index.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::environment::WRITE_LOCK_FILE;
use super::expiry::{SWEEP_RECORDS_MAX, Swept};
use super::lock::{Holder, LockFile};
use super::queue::QUEUE_BATCHES_MAX;
use super::stored_key::StoredKey;
use super::watches::{WATCH_RECORDS_MAX, Watched};
use super::*;
use crate::batch::Expect;
use crate::clock::ManualClock;
use crate::time::UnixMillis;
use crate::watch::Event;

const SPACE: Space = Space::named("test");
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const PATIENCE: Duration = Duration::from_secs(20);

fn open(directory: &TempDir, options: Options) -> EmbeddedStore {
    EmbeddedStore::open(directory.path(), options).unwrap()
}

fn key(id: impl ToString) -> Key {
    Key::new(SPACE, "tag", id.to_string())
}

fn put(id: impl ToString, value: impl Into<bytes::Bytes>, expires_at: Option<UnixMillis>) -> Batch {
    Batch::new().put(key(id), Expect::Any, value, expires_at)
}

fn read(store: &EmbeddedStore, id: impl ToString) -> Result<Option<Record>, StoreError> {
    store.read(&key(id)).now_or_never().expect("reads are ready at once")
}

/// Changes the store behind its back.
fn tamper(
    store: &EmbeddedStore,
    change: impl FnOnce(&environment::Environment, &mut heed::RwTxn<'_>),
) {
    let shared = &store.open.shared;
    let _turn = shared.take_turn().unwrap();
    let mut txn = shared.environment.write().unwrap();
    change(&shared.environment, &mut txn);
    txn.commit().unwrap();
}

fn damage(store: &EmbeddedStore, id: &str) {
    let filed = StoredKey::of(&key(id)).filed;
    tamper(store, |environment, txn| {
        let mut bytes = environment.records.get(txn, &filed).unwrap().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        environment.records.put(txn, &filed, &bytes).unwrap();
    });
}

fn counts(store: &EmbeddedStore) -> (u64, u64) {
    let environment = &store.open.shared.environment;
    let txn = environment.read().unwrap();
    (environment.records.len(&txn).unwrap(), environment.expiry.len(&txn).unwrap())
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_damaged_record_is_reported_by_name_and_healed_by_writing_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    store.commit(put("alice", "value", Some(UnixMillis(u64::MAX)))).await.unwrap();
    store.commit(put("bob", "value", None)).await.unwrap();
    damage(&store, "alice");

    let error = read(&store, "alice").unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { key, .. } if key == "test/tag/alice"),
        "{error}"
    );
    let scan = store.scan(&SPACE, &Prefix::All, None, 10).await;
    assert!(matches!(scan, Err(StoreError::Corrupt { .. })), "{scan:?}");
    let expecting = Batch::new().put(key("alice"), Expect::Absent, "new", None);
    let outcome = store.commit(expecting).await;
    assert!(matches!(outcome, Err(CommitError::Store(StoreError::Corrupt { .. }))), "{outcome:?}");
    let report = verify(directory.path()).unwrap();
    assert_eq!((report.records, report.damaged), (1, 1));
    assert_eq!(report.damaged_keys, ["test/tag/alice"]);

    store.commit(put("alice", "new", None)).await.unwrap();
    assert_eq!(read(&store, "alice").unwrap().unwrap().value, "new");
    assert!(verify(directory.path()).unwrap().is_sound());
}

#[tokio::test]
async fn verify_finds_a_record_that_the_expiry_index_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    store.commit(put("a", "value", Some(UnixMillis(u64::MAX)))).await.unwrap();
    tamper(&store, |environment, txn| environment.expiry.clear(txn).unwrap());
    assert_eq!(verify(directory.path()).unwrap().unindexed, 1);
}

#[tokio::test]
async fn the_sweep_gives_all_room_back_and_keeps_what_was_refreshed() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(&directory, Options { clock: clock.clone(), ..Options::default() });
    let many = 3 * SWEEP_RECORDS_MAX + 7;
    let soon = NOW.saturating_add(Duration::from_secs(1));
    let later = NOW.saturating_add(Duration::from_secs(3_600));
    join_all((0..many).map(|n| store.commit(put(n, "value", Some(soon))))).await;
    let refreshed = store.commit(put(5, "value", Some(later))).await.unwrap()[0];
    assert_eq!(counts(&store), (many as u64, many as u64), "a refresh leaves the index alone");

    clock.set(soon);
    wait_until("the ended records are gone", || counts(&store) == (1, 1)).await;
    // The sweep moved the entry in the index, which is not a new version.
    assert_eq!(read(&store, 5).unwrap().unwrap().version, refreshed);
    assert!(verify(directory.path()).unwrap().is_sound());
    clock.set(later);
    wait_until("the refreshed record is gone", || counts(&store) == (0, 0)).await;
}

#[tokio::test]
async fn a_step_of_a_sweep_ends_with_its_time_and_says_that_more_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(&directory, Options { clock, ..Options::default() });
    let due = |n: u64| NOW.saturating_add(Duration::from_millis(1 + n));
    join_all((0..10).map(|n| store.commit(put(n, "value", Some(due(n)))))).await;
    // The store's own sweep is of the opinion that nothing is due: its clock stands still.
    let step = |records: u32| {
        let (mut left, mut swept) = (records, None);
        tamper(&store, |environment, txn| {
            let mut tally = environment.tally(txn).unwrap();
            let mut goes_on = || {
                left = left.saturating_sub(1);
                left > 0
            };
            swept =
                Some(expiry::sweep(environment, txn, due(9), &mut tally, &mut goes_on).unwrap());
            environment.set_tally(txn, &tally).unwrap();
        });
        swept.unwrap()
    };
    assert_eq!(step(3), Swept { last_due: due(2), is_all: false });
    assert_eq!(step(0), Swept { last_due: due(3), is_all: false }, "one goes in any case");
    assert_eq!(counts(&store), (6, 6));
    assert_eq!(step(7), Swept { last_due: due(9), is_all: true });
    assert_eq!(counts(&store), (0, 0));
    assert!(verify(directory.path()).unwrap().is_sound());
}

#[tokio::test]
async fn a_sweep_of_many_goes_by_steps_that_commits_come_between() {
    const DUE: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(&directory, Options { clock: clock.clone(), ..Options::default() });
    let soon = NOW.saturating_add(Duration::from_secs(1));
    join_all((0..DUE).map(|n| store.commit(put(n, "value", Some(soon))))).await;
    let environment = &store.open.shared.environment;
    let look = || {
        let txn = environment.read().unwrap();
        (environment.records.len(&txn).unwrap() as usize, txn.id())
    };
    clock.set(soon);
    let (mut before, mut commits) = (look(), 0);
    let deadline = Instant::now() + PATIENCE;
    while before.0 > 1 {
        assert!(Instant::now() < deadline, "{} records are left", before.0);
        store.commit(put("busy", "value", None)).await.unwrap();
        let now = look();
        let steps = now.1 - before.1;
        assert!(before.0 <= now.0 + steps * SWEEP_RECORDS_MAX, "{before:?} to {now:?}");
        before = now;
        commits += 1;
    }
    assert!(commits >= DUE / SWEEP_RECORDS_MAX / 2, "{commits}");
}

#[tokio::test]
async fn the_file_grows_ahead_and_is_found_sound_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    for n in 0..20 {
        join_all((0..50).map(|m| store.commit(put(n * 50 + m, vec![7; 200], None)))).await;
    }
    let environment = &store.open.shared.environment;
    // Without room ahead the file ends with the page that is in use last, whose number `pages` is.
    let needed = ((environment.pages() + 1) * environment.page_bytes().unwrap()) as u64;
    assert!(store.file_bytes().unwrap() > needed, "{needed} octets are needed");
    drop(store);
    assert!(verify(directory.path()).unwrap().is_sound());
    assert_eq!(size_of(directory.path()).unwrap().records, 1_000);
    let store = open(&directory, Options::default());
    store.commit(put(0, "new", None)).await.unwrap();
    assert_eq!(counts(&store).0, 1_000);
}

#[tokio::test]
async fn commits_that_wait_together_share_a_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let environment = &store.open.shared.environment;
    let lock = LockFile::open(&directory.path().join(WRITE_LOCK_FILE)).unwrap();
    let guard = lock.lock().unwrap();
    let before = environment.last_transaction();
    let commits: Vec<_> = (0..200).map(|n| store.commit(put(n, "value", None))).collect();
    drop(guard);
    for outcome in join_all(commits).await {
        outcome.unwrap();
    }
    // The writer may have taken some of them before it met the lock.
    let transactions = environment.last_transaction() - before;
    assert!(transactions <= 2, "{transactions} transactions");
}

#[test]
fn a_commit_that_was_looked_at_on_its_way_to_the_disk_is_told() {
    const COMMITS: usize = 50;
    let directory = tempfile::tempdir().unwrap();
    // LMDB numbers a transaction, waits for the disk, and only then shows it to readers.
    let options = Options { durability: Durability::EveryCommit, ..Options::default() };
    let store = open(&directory, options);
    let environment = &store.open.shared.environment;
    let (mut watched, mut watch) = Watched::start(environment, &SPACE, &Prefix::All, NOW).unwrap();
    for n in 0..COMMITS {
        let mut commit = std::pin::pin!(store.commit(put(n, "value", None)));
        let committed = loop {
            assert!(watched.look(environment, NOW));
            if let Some(outcome) = commit.as_mut().now_or_never() {
                break outcome;
            }
        };
        committed.unwrap();
        assert!(watched.look(environment, NOW));
        let told = watch.next().now_or_never();
        assert!(
            matches!(&told, Some(Ok(Event::Put { key: changed, .. })) if *changed == key(n)),
            "commit {n}: {told:?}"
        );
    }
}

#[test]
fn what_was_read_behind_the_last_commit_stands_until_that_is_another_one() {
    const COMMITS: usize = 50;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { durability: Durability::EveryCommit, ..Options::default() };
    let store = open(&directory, options);
    let mut kept = None;
    for n in 0..COMMITS {
        let mut commit = std::pin::pin!(store.commit(put("a", n.to_string(), None)));
        let mut is_committed = false;
        while !is_committed {
            is_committed = commit.as_mut().now_or_never().is_some();
            let as_of = store.last_commit();
            let found = read(&store, "a").unwrap().map(|record| record.value);
            if store.last_commit() != as_of {
                continue;
            }
            match &kept {
                Some((known, value)) if *known == as_of => assert_eq!(*value, found, "commit {n}"),
                _ => kept = Some((as_of, found)),
            }
        }
    }
}

#[tokio::test]
async fn a_conflict_in_a_group_fails_its_own_batch_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let create = || store.commit(Batch::new().put(key("a"), Expect::Absent, "value", None));
    let outcomes = join_all([create(), create(), store.commit(put("b", "value", None))]).await;
    assert!(outcomes[0].is_ok());
    assert!(
        matches!(outcomes[1], Err(CommitError::Conflict { found: Some(_), .. })),
        "{:?}",
        outcomes[1]
    );
    assert!(outcomes[2].is_ok());
}

#[tokio::test]
async fn a_full_queue_is_busy_and_drains_when_the_lock_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let lock = LockFile::open(&directory.path().join(WRITE_LOCK_FILE)).unwrap();
    let guard = lock.lock().unwrap();
    let mut queued = Vec::new();
    let busy = loop {
        let mut commit = store.commit(put(queued.len(), "value", None));
        match (&mut commit).now_or_never() {
            None => queued.push(commit),
            Some(outcome) => break outcome,
        }
        assert!(queued.len() <= 2 * QUEUE_BATCHES_MAX, "the queue has no bound");
    };
    assert!(matches!(busy, Err(CommitError::Store(StoreError::Busy { .. }))), "{busy:?}");
    drop(guard);
    for outcome in join_all(queued).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_long_holding_of_the_lock_is_reported_with_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let (report, reports) = mpsc::channel();
    let on_lock_wait: OnLockWait = Arc::new(move |wait: &LockWait| drop(report.send(wait.clone())));
    let store =
        open(&directory, Options { on_lock_wait: Some(on_lock_wait), ..Options::default() });
    let lock = LockFile::open(&directory.path().join(WRITE_LOCK_FILE)).unwrap();
    let guard = lock.lock().unwrap();
    lock.write_holder(&Holder { pid: 4_711, turn: 1, name: "hung container".into() });
    let commit = store.commit(put("a", "value", None));
    let wait = reports.recv_timeout(PATIENCE).unwrap();
    assert_eq!((wait.holder_pid, wait.holder_name.as_str()), (Some(4_711), "hung container"));
    assert!(wait.waited >= Duration::from_millis(100), "{wait:?}");
    assert!(reports.recv_timeout(PATIENCE).unwrap().waited > wait.waited, "it is reported again");
    drop(guard);
    commit.await.unwrap();
}

#[tokio::test]
async fn a_full_map_says_so_and_spares_the_rest_of_the_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options { map_size: 1 << 20, ..Options::default() });
    let large = vec![0; 1 << 20];
    let batches =
        [put("small 1", "value", None), put("large", large, None), put("small 2", "value", None)];
    let outcomes = join_all(batches.map(|batch| store.commit(batch))).await;
    assert!(outcomes[0].is_ok(), "{:?}", outcomes[0]);
    let Err(CommitError::Store(error @ StoreError::MapFull { .. })) = &outcomes[1] else {
        panic!("{:?}", outcomes[1]);
    };
    assert!(error.to_string().contains("set a larger map size"), "{error}");
    assert!(outcomes[2].is_ok(), "{:?}", outcomes[2]);
    assert!(read(&store, "small 2").unwrap().is_some());
}

#[tokio::test]
async fn a_watch_that_covers_too_much_is_refused_or_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let mut watch = store.watch(&SPACE, &Prefix::All).unwrap();
    for start in (0..=WATCH_RECORDS_MAX).step_by(1_000) {
        let batch = (start..start + 1_000)
            .fold(Batch::new(), |batch, n| batch.put(key(n), Expect::Any, "", None));
        store.commit(batch).await.unwrap();
    }
    let outcome = store.watch(&SPACE, &Prefix::All);
    assert!(matches!(outcome, Err(StoreError::WatchTooWide { .. })), "{outcome:?}");
    let ended = async { while watch.next().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the watch that became too wide ends");
}

#[tokio::test]
async fn a_slow_watcher_gets_the_last_state() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let mut watch = store.watch(&SPACE, &Prefix::All).unwrap();
    // More than the channel holds, twice over, and nobody reads.
    for _ in 0..2 {
        for start in (0..3_000).step_by(1_000) {
            let batch = (start..start + 1_000)
                .fold(Batch::new(), |batch, n| batch.put(key(n), Expect::Any, "", None));
            store.commit(batch).await.unwrap();
        }
    }
    let last = store.commit(put("last", "value", None)).await.unwrap()[0];
    let mut told = std::collections::BTreeMap::new();
    let all_told = async {
        while told.len() < 3_001 || told.get(&key("last")) != Some(&last) {
            if let Event::Put { key, record } = watch.next().await.unwrap() {
                told.insert(key, record.version);
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_told).await.expect("every record is told in the end");
}

#[test]
fn one_environment_is_opened_once_per_process() {
    let directory = tempfile::tempdir().unwrap();
    let one = open(&directory, Options::default());
    let other = open(&directory, Options::default());
    assert!(Arc::ptr_eq(&one.open, &other.open));
    let differing = Options { durability: Durability::EveryCommit, ..Options::default() };
    let outcome = EmbeddedStore::open(directory.path(), differing.clone());
    assert!(matches!(outcome, Err(StoreError::OptionsDiffer { .. })), "{outcome:?}");
    drop((one, other));
    open(&directory, differing);
}

#[test]
fn racing_opens_and_closes_always_get_a_store() {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    drop(open(&directory, Options::default()));
                }
            });
        }
    });
}

#[tokio::test]
async fn records_and_versions_go_on_after_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    // Queued and not waited for: an orderly close still writes it.
    drop(store.commit(put("a", "value", None)));
    drop(store);
    let store = open(&directory, Options::default());
    let first = read(&store, "a").unwrap().unwrap().version;
    let deleted = store.commit(Batch::new().delete(key("a"), Expect::Any)).await.unwrap()[0];
    drop(store);
    let store = open(&directory, Options::default());
    let second = store.commit(put("a", "value", None)).await.unwrap()[0];
    assert!(first < deleted && deleted < second, "{first} {deleted} {second}");
}

#[test]
fn a_store_of_a_newer_release_is_refused_in_clear_words() {
    let directory = tempfile::tempdir().unwrap();
    let set_level = |level: u8| {
        let store = open(&directory, Options::default());
        tamper(&store, |environment, txn| {
            environment.meta.put(txn, b"format level", &[level]).unwrap()
        });
    };
    set_level(stored_record::LEVEL + 1);
    set_level(stored_record::LEVEL + 2);
    let error = EmbeddedStore::open(directory.path(), Options::default()).unwrap_err();
    let StoreError::FormatUnreadable { found: 3, newest: 2, .. } = &error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("run the release that wrote it"), "{error}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "a file in the way").unwrap();
    let error = EmbeddedStore::open(&file.join("state"), Options::default()).unwrap_err();
    assert!(matches!(&error, StoreError::File { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot create the directory"), "{error}");

    let foreign = directory.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("data.mdb"), "not a store ".repeat(1_000)).unwrap();
    let error = EmbeddedStore::open(&foreign, Options::default()).unwrap_err();
    assert!(matches!(&error, StoreError::NotAStore { .. }), "{error:?}");

    let error = verify(&directory.path().join("missing")).unwrap_err();
    assert!(matches!(&error, StoreError::File { .. }), "{error:?}");
}

#[tokio::test]
async fn size_counts_records_and_their_entries_and_shrinks_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, Options::default());
    let empty = store.size().unwrap();
    let later = UnixMillis::from(std::time::SystemTime::now());
    let later = later.saturating_add(Duration::from_secs(600));
    let puts = (0..500).map(|id| store.commit(put(id, vec![b'x'; 200], Some(later))));
    assert!(join_all(puts).await.into_iter().all(|outcome| outcome.is_ok()));
    let full = store.size().unwrap();
    assert_eq!((empty.records, full.records), (0, 500));
    assert!(full.record_bytes >= empty.record_bytes + 500 * 200, "{full:?}");
    assert!(full.index_bytes > empty.index_bytes, "{full:?}");
    let deletes = (0..500).map(|id| store.commit(Batch::new().delete(key(id), Expect::Any)));
    assert!(join_all(deletes).await.into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!(store.size().unwrap(), empty);
}
