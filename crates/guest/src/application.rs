//! A version of an application that runs: events of its sessions go in, effects come out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use container::application::Response;
use container::session::{
    Callers, Directive, NoKey, Region, Replication, SessionApplication, SessionEffect,
    SessionEvent, SessionId, SessionView,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sip::{HeaderName, Message};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

use crate::bindings::exports::outlast::app::handler as wit;
use crate::component::{Handlers, Refused, load};
use crate::engine::Engine;
use crate::events;
use crate::failure::{Counters, Counts, Failure, FailureKind, LOGGED_PER_SECOND_MAX, LogRate};
use crate::host::Host;
use crate::host::Lines;
use crate::instance::{Loaded, Room};
use crate::limits::{EVENTS_OF_ONE_MAX, KEY_BYTES_MAX, LIVE_INSTANCES_MAX, Limits, TURNS_TIME_MAX};
use crate::overlay::Overlay;
use crate::patience::{Late, within};
use crate::services::{InMemory, Services};

/// What a phone is told when all places are taken: seconds until it tries again.
pub(crate) const BUSY_RETRY_AFTER: &str = "2";

/// What need not be answered looks for room again after so long.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Whose instance it is, and what it may ask for.
pub(crate) struct Identity {
    /// `NAME`: what its versions share.
    pub(crate) unversioned: String,
    /// `NAME@VERSION`: what its sessions' records hold.
    pub(crate) versioned: String,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) lines: Lines,
}

impl Identity {
    /// Of an instance that is only to show that it begins.
    pub(crate) fn on_trial(limits: Limits) -> Identity {
        Identity {
            unversioned: "trial".to_owned(),
            versioned: "trial".to_owned(),
            config: BTreeMap::new(),
            limits,
            services: Arc::new(InMemory::default()),
            lines: Lines::default(),
        }
    }
}

/// Whether an instance serves one event or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instances {
    /// Each event finds the guest as it was built: nothing of another session can be left in its memory.
    #[default]
    Fresh,
    /// Instances go on living for later events, also of other sessions, until they fail or have handled
    /// [`REUSES_MAX`](crate::limits::REUSES_MAX): faster, and for guests that keep nothing of a session in memory.
    Reused,
}

/// Which initial requests an application takes.
pub type Accepts = Box<dyn Fn(&Message) -> bool + Send + Sync>;

/// How an application is run: what its manifest says.
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which initial requests begin a session: a pure function.
    pub accepts: Accepts,
    /// What `config` gives it.
    pub config: BTreeMap<String, String>,
    /// What one event may cost.
    pub limits: Limits,
    /// Fresh instances, or reused ones.
    pub instances: Instances,
    /// Whether it is told that a session has begun, before the request that began it.
    pub hears_created: bool,
    /// Whether it is told that a session is over.
    pub hears_ended: bool,
    /// How a request is answered whose handler failed.
    pub on_failure: u16,
    /// Whose initial requests it takes.
    pub callers: Callers,
    /// For whom it serves.
    pub region: Region,
    /// Whom the calls of its sessions are offered to.
    pub directive: Directive,
    /// Where its sessions are kept, and when their messages leave.
    pub replication: Replication,
    /// What lies outside of sessions.
    pub services: Arc<dyn Services>,
}

impl Settings {
    /// An application that takes no request until told which, with the default of everything.
    pub fn new(name: &str, version: &str) -> Settings {
        Settings {
            name: name.to_owned(),
            version: version.to_owned(),
            accepts: Box::new(|_| false),
            config: BTreeMap::new(),
            limits: Limits::default(),
            instances: Instances::Fresh,
            hears_created: false,
            hears_ended: false,
            on_failure: 500,
            callers: Callers::default(),
            region: Region::default(),
            directive: Directive::default(),
            replication: Replication::default(),
            services: Arc::new(InMemory::default()),
        }
    }
}

/// A version of an application that runs. A container has one for each version that is deployed.
pub struct Guest {
    pub(crate) identity: Arc<Identity>,
    pub(crate) loaded: Loaded,
    pub(crate) counters: Counters,
    log_rate: Mutex<LogRate>,
    loaded_at: Instant,
    accepts: Accepts,
    instances: Instances,
    pub(crate) hears_created: bool,
    hears_ended: bool,
    on_failure: u16,
    callers: Callers,
    region: Region,
    directive: Directive,
    replication: Replication,
    /// Its share of the room that all applications have.
    places: Semaphore,
    /// As much for responses that stream.
    pub(crate) streams: Semaphore,
    /// Instances that wait for their next event. Locked for as long as it takes to take one or to put one back.
    waiting: Mutex<Vec<Room>>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("name", &self.identity.versioned).finish_non_exhaustive()
    }
}

impl Guest {
    /// Makes a component that was prepared ready to run. `code` is its compiled code; where that was made by another
    /// release or for another processor the component is compiled again, which takes as long as preparing it did, and the
    /// new code is returned to be kept in its place.
    ///
    /// # Errors
    /// [`Refused`]: it was not prepared by this release's rules.
    pub fn load(
        engine: &Engine,
        component: &[u8],
        code: Option<&[u8]>,
        settings: Settings,
    ) -> Result<(Guest, Option<Vec<u8>>), Refused> {
        let (loaded, code) = load(engine, component, code)?;
        let versioned = format!("{}@{}", settings.name, settings.version);
        let guest = Guest {
            identity: Arc::new(Identity {
                unversioned: settings.name,
                versioned,
                config: settings.config,
                limits: settings.limits,
                services: settings.services,
                lines: Lines::default(),
            }),
            loaded,
            counters: Counters::default(),
            log_rate: Mutex::new(LogRate::new(LOGGED_PER_SECOND_MAX)),
            loaded_at: Instant::now(),
            accepts: settings.accepts,
            instances: settings.instances,
            hears_created: settings.hears_created,
            hears_ended: settings.hears_ended,
            on_failure: settings.on_failure,
            callers: settings.callers,
            region: settings.region,
            directive: settings.directive,
            replication: settings.replication,
            places: Semaphore::new(EVENTS_OF_ONE_MAX),
            streams: Semaphore::new(EVENTS_OF_ONE_MAX),
            waiting: Mutex::new(Vec::new()),
        };
        Ok((guest, code))
    }

    /// What it has to offer.
    pub fn handlers(&self) -> Handlers {
        self.loaded.exports.handlers()
    }

    /// What it has done since it was loaded.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// The key of the session that an initial request belongs to; None: a session of its own.
    ///
    /// # Errors
    /// [`Failure`]: the key function failed, or gave a key that is none; it is counted and logged.
    pub async fn sip_session_key(&self, request: &Message) -> Result<Option<String>, Failure> {
        if self.loaded.exports.router.is_none() {
            return Ok(None);
        }
        let (_, key) = self.run(None, Call::SessionKey(request)).await;
        key.and_then(checked_key).inspect_err(|failure| self.note(failure, None))
    }

    /// The key of the session that an HTTP request belongs to; None: what its cookie says.
    ///
    /// # Errors
    /// As of [`sip_session_key`](Self::sip_session_key).
    pub async fn http_session_key(
        &self,
        method: &str,
        path_with_query: &str,
        headers: &[(String, String)],
    ) -> Result<Option<String>, Failure> {
        if self.loaded.exports.http_router.is_none() {
            return Ok(None);
        }
        let call = Call::HttpSessionKey { method, path_with_query, headers };
        let (_, key) = self.run(None, call).await;
        key.and_then(checked_key).inspect_err(|failure| self.note(failure, None))
    }

    /// Counts a failure and says what happened.
    pub(crate) fn note(&self, failure: &Failure, session: Option<SessionId>) {
        self.counters.failure(failure.kind);
        let mut rate = self.log_rate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = rate.admits(self.loaded_at.elapsed().as_secs()) else { return };
        drop(rate);
        let (application, kind) = (&self.identity.versioned, failure.kind.as_str());
        let session = session.map(|id| id.to_string()).unwrap_or_default();
        warn!(application, session, kind, left_out, "a handler failed: {}", failure.detail);
    }

    /// What is to be told of a call if nobody awaits it any more before it ends.
    pub(crate) fn unless_given_up(&self, session: Option<SessionId>) -> GivenUp<'_> {
        GivenUp { guest: self, session, has_ended: false }
    }

    /// A place among its events: whoever waits for an answer is told soon that there is none.
    pub(crate) async fn place(&self, is_answered: bool) -> Result<SemaphorePermit<'_>, Failure> {
        let place = self.places.acquire();
        let place = if is_answered {
            let place = tokio::time::timeout(self.identity.limits.wall_time, place).await;
            place.map_err(|_| Failure::busy())?
        } else {
            place.await
        };
        place.map_err(|_| Failure::busy())
    }

    /// Calls into an instance, within the limits of one event: what the guest wants, and what it gave.
    async fn run(
        &self,
        overlay: Option<Overlay>,
        call: Call<'_>,
    ) -> (Option<Overlay>, Result<Option<String>, Failure>) {
        let given_up = self.unless_given_up(overlay.as_ref().map(|overlay| overlay.view().id));
        let _place = match self.place(call.is_answered()).await {
            Ok(place) => place,
            Err(busy) => {
                given_up.not();
                return (overlay, Err(busy));
            }
        };
        let _time = self.loaded.engine.keep_time();
        let host = || Host::new(Arc::clone(&self.identity));
        let mut room = self.take_waiting().unwrap_or_else(|| self.loaded.room(host()));
        room.begin(overlay);
        let wall_time = self.identity.limits.wall_time;
        let outcome = within(wall_time, self.call(&mut room, call)).await;
        given_up.not();
        let outcome = match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(room.failure(&error)),
            Err(Late) => Err(Failure::late(wall_time)),
        };
        let overlay = room.end();
        if outcome.is_ok() {
            self.put_back(room);
        }
        (overlay, outcome)
    }

    async fn call(&self, room: &mut Room, call: Call<'_>) -> wasmtime::Result<Option<String>> {
        self.loaded.furnish(room).await?;
        let exports = &self.loaded.exports;
        match call {
            Call::Event { event, begins } => {
                if begins {
                    room.handle(exports, wit::Event::Created).await?;
                }
                if let Some(event) = events::event(room.store.data_mut(), event) {
                    room.handle(exports, event).await?;
                }
                Ok(None)
            }
            Call::SessionKey(request) => room.session_key(exports, request).await,
            Call::HttpSessionKey { method, path_with_query, headers } => {
                room.http_session_key(exports, method, path_with_query, headers).await
            }
        }
    }

    fn take_waiting(&self) -> Option<Room> {
        match self.instances {
            Instances::Fresh => None,
            Instances::Reused => self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop(),
        }
    }

    /// An instance that has done its work may wait for more.
    fn put_back(&self, room: Room) {
        if self.instances == Instances::Fresh || !room.is_reusable() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < LIVE_INSTANCES_MAX {
            waiting.push(room);
        }
    }

    /// How a request is answered whose handler failed so.
    fn status_of(&self, kind: FailureKind) -> u16 {
        match kind {
            FailureKind::Busy => 503,
            FailureKind::Trap | FailureKind::Time | FailureKind::Memory => self.on_failure,
        }
    }

    /// What is done in place of what a handler failed to say.
    fn refusal(&self, event: &SessionEvent, kind: FailureKind) -> Vec<SessionEffect> {
        let SessionEvent::Request { request, .. } = event else { return Vec::new() };
        let response = match self.status_of(kind) {
            503 => Response::new(503).header(HeaderName::RetryAfter, BUSY_RETRY_AFTER),
            status => Response::new(status),
        };
        vec![SessionEffect::Respond { request: *request, response }]
    }
}

/// Counts a call, and tells of it, that is dropped before its end.
pub(crate) struct GivenUp<'a> {
    guest: &'a Guest,
    session: Option<SessionId>,
    has_ended: bool,
}

impl GivenUp<'_> {
    /// It has come to its end.
    pub(crate) fn not(mut self) {
        self.has_ended = true;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.guest.note(&Failure::new(FailureKind::Time, "it was given up"), self.session);
        }
    }
}

/// A call into a guest.
enum Call<'a> {
    /// Of its handler, for an event; twice if a session begins with it and the guest wants to hear that.
    Event { event: &'a SessionEvent, begins: bool },
    /// Of its key function.
    SessionKey(&'a Message),
    /// Of its key function for HTTP requests.
    HttpSessionKey { method: &'a str, path_with_query: &'a str, headers: &'a [(String, String)] },
}

impl Call<'_> {
    /// Whether somebody waits for an answer.
    fn is_answered(&self) -> bool {
        match self {
            Call::Event { event, .. } => matches!(event, SessionEvent::Request { .. }),
            Call::SessionKey(_) | Call::HttpSessionKey { .. } => true,
        }
    }
}

fn checked_key(key: Option<String>) -> Result<Option<String>, Failure> {
    match &key {
        Some(text) if !(1..=KEY_BYTES_MAX).contains(&text.len()) => {
            let why = format!("a key of {} octets; it has 1 to {KEY_BYTES_MAX}", text.len());
            Err(Failure::new(FailureKind::Trap, why))
        }
        Some(_) | None => Ok(key),
    }
}

impl SessionApplication for Guest {
    fn name(&self) -> &str {
        &self.identity.versioned
    }

    fn accepts(&self, request: &Message) -> bool {
        self.loaded.exports.handler.is_some() && (self.accepts)(request)
    }

    fn callers(&self) -> Callers {
        self.callers
    }

    fn region(&self) -> Region {
        self.region
    }

    fn directive(&self) -> Directive {
        self.directive
    }

    fn is_keyed(&self) -> bool {
        self.loaded.exports.router.is_some()
    }

    fn session_key<'a>(
        &'a self,
        request: &'a Message,
    ) -> BoxFuture<'a, Result<Option<Bytes>, NoKey>> {
        async move {
            match self.sip_session_key(request).await {
                Ok(key) => Ok(key.map(Bytes::from)),
                Err(failure) => Err(NoKey { status: self.status_of(failure.kind) }),
            }
        }
        .boxed()
    }

    fn hears_ended(&self) -> bool {
        self.hears_ended
    }

    fn handler_time_max(&self) -> Option<Duration> {
        let limits = self.identity.limits;
        Some(limits.cpu_time + limits.wall_time + TURNS_TIME_MAX)
    }

    fn replication(&self) -> Replication {
        self.replication
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        async move {
            if let SessionEvent::Http(request) = event {
                return self.on_http(session, request).await;
            }
            self.counters.event();
            let begins = self.hears_created && events::begins(event);
            loop {
                let overlay = Overlay::new(session.clone(), self.identity.limits);
                let call = Call::Event { event, begins };
                let is_answered = call.is_answered();
                let (overlay, outcome) = self.run(Some(overlay), call).await;
                match outcome {
                    Ok(_) => return overlay.map(Overlay::into_effects).unwrap_or_default(),
                    // Nobody would give it again.
                    Err(failure) if failure.kind == FailureKind::Busy && !is_answered => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    Err(failure) => {
                        self.note(&failure, Some(session.id));
                        return self.refusal(event, failure.kind);
                    }
                }
            }
        }
        .boxed()
    }
}
