//! Calls between two phones of this process, caller and callee, each seeing only what its own flow brings.
//!
//! ```text
//! caller: INVITE ─▶ (407 ─▶ ACK, INVITE) ─▶ 180 ─▶ 200 ─▶ ACK … BYE ─▶ 200
//! callee:        INVITE ─▶ 180 ─▶ (ring) ─▶ 200, repeated until ACK … BYE ─▶ 200
//! ```
//!
//! The Call-ID holds the call's key, so both sides find it without a search. [`Calls`] says when a call is up or over;
//! what is done with it then is a scenario's business. A server that changes the Call-ID (a back-to-back agent) is not
//! understood here.

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

/// An INVITE that is being answered, by either side.
#[derive(Debug)]
struct Answering {
    origin: Origin,
    /// Empty for an INVITE in the dialog.
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
    rings: bool,
    /// The last ACK of a 2xx, to be sent again for each repetition of that, by whom and where to.
    acknowledged: Option<(Origin, Bytes)>,
    caller_side: Option<DialogSide>,
    answering: Option<Answering>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Answer(Key),
    RepeatAnswer(Key),
}

/// Calls that ring or are up.
#[derive(Debug)]
pub(crate) struct Calls {
    /// From 180 to 200.
    ring: Duration,
    table: Table<Call>,
    due: Delays<Due>,
}

impl Calls {
    pub(crate) fn new(ring: Duration) -> Calls {
        Calls { ring, table: Table::default(), due: Delays::default() }
    }

    /// Forgets a call.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Call> {
        self.table.remove(key)
    }

    /// Forgets all calls.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Call> + use<'_> {
        self.table.drain()
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
            rings: false,
            acknowledged: None,
            caller_side: None,
            answering: None,
        });
        self.invite(context, key, None, now);
    }

    fn invite(&mut self, context: &mut Context, key: Key, answer: Option<Bytes>, now: Instant) {
        let Some(call) = self.table.get_mut(key) else { return };
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
        let Some(call) = self.table.get_mut(key) else { return };
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
                let invite = Message::parse(request.request.clone()).expect("we made it");
                context.send(request.flow, request.to, sip::ack::ack(&invite, response));
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
        // RFC 3261 §13.2.2.4: a transaction of its own, which nobody answers. Its branch is made of the call's key.
        let ack = context.phones.in_dialog(Method::Ack, key, key, &side.values());
        let route = Origin { flow: context.phones.flow_of(call.caller), from: side.next_hop };
        context.send(route.flow, route.from, ack.clone());
        call.acknowledged = Some((route, ack));
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

    /// The caller hangs up.
    pub(crate) fn hang_up(&mut self, context: &mut Context, key: Key, now: Instant) {
        let Some(side) = self.table.get_mut(key).and_then(|call| call.caller_side.as_mut()) else {
            return;
        };
        side.cseq += 1;
        let route = (context.phones.flow_of(side.user), side.next_hop);
        let values = side.values();
        context.request(key, Method::Bye, route, now, |phones, transaction| {
            phones.in_dialog(Method::Bye, transaction, key, &values)
        });
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
        let Some(call) = self.table.get_mut(key) else { return };
        if let Some(answering) = &call.answering {
            // A repetition: what was said last is said again (RFC 3261 §17.2.1).
            let last = match answering.state {
                AnsweringState::Ringing => answering.ringing.clone(),
                AnsweringState::Answered(_) => answering.answer.clone(),
                AnsweringState::Acknowledged => return,
            };
            context.statistics.retransmitted(now);
            return context.send(origin.flow, origin.from, last);
        }
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
        call.answering =
            Some(Answering { origin, ringing, answer, state: AnsweringState::Ringing });
        if self.ring.is_zero() {
            self.answer(context, key, now);
        } else {
            self.due.add(self.ring, now, Due::Answer(key));
        }
    }

    fn answer(&mut self, context: &mut Context, key: Key, now: Instant) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        let Some(answering) = answering else { return };
        answering.state = AnsweringState::Answered(0);
        let origin = answering.origin;
        context.send(origin.flow, origin.from, answering.answer.clone());
        // Also over TCP: this is between phones, whatever carries it (RFC 3261 §13.3.1.4).
        self.due.add(Duration::from_millis(ANSWER_MS[0]), now, Due::RepeatAnswer(key));
    }

    fn acknowledged(&mut self, key: Key) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        if let Some(answering) = answering {
            answering.state = AnsweringState::Acknowledged;
        }
    }

    fn repeat_answer(&mut self, context: &mut Context, key: Key, now: Instant) {
        let answering = self.table.get_mut(key).and_then(|call| call.answering.as_mut());
        let Some(answering) = answering else { return };
        let AnsweringState::Answered(repetitions) = answering.state else { return };
        answering.state = AnsweringState::Answered(repetitions + 1);
        let origin = answering.origin;
        context.statistics.retransmitted(now);
        context.send(origin.flow, origin.from, answering.answer.clone());
        // After the last one the callee waits in vain; the call is lost when the caller's time is over.
        if let Some(delay) = ANSWER_MS.get(repetitions + 1) {
            self.due.add(Duration::from_millis(*delay), now, Due::RepeatAnswer(key));
        }
    }

    /// Does what is due at `now`.
    pub(crate) fn tick(&mut self, context: &mut Context, now: Instant) {
        while let Some(due) = self.due.take_due(now) {
            match due {
                Due::Answer(key) => self.answer(context, key, now),
                Due::RepeatAnswer(key) => self.repeat_answer(context, key, now),
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.next_due()
    }
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
