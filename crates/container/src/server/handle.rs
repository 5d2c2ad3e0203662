//! Telling a running container what to do, from other tasks.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use topology::TopologyView;
use topology::server::Pulse;
use tracing::debug;
use transport::tls::TlsStream;

use super::asks::HttpCall;
use super::usage;
use crate::shard::SessionApplications;

/// What a running container is told.
pub(super) enum Command {
    View(TopologyView),
    Applications(SessionApplications),
    Http(HttpCall),
    Usage(usage::Look, usage::Reply),
    Link(Box<TlsStream<TcpStream>>),
    Drain(Duration),
    Stop,
    #[cfg(feature = "faults")]
    Wedge,
}

/// What others may know of a running container.
#[derive(Debug, Clone, Default)]
pub(super) struct Vitals {
    pub(super) pulse: Pulse,
    pub(super) left: Arc<AtomicU64>,
}

/// Tells a running container what to do.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) vitals: Vitals,
}

impl ServerHandle {
    /// The topology has changed.
    pub async fn view(&self, view: TopologyView) {
        self.send(Command::View(view)).await;
    }

    /// Other applications with sessions are hosted from now on. Sessions of one that is not among them wait for it: a
    /// request of theirs is answered 503, and whatever comes once only, or by the clock, is told when it is there again.
    pub async fn applications(&self, applications: SessionApplications) {
        self.send(Command::Applications(applications)).await;
    }

    /// An edge of another node has come, and proved that it is one.
    pub(crate) async fn link(&self, stream: TlsStream<TcpStream>) {
        self.send(Command::Link(Box::new(stream))).await;
    }

    /// Take nothing new, keep what is owned, end when nothing is left or at the deadline. A further drain replaces
    /// the deadline.
    pub async fn drain(&self, deadline_in: Duration) {
        self.send(Command::Drain(deadline_in)).await;
    }

    /// End now; what was decided is still sent.
    pub async fn stop(&self) {
        self.send(Command::Stop).await;
    }

    /// A fault: work off nothing that comes by links any more, and go on as if nothing were wrong.
    #[cfg(feature = "faults")]
    pub async fn wedge(&self) {
        self.send(Command::Wedge).await;
    }

    /// Advances as long as the container's loop goes round.
    pub fn pulse(&self) -> Pulse {
        self.vitals.pulse.clone()
    }

    /// What a drain would wait for, as of the last heartbeat.
    pub fn left(&self) -> u64 {
        self.vitals.left.load(Ordering::Relaxed)
    }

    pub(super) async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            debug!("the container has ended already");
        }
    }
}
