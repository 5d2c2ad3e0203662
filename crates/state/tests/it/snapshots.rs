//! Snapshots, their check, and the way back.

use std::path::Path;
use std::time::{Duration, Instant};

use state::engine::embedded::{
    EmbeddedStore, Options, TallyVerdict, list_snapshots, restore, verify,
};
use state::{Batch, Expect, Key, Prefix, Record, Space, Store, StoreError, Version};

const SPACE: Space = Space::named("snapshots");

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options::default()).expect("the store opens")
}

async fn put(store: &EmbeddedStore, id: &str, value: &str) -> Version {
    let key = Key::new(SPACE, "tag", id.to_owned());
    let batch = Batch::new().put(key, Expect::Any, value.to_owned(), None);
    store.commit(batch).await.expect("the commit succeeds")[0]
}

async fn read(store: &EmbeddedStore, id: &str) -> Option<Record> {
    store.read(&Key::new(SPACE, "tag", id.to_owned())).await.expect("reads succeed")
}

#[tokio::test]
async fn a_restore_brings_the_snapshot_back_and_no_version_twice() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (state, snapshots) = (home.path().join("state"), home.path().join("snapshots"));
    let store = open(&state);
    put(&store, "a", "old").await;
    let snapshot = store.snapshot(&snapshots, 3).expect("a snapshot is taken");
    let after = put(&store, "a", "new").await;
    put(&store, "b", "new").await;

    let in_use = restore(&snapshot, &state);
    assert!(matches!(in_use, Err(StoreError::InUse { .. })), "{in_use:?}");
    drop(store);
    let report = restore(&snapshot, &state).expect("the restore succeeds");
    assert_eq!((report.records, report.tally), (1, TallyVerdict::Agrees));
    let restored = verify(&state).expect("the store can be walked");
    assert_eq!(restored.tally, TallyVerdict::Agrees, "its transactions are counted on");

    let store = open(&state);
    assert_eq!(read(&store, "a").await.map(|record| record.value), Some("old".into()));
    assert_eq!(read(&store, "b").await, None);
    assert!(put(&store, "b", "value").await > after);
    assert!(state.join("data.before-restore.mdb").exists());
}

#[tokio::test]
async fn a_restore_also_works_where_nothing_was() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let store = open(&home.path().join("state"));
    put(&store, "a", "value").await;
    let snapshot = store.snapshot(&home.path().join("snapshots"), 3).expect("a snapshot is taken");
    let other = home.path().join("other");
    restore(&snapshot, &other).expect("the restore succeeds");
    assert!(read(&open(&other), "a").await.is_some());
}

#[tokio::test]
async fn old_snapshots_make_room_and_the_last_is_whole_while_writers_go_on() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let snapshots = home.path().join("snapshots");
    let store = open(&home.path().join("state"));
    // A leftover of a process that was killed in the middle.
    std::fs::create_dir(&snapshots).expect("a directory");
    std::fs::write(snapshots.join("unfinished.tmp"), "half").expect("a file");
    let mut taken = Vec::new();
    for n in 0..5 {
        for m in 0..50 {
            put(&store, &format!("{n}-{m}"), "value").await;
        }
        let unanswered =
            store.commit(Batch::new().put(Key::new(SPACE, "u", "u"), Expect::Any, "u", None));
        taken.push(store.snapshot(&snapshots, 2).expect("a snapshot is taken"));
        unanswered.await.expect("the commit succeeds");
        let report = verify(&taken[n]).expect("the snapshot can be walked");
        assert!(report.is_sound() && report.records >= 50 * (n as u64 + 1), "{report:?}");
        assert_eq!(report.tally, TallyVerdict::Agrees);
        // The name is the time in milliseconds: the next one is another.
        let next = std::time::Instant::now() + Duration::from_millis(2);
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    assert_eq!(list_snapshots(&snapshots).expect("the directory can be listed"), taken[3..]);
    assert!(!snapshots.join("unfinished.tmp").exists());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_the_store_stays() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = home.path().join("state");
    let store = open(&state);
    put(&store, "a", "a value that is easy to find").await;
    let snapshot = store.snapshot(&home.path().join("snapshots"), 1).expect("a snapshot is taken");
    drop(store);
    let mut bytes = std::fs::read(&snapshot).expect("the snapshot can be read");
    let at =
        bytes.windows(12).position(|window| window == b"easy to find").expect("it holds the value");
    bytes[at] = b'E';
    std::fs::write(&snapshot, bytes).expect("the snapshot can be written");

    let outcome = restore(&snapshot, &state);
    assert!(
        matches!(&outcome, Err(StoreError::Corrupt { key, .. }) if key == "snapshots/tag/a"),
        "{outcome:?}"
    );
    let store = open(&state);
    assert_eq!(
        read(&store, "a").await.map(|record| record.value),
        Some("a value that is easy to find".into())
    );
    let all = store.scan(&SPACE, &Prefix::All, None, 10).await.expect("scans succeed");
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn a_clock_set_back_leaves_the_newest_snapshot_the_last() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let snapshots = home.path().join("snapshots");
    let store = open(&home.path().join("state"));
    let taken = store.snapshot(&snapshots, 2).expect("a snapshot is taken");
    // As one that was taken while the clock ran an hour ahead.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ahead = now.expect("after 1970").as_millis() + 3_600_000;
    let ahead = snapshots.join(format!("snapshot-{ahead:015}.mdb"));
    std::fs::rename(taken, &ahead).expect("the snapshot can be renamed");
    let newer: Vec<_> =
        (0..2).map(|_| store.snapshot(&snapshots, 2).expect("a snapshot is taken")).collect();
    assert_eq!(list_snapshots(&snapshots).expect("the directory can be listed"), newer);
}
