//! Takes one request through all of it: route, session, application, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, SET_COOKIE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use topology::{Incarnation, TopologyView};
use tracing::debug;

use super::body::{Held, Watched, whole};
use super::cookie::Cookies;
use super::forwarding::{Neighbour, NotForwarded, forward};
use super::hops::{self, Sender};
use super::routing::{self, Routes};
use super::server::Stage;
use super::{HttpBody, HttpRoute, NotServed, StreamPlace, answers, limits};
use crate::server::ServerHandle;
use crate::session::{HttpRequest, HttpResponse, SessionId, name_of};
use crate::shard::{HttpOutcome, SessionChoice};

/// What all connections of a container share.
pub(super) struct Desk {
    pub(super) routes: watch::Receiver<Routes>,
    pub(super) view: watch::Receiver<TopologyView>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) container: ServerHandle,
    pub(super) own: Incarnation,
    /// What is shown to containers of other nodes.
    pub(super) credentials: watch::Receiver<Option<Arc<ClientConfig>>>,
    pub(super) cookies: Cookies,
    pub(super) room: Room,
}

/// What there is room for.
pub(super) struct Room {
    requests: Arc<Semaphore>,
    streamed: Arc<Semaphore>,
    /// In kibibytes.
    bodies: Arc<Semaphore>,
    under_way: Arc<AtomicU64>,
}

impl Room {
    /// `under_way` counts the requests that are being answered.
    pub(super) fn new(under_way: Arc<AtomicU64>) -> Room {
        Room {
            requests: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            streamed: Arc::new(Semaphore::new(limits::STREAMED_MAX)),
            bodies: Arc::new(Semaphore::new(limits::BODIES_BYTES_MAX / KIBIBYTE)),
            under_way,
        }
    }
}

const KIBIBYTE: usize = 1024;

/// A request that is being answered, until its answer has left.
struct UnderWay {
    _room: OwnedSemaphorePermit,
    count: Arc<AtomicU64>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    /// Answers a request.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        sender: Sender,
    ) -> Result<Response<HttpBody>, Infallible> {
        let mut response = match self.admit() {
            Some(under_way) => {
                let answered = self.answer_admitted(request, sender).await;
                let is_not_handled = matches!(answered, Err(StatusCode::SERVICE_UNAVAILABLE));
                let mut response = answered.unwrap_or_else(answers::page);
                // Applications say what they like, but not this.
                hops::leave_out_own(response.headers_mut());
                if is_not_handled && sender == Sender::Neighbour {
                    hops::say_not_handled(response.headers_mut());
                }
                response.map(|body| Held { body, _place: under_way }.boxed_unsync())
            }
            None => answers::page(StatusCode::SERVICE_UNAVAILABLE),
        };
        if *self.stage.borrow() != Stage::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    fn admit(&self) -> Option<UnderWay> {
        let room = Arc::clone(&self.room.requests).try_acquire_owned().ok()?;
        let count = Arc::clone(&self.room.under_way);
        count.fetch_add(1, Ordering::Relaxed);
        Some(UnderWay { _room: room, count })
    }

    /// `Err`: what a page of ours says.
    async fn answer_admitted(
        &self,
        mut request: Request<Incoming>,
        sender: Sender,
    ) -> Result<Response<HttpBody>, StatusCode> {
        let hops = hops::take(request.headers_mut(), sender);
        let (head, body) = request.into_parts();
        let Some(host) = routing::host_of(&head) else {
            return Err(StatusCode::BAD_REQUEST);
        };
        let routes = Arc::clone(&self.routes.borrow());
        let route = routing::find(&routes, host, head.uri.path()).ok_or(StatusCode::NOT_FOUND)?;
        let place = route.shares.admit().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let response = if route.application.has_sessions() {
            self.answer_by_session(route, head, body, hops).await
        } else {
            self.answer_streaming(route, head, body).await
        };
        response.map(|response| response.map(|body| Held { body, _place: place }.boxed_unsync()))
    }

    async fn answer_streaming(
        &self,
        route: &HttpRoute,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<HttpBody>, StatusCode> {
        let share = route.shares.stream().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let room = Arc::clone(&self.room.streamed).try_acquire_owned();
        let place = StreamPlace::new(room.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?, share);
        let request = Request::from_parts(head, Watched::new(body).boxed_unsync());
        let served = Arc::clone(&route.application).serve(request, place.clone()).await;
        let mut response = served.map_err(status_of)?;
        hops::leave_out_connection(response.headers_mut());
        Ok(response.map(|body| Held { body, _place: place }.boxed_unsync()))
    }

    async fn answer_by_session(
        &self,
        route: &HttpRoute,
        head: Parts,
        body: Incoming,
        hops: u8,
    ) -> Result<Response<HttpBody>, StatusCode> {
        let key = {
            let _turn = route.shares.turn().await.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            route.application.http_session_key(&head).await.map_err(status_of)?
        };
        let cookie = self.cookies.session(&route.session_cookie, &head.headers);
        let room = u32::try_from(route.body_bytes_max.div_ceil(KIBIBYTE)).unwrap_or(u32::MAX);
        // Most requests have no body, or say how long it is.
        let room = match hyper::body::Body::size_hint(&body).exact() {
            Some(length) => u32::try_from(length.div_ceil(KIBIBYTE as u64)).unwrap_or(room),
            None => room,
        };
        let room = Arc::clone(&self.room.bodies).try_acquire_many_owned(room);
        let room = Arc::new(room.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
        let body = whole(body, route.body_bytes_max).await?;
        let request = plain(head, body);
        let choice = choose(key, cookie);
        self.ask(route, choice, request, room, hops).await
    }

    /// Gives the request to its session, wherever that is. `room`: of its body.
    ///
    /// A client that goes ends this, but not the event: so the session has the turn and the room until it is done.
    async fn ask(
        &self,
        route: &HttpRoute,
        mut choice: SessionChoice,
        request: HttpRequest,
        room: Arc<OwnedSemaphorePermit>,
        hops: u8,
    ) -> Result<Response<HttpBody>, StatusCode> {
        let until = Instant::now() + limits::OWNER_WAIT_MAX;
        let name = name_of(route.application.name()).to_owned();
        loop {
            if choice == SessionChoice::New
                && *self.stage.borrow() != Stage::Serving
                && let Some(answered) = self.begin_elsewhere(&request, hops, until).await
            {
                return answered;
            }
            let is_new = choice == SessionChoice::New;
            let turn = route.shares.turn().await.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            let held = (turn, Arc::clone(&room));
            let outcome = self.container.http(&name, choice.clone(), request.clone(), held).await;
            let owner = match outcome {
                HttpOutcome::Answered { session, response } => {
                    let session = session.filter(|_| is_new);
                    return Ok(self.answered(route, session, response));
                }
                HttpOutcome::NoSession if is_new => return Err(StatusCode::SERVICE_UNAVAILABLE),
                // It has ended, or was never stored.
                HttpOutcome::NoSession => {
                    choice = SessionChoice::New;
                    continue;
                }
                HttpOutcome::Refused(status) => return Err(status_code(status)),
                HttpOutcome::Elsewhere(owner) => owner,
            };
            if hops >= limits::HOPS_MAX {
                debug!(%owner, "a request was forwarded often enough");
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let neighbour = Neighbour::of_life(&self.view.borrow(), owner);
            if let Some(neighbour) = neighbour {
                match self.forward(&neighbour, &request, hops, until).await {
                    Ok(response) => return Ok(response),
                    Err(NotForwarded::Unreachable) => {}
                    Err(error) => return Err(broken_off(owner, &error)),
                }
            }
            // It dies, and the session will be ours; or it lives, and can be reached in a moment.
            if Instant::now() >= until {
                debug!(%owner, "a session's container cannot be reached");
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            sleep(limits::OWNER_WAIT_STEP).await;
        }
    }

    /// A draining container begins no sessions if another one can.
    async fn begin_elsewhere(
        &self,
        request: &HttpRequest,
        hops: u8,
        until: Instant,
    ) -> Option<Result<Response<HttpBody>, StatusCode>> {
        if hops >= limits::HOPS_MAX {
            return None;
        }
        let neighbour = Neighbour::ready(&self.view.borrow(), self.own)?;
        match self.forward(&neighbour, request, hops, until).await {
            Ok(response) => Some(Ok(response)),
            Err(NotForwarded::Unreachable) => None,
            Err(error) => Some(Err(broken_off("another container", &error))),
        }
    }

    async fn forward(
        &self,
        to: &Neighbour,
        request: &HttpRequest,
        hops: u8,
        until: Instant,
    ) -> Result<Response<HttpBody>, NotForwarded> {
        let credentials = self.credentials.borrow().clone();
        forward(to, credentials, request, hops + 1, until).await
    }

    /// `session`: to be remembered by the client.
    fn answered(
        &self,
        route: &HttpRoute,
        session: Option<SessionId>,
        answer: HttpResponse,
    ) -> Response<HttpBody> {
        let mut response = Response::new(answers::body(answer.body));
        *response.status_mut() = status_code(answer.status);
        let headers = response.headers_mut();
        for (name, value) in answer.headers {
            // The container has checked them.
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_maybe_shared(value))
            {
                headers.append(name, value);
            }
        }
        hops::leave_out_connection(headers);
        let path = &route.place.path;
        let cookie =
            session.and_then(|session| self.cookies.set(&route.session_cookie, path, session));
        if let Some(cookie) = cookie {
            headers.append(SET_COOKIE, cookie);
        }
        response
    }
}

/// A key names the session; else the cookie does; else it is a new one.
fn choose(key: Option<Bytes>, cookie: Option<SessionId>) -> SessionChoice {
    match (key, cookie) {
        (Some(key), _) => SessionChoice::Key(key),
        (None, Some(session)) => SessionChoice::Id(session),
        (None, None) => SessionChoice::New,
    }
}

/// The request as sessions take it: in origin form, its body in one piece.
fn plain(mut head: Parts, body: Bytes) -> HttpRequest {
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    head.headers.remove(TRANSFER_ENCODING);
    if head.headers.contains_key(CONTENT_LENGTH) || !body.is_empty() {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    };
    HttpRequest {
        method: head.method.as_str().to_owned(),
        path_with_query: path.to_owned(),
        headers: head.headers.iter().map(header).collect(),
        body,
    }
}

fn broken_off(owner: impl std::fmt::Display, error: &NotForwarded) -> StatusCode {
    debug!(%owner, %error, "a request was forwarded and not answered");
    match error {
        NotForwarded::Late => StatusCode::GATEWAY_TIMEOUT,
        NotForwarded::Broken(_) => StatusCode::BAD_GATEWAY,
        NotForwarded::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn status_of(not_served: NotServed) -> StatusCode {
    match not_served {
        NotServed::Busy => StatusCode::SERVICE_UNAVAILABLE,
        NotServed::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Method;

    use super::*;

    #[test]
    fn a_key_goes_before_a_cookie() {
        let (key, id) = (Bytes::from_static(b"room"), SessionId([1; 16]));
        assert_eq!(choose(Some(key.clone()), Some(id)), SessionChoice::Key(key));
        assert_eq!(choose(None, Some(id)), SessionChoice::Id(id));
        assert_eq!(choose(None, None), SessionChoice::New);
    }

    #[test]
    fn a_request_becomes_a_plain_value() {
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://app.example:80/shop?a=%20b")
            .header("host", "other.example")
            .header("transfer-encoding", "chunked")
            .header("x-forwarded-for", "192.0.2.1")
            .body(())
            .unwrap();
        let plain = plain(request.into_parts().0, Bytes::from_static(b"abc"));
        assert_eq!((plain.method.as_str(), &*plain.path_with_query), ("POST", "/shop?a=%20b"));
        let header = |name: &str| {
            let mut found = plain.headers.iter().filter(|(known, _)| known == name);
            found.next().map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(header("host").unwrap(), "app.example:80");
        assert_eq!(header("content-length").unwrap(), "3");
        assert_eq!(header("x-forwarded-for").unwrap(), "192.0.2.1");
        assert_eq!(header("transfer-encoding"), None);
    }
}
