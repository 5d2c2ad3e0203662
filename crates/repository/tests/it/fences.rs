//! What is done under a lock that is another's by now, on a real etcd.

use std::time::Duration;

use repository::{Client, FileError, Files, Lock, Namespace, RepositoryStore, Taken};
use state::{Batch, CommitError, Expect, Store, StoreError};
use tokio::time::Instant;

use crate::etcd;
use crate::records::{key, open, put, value};

/// The least that etcd grants, for a lock whose holder stands still.
const LEASE_SECONDS: u64 = 1;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Takes the lock as soon as nobody has it.
async fn take(client: &Client, holder: &str) -> Lock {
    let (key, deadline) = (Namespace::alone().lock("chore"), soon());
    loop {
        let taken = Lock::take(client, &key, holder, LEASE_SECONDS, deadline).await;
        match taken.expect("it answers") {
            Taken::Held(lock) => return lock,
            Taken::By(holder) => assert!(Instant::now() < deadline, "{holder} has it still"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same for whatever is expected: it is not the record that has changed.
async fn is_refused(store: &RepositoryStore) {
    for expect in [Expect::Any, Expect::Absent] {
        let batch = Batch::new().put(key("echo"), expect, "late", None);
        let refused = store.commit(batch).await.expect_err("the lock is another's");
        assert!(matches!(refused, CommitError::Store(StoreError::LockLost)), "{refused}");
    }
}

#[tokio::test]
async fn who_has_lost_a_lock_changes_nothing_under_it_any_more() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let client = etcd.client();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(client.clone(), directory.path(), "outlast/");
    let files = Files::new(client.clone(), &Namespace::alone());

    let first = take(&client, "node1").await;
    let (of_first, files_of_first) = (store.fenced(first.fence()), files.fenced(first.fence()));
    put(&of_first, "echo", "first").await;
    let note = files_of_first.put("echo", b"component").await.expect("it holds the lock");
    let token = first.fence().token();
    // As when its process stands still: nobody keeps its lease.
    drop(first);

    let second = take(&client, "node2").await;
    assert!(second.fence().token() > token);
    is_refused(&of_first).await;
    for refused in [
        files_of_first.remove("echo", &note).await,
        files_of_first.put("echo", b"another").await.map(drop),
    ] {
        assert!(matches!(refused, Err(FileError::LockLost)), "{refused:?}");
    }
    put(&store.fenced(second.fence()), "echo", "second").await;
    is_refused(&of_first).await;
    assert_eq!(value(&store, "echo").await.as_deref(), Some("second"));
    assert_eq!(files.get("echo", &note).await.expect("nobody removed it"), b"component");

    // Nor when it is nobody's.
    let of_second = store.fenced(second.fence());
    second.release().await;
    is_refused(&of_second).await;
    // Who needs no lock is not held up.
    put(&store, "echo", "third").await;
}
