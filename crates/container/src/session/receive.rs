//! What a message, a timer or a failure means to a session: what changes by itself, and what the application is told.
//!
//! A user agent's duties of RFC 3261 that leave no choice are done here: requests out of order, crossing INVITEs,
//! forks, CANCEL, the ends of transactions.

use std::time::Duration;

use bytes::Bytes;
use sip::dialog::Dialog;
use sip::{HeaderName, Message, Method, RequestBuilder};
use state::UnixMillis;

use super::chain::{self, Chain};
use super::identity::{Opening, RequestName};
pub use super::input::{Input, NewRequest, NoSession};
use super::proxying::pass_ack;
use super::state::{
    Action, Answer, Bye, Context, IncomingRequest, OutgoingRequest, Session, Silence, Stage,
};
use super::{LegName, LegState, RequestId, SessionEvent, SessionId, limits};
use crate::application::Response;

/// The reason of 513.
pub(super) const TOO_LARGE: &str = "Message Too Large";

impl Session {
    /// The session that an initial request begins, and what its application is told of it.
    ///
    /// # Errors
    /// [`NoSession`]: the request makes no dialog although it should, or is too large.
    pub fn begin(
        id: SessionId,
        application: &str,
        begun_by: &NewRequest,
        context: Context<'_>,
    ) -> Result<(Session, SessionEvent), NoSession> {
        let request = &begun_by.request;
        let mut session = Session::open(id, application, context);
        session.is_begun_by(request, context);
        let event = session.join(begun_by, context)?;
        Ok((session, event))
    }

    fn is_begun_by(&mut self, request: &Message, context: Context<'_>) {
        self.ends_when_ready = true;
        self.called = request.request_uri().map(|uri| context.identity.user(uri));
        let max_forwards = request.max_forwards().ok().flatten();
        self.max_forwards = max_forwards.unwrap_or(sip::MAX_FORWARDS_INITIAL).saturating_sub(1);
    }

    /// Begins again under the name that its key gives it. What it has answered it still knows, and it gives no number
    /// twice.
    fn begin_anew(&mut self, context: Context<'_>) {
        let anew = Session::open(self.id, &self.application, context);
        let before = std::mem::replace(self, anew);
        self.key = before.key;
        self.incoming = before.incoming;
        self.outgoing = before.outgoing;
        self.signals_known = before.signals_known;
        self.last_ordinal = before.last_ordinal;
    }

    /// A session without a leg, that lives until it expires.
    pub fn open(id: SessionId, application: &str, context: Context<'_>) -> Session {
        Session {
            id,
            owner: context.identity.owner(),
            application: application.into(),
            key: None,
            created: context.now,
            expires: context.now.saturating_add(limits::SESSION_TIME_MAX),
            attributes: Default::default(),
            timers: Default::default(),
            legs: Vec::new(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            failures: Vec::new(),
            signals_known: Vec::new(),
            last_ordinal: 0,
            max_forwards: sip::MAX_FORWARDS_INITIAL,
            depth: 0,
            called: None,
            ends_when_ready: false,
            is_ending: false,
        }
    }

    /// Takes in an initial request as a leg of its own.
    fn join(&mut self, new: &NewRequest, context: Context<'_>) -> Result<SessionEvent, NoSession> {
        let head = head_of(&new.request)?;
        let leg = self.add_caller(&head, context)?;
        self.depth = self.depth.max(chain::depth_of(&new.request));
        Ok(self.wants_answer(leg, new, &head))
    }

    /// Takes in what came; the event that the application is to be told, if any. What is to be done once the changes
    /// are committed is added to `actions`.
    pub fn receive(
        &mut self,
        input: Input,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        self.take_dates_back(context.now);
        let event = match input {
            Input::Request(request) => self.request(&request, context, actions),
            Input::Join(request) => self.joined(&request, context, actions),
            Input::Signal { signal, response } => self.signalled(signal, response, actions),
            Input::HttpByKey(request) => {
                if self.is_over() {
                    self.begin_anew(context);
                }
                Some(SessionEvent::Http(request))
            }
            Input::Http(request) => Some(SessionEvent::Http(request)),
            Input::Cancelled { key } => self.cancelled(&key, context, actions),
            Input::Acknowledged { ack } => self.acknowledged(ack, actions),
            Input::Response { response } => self.response(response, context, actions),
            Input::Failed { branch, status } => self.failed(&branch, status, context, actions),
            Input::Deadline => self.deadline(context, actions),
            Input::Failure => self.failures.pop().map(failed_event),
            Input::Routed { request, outcome } => self.routed(request, outcome, context, actions),
            Input::Noted { request, event } => {
                self.note(request, event);
                None
            }
            Input::Relay { request, reply } => self.relayed(request, reply, context, actions),
            Input::Finished { request } => self.finished(request),
        };
        event.filter(|_| !self.is_ending)
    }

    /// The application was not there to be told that the other side has hung up or given up: it hears that a request of
    /// the leg has failed, when it is there.
    pub fn note_untold(&mut self, event: Option<SessionEvent>) -> Option<SessionEvent> {
        let (leg, method) = match event? {
            SessionEvent::Request { leg, message, .. } => {
                let method = message.method().map_or(&b""[..], |method| method.as_bytes());
                (leg, Bytes::copy_from_slice(method))
            }
            SessionEvent::Cancelled { leg, .. } => (leg, Bytes::from_static(b"INVITE")),
            other => return Some(other),
        };
        self.failures.push((leg, method, 487));
        None
    }

    /// Whether a request is a repetition; its answer is given again if it has one.
    fn is_known(&self, new: &NewRequest, actions: &mut Vec<Action>) -> bool {
        if let Some((status, response)) = self.answer_to(&new.key) {
            let response = response.clone();
            actions.push(Action::Answer { key: new.key.clone(), status, response });
            return true;
        }
        self.incoming.iter().any(|known| known.key == new.key)
    }

    /// Whether there is room for another request that wants an answer.
    fn has_room_for(&self, method: Method<'_>) -> bool {
        let unanswered = self.incoming.iter().filter(|known| known.answer.is_none()).count();
        let invites = self.incoming.iter().filter(|known| known.method == "INVITE").count();
        let is_invite = method == Method::Invite;
        unanswered < limits::UNANSWERED_MAX && !(is_invite && invites >= limits::INVITES_MAX)
    }

    fn joined(
        &mut self,
        new: &NewRequest,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        if self.is_known(new, actions) {
            return None;
        }
        let request = &new.request;
        if self.is_over() {
            self.begin_anew(context);
            self.is_begun_by(request, context);
        }
        let responder = &context.identity.responder;
        let method = request.method()?;
        let joined = if self.is_ending || !self.has_room_for(method) {
            Err(responder.try_again(request))
        } else {
            self.join(new, context).map_err(|refused| match refused.status {
                503 => responder.try_again(request),
                status => Response::new(status).reason(refused.reason),
            })
        };
        joined.map_err(|response| refuse(new, &response, context, actions)).ok()
    }

    fn request(
        &mut self,
        new: &NewRequest,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let request = &new.request;
        if self.is_known(new, actions) {
            return None; // its answer will come, or comes again
        }
        let mut refuse = |response: Response| {
            refuse(new, &response, context, actions);
            None
        };
        let at = self.legs.iter().position(|leg| leg.has_request(request));
        // RFC 3261 §12.2.2
        let Some(at) = at else { return refuse(Response::new(481)) };
        let leg = self.legs[at].name.clone();
        let method = request.method()?;
        let is_over = self.is_ending || self.legs[at].state == LegState::Ended;
        if is_over && method != Method::Bye {
            return refuse(Response::new(481));
        }
        if !self.has_room_for(method) {
            return refuse(context.identity.responder.try_again(request));
        }
        let head = match head_of(request) {
            Ok(head) => head,
            Err(no) => return refuse(Response::new(no.status).reason(no.reason)),
        };
        if self.legs[at].proxied.is_some() {
            return Some(self.through(at, new, &head, context, actions));
        }
        let dialog = self.legs[at].dialog.as_mut().expect("the leg was found by its dialog");
        let before = dialog.clone();
        if dialog.receive(request).is_err() {
            return refuse(Response::new(500));
        }
        if method == Method::Invite
            && let Some(crossing) = self.crossing_invite(&leg, request, context)
        {
            // The refused INVITE must not move the target.
            let remote_cseq = self.legs[at].dialog.as_ref().and_then(|dialog| dialog.remote_cseq);
            self.legs[at].dialog = Some(Dialog { remote_cseq, ..before });
            return refuse(crossing);
        }
        let event = self.wants_answer(leg.clone(), new, &head);
        if method == Method::Bye {
            self.end_leg(&leg, Bye::Done, context, actions);
        }
        Some(event)
    }

    /// How a re-INVITE is refused that meets another INVITE of its dialog (RFC 3261 §14.2).
    fn crossing_invite(
        &self,
        leg: &LegName,
        request: &Message,
        context: Context<'_>,
    ) -> Option<Response> {
        let is_invite = |request: &IncomingRequest| request.method == "INVITE";
        if self.unanswered(leg).any(is_invite) {
            let seconds = context.identity.responder.seconds_by_chance(request, 0..=10);
            return Some(Response::new(500).header(HeaderName::RetryAfter, seconds));
        }
        self.has_open_invite(leg).then(|| Response::new(491))
    }

    /// Whether an INVITE of ours on that leg has no final response.
    pub(super) fn has_open_invite(&self, leg: &LegName) -> bool {
        let mut outgoing = self.outgoing.iter().filter(|request| request.is_of(leg));
        outgoing.any(|request| request.is_invite() && request.is_open())
    }

    /// Notes a request that the application will answer.
    pub(super) fn wants_answer(
        &mut self,
        leg: LegName,
        new: &NewRequest,
        head: &Message,
    ) -> SessionEvent {
        let id = RequestId(self.take_ordinal());
        let method = new.request.method().map_or(&b""[..], |method| method.as_bytes());
        self.incoming.push(IncomingRequest {
            id,
            leg: leg.clone(),
            method: Bytes::copy_from_slice(method),
            key: new.key.clone(),
            flow: new.flow,
            head: head.buffer().clone(),
            answer: None,
            whole: new.request.buffer().clone(),
            forwarding: None,
        });
        SessionEvent::Request { leg, request: id, message: new.request.clone() }
    }

    /// A BYE came, or the other side knows the dialog no more: the leg is over, and whatever of it waits for an answer or
    /// an ACK does not any more.
    pub(super) fn end_leg(
        &mut self,
        name: &LegName,
        bye: Bye,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        if let Some(leg) = self.leg(name) {
            leg.state = LegState::Ended;
            leg.bye = bye;
        }
        for request in self.incoming.iter_mut().filter(|request| request.leg == *name) {
            if let Some(answer) = &mut request.answer {
                answer.awaits_ack = false;
            }
        }
        // RFC 3261 §15.1.2: pending requests are answered 487.
        let pending: Vec<RequestId> = self
            .unanswered(name)
            .filter(|request| request.method != "BYE")
            .map(|request| request.id)
            .collect();
        for request in pending {
            self.answer(request, &Response::new(487), context, actions);
        }
    }

    fn cancelled(
        &mut self,
        key: &Bytes,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let is_it = |known: &IncomingRequest| known.key == *key && known.answer.is_none();
        let at = self.incoming.iter().position(is_it)?;
        let known = &self.incoming[at];
        let (leg, request) = (known.leg.clone(), known.id);
        if self.is_on_its_way(at) {
            return self.cancel_forwarded(at, actions);
        }
        self.incoming[at].forwarding = None;
        // RFC 3261 §9.2
        self.answer(request, &Response::new(487), context, actions);
        Some(SessionEvent::Cancelled { leg, request })
    }

    fn acknowledged(&mut self, ack: Message, actions: &mut Vec<Action>) -> Option<SessionEvent> {
        let leg = self.legs.iter().find(|leg| leg.has_request(&ack))?;
        if leg.proxied.is_some() {
            pass_ack(ack, actions);
            return None;
        }
        let leg = leg.name.clone();
        let number = ack.cseq().ok()?.number;
        let answer =
            self.incoming.iter_mut().filter(|request| request.leg == leg).find_map(|request| {
                let answer = request.answer.as_mut().filter(|answer| answer.awaits_ack)?;
                let response = Message::parse(answer.response.clone()).ok()?;
                (response.cseq().ok()?.number == number).then_some(answer)
            })?;
        answer.awaits_ack = false;
        Some(SessionEvent::Acknowledged { leg, message: ack })
    }

    /// One thing whose time has come; the rest follows at once, since the next deadline is past as well.
    fn deadline(
        &mut self,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let is_past = |at: UnixMillis| at.saturating_add(context.kept()) <= context.guarded;
        let missing = self.incoming.iter_mut().find_map(|request| {
            let answer = request.answer.as_mut().filter(|answer| answer.awaits_ack)?;
            is_past(answer.at).then(|| {
                answer.awaits_ack = false;
                request.leg.clone()
            })
        });
        if let Some(name) = missing {
            // RFC 3261 §13.3.1.4: the dialog is confirmed, but ended.
            let leg = self.leg(&name)?;
            leg.state = LegState::Ended;
            if leg.bye == Bye::None {
                leg.bye = Bye::Wanted(Silence::Silent);
            }
            let method = Bytes::from_static(b"ACK");
            return Some(SessionEvent::Failed { leg: name, method, status: 408 });
        }
        // RFC 3261 §9.1: no answer to the cancelled INVITE; it counts as cancelled.
        let unanswered = self.outgoing.iter().find(|request| match request.stage {
            Stage::Cancelled { at } => is_past(at),
            Stage::Waiting { .. } | Stage::Over { .. } => false,
        });
        if let Some(branch) = unanswered.map(|request| request.branch.clone()) {
            actions.push(Action::Abandon { branch: branch.clone() });
            return self.failed(&branch, 487, context, actions);
        }
        // Only provisional responses, for too long; 487 follows, or silence.
        let is_due = |at: UnixMillis| at <= context.guarded;
        let mut outgoing = self.outgoing.iter_mut();
        if let Some(ringing) = outgoing.find(|request| request.timer_c().is_some_and(is_due)) {
            ringing.cancel(context, actions);
            return None;
        }
        if self.repeat_signal(context, actions) {
            return None;
        }
        let due = self.timers.iter().filter(|(_, timer)| timer.due <= context.guarded);
        let first = due.min_by_key(|(_, timer)| timer.due).map(|(name, _)| name.clone());
        if let Some(name) = first.filter(|_| !self.is_ending) {
            self.fired(&name, context.guarded);
            return Some(SessionEvent::Timer { name });
        }
        (self.expires <= context.guarded).then_some(SessionEvent::Ending)
    }

    fn fired(&mut self, name: &str, now: UnixMillis) {
        let Some(timer) = self.timers.get_mut(name) else { return };
        match timer.every.map(|every| every.max(limits::TIMER_MIN)) {
            None => {
                self.timers.remove(name);
            }
            // Periods that were missed are not made up for.
            Some(every) => {
                let late = now.saturating_since(timer.due).as_millis() / every.as_millis().max(1);
                let periods = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
                timer.since = timer.due.saturating_add(every.saturating_mul(periods - 1));
                timer.due = timer.since.saturating_add(every);
            }
        }
    }

    /// Gives a request its final answer.
    pub(super) fn answer(
        &mut self,
        request: RequestId,
        response: &Response,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let Some(at) = self.incoming.iter().position(|known| known.id == request) else { return };
        let known = &self.incoming[at];
        let Ok(head) = Message::parse(known.head.clone()) else { return };
        if known.answer.is_some() {
            return;
        }
        let rendered = context.identity.responder.render(&head, response);
        let (name, status) = (known.leg.clone(), response.status);
        let is_invite = known.method == "INVITE";
        let key = known.key.clone();
        actions.push(Action::Answer { key, status, response: rendered.clone() });
        if status < 200 {
            return;
        }
        let known = &mut self.incoming[at];
        known.head = Bytes::new();
        known.answer = Some(Answer {
            status,
            response: rendered,
            at: context.now,
            awaits_ack: is_invite && status < 300,
        });
        if self.is_beside_its_invite(at) {
            return;
        }
        let Some(leg) = self.leg(&name).filter(|leg| leg.state == LegState::Early) else { return };
        leg.state = match (is_invite, status) {
            (true, 200..=299) => LegState::Confirmed,
            (_, _) => LegState::Ended,
        };
        if leg.state == LegState::Confirmed
            && let Some(dialog) = &mut leg.dialog
        {
            dialog.state = sip::dialog::DialogState::Confirmed;
        }
    }

    /// Whether a request came while the INVITE of its leg had no final answer, which it still has not: however such a one
    /// ends (a PRACK, an UPDATE), what becomes of the leg is the INVITE's matter.
    pub(super) fn is_beside_its_invite(&self, at: usize) -> bool {
        let leg = &self.incoming[at].leg;
        let mut before = self.incoming[..at].iter().filter(|known| known.leg == *leg);
        before.any(|known| known.method == "INVITE" && known.answer.is_none())
    }

    /// Begins a request in a dialog: its branch, and what it has in common with all others.
    pub(super) fn in_dialog(
        &self,
        dialog: &Dialog,
        method: Method<'_>,
        cseq: u32,
        context: Context<'_>,
    ) -> (Bytes, RequestBuilder) {
        let name = RequestName {
            application: &self.application,
            call_id: &dialog.call_id,
            remote_tag: dialog.remote_tag(),
            cseq,
            method,
            chain: Chain::NONE,
            opening: Opening::NONE,
        };
        let (branch, via) = context.identity.via(self.id, &name);
        (branch, dialog.request(method, cseq, &via))
    }

    /// Puts a request into the outbox: method, branch, complete message.
    pub(super) fn send(
        &mut self,
        leg: Option<LegName>,
        (method, branch, request): (Method<'_>, Bytes, Bytes),
        silence: Silence,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let method = Bytes::copy_from_slice(method.as_bytes());
        actions.push(Action::Start {
            branch: branch.clone(),
            method: method.clone(),
            request: request.clone(),
        });
        self.outgoing.push(OutgoingRequest {
            leg,
            method,
            branch,
            request,
            stage: Stage::Waiting { since: context.now },
            silence,
            is_proceeding: false,
            renewed: context.now,
        });
    }
}

/// Answers a request of which the application does not hear.
fn refuse(new: &NewRequest, response: &Response, context: Context<'_>, actions: &mut Vec<Action>) {
    let rendered = context.identity.responder.render(&new.request, response);
    let (key, status) = (new.key.clone(), response.status);
    actions.push(Action::Answer { key, status, response: rendered });
}

pub(super) fn failed_event((leg, method, status): (LegName, Bytes, u16)) -> SessionEvent {
    SessionEvent::Failed { leg, method, status }
}

/// A request without what is not needed to answer it, so that it may be kept.
///
/// # Errors
/// 513: names written long, and what every request of ours has, make it longer than a message may be; or an answer to
/// it might be. 400: it is no request.
pub(super) fn head_of(request: &Message) -> Result<Message, NoSession> {
    let malformed = NoSession { status: 400, reason: "Malformed Request" };
    let (Some(method), Some(uri)) = (request.method(), request.request_uri()) else {
        return Err(malformed);
    };
    let mut head = RequestBuilder::new(method, uri);
    for (name, _, value) in request.all_fields() {
        let is_kept = matches!(
            name,
            HeaderName::Via
                | HeaderName::RecordRoute
                | HeaderName::From
                | HeaderName::To
                | HeaderName::CallId
                | HeaderName::CSeq
                | HeaderName::Contact
        );
        if is_kept {
            head = head.header(name, value);
        }
    }
    let head = head.build();
    let has_room = head.len() + limits::ANSWER_ROOM_BYTES <= sip::MESSAGE_BYTES_MAX;
    let head = Message::parse(head).ok().filter(|_| has_room);
    head.ok_or(NoSession { status: 513, reason: TOO_LARGE })
}

/// For whoever repeats a 2xx: T1, doubled up to T2 (RFC 3261 §13.3.1.4).
pub fn next_repetition(interval: Duration, t2: Duration) -> Duration {
    (interval * 2).min(t2)
}
