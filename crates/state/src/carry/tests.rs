//! Everything arrives, what is over does not, and twice is once.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::engine::embedded::{EmbeddedStore, Options};
use crate::engine::fake::{CommitFault, FakeStore};
use crate::key::Space;
use crate::time::UnixMillis;

const START: UnixMillis = UnixMillis(1_700_000_000_000);

struct World {
    _directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    from: EmbeddedStore,
    to: FakeStore,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let from = EmbeddedStore::open(directory.path(), options).unwrap();
        World { _directory: directory, from, to: FakeStore::new(clock.clone()), clock }
    }

    async fn put(&self, key: Key, value: &str, lifetime: Option<Duration>) {
        let expires_at = lifetime.map(|lifetime| START.saturating_add(lifetime));
        let put = Batch::new().put(key, Expect::Any, value.to_owned(), expires_at);
        self.from.commit(put).await.unwrap();
    }

    /// Without versions, in key order.
    async fn all(store: &dyn Whole) -> Vec<(Key, Vec<u8>, Option<UnixMillis>)> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = store.page(after.as_ref(), 7).await.unwrap();
            let is_last = page.len() < 7;
            after = page.last().map(|(key, _)| key.clone());
            let plain =
                |(key, record): (Key, Record)| (key, record.value.to_vec(), record.expires_at);
            all.extend(page.into_iter().map(plain));
            if is_last {
                all.sort();
                return all;
            }
        }
    }
}

fn key(space: &'static str, tag: &str, id: usize) -> Key {
    Key::new(Space::named(space), tag.to_owned(), id.to_string())
}

#[tokio::test]
async fn everything_arrives_but_what_is_over() {
    let world = World::new();
    for id in 0..PAGE + 10 {
        world.put(key("one", &format!("tag {}", id % 9), id), &format!("value {id}"), None).await;
    }
    let minute = Some(Duration::from_secs(60));
    world.put(key("two", "", 1), "", minute).await;
    // Its key is longer than LMDB takes; it is filed by another name.
    let long = Key::new(Space::named("three"), "long".repeat(60), "id".repeat(100));
    world.put(long.clone(), "long", None).await;
    world.put(key("two", "over", 2), "over", Some(Duration::from_secs(1))).await;
    world.clock.set(START.saturating_add(Duration::from_secs(2)));

    let carried = carry(&world.from, &world.to).await.unwrap();
    assert_eq!(carried, Carried { records: PAGE + 12, removed: 0 });
    let there = World::all(&world.to).await;
    assert_eq!(there, World::all(&world.from).await);
    assert_eq!(there.len(), PAGE + 12);
    assert!(there.iter().any(|(key, _, _)| *key == long));
    let ends = there.iter().find(|(key, _, _)| key.space == Space::named("two")).unwrap();
    assert_eq!(ends.2, Some(START.saturating_add(Duration::from_secs(60))));
}

#[tokio::test]
async fn an_attempt_that_was_given_up_leaves_nothing_behind() {
    let world = World::new();
    for id in 0..20 {
        world.put(key("one", "tag", id), "first", None).await;
    }
    carry(&world.from, &world.to).await.unwrap();
    // Then the node went on with what it had.
    world.put(key("one", "tag", 3), "second", None).await;
    world.from.commit(Batch::new().delete(key("one", "tag", 4), Expect::Any)).await.unwrap();
    let carried = carry(&world.from, &world.to).await.unwrap();
    assert_eq!(carried, Carried { records: 19, removed: 20 });
    assert_eq!(World::all(&world.to).await, World::all(&world.from).await);
    carry(&world.from, &world.to).await.unwrap();
    assert_eq!(World::all(&world.to).await, World::all(&world.from).await);
}

#[tokio::test]
async fn what_is_in_doubt_is_done_again_and_what_fails_is_told() {
    let world = World::new();
    for id in 0..20 {
        world.put(key("one", "tag", id), "value", None).await;
    }
    world.to.inject_commit_fault(CommitFault::LostAndUnknown);
    world.to.inject_commit_fault(CommitFault::AppliedButUnknown);
    carry(&world.from, &world.to).await.unwrap();
    assert_eq!(World::all(&world.to).await, World::all(&world.from).await);
    world.to.inject_commit_fault(CommitFault::Fails(StoreError::Closed));
    let failed = carry(&world.from, &world.to).await;
    assert!(matches!(failed, Err(CarryError::Commit(CommitError::Store(StoreError::Closed)))));
}
