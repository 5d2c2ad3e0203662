//! HTTP requests for sessions: who waits for what becomes of them.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tracing::debug;

use super::{Command, ServerHandle};
use crate::session::HttpRequest;
use crate::shard::{AskId, HttpAsk, HttpOutcome, SessionChoice};

/// HTTP requests that wait for their sessions; more are refused 503.
const ASKS_MAX: usize = 4_096;

/// An HTTP request for a session, and who waits for its outcome.
pub(super) struct HttpCall {
    application: String,
    session: SessionChoice,
    request: HttpRequest,
    reply: oneshot::Sender<HttpOutcome>,
}

impl HttpCall {
    /// Nothing is done with it.
    pub(super) fn refuse(self) {
        let _nobody_waits = self.reply.send(HttpOutcome::Refused(503));
    }
}

impl ServerHandle {
    /// Gives an HTTP request to a session of the application of this name (without version), and waits until it is answered
    /// and that is committed.
    pub async fn http(
        &self,
        application: &str,
        session: SessionChoice,
        request: HttpRequest,
    ) -> HttpOutcome {
        let (reply, outcome) = oneshot::channel();
        let application = application.to_owned();
        let call = HttpCall { application, session, request, reply };
        if self.commands.send(Command::Http(call)).await.is_err() {
            return HttpOutcome::Refused(503); // the container has ended: another one can be asked
        }
        // It ends with this under way: whether it was done, nobody says any more.
        outcome.await.unwrap_or(HttpOutcome::Refused(502))
    }
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Asks {
    waiting: BTreeMap<AskId, oneshot::Sender<HttpOutcome>>,
    last: u64,
}

impl Asks {
    /// The request as the shard takes it, unless it is refused.
    pub(super) fn begin(&mut self, call: HttpCall) -> Option<HttpAsk> {
        let HttpCall { application, session, request, reply } = call;
        if self.waiting.len() >= ASKS_MAX {
            self.waiting.retain(|_, waiting| !waiting.is_closed());
        }
        if self.waiting.len() >= ASKS_MAX {
            debug!(max = ASKS_MAX, "too many HTTP requests wait for sessions; refused one");
            let _nobody_waits = reply.send(HttpOutcome::Refused(503));
            return None;
        }
        self.last += 1;
        let id = AskId(self.last);
        self.waiting.insert(id, reply);
        Some(HttpAsk { id, application, session, request })
    }

    /// What was done is done, also if whoever asked waits no more.
    pub(super) fn end(&mut self, ask: AskId, outcome: HttpOutcome) {
        let _nobody_waits = self.waiting.remove(&ask).map(|reply| reply.send(outcome));
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
