//! The application sessions of a shard: their events one at a time, each committed before anything of it leaves.
//!
//! ```text
//! message, timer, failure ─▶ waiting ─▶ receive ─▶ handler ─▶ apply, settle ─▶ Commit ─▶ actions
//!                                         ▲          (on a copy)                  │ conflict, unknown: read
//!                                         └─────────────── next one ──────────────┴──▶ somebody else's: lost
//! ```
//!
//! Here: which session a message is for, the queue of each, the run of a handler. `commits` brings a step to its end,
//! `inquiries` loads sessions, takes over those of dead containers and hands messages on to living ones, `actions` lets
//! messages leave, `clock` repeats 2xx responses and keeps deadlines, `due` finds timers that nobody keeps any more.
//!
//! A session for which nothing is under way is kept as its record only, a few hundred octets.

mod actions;
mod clock;
mod commits;
mod due;
mod inquiries;
mod records;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use sip::transaction::Timers;
use sip::{Message, Method, Uri};
use state::Version;
use topology::OwnerToken;
use tracing::{debug, error, warn};

use super::clocks::Clocks;
use super::jobs::HeldCancel;
use super::{Held, JobId, LookupId, Shard, ShardEffect, ShardSettings, taken};
use crate::application::Response;
use crate::proxy::TransportFailure;
use crate::session::identity::Identity;
use crate::session::receive::{Input, NewRequest};
use crate::session::state::{Action, Context};
use crate::session::{Session, SessionApplication, SessionEffect, SessionEvent, SessionId, limits};
use crate::transactions::deadlines::{Armed, Deadlines};
use crate::transactions::key::ServerKey;
use crate::transactions::{ClientId, Origin, ServerId};
pub(super) use actions::Start as SessionStart;
use actions::{Lookup, Sent};
use clock::Repeat;
use due::DueWatch;
use inquiries::Inquiry;

/// More inputs of one session do not wait: a request is answered 503, other messages come again.
const WAITING_MAX: usize = 64;

/// How a run of a session's handler ended.
#[derive(Debug)]
pub enum EventEnd {
    /// It returned.
    Done(Vec<SessionEffect>),
    /// It panicked: a bug of the application.
    Panicked,
    /// It was given up after its longest time.
    TimedOut,
}

/// The applications with sessions, in the order in which they are offered a request.
#[derive(Clone, Debug, Default)]
pub struct SessionApplications(pub Vec<Arc<dyn SessionApplication>>);

/// All sessions of a shard.
pub(super) struct Sessions {
    applications: SessionApplications,
    /// Requests for these go through our own front door.
    own_domains: Vec<String>,
    identity: Identity,
    timers: Timers,
    entries: AHashMap<SessionId, Entry>,
    runs: AHashMap<JobId, SessionId>,
    deadlines: Deadlines<SessionId>,
    clients: AHashMap<ClientId, Sent>,
    lookups: AHashMap<LookupId, Lookup>,
    inquiries: AHashMap<SessionId, Inquiry>,
    due: DueWatch,
}

/// A session that is ours.
struct Entry {
    /// As it is stored; empty before the first commit.
    record: Bytes,
    version: Option<Version>,
    /// None: nothing is under way, and the record is all there is.
    live: Option<Box<Live>>,
    has_calls: bool,
    armed: Armed,
    /// The store has refused a step, which is tried again then.
    not_before: Option<Instant>,
}

/// A session for which something is under way.
struct Live {
    session: Session,
    waiting: VecDeque<Queued>,
    step: Option<Step>,
    /// A step stands, and its messages are leaving.
    is_acting: bool,
    repeats: Vec<Repeat>,
}

impl Live {
    fn new(session: Session) -> Live {
        let (waiting, repeats) = (VecDeque::new(), Vec::new());
        Live { session, waiting, step: None, is_acting: false, repeats }
    }

    /// Whether the next input has to wait.
    fn is_busy(&self) -> bool {
        self.step.is_some() || self.is_acting
    }
}

/// Something that waits for its turn.
struct Queued {
    input: Input,
    /// The message that it came as.
    held: Option<Held>,
    /// The CANCEL that it came as.
    cancel: Option<HeldCancel>,
}

impl Queued {
    fn of(input: Input) -> Queued {
        Queued { input, held: None, cancel: None }
    }
}

/// What is being done with one input.
struct Step {
    /// The session as it will be.
    draft: Session,
    event: Option<SessionEvent>,
    actions: Vec<Action>,
    held: Option<Held>,
    cancel: Option<HeldCancel>,
    /// Set for the first step of a session: the transaction of its initial request.
    begins: Option<ServerId>,
    /// What the record will be, once that is known.
    value: Bytes,
    attempts: u32,
    /// The store has refused it too often; it is tried again when the pause is over.
    is_paused: bool,
}

impl Sessions {
    pub(super) fn new(settings: &ShardSettings, own_name: &Bytes) -> Sessions {
        Sessions {
            applications: SessionApplications::default(),
            own_domains: Vec::new(),
            identity: identity(settings, own_name),
            timers: settings.transactions.timers,
            entries: AHashMap::new(),
            runs: AHashMap::new(),
            deadlines: Deadlines::new(),
            clients: AHashMap::new(),
            lookups: AHashMap::new(),
            inquiries: AHashMap::new(),
            due: DueWatch::default(),
        }
    }

    pub(super) fn use_keys(&mut self, settings: &ShardSettings, own_name: &Bytes) {
        self.identity = identity(settings, own_name);
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Whether there is anybody who could have sessions.
    pub(super) fn are_hosted(&self) -> bool {
        !self.applications.0.is_empty()
    }

    /// Whether a client transaction is a session's.
    pub(super) fn sent(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// A client transaction is over.
    pub(super) fn ended(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// Whether there is a call.
    pub(super) fn have_calls(&self) -> bool {
        self.entries.values().any(|entry| entry.has_calls)
    }

    /// Sessions with a call that stands.
    pub(super) fn calls(&self) -> usize {
        self.entries.values().filter(|entry| entry.has_calls).count()
    }

    /// The session that the Request-URI names: our Contact.
    pub(super) fn named_by(&self, request: &Message) -> Option<SessionId> {
        let uri = Uri::parse(request.request_uri()?).ok()?;
        let token = self.identity.read_token(uri.as_sip()?.user?)?;
        Some(SessionId(token.session))
    }

    /// The application that wants an initial request.
    fn accepting(&self, request: &Message) -> Option<Arc<dyn SessionApplication>> {
        let is_initial = request.to().is_ok_and(|to| to.tag().is_none());
        if !is_initial || request.method() == Some(Method::Register) {
            return None;
        }
        let applications = &self.applications.0;
        let names = applications.iter().map(|application| application.name());
        let behind = self.identity.sender(request, names).map_or(0, |sender| sender + 1);
        applications[behind..].iter().find(|application| application.accepts(request)).cloned()
    }

    fn context(&self, clocks: Clocks, now: Instant) -> Context<'_> {
        let (now, guarded) = (clocks.wall(now), clocks.guarded(now));
        Context { now, guarded, identity: &self.identity, timers: self.timers }
    }

    /// The live form of a session that is ours.
    fn wake(&mut self, id: SessionId) -> Option<&mut Live> {
        let entry = self.entries.get_mut(&id)?;
        if entry.live.is_none() {
            let session = Session::decode(id, &entry.record);
            let session = session.expect("a record that we encoded is read by us");
            entry.live = Some(Box::new(Live::new(session)));
        }
        entry.live.as_deref_mut()
    }
}

fn identity(settings: &ShardSettings, own_name: &Bytes) -> Identity {
    let owner = OwnerToken { incarnation: settings.incarnation, shard: 0 };
    Identity::new(&settings.keys, owner, own_name.clone())
}

impl Shard {
    /// Hosts applications with sessions from now on; `own_domains` are those that this node itself serves.
    pub fn host(&mut self, applications: SessionApplications, own_domains: Vec<String>) {
        self.sessions.applications = applications;
        self.sessions.own_domains = own_domains;
    }

    /// A request has begun a server transaction; true if a session has it.
    pub(super) fn session_request(
        &mut self,
        server: ServerId,
        request: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        if let Some(id) = self.sessions.named_by(request) {
            if !self.sessions.has(id) {
                // RFC 3261 §12.2.2
                let response = Response::new(481);
                self.transactions.respond_own(server, &response, now, &mut self.pending);
                return true;
            }
            self.queue_request(id, request.clone(), origin, now, effects);
            return true;
        }
        if !self.sessions.are_hosted() {
            return false;
        }
        let Some(application) = self.sessions.accepting(request) else { return false };
        let Some(id) = self.identifier.of_request(request).map(|id| SessionId(id.0)) else {
            return false;
        };
        if self.sessions.has(id) {
            self.queue_request(id, request.clone(), origin, now, effects);
        } else if self.transactions.is_merged(server) {
            // RFC 3261 §8.2.2.2: the same request by another way.
            let response = Response::new(482);
            self.transactions.respond_own(server, &response, now, &mut self.pending);
        } else {
            self.begin_session(id, application.name(), server, request, origin, now, effects);
        }
        true
    }

    fn queue_request(
        &mut self,
        id: SessionId,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(new) = new_request(&request, origin) else { return };
        let held = Some(self.hold(request, origin));
        self.queue(id, Queued { input: Input::Request(new), held, cancel: None }, now, effects);
    }

    #[allow(clippy::too_many_arguments, reason = "all that makes a session, once")]
    fn begin_session(
        &mut self,
        id: SessionId,
        application: &str,
        server: ServerId,
        request: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(new) = new_request(request, origin) else { return };
        let context = self.sessions.context(self.clocks, now);
        let (session, event) = match Session::begin(id, application, &new, context) {
            Ok(begun) => begun,
            Err(refused) => {
                let response = Response::new(refused.status).reason(refused.reason);
                self.transactions.respond_own(server, &response, now, &mut self.pending);
                return;
            }
        };
        let held = Some(self.hold(request.clone(), origin));
        let entry = Entry {
            record: Bytes::new(),
            version: None,
            live: Some(Box::new(Live::new(session.clone()))),
            has_calls: true,
            armed: Armed::default(),
            not_before: None,
        };
        self.sessions.entries.insert(id, entry);
        let step = Step {
            draft: session,
            event: Some(event),
            actions: Vec::new(),
            held,
            cancel: None,
            begins: Some(server),
            value: Bytes::new(),
            attempts: 0,
            is_paused: false,
        };
        self.tell(id, step, now, effects);
    }

    /// An ACK that belongs to no transaction; true if it names a session.
    pub(super) fn session_ack(
        &mut self,
        ack: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some(id) = self.sessions.named_by(ack) else { return false };
        if self.sessions.has(id) {
            let held = Some(self.hold(ack.clone(), origin));
            let input = Input::Acknowledged { ack: ack.clone() };
            self.queue(id, Queued { input, held, cancel: None }, now, effects);
        }
        true
    }

    /// A CANCEL of an INVITE that has no answer; handed back if the INVITE is no session's.
    pub(super) fn session_cancel(
        &mut self,
        cancel: HeldCancel,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Option<HeldCancel> {
        let request = &cancel.held.message;
        let initial = || self.identifier.of_request(request).map(|id| SessionId(id.0));
        let id = self.sessions.named_by(request).or_else(initial);
        let Some(id) = id.filter(|id| self.sessions.has(*id)) else { return Some(cancel) };
        let Some(key) = ServerKey::cancelled_by(request) else { return Some(cancel) };
        let input = Input::Cancelled { key: Bytes::copy_from_slice(key.as_bytes()) };
        self.queue(id, Queued { input, held: None, cancel: Some(cancel) }, now, effects);
        None
    }

    /// A response under a branch of a session; true if it is one.
    pub(super) fn session_response(
        &mut self,
        response: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some(token) = self.sessions.identity.session_of_response(response) else {
            return false;
        };
        let id = SessionId(token.session);
        if !self.sessions.has(id) {
            let held = self.hold(response.detached(), origin);
            self.inquire_session(id, held, effects);
            return true;
        }
        let is_cancel = response.cseq().is_ok_and(|cseq| cseq.method == Method::Cancel);
        let status = response.status().unwrap_or_default();
        // Provisional responses change nothing that lasts; a final one is acknowledged when it is committed.
        if is_cancel || status < 200 {
            self.transactions.response(response.clone(), now, &mut self.pending);
        }
        if !is_cancel && status > 100 {
            let response = response.detached();
            let held = Some(self.hold(response.clone(), origin));
            self.queue(
                id,
                Queued { input: Input::Response { response }, held, cancel: None },
                now,
                effects,
            );
        }
        true
    }

    /// A client transaction of a session ended without a final response.
    pub(super) fn session_failed(
        &mut self,
        client: ClientId,
        failure: TransportFailure,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(sent) = self.sessions.clients.get(&client) else { return };
        let (id, branch) = (sent.session, sent.branch.clone());
        let input = Input::Failed { branch, status: status_of(failure) };
        self.queue(id, Queued::of(input), now, effects);
    }

    /// Puts something into the queue of a session that is ours.
    fn queue(
        &mut self,
        id: SessionId,
        queued: Queued,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(live) = self.sessions.wake(id) else { return self.unqueue(queued, now, effects) };
        if live.waiting.len() >= WAITING_MAX {
            warn!(session = %id, "too much waits for a session; refused or dropped");
            return self.refuse_queued(queued, now, effects);
        }
        live.waiting.push_back(queued);
        self.advance(id, now, effects);
    }

    /// Takes the next input in hand, unless one is.
    fn advance(&mut self, id: SessionId, now: Instant, effects: &mut Vec<ShardEffect>) {
        let clocks = self.clocks;
        loop {
            let sessions = &mut self.sessions;
            let Some(live) = sessions.entries.get_mut(&id).and_then(|entry| entry.live.as_mut())
            else {
                return;
            };
            if live.is_busy() {
                return;
            }
            let Some(queued) = live.waiting.pop_front() else { return self.rest(id, now) };
            let Sessions { identity, timers, .. } = sessions;
            let (wall, guarded) = (clocks.wall(now), clocks.guarded(now));
            let context = Context { now: wall, guarded, identity, timers: *timers };
            let (mut draft, mut actions) = (live.session.clone(), Vec::new());
            let event = draft.receive(queued.input, context, &mut actions);
            let step = Step {
                draft,
                event,
                actions,
                held: queued.held,
                cancel: queued.cancel,
                begins: None,
                value: Bytes::new(),
                attempts: 0,
                is_paused: false,
            };
            if step.event.is_some() {
                return self.tell(id, step, now, effects);
            }
            self.conclude_step(id, step, Vec::new(), now, effects);
        }
    }

    /// Asks the application.
    fn tell(&mut self, id: SessionId, step: Step, now: Instant, effects: &mut Vec<ShardEffect>) {
        let sessions = &self.sessions;
        let name = step.draft.application();
        let application = sessions.applications.0.iter().find(|known| known.name() == name);
        let (Some(application), Some(event)) = (application, &step.event) else {
            error!(session = %id, application = name, "its application is not configured here; ended it");
            return self.conclude_step(id, step, vec![SessionEffect::End], now, effects);
        };
        let application = Arc::clone(application);
        let (event, session) = (Box::new(event.clone()), Box::new(step.draft.view(self.wall(now))));
        let job = JobId(self.take_id());
        self.sessions.runs.insert(job, id);
        effects.push(ShardEffect::HandleEvent { job, application, session, event });
        if let Some(live) = self.sessions.wake(id) {
            live.step = Some(step);
        }
    }

    /// A handler of a session has ended.
    pub fn event_handled(
        &mut self,
        job: JobId,
        end: EventEnd,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(id) = self.sessions.runs.remove(&job) else { return };
        let Some(live) = self.sessions.entries.get_mut(&id).and_then(|entry| entry.live.as_mut())
        else {
            return;
        };
        let Some(step) = live.step.take() else { return };
        let asked = match end {
            EventEnd::Done(asked) => asked,
            EventEnd::Panicked => {
                error!(session = %id, application = step.draft.application(), "an application panicked");
                refusal(step.event.as_ref())
            }
            EventEnd::TimedOut => {
                warn!(session = %id, application = step.draft.application(), "an application took too long");
                refusal(step.event.as_ref())
            }
        };
        self.conclude_step(id, step, asked, now, effects);
        self.advance(id, now, effects);
        self.settle(now, effects);
    }

    /// Applies what the application wants, and commits what has changed.
    fn conclude_step(
        &mut self,
        id: SessionId,
        mut step: Step,
        asked: Vec<SessionEffect>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let context = self.sessions.context(self.clocks, now);
        let (untouched, done) = (step.draft.clone(), step.actions.len());
        let mut applied = step.draft.apply(asked, context, &mut step.actions);
        if applied.is_ok() {
            step.draft.settle(step.event.as_ref(), context, &mut step.actions);
            step.value = step.draft.encode();
            if step.value.len() > limits::RECORD_BYTES_MAX {
                applied = Err(crate::session::apply::BrokenRule::Record(step.value.len()));
            }
        }
        if let Err(broken) = applied {
            error!(session = %id, application = untouched.application(), %broken, "an application broke a rule");
            step.draft = untouched;
            step.actions.truncate(done);
            let refused =
                step.draft.apply(refusal(step.event.as_ref()), context, &mut step.actions);
            debug_assert!(refused.is_ok(), "a plain refusal breaks no rule");
            step.draft.settle(step.event.as_ref(), context, &mut step.actions);
            step.value = step.draft.encode();
        }
        self.commit_step(id, step, now, effects);
    }

    /// What cannot wait for its session.
    fn refuse_queued(&mut self, queued: Queued, now: Instant, effects: &mut Vec<ShardEffect>) {
        if let Some(held) = queued.held {
            if held.message.is_request()
                && let Some(server) = self.transactions.server_of(&held.message)
            {
                let response = self.responder.try_again(&held.message);
                self.transactions.respond_own(server, &response, now, &mut self.pending);
            }
            taken(held.offered, effects);
        }
        if let Some(HeldCancel { cancel, held }) = queued.cancel {
            let response = self.responder.try_again(&held.message);
            self.transactions.respond_own(cancel, &response, now, &mut self.pending);
            taken(held.offered, effects);
        }
    }

    /// The session is not ours any more: its messages are looked at again, and go to whom it belongs.
    fn unqueue(&mut self, queued: Queued, now: Instant, effects: &mut Vec<ShardEffect>) {
        if let Some(held) = queued.held {
            if let Some(server) = self.transactions.server_of(&held.message) {
                self.transactions.drop_server(server);
            }
            self.dispatch_again(held, now, effects);
        }
        if let Some(HeldCancel { cancel, held }) = queued.cancel {
            self.transactions.drop_server(cancel);
            self.dispatch_again(held, now, effects);
        }
    }

    /// Nothing is under way: if nothing is to be repeated either, the record is enough.
    fn rest(&mut self, id: SessionId, now: Instant) {
        self.arm_session(id, now);
        let Some(entry) = self.sessions.entries.get_mut(&id) else { return };
        let is_at_rest = entry.live.as_ref().is_some_and(|live| {
            live.repeats.is_empty() && !live.session.is_open() && !entry.record.is_empty()
        });
        if is_at_rest {
            debug!(session = %id, octets = entry.record.len(), "at rest");
            entry.live = None;
        }
    }
}

/// What is done in place of what an application failed to say.
fn refusal(event: Option<&SessionEvent>) -> Vec<SessionEffect> {
    match event {
        Some(SessionEvent::Request { request, .. }) => {
            vec![SessionEffect::Respond { request: *request, response: Response::new(500) }]
        }
        Some(_) | None => Vec::new(),
    }
}

fn new_request(request: &Message, origin: Origin) -> Option<NewRequest> {
    let key = ServerKey::of(request)?;
    let key = Bytes::copy_from_slice(key.as_bytes());
    Some(NewRequest { request: request.clone(), key, flow: origin.flow })
}

fn status_of(failure: TransportFailure) -> u16 {
    match failure {
        TransportFailure::TimedOut => 408,
        TransportFailure::FlowGone | TransportFailure::Unreachable => 503,
    }
}
