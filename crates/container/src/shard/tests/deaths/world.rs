//! The edge, the phones and the store around three shards, and the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use state::Prefix;
use state::clock::Clock;
use topology::{ProcessEntry, ProcessState, ProcessType};

use super::*;
use crate::application::QValue;
use crate::ownership::index::OWNED;
use crate::setup::SET_UPS;

struct Member {
    shard: Option<Shard>,
    effects: VecDeque<ShardEffect>,
    untaken: BTreeMap<u64, (u8, String)>,
    sequence: u64,
    /// Cut off until then: nothing is done by it.
    thaws_at: Option<Instant>,
    link: LinkId,
    done: usize,
}

struct Callee {
    manner: Manner,
    /// The INVITE of each branch, and what was answered last.
    rings: BTreeMap<Vec<u8>, (Message, u16)>,
    says_at: Option<Instant>,
    repeats_at: Option<Instant>,
    is_acknowledged: bool,
    rang: usize,
    /// A failure that was acknowledged is forgotten after T4: then the same INVITE is a new one.
    forgets_at: Option<Instant>,
}

struct Caller {
    heard: Vec<u16>,
    finals: BTreeSet<u16>,
    answered_at: Option<Instant>,
    repeats_at: Option<Instant>,
    interval: Duration,
    cancels_at: Option<Instant>,
    cancel_repeats_at: Option<Instant>,
}

pub(super) struct World {
    members: Vec<Member>,
    pub(super) store: FakeStore,
    /// The store's; it stands still until everything is over.
    clock: Arc<ManualClock>,
    plan: ProxyPlan,
    now: Instant,
    began: Instant,
    caller: Caller,
    callees: BTreeMap<String, Callee>,
    /// Messages for containers: by name, or whoever is chosen.
    wire: VecDeque<(Option<String>, u8, String)>,
    pub(super) fate: Option<(Fate, usize)>,
    dead: Vec<usize>,
    /// The next round of duties: what nobody was told of is found by looking.
    looks_at: Instant,
    /// How many rounds are worth their time.
    looks_left: usize,
    /// By which the caller is connected.
    pub(super) transport: Transport,
}

const T1: Duration = Duration::from_millis(500);
const END: Duration = Duration::from_secs(400);

fn plan_of(targets: &str) -> ProxyPlan {
    let mut all = Vec::new();
    for (group, q) in targets.split('|').zip((0..1_000).rev()) {
        for flows in group.split_whitespace() {
            all.extend(flows.split('>').map(|flow| Target {
                q: QValue::from_thousandths(q),
                instance: flows.contains('>').then(|| flows.to_owned().into()),
                ..Target::new(format!("sip:{flow}@198.51.100.8"))
            }));
        }
    }
    ProxyPlan::to_targets(all)
}

impl World {
    pub(super) fn new(scenario: &Scenario, fate: Option<(Fate, usize)>) -> World {
        let now = Instant::now();
        let clock = Arc::new(ManualClock::at(std::time::SystemTime::now().into()));
        let callees = scenario.manners.iter().map(|(name, manner)| {
            let callee = Callee {
                manner: *manner,
                rings: BTreeMap::new(),
                says_at: None,
                repeats_at: None,
                is_acknowledged: false,
                rang: 0,
                forgets_at: None,
            };
            ((*name).to_owned(), callee)
        });
        let mut world = World {
            members: Vec::new(),
            store: FakeStore::new(clock.clone()),
            clock,
            plan: plan_of(scenario.targets),
            now,
            began: now,
            caller: Caller {
                heard: Vec::new(),
                finals: BTreeSet::new(),
                answered_at: None,
                repeats_at: Some(now + T1),
                interval: T1,
                cancels_at: scenario.cancels_after.map(|after| now + Duration::from_millis(after)),
                cancel_repeats_at: None,
            },
            callees: callees.collect(),
            wire: VecDeque::new(),
            fate,
            dead: Vec::new(),
            looks_at: now + Duration::from_secs(5),
            looks_left: 0,
            transport: Transport::Udp,
        };
        for index in 0..3 {
            world.add_member(index);
        }
        world.tell_view();
        world
    }

    fn add_member(&mut self, index: u64) {
        let settings = ShardSettings {
            name: ProcessName::new(format!("c{}", index + 1)),
            incarnation: Incarnation(index + 1),
            node: "n1".to_owned(),
            keys: KeyRing::new([1; 32]),
            transactions: TransactionSettings { timers: Timers::default(), transactions_max: 100 },
            commit_conflicts_max: 3,
        };
        let mut shard = Shard::new(settings, self.now, std::time::SystemTime::now().into());
        let mut effects = Vec::new();
        let link = LinkId(1);
        shard.frame(link, hello(EDGE_1), self.now, &mut effects).unwrap();
        self.members.push(Member {
            shard: Some(shard),
            effects: VecDeque::new(),
            untaken: BTreeMap::new(),
            sequence: 0,
            thaws_at: None,
            link,
            done: 0,
        });
    }

    fn tell_view(&mut self) {
        let entry = |index: usize| ProcessEntry {
            name: ProcessName::new(format!("c{}", index + 1)),
            process_type: ProcessType::Container,
            incarnation: Incarnation(index as u64 + 1),
            pid: None,
            state: match self.dead.contains(&index) {
                true => ProcessState::Backoff,
                false => ProcessState::Ready,
            },
            restarts: 0,
            link: None,
            link_address: None,
            addresses: Vec::new(),
            weight: 100,
            is_silent: false,
            http: None,
        };
        let view = TopologyView {
            processes: (0..self.members.len()).map(entry).collect(),
            ..TopologyView::default()
        };
        for index in 0..self.members.len() {
            // Who stands still hears nothing, and later still takes itself for alive.
            if !self.dead.contains(&index) {
                self.with(index, |shard, now, effects| shard.topology(&view, now, effects));
            }
        }
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Shard, Instant, &mut Vec<ShardEffect>)) {
        let member = &mut self.members[index];
        let Some(shard) = &mut member.shard else { return };
        let mut effects = Vec::new();
        act(shard, self.now, &mut effects);
        member.effects.extend(effects);
    }

    fn is_reachable(&self, index: usize) -> bool {
        let member = &self.members[index];
        member.shard.is_some() && member.thaws_at.is_none()
    }

    /// The store's clock stands still.
    fn wall(&self) -> UnixMillis {
        std::time::SystemTime::now().into()
    }

    /// The edge has a message for the container of this name, or for whoever is chosen.
    fn offer(&mut self, name: Option<&str>, hops: u8, text: String) {
        let named = name.and_then(|name| name.strip_prefix('c')?.parse::<usize>().ok());
        let index = named
            .map(|number| number - 1)
            .filter(|index| self.is_reachable(*index))
            .or_else(|| (0..self.members.len()).find(|index| self.is_reachable(*index)));
        let Some(index) = index else { return };
        let flow = flow(self.transport);
        let member = &mut self.members[index];
        member.sequence += 1;
        let (sequence, link) = (member.sequence, member.link);
        member.untaken.insert(sequence, (hops, text.clone()));
        let incoming = Incoming { sequence, hops, flow, bytes: text.into_bytes().into() };
        self.with(index, |shard, now, effects| {
            shard.frame(link, LinkFrame::Incoming(incoming), now, effects).unwrap();
        });
    }

    fn befall(&mut self) {
        let Some((fate, at)) = self.fate else { return };
        // Even: after a thing that it did. Odd: when it was about to do the next one.
        if self.members[0].done * 2 < at {
            return;
        }
        self.fate = None;
        self.looks_left = 2;
        self.dead.push(0);
        let untaken: Vec<_> = std::mem::take(&mut self.members[0].untaken).into_values().collect();
        match fate {
            Fate::Dies | Fate::DiesUnheard => {
                self.members[0].shard = None;
                self.members[0].effects.clear();
            }
            Fate::StandsStill(seconds) => {
                self.members[0].thaws_at = Some(self.now + Duration::from_secs(seconds));
            }
        }
        if fate == Fate::Dies {
            self.tell_view();
        }
        for (hops, text) in untaken {
            self.offer(None, hops, text);
        }
        if fate != Fate::Dies {
            self.run();
            self.tell_view();
        }
    }

    /// Until nobody has anything to do at this instant.
    fn run(&mut self) {
        loop {
            let ready = (0..self.members.len()).find(|index| {
                self.is_reachable(*index) && !self.members[*index].effects.is_empty()
            });
            if let Some(index) = ready {
                let effect = self.members[index].effects.pop_front().unwrap();
                // Looking for the dead is no step of a call.
                self.members[index].done +=
                    usize::from(!matches!(effect, ShardEffect::Scan { .. }));
                self.carry_out(index, effect);
                self.befall();
            } else if let Some((name, hops, text)) = self.wire.pop_front() {
                self.offer(name.as_deref(), hops, text);
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, index: usize, effect: ShardEffect) {
        match effect {
            ShardEffect::Send { link, frame } if link == self.members[index].link => match frame {
                LinkFrame::Outgoing { bytes, .. } => {
                    let message = Message::parse(bytes).unwrap();
                    match message.status() {
                        Some(status) => self.caller_hears(&message, status),
                        None => self.callee_hears(&message),
                    }
                }
                LinkFrame::HandOn { to, hops, bytes, .. } => {
                    let owner = usize::try_from(to).unwrap() - 1;
                    if self.is_reachable(owner) {
                        let text = String::from_utf8(bytes.to_vec()).unwrap();
                        self.wire.push_back((Some(format!("c{to}")), hops + 1, text));
                    }
                }
                _ => {}
            },
            ShardEffect::Send { .. } => {} // a link of its former life
            ShardEffect::Taken { sequence, .. } => {
                self.members[index].untaken.remove(&sequence);
            }
            ShardEffect::Handle { job, .. } => {
                let end = HandlerEnd::Done(Effects::proxy(self.plan.clone()));
                self.with(index, |shard, now, effects| shard.handled(job, end, now, effects));
            }
            ShardEffect::Commit { commit, batch } => {
                let result = self.store.commit(batch).now_or_never().unwrap();
                self.with(index, |shard, now, effects| {
                    shard.committed(commit, result, now, effects);
                });
            }
            ShardEffect::Read { read, key } => {
                let result = self.store.read(&key).now_or_never().unwrap();
                self.with(index, |shard, now, effects| shard.read(read, result, now, effects));
            }
            ShardEffect::Scan { scan, space, prefix, after, limit } => {
                let page = self.store.scan(&space, &prefix, after.as_ref(), limit);
                let result = page.now_or_never().unwrap();
                self.with(index, |shard, now, effects| shard.scanned(scan, result, now, effects));
            }
            ShardEffect::Resolve { host, .. } => panic!("{host} is no address"),
            ShardEffect::HandleEvent { .. }
            | ShardEffect::FindKey { .. }
            | ShardEffect::Admit { .. }
            | ShardEffect::HttpAnswered { .. } => panic!("nobody holds sessions here"),
        }
    }

    fn caller_hears(&mut self, response: &Message, status: u16) {
        if response.cseq().unwrap().method == Method::Cancel {
            self.caller.cancel_repeats_at = None;
            return;
        }
        self.caller.repeats_at = None;
        self.caller.heard.push(status);
        if status >= 200 {
            self.caller.answered_at.get_or_insert(self.now);
        }
        if status >= 300 {
            self.caller.finals.insert(status);
            let to = response.field(HeaderName::To).unwrap().escape_ascii().to_string();
            let ack = request("ACK", "aaa", "").replace("<sip:bob@example.com>", &to);
            self.wire.push_back((None, 0, ack));
        } else if status >= 200 {
            self.caller.finals.insert(status);
            // The ACK goes by the edges only.
            for callee in self.callees.values_mut() {
                if callee.rings.values().any(|(_, said)| *said == 200) {
                    callee.is_acknowledged = true;
                    callee.repeats_at = None;
                }
            }
        }
    }

    fn callee_hears(&mut self, request: &Message) {
        let uri = String::from_utf8_lossy(request.request_uri().unwrap()).into_owned();
        let name = uri.trim_start_matches("sip:").split('@').next().unwrap().to_owned();
        let branch = request.top_via().unwrap().branch().unwrap().to_vec();
        let now = self.now;
        let callee = self.callees.get_mut(&name).unwrap();
        let mut answers = Vec::new();
        match request.method().unwrap() {
            Method::Invite => match callee.rings.get(&branch) {
                Some(_) if callee.forgets_at.is_some_and(|at| at <= now) => callee.rang += 1,
                Some((_, 0)) => {}
                Some((_, said)) => answers.push((request.clone(), *said)),
                None => {
                    callee.rang += 1;
                    let said = if callee.manner.rings { 180 } else { 0 };
                    callee.rings.insert(branch, (request.clone(), said));
                    if callee.manner.rings {
                        answers.push((request.clone(), 180));
                    }
                    callee.says_at =
                        callee.manner.then.map(|(after, _)| now + Duration::from_millis(after));
                }
            },
            Method::Cancel => match callee.rings.get_mut(&branch) {
                Some((invite, said)) => {
                    answers.push((request.clone(), 200));
                    if *said < 200 {
                        *said = 487;
                        callee.says_at = None;
                        callee.repeats_at = Some(now + T1);
                        answers.push((invite.clone(), 487));
                    }
                }
                None => answers.push((request.clone(), 481)),
            },
            Method::Ack => {
                callee.forgets_at.get_or_insert(now + Duration::from_secs(5));
                callee.is_acknowledged = true;
                callee.repeats_at = None;
            }
            other => panic!("{other}"),
        }
        for (request, status) in answers {
            self.callee_says(&request, status);
        }
    }

    fn callee_says(&mut self, request: &Message, status: u16) {
        let via = request.top_via().unwrap();
        let name = String::from_utf8_lossy(via.sent_by()).split('.').next().unwrap().to_owned();
        self.wire.push_back((Some(name), 0, answer(request, status)));
    }

    /// The next instant at which somebody wants to do something.
    fn next(&self) -> Option<Instant> {
        let shards = self.members.iter().filter(|member| member.thaws_at.is_none());
        let shards = shards.filter_map(|member| member.shard.as_ref()?.next_timeout());
        let thaws = self.members.iter().filter_map(|member| member.thaws_at);
        let callees =
            self.callees.values().flat_map(|callee| [callee.says_at, callee.repeats_at]).flatten();
        let caller = &self.caller;
        let cancels_at = caller.cancels_at.filter(|_| !caller.heard.is_empty());
        let caller = [caller.repeats_at, cancels_at, caller.cancel_repeats_at].into_iter();
        shards.chain(thaws).chain(callees).chain(caller.flatten()).min()
    }

    fn act(&mut self) {
        let now = self.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for index in 0..self.members.len() {
            if is_due(self.members[index].thaws_at) {
                self.thaw(index);
            }
            if self.is_reachable(index) {
                self.with(index, |shard, now, effects| shard.timeout(now, effects));
            }
        }
        // Over a stream nobody repeats a request.
        let repeats = !self.transport.is_stream();
        if is_due(self.caller.repeats_at) && !repeats {
            self.caller.repeats_at = None;
        }
        if is_due(self.caller.repeats_at) {
            self.caller.interval *= 2;
            self.caller.repeats_at = Some(now + self.caller.interval);
            self.wire.push_back((None, 0, request("INVITE", "aaa", "")));
        }
        if is_due(self.caller.cancels_at) && !self.caller.heard.is_empty() {
            self.caller.cancels_at = None;
            if self.caller.finals.is_empty() {
                self.caller.cancel_repeats_at = Some(now);
            }
        }
        if is_due(self.caller.cancel_repeats_at) {
            self.caller.cancel_repeats_at = repeats.then_some(now + T1);
            self.wire.push_back((None, 0, request("CANCEL", "aaa", "")));
        }
        let mut said = Vec::new();
        for callee in self.callees.values_mut() {
            if is_due(callee.says_at) {
                callee.says_at = None;
                let status = callee.manner.then.unwrap().1;
                for (_, said) in callee.rings.values_mut().filter(|(_, said)| *said < 200) {
                    *said = status;
                }
                callee.repeats_at = Some(now);
            }
            if is_due(callee.repeats_at) {
                callee.repeats_at = Some(now + T1);
                said.extend(callee.rings.values().cloned());
            }
        }
        for (request, status) in said {
            self.callee_says(&request, status);
        }
    }

    /// It goes on where it stood, finds its link closed, and is let in again; it hears that it is dead only now.
    fn thaw(&mut self, index: usize) {
        self.members[index].thaws_at = None;
        self.members[index].link = LinkId(2);
        self.members[index].sequence = 0;
        let wall = self.wall();
        self.with(index, |shard, now, _| shard.tell_time(now, wall, wall));
        self.run();
        self.with(index, |shard, now, effects| {
            shard.link_down(LinkId(1), now, effects);
            shard.frame(LinkId(2), hello(EDGE_1), now, effects).unwrap();
        });
    }

    pub(super) fn play(&mut self) {
        self.wire.push_back((None, 0, request("INVITE", "aaa", "")));
        self.run();
        while let Some(at) = self.next().filter(|at| *at <= self.began + END) {
            // Everybody goes round several times a second.
            while self.now < at {
                self.now = at.min(self.now + Duration::from_millis(500)).max(self.now);
                let wall = self.wall();
                for index in 0..self.members.len() {
                    if self.is_reachable(index) {
                        self.with(index, |shard, now, _| shard.tell_time(now, wall, wall));
                    }
                }
            }
            self.act();
            self.run();
            if self.looks_left > 0 && self.now >= self.looks_at {
                self.looks_left -= 1;
                self.looks_at = self.now + Duration::from_secs(5);
                for index in 0..self.members.len() {
                    if self.is_reachable(index) {
                        self.with(index, |shard, now, effects| {
                            shard.look_for_estates(now, effects)
                        });
                    }
                }
            }
            self.run();
        }
    }

    fn records(&self, space: Space) -> usize {
        let found = self.store.scan(&space, &Prefix::All, None, 100);
        found.now_or_never().unwrap().unwrap().len()
    }

    pub(super) fn check(&self, scenario: &Scenario, what: &str) {
        let finals: Vec<u16> = self.caller.finals.iter().copied().collect();
        let heard = &self.caller.heard;
        assert!(
            finals.len() == 1 && scenario.finals.contains(&finals[0]),
            "{what}: finals {finals:?} of {heard:?}"
        );
        let answered_after = self.caller.answered_at.map(|at| at - self.began);
        if scenario.cancels_after.is_some() {
            let soon = Duration::from_secs(60);
            assert!(answered_after < Some(soon), "{what}: ended after {answered_after:?}");
        }
        for (name, callee) in &self.callees {
            assert!(callee.rang <= 1, "{what}: {name} rang {} times", callee.rang);
            for (_, said) in callee.rings.values() {
                assert!(*said >= 200 || *said == 0, "{what}: {name} rings for ever");
                assert!(*said < 200 || callee.is_acknowledged, "{what}: {name} waits for an ACK");
            }
        }
        assert_eq!(self.records(OWNED), 0, "{what}: an heir would look for something");
        let now = Clock::now(&*self.clock);
        self.clock.set(now.saturating_add(Duration::from_secs(60)));
        assert_eq!(self.records(SET_UPS), 0, "{what}: records left");
        for (index, member) in self.members.iter().enumerate() {
            let Some(shard) = &member.shard else { continue };
            assert!(shard.transactions.is_empty(), "{what}: c{} has transactions", index + 1);
            assert!(
                shard.set_ups.is_empty()
                    && shard.set_ups_by_server.is_empty()
                    && shard.contexts.is_empty()
                    && shard.inquiries.is_empty()
                    && shard.jobs.is_empty()
                    && shard.commits.is_empty()
                    && shard.reads.is_empty()
                    && shard.clients.is_empty(),
                "{what}: c{} remembers something",
                index + 1
            );
            assert!(member.untaken.is_empty(), "{what}: c{} took not everything", index + 1);
        }
    }
}
