//! How a cluster is used.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::clock::{Clock, SystemClock};

/// How many copies a write must have, beside the primary's, before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteQuota {
    /// So many. 0: the primary's alone will do.
    pub copies: usize,
    /// What happens when replicas have failed and there cannot be so many.
    pub below: BelowQuota,
    /// Whether a copy on the primary's own host counts. One that shares its fate usually should not.
    pub own_host_counts: bool,
}

/// What happens to writes while replicas have failed, by the word of the majority of primaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelowQuota {
    /// They are acknowledged with the copies there are, and [`Options::on_quota`] is told: a second fault may lose them.
    Continue,
    /// They are refused with [`StoreError::BelowQuota`](crate::StoreError::BelowQuota): what is acknowledged is kept.
    Refuse,
}

/// A shard fell below its quota or came back; passed to [`Options::on_quota`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaChange {
    /// Its primary.
    pub primary: SocketAddr,
    /// How many copies there should be.
    pub copies: usize,
    /// How many can be had, `None`: enough again.
    pub below: Option<usize>,
}

/// The callback for [`QuotaChange`].
pub type OnQuota = Arc<dyn Fn(&QuotaChange) + Send + Sync>;

/// How a cluster is used. Every process uses it with the same namespace and quota.
#[derive(Clone)]
pub struct Options {
    /// Some nodes, `host:port`; the others are learned from them.
    pub seeds: Vec<String>,
    /// With it, connections are encrypted; a node's certificate must name its address.
    pub tls: Option<Arc<ClientConfig>>,
    /// User and password, where the cluster asks for them. Without a user: Redis's `default`.
    pub user: Option<String>,
    /// See [`user`](Self::user).
    pub password: Option<String>,
    /// What the names of all records begin with, for several platforms on one cluster. No braces. Default: empty.
    pub namespace: String,
    /// Default: one copy, and `Refuse`.
    pub quota: WriteQuota,
    /// How long a call looks for a node that answers, while another one takes the place of a dead one. Default: 2 s. A node
    /// that is silent is left after 300 ms, and as soon as another has its place.
    pub patience: Duration,
    /// Called from a thread of the store when a shard falls below its quota or comes back. A warning is logged as well.
    pub on_quota: Option<OnQuota>,
    /// By which lifetimes end. Default: the machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            tls: None,
            user: None,
            password: None,
            namespace: String::new(),
            quota: WriteQuota { copies: 1, below: BelowQuota::Refuse, own_host_counts: false },
            patience: Duration::from_secs(2),
            on_quota: None,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("seeds", &self.seeds)
            .field("is_encrypted", &self.tls.is_some())
            .field("user", &self.user)
            .field("namespace", &self.namespace)
            .field("quota", &self.quota)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
