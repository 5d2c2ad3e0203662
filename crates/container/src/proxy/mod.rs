//! The transaction-stateful proxy core: events of one server transaction and its branches in, effects out
//! (RFC 3261 §16, corrected by RFC 4320, 5393, 5626 and 6026).
//!
//! One [`ProxyContext`] is RFC 3261's response context. It stands between one server transaction and the
//! client transactions it asks for: the owner of both (the shard) carries out each [`ProxyEffect`] and
//! reports back what the client transactions deliver. Its states:
//!
//! ```text
//!             6xx             CANCEL         2xx, or the best final     all branches over
//! Searching ──────▶ Declined ──────▶ Cancelled ──────────▶ Answered ──────────▶ Finished
//! ```
//!
//! (each arrow also starts at any state left of it). Only `Searching` starts branches. The context
//! is finished when every branch has ended; after a 2xx a branch lingers for 64·T1, so that 2xx responses of
//! other forks and retransmitted ones still pass (RFC 6026 §7.2, §7.3).
//!
//! What is expected of the owner: it matches responses to branches by top Via and CSeq (§17.1.3), absorbs
//! retransmissions except 2xx to INVITE, sends 100 upstream itself, acknowledges non-2xx finals, answers the
//! caller's CANCEL with 200, and reports a client transaction that ends without a final response by
//! [`ProxyContext::transport_failed`]. A non-INVITE branch has no deadline here: Timer F ends it.
//!
//! A context is a function of its request, plan and events. So its owner may note each event that changes its course
//! before it tells the context of it, and whoever takes over from a dead owner replays what was noted
//! ([`ProxyContext::resume`]).
//!
//! Deliberately absent: sockets, clocks, transactions; recursion on 3xx (the caller decides on a
//! redirection); DNS failover within a branch (RFC 3263 §4.3), which is the client transaction's.

mod best_response;
mod branch;
mod challenges;
mod effect;
mod progress;
mod replay;
mod request;
mod target_set;

use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::transaction::{ResponseClass, Timers};
use sip::{Edits, HeaderName, Message, Method};

use crate::application::{ProxyPlan, RecordRoute};
pub(crate) use best_response::relayed;
use best_response::{Answer, Asked, Outcome, Outcomes};
use branch::LoopMark;
pub(crate) use branch::forwarder_token;
pub use branch::{BranchDeriver, ViaMark};
pub use effect::{NextHop, ProxyEffect, Resumption, TransportFailure};
pub use progress::BranchIndex;
use progress::{Branch, BranchState, Progress};
pub use replay::Contradiction;
pub use request::{Forwarded, forward_ack};
use target_set::{Callee, TargetSet};

/// Max-Breadth of a request that came without one, and the most that a request may bring along.
///
/// Source: RFC 5393 §5.3.3
const MAX_BREADTH_DEFAULT: u32 = 60;

/// The response context of one proxied request.
///
/// Holds at most one branch for each target of the plan, and at most one outcome for each branch.
pub struct ProxyContext {
    request: Message,
    server_branch: Bytes,
    deriver: BranchDeriver,
    mark: LoopMark,
    record_route: RecordRoute,
    /// Timer C.
    timer_c: Duration,
    max_breadth: u32,
    targets: TargetSet,
    branches: Vec<Branch>,
    outcomes: Outcomes,
    progress: Progress,
}

impl ProxyContext {
    /// Begins to proxy `request`, which passed `check_request`, as `plan` says.
    ///
    /// `server_branch` identifies the server transaction: equal ones give equal client branches.
    pub fn new(
        request: Message,
        plan: ProxyPlan,
        deriver: &BranchDeriver,
        server_branch: &[u8],
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) -> ProxyContext {
        let mark = deriver.loop_mark(&request);
        let mut context = ProxyContext {
            max_breadth: max_breadth(&request),
            server_branch: Bytes::copy_from_slice(server_branch),
            deriver: deriver.clone(),
            mark,
            record_route: plan.record_route,
            timer_c: plan.timer_c,
            targets: TargetSet::new(plan.targets),
            branches: Vec::new(),
            outcomes: Outcomes::default(),
            progress: Progress::Searching,
            request,
        };
        if let Some(status) = context.refusal() {
            context.progress = Progress::Declined;
            context.outcomes.add(Outcome::Own(status));
        }
        context.go_on(now, effects);
        context
    }

    /// A response that the client transaction of `branch` delivered.
    ///
    /// A final one without a second Via is meant for nobody upstream and counts as 502.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn response(
        &mut self,
        branch: BranchIndex,
        response: Message,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        let Some(status) = response.status() else {
            return;
        };
        match ResponseClass::of(status) {
            Some(ResponseClass::Provisional) => {
                self.provisional(branch, status, &response, now, effects);
            }
            Some(ResponseClass::Success) => self.success(branch, &response, now, effects),
            Some(ResponseClass::Failure) => {
                // Kept until all branches have ended, so not as a slice of what the link read.
                let outcome = Outcome::Received(Box::new(response.detached()));
                self.ended(branch, outcome, status, now, effects);
            }
            None => {}
        }
    }

    /// The client transaction of `branch` ended without a final response. (A CANCEL that could not be sent
    /// is not reported: the branch's deadline covers it.)
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn transport_failed(
        &mut self,
        branch: BranchIndex,
        failure: TransportFailure,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        let status = failure.status();
        self.ended(branch, self.own_outcome(status), status, now, effects);
    }

    /// The caller sent CANCEL (§16.10); without effect on anything but a pending INVITE.
    pub fn cancel(&mut self, now: Instant, effects: &mut Vec<ProxyEffect>) {
        if self.is_cancellable() {
            self.stop_searching(Progress::Cancelled, now, effects);
        }
    }

    /// Time has come to [`ProxyContext::next_timeout`]; harmless when called early.
    pub fn timer(&mut self, now: Instant, effects: &mut Vec<ProxyEffect>) {
        for index in 0..self.branches.len() {
            let branch = &mut self.branches[index];
            if branch.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            branch.deadline = None;
            match branch.state {
                // §16.8: Timer C, and a provisional response came.
                BranchState::Proceeding => {
                    effects.push(ProxyEffect::RingsTooLong { branch: BranchIndex(index) });
                }
                // §16.8: Timer C, and none came; §9.1: no final response to a CANCEL within 64·T1.
                BranchState::Calling | BranchState::CancelPending | BranchState::Cancelling => {
                    effects.push(ProxyEffect::Overdue { branch: BranchIndex(index) });
                }
                BranchState::Accepted => {
                    branch.state = BranchState::Terminated;
                    self.go_on(now, effects);
                }
                BranchState::Terminated => {}
            }
        }
    }

    /// Nothing more is expected of `branch`; it counts as 408.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn give_up(&mut self, branch: BranchIndex, now: Instant, effects: &mut Vec<ProxyEffect>) {
        if self.branches[branch.0].state.is_pending() {
            effects.push(ProxyEffect::Abandon { branch });
            self.ended(branch, self.own_outcome(408), 408, now, effects);
        }
    }

    /// Cancels `branch`, which has rung for too long.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn stop_ringing(
        &mut self,
        branch: BranchIndex,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        match self.branches[branch.0].state {
            BranchState::Calling | BranchState::Proceeding => {
                self.send_cancel(branch, now, effects);
            }
            BranchState::CancelPending
            | BranchState::Cancelling
            | BranchState::Accepted
            | BranchState::Terminated => {}
        }
    }

    /// When [`ProxyContext::timer`] wants to be called; None = not before another event.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.branches.iter().filter_map(|branch| branch.deadline).min()
    }

    /// Whether the request of `branch` is still to be sent, if it was not yet: nothing has come back for it, and
    /// it is not going to be cancelled.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn is_wanted(&self, branch: BranchIndex) -> bool {
        self.branches[branch.0].state == BranchState::Calling
    }

    /// Whether the phone of `branch` has a flow that was not tried yet.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn has_further_flow(&self, branch: BranchIndex) -> bool {
        self.branches[branch.0].callee.has_further_flow()
    }

    /// Whether `branch` may still yield its first final response.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn is_pending(&self, branch: BranchIndex) -> bool {
        self.branches[branch.0].state.is_pending()
    }

    /// Whether no branch but that of this number may still yield its first final response.
    pub fn pends_only_at_most(&self, branch: usize) -> bool {
        let mut others = self.branches.iter().enumerate().filter(|(number, _)| *number != branch);
        others.all(|(_, branch)| !branch.state.is_pending())
    }

    /// Whether a 101–199 came by `branch`; decides with other things whether the phone's next flow is tried.
    ///
    /// # Panics
    /// If this context started no such branch.
    pub fn has_progressed(&self, branch: BranchIndex) -> bool {
        self.branches[branch.0].progressed
    }

    /// What was noted of that for the branch of this number: it counts, whatever has come since.
    pub fn note_progress(&mut self, branch: usize, progressed: bool) {
        if let Some(branch) = self.branches.get_mut(branch) {
            branch.progressed = progressed;
        }
    }

    /// Whether a CANCEL of the caller would change anything.
    pub fn is_cancellable(&self) -> bool {
        self.is_invite() && self.progress < Progress::Cancelled
    }

    /// Whether the caller has its final response: then nothing that happens to a branch changes what it gets, but
    /// for further 2xx.
    pub fn is_answered(&self) -> bool {
        self.progress >= Progress::Answered
    }

    /// Whether [`ProxyEffect::Finished`] was given out.
    pub fn is_finished(&self) -> bool {
        self.progress == Progress::Finished
    }

    fn is_invite(&self) -> bool {
        self.request.method() == Some(Method::Invite)
    }

    /// Why the request is not forwarded at all.
    fn refusal(&self) -> Option<u16> {
        // RFC 3261 §16.3(3): zero is not forwarded.
        if matches!(self.request.max_forwards(), Ok(Some(0))) {
            return Some(483);
        }
        BranchDeriver::is_loop(&self.request, &self.mark).then_some(482)
    }

    fn provisional(
        &mut self,
        index: BranchIndex,
        status: u16,
        response: &Message,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        let is_invite = self.is_invite();
        let branch = &mut self.branches[index.0];
        if !branch.state.is_pending() {
            return;
        }
        branch.progressed |= status > 100;
        match branch.state {
            BranchState::Calling | BranchState::Proceeding => {
                branch.state = BranchState::Proceeding;
                // §16.7(2): 101 to 199 set Timer C anew.
                if is_invite && status > 100 {
                    branch.deadline = Some(now + self.timer_c);
                }
            }
            BranchState::CancelPending => self.send_cancel(index, now, effects),
            BranchState::Cancelling | BranchState::Accepted | BranchState::Terminated => {}
        }
        // §16.7(5): 100 is hop by hop, others go on at once. RFC 4320 §4.1: non-INVITE knows none but 100.
        if is_invite
            && status > 100
            && self.progress < Progress::Answered
            && let Some(response) = relayed(response, Edits::new())
        {
            effects.push(ProxyEffect::Reply { response });
        }
    }

    fn success(
        &mut self,
        index: BranchIndex,
        response: &Message,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        let Some(relayed) = relayed(response, Edits::new()) else {
            return self.ended(index, Outcome::Own(502), 502, now, effects);
        };
        // §16.7(5): every 2xx to INVITE is relayed, even after a final; for other methods the first.
        if self.is_invite() || self.progress < Progress::Answered {
            effects.push(ProxyEffect::Reply { response: relayed });
        }
        self.accepted(index, now, effects);
    }

    /// A branch has answered; the others are not wanted any more.
    fn accepted(&mut self, index: BranchIndex, now: Instant, effects: &mut Vec<ProxyEffect>) {
        if self.progress == Progress::Finished {
            return;
        }
        let is_invite = self.is_invite();
        let branch = &mut self.branches[index.0];
        if branch.state != BranchState::Accepted {
            // RFC 6026 §7.2: as long as Timer M lets further 2xx through, they are relayed.
            (branch.state, branch.deadline) = if is_invite {
                (BranchState::Accepted, Some(now + Timers::default().patience()))
            } else {
                (BranchState::Terminated, None)
            };
        }
        self.stop_searching(Progress::Answered, now, effects);
        self.go_on(now, effects);
    }

    /// A branch got its non-2xx final response, or something that counts as `status`.
    fn ended(
        &mut self,
        index: BranchIndex,
        outcome: Outcome,
        status: u16,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) {
        let branch = &mut self.branches[index.0];
        if !branch.state.is_pending() {
            return;
        }
        branch.state = BranchState::Terminated;
        branch.deadline = None;
        // RFC 5626 §7: the phone's next flow when this one failed, but not when the phone has decided;
        // a phone that rang in vain does not ring again.
        let flow_failed = match (&outcome, status) {
            (_, 430) | (Outcome::Own(_), 503) => true,
            (_, 408) => !branch.progressed,
            _ => false,
        };
        if flow_failed
            && self.progress == Progress::Searching
            && self.try_next_flow(index, now, effects)
        {
            return;
        }
        self.outcomes.add(outcome);
        if status >= 600 {
            // §16.7(5): not relayed before the others have ended, but nobody further is bothered.
            self.stop_searching(Progress::Declined, now, effects);
        }
        self.go_on(now, effects);
    }

    /// What a branch that got no answer contributes: 487 if the caller did not want one any more.
    fn own_outcome(&self, status: u16) -> Outcome {
        Outcome::Own(if self.progress == Progress::Cancelled { 487 } else { status })
    }

    /// Starts the next group when nobody is left of this one; sends the best response when there is none.
    fn go_on(&mut self, now: Instant, effects: &mut Vec<ProxyEffect>) {
        while self.progress == Progress::Searching && !self.is_any_pending() {
            match self.targets.next_group() {
                Some(group) => self.start_group(group, now, effects),
                None => break,
            }
        }
        if self.progress == Progress::Finished || self.is_any_pending() {
            return;
        }
        if self.progress < Progress::Answered {
            match self.outcomes.best(self.asked()) {
                Answer::Relayed(response) => effects.push(ProxyEffect::Reply { response }),
                Answer::Own(status) => effects.push(ProxyEffect::ReplyOwn { status }),
                Answer::Silence => {}
            }
            self.progress = Progress::Answered;
        }
        let lingers = |branch: &Branch| branch.state == BranchState::Accepted;
        if !self.branches.iter().any(lingers) {
            self.progress = Progress::Finished;
            effects.push(ProxyEffect::Finished);
        }
    }

    fn is_any_pending(&self) -> bool {
        self.branches.iter().any(|branch| branch.state.is_pending())
    }

    fn asked(&self) -> Asked {
        match (self.is_invite(), self.progress) {
            (false, _) => Asked::NonInvite,
            (true, Progress::Cancelled) => Asked::CancelledInvite,
            (true, _) => Asked::Invite,
        }
    }

    fn start_group(&mut self, group: Vec<Callee>, now: Instant, effects: &mut Vec<ProxyEffect>) {
        // At most TARGETS_MAX.
        let width = u32::try_from(group.len()).unwrap_or(u32::MAX);
        if width > self.max_breadth {
            // RFC 5393 §5.3.3: each branch needs at least 1.
            return self.outcomes.add(Outcome::Own(440));
        }
        let (share, mut rest) = (self.max_breadth / width, self.max_breadth % width);
        for callee in group {
            let extra = rest.min(1);
            rest -= extra;
            self.start_flow(callee, share + extra, now, effects);
        }
    }

    /// Tries the next flow of the phone that `failed` was a flow of; false if it has none.
    fn try_next_flow(
        &mut self,
        failed: BranchIndex,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) -> bool {
        let branch = &mut self.branches[failed.0];
        let (callee, max_breadth) = (std::mem::take(&mut branch.callee), branch.max_breadth);
        self.start_flow(callee, max_breadth, now, effects)
    }

    /// Starts a branch to the phone's next flow; false if it has none that can be tried.
    fn start_flow(
        &mut self,
        mut callee: Callee,
        max_breadth: u32,
        now: Instant,
        effects: &mut Vec<ProxyEffect>,
    ) -> bool {
        while let Some(target) = callee.next_flow() {
            let branch_id = self.deriver.branch(&self.server_branch, &target, 0, &self.mark);
            let forwarding = request::Forwarding {
                target: &target,
                deriver: &self.deriver,
                branch: &branch_id,
                max_breadth: Some(max_breadth),
                record_route: self.record_route,
            };
            let Ok(forwarded) = request::forward(&self.request, &forwarding) else {
                self.outcomes.add(Outcome::Own(513));
                continue;
            };
            effects.push(ProxyEffect::Start {
                branch: BranchIndex(self.branches.len()),
                request: forwarded.request,
                branch_id,
                destination: forwarded.destination,
            });
            self.branches.push(Branch {
                state: BranchState::Calling,
                progressed: false,
                // §16.6(11)
                deadline: self.is_invite().then(|| now + self.timer_c),
                callee,
                max_breadth,
            });
            return true;
        }
        false
    }

    /// No further target is tried, and whoever is still asked is told so (§16.7(10), §16.10).
    fn stop_searching(&mut self, progress: Progress, now: Instant, effects: &mut Vec<ProxyEffect>) {
        self.progress = self.progress.max(progress);
        if !self.is_invite() {
            // §9.1: only INVITE can be cancelled.
            return;
        }
        for index in 0..self.branches.len() {
            match self.branches[index].state {
                BranchState::Calling => self.branches[index].state = BranchState::CancelPending,
                BranchState::Proceeding => self.send_cancel(BranchIndex(index), now, effects),
                BranchState::CancelPending
                | BranchState::Cancelling
                | BranchState::Accepted
                | BranchState::Terminated => {}
            }
        }
    }

    fn send_cancel(&mut self, index: BranchIndex, now: Instant, effects: &mut Vec<ProxyEffect>) {
        let branch = &mut self.branches[index.0];
        branch.state = BranchState::Cancelling;
        // §9.1: without a final response in this time the transaction counts as cancelled.
        branch.deadline = Some(now + Timers::default().patience());
        effects.push(ProxyEffect::Cancel { branch: index });
    }
}

/// What the request may spread to (RFC 5393 §5.3.3); an unreadable value counts as none.
fn max_breadth(request: &Message) -> u32 {
    request
        .field(HeaderName::MaxBreadth)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .map_or(MAX_BREADTH_DEFAULT, |breadth: u32| breadth.min(MAX_BREADTH_DEFAULT))
}

#[cfg(test)]
mod tests;
