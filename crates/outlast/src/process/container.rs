//! A container with the registrar and the configured applications: opens the stores, passes the manager's events on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::{Application, DigestAlgorithm, NodeConfig};
use container::http_port::{HttpHandle, HttpPort};
use container::server::{Server, ServerHandle, ServerSettings};
use container::session::SessionApplication;
use container::session::identity::KeyedNames;
use container::shard::{SessionApplications, ShardSettings};
use container::transactions::TransactionSettings;
use demo::BackToBack;
use guest::services::Stored;
use manager::ApplicationsDirectory;
use registrar::Registrar;
use registrar::bindings::Policy;
use sip::digest::Algorithm;
use sip::transaction::Timers;
use state::Store;
use state::clock::{Clock, SystemClock};
use state::engine::embedded::LockWait;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use topology::TopologyView;
#[cfg(feature = "faults")]
use topology::protocol::Fault;
use topology::protocol::{ApplicationTable, ClockStatus, Command, ToManager};
use topology::server::{Event, Reporter, beat};
use tracing::{info, warn};

use super::applications::Applications;
use super::cluster::{Membership, Outside};
use super::guests::Guests;
use super::http::Teller;
use super::shared_state::SharedState;
use super::usage::Usage;
use super::{Joined, http, snapshots};
use crate::stores::{self, State, accounts};

/// Events of the manager that wait for the container; more wait in the socket.
const EVENTS_MAX: usize = 16;

/// How often the registrar is asked for duties (keeping NATs open).
const TICK_INTERVAL: Duration = Duration::from_secs(5);

/// For a handler, and for a commit. The registrar works on a local store: what takes longer hangs, and holds up
/// the acknowledgements of its link.
const HANDLER_TIME_MAX: Duration = Duration::from_secs(2);

/// The same where the state lies in a cluster's stores: two reads, each of which may wait for a store's successor.
const HANDLER_TIME_MAX_SHARED: Duration = Duration::from_secs(5);

/// Two phones that register one address-of-record at a time conflict once or twice, never so often.
const COMMIT_CONFLICTS_MAX: u32 = 8;

/// How long the applications may take to load before the container serves without those that are not loaded yet; well
/// within the time after which the manager takes it for one that never serves.
const LOADING_MAX: Duration = Duration::from_secs(15);

/// Open transactions of one container, a large message counting as several: enough for its core, few enough (about
/// 1 GB, with up to twice as many answered ones) for its memory. Past it new requests are answered 503.
const TRANSACTIONS_MAX: usize = 200_000;

/// Contacts of one address-of-record; more are refused.
const CONTACTS_MAX: usize = 10;

pub(super) fn run(joined: Joined) -> anyhow::Result<()> {
    let directory = joined.welcome.directory.clone();
    let clock = guarded_clock(joined.subscription.reporter());
    let runtime = stores::runtime()?;
    let (state, shared) = open_state(&joined, &runtime, Arc::clone(&clock))?;
    let accounts = runtime.block_on(accounts::open_to_serve(&directory))?.store();
    let registrar = Registrar::new(
        registrar_settings(&joined.config, &joined.welcome.view),
        Arc::clone(&state),
        Arc::clone(&accounts),
        &joined.welcome.keys,
    )?;
    let handler_time_max = shared.as_ref().map_or(HANDLER_TIME_MAX, |_| HANDLER_TIME_MAX_SHARED);
    let settings =
        ServerSettings { handler_time_max, ..server_settings(&joined, Arc::clone(&clock))? };
    let applications = ApplicationsDirectory::of_node(&directory);
    let keyed = KeyedNames::new(&joined.welcome.keys);
    let services = Stored::new(Arc::clone(&state), accounts, clock, keyed);
    let loader = Arc::new(Guests::new(applications, Arc::new(services)));
    runtime.block_on(serve(joined, settings, state, shared, registrar, loader))
}

/// The state, and the same again if it is a cluster's.
fn open_state(
    joined: &Joined,
    runtime: &Runtime,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Arc<dyn Store>, Option<SharedState>)> {
    let Joined { config, welcome, subscription, .. } = joined;
    let reporter = subscription.reporter();
    let on_lock_wait = move |wait: &LockWait| report(&reporter, wait);
    let directory = &welcome.directory;
    match stores::open_state_reporting(directory, config, &welcome.view, clock, on_lock_wait)? {
        State::OwnNode(own) => {
            let snapshots = stores::snapshots(directory);
            snapshots::take_regularly(own.clone(), snapshots, config.state.snapshot_every);
            Ok((Arc::new(own), None))
        }
        State::Cluster(store) => {
            runtime.block_on(stores::cluster::opened(&store))?;
            let shared = SharedState::new(store.clone(), config.cluster.clone());
            runtime.spawn(shared.clone().look_after(subscription.reporter()));
            Ok((Arc::new(store), Some(shared)))
        }
    }
}

async fn serve(
    joined: Joined,
    settings: ServerSettings,
    state: Arc<dyn Store>,
    shared: Option<SharedState>,
    registrar: Registrar,
    loader: Arc<Guests>,
) -> anyhow::Result<()> {
    let registrar = Arc::new(registrar);
    let store = Arc::clone(&state);
    let (server, handle) = Server::bind(settings, state, Arc::<Registrar>::clone(&registrar))?;
    let domains = joined.config.registrar.domains.clone();
    let native = native_applications(&joined.config);
    let server = server.hosting(SessionApplications::new(native.clone()), domains);
    let beat_interval = joined.heartbeat().beat_interval();
    let port = HttpPort::start(http::settings(&joined)?, handle.clone());
    let port = port.context("cannot serve HTTP")?;
    let http = port.handle();
    http.view(joined.welcome.view.clone());
    let teller = || Teller {
        name: joined.name.clone(),
        address: http.address(),
        reporter: joined.subscription.reporter(),
    };
    tokio::spawn(teller().tell_first());
    let mut outside = Outside {
        name: joined.name.clone(),
        membership: Membership::new(&joined.welcome.directory),
        silence_max: joined.heartbeat().silence_max(),
        ports: joined.config.cluster.as_ref().and_then(|cluster| cluster.link_ports),
        handle: handle.clone(),
        http: http.clone(),
        reporter: joined.subscription.reporter(),
        port: None,
    };
    shared.iter().for_each(|shared| shared.follow(&joined.welcome.view));
    // Before it is ready: then everybody who links to it at once can.
    outside.follow(&joined.welcome.view);
    let told =
        Told { handle: handle.clone(), http: http.clone(), teller: teller(), outside, shared };
    handle.view(joined.welcome.view).await;
    let (tables, received) = watch::channel(joined.welcome.applications);
    let usage = Usage { handle: handle.clone(), store };
    let reporter = joined.subscription.reporter();
    let applications = Applications::new(loader, native, usage, http.clone(), reporter);
    let (hosted, is_hosted) = oneshot::channel();
    tokio::spawn(applications.follow(received, hosted));
    if timeout(LOADING_MAX, is_hosted).await.is_err() {
        warn!("the applications take long to load: serving without those that are not there yet");
    }
    joined.subscription.ready();
    let reporter = joined.subscription.reporter();
    let pulse = handle.pulse();
    let pulses = vec![pulse.clone()];
    beat(reporter, beat_interval, pulses, move || handle.left() + http.under_way());
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    joined.subscription.spawn(move |event| {
        // The container has ended by itself: nobody needs the event.
        let _ = sender.blocking_send(event);
    });
    tokio::spawn(follow(events, told, registrar, tables));
    server.run().await;
    // What waits for the last answers has not hung.
    let mut beats = tokio::time::interval(beat_interval / 4);
    let end = port.end();
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            () = end.as_mut() => return Ok(()),
            _ = beats.tick() => pulse.count(),
        }
    }
}

/// Who hears of the manager's events.
struct Told {
    handle: ServerHandle,
    http: HttpHandle,
    teller: Teller,
    outside: Outside,
    shared: Option<SharedState>,
}

/// Passes the manager's events on.
async fn follow(
    mut events: mpsc::Receiver<Event>,
    told: Told,
    registrar: Arc<Registrar>,
    tables: watch::Sender<ApplicationTable>,
) {
    let Told { handle, http, teller, mut outside, shared } = told;
    while let Some(event) = events.recv().await {
        match event {
            Event::View(view) => {
                teller.tell_if_unknown(&view);
                outside.follow(&view);
                shared.iter().for_each(|shared| shared.follow(&view));
                if let Err(error) = registrar.use_own_hosts(&own_hosts(&view)) {
                    warn!(%error, "an edge has an address that is none");
                }
                http.view(view.clone());
                handle.view(view).await;
            }
            Event::Applications(table) => drop(tables.send_replace(table)),
            Event::Keys(keys) => {
                // What the container itself derives is of the root that lasts.
                registrar.use_keys(&keys);
                info!("took over keys");
            }
            Event::Command(Command::Drain { deadline_ms }) => {
                let deadline_in = Duration::from_millis(deadline_ms);
                http.drain(deadline_in);
                handle.drain(deadline_in).await;
            }
            #[cfg(feature = "faults")]
            Event::Command(Command::Fault(Fault::WedgeSip)) => handle.wedge().await,
            Event::Command(Command::Stop) | Event::ManagerGone => handle.stop().await,
        }
    }
}

/// The manager ends a process that keeps the others from writing. One that could not write its name is known to
/// nobody: it is as good as dead, and the kernel has its lock when it ends.
fn report(reporter: &Reporter, wait: &LockWait) {
    if let Some(holder) = wait.holder_pid {
        let waited_ms = u64::try_from(wait.waited.as_millis()).unwrap_or(u64::MAX);
        reporter.report(&ToManager::LockHeld { holder, waited_ms });
    }
}

/// One for the whole process; the manager hears of a step, for `outlast status`.
fn guarded_clock(reporter: Reporter) -> Arc<dyn Clock> {
    Arc::new(SystemClock::reporting(move |step| {
        warn!(by_ms = step.by_ms, "the machine's clock was set: no lifetime ends for a minute");
        reporter.report(&ToManager::ClockStepped(ClockStatus {
            stepped_by_ms: step.by_ms,
            frozen_until_ms: step.frozen_until.0,
        }));
    }))
}

/// The applications with sessions that are built in, in the configured order; what no application wants is the registrar's.
fn native_applications(config: &NodeConfig) -> Vec<Arc<dyn SessionApplication>> {
    let native = |application: &Application| -> Option<Arc<dyn SessionApplication>> {
        match application {
            Application::Registrar => None,
            Application::BackToBack => Some(Arc::new(BackToBack::default())),
        }
    };
    config.container.applications.iter().filter_map(native).collect()
}

fn server_settings(joined: &Joined, clock: Arc<dyn Clock>) -> anyhow::Result<ServerSettings> {
    let welcome = &joined.welcome;
    let link_path =
        welcome.link.clone().ok_or_else(|| anyhow::anyhow!("the manager named no link socket"))?;
    Ok(ServerSettings {
        shard: ShardSettings {
            name: joined.name.clone(),
            incarnation: welcome.incarnation,
            node: welcome.node.clone(),
            keys: welcome.keys.clone(),
            transactions: TransactionSettings {
                timers: Timers::default(),
                transactions_max: TRANSACTIONS_MAX,
            },
            commit_conflicts_max: COMMIT_CONFLICTS_MAX,
        },
        link_path,
        heartbeat: joined.heartbeat(),
        clock,
        tick_interval: TICK_INTERVAL,
        handler_time_max: HANDLER_TIME_MAX,
    })
}

fn registrar_settings(config: &NodeConfig, view: &TopologyView) -> registrar::Settings {
    let settings = registrar::Settings::for_domains(&config.registrar.domains);
    registrar::Settings {
        authenticate: config.registrar.authenticate,
        algorithms: config.registrar.algorithms.iter().map(algorithm).collect(),
        own_hosts: own_hosts(view),
        policy: Policy {
            expires_min: config.registrar.expires_min,
            expires_default: config.registrar.expires_default,
            expires_max: config.registrar.expires_max,
            contacts_max: CONTACTS_MAX,
        },
        ..settings
    }
}

fn algorithm(configured: &DigestAlgorithm) -> Algorithm {
    match configured {
        DigestAlgorithm::Md5 => Algorithm::Md5,
        DigestAlgorithm::Sha256 => Algorithm::Sha256,
        DigestAlgorithm::Sha512_256 => Algorithm::Sha512_256,
    }
}

/// The hosts by which phones may call the node itself, or its cluster: own and public ones of every edge.
fn own_hosts(view: &TopologyView) -> Vec<String> {
    let addresses = || view.edges().flat_map(|edge| &edge.addresses);
    let own = addresses().map(|address| match address.own.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    });
    let public = addresses().map(|address| without_port(&address.public).to_owned());
    let mut hosts: Vec<String> = own.chain(public).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// `host:port` or `host`, an IPv6 address in brackets (which stay).
fn without_port(public: &str) -> &str {
    match public.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        Some(_) | None => public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_lose_their_port_only() {
        for (public, host) in [
            ("sip.example.com", "sip.example.com"),
            ("sip.example.com:5060", "sip.example.com"),
            ("192.0.2.1:5060", "192.0.2.1"),
            ("[2001:db8::1]:5060", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(without_port(public), host);
        }
    }
}
