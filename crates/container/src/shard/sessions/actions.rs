//! Lets the messages of a session leave, once what they follow from is committed.
//!
//! A request goes where its Route or Request-URI says. One for a domain of our own has no better way than the node's
//! front door, like any phone's: there the registrar finds the callee.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip::{HeaderName, Host, Message, Method, Uri};
use tracing::debug;
use transport::link::{LinkFrame, SendError};

use super::super::proxying::{NO_LINK, Sending};
use super::super::reach::LINK_PATIENCE;
use super::super::ways::{Found, Way};
use super::super::{LookupId, Shard, ShardEffect};
use super::Queued;
use crate::next_hop::{Hop, HopHost};
use crate::proxy::{NextHop, TransportFailure};
use crate::session::receive::Input;
use crate::session::state::Action;
use crate::session::{SessionId, signal};
use crate::transactions::ClientId;

/// A client transaction of a session.
pub(super) struct Sent {
    pub(super) session: SessionId,
    pub(super) branch: Bytes,
    method: Bytes,
    request: Bytes,
    /// How it is begun anew when the stream that its size asks for is refused.
    datagram: Option<Way>,
}

/// A request whose next hop's name is being resolved.
pub(super) struct Lookup {
    start: Start,
    hop: Hop,
}

/// A request about to leave.
#[derive(Debug, Clone)]
pub(in super::super) struct Start {
    session: SessionId,
    branch: Bytes,
    method: Bytes,
    request: Bytes,
}

impl Shard {
    /// Does what follows from a committed step, in order.
    pub(super) fn act_for_session(
        &mut self,
        id: SessionId,
        actions: Vec<Action>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        for action in actions {
            match action {
                Action::Answer { key, status, response } => {
                    if let Some(server) = self.transactions.server_by_key(&key) {
                        self.transactions.respond(server, status, response, now, &mut self.pending);
                    }
                }
                Action::Reply { response } => self.deliver(response, now, effects),
                Action::Start { method, request, .. } if method == signal::METHOD.as_bytes() => {
                    self.deliver(request, now, effects);
                }
                // To whom, the step knows.
                Action::HttpRespond(_) => {}
                Action::Start { branch, method, request } => {
                    let start = Start { session: id, branch, method, request };
                    self.start_for_session(start, now, effects);
                }
                Action::Acknowledge { ack } => self.acknowledge_for_session(ack, effects),
                Action::Cancel { branch } => self.cancel_for_session(&branch, now),
                Action::Abandon { branch } => {
                    if let Some(client) = self.transactions.client_by_branch(&branch, b"INVITE") {
                        self.transactions.abandon(client, &mut self.pending);
                    }
                }
                Action::Route { key } => self.seek_way(id, &key, now, effects),
                Action::Forward { key } | Action::Resume { key } => {
                    self.let_go_on(id, &key, now, effects);
                }
                Action::CancelForwarded { key } => {
                    if let Some(server) = self.transactions.server_by_key(&key) {
                        self.cancel_context(server, now, effects);
                    }
                }
                Action::ForwardAck { ack } => self.let_ack_go_on(&ack, effects),
                Action::Accept { response } => {
                    self.transactions.response(*response, now, &mut self.pending);
                }
            }
            self.settle(now, effects);
        }
    }

    fn start_for_session(&mut self, start: Start, now: Instant, effects: &mut Vec<ShardEffect>) {
        let decides = decides(&start.request);
        match self.way_for_session(&start.request, decides) {
            Ok(Found::Way(way) | Found::Awaited(way)) => {
                self.start_session_by(start, way, None, now, effects);
            }
            Ok(Found::StreamElseDatagram(stream, datagram)) => {
                self.start_session_by(start, stream, Some(datagram), now, effects);
            }
            Ok(Found::Name(hop, host)) => {
                let lookup = LookupId(self.take_id());
                effects.push(ShardEffect::Resolve { lookup, host, port: hop.port });
                self.sessions.lookups.insert(lookup, Lookup { start, hop });
            }
            Ok(Found::Unlinked) => {
                self.reach.await_link_for_session(now + LINK_PATIENCE, start);
            }
            Err(_) => self.cannot_start(start, now, effects),
        }
    }

    /// Links have come or gone, or patience is over, for a request that waits for one until `until`.
    pub(in super::super) fn start_awaiting_for_session(
        &mut self,
        until: Instant,
        start: Start,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if !self.sessions.has(start.session) {
            return;
        }
        match self.way_for_session(&start.request, decides(&start.request)) {
            Ok(Found::Unlinked) if now < until => {
                self.reach.await_link_for_session(until, start);
            }
            Ok(Found::Unlinked) => self.cannot_start(start, now, effects),
            Ok(_) | Err(_) => self.start_for_session(start, now, effects),
        }
    }

    fn start_session_by(
        &mut self,
        start: Start,
        way: Way,
        datagram: Option<Way>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let method = Method::parse(&start.method).expect("a session sends requests with a method");
        let (branch, request) = (&start.branch, start.request.clone());
        let client = self.transactions.start(
            method,
            branch,
            request,
            way.reliability,
            now,
            &mut self.pending,
        );
        let Some(client) = client else {
            if self.transactions.client_by_branch(branch, &start.method).is_none() {
                self.cannot_start(start, now, effects);
            }
            return;
        };
        let decides = decides(&start.request);
        let (user, cancels, datagram_start) = (None, None, None);
        let sending = Sending { user, cancels, decides, way, datagram: datagram_start };
        self.clients.insert(client, Box::new(sending));
        let Start { session, branch, method, request } = start;
        self.sessions.clients.insert(client, Sent { session, branch, method, request, datagram });
    }

    fn cannot_start(&mut self, start: Start, now: Instant, effects: &mut Vec<ShardEffect>) {
        let status = super::status_of(TransportFailure::Unreachable);
        let input = Input::Failed { branch: start.branch, status };
        self.queue(start.session, Queued::of(input), now, effects);
    }

    /// A name look-up of a session has ended; false if it is nobody's here.
    pub(in super::super) fn session_resolved(
        &mut self,
        lookup: LookupId,
        addresses: &[SocketAddr],
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Some(Lookup { start, hop }) = self.sessions.lookups.remove(&lookup) else {
            return false;
        };
        if !self.sessions.has(start.session) {
            return true;
        }
        let found = addresses.iter().find_map(|address| {
            let host = HopHost::Address(address.ip());
            let hop = Hop { host, port: address.port(), ..hop };
            self.way_at_once(&hop, start.request.len(), NO_LINK)
        });
        match found {
            Some(Found::Way(way) | Found::Awaited(way)) => {
                self.start_session_by(start, way, None, now, effects);
            }
            Some(Found::StreamElseDatagram(stream, datagram)) => {
                self.start_session_by(start, stream, Some(datagram), now, effects);
            }
            Some(Found::Name(..) | Found::Unlinked) | None => {
                self.cannot_start(start, now, effects)
            }
        }
        self.settle(now, effects);
        true
    }

    /// A request that went over a stream only for its size goes as a datagram when the stream is refused
    /// (RFC 3261 §18.1.1). False when that is not so.
    pub(in super::super) fn retry_session_as_datagram(
        &mut self,
        client: ClientId,
        error: SendError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        match error {
            SendError::Unreachable | SendError::Refused => {}
            SendError::FlowGone | SendError::Full => return false,
        }
        let Some(sent) = self.sessions.clients.get_mut(&client) else { return false };
        let Some(way) = sent.datagram.take() else { return false };
        let Some(Sent { session, branch, method, request, .. }) =
            self.sessions.clients.remove(&client)
        else {
            return false;
        };
        self.transactions.abandon(client, &mut self.pending);
        self.start_session_by(Start { session, branch, method, request }, way, None, now, effects);
        true
    }

    fn acknowledge_for_session(&mut self, ack: Bytes, effects: &mut Vec<ShardEffect>) {
        match self.way_for_session(&ack, decides(&ack)) {
            Ok(Found::Way(way) | Found::StreamElseDatagram(_, way)) => {
                let destination = way.destination;
                let frame = LinkFrame::Outgoing { id: 0, destination, bytes: ack };
                effects.push(ShardEffect::Send { link: way.link, frame });
            }
            // The callee repeats its 2xx, and gets its ACK then.
            Ok(Found::Name(..) | Found::Awaited(_) | Found::Unlinked) | Err(_) => {
                debug!("an ACK of a session cannot leave now");
            }
        }
    }

    fn cancel_for_session(&mut self, branch: &Bytes, now: Instant) {
        let Some(client) = self.transactions.client_by_branch(branch, b"INVITE") else { return };
        let Some(sending) = self.clients.get(&client) else { return };
        let cancelling = Sending { user: None, datagram: None, ..Sending::clone(sending) };
        let reliability = cancelling.way.reliability;
        let cancel = self.transactions.cancel(client, reliability, now, &mut self.pending);
        if let Some(cancel) = cancel {
            self.clients.insert(cancel, Box::new(cancelling));
        }
    }

    fn way_for_session(
        &self,
        request: &Bytes,
        decides: NextHop,
    ) -> Result<Found, TransportFailure> {
        if self.is_by_front_door(request, decides) {
            return self.front_door();
        }
        self.find_way(request, decides, NO_LINK)
    }

    pub(in super::super) fn is_by_front_door(&self, request: &Bytes, decides: NextHop) -> bool {
        decides == NextHop::RequestUri && self.is_for_own_domain(request)
    }

    fn is_for_own_domain(&self, request: &Bytes) -> bool {
        let Ok(request) = Message::parse(request.clone()) else { return false };
        let uri = request.request_uri().map(Uri::parse);
        let Some(Ok(Uri::Sip(uri))) = uri else { return false };
        let Host::Name(host) = uri.host else { return false };
        let is_it = |domain: &String| domain.as_bytes().eq_ignore_ascii_case(host);
        self.sessions.own_domains.iter().any(is_it)
    }
}

/// What decides on the next hop of a request of a session (RFC 3261 §8.1.2).
pub(super) fn decides(request: &Bytes) -> NextHop {
    let has_route = Message::parse(request.clone())
        .is_ok_and(|request| request.field(HeaderName::Route).is_some());
    if has_route { NextHop::Route } else { NextHop::RequestUri }
}
