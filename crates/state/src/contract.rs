//! What every engine must do: one function per behaviour, run on each engine by its tests.
//!
//! [`contract_tests!`](crate::contract_tests) makes a test of each. A function panics when the engine under test breaks
//! its clause. Engines get a clock that the suite moves, and an empty store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::{BATCH_WRITES_MAX, Batch, Expect};
use crate::clock::ManualClock;
use crate::error::{CommitError, StoreError};
use crate::key::{ID_BYTES_MAX, Key, Prefix, Space};
use crate::record::{Record, VALUE_BYTES_MAX, Version};
use crate::store::Store;
use crate::time::UnixMillis;
use crate::watch::{Event, Watch};

/// When the suite's clock starts.
pub const START: UnixMillis = UnixMillis(1_800_000_000_000);

const SPACE: Space = Space::named("contract");
const SECOND: Duration = Duration::from_secs(1);
/// By when an engine must have told of a change.
const EVENT_DEADLINE: Duration = Duration::from_secs(10);

/// An engine under test.
pub struct Subject {
    /// Empty.
    pub store: Arc<dyn Store>,
    /// By which its lifetimes end; shows [`START`].
    pub clock: Arc<ManualClock>,
}

/// Makes a module of tests, one per clause, from a function that returns a fresh [`Subject`] and whatever must live
/// as long.
#[macro_export]
macro_rules! contract_tests {
    ($engine:ident, $subject:expr) => {
        $crate::contract_tests!($engine, $subject,
            a_put_is_read_back, what_was_never_put_is_absent, absent_is_expected_once, a_version_is_expected_exactly,
            a_conflict_spares_nothing_of_its_batch, versions_are_never_given_twice, a_batch_lies_within_one_tag,
            what_is_too_large_is_refused, an_empty_batch_succeeds, the_last_commit_is_another_one_after_each,
            batches_together_end_each_for_itself, expectations_see_the_state_before_the_batch,
            a_missing_record_is_deleted_without_error, an_ended_lifetime_hides_the_record,
            an_expired_record_counts_as_absent, a_refresh_moves_the_end, a_put_without_lifetime_stays,
            scans_go_in_key_order_by_pages, prefixes_select, spaces_do_not_mix, keys_are_any_bytes,
            long_keys_are_kept_apart, racing_increments_all_count, a_watch_tells_of_later_changes_only,
            a_watch_tells_of_ended_lifetimes
        );
    };
    ($engine:ident, $subject:expr, $($clause:ident),+) => {
        mod $engine {
            $(
                #[tokio::test]
                async fn $clause() {
                    let (subject, _alive) = $subject();
                    $crate::contract::$clause(&subject).await;
                }
            )+
        }
    };
}

impl Subject {
    async fn read(&self, key: &Key) -> Option<Record> {
        self.store.read(key).await.expect("reads succeed")
    }

    async fn commit(&self, batch: Batch) -> Version {
        let versions = self.store.commit(batch).await.expect("the commit succeeds");
        *versions.last().expect("there is a version per write")
    }

    async fn put(&self, key: &Key, value: &'static str, expires_at: Option<UnixMillis>) -> Version {
        self.commit(Batch::new().put(key.clone(), Expect::Any, value, expires_at)).await
    }

    async fn conflict(&self, batch: Batch) -> (Key, Option<Version>) {
        match self.store.commit(batch).await {
            Err(CommitError::Conflict { key, found }) => (*key, found),
            other => panic!("expected a conflict, not {other:?}"),
        }
    }

    async fn ids(
        &self,
        space: &Space,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Vec<Bytes> {
        let page = self.store.scan(space, prefix, after, limit).await.expect("scans succeed");
        page.into_iter().map(|(key, _)| key.id).collect()
    }
}

fn key(id: &str) -> Key {
    Key::new(SPACE, "tag", id.to_owned())
}

fn tagged(tag: &str, id: &str) -> Key {
    Key::new(SPACE, tag.to_owned(), id.to_owned())
}

/// A record is read as it was put, with the version that the commit gave.
pub async fn a_put_is_read_back(subject: &Subject) {
    let expires_at = Some(START.saturating_add(SECOND));
    let version = subject.put(&key("a"), "value", expires_at).await;
    let record = Record { version, value: "value".into(), expires_at };
    assert_eq!(subject.read(&key("a")).await, Some(record));
}

/// No record, no error.
pub async fn what_was_never_put_is_absent(subject: &Subject) {
    assert_eq!(subject.read(&key("a")).await, None);
}

/// `Expect::Absent` holds until the record is there, and the conflict names it.
pub async fn absent_is_expected_once(subject: &Subject) {
    let create = || Batch::new().put(key("a"), Expect::Absent, "value", None);
    let version = subject.commit(create()).await;
    assert_eq!(subject.conflict(create()).await, (key("a"), Some(version)));
}

/// `Expect::Version` holds for the record's present version only.
pub async fn a_version_is_expected_exactly(subject: &Subject) {
    let replace = |version| Batch::new().put(key("a"), Expect::Version(version), "new", None);
    assert_eq!(subject.conflict(replace(Version(1))).await, (key("a"), None));
    let first = subject.put(&key("a"), "old", None).await;
    let second = subject.commit(replace(first)).await;
    assert!(second > first);
    assert_eq!(subject.conflict(replace(first)).await, (key("a"), Some(second)));
    subject.commit(Batch::new().delete(key("a"), Expect::Version(second))).await;
    assert_eq!(subject.conflict(replace(second)).await, (key("a"), None));
}

/// All or nothing: the writes before the one in conflict are not done either.
pub async fn a_conflict_spares_nothing_of_its_batch(subject: &Subject) {
    subject.put(&key("c"), "there", None).await;
    let batch = Batch::new()
        .put(key("a"), Expect::Any, "new", None)
        .delete(key("c"), Expect::Any)
        .put(key("b"), Expect::Version(Version(1)), "new", None);
    assert_eq!(subject.conflict(batch).await, (key("b"), None));
    assert_eq!(subject.read(&key("a")).await, None);
    assert!(subject.read(&key("c")).await.is_some());
}

/// A record that is deleted and created again has a version above all before.
pub async fn versions_are_never_given_twice(subject: &Subject) {
    let mut last = Version(0);
    for _ in 0..3 {
        let put = subject.put(&key("a"), "value", None).await;
        let deleted = subject.commit(Batch::new().delete(key("a"), Expect::Any)).await;
        assert!(last < put && put < deleted, "{last} {put} {deleted}");
        last = deleted;
    }
}

/// Spaces may differ within a batch, tags may not.
pub async fn a_batch_lies_within_one_tag(subject: &Subject) {
    let other_space = Key::new(Space::named("other"), "tag", "a");
    let fine =
        Batch::new().put(key("a"), Expect::Any, "1", None).put(other_space, Expect::Any, "2", None);
    subject.commit(fine).await;
    let wrong = Batch::new().put(key("b"), Expect::Any, "1", None).put(
        tagged("other", "b"),
        Expect::Any,
        "2",
        None,
    );
    let outcome = subject.store.commit(wrong).await;
    assert!(matches!(outcome, Err(CommitError::TagsDiffer { .. })), "{outcome:?}");
    assert_eq!(subject.read(&key("b")).await, None);
}

/// Bounds are kept, and what is just within them works.
pub async fn what_is_too_large_is_refused(subject: &Subject) {
    let of_size = |size: usize| Batch::new().put(key("a"), Expect::Any, vec![7; size], None);
    subject.commit(of_size(VALUE_BYTES_MAX)).await;
    assert_eq!(
        subject.read(&key("a")).await.map(|record| record.value.len()),
        Some(VALUE_BYTES_MAX)
    );
    let outcome = subject.store.commit(of_size(VALUE_BYTES_MAX + 1)).await;
    assert!(matches!(outcome, Err(CommitError::ValueTooLong { .. })), "{outcome:?}");

    let of_writes = |count| Batch { writes: vec![of_size(1).writes.remove(0); count] };
    subject.commit(of_writes(BATCH_WRITES_MAX)).await;
    let outcome = subject.store.commit(of_writes(BATCH_WRITES_MAX + 1)).await;
    assert!(matches!(outcome, Err(CommitError::TooManyWrites { .. })), "{outcome:?}");

    let long = key(&"i".repeat(ID_BYTES_MAX + 1));
    let outcome = subject.store.commit(Batch::new().delete(long.clone(), Expect::Any)).await;
    assert!(
        matches!(outcome, Err(CommitError::Store(StoreError::KeyTooLong { .. }))),
        "{outcome:?}"
    );
    let outcome = subject.store.read(&long).await;
    assert!(matches!(outcome, Err(StoreError::KeyTooLong { .. })), "{outcome:?}");
}

/// Whoever keeps what it has read learns of every commit.
pub async fn the_last_commit_is_another_one_after_each(subject: &Subject) {
    let Some(before) = subject.store.last_commit() else { return };
    assert_eq!(subject.read(&key("a")).await, None);
    assert_eq!(subject.store.last_commit(), Some(before), "a read is no commit");
    subject.put(&key("a"), "one", None).await;
    let after = subject.store.last_commit();
    assert_ne!(after, Some(before));
    subject.commit(Batch::new().delete(key("a"), Expect::Any)).await;
    assert_ne!(subject.store.last_commit(), after);
}

/// Nothing to do is done.
pub async fn an_empty_batch_succeeds(subject: &Subject) {
    let versions = subject.store.commit(Batch::new()).await.expect("an empty batch succeeds");
    assert!(versions.is_empty());
}

/// Batches that are committed together share nothing but their way.
pub async fn batches_together_end_each_for_itself(subject: &Subject) {
    let put = |id: &str, expect| Batch::new().put(key(id), expect, "value", None);
    let too_long = Batch::new().put(key("d"), Expect::Any, vec![0; VALUE_BYTES_MAX + 1], None);
    let mut batches = vec![
        put("a", Expect::Absent),
        put("b", Expect::Version(Version(1))),
        Batch::new(),
        // What the batch before it left counts.
        put("a", Expect::Absent),
        too_long,
        put("c", Expect::Absent),
    ];
    // More than are written in one go.
    batches.extend((0..1_000).map(|number| put(&number.to_string(), Expect::Absent)));
    let outcomes = subject.store.commit_all(batches).await;
    assert_eq!(outcomes.len(), 1_006);
    assert!(
        matches!(&outcomes[1], Err(CommitError::Conflict { key, .. }) if **key == self::key("b"))
    );
    assert!(
        matches!(&outcomes[3], Err(CommitError::Conflict { key, .. }) if **key == self::key("a"))
    );
    assert!(matches!(&outcomes[4], Err(CommitError::ValueTooLong { .. })));
    assert!(matches!(&outcomes[2], Ok(versions) if versions.is_empty()));
    let versions = outcomes.iter().flatten().flatten().collect::<Vec<_>>();
    assert_eq!(versions.len(), 1_002);
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
    for (id, is_there) in [("a", true), ("b", false), ("c", true), ("d", false), ("999", true)] {
        assert_eq!(subject.read(&key(id)).await.is_some(), is_there, "{id}");
    }
    assert!(subject.store.commit_all(Vec::new()).await.is_empty());
}

/// Expectations are about the state before the batch; changes apply in order, so the last write to a record stays.
pub async fn expectations_see_the_state_before_the_batch(subject: &Subject) {
    let soon = Some(START.saturating_add(SECOND));
    let batch = Batch::new()
        .put(key("a"), Expect::Absent, "first", soon)
        .put(key("a"), Expect::Absent, "second", None)
        .put(key("b"), Expect::Absent, "first", None)
        .delete(key("b"), Expect::Absent)
        .delete(key("c"), Expect::Any)
        .put(key("c"), Expect::Any, "last", soon);
    let version = subject.commit(batch).await;
    let last = Record { version, value: "second".into(), expires_at: None };
    assert_eq!(subject.read(&key("a")).await, Some(last));
    assert_eq!(subject.read(&key("b")).await, None);
    assert_eq!(subject.read(&key("c")).await.and_then(|record| record.expires_at), soon);
}

/// A delete of nothing succeeds unless something was expected.
pub async fn a_missing_record_is_deleted_without_error(subject: &Subject) {
    subject.commit(Batch::new().delete(key("a"), Expect::Any)).await;
    subject.commit(Batch::new().delete(key("a"), Expect::Absent)).await;
}

/// From its end on a record is seen by neither reads nor scans.
pub async fn an_ended_lifetime_hides_the_record(subject: &Subject) {
    let end = START.saturating_add(SECOND);
    subject.put(&key("a"), "value", Some(end)).await;
    subject.put(&key("b"), "value", None).await;
    subject.clock.set(UnixMillis(end.0 - 1));
    assert!(subject.read(&key("a")).await.is_some());
    subject.clock.set(end);
    assert_eq!(subject.read(&key("a")).await, None);
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 10).await, ["b"]);
    subject.put(&key("c"), "never seen", Some(START)).await;
    assert_eq!(subject.read(&key("c")).await, None);
}

/// For expectations a record whose lifetime is over is not there, swept or not.
pub async fn an_expired_record_counts_as_absent(subject: &Subject) {
    let end = START.saturating_add(SECOND);
    let version = subject.put(&key("a"), "old", Some(end)).await;
    subject.clock.set(end);
    let replace = Batch::new().put(key("a"), Expect::Version(version), "new", None);
    assert_eq!(subject.conflict(replace).await, (key("a"), None));
    subject.commit(Batch::new().put(key("a"), Expect::Absent, "new", None)).await;
    assert_eq!(subject.read(&key("a")).await.map(|record| record.value), Some("new".into()));
}

/// The last put decides when a lifetime ends, be it later or earlier than the one before.
pub async fn a_refresh_moves_the_end(subject: &Subject) {
    let at = |seconds: u64| {
        START.saturating_add(SECOND * u32::try_from(seconds).expect("a small number"))
    };
    subject.put(&key("longer"), "value", Some(at(10))).await;
    subject.put(&key("longer"), "value", Some(at(30))).await;
    subject.put(&key("shorter"), "value", Some(at(30))).await;
    subject.put(&key("shorter"), "value", Some(at(10))).await;
    subject.clock.set(at(20));
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 10).await, ["longer"]);
    wait_for_sweep(subject, &at(20)).await;
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 10).await, ["longer"]);
    subject.clock.set(at(30));
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 10).await, [""; 0]);
}

/// A put without a lifetime takes away the one there was.
pub async fn a_put_without_lifetime_stays(subject: &Subject) {
    let end = START.saturating_add(SECOND);
    subject.put(&key("a"), "value", Some(end)).await;
    subject.put(&key("a"), "value", None).await;
    subject.clock.set(end);
    wait_for_sweep(subject, &end).await;
    assert!(subject.read(&key("a")).await.is_some());
}

/// Waits until the engine has swept what ended before `now`: a watch is told of such a record.
async fn wait_for_sweep(subject: &Subject, now: &UnixMillis) {
    let marker = Key::new(Space::named("sweep-marker"), "tag", "marker");
    subject.clock.set(UnixMillis(0));
    subject.put(&marker, "value", Some(*now)).await;
    let mut watch = subject.store.watch(&marker.space, &Prefix::All).expect("a watch starts");
    subject.clock.set(*now);
    assert_eq!(next_event(subject, &mut watch).await, Event::Deleted { key: marker });
}

/// Pages follow one another in key order, from behind the last key whether or not it is still there.
pub async fn scans_go_in_key_order_by_pages(subject: &Subject) {
    for id in ["d", "a", "c", "e", "b"] {
        subject.put(&key(id), "value", None).await;
    }
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 2).await, ["a", "b"]);
    subject.commit(Batch::new().delete(key("b"), Expect::Any)).await;
    assert_eq!(subject.ids(&SPACE, &Prefix::All, Some(&key("b")), 2).await, ["c", "d"]);
    assert_eq!(subject.ids(&SPACE, &Prefix::All, Some(&key("d")), 2).await, ["e"]);
    assert_eq!(subject.ids(&SPACE, &Prefix::All, Some(&key("e")), 2).await, [""; 0]);
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 0).await, [""; 0]);
}

/// Each kind of prefix gives exactly what it matches.
pub async fn prefixes_select(subject: &Subject) {
    for (tag, id) in
        [("a", "1"), ("a", "12"), ("a", "2"), ("ab", "3"), ("b", "4"), ("a\0", "5"), ("", "6")]
    {
        subject.put(&tagged(tag, id), "value", None).await;
    }
    let a_with =
        |id_start: &'static str| Prefix::Tag { tag: "a".into(), id_start: id_start.into() };
    for (prefix, expected) in [
        (Prefix::All, vec!["6", "1", "12", "2", "5", "3", "4"]),
        (Prefix::TagStart("a".into()), vec!["1", "12", "2", "5", "3"]),
        (Prefix::TagStart("".into()), vec!["6", "1", "12", "2", "5", "3", "4"]),
        (Prefix::tag("a"), vec!["1", "12", "2"]),
        (Prefix::tag(""), vec!["6"]),
        (a_with("1"), vec!["1", "12"]),
        (a_with("3"), vec![]),
    ] {
        assert_eq!(subject.ids(&SPACE, &prefix, None, 100).await, expected, "{prefix:?}");
    }
    // A page may start before or behind the prefix.
    assert_eq!(subject.ids(&SPACE, &Prefix::tag("a"), Some(&tagged("", "6")), 1).await, ["1"]);
    assert_eq!(subject.ids(&SPACE, &Prefix::tag("a"), Some(&tagged("b", "4")), 1).await, [""; 0]);
}

/// The same tag and id in two spaces are two records.
pub async fn spaces_do_not_mix(subject: &Subject) {
    let longer = Space::named("contract-2");
    subject.put(&key("a"), "one", None).await;
    subject.put(&Key::new(longer.clone(), "tag", "a"), "two", None).await;
    assert_eq!(subject.read(&key("a")).await.map(|record| record.value), Some("one".into()));
    assert_eq!(subject.ids(&SPACE, &Prefix::All, None, 10).await.len(), 1);
    assert_eq!(subject.ids(&longer, &Prefix::All, None, 10).await.len(), 1);
}

/// Tags and ids are bytes: empty ones, zero bytes, and what looks like a separator.
pub async fn keys_are_any_bytes(subject: &Subject) {
    let parts: [&[u8]; 7] = [b"", b"\0", b"\0\x01", b"\0\xff", b"\xff", b"/", b"a\0b"];
    for tag in parts {
        for id in parts {
            let key = Key::new(SPACE, Bytes::from_static(tag), Bytes::from_static(id));
            let value = Bytes::from([tag, b"|", id].concat());
            subject.commit(Batch::new().put(key, Expect::Absent, value, None)).await;
        }
    }
    let all = subject.store.scan(&SPACE, &Prefix::All, None, 100).await.expect("scans succeed");
    assert_eq!(all.len(), parts.len() * parts.len());
    assert!(all.is_sorted_by(|(a, _), (b, _)| a < b));
    for (key, record) in all {
        assert_eq!(record.value, [&key.tag, &b"|"[..], &key.id].concat());
        assert_eq!(subject.read(&key).await, Some(record));
    }
}

/// Keys that differ only far behind are different, are found by prefix, and are paged through without loss.
pub async fn long_keys_are_kept_apart(subject: &Subject) {
    let start = "x".repeat(1_500);
    for n in 0..20 {
        let key = key(&format!("{start}{n}"));
        subject.commit(Batch::new().put(key, Expect::Absent, format!("{n}"), None)).await;
    }
    subject.put(&key("short"), "short", None).await;
    assert_eq!(
        subject.read(&key(&format!("{start}7"))).await.map(|record| record.value),
        Some("7".into())
    );
    assert_eq!(subject.read(&key(&start)).await, None);
    let prefix = Prefix::Tag { tag: "tag".into(), id_start: start.clone().into() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page =
            subject.store.scan(&SPACE, &prefix, after.as_ref(), 3).await.expect("scans succeed");
        after = page.last().map(|(key, _)| key.clone());
        let full = page.len() == 3;
        found.extend(page.into_iter().map(|(key, _)| key.id));
        if !full {
            break;
        }
    }
    found.sort();
    let mut expected: Vec<_> = (0..20).map(|n| Bytes::from(format!("{start}{n}"))).collect();
    expected.sort();
    assert_eq!(found, expected);
    let narrow = Prefix::Tag { tag: "tag".into(), id_start: format!("{start}1").into() };
    assert_eq!(subject.ids(&SPACE, &narrow, None, 100).await.len(), 11);
}

/// Compare-and-set under contention loses no update.
pub async fn racing_increments_all_count(subject: &Subject) {
    const RACERS: usize = 8;
    const INCREMENTS: usize = 10;
    let racer = async || {
        for _ in 0..INCREMENTS {
            loop {
                let found = subject.read(&key("counter")).await;
                let count = found.as_ref().map_or(0, |record| record.value[0]);
                let expect = found.map_or(Expect::Absent, |record| Expect::Version(record.version));
                let batch = Batch::new().put(key("counter"), expect, vec![count + 1], None);
                match subject.store.commit(batch).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    futures_util::future::join_all((0..RACERS).map(|_| racer())).await;
    let count = subject.read(&key("counter")).await.expect("the counter is there").value[0];
    assert_eq!(usize::from(count), RACERS * INCREMENTS);
}

/// Events come for what changes after the watch began, within its prefix.
pub async fn a_watch_tells_of_later_changes_only(subject: &Subject) {
    subject.put(&key("before"), "value", None).await;
    let mut watch = subject.store.watch(&SPACE, &Prefix::tag("tag")).expect("a watch starts");
    subject.put(&tagged("other", "a"), "not watched", None).await;
    let version = subject.put(&key("a"), "value", None).await;
    let record = Record { version, value: "value".into(), expires_at: None };
    assert_eq!(next_event(subject, &mut watch).await, Event::Put { key: key("a"), record });
    subject.commit(Batch::new().delete(key("before"), Expect::Any)).await;
    assert_eq!(next_event(subject, &mut watch).await, Event::Deleted { key: key("before") });
    let version = subject.put(&key("a"), "again", None).await;
    let record = Record { version, value: "again".into(), expires_at: None };
    assert_eq!(next_event(subject, &mut watch).await, Event::Put { key: key("a"), record });
}

/// The end of a lifetime is an event, though nobody commits anything.
pub async fn a_watch_tells_of_ended_lifetimes(subject: &Subject) {
    let end = START.saturating_add(SECOND);
    subject.put(&key("a"), "value", Some(end)).await;
    let mut watch = subject.store.watch(&SPACE, &Prefix::All).expect("a watch starts");
    subject.clock.set(end);
    assert_eq!(next_event(subject, &mut watch).await, Event::Deleted { key: key("a") });
}

async fn next_event(subject: &Subject, watch: &mut Watch) -> Event {
    let deadline = Instant::now() + EVENT_DEADLINE;
    loop {
        match tokio::time::timeout(Duration::from_millis(20), watch.next()).await {
            Ok(event) => return event.expect("the watch goes on"),
            Err(_) if Instant::now() > deadline => panic!("no event within {EVENT_DEADLINE:?}"),
            // An engine without threads of its own ends lifetimes when it is looked at.
            Err(_) => drop(subject.read(&key("nobody")).await),
        }
    }
}
