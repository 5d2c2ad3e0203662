//! Gives a request to another container, and its answer back: by a Unix socket on the node, by TLS to another node.
//!
//! Who is asked says first that it is there ([`GREETING`]): a connection to one that stands still, or is about to be gone, is
//! made by the kernel alone. So nothing was sent to whom does not greet, and the request may be given to somebody else. Who has
//! greeted answers, be it that nothing was done.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use topology::credentials::server_name;
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

/// Where a container takes requests that others forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// On this node: beside its link.
    Here(PathBuf),
    /// On another one.
    There {
        /// Where it listens.
        address: SocketAddr,
        /// Who it must be: the name of its node.
        node: String,
    },
}

impl Neighbour {
    fn of(container: &ProcessEntry) -> Option<Neighbour> {
        match (container.name.parts().1, container.link_address) {
            (None, _) => {
                let link = container.link.as_ref()?;
                Some(Neighbour::Here(link.with_extension(SOCKET)))
            }
            (Some(node), Some(address)) => {
                Some(Neighbour::There { address, node: node.to_owned() })
            }
            (Some(_), None) => None,
        }
    }

    /// That life, if the view knows it.
    pub(super) fn of_life(view: &TopologyView, life: Incarnation) -> Option<Neighbour> {
        let container = view.containers().find(|process| process.incarnation == life);
        container.filter(|process| process.state.may_serve()).and_then(Neighbour::of)
    }

    /// Any container other than `own` that begins sessions; one of this node if there is.
    pub(super) fn ready(view: &TopologyView, own: Incarnation) -> Option<Neighbour> {
        let is_ready = |process: &&ProcessEntry| {
            process.state == topology::ProcessState::Ready && process.incarnation != own
        };
        let mut ready = view.containers().filter(is_ready).filter_map(Neighbour::of);
        // Those of this node stand before the others in a view.
        ready.next()
    }

    async fn connect(&self, credentials: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Stream>> {
        let (address, node) = match self {
            Neighbour::Here(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Neighbour::There { address, node } => (address, node),
        };
        let credentials = credentials.ok_or(io::ErrorKind::NotConnected)?;
        let node = server_name(node).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(TlsConnector::from(credentials).connect(node, stream).await?))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Forwards a request, which then was forwarded so many times, if the other one is there until then. `credentials` are
/// what is shown to another node.
pub(super) async fn forward(
    to: &Neighbour,
    credentials: Option<Arc<ClientConfig>>,
    request: &HttpRequest,
    hops: u8,
    until: Instant,
) -> Result<Response<HttpBody>, NotForwarded> {
    let request = restored(request, hops).ok_or(NotForwarded::Unreachable)?;
    let greeted = async {
        let mut stream = to.connect(credentials).await?;
        stream.read_exact(&mut [0; GREETING.len()]).await?;
        Ok::<_, io::Error>(stream)
    };
    let greeted = timeout_at(until, greeted).await.map_err(|_| NotForwarded::Unreachable)?;
    let stream = greeted.map_err(|error| {
        debug!(?to, %error, "another container cannot be reached");
        NotForwarded::Unreachable
    })?;
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
