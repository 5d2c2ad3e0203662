//! What becomes of the session's own requests: provisional and final responses, forks, failures.
//!
//! A final response reaches its client transaction (and so is acknowledged, when it is a failure) only behind the
//! commit of what it means: whoever takes the session over before that sends the request again and hears it again.
//!
//! An INVITE that has failed or was given up is kept for a while: a callee that answers all the same is acknowledged and
//! told BYE. A request that is answered 481 or 408 ends its dialog; one outside of dialogs ends its leg, whatever the answer.
//!
//! A provisional response changes nothing that lasts, and so costs no commit. Deliberately absent with that: early
//! dialogs of our own INVITEs, in which a callee could send requests only by way of RFC 3262.

use std::time::Duration;

use bytes::Bytes;
use sip::dialog::Dialog;
use sip::{Message, Method};

use super::limits;
use super::state::{Action, Bye, Context, Leg, OutgoingRequest, Session, Silence, Stage};
use super::{LegName, LegState, SessionEvent};

impl Session {
    /// A response came.
    pub(super) fn response(
        &mut self,
        response: Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let status = response.status()?;
        let branch = Bytes::copy_from_slice(response.top_via().ok()?.branch()?);
        let method = Bytes::copy_from_slice(response.cseq().ok()?.method.as_bytes());
        let is_of =
            |request: &OutgoingRequest| request.branch == branch && request.method == method;
        let Some(at) = self.outgoing.iter().position(is_of) else {
            // A repetition: its ACK is the transaction's to repeat.
            actions.push(Action::Accept { response: Box::new(response) });
            return None;
        };
        let is_invite = self.outgoing[at].is_invite();
        match (status, is_invite) {
            (..=199, _) => self.provisional(at, response, context, actions),
            (200..=299, true) => self.success(at, response, context, actions),
            (_, true) => self.invite_refused(at, response, context, actions),
            (_, false) => self.answered(at, response, context, actions),
        }
    }

    fn provisional(
        &mut self,
        at: usize,
        response: Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let request = &mut self.outgoing[at];
        let was_proceeding = std::mem::replace(&mut request.is_proceeding, true);
        // RFC 3261 §16.7(2): 100 says nothing of the callee.
        let is_trying = response.status() == Some(100);
        if !is_trying {
            request.renewed = context.now;
        }
        match request.stage {
            Stage::Waiting { .. } if is_trying => return None,
            Stage::Waiting { .. } => {}
            // RFC 3261 §9.1: now it may leave.
            Stage::Cancelled { .. } => {
                if !was_proceeding && request.is_invite() {
                    actions.push(Action::Cancel { branch: request.branch.clone() });
                }
                return None;
            }
            Stage::Over { .. } => return None,
        }
        let name = request.leg.clone()?;
        let is_told = request.silence == Silence::Told;
        is_told.then_some(SessionEvent::Response { leg: name, message: response })
    }

    /// A 2xx to an INVITE of ours (RFC 3261 §13.2.2.4).
    fn success(
        &mut self,
        at: usize,
        response: Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let request = self.outgoing[at].clone();
        let (is_first, was_cancelled) = match &request.stage {
            Stage::Waiting { .. } => (true, false),
            Stage::Cancelled { .. } => (true, true),
            Stage::Over { .. } => (false, false),
        };
        let tag = response.to().ok()?.tag().unwrap_or_default().to_vec();
        if !is_first {
            self.repeated_success(at, &tag, &response, context, actions);
            return None;
        }
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        self.outgoing[at].stage = Stage::Over {
            at: context.now,
            kept: context.kept(),
            tag: Some(Bytes::from(tag)),
            acks: Vec::new(),
        };
        let invite = Message::parse(request.request.clone()).ok()?;
        let name = request.leg.clone()?;
        let leg = self.leg(&name)?;
        match &mut leg.dialog {
            Some(dialog) => dialog.refresh_target(&response),
            None => leg.dialog = Dialog::at_client(&invite, &response).ok(),
        }
        if (was_cancelled && leg.state == LegState::Confirmed) || leg.bye == Bye::Done {
            // A re-INVITE that succeeded all the same: the dialog stands, or is hung up already, and wants its ACK.
            self.acknowledge(&name, &[], None, context, actions);
            if !was_cancelled {
                return None;
            }
        } else if was_cancelled || leg.state == LegState::Ended {
            leg.state = LegState::Ended;
            leg.bye = Bye::Wanted(Silence::Silent);
        } else {
            leg.state = LegState::Confirmed;
            let event = SessionEvent::Response { leg: name, message: response };
            return (request.silence == Silence::Told).then_some(event);
        }
        let failed = SessionEvent::Failed { leg: name, method: request.method, status: 487 };
        (request.silence == Silence::Told).then_some(failed)
    }

    /// A 2xx after the first, or after a failure: the same again gets its ACK again, another fork's, or one that nobody
    /// waits for any more, gets ACK and BYE.
    fn repeated_success(
        &mut self,
        at: usize,
        tag: &[u8],
        response: &Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let request = &self.outgoing[at];
        let Stage::Over { acks, tag: first, .. } = &request.stage else { return };
        if let Some((_, ack)) = acks.iter().find(|(acknowledged, _)| acknowledged == tag) {
            return actions.push(Action::Acknowledge { ack: ack.clone() });
        }
        let is_the_call = first.as_deref() == Some(tag);
        let leg = self.legs.iter().find(|leg| request.is_of(&leg.name));
        if (is_the_call && leg.is_some_and(|leg| leg.dialog.is_some()))
            || acks.len() >= limits::FORKS_MAX
        {
            return; // the application acknowledges it in its own time
        }
        let Ok(invite) = Message::parse(request.request.clone()) else { return };
        let Ok(mut fork) = Dialog::at_client(&invite, response) else { return };
        let ack = self.in_dialog(&fork, Method::Ack, fork.local_cseq, context).1.build();
        let cseq = fork.take_cseq();
        let (branch, bye) = self.in_dialog(&fork, Method::Bye, cseq, context);
        if let Stage::Over { acks, .. } = &mut self.outgoing[at].stage {
            acks.push((Bytes::copy_from_slice(tag), ack.clone()));
        }
        actions.push(Action::Acknowledge { ack });
        // The call itself is over by the other side's BYE, or by one of ours that has this number; and a re-INVITE that
        // has failed is no end of the call (RFC 3261 §14.1).
        let is_in_dialog = invite.to().is_ok_and(|to| to.tag().is_some());
        if !is_the_call && !is_in_dialog {
            let bye = (Method::Bye, branch, bye.build());
            self.send(None, bye, Silence::Silent, context, actions);
        }
    }

    fn invite_refused(
        &mut self,
        at: usize,
        response: Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        let request = &mut self.outgoing[at];
        if matches!(request.stage, Stage::Over { .. }) {
            return None; // another fork's failure, after a success
        }
        let was_cancelled = matches!(request.stage, Stage::Cancelled { .. });
        // RFC 3261 §16.7(5): a proxy lets a 2xx through even after a failure.
        request.give_up(context.kept(), context);
        let (method, silence) = (request.method.clone(), request.silence);
        let name = request.leg.clone()?;
        self.end_if_early(&name)?;
        self.lose_dialog(&name, response.status(), context, actions);
        match (silence, was_cancelled) {
            (Silence::Silent, _) => None,
            (Silence::Told, true) => Some(SessionEvent::Failed { leg: name, method, status: 487 }),
            (Silence::Told, false) => Some(SessionEvent::Response { leg: name, message: response }),
        }
    }

    /// The final response to another request than INVITE.
    fn answered(
        &mut self,
        at: usize,
        response: Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        let request = self.outgoing.remove(at);
        let name = request.leg?;
        self.end_if_early(&name);
        if let Some(status) = response.status()
            && self.puts_bye_off(
                &name,
                &request.method,
                (status, response.retry_after()),
                request.silence,
                context,
            )
        {
            return None;
        }
        let is_refresh = Method::parse(&request.method).is_some_and(sip::dialog::is_target_refresh);
        if let Some(dialog) = self.leg(&name).and_then(|leg| leg.dialog.as_mut())
            && is_refresh
            && response.status().is_some_and(|status| status < 300)
        {
            dialog.refresh_target(&response);
        }
        self.lose_dialog(&name, response.status(), context, actions);
        let event = SessionEvent::Response { leg: name, message: response };
        (request.silence == Silence::Told).then_some(event)
    }

    /// A client transaction ended without a final response.
    pub(super) fn failed(
        &mut self,
        branch: &Bytes,
        status: u16,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let is_open = |request: &OutgoingRequest| request.branch == *branch && request.is_open();
        let at = self.outgoing.iter().position(is_open)?;
        let request = self.outgoing[at].clone();
        if request.is_invite() {
            // One that could not be sent rings nowhere.
            let may_ring = request.is_proceeding || status != 503;
            let kept = if may_ring { limits::LATE_ANSWER_KEPT } else { context.kept() };
            self.outgoing[at].give_up(kept, context);
        } else {
            self.outgoing.remove(at);
        }
        let name = request.leg.clone()?;
        self.end_if_early(&name)?;
        if self.puts_bye_off(&name, &request.method, (status, None), request.silence, context) {
            return None;
        }
        let status = if matches!(request.stage, Stage::Cancelled { .. }) { 487 } else { status };
        self.lose_dialog(&name, Some(status), context, actions);
        let event = SessionEvent::Failed { leg: name, method: request.method, status };
        (request.silence == Silence::Told).then_some(event)
    }

    /// The request that a leg of ours began with is answered, and there is no dialog: the leg is over. None: it is gone.
    fn end_if_early(&mut self, name: &LegName) -> Option<()> {
        let leg = self.leg(name)?;
        if leg.state == LegState::Early {
            leg.state = LegState::Ended;
        }
        Some(())
    }

    /// A request on a leg has failed with this status. RFC 3261 §12.2.1.2: at 481 and 408 the other side knows the dialog
    /// no more, or is gone; a BYE all the same, for it may be only late.
    fn lose_dialog(
        &mut self,
        name: &LegName,
        status: Option<u16>,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let is_lost = matches!(status, Some(408 | 481));
        let stands = |leg: &&mut Leg| leg.state == LegState::Confirmed;
        if is_lost && self.leg(name).filter(stands).is_some() {
            self.end_leg(name, Bye::Wanted(Silence::Silent), context, actions);
        }
    }
}

impl OutgoingRequest {
    /// An INVITE has ended without a 2xx; for so long one may still come.
    fn give_up(&mut self, kept: Duration, context: Context<'_>) {
        self.stage = Stage::Over { at: context.now, kept, tag: None, acks: Vec::new() };
    }
}
