//! The trait of an application that answers HTTP requests.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::OwnedSemaphorePermit;

/// A body on its way in or out, piece by piece.
pub type HttpBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body breaks off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why an application has no answer. It has counted and logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// There is no room to run it now.
    Busy,
    /// It failed, or took too long.
    Failed,
}

/// The place of a request among those that stream: free when all of its clones are dropped.
#[derive(Clone)]
pub struct StreamPlace {
    _permits: Arc<[OwnedSemaphorePermit; 2]>,
}

impl StreamPlace {
    pub(super) fn new(of_all: OwnedSemaphorePermit, of_one: OwnedSemaphorePermit) -> StreamPlace {
        StreamPlace { _permits: Arc::new([of_all, of_one]) }
    }
}

/// An application with HTTP handlers. With sessions, it is a
/// [`SessionApplication`](crate::session::SessionApplication) as well, and gets
/// [`SessionEvent::Http`](crate::session::SessionEvent::Http).
pub trait HttpApplication: Send + Sync {
    /// `NAME@VERSION`, or `NAME`.
    fn name(&self) -> &str;

    /// Whether its requests are events of sessions; else they are [`serve`](Self::serve)d.
    fn has_sessions(&self) -> bool;

    /// The key of the session that a request belongs to; `None`: what its cookie says. A function of the request only.
    fn http_session_key<'a>(
        &'a self,
        head: &'a Parts,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NotServed>>;

    /// Answers a request without a session, as it comes. What it wants of a request whose client has gone is dropped;
    /// whatever works on behind that keeps `place`.
    fn serve(
        self: Arc<Self>,
        request: http::Request<HttpBody>,
        place: StreamPlace,
    ) -> BoxFuture<'static, Result<http::Response<HttpBody>, NotServed>>;
}
