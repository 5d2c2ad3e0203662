//! A guest as the HTTP port of a container and the sessions there know it.

use std::sync::Arc;

use bytes::Bytes;
use container::http_port::{HttpApplication, HttpBody, NotServed, StreamPlace};
use container::session::{HttpRequest, HttpResponse, SessionEffect, SessionView};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING};
use http::request::Parts;

use super::HttpAnswer;
use crate::application::{BUSY_RETRY_AFTER, Guest};
use crate::failure::{Failure, FailureKind};

impl HttpApplication for Guest {
    fn name(&self) -> &str {
        &self.identity.versioned
    }

    fn has_sessions(&self) -> bool {
        self.loaded.exports.has_sessions()
    }

    fn http_session_key<'a>(
        &'a self,
        head: &'a Parts,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NotServed>> {
        async move {
            if self.loaded.exports.http_router.is_none() {
                return Ok(None);
            }
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let header = |(name, value): (&HeaderName, &HeaderValue)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            };
            let headers: Vec<_> = head.headers.iter().map(header).collect();
            let key = Guest::http_session_key(self, head.method.as_str(), path, &headers).await;
            key.map(|key| key.map(Bytes::from)).map_err(|failure| not_served(&failure))
        }
        .boxed()
    }

    fn serve(
        self: Arc<Self>,
        request: http::Request<HttpBody>,
        place: StreamPlace,
    ) -> BoxFuture<'static, Result<http::Response<HttpBody>, NotServed>> {
        async move {
            self.stream_http(request, place).await.map_err(|failure| not_served(&failure))
        }
        .boxed()
    }
}

impl Guest {
    /// Handles a request of a session: what is to happen, the answer among it.
    pub(crate) async fn on_http(
        &self,
        session: &SessionView,
        request: &HttpRequest,
    ) -> Vec<SessionEffect> {
        let Some(request) = restored(request) else {
            return vec![SessionEffect::HttpRespond(HttpResponse::new(400))];
        };
        match self.handle_http(request, Some(session.clone())).await {
            Ok(HttpAnswer { response, mut effects }) => {
                effects.push(SessionEffect::HttpRespond(plain(response)));
                effects
            }
            Err(failure) => vec![SessionEffect::HttpRespond(refusal(failure.kind))],
        }
    }
}

/// What a client is told of a failure; the log tells more.
fn refusal(kind: FailureKind) -> HttpResponse {
    let (status, retry_after) = match kind {
        FailureKind::Busy => (503, Some(BUSY_RETRY_AFTER)),
        FailureKind::Trap | FailureKind::Time | FailureKind::Memory => (500, None),
    };
    let header = |value: &'static str| {
        (RETRY_AFTER.as_str().to_owned(), Bytes::from_static(value.as_bytes()))
    };
    let headers = retry_after.map(header).into_iter().collect();
    HttpResponse { status, headers, body: Bytes::new() }
}

fn not_served(failure: &Failure) -> NotServed {
    match failure.kind {
        FailureKind::Busy => NotServed::Busy,
        FailureKind::Trap | FailureKind::Time | FailureKind::Memory => NotServed::Failed,
    }
}

/// The request as `wasi:http` has it; none if it is none.
fn restored(request: &HttpRequest) -> Option<http::Request<Bytes>> {
    let mut restored = http::Request::new(request.body.clone());
    *restored.method_mut() = request.method.parse().ok()?;
    *restored.uri_mut() = request.path_with_query.parse().ok()?;
    for (name, value) in &request.headers {
        let value = HeaderValue::from_maybe_shared(value.clone()).ok()?;
        restored.headers_mut().append(name.parse::<HeaderName>().ok()?, value);
    }
    Some(restored)
}

/// The response as a session gives it: how long it is, its body says.
fn plain(response: http::Response<Bytes>) -> HttpResponse {
    let (head, body) = response.into_parts();
    let of_transfer = [CONTENT_LENGTH, TRANSFER_ENCODING];
    let headers = head.headers.iter().filter(|(name, _)| !of_transfer.contains(name));
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    };
    HttpResponse { status: head.status.as_u16(), headers: headers.map(header).collect(), body }
}
