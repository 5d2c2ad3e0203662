//! Random histories on the embedded store against a map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use state::clock::ManualClock;
use state::contract::START;
use state::engine::embedded::{EmbeddedStore, Options, verify};
use state::{
    Batch, Change, CommitError, Expect, Key, Prefix, Record, Space, Store, UnixMillis, Version,
    Write,
};

const SPACE: Space = Space::named("model");

/// One thing that happens to the store.
#[derive(Clone, Debug)]
enum Step {
    Commit { tag: u8, writes: Vec<(u8, Expected, Option<Life>)> },
    Scan { prefix: Prefix, page: usize },
    Wait { ms: u64 },
    Reopen,
}

/// An expectation, relative to what the model has.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Any,
    Absent,
    Current,
    Stale,
}

/// A put and how long it lives; a delete is `None` of it.
#[derive(Clone, Copy, Debug)]
enum Life {
    Endless,
    For { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        4 => Just(Expected::Any), 2 => Just(Expected::Absent), 3 => Just(Expected::Current), 1 => Just(Expected::Stale)
    ];
    let life = prop_oneof![Just(Life::Endless), (0..200u64).prop_map(|ms| Life::For { ms })];
    let write = (0..6u8, expected, prop_oneof![3 => life.prop_map(Some), 1 => Just(None)]);
    let prefix = prop_oneof![
        Just(Prefix::All),
        (0..4u8).prop_map(|tag| Prefix::tag(tag_bytes(tag))),
        Just(Prefix::TagStart(tag_bytes(0).into())),
    ];
    prop_oneof![
        8 => (0..4u8, prop::collection::vec(write, 1..5)).prop_map(|(tag, writes)| Step::Commit { tag, writes }),
        2 => (prefix, 1..4usize).prop_map(|(prefix, page)| Step::Scan { prefix, page }),
        2 => (0..150u64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Reopen),
    ]
}

/// Tags that are prefixes of one another, and one with zero bytes.
fn tag_bytes(tag: u8) -> Vec<u8> {
    [b"t".to_vec(), b"tt".to_vec(), b"t\0t".to_vec(), b"u".to_vec()][usize::from(tag)].clone()
}

/// Short ids and long ones (hashed in the engine) with a common start.
fn key(tag: u8, id: u8) -> Key {
    let id = if id < 4 { vec![b'0' + id] } else { [vec![b'x'; 600], vec![id]].concat() };
    Key::new(SPACE, tag_bytes(tag), id)
}

struct Bench {
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Option<EmbeddedStore>,
    now: UnixMillis,
    model: BTreeMap<Key, Record>,
    last: Version,
    commits: u32,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock::at(START));
        let (model, last) = (BTreeMap::new(), Version(0));
        let mut bench = Self { directory, clock, store: None, now: START, model, last, commits: 0 };
        bench.reopen();
        bench
    }

    fn reopen(&mut self) {
        self.store = None;
        let options = Options { clock: self.clock.clone(), ..Options::default() };
        self.store =
            Some(EmbeddedStore::open(self.directory.path(), options).expect("the store opens"));
    }

    fn store(&self) -> &EmbeddedStore {
        self.store.as_ref().expect("it is open between steps")
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.saturating_add(Duration::from_millis(ms));
        self.clock.set(self.now);
        self.model.retain(|_, record| !record.is_expired(self.now));
    }

    fn batch(&mut self, tag: u8, writes: &[(u8, Expected, Option<Life>)]) -> Batch {
        let mut batch = Batch::new();
        for &(id, expected, life) in writes {
            let key = key(tag, id);
            let current = self.model.get(&key).map(|record| record.version);
            let expect = match expected {
                Expected::Any => Expect::Any,
                Expected::Absent => Expect::Absent,
                Expected::Current => current.map_or(Expect::Absent, Expect::Version),
                Expected::Stale => Expect::Version(Version(
                    current.map_or(1, |version| version.0.saturating_sub(1)),
                )),
            };
            self.commits += 1;
            let value = format!("value {}", self.commits).into();
            let put = |expires_at| Change::Put { value, expires_at };
            let change = match life {
                None => Change::Delete,
                Some(Life::Endless) => put(None),
                Some(Life::For { ms }) => {
                    put(Some(self.now.saturating_add(Duration::from_millis(ms))))
                }
            };
            batch.writes.push(Write { key, expect, change });
        }
        batch
    }

    /// What the store must answer: the conflicting key and what is there, or nothing.
    fn conflict(&self, batch: &Batch) -> Option<(Key, Option<Version>)> {
        batch.writes.iter().find_map(|write| {
            let found = self.model.get(&write.key).map(|record| record.version);
            let holds = match write.expect {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found == Some(version),
            };
            (!holds).then(|| (write.key.clone(), found))
        })
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), TestCaseError> {
        let conflict = self.conflict(&batch);
        match (self.store().commit(batch.clone()).await, conflict) {
            (Ok(versions), None) => {
                prop_assert!(
                    versions.iter().all(|version| *version > self.last),
                    "{:?} {:?}",
                    versions,
                    self.last
                );
                for (write, version) in batch.writes.into_iter().zip(versions) {
                    self.last = version;
                    match write.change {
                        Change::Put { value, expires_at } => {
                            self.model.insert(write.key, Record { version, value, expires_at });
                        }
                        Change::Delete => drop(self.model.remove(&write.key)),
                    }
                }
                self.model.retain(|_, record| !record.is_expired(self.now));
            }
            (Err(CommitError::Conflict { key, found }), Some(expected)) => {
                prop_assert_eq!((*key, found), expected)
            }
            (outcome, expected) => prop_assert!(false, "{:?} instead of {:?}", outcome, expected),
        }
        Ok(())
    }

    async fn scan(&self, prefix: &Prefix, page: usize) -> Result<(), TestCaseError> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let records = self
                .store()
                .scan(&SPACE, prefix, after.as_ref(), page)
                .await
                .expect("scans succeed");
            let full = records.len() == page;
            after = records.last().map(|(key, _)| key.clone());
            for (key, record) in records {
                prop_assert!(found.insert(key, record).is_none(), "a record came twice");
            }
            if !full {
                break;
            }
        }
        let matching = self.model.iter().filter(|(key, _)| prefix.matches(key));
        let expected: BTreeMap<_, _> =
            matching.map(|(key, record)| (key.clone(), record.clone())).collect();
        prop_assert_eq!(found, expected);
        Ok(())
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Commit { tag, writes } => {
                let batch = self.batch(tag, &writes);
                self.commit(batch).await?;
            }
            Step::Scan { prefix, page } => self.scan(&prefix, page).await?,
            Step::Wait { ms } => self.wait(ms),
            Step::Reopen => self.reopen(),
        }
        for (key, record) in &self.model {
            let found = self.store().read(key).await.expect("reads succeed");
            prop_assert_eq!(found.as_ref(), Some(record));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_as_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        runtime.block_on(async {
            let mut bench = Bench::new();
            for step in steps {
                bench.take(step).await?;
            }
            bench.scan(&Prefix::All, 7).await?;
            let report = verify(bench.directory.path()).expect("the store can be walked");
            prop_assert!(report.is_sound(), "{:?}", report);
            Ok(())
        })?;
    }
}
