//! The store on one etcd: the contract, and what is its own: the copy, restarts, compaction, other etcds.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use repository::client::messages::Range;
use repository::{Client, RepositoryOptions, RepositoryStore};
use state::clock::{ManualClock, SystemClock};
use state::contract::{START, Subject};
use state::engine::fake::FakeStore;
use state::{Batch, CommitError, Expect, Key, Prefix, Space, Store, Version};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::etcd::{self, Etcd, client_of};

pub(crate) const SPACE: Space = Space::named("account");
/// How long something may take that takes milliseconds, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// One for all tests that leave it alone; its shell ends it with the process.
fn shared() -> Option<&'static Etcd> {
    static SHARED: OnceLock<Option<Etcd>> = OnceLock::new();
    let serve = || {
        let etcd = etcd::start(1, None)?;
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(etcd.leader())
            });
            leader.join().expect("it serves");
        });
        Some(etcd)
    };
    SHARED.get_or_init(serve).as_ref()
}

/// A place of its own in the shared one.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}/", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn subject() -> (Subject, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Arc::new(ManualClock::at(START));
    let store: Arc<dyn Store> = match shared() {
        Some(etcd) => {
            let options = RepositoryOptions {
                client: etcd.client(),
                directory: directory.path().join("copy"),
                prefix: prefix(),
                clock: clock.clone(),
            };
            Arc::new(RepositoryStore::open(options).expect("the copy opens"))
        }
        // It was said that this is skipped.
        None => Arc::new(FakeStore::new(clock.clone())),
    };
    (Subject { store, clock }, directory)
}

state::contract_tests!(contract, super::subject);

pub(crate) fn open(client: Client, directory: &Path, prefix: &str) -> RepositoryStore {
    let options = RepositoryOptions {
        client,
        directory: directory.to_owned(),
        prefix: prefix.to_owned(),
        clock: Arc::new(SystemClock::default()),
    };
    RepositoryStore::open(options).expect("the copy opens")
}

pub(crate) fn key(id: &str) -> Key {
    Key::new(SPACE, "accounts", id.to_owned())
}

pub(crate) async fn put(store: &RepositoryStore, id: &str, value: &str) -> Version {
    let batch = Batch::new().put(key(id), Expect::Any, value.to_owned(), None);
    store.commit(batch).await.expect("the commit succeeds")[0]
}

pub(crate) async fn value(store: &RepositoryStore, id: &str) -> Option<String> {
    let record = store.read(&key(id)).await.expect("reads succeed")?;
    Some(String::from_utf8(record.value.into()).expect("text"))
}

pub(crate) async fn until_value(store: &RepositoryStore, id: &str, expected: Option<&str>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = value(store, id).await;
        if found.as_deref() == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{id} is {found:?}, not {expected:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Two nodes: what one commits the other one reads, and decides on.
#[tokio::test]
async fn a_node_that_follows_sees_what_another_commits() {
    let Some(etcd) = shared() else { return };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prefix = prefix();
    let one = open(etcd.client(), one.path(), &prefix);
    let other = open(etcd.client(), other.path(), &prefix);
    let _follower = other.follow();
    let version = put(&one, "alice", "first").await;
    until_value(&other, "alice", Some("first")).await;
    let replace = Batch::new().put(key("alice"), Expect::Version(version), "second", None);
    other.commit(replace).await.expect("it is the version that stands");
    assert_eq!(value(&other, "alice").await.as_deref(), Some("second"));
    // One, whose copy lags perhaps, is told, and sees what it was told of.
    let stale = Batch::new().put(key("alice"), Expect::Version(version), "lost", None);
    let outcome = one.commit(stale).await;
    assert!(matches!(outcome, Err(CommitError::Conflict { found: Some(_), .. })), "{outcome:?}");
    assert_eq!(value(&one, "alice").await.as_deref(), Some("second"));
    one.commit(Batch::new().delete(key("alice"), Expect::Any)).await.expect("it succeeds");
    until_value(&other, "alice", None).await;
}

/// What happened while a node was away is made up for, in order, deletions too.
#[tokio::test]
async fn a_copy_goes_on_where_it_stood() {
    let Some(etcd) = shared() else { return };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let prefix = prefix();
    let one = open(etcd.client(), one.path(), &prefix);
    {
        let before = open(etcd.client(), other.path(), &prefix);
        put(&before, "alice", "1").await;
        put(&before, "bob", "1").await;
    }
    put(&one, "alice", "2").await;
    one.commit(Batch::new().delete(key("bob"), Expect::Any)).await.expect("it succeeds");
    put(&one, "carol", "1").await;
    let back = open(etcd.client(), other.path(), &prefix);
    assert_eq!(value(&back, "alice").await.as_deref(), Some("1"), "it is served what is known");
    back.catch_up(PATIENCE).await.expect("it is told the rest");
    assert_eq!(value(&back, "carol").await.as_deref(), Some("1"));
    assert_eq!(value(&back, "alice").await.as_deref(), Some("2"));
    assert_eq!(value(&back, "bob").await, None);
}

/// Two processes of one node follow into one copy: it never goes back.
#[tokio::test]
async fn two_that_follow_into_one_copy_do_no_harm() {
    let Some(etcd) = shared() else { return };
    let directory = tempfile::tempdir().unwrap();
    let prefix = prefix();
    let one = open(etcd.client(), directory.path(), &prefix);
    let other = open(etcd.client(), directory.path(), &prefix);
    let _followers = (one.follow(), other.follow());
    for round in 0..50 {
        let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        put(writer, "alice", &round.to_string()).await;
        assert_eq!(value(reader, "alice").await, Some(round.to_string()), "by the same copy");
        let gone = Batch::new().delete(key("alice"), Expect::Any);
        reader.commit(gone).await.expect("it succeeds");
        assert_eq!(value(writer, "alice").await, None, "round {round}");
    }
}

/// A private etcd: compaction is for all of it.
#[tokio::test]
async fn changes_that_are_not_kept_any_more_are_read_whole() {
    let Some(etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = open(etcd.client(), one.path(), "outlast/");
    {
        let before = open(etcd.client(), other.path(), "outlast/");
        put(&before, "kept", "1").await;
        put(&before, "changed", "1").await;
        put(&before, "removed", "1").await;
    }
    put(&one, "changed", "2").await;
    let gone = Batch::new().delete(key("removed"), Expect::Any);
    let version = one.commit(gone).await.expect("it succeeds")[0];
    // More than a page of them.
    for start in (0..1_200).step_by(400) {
        let batch = (start..start + 400).fold(Batch::new(), |batch, number| {
            batch.put(key(&format!("many-{number}")), Expect::Absent, "1", None)
        });
        one.commit(batch).await.expect("it succeeds");
    }
    etcd.operator(None, &["compact", &(version.0 + 1).to_string()]);
    let back = open(etcd.client(), other.path(), "outlast/");
    assert_eq!(value(&back, "removed").await.as_deref(), Some("1"));
    let _follower = back.follow();
    until_value(&back, "removed", None).await;
    until_value(&back, "changed", Some("2")).await;
    assert_eq!(value(&back, "kept").await.as_deref(), Some("1"));
    until_value(&back, "many-1199", Some("1")).await;
    let deadline = Instant::now() + PATIENCE;
    while back.revision().await.unwrap() < Some(version.0.cast_signed()) {
        assert!(Instant::now() < deadline, "the copy knows how far it is");
        sleep(Duration::from_millis(5)).await;
    }
    let all = back.scan(&SPACE, &Prefix::All, None, 10_000).await.unwrap();
    assert_eq!(all.len(), 1_202);
    put(&one, "kept", "2").await;
    until_value(&back, "kept", Some("2")).await;
}

/// An etcd that was made anew, or another one by mistake: the copy is of that one then.
#[tokio::test]
async fn another_etcd_is_noticed() {
    let (Some(etcd), Some(shared)) = (etcd::start(1, None), shared()) else { return };
    etcd.leader().await;
    let directory = tempfile::tempdir().unwrap();
    let prefix = prefix();
    let before = open(shared.client(), directory.path(), &prefix);
    put(&before, "alice", "of the old one").await;
    drop(before);
    let after = open(etcd.client(), directory.path(), &prefix);
    let _follower = after.follow();
    until_value(&after, "alice", None).await;
    put(&after, "bob", "of the new one").await;
    assert_eq!(value(&after, "bob").await.as_deref(), Some("of the new one"));
}

/// With nobody there, what is known is read, and changes are refused with where, since when and why.
#[tokio::test]
async fn without_etcd_reads_go_on_and_changes_are_refused() {
    let Some(mut etcd) = etcd::start(1, None) else { return };
    etcd.leader().await;
    let directory = tempfile::tempdir().unwrap();
    {
        let before = open(etcd.client(), directory.path(), "outlast/");
        put(&before, "alice", "1").await;
    }
    etcd.members[0].kill();
    // Of a node that starts while etcd is away.
    let store = open(etcd.client(), directory.path(), "outlast/");
    assert_eq!(value(&store, "alice").await.as_deref(), Some("1"));
    let change = || Batch::new().put(key("alice"), Expect::Any, "2", None);
    let error = match store.commit(change()).await {
        Err(CommitError::Store(error)) => error,
        other => panic!("the change is refused, not {other:?}"),
    };
    assert!(error.is_transient(), "{error}");
    let text = error.to_string();
    let address = &etcd.members[0].address;
    assert!(
        text.contains(&format!("the repository at {address} cannot be reached since 2")),
        "{text}"
    );
    assert!(text.contains("refused") && text.contains("Connection refused"), "{text}");
    assert_eq!(value(&store, "alice").await.as_deref(), Some("1"));
    // Many at once are not tried one after the other.
    let began = Instant::now();
    let outcomes = store.commit_all((0..100).map(|_| change()).collect()).await;
    assert!(outcomes.iter().all(|outcome| {
        matches!(outcome, Err(CommitError::Store(state::StoreError::ChangesRefused { .. })))
    }));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let outcome = store.catch_up(Duration::from_millis(300)).await;
    assert!(matches!(outcome, Err(state::StoreError::ChangesRefused { .. })), "{outcome:?}");
    etcd.members[0].start();
    etcd.leader().await;
    store.commit(change()).await.expect("it is back");
    assert_eq!(value(&store, "alice").await.as_deref(), Some("2"));
}

/// Records of a node that is gone with a lifetime do not stay in etcd for ever: they hang on a lease.
#[tokio::test]
async fn what_ends_hangs_on_a_lease() {
    let Some(etcd) = shared() else { return };
    let directory = tempfile::tempdir().unwrap();
    let prefix = prefix();
    let store = open(etcd.client(), directory.path(), &prefix);
    let end = state::UnixMillis::from(std::time::SystemTime::now());
    let end = end.saturating_add(Duration::from_secs(600));
    let batch = Batch::new().put(key("alice"), Expect::Any, "1", Some(end));
    store.commit(batch).await.expect("it succeeds");
    let output = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.members[0].address, "get", "--prefix", "-w", "json"])
        .arg(format!("{prefix}r/"))
        .output()
        .expect("etcdctl");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"lease\":"), "{output:?}");
}

/// Of two addresses one is wrong.
#[tokio::test]
async fn a_client_rotates_to_a_member_that_answers() {
    let Some(etcd) = shared() else { return };
    let nobody = "127.0.0.1:1".to_owned();
    let client = client_of([nobody, etcd.members[0].address.clone()]);
    let range = Range { key: "nothing".into(), ..Range::default() };
    let found = client.range(&range, Instant::now() + PATIENCE).await.expect("the second answers");
    assert!(found.kvs.is_empty() && found.header.revision > 0);
    assert_eq!(client.away(), None);
}
