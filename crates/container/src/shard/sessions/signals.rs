//! Signals between sessions: the messages that carry them are looked at here as if an edge had brought them, and go to
//! where their session is like any other.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use sip::Message;
use tracing::{debug, warn};
use transport::{Flow, Transport};

use super::super::proxying::NO_LINK;
use super::super::{Held, Shard, ShardEffect, taken};
use super::Queued;
use crate::application::Response;
use crate::session::name_of;
use crate::session::receive::Input;
use crate::transactions::Origin;

/// The flow of what came from no phone.
fn nowhere() -> Flow {
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Flow::new(Transport::Udp, unspecified, unspecified)
}

impl Shard {
    /// Brings a signal, or its answer, to the session that it is for.
    pub(super) fn deliver(&mut self, bytes: Bytes, now: Instant, effects: &mut Vec<ShardEffect>) {
        let Ok(message) = Message::parse(bytes) else { return };
        let origin = Origin { link: NO_LINK, flow: nowhere() };
        // Another message may be in hand.
        let in_hand = std::mem::take(&mut self.in_hand);
        let held = Held { message, origin, hops: 0, offered: None, rounds: 0 };
        self.dispatch(held, now, effects);
        self.in_hand = in_hand;
    }

    /// A request says that it is a signal.
    pub(in super::super) fn signalled(
        &mut self,
        request: Message,
        origin: Origin,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(signal) = self.sessions.identity.read_signal(&request) else {
            warn!(from = %origin.flow.remote, "a stranger has sent a signal; refused it");
            return self.refuse(&request, origin, 403, "Forbidden", effects);
        };
        let held = self.hold(request, origin);
        let id = signal.target;
        let Some(live) = self.sessions.wake(id) else {
            return self.inquire_session(id, held, effects);
        };
        if name_of(live.session.application()) != signal.application {
            self.advance(id, now, effects);
            return self.is_heard_by_nobody(held, now, effects);
        }
        let response = self.responder.render(&held.message, &Response::new(200));
        let input = Input::Signal { signal, response };
        self.queue(id, Queued { held: Some(held), ..Queued::of(input) }, now, effects);
    }

    /// The session that a signal is for is over, or was never there.
    pub(super) fn is_heard_by_nobody(
        &mut self,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        debug!("a signal is for no session");
        taken(held.offered, effects);
        let response = self.responder.render(&held.message, &Response::new(481));
        self.deliver(response, now, effects);
    }
}
