//! The cluster engine on real servers.

mod carrying;
mod copies;
mod credentials;
mod faults;
mod levels;
mod moves;
pub(crate) mod servers;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use state::clock::ManualClock;
use state::contract::{START, Subject};
use state::engine::cluster::{BelowQuota, ClusterStore, Options, WriteQuota};

use servers::{Plan, Servers};

/// One replica each, all on this host.
const ONE_COPY: WriteQuota =
    WriteQuota { copies: 1, below: BelowQuota::Refuse, own_host_counts: true };

/// Servers that tests share which harm none of them. They run as long as any of these tests does.
fn shared_servers() -> Arc<Servers> {
    static RUNNING: Mutex<Weak<Servers>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let servers = Arc::new(Servers::start(&Plan { replicas: 1, ..Plan::default() }));
        *running = Arc::downgrade(&servers);
        servers
    })
}

/// An empty store for the contract suite; without servers, the fake in its place.
pub(crate) fn subject() -> (Subject, Option<Arc<Servers>>) {
    static NAMESPACES: AtomicU32 = AtomicU32::new(0);
    let clock = Arc::new(ManualClock::at(START));
    if !servers::are_installed() {
        let store = state::engine::fake::FakeStore::new(clock.clone());
        return (Subject { store: Arc::new(store), clock }, None);
    }
    let servers = shared_servers();
    let options = Options {
        seeds: servers.seeds(),
        namespace: format!("test-{}-", NAMESPACES.fetch_add(1, Ordering::Relaxed)),
        quota: ONE_COPY,
        clock: clock.clone(),
        ..Options::default()
    };
    let store = ClusterStore::connect(options).expect("the store is opened");
    (Subject { store: Arc::new(store), clock }, Some(servers))
}
