//! An HTTP request handled by a guest that exports `wasi:http/incoming-handler`.
//!
//! With a session, requests and responses are whole, with bodies of bounded length: a response may leave only when the
//! effects of its handler are committed, so there is nothing to be gained by beginning to send it. Without one it is
//! [`streaming`]. Each request has an instance of its own. [`port`] is what a container asks.

mod meter;
mod port;
mod streaming;

use bytes::Bytes;
use container::session::{SessionEffect, SessionView};
use futures_util::future::{Either, select};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

pub(crate) use self::meter::Meter;
use crate::application::Guest;
use crate::bindings::exports::outlast::app::handler::Event;
use crate::failure::{Failure, FailureKind};
use crate::host::Host;
use crate::instance::{Loaded, Room};
use crate::limits::HTTP_BODY_BYTES_MAX;
use crate::overlay::Overlay;
use crate::patience::{Late, within};

/// What a guest makes of an HTTP request.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The response; it leaves when the effects are committed.
    pub response: http::Response<Bytes>,
    /// What it wants to happen to the session.
    pub effects: Vec<SessionEffect>,
}

type Answered = Result<http::Response<HyperOutgoingBody>, ErrorCode>;

impl Guest {
    /// Handles an HTTP request, in the session that it belongs to if it belongs to one. Its URI has an authority, or it has
    /// a Host header; its body is as long as the server admits.
    ///
    /// # Errors
    /// [`Failure`]: the handler failed (it is counted and logged); nothing that it wanted is to happen.
    pub async fn handle_http(
        &self,
        request: http::Request<Bytes>,
        session: Option<SessionView>,
    ) -> Result<HttpAnswer, Failure> {
        self.counters.event();
        let id = session.as_ref().map(|view| view.id);
        let overlay = session.map(|view| Overlay::new(view, self.identity.limits));
        let answer = self.run_http(request, overlay).await;
        answer.inspect_err(|failure| self.note(failure, id))
    }

    async fn run_http(
        &self,
        request: http::Request<Bytes>,
        overlay: Option<Overlay>,
    ) -> Result<HttpAnswer, Failure> {
        let _place = self.place(true).await?;
        let _time = self.loaded.engine.keep_time();
        let mut room = self.loaded.room(Host::new(std::sync::Arc::clone(&self.identity)));
        let has_begun = overlay.as_ref().is_some_and(|overlay| overlay.view().is_new);
        let begins = has_begun && self.hears_created && self.loaded.exports.handler.is_some();
        let given_up = self.unless_given_up(overlay.as_ref().map(|overlay| overlay.view().id));
        room.begin(overlay);
        let wall_time = self.identity.limits.wall_time;
        let (answer, answered) = oneshot::channel();
        let whole = whole(answered);
        let mut whole = std::pin::pin!(whole);
        let outcome = {
            let call = std::pin::pin!(self.call_http(&mut room, request, begins, answer));
            // The guest writes the body of its response while it runs: both must go on.
            let both = async {
                match select(call, &mut whole).await {
                    Either::Left((called, _)) => {
                        called.map(|()| Ended::Returned).map_err(Stopped::Trapped)
                    }
                    Either::Right((Ok(response), call)) => {
                        let called = call.await.map_err(Stopped::Trapped);
                        called.map(|()| Ended::Answered(response))
                    }
                    Either::Right((Err(failure), _)) => Err(Stopped::Failed(failure)),
                }
            };
            let late = |Late| Err(Stopped::Failed(Failure::late(wall_time)));
            within(wall_time, both).await.unwrap_or_else(late)
        };
        given_up.not();
        let outcome = outcome.map_err(|stopped| match stopped {
            Stopped::Trapped(error) => room.failure(&error),
            Stopped::Failed(failure) => failure,
        });
        let overlay = room.end();
        // What the guest left open ends with it: a body that it did not finish, an answer that it never gave.
        drop(room);
        let response = match outcome? {
            Ended::Answered(response) => response,
            Ended::Returned => whole.await?,
        };
        let effects = overlay.map(Overlay::into_effects).unwrap_or_default();
        Ok(HttpAnswer { response, effects })
    }

    async fn call_http(
        &self,
        room: &mut Room,
        request: http::Request<Bytes>,
        begins: bool,
        answer: oneshot::Sender<Answered>,
    ) -> wasmtime::Result<()> {
        if begins {
            self.loaded.furnish(room).await?;
            room.handle(&self.loaded.exports, Event::Created).await?;
        }
        // Nothing can go wrong with a body that is here.
        let body = |body| Full::new(body).map_err(|never| -> Error { match never {} });
        let request = request.map(|octets| body(octets).boxed_unsync());
        call(&self.loaded, room, request, answer).await
    }
}

/// Calls the guest's handler.
async fn call(
    loaded: &Loaded,
    room: &mut Room,
    request: http::Request<UnsyncBoxBody<Bytes, Error>>,
    answer: oneshot::Sender<Answered>,
) -> wasmtime::Result<()> {
    loaded.furnish(room).await?;
    let handler = room.http_handler(&loaded.exports)?;
    let mut http = room.store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let answer = http.new_response_outparam(answer)?;
    handler.call_handle(&mut room.store, request, answer).await
}

/// How a call came to its end.
enum Ended {
    /// Its response came whole before it returned.
    Answered(http::Response<Bytes>),
    /// It returned; its response is on its way, or never comes.
    Returned,
}

/// How it did not.
enum Stopped {
    /// It trapped, or its time is over.
    Trapped(wasmtime::Error),
    /// It is late, or its response is none.
    Failed(Failure),
}

/// The response with its whole body.
async fn whole(answered: oneshot::Receiver<Answered>) -> Result<http::Response<Bytes>, Failure> {
    let broken = |why: String| Failure::new(FailureKind::Trap, why);
    let response = match answered.await {
        Ok(Ok(response)) => response,
        Ok(Err(code)) => return Err(Failure::answered_with_error(&code)),
        Err(_) => return Err(Failure::never_answered()),
    };
    let (head, body) = response.into_parts();
    let body = Limited::new(body, HTTP_BODY_BYTES_MAX).collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            let why = format!("its response has more than {HTTP_BODY_BYTES_MAX} octets");
            return Failure::new(FailureKind::Memory, why);
        }
        broken(format!("it did not finish the body of its response: {error}"))
    })?;
    Ok(http::Response::from_parts(head, body.to_bytes()))
}
