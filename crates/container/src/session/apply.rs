//! What an application wants becomes what a session is, and messages.
//!
//! All effects of an event or none: the first that breaks a rule ends it, and the copy they were applied to is thrown
//! away.

use std::time::Duration;

use bytes::Bytes;
use sip::{HeaderName, Method, RequestBuilder};

use super::legs::Beginning;
use super::limits;
use super::state::{Action, Bye, Context, OutgoingRequest, Session, Silence, Stage, Timer};
use super::{LegName, LegState, RequestId, SessionEffect};
use crate::application::{Body, FieldName, Header, Response};

/// The rule that an effect breaks: a bug of the application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    /// More than [`limits::EFFECTS_MAX`].
    #[error("{0} effects of one event; at most {max} are done", max = limits::EFFECTS_MAX)]
    TooManyEffects(usize),
    /// Empty or longer than [`limits::NAME_BYTES_MAX`].
    #[error("{0:?} is no name: 1 to {max} octets", max = limits::NAME_BYTES_MAX)]
    Name(String),
    /// More than [`limits::ATTRIBUTE_BYTES_MAX`].
    #[error("{0} octets in attributes; at most {max} are kept", max = limits::ATTRIBUTE_BYTES_MAX)]
    Attributes(usize),
    /// More than [`limits::TIMERS_MAX`].
    #[error("{0} timers; at most {max} run", max = limits::TIMERS_MAX)]
    TooManyTimers(usize),
    /// Shorter than [`limits::TIMER_MIN`] or longer than [`limits::TIMER_MAX`], or for the session's own time
    /// [`limits::SESSION_TIME_MAX`].
    #[error("{0:?} is no time for a timer or a session")]
    Time(Duration),
    /// The session has never had it.
    #[error("there is no request {0:?}")]
    NoRequest(RequestId),
    /// Not 101 to 699, or a provisional one to another request than INVITE.
    #[error("status {0} does not answer that request")]
    Status(u16),
    /// It belongs to the container.
    #[error("header {0} is the container's to write")]
    Header(String),
    /// No leg of that name, or no dialog on it.
    #[error("leg {0} has no dialog in which that can be sent")]
    NoDialog(LegName),
    /// The name is taken, or there are [`limits::LEGS_MAX`] legs.
    #[error("there can be no new leg {0}: the name is taken, or there are {max} legs", max = limits::LEGS_MAX)]
    NoLeg(LegName),
    /// No leg of that name, or both are the same.
    #[error("leg {0} cannot be linked: there is none of that name, or it is the other one as well")]
    NoLink(LegName),
    /// Not a `sip:` URI without headers.
    #[error("{0:?} cannot be called: it is no sip: URI without headers")]
    Target(Bytes),
    /// Not an address, or one with a tag.
    #[error("{0:?} is no address for From or To")]
    Address(Bytes),
    /// No method, one that the container sends, or, outside of dialogs, one that belongs into one.
    #[error("a session cannot send {0:?} there")]
    Method(Bytes),
    /// More than [`limits::OUTGOING_MAX`].
    #[error("{0} requests without a final response, or INVITEs with a late one; at most {max} are sent", max = limits::OUTGOING_MAX)]
    TooManyRequests(usize),
    /// More than [`limits::RECORD_BYTES_MAX`].
    #[error("{0} octets in the record; at most {max} are stored", max = limits::RECORD_BYTES_MAX)]
    Record(usize),
}

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
        if self.outgoing.len() > limits::OUTGOING_MAX {
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
                checked_headers(&headers, Contact::Ours)?;
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
        let method = Method::parse(&known.method);
        let is_allowed = match response.status {
            // RFC 4320 §4.1: no other request has provisional responses.
            101..=199 => method == Some(Method::Invite),
            status => (200..=699).contains(&status),
        };
        if !is_allowed {
            return Err(BrokenRule::Status(response.status));
        }
        // RFC 3261 §21.3, §21.4.23: there the Contact says where else to look.
        let contact = match response.status {
            300..=399 | 485 => Contact::Theirs,
            _ => Contact::Ours,
        };
        checked_headers(&response.headers, contact)?;
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
        checked_headers(headers, Contact::Ours)?;
        let parsed = match Method::parse(&method) {
            Some(Method::Ack | Method::Cancel) | None => return Err(BrokenRule::Method(method)),
            Some(parsed) => parsed,
        };
        let crosses = self.has_open_invite(&name)
            || self.unanswered(&name).any(|request| request.method == "INVITE");
        let Some(leg) = self.leg(&name) else { return Err(BrokenRule::NoDialog(name)) };
        match (parsed, leg.state) {
            (Method::Bye, LegState::Ended) => return Ok(()),
            (Method::Bye, LegState::Confirmed) => {
                leg.state = LegState::Ended;
                leg.bye = Bye::Wanted(Silence::Told);
                return Ok(());
            }
            (_, LegState::Early | LegState::Ended) => return Err(BrokenRule::NoDialog(name)),
            // RFC 3261 §14.1
            (Method::Invite, LegState::Confirmed) if crosses => {
                self.failures.push((name, method, 491));
                return Ok(());
            }
            (_, LegState::Confirmed) => {}
        }
        let Some(dialog) = leg.dialog.as_mut() else { return Err(BrokenRule::NoDialog(name)) };
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

/// Whose Contact a message carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// The container's, if any.
    Ours,
    /// The application's.
    Theirs,
}

pub(super) fn checked_headers(headers: &[Header], contact: Contact) -> Result<(), BrokenRule> {
    for header in headers {
        let name = match &header.name {
            FieldName::Known(name) => *name,
            FieldName::Named(name) => HeaderName::parse(name),
        };
        let is_container_s = match name {
            HeaderName::Contact => contact == Contact::Ours,
            HeaderName::Via
            | HeaderName::From
            | HeaderName::To
            | HeaderName::CallId
            | HeaderName::CSeq
            | HeaderName::Route
            | HeaderName::RecordRoute
            | HeaderName::MaxForwards
            | HeaderName::ContentLength
            | HeaderName::ContentType => true,
            _ => false,
        };
        if is_container_s {
            return Err(BrokenRule::Header(name.as_str().to_owned()));
        }
    }
    Ok(())
}

pub(super) fn checked_name(name: &str) -> Result<(), BrokenRule> {
    match name.len() {
        1..=limits::NAME_BYTES_MAX => Ok(()),
        _ => Err(BrokenRule::Name(name.chars().take(limits::NAME_BYTES_MAX).collect())),
    }
}

fn checked_time(time: Duration, max: Duration) -> Result<Duration, BrokenRule> {
    if (limits::TIMER_MIN..=max).contains(&time) { Ok(time) } else { Err(BrokenRule::Time(time)) }
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
