//! Who is in the cluster and alive: gossip between the managers of all nodes.
//!
//! Every member publishes its [`NodeSnapshot`]; chitchat carries what has changed to everybody, whoever is reached by
//! whom. What it says goes in datagrams that only members can make and read (`sealing`: a key of the cluster's secret,
//! the times of `replays`) and that fit every path (`word`). Members ask each other for the time twice an interval: the
//! answers tell how far clocks differ ([`ClockOffset`]), and whoever says nothing for interval × (allowed misses + 1)
//! is lost (`hearing`). New ones are found by asking or by multicast (`seeking`).
//!
//! What comes out is a [`Picture`], which [`crate::cluster_view()`] makes a view of. Deaths of processes reach others faster by the
//! connections between managers; gossip knows of them when those are broken, or not made yet.
//!
//! Deliberately absent: who may be a member, and who was removed (the manager's list of members says); chitchat's own
//! failure detector, which learns its patience from how regular things were, reads the clock itself, and here only
//! says whom it gossips with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::credentials::ClusterSecret;
use crate::node::{NodeNumber, NodeSnapshot};
use crate::routing_table::HeartbeatSettings;

mod clock_offset;
mod hearing;
mod published;
mod replays;
mod sealing;
mod seeking;
mod socket;
#[cfg(test)]
mod tests;
mod word;

pub use clock_offset::{ClockOffset, ClockOffsets};
pub use seeking::Discovery;
pub use socket::GossipCounters;

use hearing::Hearing;
use published::{Change, Published};
use sealing::{Sealer, SenderId};
use seeking::Whom;
use socket::{SealedTransport, Shared};
use word::Word;

/// Addresses that were found and not gossiped with yet.
const FOUND_MAX: usize = 64;

/// How long what is known of a member that fell silent is kept, should it come back.
const SILENT_KEPT: Duration = Duration::from_secs(3_600);

/// What a member begins with.
#[derive(Debug, Clone)]
pub struct GossipSettings {
    /// The cluster's id.
    pub cluster: String,
    /// Its secret.
    pub secret: ClusterSecret,
    /// When a member that is not heard is lost.
    pub heartbeat: HeartbeatSettings,
    /// How others are found.
    pub discovery: Discovery,
    /// Where the members were that this node knew last.
    pub known: BTreeSet<SocketAddr>,
}

/// What a member knows of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// What each says of itself, this node left out.
    pub snapshots: BTreeMap<NodeNumber, NodeSnapshot>,
    /// Those of them that are not heard.
    pub lost: BTreeSet<NodeNumber>,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The address is taken, or not this host's.
    #[error(
        "cannot listen on {address}/UDP for other members: {source}; [cluster] address has to be one of this host's, and free"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gave no random octets.
    #[error("no random octets from the system: {0}")]
    Random(getrandom::Error),
    /// The gossip did not begin.
    #[error("gossip with other members does not begin: {0}")]
    Library(String),
}

/// A node's part in the gossip; it ends when this is dropped.
pub struct Gossip {
    snapshots: watch::Sender<NodeSnapshot>,
    whom: watch::Sender<Whom>,
    picture: watch::Receiver<Arc<Picture>>,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    /// Its task ends with it, some time after it is dropped.
    gossip: Arc<ChitchatHandle>,
}

impl Gossip {
    /// Begins to speak at the address that `snapshot` names. Needs a tokio runtime with network and time.
    ///
    /// # Errors
    /// [`GossipError`].
    pub async fn begin(
        settings: GossipSettings,
        snapshot: NodeSnapshot,
    ) -> Result<Gossip, GossipError> {
        let GossipSettings { cluster, secret, heartbeat, discovery, known } = settings;
        let (node, address) = (snapshot.number, snapshot.address);
        let socket = UdpSocket::bind(address)
            .await
            .map_err(|source| GossipError::Bind { address, source })?;
        let mut sender = SenderId([0; 8]);
        getrandom::fill(&mut sender.0).map_err(GossipError::Random)?;
        let sealer = Sealer::new(secret.derive("gossip"), &cluster, sender);
        let hearing = Hearing::new(heartbeat, Instant::now());
        let shared = Arc::new(Shared::new(node, address, sealer, hearing));
        let socket = Arc::new(socket);
        let gossip = gossip(&cluster, &heartbeat, &snapshot, &shared, &socket).await?;
        let (snapshots, published) = watch::channel(snapshot);
        let (whom, asked) = watch::channel(Whom { discovery, known });
        let (found, finds) = mpsc::channel(FOUND_MAX);
        let (pictures, picture) = watch::channel(Arc::new(Picture::default()));
        let keeper = Keeper {
            node,
            shared: Arc::clone(&shared),
            socket,
            gossip: Arc::clone(&gossip),
            published: Published::default(),
            read: BTreeMap::new(),
            pictures,
        };
        let tasks = vec![
            tokio::spawn(seeking::seek(Arc::clone(&shared), address, asked, found)),
            tokio::spawn(keeper.run(published, finds)),
        ];
        Ok(Gossip { snapshots, whom, picture, shared, tasks, gossip })
    }

    /// Tells the others what this node looks like now.
    pub fn publish(&self, snapshot: NodeSnapshot) {
        self.snapshots.send_replace(snapshot);
    }

    /// Finds others in another way from now on.
    pub fn discover(&self, discovery: Discovery) {
        self.whom.send_if_modified(|whom| {
            let is_other = whom.discovery != discovery;
            whom.discovery = discovery;
            is_other
        });
    }

    /// The list of members has changed.
    pub fn know(&self, members: BTreeSet<SocketAddr>) {
        self.whom.send_if_modified(|whom| {
            let is_other = whom.known != members;
            whom.known = members;
            is_other
        });
    }

    /// What is known of the others, and each change of it.
    pub fn picture(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.clone()
    }

    /// How far the clocks of those are from ours that have answered.
    pub fn clock_offsets(&self) -> BTreeMap<NodeNumber, ClockOffset> {
        self.shared.offsets(|offsets| offsets.best())
    }

    /// What came, and what of it was dropped.
    pub fn counters(&self) -> GossipCounters {
        self.shared.counters()
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.gossip.abort();
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn gossip(
    cluster: &str,
    heartbeat: &HeartbeatSettings,
    snapshot: &NodeSnapshot,
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
) -> Result<Arc<ChitchatHandle>, GossipError> {
    let interval = heartbeat.interval / 2;
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(snapshot.node.as_str(), shared.life(), snapshot.address),
        cluster_id: cluster.to_owned(),
        gossip_interval: interval,
        listen_addr: snapshot.address,
        // Found by `seeking`, which resolves names more often and can be told others.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            // Patient: who was silent for a while is gossiped with less often, no more.
            phi_threshold: 40.0,
            sampling_window_size: 100,
            max_interval: interval * 20,
            initial_interval: interval,
            dead_node_grace_period: SILENT_KEPT,
        },
        marked_for_deletion_grace_period: SILENT_KEPT,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let (shared, socket) = (Arc::clone(shared), Arc::clone(socket));
    let transport = SealedTransport { shared, socket };
    let handle = chitchat::spawn_chitchat(config, Vec::new(), &transport).await;
    handle.map(Arc::new).map_err(|error| GossipError::Library(error.to_string()))
}

/// What was read last of a member.
#[derive(Debug, Clone, PartialEq)]
struct Read {
    life: u64,
    version: u64,
    /// Its last whole snapshot, and the life that it is of: the one before, until the first of this one has come whole. A
    /// member that has begun anew is lost meanwhile, not unknown.
    snapshot: Option<(u64, NodeSnapshot)>,
}

impl Read {
    /// What is known with what has come now, which may be the half of something; `before` is what was known.
    fn with(before: Option<&Read>, life: u64, version: u64, come: Option<NodeSnapshot>) -> Read {
        let snapshot = match come {
            Some(snapshot) => Some((life, snapshot)),
            None => before.and_then(|before| before.snapshot.clone()),
        };
        Read { life, version, snapshot }
    }
}

/// Asks, looks, and keeps the picture.
struct Keeper {
    node: NodeNumber,
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    gossip: Arc<ChitchatHandle>,
    published: Published,
    /// By the names of nodes.
    read: BTreeMap<Arc<str>, Read>,
    pictures: watch::Sender<Arc<Picture>>,
}

impl Keeper {
    async fn run(
        mut self,
        mut snapshots: watch::Receiver<NodeSnapshot>,
        mut finds: mpsc::Receiver<SocketAddr>,
    ) {
        let mut looks =
            tokio::time::interval(self.shared.hearing(|hearing| hearing.look_interval()));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks_now = true;
        snapshots.mark_changed();
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    // Every second look, so twice an interval.
                    if asks_now {
                        self.ask().await;
                    }
                    asks_now = !asks_now;
                    self.look().await;
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.publish(&snapshot).await;
                }
                found = finds.recv() => match found {
                    Some(address) => drop(self.gossip.gossip(address)),
                    None => return,
                },
            }
        }
    }

    async fn publish(&mut self, snapshot: &NodeSnapshot) {
        let changes = self.published.publish(snapshot);
        self.gossip
            .with_chitchat(|chitchat| {
                let own = chitchat.self_node_state();
                for change in &changes {
                    match change {
                        Change::Set(key, value) => own.set(key, value),
                        Change::Delete(key) => own.delete(key),
                    }
                }
            })
            .await;
    }

    /// Asks all that are known for the time, lost or not: whoever comes back is heard at once.
    async fn ask(&self) {
        let picture = Arc::clone(&self.pictures.borrow());
        for member in picture.snapshots.values() {
            let asked_at = socket::unix_micros();
            self.shared.say(Word::Ask { asked_at }, member.address, &self.socket).await;
        }
    }

    /// Reads what has changed, and judges who is lost.
    async fn look(&mut self) {
        let read = &mut self.read;
        self.gossip
            .with_chitchat(|chitchat| {
                let own = chitchat.self_chitchat_id();
                let states = chitchat.node_states();
                read.retain(|name, _| states.keys().any(|id| id.node_id == *name));
                for (id, state) in states.iter().filter(|(id, _)| id.node_id != own.node_id) {
                    let (life, version) = (id.generation_id, state.max_version());
                    let known = read.get(&id.node_id);
                    if known.is_none_or(|known| (known.life, known.version) < (life, version)) {
                        let come = published::read(|key| state.get(key));
                        let now = Read::with(known, life, version, come);
                        read.insert(Arc::clone(&id.node_id), now);
                    }
                }
            })
            .await;
        let picture = self.judge(Instant::now());
        self.pictures.send_if_modified(|last| {
            let has_changed = **last != picture;
            if has_changed {
                *last = Arc::new(picture);
            }
            has_changed
        });
    }

    fn judge(&self, now: Instant) -> Picture {
        // A node that has got another name keeps its number.
        let mut latest: BTreeMap<NodeNumber, (u64, &NodeSnapshot)> = BTreeMap::new();
        for (life, snapshot) in self.read.values().filter_map(|read| read.snapshot.as_ref()) {
            if snapshot.number != self.node
                && latest.get(&snapshot.number).is_none_or(|(other, _)| other < life)
            {
                latest.insert(snapshot.number, (*life, snapshot));
            }
        }
        let mut picture = Picture::default();
        self.shared.hearing(|hearing| {
            for (number, (life, _)) in &latest {
                hearing.known(*number, *life, now);
            }
            hearing.look(now);
            for (number, (life, snapshot)) in latest {
                if hearing.is_lost(number, life) {
                    picture.lost.insert(number);
                }
                picture.snapshots.insert(number, snapshot.clone());
            }
        });
        picture
    }
}
