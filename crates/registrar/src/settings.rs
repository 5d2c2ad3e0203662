//! What the registrar can be told; checked before it starts.

use std::time::Duration;

use bytes::Bytes;
use sip::digest::Algorithm;

use crate::bindings::Policy;

/// The registrar's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ask phones of our domains for credentials. Without, whoever reaches the registrar may register any address.
    pub authenticate: bool,
    /// Domains served: hosts of addresses-of-record, and realms of their challenges.
    pub domains: Vec<String>,
    /// Further names and addresses that phones may call this server itself by (public addresses of edges), without
    /// port. The local address of a request's flow always counts.
    pub own_hosts: Vec<String>,
    /// Lifetimes and number of bindings.
    pub policy: Policy,
    /// Algorithms to challenge with, each once, in the order of the challenges.
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce is taken after its issue. Longer saves phones a round trip, and keeps marks longer.
    pub nonce_age_max: Duration,
    /// How often a NAT is refreshed for a phone that does not do it itself. UDP mappings live 30 s or more (RFC 4787
    /// §4.3 asks for 2 minutes, many routers give less).
    pub keep_alive_interval: Duration,
    /// Service-Route values of every 200 to REGISTER, in order (RFC 3608); usually none: phones come by the edge anyhow.
    pub service_route: Vec<Bytes>,
    /// Flow-Timer of a 200 to an outbound REGISTER (RFC 5626 §4.4); `None`: phones choose.
    pub flow_timer: Option<Duration>,
}

impl Settings {
    /// The defaults, for these domains.
    pub fn for_domains(domains: impl IntoIterator<Item = impl Into<String>>) -> Settings {
        Settings {
            authenticate: true,
            domains: domains.into_iter().map(Into::into).collect(),
            own_hosts: Vec::new(),
            policy: Policy {
                expires_min: Duration::from_secs(60),
                expires_default: Duration::from_secs(3600),
                expires_max: Duration::from_secs(7200),
                contacts_max: 10,
            },
            algorithms: Algorithm::STRONGEST_FIRST.to_vec(),
            nonce_age_max: Duration::from_secs(300),
            keep_alive_interval: Duration::from_secs(25),
            service_route: Vec::new(),
            flow_timer: None,
        }
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nothing would be served.
    #[error("registrar.domains is empty; name at least one domain, for example \"example.com\"")]
    NoDomain,
    /// Not a host.
    #[error(
        "registrar.domains: \"{0}\" is not a host name or address, for example \"example.com\""
    )]
    BadHost(String),
    /// Nobody could log in.
    #[error("registrar.algorithms is empty; name at least one of SHA-512-256, SHA-256, MD5")]
    NoAlgorithm,
    /// The limits contradict one another.
    #[error(
        "registrar.expires_min, expires_default and expires_max must not fall in this order, and not be zero"
    )]
    Lifetimes,
    /// Nobody could register.
    #[error("registrar.contacts_max is 0; an address needs at least one contact")]
    NoContact,
}

impl Settings {
    /// # Errors
    /// The first setting that cannot be used.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let Policy { expires_min, expires_default, expires_max, contacts_max } = self.policy;
        if self.algorithms.is_empty() {
            return Err(SettingsError::NoAlgorithm);
        }
        if expires_min > expires_default || expires_default > expires_max || expires_min.is_zero() {
            return Err(SettingsError::Lifetimes);
        }
        if contacts_max == 0 {
            return Err(SettingsError::NoContact);
        }
        Ok(())
    }
}
