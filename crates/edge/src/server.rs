//! Sockets, links and time around the decisions of [`forward`](crate::forward).
//!
//! One thread per worker, each a mio loop of its own: own UDP sockets (SO_REUSEPORT), own
//! connections, own links to every container, own routing table. Workers share nothing but a
//! bounded mailbox each, for messages whose connection is another worker's. No lock is taken on a
//! message's way, and nothing in a loop blocks but its poll.
//!
//! ```text
//! run ── View, Stop ──▶ mailbox ─▶ Worker ─┬─ intake.rs    socket ─▶ frame ─▶ decision
//!                                          ├─ outbound.rs  decision ─▶ socket, link, other worker
//!                                          ├─ datagrams.rs, accepting.rs  its sockets
//!                                          ├─ links.rs     containers: connect, frames, death; reaching.rs: by what
//!                                          ├─ handed_on.rs what waits for a link to its owner
//!                                          ├─ probing.rs   containers: do they work off messages?
//!                                          ├─ peers.rs     plain SIP peers: probes
//!                                          ├─ opening.rs   when the sockets begin to be read
//!                                          └─ vitals.rs    what the manager is told of the worker
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use topology::{HeartbeatSettings, Incarnation, KeyRing, ProcessName, TopologyView};
use transport::Transport;
use transport::tcp::TcpLimits;

use crate::forward::{Keys, NatTraversal};
use crate::listener::{Listener, Listeners, PublicAddressError};
use crate::peer::Peer;

mod accepting;
mod counters;
mod datagrams;
mod findings;
pub mod handed_on;
mod intake;
mod link;
mod links;
mod mailbox;
pub mod opening;
mod outbound;
mod outstanding;
mod peers;
mod probing;
mod reaching;
mod vitals;
mod worker;

use findings::Findings;
pub use findings::{Finding, OnFinding};
use mailbox::{Mailbox, ToWorker};
use opening::Announcement;
pub use reaching::LinkCredentials;
pub use vitals::Vitals;
use worker::Worker;

/// How soon a worker that ended by itself is noticed.
const WORKER_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// All that an edge is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The edge's process name; containers see it.
    pub name: ProcessName,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// The node's secrets.
    pub keys: KeyRing,
    /// Path and flow tokens for phones behind NATs.
    pub nat_traversal: NatTraversal,
    /// How often containers ping, and how many pings they may miss. Peers are probed at the same
    /// interval.
    pub heartbeat: HeartbeatSettings,
    /// Plain SIP peers in a container's place; usually none.
    pub peers: Vec<Peer>,
    /// Limits of the connections of each worker.
    pub tcp: TcpLimits,
    /// Who is told which containers answer nothing.
    pub on_finding: OnFinding,
    /// For links to containers of other nodes; `None` while the node is no member of a cluster.
    pub credentials: Option<LinkCredentials>,
}

/// A listening socket that was opened for this edge.
#[derive(Debug)]
pub struct EdgeSocket {
    /// Which worker polls it, from 0. Every worker gets one UDP socket of each UDP address, or the
    /// kernel would spread datagrams over sockets that nobody reads.
    pub worker: u16,
    /// UDP, or TCP and listening.
    pub transport: Transport,
    /// What phones are told instead of its own address: `host` or `host:port`.
    pub public: String,
    /// The socket, bound to a concrete address.
    pub socket: OwnedFd,
}

/// What the process around tells a running edge.
#[derive(Debug)]
pub enum Event {
    /// The topology changed.
    View(TopologyView),
    /// The node's secrets changed.
    Keys(KeyRing),
    /// The node is a member of a cluster now: this is for links to the others.
    Credentials(LinkCredentials),
    /// Accept no connections, serve those that are open, end when none is left or after this time. A further one
    /// replaces the deadline.
    Drain(Duration),
    /// End in an orderly way.
    Stop,
}

/// Why an edge cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// It was given no socket: the configuration names no address.
    #[error("edge {name} has no listening socket; name one in edge.instances.listen")]
    NoSockets {
        /// The edge.
        name: ProcessName,
    },
    /// It was given more addresses than it can name to a container.
    #[error(
        "edge {name} listens on {count} addresses and can have {max}; name fewer in edge.instances.listen"
    )]
    TooManyAddresses {
        /// The edge.
        name: ProcessName,
        /// Addresses times transports.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A public address is malformed.
    #[error(transparent)]
    PublicAddress(#[from] PublicAddressError),
    /// A socket that was handed over cannot be used.
    #[error("{transport} socket of worker {worker} cannot be used: {source}")]
    Socket {
        /// Its transport.
        transport: Transport,
        /// Its worker.
        worker: u16,
        /// The system's reason.
        source: io::Error,
    },
    /// The system has no poll, descriptor or thread left.
    #[error("worker {worker} cannot start: {source}; raise the limits of processes and open files")]
    Worker {
        /// Which.
        worker: u16,
        /// The system's reason.
        source: io::Error,
    },
    /// A worker ended by itself: its poll failed or it panicked. A restart of the process helps.
    #[error("worker {worker} ended unexpectedly; the log says why")]
    WorkerEnded {
        /// Which.
        worker: u16,
    },
}

/// What all workers of an edge have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    listeners: Listeners,
    announcement: Announcement,
    findings: Findings,
    vitals: Vitals,
}

/// Serves until [`Event::Stop`] comes, the sender of `events` is gone, or a drain is over; then flushes and closes
/// what is open.
///
/// `view` is the topology at the start; newer ones come as events. `on_serving` is called once, when every worker
/// reads its sockets: when it can reach the containers that are ready, or has waited for them in vain. What it is
/// given shows from then on that the edge lives.
///
/// # Errors
/// [`EdgeError`]: at once when it cannot start, later when a worker ended by itself.
pub fn run(
    settings: Settings,
    sockets: Vec<EdgeSocket>,
    view: TopologyView,
    events: &Receiver<Event>,
    on_serving: impl FnOnce(Vitals) + Send + 'static,
) -> Result<(), EdgeError> {
    let edge = Edge::start(settings, sockets, view, on_serving)?;
    let mut drain: Option<Drain> = None;
    loop {
        match events.recv_timeout(WORKER_CHECK_INTERVAL) {
            Ok(Event::View(view)) => edge.notify(view),
            Ok(Event::Keys(keys)) => edge.use_keys(&keys),
            Ok(Event::Credentials(credentials)) => edge.use_credentials(&credentials),
            Ok(Event::Drain(deadline_in)) => {
                tracing::info!(?deadline_in, "draining: no new connections");
                edge.drain();
                drain = Some(Drain::begun(Instant::now(), deadline_in));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return edge.stop(),
        }
        // After every event, too: they may come closer together than the checks.
        let left = edge.vitals.streams();
        let now = Instant::now();
        if drain.is_some_and(|drain| drain.is_over(left, now)) {
            tracing::info!(left, "drained");
            return edge.stop();
        }
        if let Some(worker) = edge.ended_worker() {
            // The others end too, so that the manager starts a whole edge instead of keeping half
            // of one.
            edge.stop()?;
            return Err(EdgeError::WorkerEnded { worker });
        }
    }
}

/// A drain under way.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// When the workers have surely stopped to accept, so that nothing left means that nothing will come.
    settled_at: Instant,
    deadline: Instant,
}

impl Drain {
    fn begun(now: Instant, deadline_in: Duration) -> Drain {
        Drain { settled_at: now + WORKER_CHECK_INTERVAL, deadline: now + deadline_in }
    }

    fn is_over(&self, left: u64, now: Instant) -> bool {
        self.deadline <= now || left == 0 && self.settled_at <= now
    }
}

/// A running edge: its worker threads and their mailboxes.
#[derive(Debug)]
pub struct Edge {
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
    vitals: Vitals,
}

impl Edge {
    /// Starts the workers; they receive from when `on_serving` is called.
    ///
    /// # Errors
    /// [`EdgeError`] when a socket or a thread is not to be had.
    pub fn start(
        settings: Settings,
        sockets: Vec<EdgeSocket>,
        view: TopologyView,
        on_serving: impl FnOnce(Vitals) + Send + 'static,
    ) -> Result<Edge, EdgeError> {
        let worker_count = sockets.iter().map(|socket| socket.worker + 1).max().unwrap_or(0);
        if worker_count == 0 {
            return Err(EdgeError::NoSockets { name: settings.name });
        }
        let keys = Arc::new(Keys::derive(&settings.keys));
        let listeners = Listeners::new(listeners(&sockets)?);
        let (count, max) = (listeners.iter().count(), transport::link::ADDRESSES_MAX);
        if count > max {
            return Err(EdgeError::TooManyAddresses { name: settings.name, count, max });
        }
        let vitals = Vitals::new(worker_count);
        let announced = vitals.clone();
        let announce = Box::new(move || on_serving(announced));
        let shared = Arc::new(Shared {
            listeners,
            announcement: Announcement::new(worker_count, announce),
            findings: Findings::new(settings.on_finding.clone()),
            vitals: vitals.clone(),
            settings,
        });

        let mut mailboxes = Vec::new();
        let mut starts = Vec::new();
        for worker in 0..worker_count {
            let (mailbox, start) =
                mailbox::open().map_err(|source| EdgeError::Worker { worker, source })?;
            mailboxes.push(mailbox);
            starts.push(start);
        }
        let mut by_worker: Vec<Vec<EdgeSocket>> = (0..worker_count).map(|_| Vec::new()).collect();
        for socket in sockets {
            by_worker[usize::from(socket.worker)].push(socket);
        }
        let mut edge = Edge { mailboxes: mailboxes.clone(), threads: Vec::new(), vitals };
        for (worker, (start, sockets)) in (0..worker_count).zip(starts.into_iter().zip(by_worker)) {
            let worker_name = format!("edge-worker-{worker}");
            let (shared, mailboxes, view) = (Arc::clone(&shared), mailboxes.clone(), view.clone());
            let keys = Arc::clone(&keys);
            // Sockets are taken over here, so that an unusable one is an error of the start.
            let prepared = worker::take_over(sockets)?;
            let thread =
                thread::Builder::new().name(worker_name).spawn(move || {
                    match Worker::new(worker, shared, keys, start, mailboxes, prepared, &view) {
                        Ok(mut worker) => worker.run(),
                        Err(error) => tracing::error!(%error, worker, "edge worker cannot start"),
                    }
                });
            match thread {
                Ok(thread) => edge.threads.push(thread),
                Err(source) => {
                    edge.stop()?;
                    return Err(EdgeError::Worker { worker, source });
                }
            }
        }
        Ok(edge)
    }

    /// Tells every worker of a change.
    pub fn notify(&self, view: TopologyView) {
        let view = Arc::new(view);
        for mailbox in &self.mailboxes {
            // Who has ended is found by `ended_worker`.
            let _ = mailbox.deliver(ToWorker::View(Arc::clone(&view)));
        }
    }

    /// Makes tokens with these secrets from now on; those made under the ones before are accepted as long as
    /// the ring has them.
    pub fn use_keys(&self, ring: &KeyRing) {
        let keys = Arc::new(Keys::derive(ring));
        for mailbox in &self.mailboxes {
            // Who has ended is found by `ended_worker`.
            let _ = mailbox.deliver(ToWorker::Keys(Arc::clone(&keys)));
        }
    }

    /// Links to containers of other nodes with these from now on.
    pub fn use_credentials(&self, credentials: &LinkCredentials) {
        for mailbox in &self.mailboxes {
            // Who has ended is found by `ended_worker`.
            let _ = mailbox.deliver(ToWorker::Credentials(credentials.clone()));
        }
    }

    /// Tells every worker to accept no connections from now on.
    pub fn drain(&self) {
        for mailbox in &self.mailboxes {
            let _ = mailbox.deliver(ToWorker::Drain);
        }
    }

    /// Whether it lives, and what it has to finish.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// A worker that ended by itself, if one did.
    pub fn ended_worker(&self) -> Option<u16> {
        let ended = self.threads.iter().position(JoinHandle::is_finished);
        ended.map(|worker| u16::try_from(worker).expect("workers are counted in u16"))
    }

    /// Ends the workers in an orderly way and waits for them.
    ///
    /// # Errors
    /// [`EdgeError::WorkerEnded`] when one of them had panicked.
    pub fn stop(self) -> Result<(), EdgeError> {
        for mailbox in &self.mailboxes {
            // One that has ended already needs no telling.
            let _ = mailbox.deliver(ToWorker::Stop);
        }
        let mut result = Ok(());
        for (worker, thread) in (0..).zip(self.threads) {
            if thread.join().is_err() {
                result = Err(EdgeError::WorkerEnded { worker });
            }
        }
        result
    }
}

/// The addresses behind the sockets, each once.
fn listeners(sockets: &[EdgeSocket]) -> Result<Vec<Listener>, EdgeError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for socket in sockets {
        let own = local_address(&socket.socket).map_err(|source| EdgeError::Socket {
            transport: socket.transport,
            worker: socket.worker,
            source,
        })?;
        let listener = Listener::new(socket.transport, own, &socket.public)?;
        if !listeners.iter().any(|known| known.own == own && known.transport == socket.transport) {
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address)
        .map(transport::flow::canonical)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))
}
