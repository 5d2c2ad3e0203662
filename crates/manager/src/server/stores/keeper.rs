//! Keeps the stores of the cluster in order: asks all of them what they know, and carries out what [`crate::stores`] decides.
//!
//! A task of its own beside the manager's loop, which shows it each view. Every manager's keeper replaces the dead
//! primaries of its own node at once; what is for the cluster does the one of the coordinator, on the side that hears most
//! of the members. Nothing is written down: another coordinator's finds out by asking.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use state::StoreError;
use state::engine::cluster::servers::{self, Report};
use state::engine::cluster::{Options, failover};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use topology::credentials::ClusterDirectory;
use topology::protocol::Answer;
use topology::view::{ProcessState, ProcessType, TopologyView};
use topology::{Incarnation, NodeEntry, NodeNumber, NodeState, StoresOfNode};
use tracing::{info, warn};

use super::bus_port;
use crate::server::Input;
use crate::stores::chores::{Chore, Plan};
use crate::stores::failover::{Dead, LastLife, Orders};
use crate::stores::leaving::Leave;
use crate::stores::{Picture, Presence, SLOTS, Store};

/// How long a store of a node that is lost may take to answer: most do not, and all others are waited with.
const LOST_ANSWERS_WITHIN: Duration = Duration::from_millis(100);

/// So long after a node was lost the stores are asked so many times as often: every answer may be what the next step waits for.
const HASTE: (Duration, u32) = (Duration::from_secs(10), 2);

/// How long an election may take.
const ELECTION_MAX: Duration = Duration::from_secs(3);

/// How long a primary that is well may take to hand over.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// Starts that are not read yet; a store asks once in a life, and waits for room here as it waits for the answer.
const STARTS_MAX: usize = 8;

/// What has come of things and is not read yet; whoever finds no room waits, and with it what it was for.
const OUTCOMES_MAX: usize = 16;

/// How long the node is about to leave its cluster after somebody has asked whether it may.
const LEAVES_FOR: Duration = Duration::from_secs(15);

/// So many may ask that between two looks.
const LEAVERS_MAX: usize = 4;

/// What a keeper is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) own: NodeNumber,
    pub(crate) view: TopologyView,
    /// This node decides for the cluster.
    pub(crate) leads: bool,
    /// The stores of members as they were last heard, by whichever manager of this node.
    pub(crate) known: Vec<StoresOfNode>,
}

/// How a keeper is set up.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// Which the servers have read, too.
    pub(crate) credentials: ClusterDirectory,
    pub(crate) interval: Duration,
    /// The silence after which a node is lost.
    pub(crate) silence_max: Duration,
    pub(crate) allow_colocation: bool,
    /// The stores that this node runs anyway.
    pub(crate) regular: u8,
    /// After a node was lost for so long, the copies that it had are made elsewhere.
    pub(crate) copy_after: Duration,
    /// So many copies a write must have, where there are so many other members.
    pub(crate) write_quota: u8,
}

/// A store of this node that waits to be started.
struct Waiting {
    last: Option<LastLife>,
    since: Instant,
    reply: oneshot::Sender<()>,
}

/// What a keeper is asked by a store of its node.
#[derive(Clone)]
pub(crate) struct KeeperHandle {
    starts: mpsc::Sender<Waiting>,
}

impl KeeperHandle {
    /// Waits until a store that knew itself so, when it ran last, may be started.
    pub(crate) async fn may_start(&self, last: Option<LastLife>) {
        let (reply, allowed) = oneshot::channel();
        if self.starts.send(Waiting { last, since: Instant::now(), reply }).await.is_ok() {
            // A keeper that has gone belongs to a node that is no member any more.
            let _ = allowed.await;
        }
    }
}

/// A running keeper; it ends when this is dropped.
pub(crate) struct Keeper {
    seen: watch::Sender<Seen>,
    handle: KeeperHandle,
    /// Those who ask whether the node may leave its cluster.
    leaving: mpsc::Sender<mpsc::Sender<Answer>>,
    leaves_until: Option<Instant>,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(settings: Settings, inputs: mpsc::Sender<Input>) -> Keeper {
        let (seen, views) = watch::channel(Seen::default());
        let (starts, waiting) = mpsc::channel(STARTS_MAX);
        let (done, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let (leaving, leavers) = mpsc::channel(LEAVERS_MAX);
        let work = Work {
            every: settings.interval,
            settings,
            views,
            starts: waiting,
            outcomes,
            done,
            inputs,
            waiting: Vec::new(),
            leavers,
            reports: HashMap::new(),
            since: BTreeMap::new(),
            in_step: HashMap::new(),
            promoting: BTreeSet::new(),
            is_asking: false,
            is_busy: false,
            asked_at: None,
            certificate: None,
            spares: None,
        };
        let (handle, task) = (KeeperHandle { starts }, tokio::spawn(work.keep()));
        Keeper { seen, handle, leaving, leaves_until: None, task }
    }

    /// Somebody asks whether the node may leave its cluster: answered when the stores have been asked.
    pub(crate) fn leave(&mut self, reply: mpsc::Sender<Answer>, now: Instant) {
        self.leaves_until = Some(now + LEAVES_FOR);
        if let Err(error) = self.leaving.try_send(reply) {
            let reason = "too many ask at once whether the node may leave; ask again".to_owned();
            // Whoever asked may have gone.
            let _ = error.into_inner().try_send(Answer::Refused { reason });
        }
    }

    /// Whether nobody has asked that for long; told once.
    pub(crate) fn stays_after_all(&mut self, now: Instant) -> bool {
        self.leaves_until.take_if(|until| now >= *until).is_some()
    }

    pub(crate) fn handle(&self) -> KeeperHandle {
        self.handle.clone()
    }

    pub(crate) fn show(&self, seen: Seen) {
        self.seen.send_replace(seen);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has come of something that was begun.
enum Outcome {
    Answers(HashMap<SocketAddr, Report>),
    Promoted(String, Result<SocketAddr, StoreError>),
    Chores,
}

struct Work {
    settings: Settings,
    views: watch::Receiver<Seen>,
    starts: mpsc::Receiver<Waiting>,
    outcomes: mpsc::Receiver<Outcome>,
    done: mpsc::Sender<Outcome>,
    inputs: mpsc::Sender<Input>,
    waiting: Vec<Waiting>,
    leavers: mpsc::Receiver<mpsc::Sender<Answer>>,
    /// What each store said when it was asked last.
    reports: HashMap<SocketAddr, Report>,
    /// Since when each store is what it is.
    since: BTreeMap<SocketAddr, (Standing, Instant)>,
    /// When each replica was seen to have everything, and of whom.
    in_step: HashMap<SocketAddr, (String, Instant)>,
    promoting: BTreeSet<String>,
    is_asking: bool,
    is_busy: bool,
    asked_at: Option<Instant>,
    /// How often they are asked at present.
    every: Duration,
    /// When the certificate was written that the servers have.
    certificate: Option<SystemTime>,
    /// As told last.
    spares: Option<u8>,
}

/// What a store's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Runs,
    Ended,
    Lost,
}

impl Work {
    async fn keep(mut self) {
        loop {
            tokio::select! {
                changed = self.views.changed() => if changed.is_err() { return },
                Some(start) = self.starts.recv() => self.waiting.push(start),
                Some(outcome) = self.outcomes.recv() => self.came_to(outcome),
                () = tokio::time::sleep(self.every / 2) => {}
            }
            self.look();
        }
    }

    fn came_to(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answers(reports) => {
                self.is_asking = false;
                for (address, report) in &reports {
                    match &report.replica_of {
                        Some(primary) if report.is_synced => {
                            self.in_step.insert(*address, (primary.clone(), Instant::now()));
                        }
                        Some(_) => {}
                        None => drop(self.in_step.remove(address)),
                    }
                }
                self.reports = reports;
            }
            Outcome::Promoted(id, outcome) => {
                self.promoting.remove(&id);
                match outcome {
                    Ok(primary) => info!(%primary, "serves in the place of a dead store"),
                    Err(error) => warn!(%error, "nobody has the place of a dead store yet"),
                }
                self.asked_at = None;
            }
            Outcome::Chores => {
                self.is_busy = false;
                self.asked_at = None;
            }
        }
    }

    fn look(&mut self) {
        let seen = self.views.borrow_and_update().clone();
        let now = Instant::now();
        let picture = self.picture(&seen, now);
        self.ask(&picture, seen.own, now);
        for orders in self.orders(&seen) {
            for dead in picture.dead(seen.own, orders) {
                self.replace(&picture.stores[dead.at], dead, orders);
            }
        }
        self.allow_starts(&picture, now);
        let is_fresh = self.asked_at.is_some() && !self.is_asking;
        if seen.leads && is_fresh && !self.is_busy && self.promoting.is_empty() {
            self.do_chores(picture.chores(&self.plan()));
        }
        if is_fresh {
            self.tell_spares(&picture, &seen);
            self.tell_leavers(&picture, seen.own);
        }
    }

    fn orders(&self, seen: &Seen) -> Vec<Orders> {
        // Behind the silence that a node is lost by: one that was cut off has stopped serving meanwhile, as long as it
        // takes it to look twice.
        let after = self.settings.silence_max / 3;
        let all = seen.leads.then_some(Orders::All { after });
        std::iter::once(Orders::OwnNode).chain(all).collect()
    }

    fn plan(&self) -> Plan {
        Plan { long: self.settings.copy_after, vacant: servers::vacant_slots() }
    }

    fn picture(&mut self, seen: &Seen, now: Instant) -> Picture {
        let view = &seen.view;
        let mut stores = Vec::new();
        for process in view.processes.iter().filter(|it| it.process_type == ProcessType::Store) {
            let (name, node) = process.name.parts();
            let node = node.unwrap_or(&view.node);
            let Some(node) = view.nodes.iter().find(|it| it.name == node) else { continue };
            let (Some(ordinal), Some(address)) = (ordinal(name), process.link_address) else {
                continue;
            };
            let standing = match (node.state, process.state) {
                (NodeState::Lost, _) => Standing::Lost,
                (NodeState::Up, ProcessState::Backoff | ProcessState::Down) => Standing::Ended,
                (NodeState::Up, _) => Standing::Runs,
            };
            let since = self.stands_so_for(address, standing, now);
            let presence = match standing {
                Standing::Runs => Presence::Runs { since },
                Standing::Ended => Presence::Ended { since },
                Standing::Lost => Presence::Lost { since },
            };
            let report = match standing {
                // What it said before it ended is over.
                Standing::Ended => None,
                Standing::Runs | Standing::Lost => self.reports.get(&address).cloned(),
            };
            let follows = report.as_ref().and_then(|report| report.replica_of.as_ref());
            let was_in_step = self.in_step.get(&address).is_some_and(|(primary, at)| {
                standing != Standing::Ended && Some(primary) == follows && now - since <= *at
            });
            let leaves = process.state == ProcessState::Draining;
            let holds_data = process.weight > 0 && !leaves;
            let node = node.number;
            stores.push(Store {
                node,
                ordinal,
                address,
                holds_data,
                leaves,
                presence,
                report,
                was_in_step,
            });
        }
        let was_heard =
            |node: &NodeEntry| node.number == seen.own || node.last_life != Incarnation::NONE;
        // One that was not heard and is not lost may say something else in a moment.
        let known = |node: &NodeEntry| {
            let of_it = seen.known.iter().find(|of| of.node == node.number);
            of_it.filter(|_| node.state == NodeState::Lost)
        };
        for of in view.nodes.iter().filter(|node| !was_heard(node)).filter_map(known) {
            stores.extend(self.unheard(of, now));
        }
        stores.sort_by_key(|store| (store.node, store.ordinal));
        let is_known = |node: &NodeEntry| was_heard(node) || known(node).is_some();
        let mut picture = Picture {
            stores,
            is_complete: !view.nodes.is_empty() && view.nodes.iter().all(is_known),
            allow_colocation: self.settings.allow_colocation,
        };
        for address in picture.strangers() {
            picture.stores.push(Store {
                node: seen.own,
                ordinal: 0,
                address,
                holds_data: false,
                leaves: false,
                presence: Presence::Lost {
                    since: self.stands_so_for(address, Standing::Lost, now),
                },
                report: self.reports.get(&address).cloned(),
                was_in_step: false,
            });
        }
        picture
    }

    /// The stores of a member that was not heard since this manager began: it may be gone for good.
    fn unheard(&mut self, of: &StoresOfNode, now: Instant) -> Vec<Store> {
        let mut stores = Vec::new();
        for place in &of.stores {
            let Some(ordinal) = ordinal(place.name.as_str()) else { continue };
            let since = self.stands_so_for(place.address, Standing::Lost, now);
            stores.push(Store {
                node: of.node,
                ordinal,
                address: place.address,
                holds_data: place.weight > 0,
                leaves: false,
                presence: Presence::Lost { since },
                report: self.reports.get(&place.address).cloned(),
                was_in_step: false,
            });
        }
        stores
    }

    /// How long by now.
    fn stands_so_for(&mut self, address: SocketAddr, standing: Standing, now: Instant) -> Duration {
        let since = match self.since.get(&address) {
            Some((before, since)) if *before == standing => *since,
            Some(_) | None => now,
        };
        self.since.insert(address, (standing, since));
        now.duration_since(since)
    }

    /// Asks everybody that may answer, once an interval or in haste.
    fn ask(&mut self, picture: &Picture, own: NodeNumber, now: Instant) {
        self.every = self.settings.interval / if lost_lately(picture) { HASTE.1 } else { 1 };
        let is_due = self.asked_at.is_none_or(|at| now >= at + self.every);
        if self.is_asking || self.is_busy || !is_due {
            return;
        }
        self.is_asking = true;
        self.asked_at = Some(now);
        self.follow_certificate(picture, own);
        let may_answer = |store: &&Store| !matches!(store.presence, Presence::Ended { .. });
        let asked: Vec<_> = picture
            .stores
            .iter()
            .filter(may_answer)
            .map(|store| {
                let (address, options) = (store.address, self.settings.options.clone());
                let within = if store.is_there() { Duration::MAX } else { LOST_ANSWERS_WITHIN };
                tokio::spawn(async move {
                    let report = tokio::time::timeout(within, servers::report(address, &options));
                    (address, report.await)
                })
            })
            .collect();
        let done = self.done.clone();
        tokio::spawn(async move {
            let mut reports = HashMap::new();
            for asked in asked {
                if let Ok((address, Ok(Ok(report)))) = asked.await {
                    reports.insert(address, report);
                }
            }
            // The keeper has ended.
            let _ = done.send(Outcome::Answers(reports)).await;
        });
    }

    /// Has the stores of this node read its certificate again when that was renewed.
    fn follow_certificate(&mut self, picture: &Picture, own: NodeNumber) {
        let file = self.settings.credentials.certificate();
        let Ok(written) = file.metadata().and_then(|file| file.modified()) else { return };
        let before = self.certificate.replace(written);
        if before.is_none_or(|before| before == written) {
            return;
        }
        for store in picture.stores.iter().filter(|store| store.node == own) {
            let (address, options) = (store.address, self.settings.options.clone());
            let (certificate, key) = (file.clone(), self.settings.credentials.key());
            tokio::spawn(async move {
                match servers::reload_certificate(address, &certificate, &key, &options).await {
                    Ok(()) => info!(store = %address, "has the renewed certificate"),
                    // One that does not run reads it when it starts.
                    Err(error) => info!(store = %address, %error, "has not read the certificate"),
                }
            });
        }
    }

    /// Fences a dead primary, and has a replica take its place.
    fn replace(&mut self, store: &Store, dead: Dead, orders: Orders) {
        if !self.promoting.insert(dead.id.clone()) {
            return;
        }
        let (address, options, done) =
            (store.address, self.settings.options.clone(), self.done.clone());
        let is_known_to_have_ended = matches!(store.presence, Presence::Ended { .. });
        warn!(
            store = %address, ?orders, replicas = ?dead.replicas, has_voters = dead.has_voters,
            "a primary is dead: one of its replicas takes its place"
        );
        tokio::spawn(async move {
            if !is_known_to_have_ended {
                failover::fence(address, &options).await;
            }
            let promoted = if dead.has_voters {
                failover::promote(Some(address), &dead.replicas, &options, ELECTION_MAX).await
            } else {
                failover::promote_unasked(Some(address), &dead.replicas, &options, ELECTION_MAX)
                    .await
            };
            // The keeper has ended.
            let _ = done.send(Outcome::Promoted(dead.id, promoted)).await;
        });
    }

    fn allow_starts(&mut self, picture: &Picture, now: Instant) {
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        // Nobody was asked yet.
        let has_looked = self.asked_at.is_some() && !self.is_asking;
        let (allowed, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|start: &Waiting| {
                let waited = now.duration_since(start.since);
                start.last.is_none() || has_looked && picture.may_start(start.last.as_ref(), waited)
            });
        self.waiting = waiting;
        let allowed: Vec<Waiting> = allowed;
        for start in allowed {
            // Nobody wants it started any more.
            let _ = start.reply.send(());
        }
    }

    fn do_chores(&mut self, chores: Vec<Chore>) {
        if chores.is_empty() {
            return;
        }
        self.is_busy = true;
        let (options, done) = (self.settings.options.clone(), self.done.clone());
        tokio::spawn(async move {
            for chore in chores {
                let done = carry_out(&chore, &options).await;
                match done {
                    Ok(()) => info!(?chore, "done"),
                    // It is asked again what there is to do.
                    Err(error) => warn!(?chore, %error, "not done yet"),
                }
            }
            // The keeper has ended.
            let _ = done.send(Outcome::Chores).await;
        });
    }

    fn tell_leavers(&mut self, picture: &Picture, own: NodeNumber) {
        while let Ok(reply) = self.leavers.try_recv() {
            let answer = match picture.leave(own, self.settings.write_quota) {
                Leave::Free => Answer::Done,
                Leave::Holds(told) => Answer::StoresHold(told),
                Leave::Alone(why) => Answer::Refused { reason: why.to_owned() },
            };
            // Whoever asked may have gone.
            let _ = reply.try_send(answer);
        }
    }

    fn tell_spares(&mut self, picture: &Picture, seen: &Seen) {
        let Settings { regular, copy_after, .. } = self.settings;
        let spares = Some(picture.spares(seen.own, regular, copy_after));
        let told = spares.filter(|_| spares != self.spares);
        if let Some(told) = told
            && self.inputs.try_send(Input::SparesWanted(told)).is_ok()
        {
            self.spares = spares;
        }
    }
}

fn lost_lately(picture: &Picture) -> bool {
    let is_recent =
        |store: &Store| matches!(store.presence, Presence::Lost { since } if since < HASTE.0);
    picture.stores.iter().any(is_recent)
}

/// 1 of `store1`.
fn ordinal(name: &str) -> Option<u8> {
    name.trim_start_matches(|it: char| !it.is_ascii_digit()).parse().ok()
}

async fn carry_out(chore: &Chore, options: &Options) -> Result<(), StoreError> {
    match chore {
        Chore::Meet { at, other } => servers::meet(*at, *other, bus_port(*other), options).await,
        Chore::ClaimAll { at } => servers::claim(*at, 0..=SLOTS - 1, options).await,
        Chore::Follow { replica, primary } => servers::follow(*replica, primary, options).await,
        Chore::Move { from, to, slots } => servers::move_slots(from, to, slots, options).await,
        Chore::Settle { at, slots } => servers::settle(*at, slots, options).await,
        Chore::HandOver { to } => servers::hand_over(*to, options, HAND_OVER_MAX).await,
        Chore::Forget { at, id } => {
            for at in at {
                servers::forget(*at, id, options).await?;
            }
            Ok(())
        }
    }
}
