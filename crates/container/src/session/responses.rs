//! What becomes of the session's own requests: provisional and final responses, forks, failures.
//!
//! A final response reaches its client transaction (and so is acknowledged, when it is a failure) only behind the
//! commit of what it means: whoever takes the session over before that sends the request again and hears it again.
//!
//! A provisional response changes nothing that lasts, and so costs no commit. Deliberately absent with that: early
//! dialogs of our own INVITEs, in which a callee could send requests only by way of RFC 3262.

use bytes::Bytes;
use sip::dialog::Dialog;
use sip::{Message, Method};

use super::limits;
use super::state::{Action, Bye, Context, OutgoingRequest, Session, Silence, Stage};
use super::{LegState, SessionEvent};

impl Session {
    /// A response other than 100 came.
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
            (..=199, _) => self.provisional(at, response, actions),
            (200..=299, true) => self.success(at, response, context, actions),
            (_, true) => self.invite_refused(at, response, actions),
            (_, false) => self.answered(at, response, actions),
        }
    }

    fn provisional(
        &mut self,
        at: usize,
        response: Message,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        let request = &mut self.outgoing[at];
        let was_proceeding = std::mem::replace(&mut request.is_proceeding, true);
        match request.stage {
            Stage::Waiting => {}
            // RFC 3261 §9.1: now it may leave.
            Stage::Cancelled { .. } => {
                if !was_proceeding && request.is_invite() {
                    actions.push(Action::Cancel { branch: request.branch.clone() });
                }
                return None;
            }
            Stage::Answered { .. } => return None,
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
            Stage::Waiting => (true, false),
            Stage::Cancelled { .. } => (true, true),
            Stage::Answered { .. } => (false, false),
        };
        let tag = response.to().ok()?.tag().unwrap_or_default().to_vec();
        if !is_first {
            self.repeated_success(at, &tag, &response, context, actions);
            return None;
        }
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        self.outgoing[at].stage =
            Stage::Answered { at: context.now, tag: Bytes::from(tag), acks: Vec::new() };
        let invite = Message::parse(request.request.clone()).ok()?;
        let name = request.leg.clone()?;
        let leg = self.leg(&name)?;
        match &mut leg.dialog {
            Some(dialog) => dialog.refresh_target(&response),
            None => leg.dialog = Dialog::at_client(&invite, &response).ok(),
        }
        if was_cancelled && leg.state == LegState::Confirmed {
            // A re-INVITE that succeeded all the same: the dialog stands, and wants its ACK.
            self.acknowledge(&name, &[], None, context, actions);
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

    /// A 2xx after the first: the same again gets its ACK again, another fork's gets ACK and BYE.
    fn repeated_success(
        &mut self,
        at: usize,
        tag: &[u8],
        response: &Message,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let request = &self.outgoing[at];
        let Stage::Answered { acks, tag: first, .. } = &request.stage else { return };
        if let Some((_, ack)) = acks.iter().find(|(acknowledged, _)| acknowledged == tag) {
            return actions.push(Action::Acknowledge { ack: ack.clone() });
        }
        let is_the_call = first == tag;
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
        if let Stage::Answered { acks, .. } = &mut self.outgoing[at].stage {
            acks.push((Bytes::copy_from_slice(tag), ack.clone()));
        }
        actions.push(Action::Acknowledge { ack });
        // The call itself is over by the other side's BYE, or by one of ours that has this number.
        if !is_the_call {
            self.send(None, Method::Bye, branch, bye.build(), Silence::Silent, actions);
        }
    }

    fn invite_refused(
        &mut self,
        at: usize,
        response: Message,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        if matches!(self.outgoing[at].stage, Stage::Answered { .. }) {
            return None; // another fork's failure, after a success
        }
        let request = self.outgoing.remove(at);
        let name = request.leg?;
        let leg = self.leg(&name)?;
        if leg.state == LegState::Early {
            leg.state = LegState::Ended;
        }
        match (request.silence, request.stage) {
            (Silence::Silent, _) => None,
            (Silence::Told, Stage::Cancelled { .. }) => {
                Some(SessionEvent::Failed { leg: name, method: request.method, status: 487 })
            }
            (Silence::Told, Stage::Waiting | Stage::Answered { .. }) => {
                Some(SessionEvent::Response { leg: name, message: response })
            }
        }
    }

    /// The final response to another request than INVITE.
    fn answered(
        &mut self,
        at: usize,
        response: Message,
        actions: &mut Vec<Action>,
    ) -> Option<SessionEvent> {
        actions.push(Action::Accept { response: Box::new(response.clone()) });
        let request = self.outgoing.remove(at);
        let name = request.leg?;
        let is_refresh = Method::parse(&request.method).is_some_and(sip::dialog::is_target_refresh);
        if let Some(dialog) = self.leg(&name).and_then(|leg| leg.dialog.as_mut())
            && is_refresh
            && response.status().is_some_and(|status| status < 300)
        {
            dialog.refresh_target(&response);
        }
        let event = SessionEvent::Response { leg: name, message: response };
        (request.silence == Silence::Told).then_some(event)
    }

    /// A client transaction ended without a final response.
    pub(super) fn failed(&mut self, branch: &Bytes, status: u16) -> Option<SessionEvent> {
        let is_open = |request: &OutgoingRequest| request.branch == *branch && request.is_open();
        let at = self.outgoing.iter().position(is_open)?;
        let request = self.outgoing.remove(at);
        let name = request.leg.clone()?;
        let is_invite = request.is_invite();
        let leg = self.leg(&name)?;
        if is_invite && leg.state == LegState::Early {
            leg.state = LegState::Ended;
        }
        let status = if matches!(request.stage, Stage::Cancelled { .. }) { 487 } else { status };
        let event = SessionEvent::Failed { leg: name, method: request.method, status };
        (request.silence == Silence::Told).then_some(event)
    }
}
