//! Applications for Outlast in Rust.
//!
//! An application is a type with the handlers of [`Application`], handed to [`export!`]:
//!
//! ```no_run
//! use outlast_app::{Application, Incoming, Outcome};
//!
//! struct Busy;
//!
//! impl Application for Busy {
//!     fn on_request(request: Incoming) -> Outcome {
//!         request.respond(486)
//!     }
//! }
//!
//! outlast_app::export!(Busy);
//! ```
//!
//! Handlers do something by [`sip`], [`session`], [`sessions`], [`naming`] and [`cache`]; what these promise and where
//! their limits are stands in the files of `wit/`, from which they are made. What a handler changes and sends happens when
//! it has returned `Ok`: all of it, or, when it returns an error or panics, nothing.
//!
//! Each event may find a fresh instance: what is to be remembered is put into the session.
//!
//! On another system than WebAssembly the functions of the host panic. Decisions that are kept apart from them can be
//! tested by `cargo test`; the applications in `apps/` do it so.

pub mod bindings;
mod export;
pub mod headers;
#[cfg(all(feature = "heap", target_arch = "wasm32", target_os = "unknown"))]
mod heap;
#[cfg(feature = "http")]
pub mod http;
pub mod log;
pub mod relay;
pub mod sdp;

pub use bindings::handler::exports::outlast::app::handler::{
    Cancelled, Event, Failed, Heard, Incoming, Signal,
};
pub use bindings::handler::outlast::app::message::{Address, Message, Uri};
pub use bindings::handler::outlast::app::types::{Body, Error, Header};
pub use bindings::handler::outlast::app::{cache, config, naming, session, sessions, sip};
pub use export::dispatch;
#[cfg(feature = "http")]
pub use wasip2;

/// What a handler returns. An error undoes the event as a panic does: it is logged, nothing that the handler wanted
/// happens, and a request is answered 500 or what the manifest says.
pub type Outcome = Result<(), Error>;

/// The handlers of an application with a SIP side, one an event. Those that are left out do what is said beside them.
pub trait Application {
    /// The other side sent a request, which wants an answer now or at a later event. A BYE has ended its leg already and
    /// is answered 200 by itself. Left out: 501, BYE excepted.
    fn on_request(request: Incoming) -> Outcome {
        if request.message.method() == "BYE" { Ok(()) } else { request.respond(501) }
    }

    /// A response 101–199 to a request of ours came. Left out: nothing.
    fn on_provisional(response: Heard) -> Outcome {
        drop(response);
        Ok(())
    }

    /// A response 200–299 to a request of ours came; an INVITE wants [`sip::acknowledge`]. Left out: it is acknowledged,
    /// without a body.
    fn on_success(response: Heard) -> Outcome {
        if response.message.method() == "INVITE" {
            return sip::acknowledge(&response.leg, &[], None);
        }
        Ok(())
    }

    /// A response 300–699 to a request of ours came. Left out: nothing.
    fn on_failure(response: Heard) -> Outcome {
        drop(response);
        Ok(())
    }

    /// The other side acknowledged a 2xx of ours. Left out: nothing.
    fn on_acknowledged(request: Heard) -> Outcome {
        drop(request);
        Ok(())
    }

    /// The other side took its INVITE back, which is answered 487 already. Left out: nothing.
    fn on_cancelled(cancelled: Cancelled) -> Outcome {
        drop(cancelled);
        Ok(())
    }

    /// A request of ours ended without a response that counts. Left out: nothing.
    fn on_failed(failed: Failed) -> Outcome {
        drop(failed);
        Ok(())
    }

    /// The timer of that name fired. Left out: nothing.
    fn on_timer(name: String) -> Outcome {
        drop(name);
        Ok(())
    }

    /// Another session of the application said something. Left out: nothing.
    fn on_signal(signal: Signal) -> Outcome {
        drop(signal);
        Ok(())
    }

    /// The session has begun, and the event that began it follows; only with `sip.events = ["created"]` in the manifest.
    /// Left out: nothing.
    fn on_created() -> Outcome {
        Ok(())
    }

    /// The session's time is over: it ends behind this event unless [`session::expire_after`] is called. Left out: nothing.
    fn on_ending() -> Outcome {
        Ok(())
    }

    /// The session is over; only logging still does something. Only with `sip.events = ["ended"]` in the manifest.
    /// Left out: nothing.
    fn on_ended() -> Outcome {
        Ok(())
    }
}

/// An application that gathers initial requests in sessions by a key; handed to [`export_router!`].
pub trait Router {
    /// The key, 1 to 255 octets: all requests of one key come to one session. None: a session of its own. It can read
    /// the request and nothing else.
    fn session_key(request: &Message) -> Option<String>;
}

/// An application that says by a key which session an HTTP request belongs to; handed to [`export_http_router!`].
pub trait HttpRouter {
    /// The key, as of [`Router::session_key`]. None: the session of the request's cookie, if it carries one.
    fn session_key(method: &str, path_with_query: &str, headers: &[Header]) -> Option<String>;
}

impl Incoming {
    /// Answers with a status alone and the RFC's phrase for it.
    ///
    /// # Errors
    /// As of [`sip::respond`].
    pub fn respond(&self, status: u16) -> Outcome {
        sip::respond(self.request, status, "", &[], None)
    }

    /// Answers with a status, headers and perhaps a body.
    ///
    /// # Errors
    /// As of [`sip::respond`].
    pub fn respond_with(&self, status: u16, headers: &[Header], body: Option<&Body>) -> Outcome {
        sip::respond(self.request, status, "", headers, body)
    }
}

impl Header {
    /// A header field.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Header {
        Header { name: name.into(), value: value.into() }
    }
}

impl Body {
    /// A body of that Content-Type.
    pub fn new(content_type: impl Into<String>, content: impl Into<Vec<u8>>) -> Body {
        Body { content_type: content_type.into(), content: content.into() }
    }
}

/// What the session remembers under that name, as text; octets that are not UTF-8 become U+FFFD.
pub fn remembered_text(name: &str) -> Option<String> {
    session::get(name).map(|value| String::from_utf8_lossy(&value).into_owned())
}
