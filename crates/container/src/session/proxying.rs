//! Requests that go on to others: the initial one of a leg, when its application wants that (RFC 3261 §16), and the later
//! ones of its dialog, when the session has put itself into their route.
//!
//! What carries them is the proxy context of the container ([`crate::proxy`]). The set-up record by which a successor goes
//! on with that lies inside the session's own record: one owner, one heir, one commit for what has happened and for what
//! the application makes of it.
//!
//! ```text
//! Proxy ─▶ Route ─▶ registrar ─▶ Routed ─▶ Forward ─▶ context ─▶ Noted: its course changes
//!    └───── with targets ───────────────────▲                └─▶ Relay ─▶ handler, if supervised ─▶ Answer
//! ```
//!
//! ACKs to 2xx go on without a word. A proxied dialog is known by its Call-ID and the caller's tag, so that forks and
//! early dialogs are one leg; its order of requests is the phones' own business.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sip::{Edits, HeaderName, Message, Method};
use topology::ChoiceKey;

use super::identity::{ForwardedName, Identity, Opening};
use super::receive::{NewRequest, TOO_LARGE};
use super::rules::{BrokenRule, Contact, checked_message, checked_targets, checked_timer_c};
use super::state::{Action, Answer, Bye, Context, IncomingRequest, Leg, Session};
use super::{LegName, LegState, ProxyOptions, RequestId, SessionEvent, Supervised};
use crate::application::{
    Caller, FieldName, ProxyPlan, RecordRoute, Response, TIMER_C_DEFAULT, Target,
};
use crate::own_route::without_own_route;
use crate::proxy::ViaMark;
use crate::setup::{Event, SetUp};

/// How a leg is proxied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proxied {
    pub(super) record_route: RecordRoute,
    pub(super) supervised: Supervised,
}

/// A request that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarding {
    /// The request as it goes on, where to, and what has happened to it since.
    pub(super) set_up: SetUp,
    /// Where to is not known yet.
    pub(super) is_sought: bool,
}

/// What the registrar would do with a request.
#[derive(Clone, Debug)]
pub enum Routed {
    /// Forward it.
    To(ProxyPlan),
    /// Answer it.
    Refused(Response),
}

/// A response that is to be passed back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// One that came, our Via taken off: complete message.
    Received(Bytes),
    /// One of our own.
    Own(Response),
}

impl Reply {
    /// Its status. One that came was rendered here, so begins `SIP/2.0 NNN`.
    pub fn status(&self) -> u16 {
        let response = match self {
            Reply::Received(response) => response,
            Reply::Own(response) => return response.status,
        };
        let digits = response.get(8..11).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(500)
    }
}

impl Leg {
    /// Whether a request in a dialog is one of this leg.
    pub(super) fn has_request(&self, request: &Message) -> bool {
        let Some(dialog) = &self.dialog else { return false };
        if self.proxied.is_none() {
            return dialog.has_request(request);
        }
        let (from, to) = tags(request);
        let caller = dialog.remote_tag();
        !to.is_empty()
            && request.call_id().is_ok_and(|call_id| call_id == dialog.call_id)
            && (from == caller || to == caller)
    }

    /// Whether a request is between the caller and who answered first, and not another fork.
    fn is_between_its_ends(&self, request: &Message) -> bool {
        let Some(dialog) = &self.dialog else { return false };
        let ends = [dialog.local_tag(), dialog.remote_tag()];
        let (from, to) = tags(request);
        self.state == LegState::Confirmed && ends.contains(&&from[..]) && ends.contains(&&to[..])
    }
}

fn tags(request: &Message) -> (Vec<u8>, Vec<u8>) {
    let from = request.from().ok().and_then(|from| from.tag().map(<[u8]>::to_vec));
    let to = request.to().ok().and_then(|to| to.tag().map(<[u8]>::to_vec));
    (from.unwrap_or_default(), to.unwrap_or_default())
}

/// An ACK to a 2xx goes on.
pub(super) fn pass_ack(ack: Message, actions: &mut Vec<Action>) {
    if let Ok(rewritten) = without_own_route(&ack) {
        actions.push(Action::ForwardAck { ack: Box::new(rewritten.unwrap_or(ack)) });
    }
}

impl Session {
    /// Lets the initial request of a leg go on.
    pub(super) fn proxy(
        &mut self,
        request: RequestId,
        targets: Vec<Target>,
        options: &ProxyOptions,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        checked_targets(&targets)?;
        checked_message(&options.headers, None, 0, Contact::Ours)?;
        let timer_c = options.timer_c.map_or(Ok(TIMER_C_DEFAULT), checked_timer_c)?;
        let cannot = BrokenRule::NotProxied(request);
        let is_it = |known: &IncomingRequest| {
            let is_open = known.answer.is_none() && known.forwarding.is_none();
            known.id == request && is_open && !known.whole.is_empty()
        };
        let Some(at) = self.incoming.iter().position(is_it) else { return Err(cannot) };
        let known = &self.incoming[at];
        let Ok(received) = Message::parse(known.whole.clone()) else { return Err(cannot) };
        let name = known.leg.clone();
        let leg = self.leg(&name).filter(|leg| leg.state == LegState::Early);
        if leg.is_none_or(|leg| leg.proxied.is_some()) {
            return Err(cannot);
        }
        let is_invite = received.method() == Some(Method::Invite);
        // Others make no dialog that a session could know.
        let record_route = if is_invite { options.record_route } else { RecordRoute::No };
        let proxied = Proxied { record_route, supervised: options.supervised };
        let mut edits = Edits::new();
        if record_route == RecordRoute::Yes {
            edits.push_front(HeaderName::RecordRoute, &context.identity.record_route(self.id));
        }
        for header in &options.headers {
            match &header.name {
                FieldName::Known(name) => edits.push_back(*name, &header.value),
                FieldName::Named(name) => edits.push_back_named(name, &header.value),
            }
        }
        let mut goes_on = BytesMut::with_capacity(received.buffer().len() + 256);
        edits.render(&received, &mut goes_on);
        let goes_on = goes_on.freeze();
        // It has grown, perhaps beyond what a message may be.
        if Message::parse(goes_on.clone()).is_err() {
            self.answer(request, &Response::new(513).reason(TOO_LARGE), context, actions);
            return Ok(());
        }
        if let Some(leg) = self.leg(&name) {
            leg.proxied = Some(proxied);
        }
        let plan = ProxyPlan { targets, record_route: RecordRoute::No, timer_c };
        self.forward(at, goes_on, plan, context, actions);
        Ok(())
    }

    /// Without targets they are sought first.
    fn forward(
        &mut self,
        at: usize,
        request: Bytes,
        plan: ProxyPlan,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let choice = ChoiceKey::Session(&self.id.0).hash();
        let known = &mut self.incoming[at];
        let is_sought = plan.targets.is_empty();
        let (token, sent_by) = context.identity.forwarder();
        let owner = context.identity.owner().incarnation;
        let (flow, events) = (known.flow, Vec::new());
        let set_up = SetUp { owner, token, sent_by, flow, choice, request, plan, events };
        known.forwarding = Some(Box::new(Forwarding { set_up, is_sought }));
        let key = known.key.clone();
        actions.push(if is_sought { Action::Route { key } } else { Action::Forward { key } });
    }

    /// A request in the dialog of a leg that is proxied: it goes on, unless its application answers it at this event.
    pub(super) fn through(
        &mut self,
        at: usize,
        new: &NewRequest,
        head: &Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> SessionEvent {
        let leg = &self.legs[at];
        let ends_call =
            leg.is_between_its_ends(&new.request) && new.request.method() == Some(Method::Bye);
        let name = leg.name.clone();
        let event = self.wants_answer(name.clone(), new, head);
        if ends_call {
            self.end_leg(&name, Bye::Done, context, actions);
        }
        event
    }

    /// What was left alone of a proxied leg goes on. From now on the event's request is known by its head only.
    pub(super) fn pass_on(&mut self, context: Context<'_>, actions: &mut Vec<Action>) {
        for at in 0..self.incoming.len() {
            let whole = std::mem::take(&mut self.incoming[at].whole);
            let known = &self.incoming[at];
            let is_open = known.answer.is_none() && known.forwarding.is_none();
            let is_proxied = || self.proxied(&known.leg).is_some();
            if whole.is_empty() || !is_open || !is_proxied() {
                continue;
            }
            let request = Message::parse(whole).map_err(|_| "Malformed Request");
            let goes_on = request.and_then(|request| {
                let rewritten = without_own_route(&request)?;
                Ok(rewritten.unwrap_or(request))
            });
            let request = match goes_on {
                Ok(request) => request,
                Err(reason) => {
                    let response = Response::new(400).reason(reason);
                    self.answer(known.id, &response, context, actions);
                    continue;
                }
            };
            let uri = Bytes::copy_from_slice(request.request_uri().unwrap_or_default());
            let plan = ProxyPlan::to_targets(vec![Target::new(uri)]);
            self.forward(at, request.buffer().clone(), plan, context, actions);
        }
    }

    /// The registrar has said what it would do with a request.
    pub(super) fn routed(
        &mut self,
        id: RequestId,
        routed: Routed,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let known = self.incoming.iter_mut().find(|known| known.id == id)?;
        let forwarding = known.forwarding.as_mut().filter(|forwarding| forwarding.is_sought)?;
        match routed {
            Routed::To(plan) => {
                let timer_c = forwarding.set_up.plan.timer_c;
                let record_route = RecordRoute::No;
                forwarding.set_up.plan = ProxyPlan { record_route, timer_c, ..plan };
                forwarding.is_sought = false;
                actions.push(Action::Forward { key: known.key.clone() });
                None
            }
            Routed::Refused(response) => self.relayed(id, Reply::Own(response), context, actions),
        }
    }

    /// Something has happened to a request that goes on.
    pub(super) fn note(&mut self, id: RequestId, event: Option<Event>) {
        let known = self.incoming.iter_mut().find(|known| known.id == id);
        let forwarding = known.and_then(|known| known.forwarding.as_mut());
        if let (Some(forwarding), Some(event)) = (forwarding, event)
            && !forwarding.set_up.is_answered()
        {
            forwarding.set_up.events.push(event);
        }
    }

    /// A response is to be passed back. The handler hears of the first final one and of what came before it.
    pub(super) fn relayed(
        &mut self,
        id: RequestId,
        reply: Reply,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let at = self.incoming.iter().position(|known| known.id == id)?;
        let known = &self.incoming[at];
        known.forwarding.as_ref()?;
        let response = match reply {
            Reply::Received(response) => response,
            Reply::Own(response) => {
                let head = Message::parse(known.head.clone()).ok()?;
                context.identity.responder.render(&head, &response)
            }
        };
        let message = Message::parse(response.clone()).ok()?;
        let status = message.status()?;
        let is_answered = known.answer.is_some();
        if is_answered && status < 200 {
            return None;
        }
        let (key, leg) = (known.key.clone(), known.leg.clone());
        actions.push(Action::Answer { key, status, response: response.clone() });
        // The callee repeats its 2xx until the ACK, and other forks may answer, too.
        if is_answered {
            return None;
        }
        let is_heard = self.is_heard(&leg);
        if status >= 200 {
            self.is_answered_by(at, status, &message, response, context);
        }
        is_heard.then_some(SessionEvent::Response { leg, message })
    }

    fn is_answered_by(
        &mut self,
        at: usize,
        status: u16,
        message: &Message,
        response: Bytes,
        context: Context<'_>,
    ) {
        let known = &mut self.incoming[at];
        let is_success = known.method == "INVITE" && status < 300;
        known.head = Bytes::new();
        known.answer = Some(Answer { status, response, at: context.now, awaits_ack: false });
        if !is_success {
            known.forwarding = None;
        }
        let name = known.leg.clone();
        if self.is_beside_its_invite(at) {
            return;
        }
        let Some(leg) = self.leg(&name).filter(|leg| leg.state == LegState::Early) else { return };
        let is_on_route =
            leg.proxied.is_some_and(|proxied| proxied.record_route == RecordRoute::Yes);
        leg.state = if is_success && is_on_route { LegState::Confirmed } else { LegState::Ended };
        // Whose BYE ends it.
        if let (Some(dialog), Some(to)) = (&mut leg.dialog, message.field(HeaderName::To)) {
            dialog.local = Bytes::copy_from_slice(to);
            dialog.state = sip::dialog::DialogState::Confirmed;
        }
    }

    /// Nothing more comes for a request that goes on: without an answer by now it gets none (RFC 4320 §4.2).
    pub(super) fn finished(&mut self, id: RequestId) -> Option<SessionEvent> {
        let is_it = |known: &IncomingRequest| {
            known.id == id && known.forwarding.is_some() && known.answer.is_none()
        };
        let at = self.incoming.iter().position(is_it)?;
        let is_beside_its_invite = self.is_beside_its_invite(at);
        let known = self.incoming.remove(at);
        let (leg, method) = (known.leg, known.method);
        if let Some(early) = self.leg(&leg).filter(|leg| leg.state == LegState::Early)
            && !is_beside_its_invite
        {
            early.state = LegState::Ended;
        }
        let is_heard = self.is_heard(&leg);
        is_heard.then_some(SessionEvent::Failed { leg, method, status: 408 })
    }

    /// Whether a request goes on, and it is known where to.
    pub(super) fn is_on_its_way(&self, at: usize) -> bool {
        self.incoming[at].forwarding.as_ref().is_some_and(|forwarding| !forwarding.is_sought)
    }

    /// The caller, or the end of the session, cancels an INVITE that goes on; 487 follows.
    pub(super) fn cancel_forwarded(
        &mut self,
        at: usize,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let known = &mut self.incoming[at];
        let events = &mut known.forwarding.as_mut()?.set_up.events;
        if !events.contains(&Event::Cancelled) {
            events.push(Event::Cancelled);
        }
        actions.push(Action::CancelForwarded { key: known.key.clone() });
        let (leg, request) = (known.leg.clone(), known.id);
        let is_heard = self.is_heard(&leg);
        is_heard.then_some(SessionEvent::Cancelled { leg, request })
    }

    /// The session ends: nobody rings for it any more.
    pub(super) fn end_forwarded(&mut self, actions: &mut Vec<Action>) {
        for at in 0..self.incoming.len() {
            let known = &self.incoming[at];
            if known.method == "INVITE" && known.answer.is_none() && self.is_on_its_way(at) {
                self.cancel_forwarded(at, actions);
            }
        }
    }

    /// What a new owner has to do for requests that go on.
    pub(super) fn forwarded_again(&self) -> impl Iterator<Item = Action> {
        self.incoming.iter().filter_map(|known| {
            let forwarding = known.forwarding.as_ref()?;
            let key = known.key.clone();
            let is_cancelled = forwarding.set_up.events.contains(&Event::Cancelled);
            match &known.answer {
                None if forwarding.is_sought => Some(Action::Route { key }),
                None => Some(Action::Resume { key }),
                // Its 2xx comes again; other phones may ring still.
                Some(answer) if answer.status < 300 || is_cancelled => Some(Action::Resume { key }),
                Some(_) => None,
            }
        })
    }

    /// A request that goes on: its name, what carries it, and whether its caller has a final response.
    pub fn forwarded(&self, key: &[u8]) -> Option<(RequestId, &SetUp, bool)> {
        let known = self.incoming.iter().find(|known| known.key == key)?;
        let forwarding = known.forwarding.as_ref()?;
        Some((known.id, &forwarding.set_up, known.answer.is_some()))
    }

    /// Whether a request in a dialog is of one of its legs.
    pub fn has_leg_of(&self, request: &Message) -> bool {
        self.legs.iter().any(|leg| leg.has_request(request))
    }

    /// What the Vias of a request that goes on say, by its target and branch: whose it is, how far its call has come, and
    /// what is known of who calls.
    pub fn via_mark(&self, identity: &Identity, request: &Message, caller: Caller) -> ViaMark {
        let (identity, application) = (identity.clone(), self.application.clone());
        let (depth, called, request) = (self.depth, self.called, request.clone());
        Arc::new(move |target: &[u8], branch: &[u8]| {
            identity.forwarded(&ForwardedName {
                application: &application,
                chain: identity.chain_to(depth, called, target),
                caller,
                call_id: request.call_id().unwrap_or_default(),
                branch,
                opening: Opening::of(&request).to(target),
            })
        })
    }

    /// What carries the request of this name.
    pub fn set_up_of(&self, id: RequestId) -> Option<&SetUp> {
        let known = self.incoming.iter().find(|known| known.id == id)?;
        known.forwarding.as_ref().map(|forwarding| &forwarding.set_up)
    }

    /// Whether the application hears of the responses to a request that goes on.
    pub fn is_supervised(&self, id: RequestId) -> bool {
        let known = self.incoming.iter().find(|known| known.id == id);
        known.is_some_and(|known| self.is_heard(&known.leg))
    }

    fn is_heard(&self, leg: &LegName) -> bool {
        self.proxied(leg).is_some_and(|proxied| proxied.supervised == Supervised::Yes)
    }

    fn proxied(&self, leg: &LegName) -> Option<Proxied> {
        self.legs.iter().find(|known| known.name == *leg)?.proxied
    }
}
