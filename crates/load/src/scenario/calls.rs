//! Calls between two phones of this process, caller and callee, each seeing only what its own flow brings.
//!
//! ```text
//! caller: INVITE ─▶ (407 ─▶ ACK, INVITE) ─▶ 180 ─▶ 200 ─▶ ACK … BYE ─▶ 200
//! callee:        INVITE ─▶ 180 ─▶ (ring) ─▶ 200, repeated until ACK … BYE ─▶ 200
//! ```
//!
//! The Call-ID holds the call's key, so both sides find it without a search. [`Calls`] says when a call is up or over;
//! what is done with it then is a scenario's business. A server that changes the Call-ID (a back-to-back agent) is not
//! understood here. Deliberately absent: CANCEL; the repeated ACK of a refusal that is repeated (the operation has failed
//! by then); answers to challenges of requests within a dialog.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sip::{HeaderName, Message, Method, ResponseBuilder};

use super::{Context, Origin};
use crate::delays::Delays;
use crate::dialog::DialogSide;
use crate::logins::{Asked, CHALLENGES_MAX};
use crate::phones::{User, Values, session_description};
use crate::statistics::{Begun, Failure, Outcome};
use crate::table::{Key, Table};
use crate::transactions::ClientTransaction;

/// Milliseconds between the repetitions of a 2xx (RFC 3261 §13.3.1.4), until 64·T1 are over.
const ANSWER_MS: &[u64] = &[500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000, 4_000];

/// Begins the callee's tag; the caller's is the call's key alone.
const CALLEE_TAG_MARK: &[u8] = b"b";

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEvent {
    /// The caller has its 200 and has acknowledged it.
    Up(Key),
    /// It did not come up, or is over.
    Over(Key, Outcome),
}

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Callee,
}

impl Side {
    /// The one that the other is not.
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

/// What callees keep of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CalleeKeeps {
    /// What it needs to answer.
    Answers,
    /// Its side of the dialog too, to ask something of its own.
    Dialog,
}

/// An INVITE that is being answered, by either side.
#[derive(Debug)]
struct Answering {
    /// Which INVITE: who answers it, and its number.
    invite: (Side, u32),
    origin: Origin,
    /// Nothing for an INVITE in the dialog, which is answered at once.
    ringing: Bytes,
    answer: Bytes,
    state: AnsweringState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnsweringState {
    Ringing,
    /// The 200 was sent so often beyond the first time.
    Answered(usize),
    Acknowledged,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) begun: Begun,
    caller: User,
    callee: User,
    cseq: u32,
    challenges: u8,
    /// Whether an operation of a scenario waits for this call.
    pub(crate) is_waiting: bool,
    /// Whose turn it is to ask something.
    pub(crate) asks_next: Side,
    rings: bool,
    /// The last ACK of a 2xx, to be sent again for each repetition of that, by whom and where to.
    acknowledged: Option<(Origin, Bytes)>,
    caller_side: Option<DialogSide>,
    callee_side: Option<DialogSide>,
    answering: Option<Answering>,
}

impl Call {
    fn side_mut(&mut self, side: Side) -> Option<&mut DialogSide> {
        match side {
            Side::Caller => self.caller_side.as_mut(),
            Side::Callee => self.callee_side.as_mut(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Answer(Key),
    /// Of this INVITE, if it is still the last one.
    RepeatAnswer(Key, (Side, u32)),
}

/// Calls that ring or are up.
#[derive(Debug)]
pub(crate) struct Calls {
    /// From 180 to 200.
    ring: Duration,
    callee_keeps: CalleeKeeps,
    table: Table<Call>,
    due: Delays<Due>,
}

impl Calls {
    pub(crate) fn new(ring: Duration, callee_keeps: CalleeKeeps) -> Calls {
        Calls { ring, callee_keeps, table: Table::default(), due: Delays::default() }
    }

    /// The call of this key.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Call> {
        self.table.get_mut(key)
    }

    /// Forgets a call.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Call> {
        self.table.remove(key)
    }

    /// Forgets all calls.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Call> + use<'_> {
        self.table.drain()
    }

    /// The calls that an operation waits for.
    pub(crate) fn waiting(&self) -> Vec<Key> {
        self.table.find_all(|call| call.is_waiting)
    }

    /// Calls somebody.
    pub(crate) fn begin(
        &mut self,
        context: &mut Context,
        begun: Begun,
        (caller, callee): (User, User),
        now: Instant,
    ) {
        let key = self.table.insert(Call {
            begun,
            caller,
            callee,
            cseq: 0,
            challenges: 0,
            is_waiting: true,
            asks_next: Side::Caller,
            rings: false,
            acknowledged: None,
            caller_side: None,
            callee_side: None,
            answering: None,
        });
        self.invite(context, key, None, now);
    }

    fn invite(&mut self, context: &mut Context, key: Key, answer: Option<Bytes>, now: Instant) {
        let Some(call) = self.table.get_mut(key) else {
            return;
        };
        call.cseq += 1;
        let uri = context.phones.address_of_record(call.callee);
        let asked = Asked { user: call.caller, method: b"INVITE", uri: &uri };
        let authorization = answer.unwrap_or_else(|| context.logins.line(asked));
        let values = Values {
            user: call.caller,
            peer: call.callee,
            cseq: call.cseq,
            authorization: &authorization,
            ..Values::default()
        };
        let route = (context.phones.flow_of(call.caller), context.target);
        context.request(key, Method::Invite, route, now, |phones, transaction| {
            phones.invite(transaction, key, &values)
        });
    }

    /// A provisional response to the INVITE of a call.
    pub(crate) fn provisional(
        &mut self,
        context: &mut Context,
        key: Key,
        response: &Message,
        now: Instant,
    ) {
        let Some(call) = self.table.get_mut(key) else {
            return;
        };
        // RFC 3261 §21.1.2; 183 says the same to a caller.
        if matches!(response.status(), Some(180 | 183)) && !call.rings {
            call.rings = true;
            context.statistics.rings(call.begun, now);
        }
    }

    /// The final response to an INVITE, within the dialog or not, or to a BYE.
    pub(crate) fn answered(
        &mut self,
        context: &mut Context,
        request: &ClientTransaction,
        response: &Message,
        now: Instant,
    ) -> Option<CallEvent> {
        let key = request.owner;
        self.table.get_mut(key)?;
        let failed = Some(CallEvent::Over(key, Outcome::Failed(Failure::of(response.status()))));
        match (request.method, response.status()) {
            (Method::Invite, Some(200..=299)) => self.acknowledge(context, key, response),
            (Method::Invite, status) => {
                acknowledge_refusal(context, request, response);
                match status {
                    Some(401 | 407) => self.answer_challenge(context, key, response, now),
                    _ => failed,
                }
            }
            (_, Some(200..=299)) => Some(CallEvent::Over(key, Outcome::Done)),
            _ => failed,
        }
    }

    fn acknowledge(
        &mut self,
        context: &mut Context,
        key: Key,
        response: &Message,
    ) -> Option<CallEvent> {
        let call = self.table.get_mut(key)?;
        let side = DialogSide::of_caller(call.caller, response, call.cseq, context.target);
        let Some(side) = side else {
            return Some(CallEvent::Over(key, Outcome::Failed(Failure::Malformed)));
        };
        call.acknowledged = Some(acknowledge(context, key, &side));
        call.caller_side = Some(side);
        Some(CallEvent::Up(key))
    }

    fn answer_challenge(
        &mut self,
        context: &mut Context,
        key: Key,
        response: &Message,
        now: Instant,
    ) -> Option<CallEvent> {
        let call = self.table.get_mut(key)?;
        call.challenges += 1;
        if call.challenges > CHALLENGES_MAX {
            let failure = Failure::of(response.status());
            return Some(CallEvent::Over(key, Outcome::Failed(failure)));
        }
        let uri = context.phones.address_of_record(call.callee);
        let asked = Asked { user: call.caller, method: b"INVITE", uri: &uri };
        match context.logins.answer(response, asked) {
            Ok(line) => {
                context.statistics.challenged(now);
                self.invite(context, key, Some(line), now);
                None
            }
            Err(_) => Some(CallEvent::Over(key, Outcome::Failed(Failure::Challenge))),
        }
    }

    /// A response to no request that waits: the repetition of a 2xx is acknowledged again.
    pub(crate) fn repeated(&mut self, context: &mut Context, response: &Message, now: Instant) {
        let is_answer = matches!(response.status(), Some(200..=299))
            && response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        let key = response.call_id().ok().and_then(|call_id| context.phones.call_of(call_id));
        let call = key.filter(|_| is_answer).and_then(|key| self.table.get_mut(key));
        match call.and_then(|call| call.acknowledged.clone()) {
            Some((route, ack)) => {
                context.statistics.retransmitted(now);
                context.send(route.flow, route.from, ack);
            }
            None => context.statistics.strays += 1,
        }
    }

    /// One side sends a request in the dialog: BYE, INFO, or INVITE again.
    pub(crate) fn ask(
        &mut self,
        context: &mut Context,
        key: Key,
        (asker, method): (Side, Method<'static>),
        now: Instant,
    ) {
        let side = self.table.get_mut(key).and_then(|call| call.side_mut(asker));
        let Some(side) = side else { return };
        side.cseq += 1;
        let route = (context.phones.flow_of(side.user), side.next_hop);
        let values = side.values();
        context.request(key, method, route, now, |phones, transaction| {
            phones.in_dialog(method, transaction, key, &values)
        });
    }

    /// The final response to what the side whose turn it was asked in the dialog.
    pub(crate) fn answered_in_dialog(
        &mut self,
        context: &mut Context,
        request: &ClientTransaction,
        response: &Message,
    ) -> Option<CallEvent> {
        let key = request.owner;
        let call = self.table.get_mut(key)?;
        let is_success = matches!(response.status(), Some(200..=299));
        if request.method == Method::Invite && is_success {
            let asker = call.asks_next;
            let acknowledged = call.side_mut(asker).map(|side| acknowledge(context, key, side));
            call.acknowledged = acknowledged;
        } else if request.method == Method::Invite {
            acknowledge_refusal(context, request, response);
        }
        let failed = Outcome::Failed(Failure::of(response.status()));
        Some(CallEvent::Over(key, if is_success { Outcome::Done } else { failed }))
    }

    /// A request that reached one of the phones.
    pub(crate) fn requested(
        &mut self,
        context: &mut Context,
        request: &Message,
        origin: Origin,
        now: Instant,
    ) {
        let key = request.call_id().ok().and_then(|call_id| context.phones.call_of(call_id));
        let Some(key) = key.filter(|key| self.table.get_mut(*key).is_some()) else {
            return refuse(context, request, origin);
        };
        let to_tag = request.to().ok().and_then(|to| to.tag());
        match (request.method(), to_tag) {
            (Some(Method::Invite), None) => self.ring(context, key, request, origin, now),
            (Some(Method::Invite), Some(tag)) => {
                let is_callee = tag.starts_with(CALLEE_TAG_MARK);
                let asked = if is_callee { Side::Callee } else { Side::Caller };
                self.invited_again(context, key, (asked, request), origin, now);
            }
            (Some(Method::Ack), _) => self.acknowledged(key),
            (Some(Method::Bye | Method::Info), Some(_)) => {
                let answer = ResponseBuilder::new(request, 200).build();
                context.send(origin.flow, origin.from, answer);
            }
            _ => refuse(context, request, origin),
        }
    }

    fn ring(
        &mut self,
        context: &mut Context,
        key: Key,
        invite: &Message,
        origin: Origin,
        now: Instant,
    ) {
        let number = (Side::Callee, number(invite));
        if self.is_repetition(context, key, number, origin, now) {
            return;
        }
        let Some(call) = self.table.get_mut(key) else {
            return;
        };
        let mut tag = BytesMut::from(CALLEE_TAG_MARK);
        key.put(&mut tag);
        let contact = context.phones.contact(call.callee);
        let response = |status| {
            ResponseBuilder::new(invite, status)
                .to_tag(&tag)
                .record_route()
                .header(HeaderName::Contact, &contact)
        };
        let ringing = response(180).build();
        let answer = response(200).body(b"application/sdp", session_description()).build();
        context.send(origin.flow, origin.from, ringing.clone());
        if self.callee_keeps == CalleeKeeps::Dialog {
            call.callee_side = DialogSide::of_callee(call.callee, invite, &tag, context.target);
        }
        let state = AnsweringState::Ringing;
        call.answering = Some(Answering { invite: number, origin, ringing, answer, state });
        if self.ring.is_zero() {
            self.answer(context, key, now);
        } else {
            self.due.add(self.ring, now, Due::Answer(key));
        }
    }

    /// An INVITE that was seen already: what was said last is said again (RFC 3261 §17.2.1).
    fn is_repetition(
        &mut self,
        context: &mut Context,
        key: Key,
        invite: (Side, u32),
        origin: Origin,
        now: Instant,
    ) -> bool {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_ref());
        let Some(answering) = answering.filter(|answering| answering.invite == invite) else {
            return false;
        };
        let last = match answering.state {
            AnsweringState::Ringing => Some(answering.ringing.clone()),
            AnsweringState::Answered(_) => Some(answering.answer.clone()),
            AnsweringState::Acknowledged => None,
        };
        if let Some(last) = last {
            context.statistics.retransmitted(now);
            context.send(origin.flow, origin.from, last);
        }
        true
    }

    fn invited_again(
        &mut self,
        context: &mut Context,
        key: Key,
        (asked, invite): (Side, &Message),
        origin: Origin,
        now: Instant,
    ) {
        let number = (asked, number(invite));
        if self.is_repetition(context, key, number, origin, now) {
            return;
        }
        let Some(call) = self.table.get_mut(key) else {
            return;
        };
        let user = match asked {
            Side::Caller => call.caller,
            Side::Callee => call.callee,
        };
        let answer = ResponseBuilder::new(invite, 200)
            .header(HeaderName::Contact, &context.phones.contact(user))
            .body(b"application/sdp", session_description())
            .build();
        let (ringing, state) = (Bytes::new(), AnsweringState::Ringing);
        call.answering = Some(Answering { invite: number, origin, ringing, answer, state });
        self.answer(context, key, now);
    }

    fn answer(&mut self, context: &mut Context, key: Key, now: Instant) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        let Some(answering) = answering else { return };
        answering.state = AnsweringState::Answered(0);
        let origin = answering.origin;
        context.send(origin.flow, origin.from, answering.answer.clone());
        // Also over TCP: this is between phones, whatever carries it (RFC 3261 §13.3.1.4).
        let repeat = Due::RepeatAnswer(key, answering.invite);
        self.due.add(Duration::from_millis(ANSWER_MS[0]), now, repeat);
    }

    fn acknowledged(&mut self, key: Key) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        if let Some(answering) = answering {
            answering.state = AnsweringState::Acknowledged;
            // Nobody asks for them again, and a call may stay up for long.
            (answering.ringing, answering.answer) = (Bytes::new(), Bytes::new());
        }
    }

    fn repeat_answer(
        &mut self,
        context: &mut Context,
        key: Key,
        invite: (Side, u32),
        now: Instant,
    ) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        let Some(answering) = answering.filter(|answering| answering.invite == invite) else {
            return;
        };
        let AnsweringState::Answered(repetitions) = answering.state else {
            return;
        };
        answering.state = AnsweringState::Answered(repetitions + 1);
        let origin = answering.origin;
        context.statistics.retransmitted(now);
        context.send(origin.flow, origin.from, answering.answer.clone());
        // After the last one the callee waits in vain; the call is lost when the caller's time is over.
        if let Some(delay) = ANSWER_MS.get(repetitions + 1) {
            self.due.add(Duration::from_millis(*delay), now, Due::RepeatAnswer(key, invite));
        }
    }

    /// Does what is due at `now`.
    pub(crate) fn tick(&mut self, context: &mut Context, now: Instant) {
        while let Some(due) = self.due.take_due(now) {
            match due {
                Due::Answer(key) => self.answer(context, key, now),
                Due::RepeatAnswer(key, invite) => self.repeat_answer(context, key, invite, now),
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.next_due()
    }
}

/// Acknowledges a 2xx: RFC 3261 §13.2.2.4, a transaction of its own, which nobody answers. Its branch is made of the
/// call's key and its number.
fn acknowledge(context: &mut Context, key: Key, side: &DialogSide) -> (Origin, Bytes) {
    let ack = context.phones.in_dialog(Method::Ack, key, key, &side.values());
    let route = Origin { flow: context.phones.flow_of(side.user), from: side.next_hop };
    context.send(route.flow, route.from, ack.clone());
    (route, ack)
}

/// Acknowledges any other final response to an INVITE, under the INVITE's own branch (RFC 3261 §17.1.1.3).
fn acknowledge_refusal(context: &mut Context, request: &ClientTransaction, response: &Message) {
    let invite = Message::parse(request.request.clone()).expect("we made it");
    context.send(request.flow, request.to, sip::ack::ack(&invite, response));
}

/// The number of a request's CSeq.
fn number(request: &Message) -> u32 {
    request.cseq().map_or(0, |cseq| cseq.number)
}

/// Answers what no call of ours is meant by: a server's OPTIONS is answered, other requests are refused.
fn refuse(context: &mut Context, request: &Message, origin: Origin) {
    let status = match request.method() {
        Some(Method::Options) => 200,
        Some(Method::Ack) | None => {
            context.statistics.strays += 1;
            return;
        }
        Some(_) => {
            context.statistics.strays += 1;
            481
        }
    };
    let answer = ResponseBuilder::new(request, status).to_tag(b"none").build();
    context.send(origin.flow, origin.from, answer);
}
