//! One instance of a guest: its memory, what stands behind its imports, and a call into it within its limits.

use std::time::Duration;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi_http::p2::bindings::exports::wasi::http::incoming_handler;

use crate::bindings::exports::outlast::app::{handler, http_router, router};
use crate::bindings::outlast::app::types::Header;
use crate::budget::{Budget, Excess};
use crate::engine::{CORE_INSTANCES_PER_COMPONENT_MAX, Engine, MEMORIES_PER_COMPONENT_MAX, TICK};
use crate::failure::{Failure, FailureKind};
use crate::host::Host;
use crate::limits::REUSES_MAX;
use crate::overlay::Overlay;

/// What a guest may pass to the host in one call, in octets: the host holds a copy while it looks at it.
const HOST_CALL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Which of the exports that the container knows a component has.
#[derive(Clone)]
pub(crate) struct Exports {
    pub(crate) handler: Option<handler::GuestIndices>,
    pub(crate) router: Option<router::GuestIndices>,
    pub(crate) http_router: Option<http_router::GuestIndices>,
    pub(crate) http_handler: Option<incoming_handler::GuestIndices>,
    /// It imports something that is a session's.
    pub(crate) asks_for_sessions: bool,
}

/// A component that is ready to be instantiated.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) component: InstancePre<Host>,
    pub(crate) exports: Exports,
}

/// A store with room for one instance.
pub(crate) struct Room {
    pub(crate) store: Store<Host>,
    inside: Option<Inside>,
    uses: u32,
}

/// The instance, and its handler when it was called once.
struct Inside {
    instance: Instance,
    handler: Option<handler::Guest>,
}

/// Why a running guest was stopped.
#[derive(Debug, thiserror::Error)]
#[error("it used up its processor time of {0:?}")]
struct OutOfTime(Duration);

impl Loaded {
    /// An empty room for `host`.
    pub(crate) fn room(&self, host: Host) -> Room {
        let mut store = Store::new(self.engine.wasm(), host);
        store.limiter(|host| &mut host.budget);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut running| {
            let host = running.data_mut();
            let admits = match &host.meter {
                Some(meter) => host.budget.admits_time(meter.used()),
                None => host.budget.admits_tick(TICK),
            };
            if admits {
                return Ok(UpdateDeadline::Yield(1));
            }
            Err(OutOfTime(host.application.limits.cpu_time).into())
        });
        Room { store, inside: None, uses: 0 }
    }

    /// Puts an instance into a room that has none.
    pub(crate) async fn furnish(&self, room: &mut Room) -> wasmtime::Result<()> {
        if room.inside.is_none() {
            let instance = self.component.instantiate_async(&mut room.store).await?;
            room.inside = Some(Inside { instance, handler: None });
        }
        Ok(())
    }
}

impl Room {
    /// A new event begins: its time as well.
    pub(crate) fn begin(&mut self, overlay: Option<Overlay>) {
        self.uses += 1;
        self.store.data_mut().begin(overlay);
        self.store.set_epoch_deadline(1);
    }

    /// The event is over: what the guest wants.
    pub(crate) fn end(&mut self) -> Option<Overlay> {
        self.store.data_mut().end()
    }

    /// Whether it may serve one more event.
    pub(crate) fn is_reusable(&self) -> bool {
        self.uses < REUSES_MAX
    }

    /// Has an event handled.
    pub(crate) async fn handle(
        &mut self,
        exports: &Exports,
        event: handler::Event,
    ) -> wasmtime::Result<()> {
        let indices = exports.handler.as_ref().ok_or_else(|| missing("handler"))?;
        let inside = self.inside.as_mut().ok_or_else(|| missing("instance"))?;
        if inside.handler.is_none() {
            inside.handler = Some(indices.load(&mut self.store, &inside.instance)?);
        }
        let handler = inside.handler.as_ref().ok_or_else(|| missing("handler"))?;
        handler.call_handle(&mut self.store, &event).await
    }

    /// Asks the key function.
    pub(crate) async fn session_key(
        &mut self,
        exports: &Exports,
        request: &sip::Message,
    ) -> wasmtime::Result<Option<String>> {
        let indices = exports.router.as_ref().ok_or_else(|| missing("router"))?;
        let inside = self.inside.as_ref().ok_or_else(|| missing("instance"))?;
        let router = indices.load(&mut self.store, &inside.instance)?;
        let message = self.store.data_mut().lend(request);
        router.call_session_key(&mut self.store, message).await
    }

    /// Asks the key function for HTTP requests.
    pub(crate) async fn http_session_key(
        &mut self,
        exports: &Exports,
        method: &str,
        path_with_query: &str,
        headers: &[(String, String)],
    ) -> wasmtime::Result<Option<String>> {
        let header =
            |(name, value): &(String, String)| Header { name: name.clone(), value: value.clone() };
        let headers: Vec<Header> = headers.iter().map(header).collect();
        let indices = exports.http_router.as_ref().ok_or_else(|| missing("http-router"))?;
        let inside = self.inside.as_ref().ok_or_else(|| missing("instance"))?;
        let router = indices.load(&mut self.store, &inside.instance)?;
        router.call_session_key(&mut self.store, method, path_with_query, &headers).await
    }

    /// Its handler of HTTP requests.
    pub(crate) fn http_handler(
        &mut self,
        exports: &Exports,
    ) -> wasmtime::Result<incoming_handler::Guest> {
        let indices = exports.http_handler.as_ref().ok_or_else(|| missing("incoming-handler"))?;
        let inside = self.inside.as_ref().ok_or_else(|| missing("instance"))?;
        indices.load(&mut self.store, &inside.instance)
    }

    /// What went wrong, in words for whoever wrote the guest.
    pub(crate) fn failure(&self, error: &wasmtime::Error) -> Failure {
        let excess = self.store.data().budget.excess();
        let limits = self.store.data().application.limits;
        if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            return Failure::busy();
        }
        let (kind, before) = match excess {
            _ if error.downcast_ref::<OutOfTime>().is_some() => (FailureKind::Time, String::new()),
            Some(Excess::Memory) => {
                let why =
                    format!("it was refused more than {} octets of memory; ", limits.memory_bytes);
                (FailureKind::Memory, why)
            }
            Some(Excess::Table) => {
                let why =
                    format!("it was refused more than {} table elements; ", limits.table_elements);
                (FailureKind::Memory, why)
            }
            None => (FailureKind::Trap, String::new()),
        };
        // With the guest's backtrace, not with ours.
        Failure::new(kind, format_args!("{before}{error:#}"))
    }
}

/// Somebody called what the component does not export: a bug of ours.
fn missing(what: &str) -> wasmtime::Error {
    wasmtime::Error::msg(format!("there is no {what} to call"))
}

impl ResourceLimiter for Budget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.admits_memory(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.admits_table(current, desired))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_PER_COMPONENT_MAX as usize
    }

    fn tables(&self) -> usize {
        MEMORIES_PER_COMPONENT_MAX as usize * 4
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT_MAX as usize
    }
}
