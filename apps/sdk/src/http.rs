//! HTTP requests for an application, as values: `wasi:http/incoming-handler` without its streams.
//!
//! An application that wants the streams uses [`crate::wasip2`] as it is.

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

/// The longest body that is read, in octets; a longer one is answered 413.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Without the query; begins with `/`.
    pub path: String,
    /// What stands behind the `?`; empty: nothing.
    pub query: String,
    /// Names in lower case; values that are not UTF-8 have U+FFFD in them.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| &*header.1)
    }

    /// The first parameter of that name, of the query or else of a form in the body.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let form = String::from_utf8_lossy(&self.body);
        let form = match self.header("content-type") {
            Some(kind) if kind.starts_with("application/x-www-form-urlencoded") => &*form,
            _ => "",
        };
        let mut pairs = self.query.split('&').chain(form.split('&'));
        pairs.find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key) == name).then(|| decoded(value))
        })
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200–599.
    pub status: u16,
    /// Without Content-Length, which the server writes.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A line of plain text.
    pub fn text(status: u16, text: &str) -> Response {
        let headers = vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())];
        Response { status, headers, body: format!("{text}\n").into_bytes() }
    }
}

/// An application with an HTTP side; handed to [`export_http!`](crate::export_http).
pub trait HttpApplication {
    /// Answers a request. Effects of the handler happen before the response leaves.
    fn on_http(request: Request) -> Response;
}

/// Exports the handler of an [`HttpApplication`](crate::http::HttpApplication), whose name it is given.
#[macro_export]
macro_rules! export_http {
    ($application:ident) => {
        const _: () = {
            struct Exported;
            impl $crate::wasip2::exports::http::incoming_handler::Guest for Exported {
                fn handle(
                    request: $crate::wasip2::http::types::IncomingRequest,
                    out: $crate::wasip2::http::types::ResponseOutparam,
                ) {
                    $crate::http::dispatch::<$application>(request, out)
                }
            }
    $crate::wasip2::http::proxy::export!(Exported with_types_in $crate::wasip2);
        };
    };
}

/// Runs the handler of a request.
#[doc(hidden)]
pub fn dispatch<A: HttpApplication>(request: IncomingRequest, out: ResponseOutparam) {
    crate::log::report_panics();
    let response = match read(&request) {
        Some(request) => A::on_http(request),
        None => Response::text(413, "The body is too long."),
    };
    send(&response, out);
}

/// None: its body is too long.
fn read(request: &IncomingRequest) -> Option<Request> {
    let target = request.path_with_query().unwrap_or_else(|| "/".to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = request.headers().entries().into_iter();
    let headers = headers.map(|(name, value)| (name.to_lowercase(), text(&value))).collect();
    let body = request.consume().map(read_body).unwrap_or(Some(Vec::new()))?;
    let method = method(request.method());
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn method(method: Method) -> String {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name,
    }
    .to_owned()
}

/// None: it is too long.
fn read_body(body: IncomingBody) -> Option<Vec<u8>> {
    let stream = body.stream().expect("nobody else has taken the stream");
    let mut read = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(part) => read.extend(part),
            Err(StreamError::Closed) => return Some(read),
            // The peer went away: what came is what there is.
            Err(StreamError::LastOperationFailed(_)) => return Some(read),
        }
        if read.len() > BODY_BYTES_MAX {
            return None;
        }
    }
}

fn send(response: &Response, out: ResponseOutparam) {
    let fields = Fields::new();
    for (name, value) in &response.headers {
        fields.append(name, value.as_bytes()).expect("names and values of headers are well-formed");
    }
    let outgoing = OutgoingResponse::new(fields);
    outgoing.set_status_code(response.status).expect("a status has three digits");
    let body = outgoing.body().expect("a new response has its body");
    ResponseOutparam::set(out, Ok(outgoing));
    {
        let stream = body.write().expect("a new body has its stream");
        // 4,096 octets at a time are what a stream takes without asking.
        for part in response.body.chunks(4096) {
            if stream.blocking_write_and_flush(part).is_err() {
                return; // nobody listens any more
            }
        }
    }
    // Fails only when nobody listens any more.
    let _ = OutgoingBody::finish(body, None);
}

/// The text of a form's or a query's part (`application/x-www-form-urlencoded`); an escape that is none stays as it is.
fn decoded(text: &str) -> String {
    let octets = text.as_bytes();
    let mut plain = Vec::with_capacity(octets.len());
    let mut at = 0;
    while let Some(&octet) = octets.get(at) {
        let escaped = octets
            .get(at + 1..at + 3)
            .filter(|_| octet == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(escaped.unwrap_or(if octet == b'+' { b' ' } else { octet }));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_from_the_query_and_from_a_form() {
        let form = ("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned());
        let request = Request {
            query: "from=sip%3Aalice%40example.com&empty".to_owned(),
            headers: vec![form],
            body: b"to=B+b%zz&from=other".to_vec(),
            ..Request::default()
        };
        assert_eq!(request.parameter("from").as_deref(), Some("sip:alice@example.com"));
        assert_eq!(request.parameter("to").as_deref(), Some("B b%zz"));
        assert_eq!(request.parameter("empty").as_deref(), Some(""));
        assert_eq!(request.parameter("none"), None);
        let plain = Request { headers: Vec::new(), ..request };
        assert_eq!(plain.parameter("to"), None, "a body of another type is no form");
    }
}
