//! The registrar as an application: from a request to the effects that its container carries out.
//!
//! REGISTER is answered here; OPTIONS to the server itself too; everything else for a local address-of-record is
//! proxied to its bindings, without Record-Route: after set-up a call needs edges only. Records are read here and
//! nowhere deeper; what is decided about them is decided in the pure modules.
//!
//! Every handler may run again (after a commit conflict, or in another container after this one died between
//! commit and answer): retries are known by fingerprints that are in the same commit as what they did.
//!
//! Source: RFC 3261 §10.3, §11.2, §16.5, §22. Deliberately absent: forking, CANCEL and timers (the container's).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use container::application::{Application, Duty, Effects, IncomingRequest, Tick};
use futures_util::future::BoxFuture;
use sip::{Method, Uri};
use state::{Batch, Prefix, Store, UnixMillis};
use topology::{ChoiceKey, KeyRing};
use tracing::warn;

use crate::accounts::{AccountError, AccountStore};
use crate::authentication::Authenticator;
use crate::domains::{Domains, Place};
use crate::keep_alive;
use crate::nonce::Nonces;
use crate::settings::{Settings, SettingsError};

mod answers;
mod calls;
mod registering;
mod sender;

/// The registrar and proxy of the node's domains.
pub struct Registrar {
    settings: Settings,
    domains: Domains,
    authenticator: Authenticator,
    accounts: AccountStore,
    bindings: Arc<dyn Store>,
    /// When NATs were looked after last; 0: not yet.
    last_tick: AtomicU64,
}

impl Registrar {
    /// A registrar on the store of bindings and the synchronous store of accounts; `keys` are the node's.
    ///
    /// # Errors
    /// [`SettingsError`]: the first setting that cannot be used.
    pub fn new(
        settings: Settings,
        bindings: Arc<dyn Store>,
        accounts: Arc<dyn Store>,
        keys: &KeyRing,
    ) -> Result<Registrar, SettingsError> {
        settings.check()?;
        let nonces = Nonces::new(keys.derive("nonce"), settings.nonce_age_max);
        Ok(Registrar {
            domains: Domains::new(&settings)?,
            authenticator: Authenticator::new(nonces, &settings.algorithms),
            accounts: AccountStore::new(accounts),
            bindings,
            last_tick: AtomicU64::new(0),
            settings,
        })
    }

    /// The node's keys were rotated: these hold from the next request on.
    pub fn use_keys(&self, keys: &KeyRing) {
        self.authenticator.nonces().use_key(keys.derive("nonce"));
    }

    /// The edges' hosts have changed, by which phones may call the server itself.
    ///
    /// # Errors
    /// [`SettingsError::BadHost`]; they stay as they were.
    pub fn use_own_hosts(&self, hosts: &[String]) -> Result<(), SettingsError> {
        self.domains.use_own_hosts(hosts)
    }

    async fn decide(&self, request: &IncomingRequest) -> Result<Effects, Failure> {
        let message = &request.message;
        let (Some(method), Some(request_uri)) = (message.method(), message.request_uri()) else {
            return Ok(answers::plain(400, "Not a request"));
        };
        let uri = match Uri::parse(request_uri) {
            Ok(Uri::Sip(uri)) => uri,
            // RFC 3261 §8.2.2.1 and §16.5: a scheme we know of, but no number is ours.
            Ok(Uri::Tel(_)) => return Ok(answers::plain(404, "No telephone numbers here")),
            Ok(Uri::Other { .. }) => return Ok(answers::status(416)),
            Err(_) => return Ok(answers::plain(400, "Malformed Request-URI")),
        };
        if method == Method::Register {
            return self.register(request).await;
        }
        match self.domains.place(&uri, request.flow.local) {
            Place::Server => Ok(answers::server_itself(message, method)),
            Place::NobodyHere => Ok(answers::unless_ack(method, answers::status(404))),
            Place::Local(callee) => self.call_local(request, method, &uri, &callee).await,
            Place::Elsewhere => match self.party_of_dialog(request, &uri).await? {
                Some(effects) => Ok(effects),
                None => self.call_elsewhere(request, method, request_uri).await,
            },
        }
    }

    async fn keep_alive_duties(&self, tick: &Tick) -> Vec<Duty> {
        let interval = self.settings.keep_alive_interval;
        let previous = match self.last_tick.swap(tick.now.0, Ordering::Relaxed) {
            // Nobody knows when the last life refreshed what: all are due.
            0 => tick.now.saturating_sub(interval),
            previous => UnixMillis(previous),
        };
        let mut duties = Vec::new();
        for bucket in keep_alive::due(previous, tick.now, interval) {
            let space = keep_alive::space(bucket);
            if !tick.owns(ChoiceKey::Session(space.as_str().as_bytes())) {
                continue;
            }
            if let Err(error) = self.duties_of_bucket(&space, tick.now, &mut duties).await {
                warn!(%space, %error, "NATs of one bucket are not refreshed in this round");
            }
        }
        duties
    }

    async fn duties_of_bucket(
        &self,
        space: &state::Space,
        now: UnixMillis,
        duties: &mut Vec<Duty>,
    ) -> Result<(), state::StoreError> {
        // Half a millisecond's work: the requests of a container wait for it.
        const PAGE: usize = 256;
        let mut after = None;
        loop {
            others_first().await;
            let page = self.bindings.scan(space, &Prefix::All, after.as_ref(), PAGE).await?;
            let last = page.len() < PAGE;
            for (key, record) in page {
                match keep_alive::decode(&record.value) {
                    Ok(entries) => duties.extend(
                        entries
                            .into_iter()
                            .filter(|entry| entry.expires_at > now)
                            .map(|entry| Duty::KeepAlive { path: entry.path }),
                    ),
                    Err(error) => warn!(%key, %error, "a NAT is not refreshed"),
                }
                after = Some(key);
            }
            if last {
                return Ok(());
            }
        }
    }
}

impl Application for Registrar {
    fn name(&self) -> &str {
        "registrar"
    }

    fn handle<'a>(&'a self, request: &'a IncomingRequest) -> BoxFuture<'a, Effects> {
        Box::pin(async move {
            match self.decide(request).await {
                Ok(effects) => effects,
                Err(failure) => failure.answer(),
            }
        })
    }

    fn is_gatekeeper(&self) -> bool {
        self.settings.authenticate
    }

    fn admit<'a>(&'a self, request: &'a IncomingRequest) -> BoxFuture<'a, Result<Batch, Effects>> {
        Box::pin(async move {
            match self.admission(request).await {
                Ok(admission) => admission,
                Err(failure) => Err(failure.answer()),
            }
        })
    }

    fn tick<'a>(&'a self, tick: &'a Tick) -> BoxFuture<'a, Vec<Duty>> {
        Box::pin(self.keep_alive_duties(tick))
    }
}

/// Why nothing could be decided about a request. Each is the engine's or the system's fault, never the sender's.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the bindings cannot be read")]
    Bindings(#[from] state::StoreError),
    #[error("the account store cannot be read")]
    Accounts(#[from] AccountError),
    #[error("the record {item} cannot be used")]
    Record {
        item: String,
        #[source]
        source: state::codec::RecordError,
    },
    #[error("the system gives no random octets")]
    Random(#[source] getrandom::Error),
}

impl Failure {
    /// 503 when the same request may succeed in a moment, else 500.
    fn answer(&self) -> Effects {
        let transient = match self {
            Failure::Bindings(error) | Failure::Accounts(AccountError::Read(error)) => {
                error.is_transient()
            }
            Failure::Accounts(_) | Failure::Record { .. } | Failure::Random(_) => false,
        };
        let cause = std::error::Error::source(self).map(ToString::to_string).unwrap_or_default();
        warn!(%cause, "{self}");
        if transient { answers::busy() } else { answers::status(500) }
    }
}

/// Lets everything else that its executor has to do go first, once.
async fn others_first() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Octets that nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(Failure::Random)?;
    Ok(octets)
}

#[cfg(test)]
mod tests;
