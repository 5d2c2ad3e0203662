//! Counts how often a browser came, in a cookie: plain `wasi:http/incoming-handler`, for any server of it.

mod visits;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wasip2::http::proxy::export!(Counter);

struct Counter;

impl Guest for Counter {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let cookies = request.headers().get("cookie");
        let visits = visits::counted(cookies.iter().map(|cookie| String::from_utf8_lossy(cookie)));

        let headers = Fields::new();
        let cookie = visits::cookie(visits);
        for (name, value) in [("set-cookie", &*cookie), ("content-type", "text/plain")] {
            headers.append(name, value.as_bytes()).expect("both headers are well-formed");
        }
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("a new response has its body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("a new body has its stream");
        let written = stream.blocking_write_and_flush(format!("visit {visits}\n").as_bytes());
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None); // fails only when nobody listens any more
        }
    }
}
