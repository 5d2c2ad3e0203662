//! What comes to the sessions of a shard: which one a message is for, and the beginning of a new one.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sip::{Message, Method};
use tracing::{debug, info};

use super::super::jobs::HeldCancel;
use super::super::{Held, Shard, ShardEffect, taken};
use super::keys::SessionName;
use super::{Accepting, Queued, Step, TooDeep, status_of};
use crate::application::Response;
use crate::proxy::TransportFailure;
use crate::session::receive::{Input, NewRequest};
use crate::session::{Session, SessionApplication, SessionId, chain};
use crate::transactions::key::ServerKey;
use crate::transactions::{ClientId, Origin, ServerId};

impl Shard {
    /// A request has begun a server transaction; true if a session has it.
    pub(in super::super) fn session_request(
        &mut self,
        server: ServerId,
        request: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        if let Some(id) = self.sessions.named_by(request) {
            let is_routed = self.sessions.routed_by(request).is_some();
            if is_routed && !self.sessions.is_concerned(id, request) {
                self.outlives_session(server, request, origin, now, effects);
                return true;
            }
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
        let is_from_edge = self.edges.is_from_edge(&origin.flow);
        let Accepting { application, is_ours } =
            match self.sessions.accepting(request, is_from_edge) {
                Ok(Some(accepting)) => accepting,
                Ok(None) => return false,
                Err(TooDeep) => {
                    let max = chain::APPLICATIONS_MAX;
                    info!(max, "a call went through too many applications; refused it");
                    let response = Response::new(482);
                    self.transactions.respond_own(server, &response, now, &mut self.pending);
                    return true;
                }
            };
        let Some(id) = self.identifier.of_request(request).map(|id| SessionId(id.0)) else {
            return false;
        };
        if self.sessions.has(id) {
            self.queue_request(id, request.clone(), origin, now, effects);
        } else if !is_ours && self.transactions.is_merged(server) {
            // RFC 3261 §8.2.2.2: the same request by another way; not one that comes round as it should.
            let response = Response::new(482);
            self.transactions.respond_own(server, &response, now, &mut self.pending);
        } else if self.is_to_be_admitted(application.as_ref(), request, &origin.flow) {
            let held = self.hold(request.clone(), origin);
            self.ask_gatekeeper(server, application, held, now, effects);
        } else {
            let held = self.hold(request.clone(), origin);
            self.enter(id, application, server, held, now, effects);
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
        self.queue(id, Queued { held, ..Queued::of(Input::Request(new)) }, now, effects);
    }

    /// Begins a session, unless there are too many of them.
    pub(super) fn begin_session(
        &mut self,
        SessionName { id, key }: SessionName,
        application: &Arc<dyn SessionApplication>,
        server: ServerId,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let context = self.sessions.context(self.clocks, now);
        let begun = match new_request(&held.message, held.origin) {
            Some(_) if self.sessions.are_full() => {
                let max = self.sessions.weight_max;
                debug!(max, "there are too many sessions; refused another one");
                Err(self.responder.try_again(&held.message))
            }
            Some(new) => Session::begin(id, application.name(), &new, context)
                .map_err(|refused| Response::new(refused.status).reason(refused.reason)),
            None => Err(Response::new(400)),
        };
        let (session, event) = match begun {
            Ok(begun) => begun,
            Err(response) => {
                self.transactions.respond_own(server, &response, now, &mut self.pending);
                return taken(held.offered, effects);
            }
        };
        let session = session.keyed(key);
        self.sessions.begin(&session, application.as_ref());
        let step = Step::new(session, Some(event), Vec::new());
        let step = Step { held: Some(held), is_first: true, ..step };
        self.tell(id, step, application, now, effects);
    }

    /// An ACK that belongs to no transaction; true if it names a session.
    pub(in super::super) fn session_ack(
        &mut self,
        ack: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some(id) = self.sessions.named_by(ack) else { return false };
        if self.sessions.routed_by(ack).is_some() && !self.sessions.is_concerned(id, ack) {
            self.let_outliving_ack_go_on(ack, effects);
        } else if self.sessions.has(id) {
            let held = Some(self.hold(ack.clone(), origin));
            let input = Input::Acknowledged { ack: ack.clone() };
            self.queue(id, Queued { held, ..Queued::of(input) }, now, effects);
        }
        true
    }

    /// A CANCEL of an INVITE that has no answer; handed back if the INVITE is no session's.
    pub(in super::super) fn session_cancel(
        &mut self,
        server: ServerId,
        cancel: HeldCancel,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Option<HeldCancel> {
        let cancel = self.sessions.keys.cancelled(server, cancel)?;
        let request = &cancel.held.message;
        let initial = || self.identifier.of_request(request).map(|id| SessionId(id.0));
        let keyed = self.sessions.keys.session_of(server);
        let id = self.sessions.named_by(request).or(keyed).or_else(initial);
        let Some(id) = id.filter(|id| self.sessions.has(*id)) else { return Some(cancel) };
        self.queue_cancel(id, cancel, now, effects)
    }

    /// Gives a CANCEL to a session; handed back if it cancels nothing.
    pub(super) fn queue_cancel(
        &mut self,
        id: SessionId,
        cancel: HeldCancel,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Option<HeldCancel> {
        let Some(key) = ServerKey::cancelled_by(&cancel.held.message) else { return Some(cancel) };
        let input = Input::Cancelled { key: Bytes::copy_from_slice(key.as_bytes()) };
        let cancel = Some(cancel);
        self.queue(id, Queued { cancel, ..Queued::of(input) }, now, effects);
        None
    }

    /// A response under a branch of a session; true if it is one.
    pub(in super::super) fn session_response(
        &mut self,
        response: &Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        if let Some(token) = self.sessions.identity.session_of_forwarded(response) {
            let id = SessionId(token.session);
            if self.sessions.has(id) {
                // Its client transaction has it, as of any proxied request; without one it comes too late.
                return self.transactions.client_of(response).is_none();
            }
            let held = self.hold(response.detached(), origin);
            self.inquire_session(id, held, effects);
            return true;
        }
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
        if !is_cancel {
            let response = response.detached();
            let held = Some(self.hold(response.clone(), origin));
            let input = Input::Response { response };
            self.queue(id, Queued { held, ..Queued::of(input) }, now, effects);
        }
        true
    }

    /// A client transaction of a session ended without a final response.
    pub(in super::super) fn session_failed(
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
}

pub(super) fn new_request(request: &Message, origin: Origin) -> Option<NewRequest> {
    let key = ServerKey::of(request)?;
    let key = Bytes::copy_from_slice(key.as_bytes());
    Some(NewRequest { request: request.clone(), key, flow: origin.flow })
}
