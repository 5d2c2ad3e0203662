//! The HTTP port of a container: finds the application and the session of a request, and answers.
//!
//! ```text
//! client ──TCP──▶ connection ─▶ route ─▶ without sessions ─▶ application, streaming
//!                     ▲            └───▶ key, cookie or new ─▶ shard ─▶ answered behind the commit
//! other container ──Unix──┤                                     └▶ another's: forwarded there, two hops at most
//! other node's ──TLS──────┘
//! ```
//!
//! All of it runs on a thread of its own, so that parsing, slow clients and applications without sessions never hold calls
//! up; only events of sessions go through the shard ([`ServerHandle::http`](crate::server::ServerHandle::http)).
//! [`routing`], [`cookie`] and [`hops`] decide, without a socket; [`limits`] are the bounds; [`server`] listens, `desk`
//! takes a request through all of it.
//!
//! Forwarded requests come by a Unix socket beside the container's link (`run/NAME.http`), which only the node's owner can
//! open, or from another node of the cluster by [`cluster_port`](crate::cluster_port), which has looked at its certificate:
//! what they say of themselves (how often they were forwarded) no stranger can say.
//!
//! Deliberately absent: TLS, HTTP/2, upgrades, compression, static files, `X-Forwarded-*` (passed on as they came): a proxy
//! before it does these.

mod answers;
mod application;
mod body;
pub mod cookie;
mod desk;
mod forwarding;
pub mod hops;
pub mod limits;
mod paced;
pub mod routing;
mod secured;
pub mod server;
mod shares;

pub use application::{BodyError, HttpApplication, HttpBody, NotServed, StreamPlace};
pub use routing::{HttpRoute, Place};
pub use server::{HttpHandle, HttpPort, HttpSettings};
