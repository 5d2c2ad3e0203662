//! The client transactions of proxy contexts: begins, resumes, repeats and cancels them, and hears what could not be sent.

use std::time::Instant;

use bytes::Bytes;
use sip::transaction::{ClientInviteState, Reliability};
use sip::{Message, Method};
use tracing::debug;
use transport::link::{LinkFrame, SendError};

use super::noting::Notes;
use super::proxying::{Lookup, NO_LINK, Progress, Sending, Start};
use super::ways::{Found, Way};
use super::{LookupId, Shard, ShardEffect};
use crate::proxy::{BranchIndex, Resumption, TransportFailure};
use crate::transactions::{ClientId, ServerId};

impl Shard {
    /// The message sent under this id did not leave.
    pub fn send_failed(
        &mut self,
        id: u64,
        error: SendError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let client = ClientId::from_raw(id);
        if self.clients.contains_key(&client) {
            let is_retried = self.is_repeated_by_another_edge(client)
                || self.is_repeated_as_datagram(client, error)
                || self.retry_session_as_datagram(client, error, now, effects)
                || self.retry_as_datagram(client, error, now);
            if !is_retried {
                self.transactions.request_failed(client, error, now, &mut self.pending);
            }
        } else {
            self.response_not_sent(ServerId::from_raw(id), error, now);
        }
        self.settle(now, effects);
    }

    /// Whether a link was full, and the request is a datagram: as if that were lost on its way, its transaction sends it
    /// again soon. Whoever takes thousands of calls over fills links, and must not end the calls by that.
    fn is_repeated_as_datagram(&self, client: ClientId, error: SendError) -> bool {
        let sending = self.clients.get(&client);
        let is_datagram =
            sending.is_some_and(|sending| sending.way.reliability == Reliability::Unreliable);
        error == SendError::Full && is_datagram
    }

    /// Sends a request by the link of its transaction, or by another when that one is gone.
    pub(super) fn send_request(
        &mut self,
        client: ClientId,
        bytes: Bytes,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(sending) = self.clients.get(&client) else { return };
        let mut way = sending.way;
        if let Some(door) = self.next_front_door(sending) {
            way = door;
        } else if !self.edges.is_up(way.link) {
            way = match self.other_way(sending, &bytes) {
                Ok(way) => way,
                // The sockets of a killed edge wait for the revived one, and so do repeated datagrams;
                // Timer B or F ends the wait, or the news that nobody revives it.
                Err(error)
                    if error != SendError::FlowGone
                        && way.reliability == Reliability::Unreliable =>
                {
                    return debug!("no edge to send a request by; it is sent again later");
                }
                Err(error) => {
                    return self.transactions.request_failed(client, error, now, &mut self.pending);
                }
            };
        }
        if let Some(sending) = self.clients.get_mut(&client) {
            sending.way = way;
        }
        effects.push(ShardEffect::Send {
            link: way.link,
            frame: LinkFrame::Outgoing { id: client.to_raw(), destination: way.destination, bytes },
        });
    }

    /// A request that went over a stream only for its size goes as a datagram when the stream is refused
    /// (RFC 3261 §18.1.1). False when that is not so.
    pub(super) fn retry_as_datagram(
        &mut self,
        client: ClientId,
        error: SendError,
        now: Instant,
    ) -> bool {
        match error {
            SendError::Unreachable | SendError::Refused => {}
            SendError::FlowGone | SendError::Full => return false,
        }
        let Some(sending) = self.clients.get_mut(&client) else { return false };
        let (Some((way, start)), Some((server, branch))) = (sending.datagram.take(), sending.user)
        else {
            return false;
        };
        let context = self.contexts.get(&server);
        if !context.is_some_and(|context| context.proxy.is_wanted(branch)) {
            return false;
        }
        // Not a second attempt for the transaction's user: nobody has seen the first one.
        sending.user = None;
        self.transactions.abandon(client, &mut self.pending);
        self.start_by(server, start, way, None, now)
    }

    pub(super) fn start_branch(
        &mut self,
        server: ServerId,
        start: Start,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Result<(), TransportFailure> {
        let link = self.contexts.get(&server).map_or(NO_LINK, |context| context.link);
        let found = match self.goes_by_front_door(server, &start) {
            true => self.front_door()?,
            false => self.find_way(&start.request, start.decides, link)?,
        };
        // RFC 5626 §5.3: another flow of the phone, if it has one, is sooner than an edge is back.
        let context = self.contexts.get(&server);
        if matches!(found, Found::Awaited(_) | Found::Unlinked)
            && start.resumption.is_none()
            && context.is_some_and(|context| context.proxy.has_further_flow(start.branch))
        {
            return Err(TransportFailure::FlowGone);
        }
        if self.start(server, start, found, now, effects) {
            Ok(())
        } else {
            Err(TransportFailure::Unreachable)
        }
    }

    /// False when no client transaction could be begun.
    pub(super) fn start(
        &mut self,
        server: ServerId,
        start: Start,
        found: Found,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        match found {
            Found::Way(way) | Found::Awaited(way) => self.start_by(server, start, way, None, now),
            Found::StreamElseDatagram(stream, datagram) => {
                self.start_by(server, start, stream, Some(datagram), now)
            }
            Found::Unlinked => {
                self.await_link(server, start, now);
                true
            }
            Found::Name(hop, host) => {
                let lookup = LookupId(self.take_id());
                let port = hop.port;
                effects.push(ShardEffect::Resolve { lookup, host, port });
                if let Some(context) = self.contexts.get_mut(&server) {
                    context.is_at(start.branch, Progress::Resolving(lookup));
                }
                self.lookups.insert(lookup, Lookup { server, start, hop });
                true
            }
        }
    }

    fn start_by(
        &mut self,
        server: ServerId,
        start: Start,
        way: Way,
        datagram: Option<Way>,
        now: Instant,
    ) -> bool {
        if start.resumption.is_some() {
            return self.resume_by(server, start, way, now);
        }
        let Some(context) = self.contexts.get_mut(&server) else { return false };
        let Some(method) = Method::parse(&context.method) else { return false };
        let client = self.transactions.start(
            method,
            &start.branch_id,
            start.request.clone(),
            way.reliability,
            now,
            &mut self.pending,
        );
        let Some(client) = client else { return false };
        context.is_at(start.branch, Progress::Started(client));
        let sending = Sending {
            user: Some((server, start.branch)),
            cancels: None,
            decides: start.decides,
            way,
            datagram: datagram.map(|way| (way, start)),
        };
        self.clients.insert(client, Box::new(sending));
        true
    }

    /// Whether what a session lets go on is for this node itself: there the registrar finds the callee.
    fn goes_by_front_door(&self, server: ServerId, start: &Start) -> bool {
        let context = self.contexts.get(&server);
        context.is_some_and(|context| matches!(context.notes, Notes::Session(..)))
            && self.is_by_front_door(&start.request, start.decides)
    }

    /// Goes on with a client transaction that a dead container began, and does what is left to do for it.
    fn resume_by(&mut self, server: ServerId, start: Start, way: Way, now: Instant) -> bool {
        let Some(context) = self.contexts.get_mut(&server) else { return false };
        let Start { branch, request, branch_id, decides, resumption } = start;
        let state = match &resumption {
            Some(Resumption::Relay) => ClientInviteState::Accepted,
            Some(Resumption::Cancel | Resumption::Acknowledge(_)) | None => {
                ClientInviteState::Proceeding
            }
        };
        let client = self.transactions.resume(&branch_id, request, way.reliability, state, now);
        let Some(client) = client else { return false };
        context.is_at(branch, Progress::Started(client));
        let user = Some((server, branch));
        let (cancels, datagram) = (None, None);
        let sending = Sending { user, cancels, decides, way, datagram };
        self.clients.insert(client, Box::new(sending));
        match resumption {
            Some(Resumption::Cancel) => {
                let cancel = self.cancel_branch(server, branch, now);
                if let Some(sending) = cancel.and_then(|cancel| self.clients.get_mut(&cancel)) {
                    sending.cancels = user;
                }
            }
            Some(Resumption::Acknowledge(response)) => {
                if let Some(sending) = self.clients.get_mut(&client) {
                    sending.user = None;
                }
                if let Ok(response) = Message::parse(response) {
                    self.transactions.response(response, now, &mut self.pending);
                }
            }
            Some(Resumption::Relay) | None => {}
        }
        true
    }

    /// Sends a CANCEL for a branch; returns its transaction.
    pub(super) fn cancel_branch(
        &mut self,
        server: ServerId,
        branch: BranchIndex,
        now: Instant,
    ) -> Option<ClientId> {
        let Progress::Started(client) = self.progress(server, branch)? else { return None };
        let sending = self.clients.get(&client)?;
        let cancelling = Sending { user: None, datagram: None, ..Sending::clone(sending) };
        let reliability = cancelling.way.reliability;
        let cancel = self.transactions.cancel(client, reliability, now, &mut self.pending)?;
        self.clients.insert(cancel, Box::new(cancelling));
        Some(cancel)
    }

    pub(super) fn progress(&self, server: ServerId, branch: BranchIndex) -> Option<Progress> {
        let branches = &self.contexts.get(&server)?.branches;
        branches.iter().find(|(index, _)| *index == branch).map(|(_, progress)| *progress)
    }
}
