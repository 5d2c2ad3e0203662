//! Transactions that another container began: which messages belong to one that is here, and how one of a dead
//! container goes on.

use std::time::Instant;

use bytes::Bytes;
use sip::transaction::{ClientInviteState, Reliability};
use sip::{Message, Method};

use super::client_side::ClientTransaction;
use super::key::{ClientKey, ServerKey};
use super::server_side::{Kind, ServerTransaction};
use super::{ClientId, Origin, ServerId, TransactionId, Transactions};

/// How far the server transaction of an INVITE had come where it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// No final response was sent, or a failure that is sent again now.
    Unanswered,
    /// A 2xx came, and was sent or will be repeated.
    Answered,
}

impl Transactions {
    /// Whether a request belongs to a server transaction that lives here: an ACK or CANCEL to that of its INVITE,
    /// a repetition to its own.
    pub fn knows(&self, request: &Message) -> bool {
        let is_here = |key: Option<ServerKey>| {
            key.is_some_and(|key| self.server_keys.contains_key(&self.hasher.server(&key)))
        };
        is_here(ServerKey::of(request))
            || request.method() == Some(Method::Cancel) && is_here(ServerKey::cancelled_by(request))
    }

    /// Goes on with the server transaction of an INVITE that another container began; one that is here under the
    /// same key is forgotten for it.
    ///
    /// None if the request names no transaction.
    pub fn resume_server(
        &mut self,
        request: Message,
        origin: Origin,
        standing: Resumed,
        now: Instant,
    ) -> Option<ServerId> {
        let key = self.hasher.server(&ServerKey::of(&request)?);
        if let Some(&here) = self.server_keys.get(&key) {
            self.end_server(here);
        }
        Some(match standing {
            Resumed::Unanswered => self.begin_server(Kind::Invite, key, request, origin, now),
            Resumed::Answered => {
                let timers = self.settings.timers;
                let resumed = ServerTransaction::resume_accepted(key, origin, timers, now);
                self.add_server(resumed)
            }
        })
    }

    /// Goes on with a server transaction that another container began, known by its key: with the request, if it has
    /// no answer yet. One that is here under the same key is forgotten for it.
    pub fn resume_kept(
        &mut self,
        key: &[u8],
        is_invite: bool,
        request: Option<Message>,
        origin: Origin,
        now: Instant,
    ) -> ServerId {
        let key = self.hasher.server(&ServerKey::from_bytes(key));
        if let Some(&here) = self.server_keys.get(&key) {
            self.end_server(here);
        }
        let kind = if is_invite { Kind::Invite } else { Kind::NonInvite };
        let timers = self.settings.timers;
        let resumed = ServerTransaction::start(kind, key, request, origin, timers, now);
        self.add_server(resumed)
    }

    /// The server transaction of this key.
    pub fn server_by_key(&self, key: &[u8]) -> Option<ServerId> {
        self.server_keys.get(&self.hasher.server(&ServerKey::from_bytes(key))).copied()
    }

    /// The server transaction that a request is in.
    pub fn server_of(&self, request: &Message) -> Option<ServerId> {
        let key = self.hasher.server(&ServerKey::of(request)?);
        self.server_keys.get(&key).copied()
    }

    /// The final response that a server transaction still repeats, and where it goes; None also for an INVITE's that is
    /// acknowledged.
    pub fn final_response(&self, server: ServerId) -> Option<(Origin, Bytes)> {
        if let Some(answered) = self.answered.get(server) {
            return Some((answered.origin, answered.response.clone()));
        }
        let transaction = self.servers.get(&server)?;
        Some((transaction.origin, transaction.final_response()?.clone()))
    }

    /// The request of a client transaction that has no final response.
    pub fn unanswered_request(&self, client: ClientId) -> Option<&Bytes> {
        let transaction = self.clients.get(&client)?;
        Some(&transaction.request).filter(|request| !request.is_empty())
    }

    /// The client transaction that sent a request of `method` under `branch`.
    pub fn client_by_branch(&self, branch: &[u8], method: &[u8]) -> Option<ClientId> {
        self.client_keys.get(&self.hasher.client(&ClientKey::new(branch, method))).copied()
    }

    /// The client transaction that a response is for.
    pub fn client_of(&self, response: &Message) -> Option<ClientId> {
        let key = self.hasher.client(&ClientKey::of(response)?);
        self.client_keys.get(&key).copied()
    }

    /// Whether a server transaction still lives.
    pub fn has_server(&self, server: ServerId) -> bool {
        self.servers.contains_key(&server) || self.answered.get(server).is_some()
    }

    /// Goes on with the client transaction of an INVITE that another container began, in the state that it had come
    /// to, as far as that is known; the request is not sent again. None as for [`start`](Self::start).
    pub fn resume(
        &mut self,
        branch: &[u8],
        request: Bytes,
        reliability: Reliability,
        state: ClientInviteState,
        now: Instant,
    ) -> Option<ClientId> {
        let key = self.hasher.client(&ClientKey::new(branch, Method::Invite.as_bytes()));
        let max = self.settings.transactions_max;
        if self.open_clients >= max + max / 2 || self.client_keys.contains_key(&key) {
            return None;
        }
        let timers = self.settings.timers;
        let resumed = ClientTransaction::resume(state, key, request, reliability, timers, now);
        let client = self.add_client(resumed);
        let transaction = self.client_mut(client);
        let (deadline, mut armed) = (transaction.next_timeout(), transaction.armed);
        self.deadlines.arm(TransactionId::Client(client), &mut armed, deadline);
        self.client_mut(client).armed = armed;
        Some(client)
    }
}
