//! Gives a request to another container of the node, and its answer back.
//!
//! Who is asked says first that it is there ([`GREETING`]): a connection to one that stands still, or is about to be gone, is
//! made by the kernel alone. So nothing was sent to whom does not greet, and the request may be given to somebody else. Who has
//! greeted answers, be it that nothing was done.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use topology::view::ProcessEntry;
use topology::{Incarnation, TopologyView};
use tracing::debug;

use super::{HttpBody, answers, hops, limits};
use crate::session::HttpRequest;

/// The extension of the socket's name; the link's has another one.
const SOCKET: &str = "http";

/// What is said to whoever connects, before any HTTP.
pub(super) const GREETING: &[u8; 1] = b"\n";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotForwarded {
    /// Nothing was done: it may be tried again, there or elsewhere.
    #[error("it cannot be reached, or handles nothing more")]
    Unreachable,
    /// It may have been done or not.
    #[error("it broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// The same.
    #[error("it takes too long")]
    Late,
}

/// Where a container takes requests that others forward: beside its link.
pub(super) fn socket_of(container: &ProcessEntry) -> Option<PathBuf> {
    container.link.as_ref().map(|link| link.with_extension(SOCKET))
}

/// Where that life takes them, if the view knows it.
pub(super) fn socket_of_life(view: &TopologyView, life: Incarnation) -> Option<PathBuf> {
    let container = view.containers().find(|process| process.incarnation == life);
    container.filter(|process| process.state.may_serve()).and_then(socket_of)
}

/// Where any container other than `own` takes them that begins sessions.
pub(super) fn socket_of_ready(view: &TopologyView, own: Incarnation) -> Option<PathBuf> {
    let is_ready = |process: &&ProcessEntry| {
        process.state == topology::ProcessState::Ready && process.incarnation != own
    };
    view.containers().filter(is_ready).find_map(socket_of)
}

/// Forwards a request, which then was forwarded so many times, if the other one is there until then.
pub(super) async fn forward(
    socket: PathBuf,
    request: &HttpRequest,
    hops: u8,
    until: Instant,
) -> Result<Response<HttpBody>, NotForwarded> {
    let request = restored(request, hops).ok_or(NotForwarded::Unreachable)?;
    let greeted = async {
        let mut stream = UnixStream::connect(&socket).await?;
        stream.read_exact(&mut [0; GREETING.len()]).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let greeted = timeout_at(until, greeted).await.map_err(|_| NotForwarded::Unreachable)?;
    let stream = greeted.map_err(|_| NotForwarded::Unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to another container broke off");
        }
    });
    let answer = timeout(limits::FORWARD_TIME_MAX, sender.send_request(request)).await;
    let mut response = answer.map_err(|_| NotForwarded::Late)??;
    if hops::is_not_handled(response.headers()) {
        return Err(NotForwarded::Unreachable);
    }
    hops::leave_out_connection(response.headers_mut());
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

/// The request as it came; none if it was none.
fn restored(request: &HttpRequest, hops: u8) -> Option<Request<HttpBody>> {
    let HttpRequest { method, path_with_query, headers, body } = request;
    let mut restored = Request::new(answers::body(body.clone()));
    *restored.method_mut() = method.parse().ok()?;
    *restored.uri_mut() = path_with_query.parse().ok()?;
    for (name, value) in headers {
        let value = HeaderValue::from_maybe_shared(value.clone()).ok()?;
        restored.headers_mut().append(name.parse::<HeaderName>().ok()?, value);
    }
    hops::leave_out_connection(restored.headers_mut());
    hops::note(restored.headers_mut(), hops);
    Some(restored)
}
