//! What a guest can import: each interface of `wit/` on what [`Host`] holds of the present event.
//!
//! Thin: a call is turned into the container's types, handed to [`Overlay`](crate::overlay::Overlay) or to
//! [`Services`](crate::services::Services), and its answer turned back.

mod log;
pub(crate) mod message;
mod services;
mod session;
mod sip;
pub(crate) mod wasi;

use std::sync::Arc;

use container::session::SessionId;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi_http::WasiHttpCtx;

pub(crate) use self::log::{Lines, Log};
use self::message::Subject;
use crate::application::Identity;
use crate::bindings::outlast::app as wit;
use crate::budget::Budget;
use crate::http::Meter;
use crate::limits::{HTTP_FIELDS_BYTES_MAX, RESOURCES_MAX};
use crate::overlay::{Overlay, Refusal};
use crate::services::ServiceError;

/// What stands behind the imports of one instance.
pub(crate) struct Host {
    /// Whose instance it is.
    pub(crate) application: Arc<Identity>,
    /// What it may use.
    pub(crate) budget: Budget,
    /// What measures its processor time, in place of ticks.
    pub(crate) meter: Option<Arc<Meter>>,
    /// The session of the present event; none: there is none.
    pub(crate) overlay: Option<Overlay>,
    /// What happens at present.
    subject: Option<Subject>,
    /// Counts messages: none is found under the name of an earlier one.
    messages: u32,
    /// Lines of the present event.
    pub(crate) log: Log,
    table: ResourceTable,
    /// Made when the guest first asks for it: most never do.
    wasi: Option<Box<wasi::Wasi>>,
    http: WasiHttpCtx,
    policy: wasi::NoRequests,
}

impl Host {
    pub(crate) fn new(application: Arc<Identity>) -> Host {
        let budget = Budget::new(application.limits);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HTTP_FIELDS_BYTES_MAX);
        Host {
            application,
            budget,
            meter: None,
            overlay: None,
            subject: None,
            messages: 0,
            log: Log::default(),
            table,
            wasi: None,
            http,
            policy: wasi::NoRequests,
        }
    }

    /// A new event begins.
    pub(crate) fn begin(&mut self, overlay: Option<Overlay>) {
        self.budget.begin();
        self.overlay = overlay;
        self.subject = None;
        self.log = Log::default();
    }

    /// The event is over: what the handler wants, and nothing of it is left.
    pub(crate) fn end(&mut self) -> Option<Overlay> {
        self.subject = None;
        self.log_output();
        self.log.conclude(&self.application, self.session_id());
        self.overlay.take()
    }

    fn session_id(&self) -> Option<SessionId> {
        self.overlay.as_ref().map(|overlay| overlay.view().id)
    }

    /// The session that a write is for.
    fn session(&mut self) -> Result<&mut Overlay, Refusal> {
        let why = || Refusal::WrongState("there is no session here".to_owned());
        self.overlay.as_mut().ok_or_else(why)
    }
}

/// Everything that can be imported.
///
/// # Errors
/// Two of them have one name: a bug of ours.
pub(crate) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn itself(host: &mut Host) -> &mut Host {
        host
    }
    wit::types::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::message::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::session::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::sessions::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::sip::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::config::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::log::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::naming::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wit::cache::add_to_linker::<Host, HasSelf<Host>>(linker, itself)?;
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

impl From<Refusal> for wit::types::Error {
    fn from(refusal: Refusal) -> wit::types::Error {
        match refusal {
            Refusal::Unknown(why) => wit::types::Error::Unknown(why),
            Refusal::WrongState(why) => wit::types::Error::WrongState(why),
            Refusal::Invalid(why) => wit::types::Error::Invalid(why),
            Refusal::Limit(why) => wit::types::Error::Limit(why),
            Refusal::Unavailable(why) => wit::types::Error::Unavailable(why),
        }
    }
}

impl From<ServiceError> for wit::types::Error {
    fn from(error: ServiceError) -> wit::types::Error {
        match error {
            ServiceError::Taken(_) => wit::types::Error::WrongState(error.to_string()),
            ServiceError::Full(_) => wit::types::Error::Limit(error.to_string()),
            ServiceError::Unavailable(_) => wit::types::Error::Unavailable(error.to_string()),
        }
    }
}
