//! What an application wants becomes what a session is, and messages.
//!
//! All effects of an event or none: the first that breaks a rule ends it, and the copy they were applied to is thrown
//! away.

use bytes::Bytes;
use sip::{HeaderName, Method, RequestBuilder};

use super::legs::Beginning;
use super::limits;
use super::rules::{
    BrokenRule, Contact, checked_message, checked_method, checked_name, checked_status,
    checked_time,
};
use super::state::{Action, Bye, Context, OutgoingRequest, Session, Silence, Stage, Timer};
use super::{LegName, LegState, RequestId, SessionEffect};
use crate::application::{Body, FieldName, Header, Response};

impl Session {
    /// Applies all effects of one event, in order.
    ///
    /// # Errors
    /// [`BrokenRule`]; then this copy of the session is to be thrown away.
    pub fn apply(
        &mut self,
        effects: Vec<SessionEffect>,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        if effects.len() > limits::EFFECTS_MAX {
            return Err(BrokenRule::TooManyEffects(effects.len()));
        }
        let outgoing_before = self.outgoing.len();
        for effect in effects {
            if self.is_ending {
                break; // nothing comes behind an end
            }
            self.apply_one(effect, context, actions)?;
        }
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if attributes > limits::ATTRIBUTE_BYTES_MAX {
            return Err(BrokenRule::Attributes(attributes));
        }
        if self.timers.len() > limits::TIMERS_MAX {
            return Err(BrokenRule::TooManyTimers(self.timers.len()));
        }
        // What the container itself has sent does not void the effects of an application that sends nothing.
        if self.outgoing.len() > limits::OUTGOING_MAX.max(outgoing_before) {
            return Err(BrokenRule::TooManyRequests(self.outgoing.len()));
        }
        Ok(())
    }

    fn apply_one(
        &mut self,
        effect: SessionEffect,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        match effect {
            SessionEffect::Set { name, value } => {
                checked_name(&name)?;
                self.attributes.insert(name, value);
            }
            SessionEffect::Remove { name } => {
                self.attributes.remove(&name);
            }
            SessionEffect::StartTimer { name, after, every } => {
                checked_name(&name)?;
                let after = checked_time(after, limits::TIMER_MAX)?;
                let every =
                    every.map(|every| checked_time(every, limits::TIMER_MAX)).transpose()?;
                let due = context.now.saturating_add(after);
                self.timers.insert(name, Timer { since: context.now, due, every });
            }
            SessionEffect::StopTimer { name } => {
                self.timers.remove(&name);
            }
            SessionEffect::Respond { request, response } => {
                self.respond(request, response, context, actions)?;
            }
            SessionEffect::Signal { session, name, payload } => {
                self.signal(session, name, payload, context, actions)?;
            }
            SessionEffect::Proxy { request, targets, options } => {
                self.proxy(request, targets, &options, context, actions)?;
            }
            SessionEffect::HttpRespond(response) => {
                response.check().map_err(BrokenRule::HttpResponse)?;
                actions.push(Action::HttpRespond(response));
            }
            SessionEffect::Call { leg, target, from, to, headers, body } => {
                let beginning = Beginning { leg, target, from, to, headers, body };
                self.call(beginning, context, actions)?;
            }
            SessionEffect::SendOutside { leg, method, target, from, to, headers, body } => {
                let beginning = Beginning { leg, target, from, to, headers, body };
                self.send_outside(&method, beginning, context, actions)?;
            }
            SessionEffect::Link { a, b } => self.link(a, b)?,
            SessionEffect::Unlink { leg } => self.unlink(&leg),
            SessionEffect::Send { leg, method, headers, body } => {
                self.send_in_dialog(leg, method, &headers, body, context, actions)?;
            }
            SessionEffect::Acknowledge { leg, headers, body } => {
                checked_message(&headers, body.as_ref(), 0, Contact::Ours)?;
                self.acknowledge(&leg, &headers, body, context, actions);
            }
            SessionEffect::Cancel { leg } => self.cancel(&leg, context, actions),
            SessionEffect::ExpireAfter { after } => {
                let after = checked_time(after, limits::SESSION_TIME_MAX)?;
                self.expires = context.now.saturating_add(after);
            }
            SessionEffect::EndWhenReady { wanted } => self.ends_when_ready = wanted,
            SessionEffect::End => self.end(context, actions),
        }
        Ok(())
    }

    fn respond(
        &mut self,
        request: RequestId,
        mut response: Response,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        let Some(known) = self.incoming.iter().find(|known| known.id == request) else {
            // It was answered so long ago that it is forgotten, or the name is made up.
            let is_past = (1..=self.last_ordinal).contains(&request.0);
            return if is_past { Ok(()) } else { Err(BrokenRule::NoRequest(request)) };
        };
        if known.forwarding.is_some() && known.answer.is_none() {
            return Err(BrokenRule::Proxied(request));
        }
        checked_status(response.status, &known.method)?;
        let contact = Contact::of_response(response.status);
        checked_message(&response.headers, response.body.as_ref(), response.reason.len(), contact)?;
        let method = Method::parse(&known.method);
        if response.status < 300 && method.is_some_and(sip::dialog::is_target_refresh) {
            let contact = context.identity.contact(self.id).into();
            let name = FieldName::Known(HeaderName::Contact);
            response.headers.insert(0, Header { name, value: contact });
        }
        self.answer(request, &response, context, actions);
        Ok(())
    }

    fn send_in_dialog(
        &mut self,
        name: LegName,
        method: Bytes,
        headers: &[Header],
        body: Option<Body>,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), BrokenRule> {
        checked_message(headers, body.as_ref(), method.len(), Contact::Ours)?;
        let sent = method.clone();
        let parsed = checked_method(&sent)?;
        let crosses = self.has_open_invite(&name)
            || self.unanswered(&name).any(|request| request.method == "INVITE")
            || self.owes_answer(&name);
        let leg = self.leg(&name).filter(|leg| leg.proxied.is_none());
        let Some(leg) = leg else { return Err(BrokenRule::NoDialog(name)) };
        match (parsed, leg.state) {
            (Method::Bye, LegState::Ended) => return Ok(()),
            (Method::Bye, LegState::Confirmed) => {
                leg.state = LegState::Ended;
                leg.bye = Bye::Wanted(Silence::Told);
                return Ok(());
            }
            (_, LegState::Early | LegState::Ended) => return Err(BrokenRule::NoDialog(name)),
            // RFC 3261 §14.1, RFC 5407 §3.1.5
            (Method::Invite, LegState::Confirmed) if crosses => {
                self.failures.push((name, method, 491));
                return Ok(());
            }
            (_, LegState::Confirmed) => {}
        }
        if parsed == Method::Invite {
            // The ACK that the application would pass on is late or lost: whoever invites anew has had the 2xx.
            self.acknowledge(&name, &[], None, context, actions);
        }
        let Some(dialog) = self.leg(&name).and_then(|leg| leg.dialog.as_mut()) else {
            return Err(BrokenRule::NoDialog(name));
        };
        let cseq = dialog.take_cseq();
        let dialog = dialog.clone();
        let (branch, mut request) = self.in_dialog(&dialog, parsed, cseq, context);
        if sip::dialog::is_target_refresh(parsed) {
            request = request.header(HeaderName::Contact, &context.identity.contact(self.id));
        }
        let request = completed(request, headers, body);
        self.send(Some(name), (parsed, branch, request), Silence::Told, context, actions);
        Ok(())
    }

    /// Whether the ACK to the 2xx that a leg stands on has to hold the answer to its offer (RFC 3264): our INVITE had none.
    fn owes_answer(&self, name: &LegName) -> bool {
        let Some(leg) = self.legs.iter().find(|leg| leg.name == *name) else { return false };
        self.outgoing.iter().any(|request| {
            let invite = || sip::Message::parse(request.request.clone());
            request.wants_ack(leg) && invite().is_ok_and(|invite| invite.body().is_empty())
        })
    }

    /// Acknowledges the 2xx that `name` stands on, if that is still to be done (RFC 3261 §13.2.2.4).
    pub(super) fn acknowledge(
        &mut self,
        name: &LegName,
        headers: &[Header],
        body: Option<Body>,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let Some(leg) = self.legs.iter().find(|leg| leg.name == *name) else { return };
        let Some(dialog) = &leg.dialog else { return };
        let Some(at) = self.outgoing.iter().position(|request| request.wants_ack(leg)) else {
            return;
        };
        let invite = sip::Message::parse(self.outgoing[at].request.clone());
        let Some(cseq) = invite.ok().and_then(|invite| invite.cseq().ok().map(|cseq| cseq.number))
        else {
            return;
        };
        let (_, ack) = self.in_dialog(dialog, Method::Ack, cseq, context);
        let ack = completed(ack, headers, body);
        let tag = Bytes::copy_from_slice(dialog.remote_tag());
        if let Stage::Over { acks, .. } = &mut self.outgoing[at].stage {
            acks.push((tag, ack.clone()));
        }
        actions.push(Action::Acknowledge { ack });
    }

    /// Cancels the INVITE of a leg; CANCEL waits for a provisional response (RFC 3261 §9.1).
    pub(super) fn cancel(
        &mut self,
        leg: &LegName,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        for request in self.outgoing.iter_mut().filter(|request| request.is_of(leg)) {
            request.cancel(context, actions);
        }
    }
}

impl OutgoingRequest {
    /// Cancels an INVITE that has no final response and is not cancelled yet.
    pub(super) fn cancel(&mut self, context: Context<'_>, actions: &mut Vec<Action>) {
        if self.is_invite() && matches!(self.stage, Stage::Waiting { .. }) {
            self.stage = Stage::Cancelled { at: context.now };
            if self.is_proceeding {
                actions.push(Action::Cancel { branch: self.branch.clone() });
            }
        }
    }
}

pub(super) fn completed(
    mut request: RequestBuilder,
    headers: &[Header],
    body: Option<Body>,
) -> Bytes {
    for header in headers {
        request = match &header.name {
            FieldName::Known(name) => request.header(*name, &header.value),
            FieldName::Named(name) => request.header_named(name, &header.value),
        };
    }
    if let Some(body) = body {
        request = request.body(&body.content_type, body.content);
    }
    request.build()
}
