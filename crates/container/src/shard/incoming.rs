//! Messages that edges bring: which of them are the transactions', a session's or another container's, which are
//! refused, and until when the edge keeps them.

use std::time::Instant;

use sip::{Framing, Message, Method};
use tracing::debug;
use transport::link::Incoming;

use super::noting::Gate;
use super::pending::{Held, InHand};
use super::set_ups::{Act, Step};
use super::{Shard, ShardEffect};
use crate::edges::LinkId;
use crate::own_route::without_own_route;
use crate::session::{SessionId, signal};
use crate::transactions::Origin;

impl Shard {
    pub(super) fn incoming(
        &mut self,
        link: LinkId,
        incoming: Incoming,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let offered = Some((link, incoming.sequence));
        let origin = Origin { link, flow: incoming.flow };
        match Message::parse(incoming.bytes) {
            Ok(message) => {
                let held = Held { message, origin, hops: incoming.hops, offered, rounds: 0 };
                self.dispatch(held, now, effects);
            }
            Err(error) => {
                debug!(%error, "dropped what an edge took for a message");
                taken(offered, effects);
            }
        }
    }

    /// Looks at a message, for the first time or again.
    pub(super) fn dispatch(&mut self, held: Held, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Held { message, origin, hops, offered, rounds } = held;
        self.in_hand = InHand { offered, hops, rounds };
        if message.is_request() {
            self.request(message, origin, now, effects);
        } else {
            self.response(message, origin, now, effects);
        }
        self.hand_empty(now, effects);
    }

    /// The message in hand was looked at. If nobody took it over it was absorbed, answered or dropped, and the edge
    /// need not keep it.
    pub(super) fn hand_empty(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        self.settle(now, effects);
        taken(self.in_hand.offered.take(), effects);
    }

    /// Takes the message in hand over.
    pub(super) fn hold(&mut self, message: Message, origin: Origin) -> Held {
        let InHand { offered, hops, rounds } = std::mem::take(&mut self.in_hand);
        Held { message, origin, hops, offered, rounds }
    }

    pub(super) fn request(
        &mut self,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        // The edge has checked it, but a plain SIP peer in an edge's place may not have.
        if let Err(rejection) = request.check_request(Framing::Datagram) {
            return self.refuse(&request, origin, rejection.status, rejection.reason, effects);
        }
        // What may be proxied is kept until somebody answers, minutes for an INVITE, and would keep the
        // link's whole read buffer with it; a REGISTER is answered at once.
        let request = match request.method() {
            Some(Method::Register) => request,
            _ => request.detached(),
        };
        let request = match without_own_route(&request) {
            // A session finds its requests by its entry, and takes it out itself.
            Ok(Some(_)) if self.sessions.routed_by(&request).is_some() => request,
            Ok(rewritten) => rewritten.unwrap_or(request),
            Err(fault) => return self.refuse(&request, origin, 400, fault, effects),
        };
        if request.method() == Some(signal::METHOD) {
            return self.signalled(request, origin, now, effects);
        }
        if let Some(id) = self.sessions.named_by(&request) {
            if !self.sessions.has(id) && !self.transactions.knows(&request) {
                let held = self.hold(request, origin);
                return self.inquire_session(id, held, effects);
            }
        // Of an INVITE that is not here: another container's, or a dead one's.
        } else if let Some(Method::Ack | Method::Cancel) = request.method()
            && !self.transactions.knows(&request)
            && let Some(id) = self.identifier.of_request(&request)
            && !self.sessions.has(SessionId(id.0))
        {
            let held = self.hold(request, origin);
            return self.inquire(id, held, effects);
        } else if self.inherited.len() > 0
            && let Some(Method::Invite) = request.method()
            && let Some(id) = self.identifier.of_request(&request)
            && self.inherited.has(id)
        {
            let held = self.hold(request, origin);
            return self.inquire(id, held, effects);
        }
        self.transactions.request(request, origin, now, &mut self.pending);
    }

    pub(super) fn response(
        &mut self,
        response: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if response.check_response().is_err() {
            return debug!("dropped a malformed response");
        }
        if self.session_response(&response, origin, now, effects) {
            return;
        }
        let Some(client) = self.transactions.client_of(&response) else {
            return self.response_to_nobody(response, origin, now, effects);
        };
        match self.gate(client, &response) {
            Gate::Open => {
                self.transactions.response(response, now, &mut self.pending);
            }
            Gate::Closed(server, event) => {
                let held = self.hold(response.detached(), origin);
                self.note_of(server, Step { event, act: Act::Response(held) }, now, effects);
            }
            Gate::Repeated => {}
        }
    }
}

/// The edge need not keep a message any longer.
pub(super) fn taken(offered: Option<(LinkId, u64)>, effects: &mut Vec<ShardEffect>) {
    if let Some((link, sequence)) = offered {
        effects.push(ShardEffect::Taken { link, sequence });
    }
}
