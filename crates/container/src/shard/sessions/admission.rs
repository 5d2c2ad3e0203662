//! Who may begin a session, and whose word the From of a request is.
//!
//! ```text
//! initial request ─▶ accepted ─▶ of a caller who is known, or for everybody ────────────────▶ key, session
//!                           └─▶ Admit ─▶ Commit ───────────────────────────────────────────▶ key, session
//!                                  └───▶ challenged or refused: no handler has seen it
//! ```
//!
//! The gatekeeper is the application that is asked last (the registrar): what it decides, and what it keeps of that, is its
//! business. It is asked before an application is asked for a key, wherever a request arrives: a repetition of one that was
//! admitted is admitted again, by the same record, in this container or in another one.
//!
//! A request that a session of ours sent says so under a MAC ([`Identity::sender`](crate::session::identity::Identity::sender)),
//! and nobody is asked again: neither before the next application nor by the registrar. A session answers for the From that it
//! writes itself; what it lets go on is known as well as it was when it came. Requests within a dialog, CANCEL and ACK
//! are not asked for: they find their session by its token, or by the INVITE.

use std::sync::Arc;
use std::time::Instant;

use sip::{Message, Method};
use transport::Flow;

use super::super::jobs::HeldCancel;
use super::super::{Held, Shard, ShardEffect};
use super::arrivals::new_request;
use super::keys::SessionName;
use super::{Queued, Sessions};
use crate::application::Caller;
use crate::session::receive::Input;
use crate::session::{Callers, SessionApplication, SessionId};
use crate::transactions::ServerId;

impl Sessions {
    /// The gatekeeper is asked from now on.
    pub(in super::super) fn guard(&mut self) {
        self.are_guarded = true;
    }
}

impl Shard {
    /// Whether the gatekeeper is asked about an initial request before this application gets it.
    pub(super) fn is_to_be_admitted(
        &self,
        application: &dyn SessionApplication,
        request: &Message,
        flow: &Flow,
    ) -> bool {
        self.sessions.are_guarded
            && application.callers() == Callers::Admitted
            && self.caller_of(request, flow) == Caller::Claimed
    }

    /// What is known of whom From names, of a request that came by this flow: sessions of ours say it.
    ///
    /// Never of one in a dialog: their MAC does not say for whom such a request is.
    pub(in super::super) fn caller_of(&self, request: &Message, flow: &Flow) -> Caller {
        let is_initial = request.to().is_ok_and(|to| to.tag().is_none())
            && request.method() != Some(Method::Register);
        if !is_initial || !self.sessions.are_hosted() || !self.edges.is_from_edge(flow) {
            return Caller::Claimed;
        }
        let applications = &self.sessions.applications;
        // Former ones have sessions, too.
        let names = applications.current.iter().chain(&applications.former).map(|one| one.name());
        let sender = self.sessions.identity.sender(request, names);
        sender.map_or(Caller::Claimed, |sender| sender.caller)
    }

    /// The same of a request that a session of this application lets go on.
    pub(super) fn caller_of_forwarded(
        &self,
        application: &str,
        request: &Message,
        flow: &Flow,
    ) -> Caller {
        // Nobody was asked about a request in a dialog.
        if request.to().is_ok_and(|to| to.tag().is_some()) {
            return Caller::Claimed;
        }
        match self.sessions.applications.find(application).map(|known| known.callers()) {
            Some(Callers::Admitted) => Caller::Known,
            Some(Callers::Anybody) | None => self.caller_of(request, flow),
        }
    }

    /// The gatekeeper lets an application have an initial request.
    pub(in super::super) fn admitted(
        &mut self,
        server: ServerId,
        application: Arc<dyn SessionApplication>,
        held: Held,
        cancels: Vec<HeldCancel>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let id = self.identifier.of_request(&held.message);
        let id = id.map(|id| SessionId(id.0)).expect("without a name it is offered to nobody");
        self.enter(id, application, server, held, now, effects);
        for cancel in cancels {
            // It waits with its INVITE for a key, or the session gets it; or the INVITE was refused.
            if let Some(cancel) = self.session_cancel(server, cancel, now, effects) {
                self.cancelled(server, cancel, now, effects);
            }
        }
        self.settle(now, effects);
    }

    /// Gives an initial request to its application: in the session that it has begun already, or its key leads to, or
    /// in one of its own.
    pub(super) fn enter(
        &mut self,
        id: SessionId,
        application: Arc<dyn SessionApplication>,
        server: ServerId,
        held: Held,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        if self.sessions.has(id) {
            let Some(new) = new_request(&held.message, held.origin) else { return };
            let queued = Queued { held: Some(held), ..Queued::of(Input::Request(new)) };
            self.queue(id, queued, now, effects);
        } else if application.is_keyed() {
            self.find_key(application, server, held, effects);
        } else {
            let name = SessionName { id, key: None };
            self.begin_session(name, &application, server, held, now, effects);
        }
    }
}
