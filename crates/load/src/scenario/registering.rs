//! Registrations: users refresh their contacts in turn, or each of them registers once (a storm after a restart, and
//! what comes before calls).
//!
//! Each contact of a user is a user agent of its own, with one Call-ID and a CSeq that grows (RFC 3261 §10.2), and
//! registers again only when it is answered. A challenge is answered, twice at most. Who registers once and is told
//! 503 with Retry-After comes again when that is over (RFC 3261 §21.5.4).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::{Message, Method};

use super::{Context, Scenario, Stage, Start};
use crate::delays::Delays;
use crate::logins::{Asked, CHALLENGES_MAX};
use crate::outbox::{FlowIndex, Output};
use crate::phones::Values;
use crate::statistics::{Begun, Failure, Outcome};
use crate::table::{Key, Table};
use crate::transactions::ClientTransaction;

/// Longest Retry-After that is waited for; a longer one counts as this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(32);

/// How often one registration is put off; the next 503 is its failure.
const PUT_OFFS_MAX: u8 = 20;

/// How often users register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repetition {
    /// In turn, again and again.
    InTurn,
    /// Each contact of each user once.
    Once,
    /// Each user once, alone: whatever contacts it had are removed before, so that a call rings here only.
    OnceAlone,
}

/// What connections users register over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowUse {
    /// Those that are there, which users share.
    Shared,
    /// One of its own, opened before and closed behind the answer.
    OwnClosed,
    /// One of its own, opened before and kept.
    OwnKept,
}

/// What a registration's next request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// None yet: the flow's connection is being opened.
    Connect,
    RemoveAll,
    Register,
}

/// A registration under way.
#[derive(Debug)]
struct Registration {
    begun: Begun,
    line: u32,
    step: Step,
    challenges: u8,
    put_offs: u8,
}

/// Users register.
#[derive(Debug)]
pub(crate) struct Registering {
    repetition: Repetition,
    flow_use: FlowUse,
    /// Registrations whose flow is being opened, by flow.
    connecting: HashMap<FlowIndex, Key>,
    contacts_per_user: u32,
    /// Contacts that wait for their turn.
    waiting: Turns,
    /// Last CSeq of each contact.
    cseqs: Vec<u32>,
    under_way: Table<Registration>,
    put_off: Delays<Key>,
}

impl Registering {
    /// So many users with so many contacts each. Whose flow is its own has one contact.
    pub(crate) fn new(
        users: u32,
        contacts_per_user: u32,
        repetition: Repetition,
        flow_use: FlowUse,
    ) -> Registering {
        let lines = users * contacts_per_user;
        Registering {
            repetition,
            flow_use,
            connecting: HashMap::new(),
            contacts_per_user,
            waiting: Turns::new(lines),
            cseqs: vec![0; lines as usize],
            under_way: Table::default(),
            put_off: Delays::default(),
        }
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// The next contact registers.
    pub(crate) fn begin_next(
        &mut self,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start {
        let Some(line) = self.waiting.next() else {
            return match self.repetition {
                Repetition::InTurn => Start::NothingFree,
                Repetition::Once | Repetition::OnceAlone => Start::NoMore,
            };
        };
        let step = match (self.flow_use, self.repetition) {
            (FlowUse::OwnClosed | FlowUse::OwnKept, _) => Step::Connect,
            (FlowUse::Shared, Repetition::InTurn | Repetition::Once) => Step::Register,
            (FlowUse::Shared, Repetition::OnceAlone) => Step::RemoveAll,
        };
        let begun = context.begin(intended, now);
        let owner =
            self.under_way.insert(Registration { begun, line, step, challenges: 0, put_offs: 0 });
        if step == Step::Connect {
            let flow = context.phones.flow_of(line / self.contacts_per_user);
            self.connecting.insert(flow, owner);
            context.outbox.push(Output::Connect(flow));
        } else {
            self.send(context, owner, None, now);
        }
        Start::Begun
    }

    fn send(
        &mut self,
        context: &mut Context,
        owner: Key,
        authorization: Option<Bytes>,
        now: Instant,
    ) {
        let Some(registration) = self.under_way.get_mut(owner) else {
            return;
        };
        let (line, step) = (registration.line, registration.step);
        let (user, contact) = (line / self.contacts_per_user, line % self.contacts_per_user);
        let cseq = &mut self.cseqs[line as usize];
        *cseq += 1;
        let asked = Asked { user, method: b"REGISTER", uri: context.phones.domain_uri() };
        let authorization = authorization.unwrap_or_else(|| context.logins.line(asked));
        let values = Values {
            user,
            contact,
            line,
            cseq: *cseq,
            authorization: &authorization,
            ..Values::default()
        };
        let flow = context.phones.flow_of(user);
        context.request(owner, Method::Register, (flow, context.target), now, |phones, key| {
            match step {
                Step::RemoveAll => phones.unregister_all(flow, key, &values),
                Step::Register | Step::Connect => phones.register(flow, key, &values),
            }
        });
    }

    fn answer_challenge(
        &mut self,
        context: &mut Context,
        owner: Key,
        response: &Message,
        now: Instant,
    ) {
        let Some(registration) = self.under_way.get_mut(owner) else {
            return;
        };
        registration.challenges += 1;
        if registration.challenges > CHALLENGES_MAX {
            return self.end(context, owner, Outcome::Failed(Failure::of(response.status())), now);
        }
        let user = registration.line / self.contacts_per_user;
        let asked = Asked { user, method: b"REGISTER", uri: context.phones.domain_uri() };
        match context.logins.answer(response, asked) {
            Ok(line) => {
                context.statistics.challenged(now);
                self.send(context, owner, Some(line), now);
            }
            Err(_) => self.end(context, owner, Outcome::Failed(Failure::Challenge), now),
        }
    }

    /// Comes again later, if the 503 says when and this one may wait.
    fn put_off(&mut self, owner: Key, response: &Message, now: Instant) -> bool {
        let Some(registration) = self.under_way.get_mut(owner) else {
            return false;
        };
        let Some(delay) = retry_after(response) else {
            return false;
        };
        let waits = self.repetition != Repetition::InTurn && registration.put_offs < PUT_OFFS_MAX;
        if waits {
            registration.put_offs += 1;
            self.put_off.add(delay, now, owner);
        }
        waits
    }

    fn step_done(&mut self, context: &mut Context, owner: Key, now: Instant) {
        match self.under_way.get_mut(owner) {
            Some(registration) if registration.step == Step::RemoveAll => {
                registration.step = Step::Register;
                self.send(context, owner, None, now);
            }
            _ => self.end(context, owner, Outcome::Done, now),
        }
    }

    fn end(&mut self, context: &mut Context, owner: Key, outcome: Outcome, now: Instant) {
        let Some(registration) = self.under_way.remove(owner) else {
            return;
        };
        if self.repetition == Repetition::InTurn {
            self.waiting.come_again(registration.line);
        }
        let flow = context.phones.flow_of(registration.line / self.contacts_per_user);
        let is_kept = self.flow_use == FlowUse::OwnKept && outcome == Outcome::Done;
        if self.flow_use != FlowUse::Shared && !is_kept {
            self.connecting.remove(&flow);
            context.outbox.push(Output::Close(flow));
        }
        context.end(registration.begun, outcome, now);
    }
}

/// Whose turn it is: everybody once, and then again, always in one order; who is under way misses a turn.
///
/// Not in the order in which they have ended: what a server answers together would then come together the next time,
/// and soon all users of one of its processes in a row and none of the others', as no phones do.
///
/// The order is none of their names: a server that keeps them sorted, page by page, would have an easier life with
/// neighbours in a row than phones give it.
#[derive(Debug)]
struct Turns {
    stride: u64,
    /// The place in the order of each contact.
    places: Vec<u32>,
    /// Those who wait, by place.
    waiting: BTreeSet<u32>,
    /// The first place that has not had its turn in this round.
    place: u32,
}

impl Turns {
    fn new(lines: u32) -> Turns {
        let count = u64::from(lines.max(1));
        // About the golden ratio's part of all: whatever the count, no two in a row are close to each other.
        let about = (count as f64 * 0.618_033_988_75) as u64;
        let stride = (about.max(1)..).find(|stride| greatest_common_divisor(*stride, count) == 1);
        let mut turns = Turns {
            stride: stride.unwrap_or(1),
            places: vec![0; lines as usize],
            waiting: (0..lines).collect(),
            place: 0,
        };
        for place in 0..lines {
            let line = turns.line(place);
            turns.places[line as usize] = place;
        }
        turns
    }

    fn line(&self, place: u32) -> u32 {
        (u64::from(place) * self.stride % self.places.len() as u64) as u32
    }

    /// The next one that waits.
    fn next(&mut self) -> Option<u32> {
        let place = self.waiting.range(self.place..).next().or(self.waiting.first()).copied()?;
        self.waiting.remove(&place);
        self.place = place + 1;
        Some(self.line(place))
    }

    /// Waits from now on.
    fn come_again(&mut self, line: u32) {
        self.waiting.insert(self.places[line as usize]);
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// After how long a 503 asks to come again, if it does.
fn retry_after(response: &Message) -> Option<Duration> {
    let asked_for = response.retry_after()?;
    Some(asked_for.clamp(Duration::from_secs(1), RETRY_AFTER_MAX))
}

impl Scenario for Registering {
    fn begin(
        &mut self,
        stage: Stage,
        context: &mut Context,
        intended: Instant,
        now: Instant,
    ) -> Start {
        match stage {
            Stage::Main => self.begin_next(context, intended, now),
            Stage::Preparing | Stage::Leaving => Start::NoMore,
        }
    }

    fn answered(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        response: &Message,
        now: Instant,
    ) {
        let owner = request.owner;
        match response.status() {
            Some(200..=299) => self.step_done(context, owner, now),
            Some(401 | 407) => self.answer_challenge(context, owner, response, now),
            Some(503) if self.put_off(owner, response, now) => context.statistics.put_off += 1,
            status => self.end(context, owner, Outcome::Failed(Failure::of(status)), now),
        }
    }

    fn given_up(&mut self, context: &mut Context, request: ClientTransaction, now: Instant) {
        self.end(context, request.owner, Outcome::Lost, now);
    }

    fn failed(
        &mut self,
        context: &mut Context,
        request: ClientTransaction,
        failure: Failure,
        now: Instant,
    ) {
        self.end(context, request.owner, Outcome::Failed(failure), now);
    }

    fn flow_up(&mut self, context: &mut Context, flow: FlowIndex, now: Instant) {
        let Some(owner) = self.connecting.remove(&flow) else {
            return;
        };
        if let Some(registration) = self.under_way.get_mut(owner) {
            registration.step = Step::Register;
            self.send(context, owner, None, now);
        }
    }

    fn flow_down(
        &mut self,
        context: &mut Context,
        flow: FlowIndex,
        failure: Failure,
        now: Instant,
    ) {
        if let Some(owner) = self.connecting.remove(&flow) {
            self.end(context, owner, Outcome::Failed(failure), now);
        }
    }

    fn tick(&mut self, context: &mut Context, now: Instant) {
        while let Some(owner) = self.put_off.take_due(now) {
            self.send(context, owner, None, now);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.put_off.next_due()
    }

    fn abandon(&mut self, context: &mut Context, now: Instant) {
        for registration in self.under_way.drain() {
            context.end(registration.begun, Outcome::Lost, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_once_and_neighbours_come_far_apart() {
        for lines in [1, 2, 7, 1_000, 10_000, 99_991] {
            let mut turns = Turns::new(lines);
            let order: Vec<u32> = std::iter::from_fn(|| turns.next()).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..lines), "{lines}");
            let closest = order.windows(2).map(|pair| pair[0].abs_diff(pair[1])).min();
            assert!(lines < 10 || closest > Some(lines / 4), "{lines}: {closest:?}");
        }
    }

    #[test]
    fn who_ends_together_does_not_come_together_the_next_time() {
        let mut turns = Turns::new(1_000);
        let first: Vec<u32> = (0..1_000).filter_map(|_| turns.next()).collect();
        // A server answers those of one of its processes first.
        let (mut odd, even): (Vec<u32>, Vec<u32>) = first.iter().partition(|line| *line % 2 == 1);
        odd.extend(even);
        odd.into_iter().for_each(|line| turns.come_again(line));
        let second: Vec<u32> = (0..1_000).filter_map(|_| turns.next()).collect();
        assert_eq!(first, second);
    }

    #[test]
    fn who_is_under_way_misses_a_turn() {
        let mut turns = Turns::new(3);
        let [a, b, c] = [turns.next(), turns.next(), turns.next()].map(Option::unwrap_or_default);
        assert_eq!(turns.next(), None);
        turns.come_again(c);
        turns.come_again(a);
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some(a), Some(c), None]);
        turns.come_again(b);
        assert_eq!(turns.next(), Some(b));
    }
}
