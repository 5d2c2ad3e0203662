//! A container: the production shard and registrar, turned by virtual time instead of a runtime.
//!
//! One turn does what a turn of the container's server does, in the same order: what the manager says, new links,
//! links read to their end, timers, then handlers and commits, then everything is written. Handlers are futures over
//! the simulated store, polled whenever a turn comes.
//! Deliberately absent: name look-ups (every target is an address) and panicking handlers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use container::application::{Application, Duty, IncomingRequest, Tick};
use container::edges::LinkId;
use container::shard::{
    CommitId, EventEnd, HandlerEnd, JobId, ReadId, ScanId, SessionApplications, Shard, ShardEffect,
    ShardSettings,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use registrar::Registrar;
use state::clock::Clock;
use state::{CommitError, Key, Record, Store, StoreError, Version};
use topology::{ProcessName, ProcessState};
use transport::link::{LinkFrame, LinkReceiver, LinkSender, Refused, SendError};

use crate::agent::Timekeeper;
use crate::clock::NodeClock;
use crate::schedule::Moment;
use crate::store::StoreOfLife;
use crate::streams::{LifeId, Read, Side, StreamId, Streams};
use crate::trace::Trace;
use crate::word::{Turned, Word};

/// As the container process has it.
const TICK_INTERVAL: Duration = Duration::from_secs(5);
const HANDLER_TIME_MAX: Duration = Duration::from_secs(2);

/// What a container has to work with in one turn.
pub struct Surroundings<'a> {
    /// Virtual time.
    pub now: Moment,
    /// The same as the production code wants it.
    pub instant: Instant,
    /// The links.
    pub streams: &'a mut Streams,
    /// The story.
    pub trace: &'a mut Trace,
}

/// The end of something that took time.
enum Finished {
    Handled(JobId, HandlerEnd),
    EventHandled(JobId, EventEnd),
    Committed(CommitId, Result<Vec<Version>, CommitError>),
    Read(ReadId, Result<Option<Record>, StoreError>),
    Scanned(ScanId, Result<Vec<(Key, Record)>, StoreError>),
    Ticked(Vec<Duty>),
}

/// What becomes of work that takes too long.
#[derive(Debug, Clone, Copy)]
enum Late {
    Handler(JobId),
    Event(JobId),
    Commit(CommitId),
    Read(ReadId),
    Scan(ScanId),
    Never,
}

struct Work {
    future: BoxFuture<'static, Finished>,
    gives_up_at: Moment,
    late: Late,
}

struct Link {
    stream: StreamId,
    sender: LinkSender,
    receiver: LinkReceiver,
}

/// One life of a container.
pub struct ContainerProcess {
    life: LifeId,
    /// Its name among all nodes.
    listens_as: ProcessName,
    heartbeat_interval: Duration,
    clock: NodeClock,
    store: StoreOfLife,
    registrar: Arc<Registrar>,
    shard: Shard,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    work: Vec<Work>,
    effects: Vec<ShardEffect>,
    next_heartbeat: Moment,
    next_tick: Moment,
    is_ticking: bool,
    ends_at: Option<Moment>,
    is_wedged: bool,
}

impl ContainerProcess {
    /// A container that has just been welcomed; it listens from now on.
    pub fn new(
        life: LifeId,
        settings: ShardSettings,
        heartbeat_interval: Duration,
        clock: NodeClock,
        (store, registrar): (StoreOfLife, Registrar),
        listens_as: ProcessName,
        around: &mut Surroundings<'_>,
    ) -> ContainerProcess {
        around.streams.listen(&listens_as, life);
        let mut shard = Shard::new(settings, around.instant, clock.wall());
        let applications = SessionApplications::new(vec![Arc::new(Timekeeper::default())]);
        shard.host(applications, vec!["example.com".to_owned()]);
        ContainerProcess {
            life,
            listens_as,
            heartbeat_interval,
            clock,
            store,
            registrar: Arc::new(registrar),
            shard,
            links: BTreeMap::new(),
            next_link: 0,
            work: Vec::new(),
            effects: Vec::new(),
            next_heartbeat: around.now + heartbeat_interval,
            next_tick: around.now + TICK_INTERVAL,
            is_ticking: false,
            ends_at: None,
            is_wedged: false,
        }
    }

    /// Does everything that is ready.
    pub fn turn(&mut self, words: Vec<Word>, around: &mut Surroundings<'_>) -> Turned {
        self.shard.tell_time(around.instant, self.clock.wall(), self.clock.now());
        for word in words {
            match word {
                Word::View(view) => {
                    self.shard.topology(&view, around.instant, &mut self.effects);
                }
                Word::Keys(keys) => self.registrar.use_keys(&keys),
                Word::Drain(deadline_in) => {
                    self.shard.drain();
                    self.next_heartbeat = around.now;
                    self.ends_at = Some(around.now + deadline_in);
                }
                Word::Stop => self.ends_at = Some(around.now),
            }
        }
        self.accept(around);
        if !self.is_wedged {
            self.read_links(around);
        }
        self.run_timers(around);
        self.carry_out(around);
        self.poll_work(around);
        self.flush(around);
        let is_over = || {
            self.shard.is_quiet()
                && self.links.values().all(|link| link.sender.unwritten().is_empty())
        };
        match self.ends_at {
            Some(at) if at <= around.now || is_over() => Turned::Ends,
            Some(_) | None => Turned::GoesOn,
        }
    }

    /// Its SIP stands still or goes on, while its heart beats all the same.
    pub fn set_wedged(&mut self, is_wedged: bool) {
        self.is_wedged = is_wedged;
    }

    /// When it wants its next turn whatever happens.
    pub fn next_turn(&self, now: Moment, instant: Instant) -> Moment {
        let timeout = self
            .shard
            .next_timeout()
            .map(|deadline| now + deadline.saturating_duration_since(instant));
        let work = self.work.iter().map(|work| work.gives_up_at);
        timeout
            .into_iter()
            .chain(work)
            .chain(self.ends_at)
            .fold(self.next_heartbeat.min(self.next_tick), Moment::min)
    }

    /// Where it stands, as it tells a manager that did not start it.
    pub fn state(&self) -> ProcessState {
        if self.ends_at.is_some() { ProcessState::Draining } else { ProcessState::Ready }
    }

    /// Whether it takes what is new, and works it off.
    pub fn serves(&self) -> bool {
        !self.is_wedged && self.ends_at.is_none()
    }

    /// What a drain waits for.
    pub fn calls_left(&self) -> u64 {
        self.shard.left()
    }

    /// What it still holds although everything is over; None: it is at rest.
    pub fn left(&self) -> Option<String> {
        let load = match self.shard.heartbeat() {
            LinkFrame::Heartbeat { load, .. } => load,
            other => unreachable!("{other:?} is no heartbeat"),
        };
        // A round of duties, and of looking for the dead, may always be under way.
        let is_due = |work: &&Work| !matches!(work.late, Late::Never | Late::Scan(_));
        let work = self.work.iter().filter(is_due).count();
        let is_quiet = self.shard.is_quiet();
        let is_at_rest = is_quiet && work == 0 && load == 0;
        (!is_at_rest).then(|| format!("quiet {is_quiet}, load {load}, work {work}"))
    }

    fn accept(&mut self, around: &mut Surroundings<'_>) {
        while let Some(stream) = around.streams.accept(&self.listens_as, self.life) {
            self.next_link += 1;
            let link = Link { stream, sender: LinkSender::new(), receiver: LinkReceiver::new() };
            self.links.insert(LinkId(self.next_link), link);
        }
    }

    /// Reads each link to its end, so that what is left of one that is closed already is known to be offered elsewhere.
    fn read_links(&mut self, around: &mut Surroundings<'_>) {
        let mut ended = Vec::new();
        for (id, link) in &mut self.links {
            let has_ended = loop {
                match around.streams.read(link.stream, Side::Container, around.now) {
                    Read::Bytes(bytes) => link.receiver.push(&bytes),
                    Read::Nothing => break false,
                    Read::Ended => break true,
                }
            };
            loop {
                match link.receiver.next_frame() {
                    Ok(Some(frame)) => self
                        .shard
                        .frame(*id, frame, around.instant, &mut self.effects)
                        .unwrap_or_else(|fault| panic!("an edge broke the protocol: {fault}")),
                    Ok(None) => break,
                    Err(error) => panic!("an edge wrote what is no frame: {error}"),
                }
            }
            if has_ended {
                ended.push(*id);
            }
        }
        self.end_links(&ended, around);
    }

    fn end_links(&mut self, ended: &[LinkId], around: &mut Surroundings<'_>) {
        for id in ended {
            if let Some(link) = self.links.remove(id) {
                around.streams.close(link.stream, Side::Container, around.now);
            }
            self.shard.link_down(*id, around.instant, &mut self.effects);
        }
    }

    fn run_timers(&mut self, around: &mut Surroundings<'_>) {
        if self.shard.next_timeout().is_some_and(|at| at <= around.instant) {
            self.shard.timeout(around.instant, &mut self.effects);
        }
        if self.next_heartbeat <= around.now {
            self.next_heartbeat = around.now + self.heartbeat_interval;
            let frame = self.shard.heartbeat();
            let links: Vec<_> = self.shard.links().collect();
            let heartbeats =
                links.into_iter().map(|link| ShardEffect::Send { link, frame: frame.clone() });
            self.effects.extend(heartbeats);
        }
        if self.next_tick <= around.now {
            self.next_tick = around.now + TICK_INTERVAL;
            self.shard.look_for_estates(around.instant, &mut self.effects);
            if !self.is_ticking {
                self.is_ticking = true;
                let application = Arc::clone(&self.registrar);
                let tick = Tick::new(Clock::now(&self.clock), self.shard.share().clone());
                let round = async move { Finished::Ticked(application.tick(&tick).await) };
                self.begin(Box::pin(round), Moment::MAX, Late::Never);
            }
        }
    }

    /// Begins what the shard asks for, until it asks for nothing more.
    fn carry_out(&mut self, around: &mut Surroundings<'_>) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    ShardEffect::Send { link, frame } => self.send(link, &frame, around),
                    ShardEffect::Taken { link, sequence } => {
                        if let Some(link) = self.links.get_mut(&link) {
                            link.receiver.taken(sequence);
                        }
                    }
                    ShardEffect::Handle { job, request, flow, caller, attempt } => {
                        let now = self.clock.wall();
                        let request = IncomingRequest {
                            attempt,
                            caller,
                            expiry_now: Clock::now(&self.clock),
                            ..IncomingRequest::new(*request, flow, now)
                        };
                        let application = Arc::clone(&self.registrar);
                        let run = async move {
                            let effects = application.handle(&request).await;
                            Finished::Handled(job, HandlerEnd::Done(effects))
                        };
                        let late = Late::Handler(job);
                        self.begin(Box::pin(run), around.now + HANDLER_TIME_MAX, late);
                    }
                    ShardEffect::HandleEvent { job, application, session, event } => {
                        let run = async move {
                            let asked = application.on_event(&session, &event).await;
                            Finished::EventHandled(job, EventEnd::Done(asked))
                        };
                        let late = Late::Event(job);
                        self.begin(Box::pin(run), around.now + HANDLER_TIME_MAX, late);
                    }
                    // The applications of a story have neither keys nor HTTP, and nobody is asked who calls.
                    ShardEffect::FindKey { .. }
                    | ShardEffect::Admit { .. }
                    | ShardEffect::HttpAnswered { .. } => {}
                    ShardEffect::Commit { commit, batch } => {
                        let store = self.store.clone();
                        let committing =
                            async move { Finished::Committed(commit, store.commit(batch).await) };
                        let late = Late::Commit(commit);
                        self.begin(Box::pin(committing), around.now + HANDLER_TIME_MAX, late);
                    }
                    ShardEffect::Read { read, key } => {
                        let store = self.store.clone();
                        let reading = async move { Finished::Read(read, store.read(&key).await) };
                        let late = Late::Read(read);
                        self.begin(Box::pin(reading), around.now + HANDLER_TIME_MAX, late);
                    }
                    ShardEffect::Scan { scan, space, prefix, after, limit } => {
                        let store = self.store.clone();
                        let scanning = async move {
                            let page = store.scan(&space, &prefix, after.as_ref(), limit);
                            Finished::Scanned(scan, page.await)
                        };
                        let late = Late::Scan(scan);
                        self.begin(Box::pin(scanning), around.now + HANDLER_TIME_MAX, late);
                    }
                    ShardEffect::Resolve { host, .. } => {
                        panic!("nobody in this world has a name, {host} neither")
                    }
                }
            }
        }
    }

    fn begin(&mut self, future: BoxFuture<'static, Finished>, gives_up_at: Moment, late: Late) {
        self.work.push(Work { future, gives_up_at, late });
    }

    fn send(&mut self, link: LinkId, frame: &LinkFrame, around: &mut Surroundings<'_>) {
        if let LinkFrame::Outgoing { bytes, .. } = frame {
            around.trace.message(&self.listens_as, "sends", bytes);
        }
        let error = match self.links.get_mut(&link).map(|link| link.sender.try_send(frame)) {
            Some(Ok(())) => return,
            Some(Err(Refused::Full)) | None => SendError::Full,
            Some(Err(Refused::Frame(_))) => SendError::Refused,
        };
        if let LinkFrame::Outgoing { id, .. } = frame {
            self.shard.send_failed(*id, error, around.instant, &mut self.effects);
        }
    }

    /// Polls what was begun, in that order, until nothing goes on any more.
    fn poll_work(&mut self, around: &mut Surroundings<'_>) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            let mut has_progressed = woken.0.swap(false, Ordering::Relaxed);
            let mut place = 0;
            while place < self.work.len() {
                let work = &mut self.work[place];
                let finished = match work.future.poll_unpin(&mut context) {
                    Poll::Ready(finished) => Some(Ok(finished)),
                    Poll::Pending if work.gives_up_at <= around.now => Some(Err(work.late)),
                    Poll::Pending => None,
                };
                let Some(finished) = finished else {
                    place += 1;
                    continue;
                };
                drop(self.work.remove(place));
                has_progressed = true;
                self.finish(finished, around);
                self.carry_out(around);
            }
            has_progressed |= woken.0.load(Ordering::Relaxed);
            if !has_progressed {
                return;
            }
        }
    }

    fn finish(&mut self, finished: Result<Finished, Late>, around: &mut Surroundings<'_>) {
        let (now, effects) = (around.instant, &mut self.effects);
        match finished {
            Ok(Finished::Handled(job, end)) => self.shard.handled(job, end, now, effects),
            Ok(Finished::EventHandled(job, end)) => {
                self.shard.event_handled(job, end, now, effects);
            }
            Ok(Finished::Committed(commit, result)) => {
                if let Err(error) = &result {
                    around.trace.note(&self.listens_as, format_args!("commit failed: {error}"));
                }
                self.shard.committed(commit, result, now, effects);
            }
            Ok(Finished::Read(read, result)) => self.shard.read(read, result, now, effects),
            Ok(Finished::Scanned(scan, result)) => {
                self.shard.scanned(scan, result, now, effects);
            }
            Ok(Finished::Ticked(duties)) => {
                self.is_ticking = false;
                for duty in duties {
                    self.shard.duty(&duty, effects);
                }
            }
            Err(Late::Handler(job)) => {
                self.shard.handled(job, HandlerEnd::TimedOut, now, effects);
            }
            Err(Late::Event(job)) => {
                self.shard.event_handled(job, EventEnd::TimedOut, now, effects);
            }
            Err(Late::Commit(commit)) => {
                let late = CommitError::Unknown { reason: "the store took too long" };
                self.shard.committed(commit, Err(late), now, effects);
            }
            Err(Late::Read(read)) => {
                self.shard.read(read, Err(StoreError::Busy { waiting: 0 }), now, effects);
            }
            Err(Late::Scan(scan)) => {
                self.shard.scanned(scan, Err(StoreError::Busy { waiting: 0 }), now, effects);
            }
            Err(Late::Never) => {}
        }
    }

    /// Writes every link; what the end of one brings about is written as well.
    fn flush(&mut self, around: &mut Surroundings<'_>) {
        loop {
            let mut ended = Vec::new();
            for (id, link) in &mut self.links {
                if let Some(up_to) = link.receiver.acknowledgement() {
                    let taken = LinkFrame::Taken { up_to };
                    link.sender.try_send(&taken).expect("an edge reads in time to take the news");
                }
                let unwritten = link.sender.unwritten();
                if unwritten.is_empty() {
                    continue;
                }
                match around.streams.write(link.stream, Side::Container, unwritten, around.now) {
                    Some(count) => link.sender.written(count),
                    None => ended.push(*id),
                }
            }
            if ended.is_empty() {
                return;
            }
            self.end_links(&ended, around);
            self.carry_out(around);
        }
    }
}

/// Remembers that a future wants to be polled again at once.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
