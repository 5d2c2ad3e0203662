//! Keeps a member in its cluster's gossip: begins it, tells it what changes, and hands what it sees to the manager's loop.
//!
//! Gossip is the second way to hear of others, beside the connections between managers: it finds members whose address is
//! not known, and hears those to whom no connection is made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use topology::{
    ClockOffset, Discovery, Gossip, GossipCounters, GossipSettings, NodeNumber, NodeSnapshot,
};
use tracing::{error, info};

use super::Input;
use super::peers::connection::PeerInput;

/// How soon what could not begin is tried again: the address may be on its way to this host.
const PAUSE: Duration = Duration::from_secs(5);

/// A member's gossip; it ends when this is dropped.
pub(super) struct Gossiping {
    begun: Arc<OnceLock<Gossip>>,
    snapshot: watch::Sender<Option<NodeSnapshot>>,
    whom: watch::Sender<Whom>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Whom {
    discovery: Discovery,
    known: BTreeSet<SocketAddr>,
}

impl Gossiping {
    /// Begins with the first snapshot.
    pub(super) fn begin(settings: GossipSettings, inputs: mpsc::Sender<Input>) -> Gossiping {
        let whom = Whom { discovery: settings.discovery.clone(), known: settings.known.clone() };
        let (snapshot, snapshots) = watch::channel(None);
        let (whom, changes) = watch::channel(whom);
        let begun = Arc::new(OnceLock::new());
        let task = tokio::spawn(run(settings, Arc::clone(&begun), snapshots, changes, inputs));
        Gossiping { begun, snapshot, whom, task }
    }

    /// What this node is now.
    pub(super) fn publish(&self, snapshot: NodeSnapshot) {
        self.snapshot.send_if_modified(|published| {
            let is_new = published.as_ref() != Some(&snapshot);
            *published = Some(snapshot);
            is_new
        });
    }

    /// How others are found from now on.
    pub(super) fn discover(&self, discovery: Discovery) {
        self.seek(|whom| whom.discovery = discovery);
    }

    /// Where the members are that this node knows.
    pub(super) fn know(&self, known: BTreeSet<SocketAddr>) {
        self.seek(|whom| whom.known = known);
    }

    fn seek(&self, change: impl FnOnce(&mut Whom)) {
        self.whom.send_if_modified(|whom| {
            let before = whom.clone();
            change(whom);
            *whom != before
        });
    }

    /// How far others' clocks are from ours.
    pub(super) fn clock_offsets(&self) -> BTreeMap<NodeNumber, ClockOffset> {
        self.begun.get().map(Gossip::clock_offsets).unwrap_or_default()
    }

    /// What came, and what was dropped.
    pub(super) fn counters(&self) -> GossipCounters {
        self.begun.get().map(Gossip::counters).unwrap_or_default()
    }
}

impl Drop for Gossiping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    settings: GossipSettings,
    begun: Arc<OnceLock<Gossip>>,
    mut snapshots: watch::Receiver<Option<NodeSnapshot>>,
    mut whom: watch::Receiver<Whom>,
    inputs: mpsc::Sender<Input>,
) {
    let mut is_told = false;
    let gossip = loop {
        let snapshot = match snapshots.wait_for(Option::is_some).await {
            Ok(snapshot) => snapshot.clone(),
            Err(_) => return,
        };
        let Some(snapshot) = snapshot else { continue };
        match Gossip::begin(settings.clone(), snapshot).await {
            Ok(gossip) => break begun.get_or_init(|| gossip),
            Err(error) if is_told => tracing::debug!(%error, "still no gossip"),
            Err(error) => {
                is_told = true;
                error!(%error, "no gossip with other members; it is tried again");
            }
        }
        tokio::time::sleep(PAUSE).await;
    };
    info!("gossip with other members has begun");
    let mut pictures = gossip.picture();
    snapshots.mark_changed();
    whom.mark_changed();
    loop {
        tokio::select! {
            changed = pictures.changed() => {
                let picture = Arc::clone(&pictures.borrow_and_update());
                let input = Input::Peer(PeerInput::Gossiped(picture));
                if changed.is_err() || inputs.send(input).await.is_err() {
                    return;
                }
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                    gossip.publish(snapshot);
                }
            }
            changed = whom.changed() => {
                if changed.is_err() {
                    return;
                }
                let Whom { discovery, known } = whom.borrow_and_update().clone();
                gossip.discover(discovery);
                gossip.know(known);
            }
        }
    }
}
