//! The transaction layer of a container: which messages are new, which are repetitions, who gets responses.
//!
//! Between the links and the applications. Requests and responses that passed their checks go in, with `now`;
//! [`TransactionEffect`]s come out: what the transaction user has to know and what has to be sent. The layer
//! owns the four machines of [`sip::transaction`], finds the one that a message belongs to (RFC 3261 §17.1.3,
//! §17.2.3), answers a CANCEL that has no effect by itself (§9.2) and refuses new work over its bound.
//!
//! A stray response, above all a 2xx that no client transaction waits for, is dropped (RFC 6026 §8.9); a
//! request is never forwarded without a transaction but for ACK.
//!
//! Deliberately absent: where messages go (the shard knows), 2xx retransmission by a user agent.

mod answered;
mod carry_out;
mod client_side;
pub(crate) mod deadlines;
mod interface;
pub(crate) mod key;
mod server_side;
mod takeover;
#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::Bytes;
use sip::transaction::{Reliability, ResponseClass};
use sip::{MESSAGE_BYTES_MAX, Message, Method, ack};
use tracing::warn;
use transport::link::SendError;

use crate::application::Response;
use crate::responder::Responder;
use crate::sliced_table::SlicedTable;
use answered::Answered;
use carry_out::Input;
use client_side::{ClientTransaction, Role};
use deadlines::Deadlines;
pub use interface::{ClientId, Origin, ServerId, TransactionEffect, TransactionSettings};
use key::{ClientKey, KeyHash, KeyHasher, MergeKey, ServerKey};
use server_side::{Kind, ServerTransaction};
pub use takeover::Resumed;

/// So many deadlines are met in one call: after a takeover thousands of requests are repeated at one instant, and links
/// are to be read in between.
const DEADLINES_AT_ONCE_MAX: usize = 64;

/// Message Too Large.
const TOO_LARGE: u16 = 513;

/// As how many transactions one counts that keeps a message of so many bytes.
fn weight(message_bytes: usize) -> usize {
    const USUAL_MESSAGE_BYTES: usize = 2_048;
    1 + message_bytes / USUAL_MESSAGE_BYTES
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TransactionId {
    Server(ServerId),
    Client(ClientId),
}

/// All transactions of one shard.
#[derive(Debug)]
pub struct Transactions {
    settings: TransactionSettings,
    responder: Responder,
    /// Boxed, like the clients: a table that grows moves its entries, hundreds of thousands in one go, and whole
    /// transactions would take longer than an edge waits for a heartbeat.
    servers: SlicedTable<ServerId, Box<ServerTransaction>>,
    hasher: KeyHasher,
    /// Of these and of the answered ones.
    server_keys: SlicedTable<KeyHash, ServerId>,
    merge_keys: SlicedTable<KeyHash, ServerId>,
    /// Weight of the server transactions but for the answered ones.
    open_servers: usize,
    /// How many server transactions keep their request, since they have no final response.
    unanswered: usize,
    answered: Answered,
    clients: SlicedTable<ClientId, Box<ClientTransaction>>,
    /// Weight of the client transactions.
    open_clients: usize,
    client_keys: SlicedTable<KeyHash, ClientId>,
    deadlines: Deadlines<TransactionId>,
    next_id: u64,
}

impl Transactions {
    /// An empty layer; `responder` renders the responses it makes itself.
    pub fn new(settings: TransactionSettings, responder: Responder) -> Transactions {
        Transactions {
            settings,
            responder,
            servers: SlicedTable::new(),
            hasher: KeyHasher::default(),
            server_keys: SlicedTable::new(),
            merge_keys: SlicedTable::new(),
            open_servers: 0,
            unanswered: 0,
            answered: Answered::default(),
            clients: SlicedTable::new(),
            open_clients: 0,
            client_keys: SlicedTable::new(),
            deadlines: Deadlines::new(),
            next_id: 0,
        }
    }

    /// How many transactions there are.
    pub fn len(&self) -> usize {
        self.servers.len() + self.answered.len() + self.clients.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Load as heartbeats tell it: 0 idle, 65,535 at the bound.
    pub fn load(&self) -> u16 {
        let full = self.settings.transactions_max.max(1);
        let open = self.open_servers + self.open_clients;
        u16::try_from(open.min(full) * usize::from(u16::MAX) / full).unwrap_or(u16::MAX)
    }

    /// When [`timeout`](Self::timeout) wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.deadlines.next(), self.answered.next_end()].into_iter().flatten().min()
    }

    /// A request that passed [`Message::check_request`] has come.
    pub fn request(
        &mut self,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let Some(key) = ServerKey::of(&request) else {
            return; // check_request guarantees Via, From, Call-ID and CSeq
        };
        let key = self.hasher.server(&key);
        let is_ack = request.method() == Some(Method::Ack);
        if let Some(&server) = self.server_keys.get(&key) {
            if let Some(answered) = self.answered.get_mut(server) {
                return effects.push(answered.repeated(server, origin));
            }
            let transaction = self.server_mut(server);
            // The link may have changed: another edge carries the repetition.
            transaction.origin = origin;
            let actions = if is_ack { transaction.ack(now) } else { transaction.repeated(now) };
            return self.carry_out_server(server, actions, Input::Request(&request), effects);
        }
        if is_ack {
            // §8.2.7: an ACK to a failure that we sent without, or after, a transaction.
            if !self.responder.is_own_answer(&request) {
                effects.push(TransactionEffect::Acknowledged { request, origin });
            }
            return;
        }
        if self.is_full_for(&request) {
            return self.refuse(&request, origin, effects);
        }
        if request.method() == Some(Method::Cancel) {
            return self.cancel_request(key, request, origin, now, effects);
        }
        let kind = match request.method() {
            Some(Method::Invite) => Kind::Invite,
            _ => Kind::NonInvite,
        };
        let server = self.begin_server(kind, key, request.clone(), origin, now);
        effects.push(TransactionEffect::Begun { server, request, origin });
    }

    /// A response that passed [`Message::check_response`] has come; false if nobody waits for it.
    pub fn response(
        &mut self,
        response: Message,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) -> bool {
        let class = response.status().and_then(ResponseClass::of);
        let (Some(class), Some(client)) = (class, self.client_of(&response)) else {
            return false;
        };
        let actions = self.client_mut(client).response(class, now);
        self.carry_out_client(client, actions, Some((class, response)), None, effects);
        true
    }

    /// The transaction user answers with a complete response; too late an answer is dropped.
    pub fn respond(
        &mut self,
        server: ServerId,
        status: u16,
        response: Bytes,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let Some((status, response)) = self.fitting(server, status, response) else { return };
        let (Some(class), Some(transaction)) =
            (ResponseClass::of(status), self.servers.get_mut(&server))
        else {
            return;
        };
        // RFC 3261 §16.7(5): a 2xx to INVITE goes upstream even after a failure, past the machine.
        if class == ResponseClass::Success && transaction.is_past_failure() {
            effects.push(TransactionEffect::SendResponse {
                server: Some(server),
                origin: transaction.origin,
                bytes: response,
            });
            return;
        }
        let actions = transaction.respond(class, now);
        self.carry_out_server(server, actions, Input::Response(class, response), effects);
    }

    /// A response that no link takes for its length never leaves, and its phone would wait for it in vain: that is what it is
    /// told (RFC 3261 §21.5.7). None: nothing can be said.
    fn fitting(&self, server: ServerId, status: u16, response: Bytes) -> Option<(u16, Bytes)> {
        let octets = response.len();
        if octets <= MESSAGE_BYTES_MAX {
            return Some((status, response));
        }
        warn!(status, octets, "a response is longer than a message may be: it cannot be sent");
        let request = self.servers.get(&server)?.request.as_deref().filter(|_| status >= 200)?;
        let instead = Response::new(TOO_LARGE);
        Some((TOO_LARGE, self.responder.render(request, &instead)))
    }

    /// The transaction user answers with a response of the container's own, under its own To tag.
    pub fn respond_own(
        &mut self,
        server: ServerId,
        response: &Response,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let request =
            self.servers.get(&server).and_then(|transaction| transaction.request.as_deref());
        if let Some(request) = request {
            let bytes = self.responder.render(request, response);
            self.respond(server, response.status, bytes, now, effects);
        }
    }

    /// The transaction user will take its time: an INVITE is answered 100 now.
    pub fn trying(&mut self, server: ServerId, now: Instant, effects: &mut Vec<TransactionEffect>) {
        if let Some(transaction) = self.servers.get_mut(&server) {
            let actions = transaction.trying(now);
            self.carry_out_server(server, actions, Input::Nothing, effects);
        }
    }

    /// The transaction user gives no answer at all.
    pub fn drop_server(&mut self, server: ServerId) {
        self.end_server(server);
    }

    /// Whether another server transaction, still alive, has brought the same request by another way and was
    /// answered by us as its user agent; if not, this one is the one that is (§8.2.2.2).
    pub fn is_merged(&mut self, server: ServerId) -> bool {
        let Some(transaction) = self.servers.get_mut(&server) else {
            return false;
        };
        let Some(key) = transaction.request.as_deref().and_then(MergeKey::of) else {
            return false;
        };
        let key = self.hasher.merge(&key);
        match self.merge_keys.get(&key) {
            Some(other) => *other != server,
            None => {
                transaction.merge_key = Some(key);
                self.merge_keys.insert(key, server);
                false
            }
        }
    }

    /// The request of a server transaction that has no final response yet.
    pub fn pending_request(&self, server: ServerId) -> Option<&Message> {
        self.servers.get(&server)?.request.as_deref()
    }

    /// How many server transactions have no final response yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Begins a client transaction for a complete request whose top Via has the branch `branch`; None at the
    /// bound, or when that transaction is under way.
    pub fn start(
        &mut self,
        method: Method<'_>,
        branch: &[u8],
        request: Bytes,
        reliability: Reliability,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) -> Option<ClientId> {
        let max = self.settings.transactions_max;
        if self.open_clients >= max + max / 2 {
            return None;
        }
        let key = self.hasher.client(&ClientKey::new(branch, method.as_bytes()));
        let is_invite = method == Method::Invite;
        self.begin_client(is_invite, Role::User, key, request, reliability, now, effects)
    }

    /// Cancels an INVITE whose provisional response has come (§9.1): the CANCEL gets a client transaction of
    /// its own, which is returned and whose answer nobody hears.
    pub fn cancel(
        &mut self,
        client: ClientId,
        reliability: Reliability,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) -> Option<ClientId> {
        let invite = self.clients.get(&client).filter(|transaction| transaction.is_invite())?;
        let invite = Message::parse(invite.request.clone()).ok()?;
        let branch = invite.top_via().ok()?.branch()?;
        let key = self.hasher.client(&ClientKey::new(branch, b"CANCEL"));
        let request = ack::cancel(&invite);
        self.begin_client(false, Role::Cancel, key, request, reliability, now, effects)
    }

    /// Forgets a client transaction.
    pub fn abandon(&mut self, client: ClientId, effects: &mut Vec<TransactionEffect>) {
        self.end_client(client, effects);
    }

    /// Sends the request of this transaction again, unless it has its final response: perhaps it was lost on its way.
    /// Whoever has it absorbs the repetition (RFC 3261 §17.2).
    pub fn repeat_request(&self, client: ClientId, effects: &mut Vec<TransactionEffect>) {
        if let Some(transaction) = self.clients.get(&client)
            && !transaction.request.is_empty()
        {
            let bytes = transaction.request.clone();
            effects.push(TransactionEffect::SendRequest { client, bytes });
        }
    }

    /// A request of this transaction could not be sent.
    pub fn request_failed(
        &mut self,
        client: ClientId,
        error: SendError,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        if let Some(transaction) = self.clients.get_mut(&client) {
            let actions = transaction.transport_failed(now);
            self.carry_out_client(client, actions, None, Some(error), effects);
        }
    }

    /// A response of this transaction could not be sent.
    pub fn response_failed(
        &mut self,
        server: ServerId,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        if let Some(transaction) = self.servers.get_mut(&server) {
            let actions = transaction.transport_failed(now);
            self.carry_out_server(server, actions, Input::Nothing, effects);
        } else {
            self.end_server(server); // RFC 3261 §17.2.2: an answered one ends as well
        }
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout). Of very much that is due, the rest
    /// waits for the next call.
    pub fn timeout(&mut self, now: Instant, effects: &mut Vec<TransactionEffect>) {
        for _ in 0..DEADLINES_AT_ONCE_MAX {
            let Some((at, id)) = self.deadlines.pop_due(now) else { break };
            match id {
                TransactionId::Server(server) => {
                    let Some(transaction) = self.servers.get_mut(&server) else { continue };
                    if transaction.armed.take(at) {
                        let actions = transaction.timeout(now);
                        self.carry_out_server(server, actions, Input::Nothing, effects);
                    }
                }
                TransactionId::Client(client) => {
                    let Some(transaction) = self.clients.get_mut(&client) else { continue };
                    if transaction.armed.take(at) {
                        let actions = transaction.timeout(now);
                        self.carry_out_client(client, actions, None, None, effects);
                    }
                }
            }
        }
        self.end_answered(now, DEADLINES_AT_ONCE_MAX);
        let (servers, clients) = (&self.servers, &self.clients);
        self.deadlines.sweep(servers.len() + clients.len(), |id, at| match id {
            TransactionId::Server(id) => servers.get(&id).is_some_and(|t| t.armed.is_at(at)),
            TransactionId::Client(id) => clients.get(&id).is_some_and(|t| t.armed.is_at(at)),
        });
    }

    /// §9.2: CANCEL has a server transaction of its own, answered at once.
    fn cancel_request(
        &mut self,
        key: KeyHash,
        cancel: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let invite = ServerKey::cancelled_by(&cancel)
            .and_then(|key| self.server_keys.get(&self.hasher.server(&key)).copied());
        let server = self.begin_server(Kind::NonInvite, key, cancel.clone(), origin, now);
        // Without a request kept, the INVITE has its final response and CANCEL no effect.
        match invite.filter(|invite| self.pending_request(*invite).is_some()) {
            Some(invite) => {
                let (cancel, request) = (server, cancel);
                effects.push(TransactionEffect::Cancelled {
                    server: invite,
                    cancel,
                    request,
                    origin,
                });
            }
            None => {
                let status = if invite.is_some() { 200 } else { 481 };
                self.respond_own(server, &Response::new(status), now, effects);
            }
        }
    }

    /// In-dialog requests may use a quarter more than others: calls that stand shall be ended in order.
    ///
    /// An answered REGISTER, say, waits 64·T1 for nothing but its own repetition: it takes memory, but no work
    /// waits on it, so it keeps out no new one.
    fn is_full_for(&self, request: &Message) -> bool {
        let max = self.settings.transactions_max;
        let is_in_dialog = request.to().is_ok_and(|to| to.tag().is_some())
            || request.method() == Some(Method::Cancel);
        self.open_servers >= if is_in_dialog { max + max / 4 } else { max }
    }

    fn refuse(&self, request: &Message, origin: Origin, effects: &mut Vec<TransactionEffect>) {
        let response = self.responder.try_again(request);
        effects.push(TransactionEffect::SendResponse {
            server: None,
            origin,
            bytes: self.responder.render(request, &response),
        });
    }

    fn begin_server(
        &mut self,
        kind: Kind,
        key: KeyHash,
        request: Message,
        origin: Origin,
        now: Instant,
    ) -> ServerId {
        let timers = self.settings.timers;
        self.add_server(ServerTransaction::start(kind, key, Some(request), origin, timers, now))
    }

    fn add_server(&mut self, mut transaction: ServerTransaction) -> ServerId {
        let server = ServerId(self.take_id());
        let deadline = transaction.next_timeout();
        self.deadlines.arm(TransactionId::Server(server), &mut transaction.armed, deadline);
        self.open_servers += transaction.weight;
        self.unanswered += usize::from(transaction.request.is_some());
        self.server_keys.insert(transaction.key, server);
        self.servers.insert(server, Box::new(transaction));
        server
    }

    #[allow(clippy::too_many_arguments, reason = "all that makes a client transaction, once")]
    fn begin_client(
        &mut self,
        is_invite: bool,
        role: Role,
        key: KeyHash,
        request: Bytes,
        reliability: Reliability,
        now: Instant,
        effects: &mut Vec<TransactionEffect>,
    ) -> Option<ClientId> {
        if self.client_keys.contains_key(&key) {
            return None;
        }
        let timers = self.settings.timers;
        let (transaction, actions) =
            ClientTransaction::start(is_invite, role, key, request, reliability, timers, now);
        let client = self.add_client(transaction);
        self.carry_out_client(client, actions, None, None, effects);
        Some(client)
    }

    fn add_client(&mut self, transaction: ClientTransaction) -> ClientId {
        let client = ClientId(self.take_id());
        self.open_clients += transaction.weight;
        self.client_keys.insert(transaction.key, client);
        self.clients.insert(client, Box::new(transaction));
        client
    }

    fn end_server(&mut self, server: ServerId) {
        let (key, merge_key) = if let Some(transaction) = self.servers.remove(&server) {
            self.open_servers -= transaction.weight;
            self.unanswered -= usize::from(transaction.request.is_some());
            (transaction.key, transaction.merge_key)
        } else if let Some(answered) = self.answered.remove(server) {
            (answered.key, answered.merge_key)
        } else {
            return;
        };
        self.server_keys.remove(&key);
        if let Some(key) = merge_key {
            self.merge_keys.remove(&key);
        }
    }

    fn end_client(&mut self, client: ClientId, effects: &mut Vec<TransactionEffect>) {
        if let Some(transaction) = self.clients.remove(&client) {
            self.open_clients -= transaction.weight;
            self.client_keys.remove(&transaction.key);
            effects.push(TransactionEffect::ClientEnded { client });
        }
    }

    fn server_mut(&mut self, server: ServerId) -> &mut ServerTransaction {
        self.servers.get_mut(&server).expect("every key names a transaction, open or answered")
    }

    fn client_mut(&mut self, client: ClientId) -> &mut ClientTransaction {
        self.clients.get_mut(&client).expect("every key names a living transaction")
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
