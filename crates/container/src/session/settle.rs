//! What follows by itself once an event is dealt with: BYEs that may leave now (`byes`), the ends of legs and of the
//! session, what need not be kept any longer.

use super::limits;
use super::state::{Action, Bye, Context, IncomingRequest, Session, Silence, Stage};
use super::{LegName, LegState, RequestId, SessionEvent};
use crate::application::Response;

impl Session {
    /// Brings the session to rest after `event`.
    pub fn settle(
        &mut self,
        event: Option<&SessionEvent>,
        context: Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        if matches!(event, Some(SessionEvent::Ending)) && self.expires <= context.guarded {
            self.end(context, actions);
        }
        self.pass_on(context, actions);
        self.answer_byes(context, actions);
        self.hang_up(context, actions);
        self.forget(context);
        self.drop_ended_legs();
        let is_ready = self.legs.is_empty() && self.timers.is_empty() && self.failures.is_empty();
        if is_ready && self.ends_when_ready {
            self.end(context, actions);
        }
    }

    /// Forgets what it remembers, if it has ended: the last step before its commit. Until then its application can see it.
    pub fn bury(&mut self) {
        if self.is_ending {
            self.attributes.clear();
        }
    }

    /// The session as if nothing had ever come of it: nothing is left to be stored.
    pub fn void(&self) -> Session {
        let mut void = self.clone();
        void.is_ending = true;
        void.attributes.clear();
        void.timers.clear();
        void.failures.clear();
        void.legs.clear();
        void.incoming.clear();
        void.outgoing.clear();
        void
    }

    /// Ends the session, whatever stands of it.
    pub(super) fn end(&mut self, context: Context<'_>, actions: &mut Vec<Action>) {
        self.is_ending = true;
        self.timers.clear();
        self.failures.clear();
        self.pass_on(context, actions);
        self.answer_byes(context, actions);
        self.end_forwarded(actions);
        let unanswered: Vec<RequestId> = self
            .incoming
            .iter()
            // Only an INVITE can be taken back; another one that goes on gets the answer that it would have had.
            .filter(|request| request.method == "INVITE" || request.forwarding.is_none())
            .filter(|request| request.answer.is_none())
            .map(|request| request.id)
            .collect();
        for request in unanswered {
            self.answer(request, &Response::new(500), context, actions);
        }
        let legs: Vec<LegName> = self.legs.iter().map(|leg| leg.name.clone()).collect();
        for name in legs {
            self.cancel(&name, context, actions);
            let Some(leg) = self.leg(&name) else { continue };
            let is_ours = leg.proxied.is_none();
            if leg.state == LegState::Confirmed && leg.bye == Bye::None && is_ours {
                leg.bye = Bye::Wanted(Silence::Silent);
            }
            leg.state = LegState::Ended;
        }
    }

    /// A BYE that its handler left unanswered is answered 200 (RFC 3261 §15.1.2).
    fn answer_byes(&mut self, context: Context<'_>, actions: &mut Vec<Action>) {
        let is_open_bye = |request: &&IncomingRequest| {
            let is_open = request.answer.is_none() && request.forwarding.is_none();
            request.method == "BYE" && is_open
        };
        let byes: Vec<RequestId> =
            self.incoming.iter().filter(is_open_bye).map(|request| request.id).collect();
        for request in byes {
            self.answer(request, &Response::new(200), context, actions);
        }
    }

    /// Forgets answers and INVITEs that nobody repeats any more.
    fn forget(&mut self, context: Context<'_>) {
        let is_kept = |at: state::UnixMillis| at.saturating_add(context.kept()) > context.guarded;
        self.incoming.retain(|request| match &request.answer {
            Some(answer) => answer.awaits_ack || is_kept(answer.at),
            None => true,
        });
        let answers = self.incoming.iter().filter(|request| is_forgettable(request)).count();
        let mut surplus = answers.saturating_sub(limits::ANSWERS_MAX);
        self.incoming.retain(|request| {
            let goes = surplus > 0 && is_forgettable(request);
            surplus -= usize::from(goes);
            !goes
        });
        self.outgoing.retain(|request| match request.stage {
            Stage::Over { at, kept, .. } => {
                at.saturating_add(kept) > context.guarded || request.is_wanted_by(&self.legs)
            }
            Stage::Waiting { .. } | Stage::Cancelled { .. } => true,
        });
    }

    fn drop_ended_legs(&mut self) {
        let (incoming, outgoing) = (&self.incoming, &mut self.outgoing);
        let mut dropped = Vec::new();
        self.legs.retain(|leg| {
            let is_waited_for =
                outgoing.iter().any(|request| request.is_of(&leg.name) && request.is_open())
                    || incoming.iter().any(|request| {
                        request.leg == leg.name
                            && request.answer.as_ref().is_none_or(|answer| answer.awaits_ack)
                    });
            let stays =
                leg.state != LegState::Ended || matches!(leg.bye, Bye::Wanted(_)) || is_waited_for;
            if !stays {
                // The name may be given again, and what is kept of this leg is not the new one's.
                for request in outgoing.iter_mut().filter(|request| request.is_of(&leg.name)) {
                    request.leg = None;
                }
                dropped.push(leg.name.clone());
            }
            stays
        });
        for name in dropped {
            self.unlink(&name);
        }
    }
}

/// Whether an answer may be forgotten before its time.
fn is_forgettable(request: &IncomingRequest) -> bool {
    request.method != "INVITE" && request.answer.is_some()
}
