//! Responses on their way out, and again when an edge could not send them.
//!
//! What an edge cannot send may leave by another one, or by the same in a moment: its links are full, or it has only
//! just begun and does not know yet which edge holds the phone's flow. So a final response leaves again with growing
//! pauses for 64·T1, by another edge each time. Only a flow that is gone is the end of it: its phone sends the request
//! again (RFC 3261 §18.2.2, §17.2.4).
//!
//! Over a stream the transaction of a request other than INVITE is over as soon as its response has left (Timer J is
//! zero), so that one is kept here for a moment. Deliberately absent: provisional responses, which promise nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::transaction::Timers;
use sip::{HeaderName, Message, Method};
use tracing::debug;
use transport::link::{Destination, LinkFrame, SendError};

use super::{Shard, ShardEffect};
use crate::application::Response;
use crate::edges::LinkId;
use crate::transactions::{Origin, ServerId};

/// An edge says at once that it cannot send.
const KEPT: Duration = Duration::from_secs(2);
/// More responses to requests over streams are not kept at a time: of the oldest it is not heard that they failed.
const KEPT_MAX: usize = 1_024;
/// More responses are not sent again at a time: their phones send their requests again.
const UNSENT_MAX: usize = 1_024;
/// The first pause; each further one is twice as long, up to T2.
const PAUSE: Duration = Duration::from_millis(100);

/// The final responses that may have to leave again.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Of transactions that were over when they left, the oldest first.
    kept: VecDeque<Kept>,
    unsent: BTreeMap<ServerId, Unsent>,
}

#[derive(Debug)]
struct Kept {
    server: ServerId,
    until: Instant,
    origin: Origin,
    bytes: Bytes,
}

/// A response that did not leave at its last attempt, or of which that is not known yet.
#[derive(Debug)]
struct Unsent {
    /// None: its transaction knows it.
    kept: Option<(Origin, Bytes)>,
    /// By which link it went last.
    link: Option<LinkId>,
    until: Instant,
    pause: Duration,
    /// None: it has left, and nothing was heard since.
    next: Option<Instant>,
}

impl Responses {
    /// When a response leaves again.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.unsent.values().filter_map(|unsent| unsent.next).min()
    }

    fn keep(&mut self, server: ServerId, origin: Origin, bytes: Bytes, now: Instant) {
        while self.kept.len() >= KEPT_MAX || self.kept.front().is_some_and(|kept| kept.until <= now)
        {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { server, until: now + KEPT, origin, bytes });
    }

    /// The response of a transaction is to leave once more; false if it is not known, or was tried for long enough.
    fn put_off(
        &mut self,
        server: ServerId,
        link: Option<LinkId>,
        timers: Timers,
        now: Instant,
    ) -> bool {
        self.unsent.retain(|_, unsent| unsent.until > now);
        if let Some(unsent) = self.unsent.get_mut(&server) {
            let next = now + unsent.pause;
            unsent.next = Some(next).filter(|next| *next < unsent.until);
            unsent.pause = (unsent.pause * 2).min(timers.t2);
            return unsent.next.is_some();
        }
        if self.unsent.len() >= UNSENT_MAX {
            return false;
        }
        let kept = self.kept.iter().find(|kept| kept.server == server);
        let kept = kept.map(|kept| (kept.origin, kept.bytes.clone()));
        let (until, next) = (now + timers.t1 * 64, Some(now + PAUSE));
        self.unsent.insert(server, Unsent { kept, link, until, pause: PAUSE * 2, next });
        true
    }

    fn take_due(&mut self, now: Instant) -> Option<ServerId> {
        let is_due = |unsent: &Unsent| unsent.next.is_some_and(|next| next <= now);
        let (server, unsent) = self.unsent.iter_mut().find(|(_, unsent)| is_due(unsent))?;
        unsent.next = None;
        Some(*server)
    }
}

impl Shard {
    /// Answers without a transaction; an ACK is never answered.
    pub(super) fn refuse(
        &self,
        request: &Message,
        origin: Origin,
        status: u16,
        reason: &'static str,
        effects: &mut Vec<ShardEffect>,
    ) {
        if request.method() == Some(Method::Ack) || request.field(HeaderName::Via).is_none() {
            return;
        }
        let response = Response::new(status).reason(reason);
        self.send_response(None, origin, self.responder.render(request, &response), effects);
    }

    /// Sends the response of a transaction, which wants to know if that fails.
    pub(super) fn send_response_of(
        &mut self,
        server: Option<ServerId>,
        origin: Origin,
        bytes: Bytes,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if let Some(server) = server {
            if !self.transactions.has_server(server) {
                self.responses.keep(server, origin, bytes.clone(), now);
            }
            if self.edges.for_response(origin.link, origin.flow.local).is_none() {
                self.put_off_response(server, now);
            }
        }
        self.send_response(server, origin, bytes, effects);
    }

    pub(super) fn send_response(
        &self,
        server: Option<ServerId>,
        origin: Origin,
        bytes: Bytes,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(link) = self.edges.for_response(origin.link, origin.flow.local) else {
            // The transaction repeats it when an edge is back.
            return debug!("no edge to send a response by");
        };
        let id = server.map_or(0, ServerId::to_raw);
        let frame = LinkFrame::Outgoing { id, destination: Destination::Via, bytes };
        effects.push(ShardEffect::Send { link, frame });
    }

    /// A response did not leave.
    pub(super) fn response_not_sent(&mut self, server: ServerId, error: SendError, now: Instant) {
        match error {
            SendError::FlowGone => {
                self.transactions.response_failed(server, now, &mut self.pending);
            }
            SendError::Unreachable | SendError::Refused | SendError::Full => {
                self.put_off_response(server, now);
            }
        }
    }

    fn put_off_response(&mut self, server: ServerId, now: Instant) {
        let timers = self.settings.transactions.timers;
        let known = self.transactions.final_response(server).map(|(origin, _)| origin);
        let kept = || self.responses.kept.iter().find(|kept| kept.server == server);
        let Some(origin) = known.or_else(|| kept().map(|kept| kept.origin)) else {
            return debug!("a response that could not be sent is not sent again");
        };
        let link = self.edges.for_response(origin.link, origin.flow.local);
        if !self.responses.put_off(server, link, timers, now) {
            debug!("a response could not be sent; its phone has to ask again");
        }
    }

    pub(super) fn responses_timeout(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while let Some(server) = self.responses.take_due(now) {
            let Some(unsent) = self.responses.unsent.get_mut(&server) else { continue };
            let known = self.transactions.final_response(server);
            let Some((origin, bytes)) = known.or_else(|| unsent.kept.clone()) else {
                self.responses.unsent.remove(&server);
                continue;
            };
            match self.edges.next_for_response(unsent.link, origin.flow.local) {
                Some(link) => {
                    unsent.link = Some(link);
                    let id = server.to_raw();
                    let frame = LinkFrame::Outgoing { id, destination: Destination::Via, bytes };
                    effects.push(ShardEffect::Send { link, frame });
                }
                None => {
                    let timers = self.settings.transactions.timers;
                    self.responses.put_off(server, None, timers, now);
                }
            }
        }
    }
}
