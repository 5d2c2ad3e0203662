//! The containers, the store, and what carries messages between them and the phones.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use sip::{HeaderName, Message};
use state::engine::fake::{CommitFault, FakeStore};
use state::{CommitError, Prefix, Store, StoreError, UnixMillis, Version};
use transport::link::{EdgeAddress, Incoming, LinkFrame};
use transport::{Flow, Transport};

use super::agent::{Agent, settings};
use super::edge;
use super::phones::{Hangup, Phone};
use crate::application::{Caller, Effects, Response};
use crate::edges::LinkId;
use crate::session::{HttpRequest, Replication, SessionApplication, SessionId};
use crate::shard::sessions::{EventEnd, KeyEnd, SessionApplications, Sessions};
use crate::shard::{
    AskId, CommitId, HandlerEnd, HttpAsk, HttpOutcome, SessionChoice, Shard, ShardEffect,
};

mod fates;
mod stored;

const EDGE: &str = "192.0.2.1:5060";
const LINK: LinkId = LinkId(1);
/// Seldom: a round reads the whole index.
const ROUND: Duration = Duration::from_secs(30);
/// Longer than the pause that a container makes.
const BUSY_TIME: Duration = Duration::from_millis(1_500);
const TURNS_MAX: usize = 100_000;

/// What becomes of the first container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// After so many effects.
    DiesAfter(usize),
    /// It lives, but messages reach the second one first.
    IsMissed,
    /// It lives on, while the other takes it for dead, and gets the messages.
    IsTakenForDeadAfter(usize),
}

/// What goes wrong with one commit of the first container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It stands, and nobody knows.
    AppliedButUnknown,
    /// It does not, and nobody knows.
    LostAndUnknown,
    /// It stands, nobody knows, and the record cannot be read.
    AppliedAndUnreadable,
    /// It meets another one that is not there.
    Conflict,
    /// The store takes nothing, however often it is asked at once.
    Busy,
    /// It stands, nobody knows, and for a while the store neither takes nor tells anything.
    AppliedThenDeaf,
}

pub(super) struct World {
    pub(super) store: Arc<FakeStore>,
    containers: [Option<Container>; 2],
    pub(super) caller: Phone,
    pub(super) callee: Phone,
    pub(super) now: Instant,
    start: (Instant, UnixMillis),
    fate: Fate,
    /// Effects of the first container.
    pub(super) steps: usize,
    pub(super) handed_on: usize,
    next_round: Instant,
    pub(super) round: Duration,
    pub(super) timer_after: Duration,
    pub(super) timer_due: Option<UnixMillis>,
    /// Of the agent.
    pub(super) replication: Replication,
    pub(super) log: Vec<String>,
    /// Which commit of the first container goes wrong, and how.
    pub(super) trouble: Option<(usize, Trouble)>,
    /// Commits of the first container.
    pub(super) commits: usize,
    /// Until then the store is busy.
    busy_until: Instant,
    /// The next read fails.
    is_unreadable: bool,
    /// Until then all of them do.
    unreadable_until: Instant,
    /// What came for calls whose Call-ID begins with `other`.
    pub(super) others: Vec<Message>,
    /// The phones' call is one, and what the application has heard of it; else each has its own with the session.
    pub(super) proxied: Option<super::proxying::Heard>,
    /// What became of HTTP requests.
    pub(super) outcomes: Vec<HttpOutcome>,
    asked: u64,
    /// Request-URIs that the registrar was asked about; it knows nobody.
    pub(super) registrar: Vec<String>,
    /// What it was told of who calls.
    pub(super) callers: Vec<Caller>,
    /// Before the containers open: the registrar is asked who may begin a session.
    pub(super) is_guarded: bool,
    /// Who it was asked for: users of From.
    pub(super) asked_for: Vec<String>,
    /// What goes wrong with the next commits of the second container.
    pub(super) faults_of_second: VecDeque<CommitFault>,
    /// The next commit of the second container is heard of later.
    pub(super) is_next_late: bool,
    late: Option<(CommitId, Result<Vec<Version>, CommitError>)>,
    /// One effect of the one container, one of the other; else the second comes when the first has none.
    pub(super) takes_turns: bool,
    turns: usize,
    /// An application that must be seen to have sessions at each turn, and at how many it was.
    pub(super) witnessed: Option<(&'static str, usize)>,
    /// Those in which there is, or was, something.
    buckets: BTreeSet<Bytes>,
    /// The first container does nothing at all.
    stopped: bool,
}

struct Container {
    shard: Shard,
    effects: VecDeque<ShardEffect>,
    sequence: u64,
    /// What the edge keeps for it.
    untaken: Vec<(u64, Bytes)>,
}

impl World {
    pub(super) fn new(hangup: Hangup, fate: Fate) -> World {
        let now = Instant::now();
        World {
            store: Arc::new(FakeStore::default()),
            containers: [None, None],
            caller: Phone::new("caller", hangup == Hangup::Caller),
            callee: Phone::new("callee", hangup == Hangup::Callee),
            now,
            start: (now, SystemTime::now().into()),
            fate,
            steps: 0,
            handed_on: 0,
            next_round: now + ROUND,
            round: ROUND,
            timer_after: Duration::from_millis(1_900),
            timer_due: None,
            replication: Replication::BeforeReply,
            log: Vec::new(),
            trouble: None,
            commits: 0,
            busy_until: now,
            is_unreadable: false,
            unreadable_until: now,
            others: Vec::new(),
            proxied: None,
            outcomes: Vec::new(),
            asked: 0,
            registrar: Vec::new(),
            callers: Vec::new(),
            is_guarded: false,
            asked_for: Vec::new(),
            faults_of_second: VecDeque::new(),
            is_next_late: false,
            late: None,
            takes_turns: false,
            turns: 0,
            witnessed: None,
            buckets: BTreeSet::new(),
            stopped: false,
        }
    }

    /// Nothing goes round in circles.
    fn turn(&mut self) {
        self.turns += 1;
        let told = &self.log[self.log.len().saturating_sub(60)..];
        assert!(self.turns < TURNS_MAX, "{:?} goes on and on:\n{}", self.fate, told.join("\n"));
    }

    /// The containers begin to serve.
    pub(super) fn opens(&mut self) {
        self.containers = [self.container(1), self.container(2)].map(Some);
        self.topology(&[1, 2]);
    }

    pub(super) fn begins(&mut self) {
        self.opens();
        self.calls();
    }

    /// The caller calls.
    pub(super) fn calls(&mut self) {
        self.timer_due = Some(self.wall().saturating_add(self.timer_after));
        let invite = self.caller.calls(self.now);
        self.reaches_container(invite.buffer().clone());
        self.settles();
    }

    fn container(&self, number: u64) -> Container {
        let mut shard = Shard::new(settings(number), self.now, self.wall());
        let applications = SessionApplications::new(vec![self.agent("agent@1")]);
        shard.host(applications, vec!["example.com".to_owned()]);
        if self.is_guarded {
            shard.guard();
        }
        let own = EDGE.parse().unwrap();
        let address = EdgeAddress { transport: Transport::Udp, own, public: EDGE.to_owned() };
        let hello = LinkFrame::Hello {
            peer_name: "edge1".to_owned(),
            incarnation: 9,
            worker: 0,
            addresses: vec![address],
        };
        let mut effects = Vec::new();
        shard.frame(LINK, hello, self.now, &mut effects).unwrap();
        Container { shard, effects: VecDeque::new(), sequence: 0, untaken: Vec::new() }
    }

    /// The agent under this name.
    pub(super) fn agent(&self, name: &'static str) -> Arc<dyn SessionApplication> {
        let (timer_after, replication) = (self.timer_after, self.replication);
        Arc::new(Agent { name, timer_after, callee: "sip:bob@198.51.100.9", replication })
    }

    /// An HTTP request comes to a container.
    pub(super) fn asks(&mut self, number: usize, session: SessionChoice, request: HttpRequest) {
        self.asked += 1;
        let application = "web".to_owned();
        let ask = HttpAsk { id: AskId(self.asked), application, session, request };
        self.with(number, |shard, now, effects| shard.http(ask, now, effects));
        self.settles();
    }

    /// The session that a key of the application `web` leads to.
    pub(super) fn keyed(&self, key: &str) -> [u8; 16] {
        self.keyed_of("web", key).0
    }

    pub(super) fn keyed_of(&self, application: &str, key: &str) -> SessionId {
        let container = self.containers.iter().flatten().next().unwrap();
        container.shard.sessions.identity.keyed(application, key.as_bytes())
    }

    /// Every container hosts these from now on.
    pub(super) fn hosts(&mut self, applications: SessionApplications) {
        for number in [0, 1] {
            let applications = applications.clone();
            self.with(number, |shard, now, effects| {
                shard.use_applications(applications, now, effects);
            });
        }
        self.settles();
    }

    pub(super) fn wall(&self) -> UnixMillis {
        self.start.1.saturating_add(self.now - self.start.0)
    }

    fn with(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Shard, Instant, &mut Vec<ShardEffect>),
    ) {
        let (now, wall) = (self.now, self.wall());
        let Some(container) = &mut self.containers[number] else { return };
        if number == 0 && self.stopped {
            return;
        }
        container.shard.tell_time(now, wall, wall);
        let mut effects = Vec::new();
        act(&mut container.shard, now, &mut effects);
        container.effects.extend(effects);
    }

    /// A message of a phone arrives at an edge, which chooses.
    pub(super) fn reaches_container(&mut self, bytes: Bytes) {
        let is_over = match self.fate {
            Fate::IsTakenForDeadAfter(after) => self.steps > after,
            Fate::Lives | Fate::DiesAfter(_) | Fate::IsMissed => false,
        };
        // The INVITE begins at the first one in any case.
        let is_missed = self.fate == Fate::IsMissed && self.steps > 8;
        let number = usize::from(self.containers[0].is_none() || is_missed || is_over);
        self.offer(number, 0, bytes);
    }

    fn offer(&mut self, number: usize, hops: u8, bytes: Bytes) {
        let message = Message::parse(bytes.clone()).unwrap();
        self.log.push(format!("-> c{} {}", number + 1, word(&message)));
        let Some(container) = &mut self.containers[number] else { return };
        container.sequence += 1;
        let sequence = container.sequence;
        container.untaken.push((sequence, bytes.clone()));
        let remote = if edge::is_by_edge(&message) { EDGE } else { "198.51.100.7:5060" };
        let remote = remote.parse().unwrap();
        let flow = Flow::new(Transport::Udp, EDGE.parse().unwrap(), remote);
        let frame = LinkFrame::Incoming(Incoming { sequence, hops, flow, bytes });
        self.with(number, |shard, now, effects| {
            shard.frame(LINK, frame, now, effects).unwrap();
        });
    }

    /// Works off effects until there are none.
    fn settles(&mut self) {
        loop {
            self.turn();
            let is_busy = |number: &usize| {
                let container = self.containers[*number].as_ref();
                container.is_some_and(|container| !container.effects.is_empty())
            };
            let order =
                if self.takes_turns && self.turns.is_multiple_of(2) { [1, 0] } else { [0, 1] };
            let Some(number) = order.into_iter().find(is_busy) else { return };
            let effect = self.containers[number].as_mut().unwrap().effects.pop_front().unwrap();
            // Those of a pass over the indexes change nothing, and are many.
            if number == 0 && !matches!(effect, ShardEffect::Scan { .. }) {
                self.steps += 1;
                match self.fate {
                    Fate::DiesAfter(at) if self.steps > at => {
                        self.fate = Fate::Lives;
                        self.kill();
                        continue;
                    }
                    Fate::IsTakenForDeadAfter(at) if self.steps == at + 1 => self.slander(),
                    Fate::Lives
                    | Fate::DiesAfter(_)
                    | Fate::IsMissed
                    | Fate::IsTakenForDeadAfter(_) => {}
                }
            }
            self.carry_out(number, effect);
            self.witnesses();
        }
    }

    fn witnesses(&mut self) {
        let Some((application, turns)) = self.witnessed else { return };
        let told = self.log.join("\n");
        assert!(self.has_sessions(application), "nobody knows of one:\n{told}");
        assert!(self.has_begun(application), "one is neither beginning nor stored:\n{told}");
        self.witnessed = Some((application, turns + 1));
    }

    fn carry_out(&mut self, number: usize, effect: ShardEffect) {
        match effect {
            ShardEffect::Send { frame: LinkFrame::Outgoing { bytes, .. }, .. } => {
                self.reaches_phone(number, Message::parse(bytes).unwrap());
            }
            ShardEffect::Send { frame: LinkFrame::HandOn { to, hops, bytes, .. }, .. } => {
                self.handed_on += 1;
                let to = usize::try_from(to).unwrap() - 1;
                self.offer(to, hops + 1, bytes);
            }
            ShardEffect::Send { .. } => {}
            ShardEffect::Taken { sequence, .. } => {
                let container = self.containers[number].as_mut().unwrap();
                container.untaken.retain(|(kept, _)| *kept != sequence);
            }
            ShardEffect::HandleEvent { job, application, session, event } => {
                let asked = application.on_event(&session, &event).now_or_never().unwrap();
                self.with(number, |shard, now, effects| {
                    shard.event_handled(job, EventEnd::Done(asked), now, effects);
                });
            }
            ShardEffect::Commit { commit, batch } => {
                self.buckets.extend(batch.writes.first().map(|write| write.key.tag.clone()));
                if number == 0 {
                    self.goes_wrong();
                } else if let Some(fault) = self.faults_of_second.pop_front() {
                    self.store.inject_commit_fault(fault);
                }
                let result = self.store.commit(batch).now_or_never().unwrap();
                if number == 1 && std::mem::take(&mut self.is_next_late) {
                    self.late = Some((commit, result));
                    return;
                }
                self.log.push(format!("   c{} commit {:?}", number + 1, result.is_ok()));
                self.with(number, |shard, now, effects| {
                    shard.committed(commit, result, now, effects)
                });
                // Committed, and nobody was told.
                self.dies_behind(number);
            }
            ShardEffect::Read { read, key } => {
                if std::mem::take(&mut self.is_unreadable) || self.now < self.unreadable_until {
                    self.store.inject_read_fault(StoreError::Busy { waiting: 1 });
                }
                let result = self.store.read(&key).now_or_never().unwrap();
                self.with(number, |shard, now, effects| shard.read(read, result, now, effects));
            }
            // Most of 256 buckets are empty: the store need not say so.
            ShardEffect::Scan { scan, prefix: Prefix::Tag { tag, .. }, .. }
                if !self.buckets.contains(&tag) =>
            {
                self.with(number, |shard, now, effects| {
                    shard.scanned(scan, Ok(Vec::new()), now, effects);
                });
            }
            ShardEffect::Scan { scan, space, prefix, after, limit } => {
                let page = self.store.scan(&space, &prefix, after.as_ref(), limit);
                let result = page.now_or_never().unwrap();
                self.with(number, |shard, now, effects| shard.scanned(scan, result, now, effects));
            }
            ShardEffect::FindKey { job, application, request } => {
                let key = application.session_key(&request).now_or_never().unwrap();
                self.with(number, |shard, now, effects| {
                    let end = match key {
                        Ok(key) => KeyEnd::Found(key),
                        Err(no_key) => KeyEnd::Refused(no_key.status),
                    };
                    shard.key_found(job, end, now, effects);
                });
            }
            ShardEffect::HttpAnswered { outcome, .. } => {
                self.log.push(format!("   c{} answers HTTP: {outcome:?}", number + 1));
                self.outcomes.push(outcome);
            }
            ShardEffect::Admit { job, request, .. } => {
                let (end, caller) = super::admission::gatekeeper(&self.store, &request);
                self.log.push(format!("   c{} asks for {caller}: {end:?}", number + 1));
                self.asked_for.push(caller);
                self.with(number, |shard, now, effects| shard.handled(job, end, now, effects));
            }
            ShardEffect::Handle { job, request, caller, .. } => {
                let uri = request.request_uri().unwrap().to_vec();
                self.registrar.push(String::from_utf8(uri).unwrap());
                self.callers.push(caller);
                let end = HandlerEnd::Done(match self.proxied {
                    Some(_) => super::proxying::registrar(),
                    None => Effects::respond(Response::new(404)),
                });
                self.with(number, |shard, now, effects| shard.handled(job, end, now, effects));
            }
            ShardEffect::Resolve { .. } => panic!("nothing asks for that"),
        }
    }

    /// The first container is about to commit.
    fn goes_wrong(&mut self) {
        let trouble = self.trouble.filter(|(at, _)| *at == self.commits).map(|(_, what)| what);
        self.commits += 1;
        if trouble == Some(Trouble::Busy) {
            self.busy_until = self.now + BUSY_TIME;
        }
        let fault = match trouble {
            Some(Trouble::AppliedThenDeaf) => {
                (self.busy_until, self.unreadable_until) =
                    (self.now + BUSY_TIME, self.now + BUSY_TIME);
                CommitFault::AppliedButUnknown
            }
            _ if self.now < self.busy_until => CommitFault::Fails(StoreError::Busy { waiting: 1 }),
            Some(Trouble::AppliedButUnknown) => CommitFault::AppliedButUnknown,
            Some(Trouble::AppliedAndUnreadable) => {
                self.is_unreadable = true;
                CommitFault::AppliedButUnknown
            }
            Some(Trouble::LostAndUnknown) => CommitFault::LostAndUnknown,
            Some(Trouble::Conflict) => CommitFault::Conflicts,
            Some(Trouble::Busy) | None => return,
        };
        self.store.inject_commit_fault(fault);
    }

    fn dies_behind(&mut self, number: usize) {
        if number == 0 {
            self.steps += 1;
            if matches!(self.fate, Fate::DiesAfter(at) if self.steps > at) {
                self.fate = Fate::Lives;
                self.kill();
            }
        }
    }

    fn reaches_phone(&mut self, number: usize, message: Message) {
        self.log.push(format!("   c{} -> {}", number + 1, word(&message)));
        let call_id = message.call_id().unwrap();
        if call_id.starts_with(b"other") {
            return self.others.push(message);
        }
        if let Some(back) = edge::back(&message) {
            return self.reaches_container(back);
        }
        if self.proxied.is_some() {
            return self.passes_edge(message);
        }
        let is_callers = call_id == b"c1";
        let phone = if is_callers { &mut self.caller } else { &mut self.callee };
        for answer in phone.comes(message, self.now) {
            self.reaches_container(answer.buffer().clone());
        }
    }

    /// Lets time pass.
    pub(super) fn runs(&mut self, time: Duration) {
        let end = self.now + time;
        self.settles();
        loop {
            self.turn();
            let containers = self.containers.iter().skip(usize::from(self.stopped)).flatten();
            let timeouts = containers.filter_map(|container| container.shard.next_timeout());
            let phones = [self.caller.next(), self.callee.next(), Some(self.next_round)];
            let next = timeouts.chain(phones.into_iter().flatten()).min().unwrap();
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            for number in [0, 1] {
                self.with(number, |shard, now, effects| shard.timeout(now, effects));
            }
            if self.next_round <= self.now {
                self.next_round = self.now + self.round;
                for number in [0, 1] {
                    self.with(number, |shard, now, effects| shard.look_for_estates(now, effects));
                }
            }
            let now = self.now;
            let sent = [self.caller.timeout(now), self.callee.timeout(now)].concat();
            for message in sent {
                match self.proxied {
                    Some(_) => self.leaves_phone(message),
                    None => self.reaches_container(message.buffer().clone()),
                }
            }
            self.settles();
        }
        self.now = end;
    }

    /// Lets time pass until the call is over.
    pub(super) fn runs_until_hung_up(&mut self, time_max: Duration) {
        let end = self.now + time_max;
        while !self.is_hung_up() && self.now < end {
            self.runs(Duration::from_secs(1));
        }
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.caller.is_over && self.callee.is_over
    }

    pub(super) fn infos(&self) -> usize {
        self.callee.requests("INFO")
    }

    /// A message comes that is none of the two phones'; what is sent for it is in `others`.
    pub(super) fn comes(&mut self, text: &str) {
        self.reaches_container(Bytes::copy_from_slice(text.as_bytes()));
        self.settles();
    }

    /// Messages come to containers, before any of them does anything.
    pub(super) fn come_at_once(&mut self, texts: &[(usize, String)]) {
        for (number, text) in texts {
            self.offer(*number, 0, Bytes::copy_from_slice(text.as_bytes()));
        }
        self.settles();
    }

    /// The caller asks something in its call, in a message of so many octets.
    pub(super) fn caller_asks(&mut self, cseq: u32, octets: usize) {
        let info = self.caller.info(cseq, octets);
        self.reaches_container(info.buffer().clone());
        self.settles();
    }

    /// The second container hears of the commit that was kept from it, having stood still for so long.
    pub(super) fn late_commit_ends(&mut self, stood_still: Duration) {
        let (commit, result) = self.late.take().unwrap();
        self.now += stood_still;
        self.with(1, |shard, now, effects| shard.committed(commit, result, now, effects));
        self.settles();
    }

    /// The commit that the first container makes next goes wrong.
    pub(super) fn next_commit_goes_wrong(&mut self, trouble: Trouble) {
        self.trouble = Some((self.commits, trouble));
    }

    pub(super) fn second_container(&mut self) -> &mut Sessions {
        &mut self.containers[1].as_mut().unwrap().shard.sessions
    }

    pub(super) fn caller_hangs_up(&mut self) {
        let bye = self.caller.hangs_up(self.now);
        self.reaches_container(bye.buffer().clone());
        self.runs(Duration::from_secs(2));
    }

    pub(super) fn first_container(&mut self) -> &mut Sessions {
        &mut self.containers[0].as_mut().unwrap().shard.sessions
    }

    /// Requests that anybody proxies.
    pub(super) fn proxied_requests(&self) -> usize {
        self.containers.iter().flatten().map(|container| container.shard.contexts.len()).sum()
    }

    /// Sessions that anybody holds.
    pub(super) fn sessions(&self) -> usize {
        self.containers
            .iter()
            .flatten()
            .map(|container| container.shard.sessions.entries.len())
            .sum()
    }

    /// What the first container keeps of its only session; None if there is more than its record.
    pub(super) fn octets_at_rest(&self) -> Option<usize> {
        let entries = &self.containers[0].as_ref()?.shard.sessions.entries;
        let entry = entries.values().next()?;
        entry.live.is_none().then_some(entry.record.len())
    }
}

fn word(message: &Message) -> String {
    let cseq = message.field(HeaderName::CSeq).unwrap().escape_ascii();
    match message.status() {
        Some(status) => format!("{status} to {cseq}"),
        None => format!("{cseq}"),
    }
}
