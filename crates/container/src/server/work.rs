//! What takes time: handlers, commits, reads and look-ups, begun for the shard and awaited by its loop.
//!
//! A handler that has found in memory all that it read has ended when it is begun, and costs neither a task nor a timer.
//! The commits of one turn go to the store together and come back together.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use sip::Message;
use state::{Batch, CommitError, CommitOutcome, Key, Prefix, Record, Space, Store, StoreError};

use crate::application::{Application, Duty, IncomingRequest};
use crate::session::{NoKey, SessionApplication, SessionEvent, SessionView};
use crate::shard::{CommitId, EventEnd, HandlerEnd, JobId, KeyEnd, LookupId, ReadId, ScanId};

/// Commits that are awaited together; what takes them in looks at the links in between.
const COMMITS_TOGETHER_MAX: usize = 64;

/// The end of something that took time.
pub(super) enum Finished {
    Handled(JobId, HandlerEnd),
    EventHandled(JobId, EventEnd),
    KeyFound(JobId, KeyEnd),
    Committed(Vec<(CommitId, CommitOutcome)>),
    Read(ReadId, Result<Option<Record>, StoreError>),
    Scanned(ScanId, Result<Vec<(Key, Record)>, StoreError>),
    Resolved { lookup: LookupId, host: String, port: u16, addresses: Vec<IpAddr> },
    Ticked(Vec<Duty>),
}

/// All that is under way.
pub(super) struct Work {
    application: Arc<dyn Application>,
    store: Arc<dyn Store>,
    /// What takes longer is given up, unless its application has a limit of its own.
    time_max: Duration,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Has ended already.
    ended: VecDeque<Finished>,
    /// Asked for in this turn.
    commits: Vec<(CommitId, Batch)>,
}

impl Work {
    pub(super) fn new(
        application: Arc<dyn Application>,
        store: Arc<dyn Store>,
        time_max: Duration,
    ) -> Work {
        let (running, commits) = (FuturesUnordered::new(), Vec::new());
        Work { application, store, time_max, running, ended: VecDeque::new(), commits }
    }

    /// The next that has ended. Commits that were asked for begin when nothing else is left to do, at the latest.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Finished> {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return Some(ended);
            }
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(finished)) => return Some(finished),
                Poll::Ready(None) | Poll::Pending if self.commits.is_empty() => return None,
                Poll::Ready(None) | Poll::Pending => self.begin_commits(),
            }
        }
    }

    /// Runs a handler; its end, if it needs not wait for anything.
    pub(super) fn handle(&mut self, job: JobId, request: IncomingRequest) -> Option<Finished> {
        let application = Arc::clone(&self.application);
        self.run(job, async move { HandlerEnd::Done(application.handle(&request).await) })
    }

    /// As [`handle`](Self::handle), for the question whether an application with sessions may have a request.
    pub(super) fn admit(&mut self, job: JobId, request: IncomingRequest) -> Option<Finished> {
        let application = Arc::clone(&self.application);
        self.run(job, async move {
            match application.admit(&request).await {
                Ok(batch) => HandlerEnd::Admitted(batch),
                Err(effects) => HandlerEnd::Done(effects),
            }
        })
    }

    fn run(
        &mut self,
        job: JobId,
        run: impl Future<Output = HandlerEnd> + Send + 'static,
    ) -> Option<Finished> {
        let mut run = AssertUnwindSafe(run).catch_unwind().boxed();
        let end = |end| match end {
            Some(Ok(end)) => end,
            Some(Err(_)) => HandlerEnd::Panicked,
            None => HandlerEnd::TimedOut,
        };
        if let Some(ended) = (&mut run).now_or_never() {
            return Some(Finished::Handled(job, end(Some(ended))));
        }
        let time_max = self.time_max;
        self.running.push(Box::pin(async move {
            Finished::Handled(job, end(tokio::time::timeout(time_max, run).await.ok()))
        }));
        None
    }

    /// Commits a batch, together with others of this turn; it does not wait for more of them than make a group.
    pub(super) fn commit(&mut self, commit: CommitId, batch: Batch) {
        self.commits.push((commit, batch));
        if self.commits.len() >= COMMITS_TOGETHER_MAX {
            self.begin_commits();
        }
    }

    /// Reads a record. Its end comes by [`poll`](Self::poll) even if it is known at once: of the hundred thousand reads
    /// that a takeover asks for, each leads to more.
    pub(super) fn read(&mut self, read: ReadId, key: Key) {
        let (store, time_max) = (Arc::clone(&self.store), self.time_max);
        let mut reading = async move { store.read(&key).await }.boxed();
        if let Some(found) = (&mut reading).now_or_never() {
            return self.ended.push_back(Finished::Read(read, found));
        }
        self.running.push(Box::pin(async move {
            let end = tokio::time::timeout(time_max, reading).await;
            Finished::Read(read, end.unwrap_or_else(|_| Err(too_late())))
        }));
    }

    /// Lists records.
    pub(super) fn scan(
        &mut self,
        scan: ScanId,
        space: Space,
        prefix: Prefix,
        after: Option<Key>,
        limit: usize,
    ) {
        let (store, time_max) = (Arc::clone(&self.store), self.time_max);
        self.running.push(Box::pin(async move {
            let page = store.scan(&space, &prefix, after.as_ref(), limit);
            let end = tokio::time::timeout(time_max, page).await;
            Finished::Scanned(scan, end.unwrap_or_else(|_| Err(too_late())))
        }));
    }

    fn time_max_of(&self, application: &dyn SessionApplication) -> Duration {
        application.handler_time_max().unwrap_or(self.time_max)
    }

    /// Runs a handler of a session's application.
    pub(super) fn handle_event(
        &mut self,
        job: JobId,
        application: Arc<dyn SessionApplication>,
        session: Box<SessionView>,
        event: Box<SessionEvent>,
    ) {
        let time_max = self.time_max_of(application.as_ref());
        self.running.push(Box::pin(async move {
            let run = async { application.on_event(&session, &event).await };
            let run = AssertUnwindSafe(run).catch_unwind();
            let end = match tokio::time::timeout(time_max, run).await {
                Ok(Ok(asked)) => EventEnd::Done(asked),
                Ok(Err(_)) => EventEnd::Panicked,
                Err(_) => EventEnd::TimedOut,
            };
            Finished::EventHandled(job, end)
        }));
    }

    /// Asks an application of sessions for the key of a request.
    pub(super) fn find_key(
        &mut self,
        job: JobId,
        application: Arc<dyn SessionApplication>,
        request: Box<Message>,
    ) {
        let time_max = self.time_max_of(application.as_ref());
        self.running.push(Box::pin(async move {
            let run = async { application.session_key(&request).await };
            let run = AssertUnwindSafe(run).catch_unwind();
            let end = match tokio::time::timeout(time_max, run).await {
                Ok(Ok(Ok(key))) => KeyEnd::Found(key),
                Ok(Ok(Err(NoKey { status }))) => KeyEnd::Refused(status),
                Ok(Err(_)) => KeyEnd::Panicked,
                Err(_) => KeyEnd::TimedOut,
            };
            Finished::KeyFound(job, end)
        }));
    }

    /// Awaits anything that has bounds of its own.
    pub(super) fn push(&mut self, work: BoxFuture<'static, Finished>) {
        self.running.push(work);
    }

    /// Begins the commits asked for so far, at the end of a turn that leaves something to do.
    pub(super) fn begin_commits(&mut self) {
        if self.commits.is_empty() {
            return;
        }
        let (ids, batches): (Vec<_>, Vec<_>) = self.commits.drain(..).unzip();
        let (store, time_max) = (Arc::clone(&self.store), self.time_max);
        self.running.push(Box::pin(async move {
            let outcomes = tokio::time::timeout(time_max, store.commit_all(batches)).await;
            // What is given up may be applied all the same.
            let late = CommitError::Unknown { reason: "the store took too long" };
            let outcomes = outcomes.unwrap_or_else(|_| vec![Err(late); ids.len()]);
            Finished::Committed(ids.into_iter().zip(outcomes).collect())
        }));
    }
}

/// A read that was given up.
fn too_late() -> StoreError {
    let source = Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
    StoreError::Engine { doing: "answer in time", source }
}
