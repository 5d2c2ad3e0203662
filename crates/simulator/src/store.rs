//! The store of the world: the fake engine behind delays, crashes, conflicts and outcomes that nobody knows.
//!
//! A process asks through a [`StoreOfLife`]; its question lies on a desk until the world lets it happen ([`take_effect`])
//! and, later, be answered ([`answer`]). Between the two lies every crash that matters: what a process asked for may
//! stand although it never heard so. A process that is stopped asks and hears nothing until it goes on.
//!
//! [`take_effect`]: SimulatedStore::take_effect
//! [`answer`]: SimulatedStore::answer

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::FutureExt;
use state::engine::fake::FakeStore;
use state::{
    Batch, BoxFuture, Change, CommitError, Key, Prefix, Record, Space, Store, StoreError, Version,
    Watch,
};

use crate::clock::NodeClock;
use crate::random::Random;
use crate::schedule::Moment;
use crate::streams::LifeId;

/// Names a question to the store; never given twice in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(u64);

/// What goes wrong with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFate {
    /// Nothing.
    Done,
    /// Another commit came first, and was undone meanwhile.
    Conflict,
    /// It stands, and nobody knows.
    AppliedButUnknown,
    /// It does not stand, and nobody knows.
    LostAndUnknown,
    /// Too many wait.
    Busy,
    /// There are too few copies.
    BelowQuota,
}

/// What was asked.
#[derive(Debug)]
enum Question {
    Read(Key),
    Scan { space: Space, prefix: Prefix, after: Option<Key>, limit: usize },
    Commit(Batch),
}

#[derive(Debug)]
enum Answer {
    Read(Result<Option<Record>, StoreError>),
    Scan(Result<Vec<(Key, Record)>, StoreError>),
    Commit(Result<Vec<Version>, CommitError>),
}

#[derive(Debug)]
struct Entry {
    by: LifeId,
    asked: Moment,
    question: Option<Question>,
    answer: Option<Answer>,
    is_told: bool,
    is_abandoned: bool,
}

#[derive(Debug)]
struct Desk {
    entries: BTreeMap<QuestionId, Entry>,
    unscheduled: Vec<QuestionId>,
    next: u64,
    /// Of a thousand reads so many are answered at once.
    instant_reads: u32,
    now: Moment,
    random: Random,
}

/// More records than this of one space are not listed.
const KEPT_MAX: usize = 1_000;

/// What a batch writes, in order.
pub type Writes = Vec<(Key, Change)>;

/// A batch that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Who asked for it.
    pub by: LifeId,
    /// What was written, in order.
    pub writes: Writes,
}

/// The store and its desk.
#[derive(Debug, Clone)]
pub struct SimulatedStore {
    engine: FakeStore,
    desk: Arc<Mutex<Desk>>,
}

impl SimulatedStore {
    /// An empty store whose lifetimes end by that clock.
    pub fn new(clock: &NodeClock, random: Random) -> SimulatedStore {
        let engine = FakeStore::new(Arc::new(clock.clone()));
        let desk = Desk {
            entries: BTreeMap::new(),
            unscheduled: Vec::new(),
            next: 0,
            instant_reads: 0,
            now: Moment::ZERO,
            random,
        };
        SimulatedStore { engine, desk: Arc::new(Mutex::new(desk)) }
    }

    /// Of a thousand reads so many are answered at once, as those of a memory map are; the others lie on the desk.
    pub fn set_instant_reads(&self, per_mille: u32) {
        self.desk().instant_reads = per_mille;
    }

    /// Virtual time has come to that moment.
    pub fn pass(&self, now: Moment) {
        self.desk().now = now;
    }

    /// When it was asked, and the hash of the tag that it is about; None: it is about all of them.
    pub fn asked(&self, id: QuestionId) -> Option<(Moment, Option<u64>)> {
        let desk = self.desk();
        let entry = desk.entries.get(&id)?;
        let tag = match entry.question.as_ref()? {
            Question::Read(key) => Some(&key.tag),
            Question::Scan { prefix: Prefix::Tag { tag, .. }, .. } => Some(tag),
            Question::Scan { .. } => None,
            Question::Commit(batch) => batch.writes.first().map(|write| &write.key.tag),
        };
        let hash = tag.map(|tag| {
            let mut hasher = DefaultHasher::new();
            tag.hash(&mut hasher);
            hasher.finish()
        });
        Some((entry.asked, hash))
    }

    /// The records that it reads: one, or all of a space.
    pub fn reads(&self, id: QuestionId) -> Option<(Space, Option<Key>)> {
        match self.desk().entries.get(&id)?.question.as_ref()? {
            Question::Read(key) => Some((key.space.clone(), Some(key.clone()))),
            Question::Scan { space, .. } => Some((space.clone(), None)),
            Question::Commit(_) => None,
        }
    }

    /// Nobody who could answer is reached in time: nothing is done.
    pub fn give_up(&self, id: QuestionId) {
        let unreachable = || StoreError::Unreachable {
            shard: "a shard".to_owned(),
            reason: "the simulator cut it off".to_owned(),
        };
        if let Some(entry) = self.desk().entries.get_mut(&id) {
            entry.answer = entry.question.take().map(|question| match question {
                Question::Read(_) => Answer::Read(Err(unreachable())),
                Question::Scan { .. } => Answer::Scan(Err(unreachable())),
                Question::Commit(_) => Answer::Commit(Err(unreachable().into())),
            });
        }
    }

    fn reads_at_once(&self) -> bool {
        let mut desk = self.desk();
        let per_mille = desk.instant_reads;
        desk.random.chance(per_mille)
    }

    /// The engine itself, without delays, for those who watch the world.
    pub fn engine(&self) -> &FakeStore {
        &self.engine
    }

    /// The store as one life of a process has it open.
    pub fn of(&self, life: LifeId) -> StoreOfLife {
        StoreOfLife { life, store: self.clone() }
    }

    /// The questions that came since the last call; each must be scheduled.
    pub fn unscheduled(&self) -> Vec<QuestionId> {
        std::mem::take(&mut self.desk().unscheduled)
    }

    /// Who asked; `None` when it is answered already.
    pub fn asker(&self, id: QuestionId) -> Option<LifeId> {
        self.desk().entries.get(&id).map(|entry| entry.by)
    }

    /// Whether it changes something.
    pub fn is_commit(&self, id: QuestionId) -> bool {
        self.desk()
            .entries
            .get(&id)
            .is_some_and(|entry| matches!(entry.question, Some(Question::Commit(_))))
    }

    /// The keys of all records in these spaces.
    pub fn kept(&self, spaces: &[&str]) -> Vec<String> {
        let keys = spaces.iter().filter_map(|name| Space::parse(name)).flat_map(|space| {
            let all = at_once(self.engine.scan(&space, &Prefix::All, None, KEPT_MAX));
            all.expect("the engine does not fail").into_iter().map(|(key, _)| key.to_string())
        });
        keys.collect()
    }

    /// How many questions wait.
    pub fn waiting(&self) -> usize {
        self.desk().entries.len()
    }

    /// The question takes effect now; what was applied, if anything.
    pub fn take_effect(&self, id: QuestionId, fate: CommitFate) -> Option<Applied> {
        let (by, question) = {
            let mut desk = self.desk();
            let entry = desk.entries.get_mut(&id)?;
            (entry.by, entry.question.take()?)
        };
        let mut applied = None;
        let answer = match question {
            Question::Read(key) => Answer::Read(at_once(self.engine.read(&key))),
            Question::Scan { space, prefix, after, limit } => {
                Answer::Scan(at_once(self.engine.scan(&space, &prefix, after.as_ref(), limit)))
            }
            Question::Commit(batch) => {
                let (result, writes) = self.commit(batch, fate);
                applied = writes.map(|writes| Applied { by, writes });
                Answer::Commit(result)
            }
        };
        if let Some(entry) = self.desk().entries.get_mut(&id) {
            entry.answer = Some(answer);
        }
        applied
    }

    /// The asker hears the answer from now on.
    pub fn answer(&self, id: QuestionId) {
        let mut desk = self.desk();
        let Some(entry) = desk.entries.get_mut(&id) else { return };
        entry.is_told = true;
        if entry.is_abandoned {
            desk.entries.remove(&id);
        }
    }

    /// The question dies with its asker.
    pub fn forget(&self, id: QuestionId) {
        self.desk().entries.remove(&id);
    }

    fn commit(
        &self,
        batch: Batch,
        fate: CommitFate,
    ) -> (Result<Vec<Version>, CommitError>, Option<Writes>) {
        let unknown = || CommitError::Unknown { reason: "the simulator says so" };
        match fate {
            CommitFate::Busy => (Err(StoreError::Busy { waiting: 1 }.into()), None),
            CommitFate::BelowQuota => (Err(below_quota().into()), None),
            CommitFate::LostAndUnknown => (Err(unknown()), None),
            CommitFate::Conflict => match batch.writes.into_iter().next() {
                Some(first) => {
                    let key = Box::new(first.key);
                    (Err(CommitError::Conflict { key, found: None }), None)
                }
                None => (Ok(Vec::new()), None),
            },
            CommitFate::Done | CommitFate::AppliedButUnknown => {
                let writes = batch
                    .writes
                    .iter()
                    .map(|write| (write.key.clone(), write.change.clone()))
                    .collect();
                let result = at_once(self.engine.commit(batch));
                let writes = result.is_ok().then_some(writes);
                match (fate, result) {
                    (CommitFate::AppliedButUnknown, Ok(_)) => (Err(unknown()), writes),
                    (_, result) => (result, writes),
                }
            }
        }
    }

    fn ask(&self, by: LifeId, question: Question) -> QuestionId {
        let mut desk = self.desk();
        desk.next += 1;
        let id = QuestionId(desk.next);
        let entry = Entry {
            by,
            asked: desk.now,
            question: Some(question),
            answer: None,
            is_told: false,
            is_abandoned: false,
        };
        desk.entries.insert(id, entry);
        desk.unscheduled.push(id);
        id
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn below_quota() -> StoreError {
    StoreError::BelowQuota { primary: ([10, 0, 0, 1], 6220).into(), copies: 1, found: 0 }
}

/// The fake engine never waits by itself.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the fake engine answers at once")
}

/// The store, as one life of a process has it open.
#[derive(Debug, Clone)]
pub struct StoreOfLife {
    life: LifeId,
    store: SimulatedStore,
}

impl StoreOfLife {
    async fn answer_to(&self, question: Question) -> Answer {
        let waiting = Waiting { id: self.store.ask(self.life, question), store: &self.store };
        poll_fn(|_| waiting.poll()).await
    }
}

/// Dropping it takes nothing back: the question goes on without its asker.
struct Waiting<'a> {
    id: QuestionId,
    store: &'a SimulatedStore,
}

impl Waiting<'_> {
    fn poll(&self) -> Poll<Answer> {
        let mut desk = self.store.desk();
        let is_told = desk.entries.get(&self.id).is_some_and(|entry| entry.is_told);
        if !is_told {
            return Poll::Pending;
        }
        match desk.entries.remove(&self.id).and_then(|entry| entry.answer) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.store.desk().entries.get_mut(&self.id) {
            entry.is_abandoned = true;
        }
    }
}

impl Store for StoreOfLife {
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        if self.store.reads_at_once() {
            return self.store.engine.read(key);
        }
        Box::pin(async move {
            match self.answer_to(Question::Read(key.clone())).await {
                Answer::Read(result) => result,
                Answer::Scan(_) | Answer::Commit(_) => unreachable!("a read is answered as one"),
            }
        })
    }

    fn scan<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(Key, Record)>, StoreError>> {
        if self.store.reads_at_once() {
            return self.store.engine.scan(space, prefix, after, limit);
        }
        Box::pin(async move {
            let (space, prefix, after) = (space.clone(), prefix.clone(), after.cloned());
            match self.answer_to(Question::Scan { space, prefix, after, limit }).await {
                Answer::Scan(result) => result,
                Answer::Read(_) | Answer::Commit(_) => unreachable!("a scan is answered as one"),
            }
        })
    }

    fn watch(&self, space: &Space, prefix: &Prefix) -> Result<Watch, StoreError> {
        self.store.engine.watch(space, prefix)
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Version>, CommitError>> {
        Box::pin(async move {
            match self.answer_to(Question::Commit(batch)).await {
                Answer::Commit(result) => result,
                Answer::Read(_) | Answer::Scan(_) => unreachable!("a commit is answered as one"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::{Context, Waker};

    use state::Expect;

    use super::*;

    fn batch() -> Batch {
        Batch::new().put(Key::new(Space::named("test"), "tag", "id"), Expect::Absent, "value", None)
    }

    #[test]
    fn a_commit_stands_before_its_asker_hears_so_and_without_its_asker() {
        let store = SimulatedStore::new(&NodeClock::default(), Random::new(1));
        let handle = store.of(LifeId(3));
        let mut context = Context::from_waker(Waker::noop());
        let mut commit = handle.commit(batch());
        assert!(commit.poll_unpin(&mut context).is_pending());
        let [id] = store.unscheduled()[..] else { panic!("one question") };
        assert!(store.is_commit(id));
        assert_eq!(store.take_effect(id, CommitFate::Done).unwrap().by, LifeId(3));
        assert_eq!(store.engine().records(), 1);
        assert!(commit.poll_unpin(&mut context).is_pending(), "the answer is under way");
        drop(commit);
        store.answer(id);
        assert_eq!(store.waiting(), 0);
    }

    #[test]
    fn fates_are_told_and_carried_out() {
        for (fate, stands) in [
            (CommitFate::Done, true),
            (CommitFate::AppliedButUnknown, true),
            (CommitFate::LostAndUnknown, false),
            (CommitFate::Conflict, false),
            (CommitFate::Busy, false),
            (CommitFate::BelowQuota, false),
        ] {
            let store = SimulatedStore::new(&NodeClock::default(), Random::new(1));
            let handle = store.of(LifeId(0));
            let mut context = Context::from_waker(Waker::noop());
            let mut commit = handle.commit(batch());
            assert!(commit.poll_unpin(&mut context).is_pending());
            let [id] = store.unscheduled()[..] else { panic!("one question") };
            assert_eq!(store.take_effect(id, fate).is_some(), stands, "{fate:?}");
            store.answer(id);
            let Poll::Ready(result) = commit.poll_unpin(&mut context) else { panic!("{fate:?}") };
            assert_eq!(result.is_ok(), fate == CommitFate::Done, "{fate:?}");
        }
    }
}
