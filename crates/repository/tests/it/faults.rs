//! Three members, and what becomes of records when some of them die, hang, or all do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use repository::RepositoryStore;
use state::{Batch, CommitError, Expect, Store};
use tokio::time::Instant;

use crate::etcd;
use crate::records::{key, open, put, until_value};

/// By when changes go on after a leader's death: 2 s are promised (1.1 s measured on a busy machine), and a machine that has
/// other tests to run may need another one.
const RESUME: Duration = Duration::from_secs(3);

const NAMES: [char; 2] = ['a', 'b'];

/// So many changes of each writer lie between two faults.
const BETWEEN: u32 = 15;

/// What writers have had acknowledged so far, and whether they are to end.
#[derive(Default)]
struct Progress {
    acknowledged: [AtomicU32; 2],
    ends: AtomicBool,
}

impl Progress {
    /// Waits until each writer has had so many more changes acknowledged.
    async fn until_more(&self, count: u32) {
        let now = || self.acknowledged.each_ref().map(|it| it.load(Ordering::Relaxed));
        let (before, deadline) = (now(), Instant::now() + Duration::from_secs(30));
        while now().iter().zip(before).any(|(now, before)| *now < before + count) {
            assert!(
                Instant::now() < deadline,
                "{count} changes each since {before:?}: {:?}",
                now()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What a writer was told.
struct Written {
    acknowledged: Vec<u32>,
    longest_pause: Duration,
}

/// Creates records until it is told to end; in doubt it looks whether it was done, as it is told to.
async fn write(store: RepositoryStore, writer: usize, progress: Arc<Progress>) -> Written {
    let name = NAMES[writer];
    let mut acknowledged = Vec::new();
    let (mut longest_pause, mut last) = (Duration::ZERO, Instant::now());
    for number in 0.. {
        if progress.ends.load(Ordering::Relaxed) {
            break;
        }
        let key = key(&format!("{name}{number}"));
        match store.commit(Batch::new().put(key, Expect::Absent, "1", None)).await {
            Ok(_) => {
                acknowledged.push(number);
                progress.acknowledged[writer].fetch_add(1, Ordering::Relaxed);
                longest_pause = longest_pause.max(last.elapsed());
                last = Instant::now();
            }
            Err(CommitError::Unknown { .. }) => {}
            Err(CommitError::Store(error)) if error.is_transient() => {}
            // Nobody else writes these: a conflict would be its own commit, applied twice.
            Err(error) => panic!("{name}{number}: {error}"),
        }
    }
    Written { acknowledged, longest_pause }
}

#[tokio::test]
async fn no_acknowledged_change_is_lost_when_leaders_are_killed() {
    let Some(mut etcd) = etcd::start(3, None) else { return };
    etcd.leader().await;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores =
        directories.each_ref().map(|directory| open(etcd.client(), directory.path(), "outlast/"));
    let progress = Arc::new(Progress::default());
    let writers: Vec<_> = (0..)
        .zip(&stores)
        .map(|(writer, store)| tokio::spawn(write(store.clone(), writer, Arc::clone(&progress))))
        .collect();
    for _ in 0..2 {
        progress.until_more(BETWEEN).await;
        let leader = etcd.leader().await;
        etcd.members[leader].kill();
        // A new leader, and changes with it.
        progress.until_more(BETWEEN).await;
        etcd.members[leader].start();
        // Else the next fault would leave no majority.
        etcd.until_caught_up(leader).await;
    }
    progress.until_more(BETWEEN).await;
    progress.ends.store(true, Ordering::Relaxed);
    // By a node that saw nothing of it.
    let directory = tempfile::tempdir().unwrap();
    let fresh = open(etcd.client(), directory.path(), "outlast/");
    put(&fresh, "last", "1").await;
    for (writer, name) in writers.into_iter().zip(NAMES) {
        let written = writer.await.expect("the writer ends");
        eprintln!(
            "{name}: {} acknowledged, {:?} at the longest",
            written.acknowledged.len(),
            written.longest_pause
        );
        assert!(written.acknowledged.len() > 20, "it wrote meanwhile");
        assert!(written.longest_pause < RESUME, "{:?}", written.longest_pause);
        for number in written.acknowledged {
            let found = fresh.read(&key(&format!("{name}{number}"))).await.expect("it is read");
            assert!(found.is_some(), "{name}{number} was acknowledged");
        }
    }
}

#[tokio::test]
async fn a_member_that_hangs_is_left() {
    let Some(etcd) = etcd::start(3, None) else { return };
    etcd.leader().await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = open(etcd.client(), one.path(), "outlast/");
    let other = open(etcd.client(), other.path(), "outlast/");
    let _follower = other.follow();
    put(&one, "alice", "1").await;
    until_value(&other, "alice", Some("1")).await;
    // The one that is asked first, and so the one that tells of changes.
    etcd.members[0].signal("-STOP");
    let began = Instant::now();
    put(&one, "alice", "2").await;
    eprintln!("a change after {:?}", began.elapsed());
    until_value(&other, "alice", Some("2")).await;
    eprintln!("seen after {:?}", began.elapsed());
    etcd.members[0].signal("-CONT");
}

#[tokio::test]
async fn without_a_majority_changes_are_refused_and_reads_go_on() {
    let Some(mut etcd) = etcd::start(3, None) else { return };
    etcd.leader().await;
    let directory = tempfile::tempdir().unwrap();
    let store = open(etcd.client(), directory.path(), "outlast/");
    put(&store, "alice", "1").await;
    etcd.members[0].kill();
    etcd.members[1].kill();
    let change = || Batch::new().put(key("alice"), Expect::Any, "2", None);
    // The first may have been on its way when the majority went.
    let _ = store.commit(change()).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.commit(change()).await {
            Err(CommitError::Store(error)) => {
                assert!(error.is_transient(), "{error}");
                assert!(
                    error.to_string().contains("changes are refused until it answers"),
                    "{error}"
                );
                break;
            }
            Err(CommitError::Unknown { .. }) if Instant::now() < deadline => {}
            other => panic!("refused, not {other:?}"),
        }
    }
    assert!(store.changes_refused().is_some());
    assert!(store.read(&key("alice")).await.expect("reads go on").is_some());
    etcd.members[0].start();
    etcd.leader().await;
    put(&store, "alice", "3").await;
    until_value(&store, "alice", Some("3")).await;
}
