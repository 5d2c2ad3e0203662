//! The application sessions of a shard: their events one at a time, each committed before anything of it leaves.
//!
//! ```text
//! message, timer, failure ─▶ waiting ─▶ receive ─▶ handler ─▶ apply, settle ─▶ Commit ─▶ actions
//!                                         ▲          (on a copy)                  │ conflict, unknown: read
//!                                         └─────────────── next one ──────────────┴──▶ somebody else's: lost
//! ```
//!
//! Here: what there is. `arrivals` says which session a message is for, `admission` who may begin one, `steps` takes one input after the other to the
//! handler and applies what that wants, `commits` brings a step to its end, `inquiries` loads sessions, takes over those
//! of dead containers and hands messages on to living ones, `actions` lets messages leave, `clock` repeats 2xx responses
//! and keeps deadlines, `due` finds timers that nobody keeps any more, `absence` lets sessions wait whose application is
//! not there, `forwarding` lets requests go on, `http` brings them HTTP requests, `keys` gathers initial requests in
//! sessions, `signals` lets them speak to each other.
//!
//! A session for which nothing is under way is kept as its record only, a few hundred octets.

mod absence;
mod actions;
mod admission;
mod arrivals;
mod clock;
mod commits;
mod due;
mod forwarding;
mod http;
mod inquiries;
mod keys;
mod listing;
mod records;
mod signals;
mod steps;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use sip::transaction::Timers;
use sip::{Message, Method, Uri};
use state::Version;
use topology::{Incarnation, OwnerToken};

use super::clocks::Clocks;
use super::jobs::HeldCancel;
use super::{Held, JobId, LookupId, Shard, ShardSettings};
use crate::own_route::own_entry;
use crate::proxy::TransportFailure;
use crate::session::identity::Identity;
use crate::session::receive::Input;
use crate::session::state::{Action, Context};
use crate::session::{
    Replication, Session, SessionApplication, SessionEffect, SessionEvent, SessionId, chain, limits,
};
use crate::transactions::ClientId;
use crate::transactions::deadlines::{Armed, Deadlines};
pub(super) use actions::Start as SessionStart;
use actions::{Lookup, Sent};
use clock::Repeat;
use due::DueWatch;
use forwarding::Note;
use http::Ask;
use inquiries::Inquiry;
pub use keys::KeyEnd;
use keys::Keys;
pub use listing::{SessionsError, session, sessions};
use records::Entered;
pub use usage::stored_applications;

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

/// The applications with sessions that a container hosts.
#[derive(Clone, Debug, Default)]
pub struct SessionApplications {
    /// One version of each, in the order in which they are offered a request.
    pub current: Vec<Arc<dyn SessionApplication>>,
    /// Versions that begin no session any more, and go on with those that they have.
    pub former: Vec<Arc<dyn SessionApplication>>,
}

impl SessionApplications {
    /// All of them current, in this order.
    pub fn new(current: Vec<Arc<dyn SessionApplication>>) -> SessionApplications {
        SessionApplications { current, former: Vec::new() }
    }

    /// The one of exactly this name and version.
    fn find(&self, name: &str) -> Option<&Arc<dyn SessionApplication>> {
        self.current.iter().chain(&self.former).find(|known| known.name() == name)
    }
}

/// All sessions of a shard.
pub(super) struct Sessions {
    applications: SessionApplications,
    /// The container's application is asked who may begin a session.
    are_guarded: bool,
    /// Requests for these go through our own front door.
    own_domains: Vec<String>,
    identity: Identity,
    timers: Timers,
    entries: AHashMap<SessionId, Entry>,
    /// Of all entries.
    weight: usize,
    /// [`limits::SESSIONS_MAX`].
    weight_max: usize,
    runs: AHashMap<JobId, SessionId>,
    deadlines: Deadlines<SessionId>,
    clients: AHashMap<ClientId, Sent>,
    lookups: AHashMap<LookupId, Lookup>,
    inquiries: AHashMap<SessionId, Inquiry>,
    keys: Keys,
    due: DueWatch,
}

/// A session that is ours.
struct Entry {
    /// As it is stored; empty before the first commit.
    record: Bytes,
    version: Option<Version>,
    /// Never stored: [`Replication::Nowhere`].
    is_volatile: bool,
    /// Where the stored record stands in the indexes.
    entered: Entered,
    /// None: nothing is under way, and the record is all there is.
    live: Option<Box<Live>>,
    has_calls: bool,
    armed: Armed,
    /// The store has refused a step, which is tried again then; or its application is not there.
    not_before: Option<Instant>,
    /// Something of it waits until its application is there.
    awaits_application: bool,
}

/// A session for which something is under way.
struct Live {
    session: Session,
    waiting: VecDeque<Queued>,
    /// So many of those that wait, the first ones, do until the application is there.
    parked: usize,
    step: Option<Step>,
    repeats: Vec<Repeat>,
}

impl Live {
    fn new(session: Session) -> Live {
        let (waiting, repeats) = (VecDeque::new(), Vec::new());
        Live { session, waiting, parked: 0, step: None, repeats }
    }

    /// When something that waits for the application has waited long enough.
    fn waits_until(&self) -> Option<Instant> {
        self.waiting.iter().take(self.parked).filter_map(|queued| queued.until).min()
    }

    /// Whether the next input has to wait.
    fn is_busy(&self) -> bool {
        self.step.is_some()
    }
}

/// An application that wants an initial request.
struct Accepting {
    application: Arc<dyn SessionApplication>,
    /// A session of ours sent the request, or forwarded it.
    is_ours: bool,
}

/// A call has come through too many applications.
struct TooDeep;

/// Something that waits for its turn.
struct Queued {
    input: Input,
    /// The message that it came as.
    held: Option<Held>,
    /// The CANCEL that it came as.
    cancel: Option<HeldCancel>,
    /// The HTTP request that it came as.
    ask: Option<Ask>,
    /// It does not wait longer for its application.
    until: Option<Instant>,
    /// What takes effect with it.
    note: Option<Box<Note>>,
}

impl Queued {
    fn of(input: Input) -> Queued {
        Queued { input, held: None, cancel: None, ask: None, note: None, until: None }
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
    ask: Option<Ask>,
    note: Option<Box<Note>>,
    /// The first one of a session.
    is_first: bool,
    /// What the record will be, once that is known.
    value: Bytes,
    attempts: u32,
    /// A commit of it may have come about although nobody knows.
    is_in_doubt: bool,
    /// What follows from it happens already, before its commit: [`Replication::AfterReply`].
    has_happened: bool,
    /// The session ends with it, and its application is being told so.
    is_farewell: bool,
    /// The store has refused it too often; it is tried again when the pause is over.
    is_paused: bool,
}

impl Step {
    /// Towards `draft`, with nothing asked for yet.
    fn new(draft: Session, event: Option<SessionEvent>, actions: Vec<Action>) -> Step {
        let (held, cancel, ask, note, is_first) = (None, None, None, None, false);
        let (value, attempts, is_in_doubt, is_paused) = (Bytes::new(), 0, false, false);
        Step {
            draft,
            event,
            actions,
            held,
            cancel,
            ask,
            note,
            is_first,
            value,
            attempts,
            is_in_doubt,
            has_happened: false,
            is_farewell: false,
            is_paused,
        }
    }
}

impl Sessions {
    pub(super) fn new(settings: &ShardSettings, own_name: &Bytes) -> Sessions {
        Sessions {
            applications: SessionApplications::default(),
            are_guarded: false,
            own_domains: Vec::new(),
            identity: identity(settings, own_name),
            timers: settings.transactions.timers,
            entries: AHashMap::new(),
            weight: 0,
            weight_max: limits::SESSIONS_MAX,
            runs: AHashMap::new(),
            deadlines: Deadlines::new(),
            clients: AHashMap::new(),
            lookups: AHashMap::new(),
            inquiries: AHashMap::new(),
            keys: Keys::default(),
            due: DueWatch::default(),
        }
    }

    /// Whether no session is begun here any more for now.
    fn are_full(&self) -> bool {
        self.weight >= self.weight_max
    }

    /// Whether browsers begin none: the other half of the room is for calls, which end sooner.
    fn are_half_full(&self) -> bool {
        self.weight >= self.weight_max.div_ceil(2)
    }

    fn insert(&mut self, id: SessionId, entry: Entry) {
        self.weight += weight(&entry.record);
        if let Some(replaced) = self.entries.insert(id, entry) {
            self.weight -= weight(&replaced.record);
        }
    }

    fn remove(&mut self, id: SessionId) -> Option<Entry> {
        let removed = self.entries.remove(&id)?;
        self.weight -= weight(&removed.record);
        Some(removed)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Reads and makes the names of sessions.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether there is anybody who could have sessions.
    pub(super) fn are_hosted(&self) -> bool {
        !(self.applications.current.is_empty() && self.applications.former.is_empty())
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

    /// The session that a request names: by its entry in the route, else by our Contact as the Request-URI.
    pub(super) fn named_by(&self, request: &Message) -> Option<SessionId> {
        self.routed_by(request).or_else(|| self.addressed_by(request))
    }

    /// The session whose entry the route of a request begins with.
    pub(super) fn routed_by(&self, request: &Message) -> Option<SessionId> {
        let token = self.identity.read_token(own_entry(request)?)?;
        Some(SessionId(token.session))
    }

    fn addressed_by(&self, request: &Message) -> Option<SessionId> {
        let uri = Uri::parse(request.request_uri()?).ok()?;
        let token = self.identity.read_token(uri.as_sip()?.user?)?;
        Some(SessionId(token.session))
    }

    /// The application that wants an initial request, and whether a session of ours sent it, as may be if it came from an
    /// edge of ours.
    ///
    /// # Errors
    /// [`chain::APPLICATIONS_MAX`]: it has come through too many of them.
    fn accepting(
        &self,
        request: &Message,
        is_from_edge: bool,
    ) -> Result<Option<Accepting>, TooDeep> {
        let is_initial = request.to().is_ok_and(|to| to.tag().is_none());
        if !is_initial || request.method() == Some(Method::Register) {
            return Ok(None);
        }
        let applications = &self.applications.current;
        let names = applications.iter().map(|application| application.name());
        let sender = is_from_edge.then(|| self.identity.sender(request, names)).flatten();
        let Some(application) = chain::next(applications, sender, request) else { return Ok(None) };
        if chain::depth_of(request) >= chain::APPLICATIONS_MAX {
            return Err(TooDeep);
        }
        let application = Arc::clone(application);
        Ok(Some(Accepting { application, is_ours: sender.is_some() }))
    }

    fn context(&self, clocks: Clocks, now: Instant) -> Context<'_> {
        let (now, guarded) = (clocks.wall(now), clocks.guarded(now));
        Context { now, guarded, identity: &self.identity, timers: self.timers }
    }

    /// Takes in a session that begins.
    fn begin(&mut self, session: &Session, application: &dyn SessionApplication) {
        let entry = Entry {
            record: Bytes::new(),
            version: None,
            is_volatile: application.replication() == Replication::Nowhere,
            entered: Entered::default(),
            live: Some(Box::new(Live::new(session.clone()))),
            has_calls: session.has_calls(),
            armed: Armed::default(),
            not_before: None,
            awaits_application: false,
        };
        self.insert(session.id, entry);
    }

    /// Whether messages of a session may have left that are not in its record.
    fn spoke_before_commits(&self, session: &Session) -> bool {
        let application = self.applications.find(session.application());
        application.is_none_or(|known| known.replication() == Replication::AfterReply)
    }

    /// Who holds the session that a message names, as far as the message knows.
    fn holder_named_by(&self, message: &Message) -> Option<Incarnation> {
        let token = match message.request_uri() {
            Some(uri) => self.identity.read_token(Uri::parse(uri).ok()?.as_sip()?.user?),
            None => self.identity.session_of_response(message),
        };
        token.map(|token| token.owner.incarnation)
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

/// As how many sessions one with this record counts.
fn weight(record: &Bytes) -> usize {
    1 + record.len() / limits::USUAL_RECORD_BYTES
}

fn identity(settings: &ShardSettings, own_name: &Bytes) -> Identity {
    let owner = OwnerToken { incarnation: settings.incarnation, shard: 0 };
    Identity::new(&settings.keys, owner, own_name.clone())
}

impl Shard {
    /// Hosts applications with sessions; `own_domains` are those that this node itself serves. Before anything comes.
    pub fn host(&mut self, applications: SessionApplications, own_domains: Vec<String>) {
        self.sessions.applications = applications;
        self.sessions.own_domains = own_domains;
    }

    /// From now on the container's application is asked before one with sessions gets an initial request that none of
    /// ours has sent (`ShardEffect::Admit`). Before anything comes.
    pub fn guard(&mut self) {
        self.sessions.guard();
    }
}

fn status_of(failure: TransportFailure) -> u16 {
    match failure {
        TransportFailure::TimedOut => 408,
        TransportFailure::FlowGone | TransportFailure::Unreachable => 503,
    }
}
