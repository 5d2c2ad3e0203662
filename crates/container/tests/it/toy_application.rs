//! An application whose every wish stands in the user part of the Request-URI.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use container::application::{
    Application, Duty, Effects, IncomingRequest, ProxyPlan, Response, Target, Tick,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::Uri;
use state::{Batch, Expect, Key, Space};

#[derive(Default)]
pub(crate) struct ToyApplication {
    /// How often a handler ran.
    pub(crate) runs: AtomicUsize,
    /// What the next tick returns.
    pub(crate) duties: Mutex<Vec<Duty>>,
}

impl ToyApplication {
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Where `sip:proxy@...` is proxied to.
pub(crate) const CALLEE: &str = "sip:bob@198.51.100.8:5070";

impl Application for ToyApplication {
    fn name(&self) -> &str {
        "toy"
    }

    fn handle<'a>(&'a self, request: &'a IncomingRequest) -> BoxFuture<'a, Effects> {
        async move {
            self.runs.fetch_add(1, Ordering::SeqCst);
            let uri = request.message.request_uri().unwrap();
            let Ok(Uri::Sip(uri)) = Uri::parse(uri) else {
                return Effects::respond(Response::new(416));
            };
            let to = |uri: &'static str| {
                Effects::proxy(ProxyPlan::to_targets(vec![Target::new(Bytes::from_static(
                    uri.as_bytes(),
                ))]))
            };
            match uri.user.unwrap_or_default() {
                b"answer" => Effects::respond(Response::new(200)),
                b"store" => {
                    let key = Key::new(Space::named("toy"), "tag", request.attempt.to_string());
                    let batch = Batch::new().put(key, Expect::Any, "value", None);
                    Effects::respond(Response::new(200)).committing(batch)
                }
                b"proxy" => to(CALLEE),
                b"name" => to("sip:bob@localhost:5070"),
                b"panic" => panic!("the toy application was told to"),
                b"hang" => std::future::pending().await,
                _ => Effects::respond(Response::new(404)),
            }
        }
        .boxed()
    }

    fn tick<'a>(&'a self, _tick: &'a Tick) -> BoxFuture<'a, Vec<Duty>> {
        async { std::mem::take(&mut *self.duties.lock().unwrap()) }.boxed()
    }
}
