//! From a new request to the decision about it: the handler runs, its batch is committed, its action follows.
//!
//! Where errors of the application and of the store become SIP statuses:
//!
//! | what happened | answer |
//! |---|---|
//! | conflict with another commit, or its outcome is unknown | the handler runs again; 503 after `commit_conflicts_max` |
//! | store busy | 503, Retry-After |
//! | store failed, batch malformed, handler panicked | 500 |
//! | handler or commit too slow | 503, Retry-After |

use std::time::Instant;

use sip::Message;
use state::CommitError;
use tracing::{debug, error, warn};

use super::{JobId, Shard, ShardEffect};
use crate::application::{Action, Effects, Response};
use crate::edges::LinkId;
use crate::transactions::{Origin, ServerId};

/// How a run of a handler ended.
#[derive(Debug)]
pub enum HandlerEnd {
    /// It returned.
    Done(Effects),
    /// It panicked: a bug of the application.
    Panicked,
    /// It was given up after its longest time.
    TimedOut,
}

/// A request on its way through the application.
#[derive(Debug)]
pub(super) struct Job {
    /// None for an ACK.
    pub(super) server: Option<ServerId>,
    request: Message,
    origin: Origin,
    /// The link and sequence to acknowledge when the decision stands.
    offered: Option<(LinkId, u64)>,
    attempt: u32,
    /// The caller sent CANCEL meanwhile.
    is_cancelled: bool,
    /// The link went down meanwhile, so that the edge, if it lives, offers the request to another container.
    is_offered_elsewhere: bool,
    /// What is to be done once the batch is committed.
    action: Option<Action>,
}

impl Shard {
    pub(super) fn begin_job(
        &mut self,
        server: Option<ServerId>,
        request: Message,
        origin: Origin,
        effects: &mut Vec<ShardEffect>,
    ) {
        let job = JobId(self.take_id());
        effects.push(ShardEffect::Handle {
            job,
            request: Box::new(request.clone()),
            flow: origin.flow,
            attempt: 0,
        });
        if let Some(server) = server {
            self.jobs_by_server.insert(server, job);
        }
        let job_state = Job {
            server,
            request,
            origin,
            offered: self.offered.take(),
            attempt: 0,
            is_cancelled: false,
            is_offered_elsewhere: false,
            action: None,
        };
        self.jobs.insert(job, job_state);
    }

    /// A handler has ended.
    pub fn handled(
        &mut self,
        job: JobId,
        end: HandlerEnd,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let Effects { batch, action } = match end {
            HandlerEnd::Done(effects) => effects,
            HandlerEnd::Panicked => {
                error!("an application panicked; its request is answered 500");
                Effects::respond(Response::new(500))
            }
            HandlerEnd::TimedOut => {
                warn!("an application took too long; its request is answered 503");
                Effects::respond(self.responder.try_again(&state.request))
            }
        };
        // RFC 3261 §8.2.2.2: the same request by another way. A proxy forwards both, a user agent does not.
        let is_accepted = matches!(&action, Action::Respond(response) if response.status < 300);
        if let Some(server) = state.server.filter(|_| is_accepted)
            && self.transactions.is_merged(server)
        {
            state.action = Some(Action::Respond(Response::new(482)));
            return self.decided(job, now, effects);
        }
        state.action = Some(action);
        if batch.is_empty() {
            self.decided(job, now, effects);
        } else {
            effects.push(ShardEffect::Commit { job, batch });
        }
    }

    /// A commit has ended.
    pub fn committed(
        &mut self,
        job: JobId,
        result: Result<(), CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let refusal = match result {
            Ok(()) => return self.decided(job, now, effects),
            // Unknown: the handler reads what has become of it, and decides again.
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. })
                if state.attempt < self.settings.commit_conflicts_max =>
            {
                state.attempt += 1;
                state.action = None;
                debug!(
                    attempt = state.attempt,
                    "a commit met another one, or its outcome is unknown; the handler runs again"
                );
                return effects.push(ShardEffect::Handle {
                    job,
                    request: Box::new(state.request.clone()),
                    flow: state.origin.flow,
                    attempt: state.attempt,
                });
            }
            Err(error @ (CommitError::Conflict { .. } | CommitError::Unknown { .. })) => {
                warn!(%error, attempts = state.attempt, "gave up a commit; answering 503");
                self.responder.try_again(&state.request)
            }
            Err(CommitError::Store(error)) if error.is_transient() => {
                warn!(%error, "the store is overloaded; answering 503");
                self.responder.try_again(&state.request)
            }
            Err(error) => {
                error!(%error, "a request's changes could not be stored; answering 500");
                Response::new(500)
            }
        };
        state.action = Some(Action::Respond(refusal));
        self.decided(job, now, effects);
    }

    /// A commit was given up after its longest time: a request that waited on would hold up the
    /// acknowledgement of all that came after it on its link.
    ///
    /// The batch may still be applied. What it holds is what the request asked for, and its sender asks again.
    pub fn commit_timed_out(&mut self, job: JobId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        warn!("the store took too long over a commit; answering 503");
        state.action = Some(Action::Respond(self.responder.try_again(&state.request)));
        self.decided(job, now, effects);
    }

    /// A link is gone: what it offered and nobody has decided about yet is the edge's to offer elsewhere.
    pub(super) fn offers_withdrawn(&mut self, link: LinkId) {
        for job in self.jobs.values_mut() {
            job.is_offered_elsewhere |= job.offered.is_some_and(|(by, _)| by == link);
        }
    }

    /// The caller cancels a request: its context knows how, or its job will.
    pub(super) fn cancelled(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(job) = self.jobs_by_server.get(&server).and_then(|job| self.jobs.get_mut(job)) {
            job.is_cancelled = true;
        } else {
            self.cancel_context(server, now, effects);
        }
    }

    /// Carries out the action of a job whose batch is committed; then the edge may forget the request.
    fn decided(&mut self, job: JobId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(job) = self.jobs.remove(&job) else { return };
        match (job.action, job.server) {
            (Some(action), Some(server)) => {
                self.jobs_by_server.remove(&server);
                match action {
                    Action::Respond(response) => {
                        self.transactions.respond_own(server, &response, now, &mut self.pending);
                    }
                    // RFC 3261 §9.2: nobody was asked yet, so the INVITE is ended here.
                    Action::Proxy(_) if job.is_cancelled => {
                        let response = Response::new(487);
                        self.transactions.respond_own(server, &response, now, &mut self.pending);
                    }
                    // An answer may come twice; a phone must not ring for two containers. If the edge is dead,
                    // a repetition brings the request again.
                    Action::Proxy(_) if job.is_offered_elsewhere => {
                        self.transactions.drop_server(server);
                    }
                    Action::Proxy(plan) => {
                        self.begin_context(server, job.request, job.origin, plan, now, effects);
                    }
                    Action::Drop => self.transactions.drop_server(server),
                }
            }
            (Some(Action::Proxy(_)), None) if job.is_offered_elsewhere => {}
            (Some(Action::Proxy(plan)), None) => {
                self.forward_ack(&job.request, job.origin, &plan, effects);
            }
            // RFC 3261 §17.1.1.3: an ACK has no answer.
            (Some(Action::Respond(_) | Action::Drop) | None, None) | (None, Some(_)) => {}
        }
        self.settle(now, effects);
        if let Some((link, sequence)) = job.offered {
            effects.push(ShardEffect::Taken { link, sequence });
        }
    }
}
