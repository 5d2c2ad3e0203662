//! WebAssembly components as applications of a container.
//!
//! [`prepare`] turns what a developer hands in into a component with its compiled code, or into a refusal that says what to
//! do; [`Guest`] runs one version of it: a [`container::session::SessionApplication`] whose handler is the guest's, and a handler
//! of HTTP requests.
//!
//! ```text
//! SessionEvent ─▶ Guest ─▶ instance (fresh, or a live one) ─▶ the guest's `handle`
//!                                │ imports                           │ returns
//!                                ▼                                   ▼
//!                             host ─▶ Overlay: reads, own writes ─▶ SessionEffects
//!                               └──▶ Services: names, cache, other sessions
//! ```
//!
//! A guest can harm its own event only. It runs within a [`budget`] of memory, tables and processor time, gives way to the
//! container's other work every [`engine::TICK`], and what it wants is an effect only when it has returned normally: a trap,
//! its time or its memory over, and nothing has happened but a count, a line in the log and the refusal of the request.
//!
//! Pure are [`overlay`] and [`budget`]; `host` binds them to the interface in `wit/`; `instance` alone runs foreign code.
//! Deliberately absent: which application a request is for, manifests, deployment (crates `config` and `manager`), the HTTP
//! server, requests of guests to the outside.

mod application;
mod bindings;
pub mod budget;
pub mod component;
pub mod condition;
pub mod engine;
mod events;
mod failure;
mod host;
mod http;
mod instance;
pub mod limits;
pub mod overlay;
mod patience;
mod precompiled;
pub mod services;

pub use application::{Accepts, Guest, Instances, Settings};
pub use component::{Handlers, Prepared, Refused, prepare};
pub use engine::Engine;
pub use failure::{Counts, Failure, FailureKind};
pub use http::HttpAnswer;
pub use limits::Limits;
pub use services::{ServiceError, Services};
