//! HTTP requests for sessions: who waits for what becomes of them.

use std::any::Any;
use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tracing::debug;

use super::{Command, ServerHandle};
use crate::session::HttpRequest;
use crate::shard::{AskId, HttpAsk, HttpOutcome, SessionChoice};

/// HTTP requests whose sessions are not done with them; more are refused 503.
const ASKS_MAX: usize = 4_096;

/// An HTTP request for a session, and who waits for its outcome.
pub(super) struct HttpCall {
    application: String,
    session: SessionChoice,
    request: HttpRequest,
    waiting: Waiting,
}

/// Who waits for the outcome, and what the request takes of the container until it has one, be it that nobody waits any more.
struct Waiting {
    reply: oneshot::Sender<HttpOutcome>,
    held: Box<dyn Any + Send>,
}

impl Waiting {
    fn end(self, outcome: HttpOutcome) {
        drop(self.held);
        let _nobody_waits = self.reply.send(outcome);
    }
}

impl HttpCall {
    /// Nothing is done with it.
    pub(super) fn refuse(self) {
        self.waiting.end(HttpOutcome::Refused(503));
    }
}

impl ServerHandle {
    /// Gives an HTTP request to a session of the application of this name (without version), and waits until it is answered
    /// and that is committed. `held` is dropped when nothing is done with the request any more, also if nobody waits for it.
    pub async fn http(
        &self,
        application: &str,
        session: SessionChoice,
        request: HttpRequest,
        held: impl Send + 'static,
    ) -> HttpOutcome {
        let (reply, outcome) = oneshot::channel();
        let application = application.to_owned();
        let waiting = Waiting { reply, held: Box::new(held) };
        let call = HttpCall { application, session, request, waiting };
        if self.commands.send(Command::Http(call)).await.is_err() {
            return HttpOutcome::Refused(503); // the container has ended: another one can be asked
        }
        // It ends with this under way: whether it was done, nobody says any more.
        outcome.await.unwrap_or(HttpOutcome::Refused(502))
    }
}

/// Those that have not ended, whether anybody waits for them or not.
#[derive(Default)]
pub(super) struct Asks {
    waiting: BTreeMap<AskId, Waiting>,
    last: u64,
}

impl Asks {
    /// The request as the shard takes it, unless it is refused.
    pub(super) fn begin(&mut self, call: HttpCall) -> Option<HttpAsk> {
        if self.waiting.len() >= ASKS_MAX {
            debug!(max = ASKS_MAX, "too many HTTP requests wait for sessions; refused one");
            call.refuse();
            return None;
        }
        let HttpCall { application, session, request, waiting } = call;
        self.last += 1;
        let id = AskId(self.last);
        self.waiting.insert(id, waiting);
        Some(HttpAsk { id, application, session, request })
    }

    /// What was done is done, also if whoever asked waits no more.
    pub(super) fn end(&mut self, ask: AskId, outcome: HttpOutcome) {
        if let Some(waiting) = self.waiting.remove(&ask) {
            waiting.end(outcome);
        }
    }

    /// Whether all have ended.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn call(held: &Arc<()>) -> (HttpCall, oneshot::Receiver<HttpOutcome>) {
        let (reply, outcome) = oneshot::channel();
        let request = HttpRequest {
            method: "GET".to_owned(),
            path_with_query: "/".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let waiting = Waiting { reply, held: Box::new(Arc::clone(held)) };
        let (application, session) = ("web".to_owned(), SessionChoice::New);
        (HttpCall { application, session, request, waiting }, outcome)
    }

    #[test]
    fn whoever_goes_leaves_no_room_before_the_work_is_done() {
        let (mut asks, held) = (Asks::default(), Arc::new(()));
        let ids: Vec<_> = (0..ASKS_MAX).map(|_| asks.begin(call(&held).0).unwrap().id).collect();
        let (more, mut outcome) = call(&held);
        assert!(asks.begin(more).is_none());
        assert_eq!(outcome.try_recv().unwrap(), HttpOutcome::Refused(503));
        assert_eq!(Arc::strong_count(&held), 1 + ASKS_MAX);
        asks.end(ids[0], HttpOutcome::NoSession);
        assert_eq!(Arc::strong_count(&held), ASKS_MAX);
        assert!(asks.begin(call(&held).0).is_some());
    }
}
