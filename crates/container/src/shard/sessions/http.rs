//! HTTP requests for sessions: an event like any other, one at a time with the others, and answered behind its commit.
//!
//! ```text
//! ask ─▶ ours ─────────────────────────────▶ queue ─▶ handler ─▶ commit ─▶ answered
//!     └▶ not here: read ─▶ dead: taken over ───▲
//!                      ├▶ living: ask there
//!                      └▶ none: begins, or there is no such session
//! ```
//!
//! A session that began so, and remembers nothing, is not stored.

use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, error};

use super::super::{AskId, HttpAsk, HttpOutcome, SessionChoice, Shard, ShardEffect};
use super::inquiries::Asking;
use super::{Queued, Step};
use crate::session::receive::Input;
use crate::session::state::Action;
use crate::session::{HttpRequest, Session, SessionEvent, SessionId, name_of};

/// A request is looked at again so often, then it is told to come again.
const ROUNDS_MAX: u8 = 4;

/// An HTTP request on its way.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    id: AskId,
    /// Name without version.
    application: Box<str>,
    session: SessionId,
    /// What led there.
    key: Option<Bytes>,
    /// It begins the session if there is none.
    begins: bool,
    request: HttpRequest,
    rounds: u8,
}

impl Ask {
    pub(super) fn ends(self, outcome: HttpOutcome, effects: &mut Vec<ShardEffect>) {
        effects.push(ShardEffect::HttpAnswered { ask: self.id, outcome });
    }

    /// The session is ending. A new one of its key can begin when it is gone, and under another name nobody would find it.
    pub(super) fn ends_unheard(self, effects: &mut Vec<ShardEffect>) {
        let begins = self.begins;
        self.ends(if begins { HttpOutcome::Refused(503) } else { HttpOutcome::NoSession }, effects);
    }

    /// The step of this request stands; its answer is among what is to be done now. `session`: if it is to be found again.
    pub(super) fn ends_with_answer(
        self,
        session: Option<SessionId>,
        actions: &mut Vec<Action>,
        effects: &mut Vec<ShardEffect>,
    ) {
        let is_answer = |action: &Action| matches!(action, Action::HttpRespond(_));
        let answer = actions.iter().position(is_answer).map(|at| actions.remove(at));
        let outcome = match answer {
            Some(Action::HttpRespond(response)) => HttpOutcome::Answered { session, response },
            Some(_) | None => {
                error!(session = %self.session, application = %self.application, "an application left an HTTP request without answer; answering 500");
                HttpOutcome::Refused(500)
            }
        };
        self.ends(outcome, effects);
    }
}

impl Shard {
    /// An HTTP request has come for a session of an application; ends with
    /// [`ShardEffect::HttpAnswered`].
    pub fn http(&mut self, ask: HttpAsk, now: Instant, effects: &mut Vec<ShardEffect>) {
        let HttpAsk { id, application, session, request } = ask;
        let checked = request.check();
        let identity = &self.sessions.identity;
        let (session, key, begins, is_new) = match session {
            SessionChoice::New => (None, None, true, true),
            SessionChoice::Id(id) => (Some(id), None, false, false),
            SessionChoice::Key(key) => {
                (Some(identity.keyed(&application, &key)), Some(key), true, false)
            }
        };
        let session = session.unwrap_or_else(|| {
            let ordinal = self.take_id();
            self.sessions.identity.fresh(ordinal)
        });
        let application = name_of(&application).into();
        let ask = Ask { id, application, session, key, begins, request, rounds: 0 };
        match checked {
            Err(status) => ask.ends(HttpOutcome::Refused(status), effects),
            Ok(()) if is_new => self.begin_or_end_ask(ask, now, effects),
            Ok(()) => self.ask_again(ask, now, effects),
        }
        self.settle(now, effects);
    }

    /// Looks at a request, for the first time or again.
    pub(super) fn ask_again(&mut self, ask: Ask, now: Instant, effects: &mut Vec<ShardEffect>) {
        if ask.rounds >= ROUNDS_MAX {
            return ask.ends(HttpOutcome::Refused(503), effects);
        }
        let ask = Ask { rounds: ask.rounds + 1, ..ask };
        let id = ask.session;
        let Some(live) = self.sessions.wake(id) else {
            if let Err(Asking::Http(ask)) =
                self.inquire_for(id, Asking::Http(Box::new(ask)), effects)
            {
                debug!(session = %id, "too many wait for a record; refused an HTTP request");
                ask.ends(HttpOutcome::Refused(503), effects);
            }
            return;
        };
        if name_of(live.session.application()) != &*ask.application {
            self.advance(id, now, effects);
            return ask.ends(HttpOutcome::NoSession, effects);
        }
        let request = ask.request.clone();
        let input = if ask.begins { Input::HttpByKey(request) } else { Input::Http(request) };
        self.queue(id, Queued { ask: Some(ask), ..Queued::of(input) }, now, effects);
    }

    /// There is no session of that name.
    pub(super) fn begin_or_end_ask(
        &mut self,
        ask: Ask,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let id = ask.session;
        if self.sessions.has(id) {
            return self.ask_again(ask, now, effects);
        }
        if !ask.begins {
            return ask.ends(HttpOutcome::NoSession, effects);
        }
        let current = &self.sessions.applications.current;
        let application = current.iter().find(|known| name_of(known.name()) == &*ask.application);
        let Some(application) = application.filter(|_| !self.sessions.are_half_full()).cloned()
        else {
            debug!(application = %ask.application, "no session can begin; refused an HTTP request");
            return ask.ends(HttpOutcome::Refused(503), effects);
        };
        let context = self.sessions.context(self.clocks, now);
        let session = Session::open(id, application.name(), context).keyed(ask.key.clone());
        self.sessions.begin(&session, application.as_ref());
        let event = SessionEvent::Http(ask.request.clone());
        let step = Step::new(session, Some(event), Vec::new());
        let step = Step { ask: Some(ask), is_first: true, ..step };
        self.tell(id, step, &application, now, effects);
    }
}
