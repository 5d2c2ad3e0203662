//! From a new request to the decision about it: the handler runs, its batch is committed, its action follows.
//!
//! An INVITE that is to be proxied is committed once more before that, as a set-up record: expected absent, so that of
//! all containers that got a copy of the INVITE one calls. Its application's batch lies under a tag of its own and is
//! committed first; a container that dies in between leaves an INVITE to be handled again, as after any commit of
//! which nobody heard.
//!
//! Where errors of the application and of the store become SIP statuses:
//!
//! | what happened | answer |
//! |---|---|
//! | conflict with another commit, or its outcome is unknown | the handler runs again; 503 after `commit_conflicts_max` |
//! | the call has a record already | it is looked at: see `inquiries` |
//! | store busy | 503, Retry-After |
//! | store failed, batch malformed, handler panicked | 500 |
//! | handler too slow | 503, Retry-After |

use std::sync::Arc;
use std::time::Instant;

use sip::{Message, Method};
use state::{Batch, CommitError, Version};
use topology::ChoiceKey;
use tracing::{debug, error, warn};

use super::noting::Notes;
use super::set_ups::{Act, BEGUN_WITHIN, Ledger, Step};
use super::{CommitUse, Held, JobId, Shard, ShardEffect, taken};
use crate::application::{Action, Caller, Effects, Response};
use crate::edges::LinkId;
use crate::ownership::identity::SetUpId;
use crate::session::proxying::Routed;
use crate::session::{RequestId, SessionApplication, SessionId};
use crate::setup::{Event, SetUp};
use crate::transactions::{Origin, ServerId};

/// An outcome that is unknown this often stays so: the store hangs, and waiting on would hold up the acknowledgement
/// of all that came after the request on its link.
const UNKNOWN_MAX: u32 = 1;

/// How a run of a handler ended.
#[derive(Debug)]
pub enum HandlerEnd {
    /// It returned.
    Done(Effects),
    /// The gatekeeper lets an application with sessions have the request, once this is committed.
    Admitted(Batch),
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
    held: Held,
    begun_at: Instant,
    attempt: u32,
    /// Commits whose outcome is unknown.
    unknown: u32,
    /// The caller's CANCELs that came meanwhile.
    cancels: Vec<HeldCancel>,
    /// The link went down meanwhile, so that the edge, if it lives, offers the request to another container.
    is_offered_elsewhere: bool,
    /// What is to be done once the batch is committed.
    action: Option<Action>,
    /// The session that has let the request go on and asks where to.
    asked_by: Option<(SessionId, RequestId)>,
    /// The application with sessions that gets the request if it is admitted: then there is no action.
    wanted_by: Option<Arc<dyn SessionApplication>>,
    caller: Caller,
    /// The record on its way to the store.
    set_up: Option<(SetUpId, Box<SetUp>)>,
}

impl Job {
    /// Of a request of which nothing is known.
    fn new(held: Held, begun_at: Instant) -> Job {
        Job {
            server: None,
            held,
            begun_at,
            attempt: 0,
            unknown: 0,
            cancels: Vec::new(),
            is_offered_elsewhere: false,
            action: None,
            asked_by: None,
            wanted_by: None,
            caller: Caller::Claimed,
            set_up: None,
        }
    }

    /// The application with sessions that gets the request if it is admitted.
    pub(super) fn wanted_by(&self) -> Option<&dyn SessionApplication> {
        self.wanted_by.as_deref()
    }

    /// Asks about the request, for the first time or again.
    fn question(&self, job: JobId) -> ShardEffect {
        let (request, flow) = (Box::new(self.held.message.clone()), self.held.origin.flow);
        let (caller, attempt) = (self.caller, self.attempt);
        match self.wanted_by {
            Some(_) => ShardEffect::Admit { job, request, flow, attempt },
            None => ShardEffect::Handle { job, request, flow, caller, attempt },
        }
    }
}

/// A CANCEL that is not answered yet.
#[derive(Debug)]
pub(super) struct HeldCancel {
    /// Its transaction.
    pub(super) cancel: ServerId,
    pub(super) held: Held,
}

impl Shard {
    pub(super) fn begin_job(
        &mut self,
        server: Option<ServerId>,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let held = self.hold(request, origin);
        let caller = self.caller_of(&held.message, &origin.flow);
        self.add_job(Job { server, caller, ..Job::new(held, now) }, effects);
    }

    /// Asks what would become of a request that a session lets go on.
    pub(super) fn ask_where_to(
        &mut self,
        asked_by: (SessionId, RequestId),
        caller: Caller,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let job = Job { asked_by: Some(asked_by), caller, ..Job::new(held, now) };
        self.add_job(job, effects);
    }

    /// Asks the gatekeeper whether an application may have a request.
    pub(super) fn ask_gatekeeper(
        &mut self,
        server: ServerId,
        application: Arc<dyn SessionApplication>,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let (server, wanted_by) = (Some(server), Some(application));
        self.add_job(Job { server, wanted_by, ..Job::new(held, now) }, effects);
    }

    fn add_job(&mut self, state: Job, effects: &mut Vec<ShardEffect>) {
        let job = JobId(self.take_id());
        effects.push(state.question(job));
        if let Some(server) = state.server {
            self.jobs_by_server.insert(server, job);
        }
        self.jobs.insert(job, state);
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
        let (batch, action) = match end {
            HandlerEnd::Done(Effects { batch, action }) => (batch, Some(action)),
            HandlerEnd::Admitted(batch) => (batch, None),
            HandlerEnd::Panicked => {
                error!("an application panicked; its request is answered 500");
                (Batch::new(), Some(Action::Respond(Response::new(500))))
            }
            HandlerEnd::TimedOut => {
                warn!("an application took too long; its request is answered 503");
                let refusal = self.responder.try_again(&state.held.message);
                (Batch::new(), Some(Action::Respond(refusal)))
            }
        };
        // RFC 3261 §8.2.2.2: the same request by another way. A proxy forwards both, a user agent does not.
        let is_accepted =
            matches!(&action, Some(Action::Respond(response)) if response.status < 300);
        if let Some(server) = state.server.filter(|_| is_accepted)
            && self.transactions.is_merged(server)
        {
            state.action = Some(Action::Respond(Response::new(482)));
            return self.decided(job, now, effects);
        }
        state.action = action;
        if batch.is_empty() {
            self.decided(job, now, effects);
        } else {
            self.commit(CommitUse::Job(job), batch, effects);
        }
    }

    /// The commit of what an application wants to be stored has ended.
    pub(super) fn job_committed(
        &mut self,
        job: JobId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let error = match result {
            Ok(_) => return self.decided(job, now, effects),
            Err(error) => error,
        };
        state.unknown += u32::from(matches!(error, CommitError::Unknown { .. }));
        // Unknown: the handler reads what has become of it, and decides again.
        if matches!(error, CommitError::Conflict { .. } | CommitError::Unknown { .. })
            && state.attempt < self.settings.commit_conflicts_max
            && state.unknown <= UNKNOWN_MAX
        {
            state.attempt += 1;
            state.action = None;
            debug!(
                attempt = state.attempt,
                "a commit met another one, or its outcome is unknown; the handler runs again"
            );
            return effects.push(state.question(job));
        }
        self.refuse_job(job, &error, now, effects);
    }

    fn refuse_job(
        &mut self,
        job: JobId,
        error: &CommitError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let refusal = match error {
            CommitError::Conflict { .. } | CommitError::Unknown { .. } => {
                warn!(%error, attempts = state.attempt, "gave up a commit; answering 503");
                self.responder.try_again(&state.held.message)
            }
            CommitError::Store(error) if error.is_transient() => {
                warn!(%error, "the store is overloaded; answering 503");
                self.responder.try_again(&state.held.message)
            }
            error => {
                error!(%error, "a request's changes could not be stored; answering 500");
                Response::new(500)
            }
        };
        state.action = Some(Action::Respond(refusal));
        state.set_up = None;
        self.conclude(job, now, effects);
    }

    /// A link is gone: what it offered and nobody has decided about yet is the edge's to offer elsewhere.
    pub(super) fn offers_withdrawn(&mut self, link: LinkId) {
        for job in self.jobs.values_mut() {
            job.is_offered_elsewhere |= job.held.offered.is_some_and(|(by, _)| by == link);
        }
    }

    /// The caller cancels a request: its context knows how, or its job will.
    pub(super) fn cancelled(
        &mut self,
        server: ServerId,
        cancel: HeldCancel,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(job) = self.jobs_by_server.get(&server).and_then(|job| self.jobs.get_mut(job)) {
            return job.cancels.push(cancel);
        }
        let context = self.contexts.get(&server);
        let context = context.filter(|context| context.proxy.is_cancellable());
        if let Some(Notes::SetUp(id)) = context.map(|context| context.notes) {
            let step = Step { event: Some(Event::Cancelled), act: Act::Cancel(cancel) };
            return self.note(id, step, now, effects);
        }
        let response = Response::new(200);
        self.transactions.respond_own(cancel.cancel, &response, now, &mut self.pending);
        self.cancel_context(server, now, effects);
        self.settle(now, effects);
        taken(cancel.held.offered, effects);
    }

    /// A job knows what to do, and what its application wanted to be stored is; a call to be set up is noted first.
    fn decided(&mut self, job: JobId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let wall = self.wall(now);
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let request = &state.held.message;
        let is_call = request.method() == Some(Method::Invite) && state.asked_by.is_none();
        let plan = match &state.action {
            Some(Action::Proxy(plan)) if is_call => plan,
            Some(Action::Proxy(_) | Action::Respond(_) | Action::Drop) | None => {
                return self.conclude(job, now, effects);
            }
        };
        let is_wanted = !state.is_offered_elsewhere || !state.cancels.is_empty();
        let id = self.identifier.of_request(request).filter(|_| is_wanted);
        let Some(id) = id else { return self.conclude(job, now, effects) };
        let record = SetUp {
            owner: self.settings.incarnation,
            token: self.deriver.owner_token(),
            sent_by: self.own_name.clone(),
            flow: state.held.origin.flow,
            choice: ChoiceKey::CallId(request.call_id().unwrap_or_default()).hash(),
            request: request.buffer().clone(),
            plan: plan.clone(),
            // Also of a call that rings nowhere here: another copy of its INVITE may have been sooner elsewhere.
            events: state.cancels.first().map(|_| Event::Cancelled).into_iter().collect(),
        };
        let batch = record.begin(id, wall);
        state.set_up = Some((id, Box::new(record)));
        self.commit(CommitUse::Begin(job), batch, effects);
    }

    /// The commit of a new call's record has ended.
    pub(super) fn begun(
        &mut self,
        job: JobId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let (Some(server), Some((id, record))) = (state.server, state.set_up.take()) else {
            return self.conclude(job, now, effects);
        };
        match result {
            // We stood still: another container may have had the whole call, its record gone since. Should nobody have
            // had it, its caller repeats it.
            Ok(versions) if now > state.begun_at + BEGUN_WITHIN => {
                warn!(set_up = %id, "it took too long to begin a call; dropped it");
                let version = *versions.first().expect("the store gives a version for each write");
                self.commit(CommitUse::Tidy, record.remove(id, version), effects);
                if let Some(state) = self.jobs.get_mut(&job) {
                    state.action = Some(Action::Drop);
                }
                self.conclude(job, now, effects);
            }
            Ok(versions) => {
                state.set_up = Some((id, record.clone()));
                let version = *versions.first().expect("the store gives a version for each write");
                self.set_ups.insert(id, Box::new(Ledger::new(server, *record, version, now)));
                self.set_ups_by_server.insert(server, id);
                self.conclude(job, now, effects);
            }
            // Another copy of the INVITE was sooner, here or elsewhere; or nobody knows. The record says whose it is.
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {
                let Some(job) = self.jobs.remove(&job) else { return };
                self.jobs_by_server.remove(&server);
                self.transactions.drop_server(server);
                let held = Held { rounds: job.held.rounds + 1, ..job.held };
                self.inquire(id, held, effects);
                for HeldCancel { cancel, held } in job.cancels {
                    self.transactions.drop_server(cancel);
                    self.inquire(id, held, effects);
                }
            }
            Err(error) => self.refuse_job(job, &error, now, effects),
        }
    }

    /// Carries out the action of a job; then the edge may forget the request.
    fn conclude(&mut self, job: JobId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Some(job) = self.jobs.remove(&job) else { return };
        if let Some((id, request)) = job.asked_by {
            let routed = match job.action {
                Some(Action::Proxy(plan)) => Routed::To(plan),
                Some(Action::Respond(response)) => Routed::Refused(response),
                // Only an ACK is left without an answer.
                Some(Action::Drop) | None => Routed::Refused(Response::new(500)),
            };
            return self.routed_for_session(id, request, routed, now, effects);
        }
        if let (None, Some(application), Some(server)) = (&job.action, job.wanted_by, job.server) {
            self.jobs_by_server.remove(&server);
            return self.admitted(server, application, job.held, job.cancels, now, effects);
        }
        let offered = job.held.offered;
        let mut cancels = job.cancels;
        match (job.action, job.server) {
            (Some(action), Some(server)) => {
                self.jobs_by_server.remove(&server);
                match (action, job.set_up) {
                    // Our trouble, after a standstill most likely, is not that of whoever has the request now.
                    (Action::Respond(response), _)
                        if job.is_offered_elsewhere && (500..600).contains(&response.status) =>
                    {
                        self.transactions.drop_server(server);
                    }
                    (Action::Respond(response), _) => {
                        self.transactions.respond_own(server, &response, now, &mut self.pending);
                    }
                    // RFC 3261 §9.2: nobody was asked yet, so the INVITE is ended here.
                    (Action::Proxy(_), noted) if is_cancelled(&noted, &cancels) => {
                        self.answer_cancels(&mut cancels, now, effects);
                        let response = Response::new(487);
                        self.transactions.respond_own(server, &response, now, &mut self.pending);
                    }
                    (Action::Proxy(plan), Some((id, _))) => {
                        self.begin_context(server, job.held, plan, Some(id), now, effects);
                    }
                    // An answer may come twice; a phone must not get two copies of a request. If the edge is dead,
                    // a repetition brings the request again.
                    (Action::Proxy(_), None) if job.is_offered_elsewhere => {
                        self.transactions.drop_server(server);
                    }
                    (Action::Proxy(plan), None) => {
                        self.begin_context(server, job.held, plan, None, now, effects);
                    }
                    (Action::Drop, _) => self.transactions.drop_server(server),
                }
                self.settle(now, effects);
                taken(offered, effects);
                for cancel in cancels {
                    self.cancelled(server, cancel, now, effects);
                }
                return;
            }
            (Some(Action::Proxy(_)), None) if job.is_offered_elsewhere => {}
            (Some(Action::Proxy(plan)), None) => {
                self.forward_ack(&job.held.message, job.held.origin.link, &plan, effects);
            }
            // RFC 3261 §17.1.1.3: an ACK has no answer.
            (Some(Action::Respond(_) | Action::Drop) | None, None) | (None, Some(_)) => {}
        }
        self.settle(now, effects);
        taken(offered, effects);
    }

    /// Answers the CANCELs of an INVITE that is about to be ended.
    fn answer_cancels(
        &mut self,
        cancels: &mut Vec<HeldCancel>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        for HeldCancel { cancel, held } in cancels.drain(..) {
            let response = Response::new(200);
            self.transactions.respond_own(cancel, &response, now, &mut self.pending);
            self.settle(now, effects);
            taken(held.offered, effects);
        }
    }
}

/// Whether a call was cancelled before it had a record, or would be begun without one.
fn is_cancelled(noted: &Option<(SetUpId, Box<SetUp>)>, cancels: &[HeldCancel]) -> bool {
    match noted {
        Some((_, record)) => record.events.contains(&Event::Cancelled),
        None => !cancels.is_empty(),
    }
}
