//! Initial requests whose key leads them to one session, wherever they arrive.
//!
//! ```text
//! request ─▶ FindKey ─▶ alias (INVITE) ─▶ here ──────────────▶ joins it
//!                                     └─▶ read ─▶ dead: taken over, joins it
//!                                              ├▶ living: handed on to its owner, and looked at there
//!                                              └▶ none: begins it, expected absent
//! ```
//!
//! The session's id is a MAC of application and key. Two containers that begin it at once meet in the store: the second
//! finds its commit refused, and hands its request on. A CANCEL and an ACK do not know the key; they find the session by
//! the transaction of their INVITE, or, where that is not, by an *alias* under the id of the set-up that the INVITE would
//! have begun. It is committed before the session, under a tag of its own.

use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use sip::Method;
use state::{CommitError, Version};
use topology::Incarnation;
use tracing::{debug, error, warn};

use super::super::jobs::HeldCancel;
use super::super::{CommitUse, Held, JobId, Shard, ShardEffect, taken};
use super::arrivals::new_request;
use super::inquiries::Asking;
use super::{Queued, records};
use crate::application::Response;
use crate::session::receive::Input;
use crate::session::{Replication, SessionApplication, SessionId, limits};
use crate::transactions::{ServerId, Transactions};

/// Below so many noted INVITEs nobody looks which of them are answered.
const NOTED_MIN: usize = 1_024;

/// How the search for a key ended.
#[derive(Debug)]
pub enum KeyEnd {
    /// It returned.
    Found(Option<Bytes>),
    /// It could not say: how the request is answered.
    Refused(u16),
    /// It panicked: a bug of the application.
    Panicked,
    /// It was given up after its longest time.
    TimedOut,
}

/// What is known of requests with keys.
#[derive(Default)]
pub(super) struct Keys {
    runs: AHashMap<JobId, ServerId>,
    /// Each is a server transaction, and bounded with those.
    sought: AHashMap<ServerId, Sought>,
    /// The sessions of INVITEs without a final answer; answered ones are dropped when there are many.
    sessions: AHashMap<ServerId, SessionId>,
    sweep_at: usize,
}

/// A request whose session is sought.
struct Sought {
    application: Arc<dyn SessionApplication>,
    held: Held,
    /// The caller's CANCELs that came meanwhile.
    cancels: Vec<HeldCancel>,
    /// Once the key is known, or that there is none.
    name: Option<SessionName>,
}

/// What a session that begins is called.
#[derive(Clone, Debug)]
pub(super) struct SessionName {
    pub(super) id: SessionId,
    /// What led there.
    pub(super) key: Option<Bytes>,
}

impl Keys {
    /// Whom the sessions would be of that are sought.
    pub(super) fn applications(&self) -> impl Iterator<Item = &dyn SessionApplication> {
        self.sought.values().map(|sought| &*sought.application)
    }

    /// A CANCEL waits with its INVITE; handed back if that is not sought for.
    pub(super) fn cancelled(&mut self, server: ServerId, cancel: HeldCancel) -> Option<HeldCancel> {
        let Some(sought) = self.sought.get_mut(&server) else { return Some(cancel) };
        sought.cancels.push(cancel);
        None
    }

    /// The session that an INVITE without a final answer went to.
    pub(super) fn session_of(&self, server: ServerId) -> Option<SessionId> {
        self.sessions.get(&server).copied()
    }

    /// An INVITE is in this session.
    pub(super) fn found(&mut self, server: ServerId, id: SessionId, transactions: &Transactions) {
        if self.sessions.len() >= self.sweep_at.max(NOTED_MIN) {
            self.sessions.retain(|server, _| transactions.pending_request(*server).is_some());
            self.sweep_at = self.sessions.len() * 2;
        }
        self.sessions.insert(server, id);
    }
}

impl Shard {
    /// Asks an application for the key of an initial request.
    pub(super) fn find_key(
        &mut self,
        application: Arc<dyn SessionApplication>,
        server: ServerId,
        held: Held,
        effects: &mut Vec<ShardEffect>,
    ) {
        let job = JobId(self.take_id());
        let request = Box::new(held.message.clone());
        let of = Arc::clone(&application);
        effects.push(ShardEffect::FindKey { job, application: of, request });
        let sought = Sought { application, held, cancels: Vec::new(), name: None };
        self.sessions.keys.runs.insert(job, server);
        self.sessions.keys.sought.insert(server, sought);
    }

    /// The search for a key has ended.
    pub fn key_found(
        &mut self,
        job: JobId,
        end: KeyEnd,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(server) = self.sessions.keys.runs.remove(&job) else { return };
        let Some(sought) = self.sessions.keys.sought.get_mut(&server) else { return };
        let name = sought.application.name();
        let request = &sought.held.message;
        let own = self.identifier.of_request(request).map(|id| SessionId(id.0));
        match end {
            KeyEnd::Found(Some(key)) if (1..=limits::KEY_BYTES_MAX).contains(&key.len()) => {
                let id = self.sessions.identity.keyed(name, &key);
                sought.name = Some(SessionName { id, key: Some(key) });
                let is_stored = sought.application.replication() != Replication::Nowhere;
                let is_invite = request.method() == Some(Method::Invite);
                match own.filter(|_| is_invite && is_stored) {
                    Some(alias) => {
                        let batch = records::write_alias(alias, id, self.wall(now));
                        self.commit(CommitUse::Alias(server), batch, effects);
                    }
                    None => self.find_keyed(server, now, effects),
                }
            }
            KeyEnd::Found(None) => {
                sought.name = own.map(|id| SessionName { id, key: None });
                self.begin_keyed(server, now, effects);
            }
            KeyEnd::Found(Some(key)) => {
                error!(
                    application = name,
                    octets = key.len(),
                    "an application gave a key of a wrong length; answering 500"
                );
                self.refuse_keyed(server, 500, now, effects);
            }
            KeyEnd::Refused(status) => self.refuse_keyed(server, status, now, effects),
            KeyEnd::Panicked => {
                error!(
                    application = name,
                    "an application panicked when it was asked for a key; answering 500"
                );
                self.refuse_keyed(server, 500, now, effects);
            }
            KeyEnd::TimedOut => {
                warn!(
                    application = name,
                    "an application took too long to give a key; answering 503"
                );
                self.refuse_keyed(server, 503, now, effects);
            }
        }
        self.settle(now, effects);
    }

    /// The commit of an alias has ended.
    pub(in super::super) fn alias_written(
        &mut self,
        server: ServerId,
        result: Result<Vec<Version>, CommitError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        match result {
            Ok(_) => self.find_keyed(server, now, effects),
            Err(error) => {
                warn!(%error, "cannot note where a request goes; answering 503");
                self.refuse_keyed(server, 503, now, effects);
            }
        }
        self.settle(now, effects);
    }

    /// The key is known: looks for its session.
    pub(super) fn find_keyed(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let sought = self.sessions.keys.sought.get(&server);
        let name = sought.and_then(|sought| sought.name.as_ref());
        let Some(id) = name.map(|name| name.id) else { return };
        if self.sessions.has(id) {
            return self.join(server, id, now, effects);
        }
        if self.inquire_for(id, Asking::Keyed(server), effects).is_err() {
            debug!(session = %id, "too many wait for a record; refused a request");
            self.refuse_keyed(server, 503, now, effects);
        }
    }

    fn join(
        &mut self,
        server: ServerId,
        id: SessionId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(Sought { held, cancels, .. }) = self.sessions.keys.sought.remove(&server) else {
            return;
        };
        let Some(new) = new_request(&held.message, held.origin) else { return };
        self.sessions.keys.found(server, id, &self.transactions);
        let queued = Queued { held: Some(held), ..Queued::of(Input::Join(new)) };
        self.queue(id, queued, now, effects);
        self.cancel_all(id, cancels, now, effects);
    }

    /// The key leads to no session yet, or there is no key.
    pub(super) fn begin_keyed(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let sought = self.sessions.keys.sought.get(&server);
        let Some(name) = sought.and_then(|sought| sought.name.clone()) else { return };
        let id = name.id;
        if self.sessions.has(id) {
            return self.join(server, id, now, effects);
        }
        let Some(sought) = self.sessions.keys.sought.remove(&server) else { return };
        let Sought { application, held, cancels, .. } = sought;
        self.sessions.keys.found(server, id, &self.transactions);
        self.begin_session(name, &application, server, held, now, effects);
        self.cancel_all(id, cancels, now, effects);
    }

    fn cancel_all(
        &mut self,
        id: SessionId,
        cancels: Vec<HeldCancel>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        for cancel in cancels {
            if let Some(HeldCancel { cancel, held }) = self.queue_cancel(id, cancel, now, effects) {
                self.transactions.drop_server(cancel);
                taken(held.offered, effects);
            }
        }
    }

    /// The session lives in another container.
    pub(super) fn hand_on_keyed(
        &mut self,
        server: ServerId,
        owner: Incarnation,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(sought) = self.sessions.keys.sought.remove(&server) else { return };
        self.transactions.drop_server(server);
        self.hand_on(sought.held, owner, now, effects);
        for HeldCancel { cancel, held } in sought.cancels {
            self.transactions.drop_server(cancel);
            self.hand_on(held, owner, now, effects);
        }
    }

    /// No session can be found for a request now.
    pub(super) fn refuse_keyed(
        &mut self,
        server: ServerId,
        status: u16,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(Sought { held, cancels, .. }) = self.sessions.keys.sought.remove(&server) else {
            return;
        };
        let response = match status {
            503 => self.responder.try_again(&held.message),
            status => Response::new(status),
        };
        self.transactions.respond_own(server, &response, now, &mut self.pending);
        taken(held.offered, effects);
        for HeldCancel { cancel, held } in cancels {
            let response = Response::new(200);
            self.transactions.respond_own(cancel, &response, now, &mut self.pending);
            taken(held.offered, effects);
        }
    }
}
