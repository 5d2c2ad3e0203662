//! The containers, the store, and what carries messages between them and the phones.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::transaction::Timers;
use sip::{HeaderName, Message, Method};
use state::engine::fake::{CommitFault, FakeStore};
use state::{Prefix, Store, StoreError, UnixMillis};
use topology::view::WEIGHT_DEFAULT;
use topology::{
    Incarnation, KeyRing, ProcessEntry, ProcessName, ProcessState, ProcessType, TopologyView,
};
use transport::link::{EdgeAddress, Incoming, LinkFrame};
use transport::{Flow, Transport};

use super::phones::{Hangup, Phone};
use crate::application::Response;
use crate::edges::LinkId;
use crate::session::{
    CALLER, LegName, LegState, SessionApplication, SessionEffect, SessionEvent, SessionView,
};
use crate::shard::sessions::{EventEnd, SessionApplications};
use crate::shard::{Shard, ShardEffect, ShardSettings};
use crate::transactions::TransactionSettings;

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
}

pub(super) fn invite() -> Message {
    let text = "INVITE sip:bob@b2b.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKcaller\r\n\
         Record-Route: <sip:flow1@192.0.2.1;lr>\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=caller\r\nTo: <sip:bob@b2b.example.com>\r\nCall-ID: c1\r\n\
         CSeq: 7 INVITE\r\nContact: <sip:alice@198.51.100.7>\r\nContent-Length: 0\r\n\r\n";
    Message::parse(text.as_bytes().to_vec().into()).unwrap()
}

/// Calls bob, passes on what one side does, and asks the callee something when a timer fires.
struct Agent {
    timer_after: Duration,
}

impl SessionApplication for Agent {
    fn name(&self) -> &str {
        "agent"
    }

    fn accepts(&self, request: &Message) -> bool {
        request.method() == Some(Method::Invite)
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        Box::pin(async move { self.decide(session, event) })
    }
}

impl Agent {
    fn decide(&self, session: &SessionView, event: &SessionEvent) -> Vec<SessionEffect> {
        let callee = || LegName::new("callee");
        let send = |leg: &LegName, method: &'static str| SessionEffect::Send {
            leg: leg.clone(),
            method: method.into(),
            headers: Vec::new(),
            body: None,
        };
        match event {
            SessionEvent::Request { leg, request, message } => match message.method().unwrap() {
                Method::Invite => vec![
                    SessionEffect::Call {
                        leg: callee(),
                        target: "sip:bob@198.51.100.9".into(),
                        from: "<sip:alice@example.com>".into(),
                        to: "<sip:bob@example.com>".into(),
                        headers: Vec::new(),
                        body: None,
                    },
                    SessionEffect::StartTimer {
                        name: "ask".to_owned(),
                        after: self.timer_after,
                        every: None,
                    },
                    SessionEffect::Set {
                        name: "first".to_owned(),
                        value: request.0.to_string().into(),
                    },
                ],
                Method::Bye => {
                    let other = session.legs.iter().find(|other| other.name != *leg);
                    other.map(|other| send(&other.name, "BYE")).into_iter().collect()
                }
                _ => Vec::new(),
            },
            SessionEvent::Response { message, leg } if leg.as_str() == "callee" => {
                let status = message.status().unwrap();
                let unanswered =
                    session.leg(CALLER).and_then(|leg| leg.unanswered.first().cloned());
                let is_invite = message.cseq().unwrap().method == Method::Invite;
                let Some((request, _)) = unanswered.filter(|_| is_invite) else {
                    return Vec::new();
                };
                let mut effects =
                    vec![SessionEffect::Respond { request, response: Response::new(status) }];
                if status == 200 {
                    let (headers, body) = (Vec::new(), None);
                    effects.push(SessionEffect::Acknowledge { leg: callee(), headers, body });
                }
                effects
            }
            SessionEvent::Timer { .. } => {
                let stands =
                    session.leg("callee").is_some_and(|leg| leg.state == LegState::Confirmed);
                if stands { vec![send(&callee(), "INFO")] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }
}

pub(super) struct World {
    pub(super) store: Arc<FakeStore>,
    containers: [Option<Container>; 2],
    pub(super) caller: Phone,
    pub(super) callee: Phone,
    now: Instant,
    start: (Instant, UnixMillis),
    fate: Fate,
    /// Effects of the first container.
    pub(super) steps: usize,
    pub(super) handed_on: usize,
    next_round: Instant,
    pub(super) round: Duration,
    pub(super) timer_after: Duration,
    pub(super) timer_due: Option<UnixMillis>,
    pub(super) log: Vec<String>,
    /// Which commit of the first container goes wrong, and how.
    pub(super) trouble: Option<(usize, Trouble)>,
    /// Commits of the first container.
    pub(super) commits: usize,
    /// Until then the store is busy.
    busy_until: Instant,
    /// The next read fails.
    is_unreadable: bool,
    turns: usize,
    /// Those in which there is, or was, something.
    buckets: BTreeSet<Bytes>,
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
            log: Vec::new(),
            trouble: None,
            commits: 0,
            busy_until: now,
            is_unreadable: false,
            turns: 0,
            buckets: BTreeSet::new(),
        }
    }

    /// Nothing goes round in circles.
    fn turn(&mut self) {
        self.turns += 1;
        let told = &self.log[self.log.len().saturating_sub(60)..];
        assert!(self.turns < TURNS_MAX, "{:?} goes on and on:\n{}", self.fate, told.join("\n"));
    }

    pub(super) fn begins(&mut self) {
        self.containers = [self.container(1), self.container(2)].map(Some);
        self.topology(&[1, 2]);
        self.timer_due = Some(self.wall().saturating_add(self.timer_after));
        let invite = self.caller.calls(self.now);
        self.reaches_container(invite.buffer().clone());
        self.settles();
    }

    fn container(&self, number: u64) -> Container {
        let settings = ShardSettings {
            name: ProcessName::new(format!("c{number}")),
            incarnation: Incarnation(number),
            node: "n1".to_owned(),
            keys: KeyRing::new([1; 32]),
            transactions: TransactionSettings { timers: Timers::default(), transactions_max: 100 },
            commit_conflicts_max: 3,
        };
        let mut shard = Shard::new(settings, self.now, self.wall());
        let agent = Agent { timer_after: self.timer_after };
        shard.host(SessionApplications(vec![Arc::new(agent)]), vec!["example.com".to_owned()]);
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

    fn view(alive: &[u64]) -> TopologyView {
        let entry = |number: u64| ProcessEntry {
            name: ProcessName::new(format!("c{number}")),
            process_type: ProcessType::Container,
            incarnation: Incarnation(number),
            pid: None,
            state: if alive.contains(&number) {
                ProcessState::Ready
            } else {
                ProcessState::Backoff
            },
            restarts: 0,
            link: None,
            addresses: Vec::new(),
            weight: WEIGHT_DEFAULT,
        };
        TopologyView { processes: vec![entry(1), entry(2)], ..TopologyView::default() }
    }

    /// Everybody alive learns who is.
    fn topology(&mut self, alive: &[u64]) {
        for number in [0, 1] {
            self.with(number, |shard, now, effects| {
                shard.topology(&World::view(alive), now, effects)
            });
        }
    }

    pub(super) fn wall(&self) -> UnixMillis {
        self.start.1.saturating_add(self.now - self.start.0)
    }

    /// The first container dies.
    /// An edge serves that has no link to anybody yet.
    pub(super) fn gets_another_edge(&mut self) {
        let mut view = World::view(&[2]);
        let edge = ProcessEntry {
            name: ProcessName::new("edge2"),
            process_type: ProcessType::Edge,
            incarnation: Incarnation(9),
            state: ProcessState::Ready,
            addresses: vec![topology::EdgeAddress {
                transport: topology::ListenerTransport::Udp,
                own: "192.0.2.2:5060".parse().unwrap(),
                public: "192.0.2.2:5060".to_owned(),
            }],
            ..view.processes[0].clone()
        };
        view.processes.push(edge);
        self.with(1, |shard, now, effects| shard.topology(&view, now, effects));
    }

    pub(super) fn kill(&mut self) {
        self.log.push("killed".to_owned());
        let dead = self.containers[0].take();
        self.topology(&[2]);
        for (_, bytes) in dead.into_iter().flat_map(|dead| dead.untaken) {
            self.reaches_container(bytes);
        }
    }

    /// The second container is told that the first is dead, which is not true.
    fn slander(&mut self) {
        self.log.push("taken for dead".to_owned());
        let now = self.now;
        if let Some(container) = &mut self.containers[1] {
            let mut effects = Vec::new();
            container.shard.topology(&World::view(&[2]), now, &mut effects);
            container.effects.extend(effects);
        }
    }

    fn with(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Shard, Instant, &mut Vec<ShardEffect>),
    ) {
        let (now, wall) = (self.now, self.wall());
        let Some(container) = &mut self.containers[number] else { return };
        container.shard.tell_time(now, wall, wall);
        let mut effects = Vec::new();
        act(&mut container.shard, now, &mut effects);
        container.effects.extend(effects);
    }

    /// A message of a phone arrives at an edge, which chooses.
    fn reaches_container(&mut self, bytes: Bytes) {
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
        let remote = "198.51.100.7:5060".parse().unwrap();
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
            let number = match &self.containers {
                [Some(first), _] if !first.effects.is_empty() => 0,
                [_, Some(second)] if !second.effects.is_empty() => 1,
                _ => return,
            };
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
        }
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
                }
                let result = self.store.commit(batch).now_or_never().unwrap();
                self.log.push(format!("   c{} commit {:?}", number + 1, result.is_ok()));
                self.with(number, |shard, now, effects| {
                    shard.committed(commit, result, now, effects)
                });
                // Committed, and nobody was told.
                self.dies_behind(number);
            }
            ShardEffect::Read { read, key } => {
                if std::mem::take(&mut self.is_unreadable) {
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
            ShardEffect::Handle { .. } | ShardEffect::Resolve { .. } => {
                panic!("nothing asks for that")
            }
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
        let is_callers = message.call_id().unwrap() == b"c1";
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
            let containers = self.containers.iter().flatten();
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
                self.reaches_container(message.buffer().clone());
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

    pub(super) fn stored_octets(&self) -> usize {
        let space = state::Space::named("session");
        let page = self.store.scan(&space, &Prefix::All, None, 10);
        page.now_or_never().unwrap().unwrap()[0].1.value.len()
    }
}

fn word(message: &Message) -> String {
    let cseq = message.field(HeaderName::CSeq).unwrap().escape_ascii();
    match message.status() {
        Some(status) => format!("{status} to {cseq}"),
        None => format!("{cseq}"),
    }
}
