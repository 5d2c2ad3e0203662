//! Bodies of requests: watched while they come, and kept whole where a session needs them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use super::{BodyError, HttpBody, limits};

/// A request's body, which breaks off if the client pauses for too long.
pub(super) struct Watched {
    body: Incoming,
    /// While it is waited for.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    pub(super) fn new(body: Incoming) -> Watched {
        Watched { body, pause: None }
    }
}

/// The client does not go on.
#[derive(Debug, thiserror::Error)]
#[error("nothing came of the body for {:?}", limits::BODY_PAUSE_MAX)]
struct Stalled;

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.pause = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let pause = || Box::pin(sleep(limits::BODY_PAUSE_MAX));
        ready!(self.pause.get_or_insert_with(pause).as_mut().poll(cx));
        Poll::Ready(Some(Err(Stalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that keeps its place in a count until it has left, or nobody wants it any more.
pub(super) struct Held<P> {
    pub(super) body: HttpBody,
    pub(super) _place: P,
}

impl<P: Unpin> Body for Held<P> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The whole body.
///
/// # Errors
/// The status that says why there is none.
pub(super) async fn whole(body: Incoming, bytes_max: usize) -> Result<Bytes, StatusCode> {
    let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let unread_max = bytes_max.saturating_add(limits::UNWANTED_BYTES_MAX);
    if length > unread_max {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut body = Watched::new(body);
    let (mut whole, mut octets) = (BytesMut::new(), 0_usize);
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame?.into_data() else { continue }; // trailers
            octets = octets.saturating_add(piece.len());
            if octets <= bytes_max {
                whole.extend_from_slice(&piece);
            } else if octets > unread_max {
                break;
            }
        }
        Ok::<(), BodyError>(())
    };
    match timeout(limits::BODY_TIME_MAX, read).await {
        Ok(Ok(())) if octets <= bytes_max => Ok(whole.freeze()),
        Ok(Ok(())) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) | Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
