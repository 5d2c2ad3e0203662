//! Goes on with a context whose owner died: replays what was noted of it, then finds out what is left to do.
//!
//! A branch from which nothing final was noted is asked again, under the same branch parameter, so that the callee
//! sees a repetition: it answers with what it said last. A branch that is not wanted any more is cancelled without
//! being asked again, as it might ring for nothing. A final response that was noted is acknowledged, as it may not
//! have been.
//!
//! Deliberately absent: provisional responses and Timer C's rest, which are not noted; both begin anew.

use std::time::Instant;

use bytes::Bytes;
use sip::Message;
use sip::transaction::{ResponseClass, Timers};

use super::{
    BranchDeriver, BranchIndex, BranchState, NextHop, ProxyContext, ProxyEffect, Resumption,
};
use crate::application::ProxyPlan;
use crate::setup::Event;

/// What was noted cannot have happened to such a request: the record is of another release, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the events of a set-up record contradict its request or its plan")]
pub struct Contradiction;

/// A branch as the former owner began it.
struct Begun {
    branch: BranchIndex,
    request: Bytes,
    branch_id: Bytes,
    destination: NextHop,
}

impl ProxyContext {
    /// Goes on with the context that [`new`](Self::new) would have begun with the same arguments and that `events`
    /// happened to since; `deriver` has the token of the container that began it.
    ///
    /// # Errors
    /// [`Contradiction`]: nothing can be done for the call.
    pub fn resume(
        request: Message,
        plan: ProxyPlan,
        deriver: &BranchDeriver,
        server_branch: &[u8],
        events: &[Event],
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) -> Result<ProxyContext, Contradiction> {
        let mut asked = Vec::new();
        let mut context = ProxyContext::new(request, plan, deriver, server_branch, now, &mut asked);
        for event in events {
            context.replay(event, now, &mut asked)?;
        }
        let mut answers = Vec::new();
        for effect in asked {
            match effect {
                ProxyEffect::Start { branch, request, branch_id, destination } => {
                    let begun = Begun { branch, request, branch_id, destination };
                    effects.extend(context.go_on_with(begun, events, now));
                }
                // The final one: a provisional response or a 2xx is not noted with its octets.
                ProxyEffect::Reply { .. }
                | ProxyEffect::ReplyOwn { .. }
                | ProxyEffect::Finished => answers.push(effect),
                // Done, or found to be still to do by what became of the branch.
                ProxyEffect::Cancel { .. }
                | ProxyEffect::Abandon { .. }
                | ProxyEffect::Resume { .. }
                | ProxyEffect::Overdue { .. }
                | ProxyEffect::RingsTooLong { .. } => {}
            }
        }
        effects.append(&mut answers);
        Ok(context)
    }

    fn replay(
        &mut self,
        event: &Event,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) -> Result<(), Contradiction> {
        match event {
            Event::Ended { branch, progressed, response } => {
                let branch = self.known(*branch)?;
                let response = Message::parse(response.clone()).map_err(|_| Contradiction)?;
                let class = response.status().and_then(ResponseClass::of);
                if class != Some(ResponseClass::Failure) {
                    return Err(Contradiction);
                }
                self.note_progress(branch.0, *progressed);
                self.response(branch, response, now, effects);
            }
            Event::Failed { branch, progressed, status } => {
                let branch = self.known(*branch)?;
                self.note_progress(branch.0, *progressed);
                self.ended(branch, self.own_outcome(*status), *status, now, effects);
            }
            Event::TimerC { branch } => {
                let branch = self.known(*branch)?;
                self.stop_ringing(branch, now, effects);
            }
            Event::Cancelled => self.cancel(now, effects),
            Event::Answered { branch } => {
                let branch = self.known(*branch)?;
                self.accepted(branch, now, effects);
            }
        }
        Ok(())
    }

    fn known(&self, branch: usize) -> Result<BranchIndex, Contradiction> {
        if branch < self.branches.len() { Ok(BranchIndex(branch)) } else { Err(Contradiction) }
    }

    /// What is left to do for a branch; nothing if it failed without a response.
    fn go_on_with(&mut self, begun: Begun, events: &[Event], now: Instant) -> Option<ProxyEffect> {
        let Begun { branch, request, branch_id, destination } = begun;
        let state = &mut self.branches[branch.0];
        let resumption = match state.state {
            BranchState::Calling => {
                return Some(ProxyEffect::Start { branch, request, branch_id, destination });
            }
            BranchState::CancelPending | BranchState::Proceeding | BranchState::Cancelling => {
                state.state = BranchState::Cancelling;
                // §9.1: without a final response in this time the transaction counts as cancelled.
                state.deadline = Some(now + Timers::default().patience());
                Resumption::Cancel
            }
            BranchState::Accepted => Resumption::Relay,
            BranchState::Terminated => events.iter().find_map(|event| match event {
                Event::Ended { branch: ended, response, .. } if *ended == branch.0 => {
                    Some(Resumption::Acknowledge(response.clone()))
                }
                _ => None,
            })?,
        };
        Some(ProxyEffect::Resume { branch, request, branch_id, destination, resumption })
    }
}
