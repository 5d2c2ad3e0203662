//! What must hold in every world, whatever fails.
//!
//! | invariant | looked at | seen red when |
//! |---|---|---|
//! | no acknowledged binding is lost | at each 200, each commit, and the end | REGISTER was answered before its commit |
//! | a call that goes on is on record, one that is answered as answered | at the caller's first 1xx and 2xx | 100 left before the set-up's commit, a 2xx before its event's; a session acted before its commit, or without one |
//! | the phone of a callee rings once for a call | at each INVITE that a phone gets | a successor derived its own branches |
//! | a record of a set-up or session, taken over from a life, is never written by that life again; between nodes that do not hear each other: not without having read it | at each commit | claims and updates expected any version |
//! | no committed session is lost: its record goes only when all of its legs have ended | at each commit, every five seconds | a claim deleted the record; a record lived eight seconds |
//! | a timer of a session commits at most once, a periodic one once in a period | at each commit | a timer that had fired stayed; a period was halved |
//! | who has an acknowledged binding, by an edge that has had power since, is not called in vain while nodes reach each other | when a call is refused for want of bindings | a look-up found nobody, sometimes |
//! | who picks up is connected | when a callee gives up waiting for the ACK | a response for a dead owner was dropped |
//! | every request of a phone is answered | when it ends, unless the store refuses | every second REGISTER got no answer |
//! | faults are hidden: no 5xx while a container serves | at each answer, unless the store refuses | an edge answered what a dead container had not taken |
//! | every call is over at both ends | at the end | no CANCEL was sent; the dead counted as living |
//! | nothing is left: transactions, untaken messages, records of calls, questions to the store | at the end | no record of a set-up was removed |
//! | every user can be called | after everything failed | a container never trusted its calls again; a look-up found nobody |
//! | nobody is started who lives | when a program is started | a manager forgot what the last one left |
//! | nobody is taken for lost who was heard, and who is silent is taken for lost | when a manager shows its view, and speaks | a silence of one interval was enough; a node was never lost |
//! | nobody is killed for a silence that was none | when the manager kills | a manager gave no grace to those whom it adopted |
//!
//! What a seed's faults may cost is said in [`Promises`]: as little as the code as it stands promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use container::session::{LegState, Session, SessionId};
use container::setup::SetUp;
use futures_util::FutureExt;
use registrar::registrations;
use sip::Message;
use state::engine::fake::FakeStore;
use state::{Change, Key, Space, Store, UnixMillis};

use crate::agent;
use crate::phone::{CallName, Observation, Outcome};
use crate::scenario::{CALM, CallWay, ENCORE, Kind, REGISTERING_AGAIN, Scenario};
use crate::schedule::Moment;
use crate::store::Applied;
use crate::streams::LifeId;

/// Something that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Moment,
    /// What.
    pub what: String,
    /// The call or phone that it happened to, by which the story is searched.
    pub about: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s: {}", self.at.as_secs_f64(), self.what)
    }
}

/// DESIGN §4: a clock step freezes expiry for a minute.
const EXPIRY_STANDS_STILL: Moment = Moment::from_secs(60);

/// How long somebody may be told that nobody serves after the last moment at which that was so: news may be late, and
/// whoever hangs is waited for.
const ABSENCE_FELT: Moment = Moment::from_secs(5);

/// What is promised although the faults of a seed come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Who picks up is connected, and every call ends.
    pub calls_stand: bool,
    /// A record says that a call was answered before its caller hears so.
    pub answers_are_on_record: bool,
    /// A callee with an acknowledged binding is found.
    pub bindings_are_found: bool,
    /// Periods of timers mean nothing: the clock is set.
    pub clock_may_jump: bool,
    /// A record of a call that is over may stay until its lifetime ends.
    pub records_may_stay: bool,
    /// Nobody is told of a fault: no 5xx while a container serves, no time-out.
    pub faults_are_hidden: bool,
    /// Several nodes share the store, and judge each other.
    pub is_cluster: bool,
}

/// How far the clocks of two nodes are apart at most: so much earlier than was promised a binding may end.
const CLOCKS_APART_MAX: Moment = Moment::from_millis(500);
/// How long after a cut, or a loss of power, everybody knows all processes again and links to them.
const SETTLED_IN: Moment = Moment::from_secs(5);
/// How long before its commit stands a timer may have begun, where commits wait for a failover.
const COMMITS_WAIT_MAX: Moment = Moment::from_secs(5);

impl Promises {
    /// The promises of the code as it stands.
    pub fn of(scenario: &Scenario) -> Promises {
        let kinds = scenario.kinds();
        let has = |kind| kinds.contains(&kind);
        // A store that refuses a commit refuses the call that needs it.
        let store_refuses = has(Kind::Store) || has(Kind::Node) || has(Kind::Partition);
        // Who is cut off while a phone rings takes its flow for gone, and the phone is not told that the call is over.
        let calls_stand = !has(Kind::Store) && !has(Kind::Partition);
        // An edge that is stopped for good leaves no flow to whoever registered by it.
        let bindings_are_found = !has(Kind::Edge);
        Promises {
            calls_stand,
            answers_are_on_record: !store_refuses && !has(Kind::Primary),
            bindings_are_found,
            clock_may_jump: has(Kind::Clock),
            records_may_stay: store_refuses
                || has(Kind::SlowStore)
                || has(Kind::Clock)
                || has(Kind::Primary),
            faults_are_hidden: !store_refuses && !has(Kind::Primary),
            is_cluster: scenario.is_cluster(),
        }
    }
}

/// An acknowledged binding.
#[derive(Debug, Clone)]
struct Binding {
    contact: String,
    until: Moment,
}

/// Those who watch.
#[derive(Debug)]
pub struct Invariants {
    promises: Promises,
    bindings: BTreeMap<usize, Binding>,
    callers: BTreeMap<CallName, Option<Outcome>>,
    /// The phones that had an acknowledged binding when they were called.
    reachable: BTreeMap<CallName, Vec<usize>>,
    /// The lives that have written a record, in the order of their first write.
    writers: BTreeMap<Key, Vec<LifeId>>,
    /// The lives that know how a record was written last, where reads take time.
    seen: BTreeMap<Key, BTreeSet<LifeId>>,
    rang: BTreeSet<CallName>,
    by_agent: BTreeSet<CallName>,
    /// The calls of which a set-up or a session is on record, and whether it says that they were answered.
    on_record: BTreeMap<CallName, bool>,
    /// When no container served last.
    nobody_served_at: Option<Moment>,
    /// When nodes did not reach each other last.
    cables_cut_at: Option<Moment>,
    /// When the edge that a phone registered by had no power last, if it has not registered since.
    flow_broken: BTreeMap<usize, Moment>,
    /// When each call began.
    calls_began: BTreeMap<CallName, Moment>,
    /// The sessions that have a record, and whether a leg of it stands.
    standing: BTreeMap<Key, bool>,
    began: BTreeMap<Key, Moment>,
    violations: Vec<Violation>,
}

impl Invariants {
    /// Watches a world in which nothing has happened yet.
    pub fn new(promises: Promises) -> Invariants {
        Invariants {
            promises,
            bindings: BTreeMap::new(),
            callers: BTreeMap::new(),
            reachable: BTreeMap::new(),
            writers: BTreeMap::new(),
            seen: BTreeMap::new(),
            rang: BTreeSet::new(),
            by_agent: BTreeSet::new(),
            on_record: BTreeMap::new(),
            nobody_served_at: None,
            cables_cut_at: None,
            flow_broken: BTreeMap::new(),
            calls_began: BTreeMap::new(),
            standing: BTreeMap::new(),
            began: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// What the faults of this world may cost.
    pub fn promises(&self) -> Promises {
        self.promises
    }

    /// What went wrong so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Something went wrong.
    pub fn violated(&mut self, at: Moment, what: impl Into<String>) {
        self.violations.push(Violation { at, what: what.into(), about: None });
    }

    /// Something went wrong with a call, a phone or a record, whose name the story holds.
    pub fn violated_by(&mut self, at: Moment, about: &str, what: impl Into<String>) {
        let about = Some(about.to_owned());
        self.violations.push(Violation { at, what: what.into(), about });
    }

    /// A call to these phones begins.
    pub fn call_begins(
        &mut self,
        now: Moment,
        call: CallName,
        mut phones: Vec<usize>,
        way: CallWay,
    ) {
        self.calls_began.insert(call.clone(), now);
        if way == CallWay::Agent {
            self.by_agent.insert(call.clone());
        }
        phones.retain(|phone| self.bindings.contains_key(phone));
        self.reachable.insert(call.clone(), phones);
        self.callers.insert(call, None);
    }

    /// No container is there to serve anybody.
    pub fn nobody_serves(&mut self, now: Moment) {
        self.nobody_served_at = Some(now);
    }

    /// Some nodes do not reach each other.
    pub fn cables_are_cut(&mut self, now: Moment) {
        self.cables_cut_at = Some(now);
    }

    /// The edge that a phone registered by has no power.
    pub fn flow_is_broken(&mut self, now: Moment, phone: usize) {
        self.flow_broken.insert(phone, now);
    }

    /// The clock was set forward: expiry stands still for a minute, and whoever has not registered anew by then is gone.
    pub fn clock_stepped_forward(&mut self, now: Moment) {
        for binding in self.bindings.values_mut() {
            binding.until = binding.until.min(now + EXPIRY_STANDS_STILL);
        }
    }

    /// A call is not over although everything is.
    pub fn call_never_ends(&mut self, now: Moment, call: &CallName, phone: &str) {
        if self.promises.calls_stand || call.starts_with("encore") {
            self.violated_by(now, call, format!("{call} never ends at {phone}"));
        }
    }

    /// How a call ended for its caller; None: it has not.
    pub fn outcome(&self, call: &CallName) -> Option<Outcome> {
        self.callers.get(call).copied().flatten()
    }

    /// A phone of that place and contact has observed something.
    pub fn observed(
        &mut self,
        now: Moment,
        (place, contact): (usize, &str),
        observation: &Observation,
    ) {
        match observation {
            Observation::Registered { until } => {
                let binding = Binding { contact: contact.to_owned(), until: *until };
                self.bindings.insert(place, binding);
                self.flow_broken.remove(&place);
            }
            Observation::BindingMissing => {
                self.violated(now, format!("a 200 to REGISTER does not list {contact}"));
            }
            Observation::RequestEnded { method, began, status } => {
                self.request_ended(now, contact, method, *began, *status);
            }
            Observation::RangAgain { call, branch, second } => {
                let what = format!("{contact} rang twice for {call}: {branch}, then {second}");
                self.violated_by(now, call, what);
            }
            Observation::CalledOver { call, is_unacknowledged: true }
                if self.promises.calls_stand && self.outcome(call) != Some(Outcome::TimedOut) =>
            {
                let what = format!("{contact} picked up {call} and nobody was there");
                self.violated_by(now, call, what);
            }
            Observation::CallingOver { call, outcome } => {
                self.callers.insert(call.clone(), Some(*outcome));
                self.calling_over(now, call, *outcome);
            }
            Observation::Heard { call, is_answer } => self.heard(now, call, *is_answer),
            Observation::Rang { call } => {
                self.rang.insert(call.clone());
            }
            Observation::PickedUp { .. }
            | Observation::Acknowledged { .. }
            | Observation::CalledOver { .. } => {}
        }
    }

    /// A batch was applied: whoever was taken over from must not write any more, and no binding may be missing.
    pub fn applied(
        &mut self,
        now: Moment,
        applied: &Applied,
        engine: &FakeStore,
        judged_at: UnixMillis,
    ) {
        for (key, _) in &applied.writes {
            if !matches!(key.space.as_str(), "setup" | "session") {
                continue;
            }
            let writers = self.writers.entry(key.clone()).or_default();
            let seen = self.seen.entry(key.clone()).or_default();
            let has_seen = std::mem::replace(seen, BTreeSet::from([applied.by]));
            if writers.last() == Some(&applied.by) {
                continue;
            }
            // Two nodes that do not hear each other may take a record over by turns, but never without having looked.
            let is_blind = !writers.is_empty() && !has_seen.contains(&applied.by);
            let is_back = writers.contains(&applied.by);
            writers.push(applied.by);
            if if self.promises.is_cluster { is_blind } else { is_back } {
                let what = format!("{key} has two owners that both commit: {writers:?}");
                self.violated(now, what);
            }
        }
        for (key, change) in &applied.writes {
            match (key.space.as_str(), change) {
                ("session", _) => self.session_written(now, key, change, judged_at),
                ("setup", Change::Put { value, .. }) => self.set_up_written(now, key, value),
                _ => {}
            }
        }
        if applied.writes.iter().any(|(key, _)| key.space == registrar::bindings::SPACE) {
            self.bindings_stand(now, engine, judged_at);
        }
    }

    /// A life reads a record, or some of a space.
    pub fn read(&mut self, by: LifeId, space: &Space, key: Option<&Key>) {
        let is_read = |known: &Key| key.map_or(known.space == *space, |key| key == known);
        for (_, seen) in self.seen.iter_mut().filter(|(known, _)| is_read(known)) {
            seen.insert(by);
        }
    }

    fn is_by_agent(&self, call: &CallName) -> bool {
        self.by_agent.contains(call)
    }

    /// A caller has a provisional response, or an answer: what it says must outlast whoever said it.
    fn heard(&mut self, now: Moment, call: &CallName, is_answer: bool) {
        // A store that refuses everything is not waited for for ever.
        let may_be_answered_without = !self.promises.answers_are_on_record;
        match self.on_record.get(call) {
            None => self.violated_by(now, call, format!("{call} goes on and is not on record")),
            Some(false) if is_answer && !may_be_answered_without => {
                self.violated_by(now, call, format!("{call} is answered, and no record says so"));
            }
            Some(_) => {}
        }
    }

    fn noted(&mut self, call_id: &[u8], is_answered: bool) {
        let call = String::from_utf8_lossy(call_id).into_owned();
        *self.on_record.entry(call).or_default() |= is_answered;
    }

    fn set_up_written(&mut self, now: Moment, key: &Key, value: &Bytes) {
        let set_up = SetUp::decode(value);
        let request = set_up.as_ref().ok().and_then(|set_up| {
            let request = Message::parse(set_up.request.clone()).ok()?;
            Some((request, set_up.is_answered()))
        });
        match request {
            Some((request, is_answered)) => {
                self.noted(request.call_id().unwrap_or_default(), is_answered);
            }
            None => self.violated(now, format!("{key} cannot be read: {:?}", set_up.err())),
        }
    }

    /// Every session with a leg that stands has its record.
    pub fn sessions_stand(&mut self, now: Moment, engine: &FakeStore) {
        let standing = self.standing.iter().filter(|(_, stands)| **stands);
        let lost = standing.map(|(key, _)| key.clone()).filter(|key| {
            let read = engine.read(key).now_or_never().expect("the engine answers at once");
            !matches!(read, Ok(Some(_)))
        });
        for key in lost.collect::<Vec<_>>() {
            self.violated(now, format!("{key} is gone although a leg of it stands"));
        }
    }

    fn session_written(&mut self, now: Moment, key: &Key, change: &Change, wall: UnixMillis) {
        let Change::Put { value, .. } = change else {
            if self.standing.remove(key) == Some(true) {
                self.violated(now, format!("{key} is lost although a leg of it stands"));
            }
            return;
        };
        let Ok(id) = <[u8; 16]>::try_from(&key.id[..]) else {
            return self.violated(now, format!("{key} names no session"));
        };
        let session = match Session::decode(SessionId(id), value) {
            Ok(session) => session.view(wall),
            Err(error) => return self.violated(now, format!("{key} cannot be read: {error}")),
        };
        let stands = session.legs.iter().any(|leg| leg.state == LegState::Confirmed);
        self.standing.insert(key.clone(), stands);
        for leg in &session.legs {
            self.noted(&leg.call_id, leg.state == LegState::Confirmed);
        }
        let began = *self.began.entry(key.clone()).or_insert(now);
        let waited = if self.promises.is_cluster { COMMITS_WAIT_MAX } else { Moment::ZERO };
        let periods = (now - began + waited).as_millis() / agent::PERIOD.as_millis();
        let ticks = u128::from(agent::count(&session, agent::TICKS));
        if !self.promises.clock_may_jump && ticks > periods + 1 {
            self.violated(now, format!("{key}: {ticks} ticks in {periods} periods"));
        }
        for name in session.attributes.keys().filter(|name| name.starts_with(agent::SHOT)) {
            let fired = agent::count(&session, name);
            if fired > 1 {
                self.violated(now, format!("{key}: {name} fired {fired} times"));
            }
        }
    }

    /// Every acknowledged binding is in the store.
    pub fn bindings_stand(&mut self, now: Moment, engine: &FakeStore, judged_at: UnixMillis) {
        let judged = if self.promises.is_cluster { now + CLOCKS_APART_MAX } else { now };
        let promised = self.bindings.values().filter(|binding| binding.until > judged);
        let promised: Vec<Binding> = promised.cloned().collect();
        let stored =
            registrations(engine, judged_at).now_or_never().expect("the engine answers at once");
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                return self.violated(now, format!("the bindings cannot be read: {error}"));
            }
        };
        for binding in promised {
            if !stored.iter().any(|stored| stored.contact == binding.contact) {
                let what = format!("the acknowledged binding {} is lost", binding.contact);
                self.violated(now, what);
            }
        }
    }

    fn request_ended(
        &mut self,
        now: Moment,
        contact: &str,
        method: &str,
        began: Moment,
        status: Option<u16>,
    ) {
        let heals_by = CALM + Moment::from_secs(10);
        let is_healed = began >= heals_by;
        match status {
            None if is_healed => {
                self.violated(now, format!("{method} of {contact} was not answered in the calm"));
            }
            None if self.promises.faults_are_hidden => {
                self.violated(now, format!("{method} of {contact} was not answered"));
            }
            Some(status) if method == "REGISTER" && status != 200 && began >= REGISTERING_AGAIN => {
                self.violated(now, format!("REGISTER of {contact} got {status} in the calm"));
            }
            Some(status @ 500..600)
                if self.promises.faults_are_hidden
                    && self.nobody_served_at.is_none_or(|at| now > at + ABSENCE_FELT) =>
            {
                self.violated(now, format!("{method} of {contact} got {status}"));
            }
            Some(_) | None => {}
        }
    }

    fn calling_over(&mut self, now: Moment, call: &CallName, outcome: Outcome) {
        let began = self.calls_began.get(call).copied().unwrap_or_default();
        let is_settled = |broken: Option<&Moment>| broken.is_none_or(|at| *at + SETTLED_IN < began);
        let lasts = |phone: &usize| {
            let binding = self.bindings.get(phone);
            binding.is_some_and(|binding| binding.until > now)
                && is_settled(self.flow_broken.get(phone))
                && is_settled(self.cables_cut_at.as_ref())
        };
        let is_reachable = self.reachable.get(call).is_some_and(|phones| phones.iter().any(lasts));
        // The agent gives up with 480 who rang for too long.
        let is_given_up = self.is_by_agent(call) && self.rang.contains(call);
        if is_reachable
            && !is_given_up
            && self.promises.bindings_are_found
            && matches!(outcome, Outcome::Refused(404 | 480))
        {
            let what = format!("{call} ended with {outcome:?} although the callee is registered");
            self.violated_by(now, call, what);
        }
        let is_encore = now >= ENCORE && call.starts_with("encore");
        if is_encore && outcome != Outcome::Talked {
            let what = format!("{call} ended with {outcome:?} although nothing failed");
            self.violated_by(now, call, what);
        }
    }
}
