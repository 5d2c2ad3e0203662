//! What the port itself says: where nothing is, or nobody could answer.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};

use super::{HttpBody, limits};

/// A body that is here.
pub(super) fn body(octets: impl Into<Bytes>) -> HttpBody {
    Full::new(octets.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A plain page of ours. 503 says when to come again; after what may have left a part of its request unread, the
/// connection is closed.
pub(super) fn page(status: StatusCode) -> Response<HttpBody> {
    let text = match status {
        StatusCode::NOT_FOUND => NOT_FOUND,
        StatusCode::BAD_REQUEST => "The request names no host, or more than one.\n",
        StatusCode::REQUEST_TIMEOUT => "The request did not come to its end in time.\n",
        StatusCode::PAYLOAD_TOO_LARGE => {
            "The body of the request is too long.\n\n\
             Operators: limits.http_body in the application's outlast-app.toml is what it takes.\n"
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request has too many headers.\n",
        StatusCode::SERVICE_UNAVAILABLE => "This cannot be answered now. Try again in a moment.\n",
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            "Who handles this has not answered: it may have been done or not.\n"
        }
        _ => {
            "The application failed.\n\nOperators: the container's log says how (outlast status names it).\n"
        }
    };
    let mut response = Response::new(body(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(limits::RETRY_AFTER));
    }
    if matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What is there is nobody else's to know.
const NOT_FOUND: &str = "There is nothing here.\n\n\
Operators: an application is served below the path that its outlast-app.toml says:\n\n\
    [http]\n    path = \"/my-app\"\n\n\
outlast app list shows what is deployed, outlast app deploy DIR deploys one.\n";

/// For a connection too many: nothing of it is read.
pub(super) fn refusal() -> Vec<u8> {
    let retry_after = limits::RETRY_AFTER;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}
