//! An HTTP request without a session: its body comes and its response goes piece by piece, while the guest runs.
//!
//! The guest is a task of its own, so that it goes on after its response has begun. It has the processor time of one event
//! in all, [`HTTP_HEAD_TIME_MAX`] until its response begins, and [`HTTP_STREAM_TIME_MAX`] until it ends; when the client has
//! gone, or has all of it, a moment more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use container::http_port::{BodyError, HttpBody};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::meter::{Meter, Metered};
use super::{Answered, call};
use crate::application::Guest;
use crate::failure::{Failure, FailureKind};
use crate::host::Host;
use crate::limits::{HTTP_HEAD_TIME_MAX, HTTP_STREAM_TIME_MAX};

impl Guest {
    /// Answers a request as it comes. `held` is dropped when the guest has ended, also if its client has gone before.
    ///
    /// # Errors
    /// [`Failure`]: there is no response; it is counted and logged.
    pub async fn stream_http(
        self: Arc<Self>,
        request: http::Request<HttpBody>,
        held: impl Send + 'static,
    ) -> Result<http::Response<HttpBody>, Failure> {
        self.counters.event();
        let (answer, answered) = oneshot::channel();
        let (client, gone) = oneshot::channel();
        let (fails, failed) = oneshot::channel();
        let run = Arc::clone(&self).run_streaming(request, answer, gone, fails);
        let run = tokio::spawn(async move {
            let _held = held;
            run.await
        });
        let failure = match timeout(HTTP_HEAD_TIME_MAX, answered).await {
            Ok(Ok(Ok(response))) => {
                let streamed = |body| Streamed { body, failed, _client: client };
                return Ok(response.map(|body| streamed(body).boxed_unsync()));
            }
            Ok(Ok(Err(code))) => Failure::answered_with_error(&code),
            // It has ended: how, it says.
            Ok(Err(_)) => match run.await {
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(())) | Err(_) => Failure::never_answered(),
            },
            Err(_) => Failure::late(HTTP_HEAD_TIME_MAX),
        };
        self.note(&failure, None);
        Err(failure)
    }

    /// Runs it to its end; a failure is noted.
    async fn run_streaming(
        self: Arc<Self>,
        request: http::Request<HttpBody>,
        answer: oneshot::Sender<Answered>,
        gone: oneshot::Receiver<()>,
        fails: oneshot::Sender<()>,
    ) -> Result<(), Failure> {
        let Ok(_place) = self.streams.try_acquire() else {
            let busy = Failure::busy();
            self.note(&busy, None);
            return Err(busy);
        };
        let _time = self.loaded.engine.keep_time();
        let mut room = self.loaded.room(Host::new(Arc::clone(&self.identity)));
        room.begin(None);
        let meter = Arc::new(Meter::default());
        room.store.data_mut().meter = Some(Arc::clone(&meter));
        let request = request.map(incoming);
        let future = Box::pin(call(&self.loaded, &mut room, request, answer));
        let run = timeout(HTTP_STREAM_TIME_MAX, Metered { future, meter });
        let after = async {
            let _closed = gone.await;
            sleep(self.identity.limits.wall_time).await;
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = after => return Ok(()), // nobody waits for it
        };
        let outcome = match outcome {
            Ok(called) => called.map_err(|error| room.failure(&error)),
            Err(_) => Err(Failure::late(HTTP_STREAM_TIME_MAX)),
        };
        room.end();
        if outcome.is_err() {
            // Before the room goes, and its body seems to have come to its end with it.
            let _nobody_reads = fails.send(());
        }
        outcome.inspect_err(|failure| self.note(failure, None))
    }
}

/// A request's body as the guest reads it.
fn incoming(body: HttpBody) -> UnsyncBoxBody<Bytes, Error> {
    body.map_err(|_broken_off| Error::ConnectionTerminated).boxed_unsync()
}

/// A response's body; the guest learns when it is not wanted any more. It breaks off if the guest fails before its end.
struct Streamed {
    body: HyperOutgoingBody,
    failed: oneshot::Receiver<()>,
    _client: oneshot::Sender<()>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) && self.failed.try_recv().is_ok() {
            return Poll::Ready(Some(Err("the handler failed".into())));
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| error.to_string().into())))
    }

    fn is_end_stream(&self) -> bool {
        false // only its end says whether it was one
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Failure {
    pub(super) fn answered_with_error(code: &impl std::fmt::Debug) -> Failure {
        Failure::new(FailureKind::Trap, format!("it answered with an error: {code:?}"))
    }

    pub(super) fn never_answered() -> Failure {
        Failure::new(FailureKind::Trap, "it never set its response-outparam")
    }
}
