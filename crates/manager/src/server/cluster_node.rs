//! A node as a member of its cluster: carries out what [`crate::cluster`] decides.
//!
//! Owned by the manager's loop. It keeps the list of members on the disk, the connections to the others alive, and what
//! they are told up to date; it passes requests on to the node that they are for, and answers back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use topology::credentials::{
    Authority, ClusterDirectory, ClusterSecret, CredentialError, NodeCredentials,
};
use topology::protocol::{Admission, Answer, ClusterStatus, Request, encode_line};
use topology::{
    Discovery, FormatLevel, GossipSettings, HeartbeatSettings, KeyRing, Member, MemberFile,
    Membership, NodeNumber, NodeSnapshot, ProcessName, RepositoryList, StoreList, TopologyView,
};
use tracing::{error, info, warn};

use super::Input;
use super::gossiping::Gossiping;
use super::peers::connection::{PeerInput, Refusal};
use super::peers::protocol::ToPeer;
use super::peers::{Port, Said, accept, dial, unix_time};
use crate::cluster::clock::Verdict;
use crate::cluster::{Cluster, KnownMember, Session};
use crate::process_table::Event;

mod witnesses;

/// Requests that wait for answers of other nodes. More are refused.
const PENDING_MAX: usize = 256;

/// How often the node looks whether its certificate is to be renewed.
const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What the manager's loop does about what a member said.
pub(super) enum Consequence {
    None,
    /// The view has changed, perhaps.
    View,
    /// The keys of the cluster; whether the one who leads said so.
    Keys(KeyRing, FromCoordinator),
    /// An edge of another node says something of a container of this one.
    Told(Event),
}

/// Whether the living member with the lowest number said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FromCoordinator {
    Yes,
    No,
}

pub(super) struct ClusterNode {
    cluster: Cluster,
    directory: ClusterDirectory,
    port: Arc<Port>,
    accepting: JoinHandle<()>,
    dials: BTreeMap<NodeNumber, (Member, JoinHandle<()>)>,
    sessions: HashMap<NodeNumber, (Session, mpsc::Sender<ToPeer>)>,
    pending: HashMap<u64, Pending>,
    request_last: u64,
    /// As long as the node belongs to the cluster.
    gossiping: Option<Gossiping>,
    greeting: watch::Sender<Arc<Vec<u8>>>,
    snapshot: watch::Sender<Arc<Vec<u8>>>,
    membership: watch::Sender<Arc<Vec<u8>>>,
    /// The list that stands on the disk.
    written: Arc<Mutex<Membership>>,
    certificate_looked: Instant,
}

/// Who waits for an answer of another node.
struct Pending {
    number: NodeNumber,
    reply: mpsc::Sender<Answer>,
    /// This node asks to be let go. That it was, it hears by the list, and nothing after that.
    leaves: bool,
}

impl ClusterNode {
    /// The member whose files lie in that node's directory, which begins with what is `known` of the others; `None` for a
    /// single node.
    pub(super) fn open(
        directory: &Path,
        settings: Option<&config::ClusterSettings>,
        heartbeat: HeartbeatSettings,
        known: Vec<KnownMember>,
        keys: watch::Receiver<Arc<Vec<u8>>>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Option<ClusterNode>, CredentialError> {
        let directory = ClusterDirectory::of_node(directory);
        if !directory.members().exists() {
            return Ok(None);
        }
        let file = MemberFile::load(&directory.members())?;
        let listed = file.membership.member(file.number).map(|member| member.address);
        let address = settings.map(|settings| settings.address).or(listed);
        let address = address.ok_or_else(|| CredentialError::Damaged {
            path: directory.members(),
            reason: "neither this list nor [cluster] in outlast.toml says where the node is"
                .to_owned(),
        })?;
        if listed.is_some_and(|listed| listed.ip() != address.ip()) {
            info!(%address, "the node has another address: making its certificate anew");
            issue(&directory, &file, address)?;
        }
        let credentials = credentials(&directory, &file, address)?;
        let secret = ClusterSecret::load(&directory.secret())?;
        let gossip = GossipSettings {
            cluster: file.cluster.clone(),
            secret: secret.clone(),
            heartbeat,
            discovery: settings.map(discovery).unwrap_or_default(),
            known: BTreeSet::new(),
        };
        let gossiping = Some(Gossiping::begin(gossip, inputs.clone()));
        let (greeting, greetings) = watch::channel(Arc::default());
        let (snapshot, snapshots) = watch::channel(Arc::default());
        let (membership, memberships) = watch::channel(Arc::default());
        let said = Said { greeting: greetings, snapshot: snapshots, membership: memberships, keys };
        let now = Instant::now();
        let mut cluster = Cluster::new(file, address, heartbeat, now);
        cluster.recall(known, now);
        let id = cluster.file().cluster.clone();
        let port = Port::new(inputs, id, secret, credentials, heartbeat, said)?;
        let port = Arc::new(port);
        let written = Arc::new(Mutex::new(cluster.membership().clone()));
        let mut node = ClusterNode {
            accepting: tokio::spawn(accept(Arc::clone(&port), address)),
            cluster,
            directory,
            port,
            dials: BTreeMap::new(),
            sessions: HashMap::new(),
            pending: HashMap::new(),
            request_last: 0,
            gossiping,
            greeting,
            snapshot,
            membership,
            written,
            certificate_looked: now,
        };
        node.follow_list();
        node.look_at_certificate();
        Ok(Some(node))
    }

    /// What another manager of this node would have to know of the others.
    pub(super) fn known(&self) -> Vec<KnownMember> {
        self.cluster.known()
    }

    pub(super) fn number(&self) -> NodeNumber {
        self.cluster.number()
    }

    /// Which cluster it is.
    pub(super) fn id(&self) -> &str {
        self.cluster.id()
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.cluster.address()
    }

    /// What stands in outlast.toml if nothing else is said there.
    pub(super) fn settings(&self) -> config::ClusterSettings {
        config::ClusterSettings::at(self.address())
    }

    pub(super) fn coordinates(&self) -> bool {
        self.cluster.coordinates()
    }

    /// Whether this node decides for the cluster's stores.
    pub(super) fn leads(&self) -> bool {
        self.cluster.coordinates() && self.cluster.hears_most()
    }

    /// Whether this node hears so many members that these decide for all.
    pub(super) fn hears_most(&self) -> bool {
        self.cluster.hears_most()
    }

    pub(super) fn coordinator(&self) -> NodeNumber {
        self.cluster.coordinator()
    }

    pub(super) fn status(&self) -> ClusterStatus {
        let offsets = self.cluster.clocks(self.gossiped_clocks());
        let clocks = offsets.into_iter().map(|(number, clock)| (self.name_of(number), clock));
        ClusterStatus {
            clocks: clocks.collect(),
            gossip: self.gossiping.as_ref().map(Gossiping::counters).unwrap_or_default(),
            ..self.cluster.status(self.port.refused())
        }
    }

    fn gossiped_clocks(&self) -> BTreeMap<NodeNumber, topology::ClockOffset> {
        self.gossiping.as_ref().map(Gossiping::clock_offsets).unwrap_or_default()
    }

    /// Whether this node's clock is the cluster's.
    pub(super) fn judge_clock(&self) -> Verdict {
        self.cluster.judge_clock(self.gossiped_clocks())
    }

    /// After this silence a member is lost.
    pub(super) fn silence_max(&self) -> Duration {
        self.cluster.silence_max()
    }

    /// No view of the cluster had a greater version.
    pub(super) fn version(&self) -> u64 {
        self.cluster.version()
    }

    /// Finds the others as is said there now.
    pub(super) fn discover(&self, settings: &config::ClusterSettings) {
        if let Some(gossiping) = &self.gossiping {
            gossiping.discover(discovery(settings));
        }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.cluster.next_deadline()
    }

    /// What the node's processes are shown, and others are told, now that this is what it is.
    pub(super) fn view(&mut self, own: NodeSnapshot, format_level: FormatLevel) -> TopologyView {
        let view = self.cluster.view(&own, format_level).clone();
        if let Some(gossiping) = &self.gossiping {
            gossiping.publish(own.clone());
        }
        tell(&self.snapshot, &ToPeer::Snapshot(own));
        view
    }

    /// Looks at the clock. Whether the view is another one.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        if now.duration_since(self.certificate_looked) >= CERTIFICATE_LOOK_EVERY {
            self.certificate_looked = now;
            self.look_at_certificate();
        }
        let has_changed = self.cluster.tick(now);
        if has_changed {
            for number in self.cluster.lost() {
                warn!(node = self.name_of(number), "lost: it was not heard for too long");
            }
            self.follow_list();
        }
        self.follow_addresses(now);
        has_changed
    }

    /// Whoever says that it is elsewhere is there for all members.
    fn follow_addresses(&mut self, now: Instant) {
        if self.cluster.follow_addresses(now) {
            info!(version = self.cluster.membership().version, "members have other addresses");
            self.follow_list();
        }
    }

    /// Something came by a connection.
    pub(super) fn receive(&mut self, input: PeerInput, now: Instant) -> Consequence {
        match input {
            PeerInput::Greeted { greeting, certified, is_dialled, outbound, reply } => {
                let (number, name) = (greeting.number, greeting.name.clone());
                let greeted = self.cluster.greeted(*greeting, &certified, is_dialled, now);
                self.follow_list();
                let greeted = greeted.map_err(|reason| Refusal {
                    reason,
                    membership: self.cluster.membership().clone(),
                });
                match &greeted {
                    Ok(session) => {
                        info!(node = name, "connected");
                        self.sessions.insert(number, (*session, outbound));
                    }
                    Err(refusal) => info!(node = name, reason = refusal.reason, "not let in"),
                }
                // A connection that is over already needs no session.
                let _ = reply.send(greeted);
                Consequence::View
            }
            PeerInput::Said { number, session, said } => {
                let consequence = self.said(number, session, said, now);
                self.follow_addresses(now);
                consequence
            }
            PeerInput::Time { number, session, asked_at, answered_at, now } => {
                self.cluster.told_the_time(number, session, (asked_at, answered_at, now));
                Consequence::None
            }
            PeerInput::Gone { number, session } => {
                self.cluster.gone(number, session);
                if self.sessions.get(&number).is_some_and(|(present, _)| *present == session) {
                    self.sessions.remove(&number);
                    self.give_up_requests(number);
                    info!(node = self.name_of(number), "no longer connected");
                }
                Consequence::None
            }
            PeerInput::Refused { by, reason, membership } => {
                self.cluster.learn(membership, now);
                self.follow_list();
                warn!(by, reason, "a member does not speak with this node");
                Consequence::View
            }
            PeerInput::Gossiped(picture) => {
                if !self.cluster.gossiped(&picture) {
                    return Consequence::None;
                }
                self.follow_list();
                self.follow_addresses(now);
                Consequence::View
            }
            PeerInput::Asked { .. } => unreachable!("the manager carries requests out by itself"),
        }
    }

    fn said(
        &mut self,
        number: NodeNumber,
        session: Session,
        said: ToPeer,
        now: Instant,
    ) -> Consequence {
        let was_lost = self.cluster.heard(number, session, now);
        if was_lost {
            info!(node = self.name_of(number), "is back");
            self.follow_list();
        }
        let is_present = self.sessions.get(&number).is_some_and(|(present, _)| *present == session);
        if !is_present {
            return Consequence::None;
        }
        let has_changed = match said {
            ToPeer::Ping { .. } => false,
            ToPeer::Snapshot(snapshot) => self.cluster.told(number, session, snapshot),
            ToPeer::Membership(membership) => {
                let is_later = self.cluster.learn(membership, now);
                if is_later {
                    self.follow_list();
                }
                is_later
            }
            ToPeer::Keys(keys) => {
                let leads = self.cluster.coordinator() == number;
                let from = if leads { FromCoordinator::Yes } else { FromCoordinator::No };
                return Consequence::Keys(keys, from);
            }
            ToPeer::Answer { id, answer } => {
                self.answered(id, answer);
                false
            }
            ToPeer::Unresponsive(seen) => {
                return Consequence::Told(self.witnessed(number, &seen, false));
            }
            ToPeer::Responsive(seen) => {
                return Consequence::Told(self.witnessed(number, &seen, true));
            }
            ToPeer::Greeting(_)
            | ToPeer::Refused { .. }
            | ToPeer::Request { .. }
            | ToPeer::Time { .. } => {
                warn!(node = self.name_of(number), "said something out of turn; ignored");
                false
            }
        };
        if has_changed || was_lost { Consequence::View } else { Consequence::None }
    }

    /// Passes a request on to the node that it is for. At once answered when that is out of reach.
    pub(super) fn pass_on(
        &mut self,
        number: NodeNumber,
        request: Request,
        reply: mpsc::Sender<Answer>,
    ) {
        let name = self.name_of(number);
        self.pending.retain(|_, pending| !pending.reply.is_closed());
        let refusal = match self.sessions.get(&number) {
            None => Some(format!("{name} cannot be reached; see outlast status --cluster")),
            Some(_) if self.pending.len() >= PENDING_MAX => {
                Some(format!("{PENDING_MAX} requests wait for other nodes already; try again"))
            }
            Some((_, outbound)) => {
                self.request_last += 1;
                let id = self.request_last;
                let own = &self.cluster.file().name;
                let leaves = matches!(&request, Request::ClusterRemove { node, .. } if node == own);
                match outbound.try_send(ToPeer::Request { id, request }) {
                    Ok(()) => {
                        let reply = reply.clone();
                        self.pending.insert(id, Pending { number, reply, leaves });
                        None
                    }
                    Err(_) => Some(format!("{name} does not read what it is told; try again")),
                }
            }
        };
        if let Some(reason) = refusal {
            // Whoever asked may have gone.
            let _ = reply.try_send(Answer::Refused { reason });
        }
    }

    fn answered(&mut self, id: u64, answer: Answer) {
        let Some(pending) = self.pending.get(&id) else { return };
        if answer.is_progress() {
            // Progress that is not read in time is of no use, and leaves room for the outcome.
            if pending.reply.capacity() > 1 {
                let _ = pending.reply.try_send(answer);
            }
            return;
        }
        let answer = match answer {
            Answer::Refused { reason } => {
                Answer::Refused { reason: format!("{}: {reason}", self.name_of(pending.number)) }
            }
            other => other,
        };
        let _ = pending.reply.try_send(answer);
        self.pending.remove(&id);
    }

    fn give_up_requests(&mut self, number: NodeNumber) {
        let name = self.name_of(number);
        let is_removed = self.cluster.is_removed();
        self.pending.retain(|_, pending| {
            if pending.number != number {
                return true;
            }
            let answer = if is_removed && pending.leaves {
                Answer::Done
            } else {
                let reason = format!(
                    "the connection to {name} was lost before it answered; what became of it tells: \
                     outlast status --cluster"
                );
                Answer::Refused { reason }
            };
            let _ = pending.reply.try_send(answer);
            false
        });
    }

    /// The node that a process's name has behind its `@`, and the name before it; `None` for a plain name.
    pub(super) fn addressed(
        &self,
        name: &ProcessName,
    ) -> Option<Result<(NodeNumber, ProcessName), String>> {
        let (process, node) = name.as_str().split_once('@')?;
        let members = &self.cluster.membership().members;
        let member = members.iter().find(|member| member.name == node);
        Some(member.map(|member| (member.number, ProcessName::new(process))).ok_or_else(|| {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            format!("no member is named {node}; the cluster has {}", names.join(", "))
        }))
    }

    /// Admits a node; answered when the list is on the disk.
    pub(super) fn admit(
        &mut self,
        name: Option<&str>,
        address: std::net::SocketAddr,
        keys: KeyRing,
        repository: Option<RepositoryList>,
        stores: Option<StoreList>,
        reply: mpsc::Sender<Answer>,
    ) {
        match self.cluster.admit(name, address, Instant::now()) {
            Ok(member) => {
                info!(node = member.name, number = %member.number, %address, "admitted");
                let admission = Admission {
                    cluster: self.cluster.file().cluster.clone(),
                    member,
                    membership: self.cluster.membership().clone(),
                    keys,
                    repository,
                    stores,
                };
                self.list_changed(reply, Answer::Admitted(Box::new(admission)));
            }
            Err(reason) => {
                let _ = reply.try_send(Answer::Refused { reason });
            }
        }
    }

    /// Takes a member out; answered when the list is on the disk.
    pub(super) fn remove(&mut self, node: &str, is_leaving: bool, reply: mpsc::Sender<Answer>) {
        match self.cluster.remove(node, is_leaving, Instant::now()) {
            Ok(()) => {
                info!(node, is_leaving, "removed from the cluster");
                self.list_changed(reply, Answer::Done);
            }
            Err(reason) => {
                let _ = reply.try_send(Answer::Refused { reason });
            }
        }
    }

    /// Nobody is told of a change that a crash could take back.
    fn list_changed(&mut self, reply: mpsc::Sender<Answer>, answer: Answer) {
        let (file, path) = (self.cluster.file().clone(), self.directory.members());
        let written = Arc::clone(&self.written);
        tokio::task::spawn_blocking(move || {
            let answer = match write_list(&file, &path, &written) {
                Ok(()) => answer,
                Err(error) => Answer::Refused { reason: error.to_string() },
            };
            let _ = reply.try_send(answer);
        });
        self.follow_list();
    }

    /// Connections to whom the list has, none to others; the list on the disk, and told.
    fn follow_list(&mut self) {
        let members = &self.cluster.membership().members;
        let own = self.cluster.number();
        let elsewhere = self.cluster.addresses();
        let hosts = members.iter().map(|member| member.address).chain(elsewhere);
        self.port.set_hosts(hosts.map(|address| address.ip()).collect::<BTreeSet<_>>());
        let is_removed = self.cluster.is_removed();
        if is_removed {
            self.gossiping = None;
        }
        let others = members.iter().filter(|member| member.number != own);
        if let Some(gossiping) = &self.gossiping {
            gossiping.know(others.map(|member| member.address).collect());
        }
        let belongs = |number: &NodeNumber| {
            !is_removed && members.iter().any(|member| &member.number == number)
        };
        let gone: Vec<NodeNumber> =
            self.sessions.keys().filter(|number| !belongs(number)).copied().collect();
        let wanted: BTreeMap<NodeNumber, Member> = self
            .cluster
            .to_dial()
            .filter(|member| member.number != own)
            .map(|member| (member.number, member))
            .collect();
        self.dials.retain(|number, (member, dial)| {
            // A connection that is there already, and no longer has to be, goes on while it lasts.
            let stays = belongs(number)
                && (wanted.get(number) == Some(member) || self.cluster.keeps_dialled(*number));
            if !stays {
                dial.abort();
            }
            stays
        });
        for (number, member) in wanted {
            self.dials.entry(number).or_insert_with(|| {
                let task = tokio::spawn(dial(Arc::clone(&self.port), member.clone()));
                (member, task)
            });
        }
        for number in gone {
            self.sessions.remove(&number);
            self.give_up_requests(number);
        }
        tell(&self.greeting, &ToPeer::Greeting(Box::new(self.cluster.greeting())));
        tell(&self.membership, &ToPeer::Membership(self.cluster.membership().clone()));
        self.keep_list();
    }

    fn keep_list(&self) {
        let (file, path) = (self.cluster.file().clone(), self.directory.members());
        let written = Arc::clone(&self.written);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write_list(&file, &path, &written) {
                error!(%error, "the list of members cannot be kept");
            }
        });
    }

    fn look_at_certificate(&self) {
        let credentials = self.port.credentials.clone();
        let (file, address) = (self.cluster.file().clone(), self.cluster.address());
        tokio::task::spawn_blocking(move || {
            if !credentials.is_renewal_due(unix_time()) {
                return;
            }
            let directory = credentials.directory();
            match issue(directory, &file, address) {
                Ok(()) => {
                    credentials.look_again();
                    info!("renewed the node's certificate");
                }
                Err(error) => error!(%error, "the node's certificate cannot be renewed"),
            }
        });
    }

    fn name_of(&self, number: NodeNumber) -> String {
        let member = self.cluster.membership().member(number);
        member.map_or_else(|| format!("node number {number}"), |member| member.name.clone())
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        self.accepting.abort();
        self.dials.values().for_each(|(_, dial)| dial.abort());
    }
}

/// What `[cluster]` says of it.
fn discovery(settings: &config::ClusterSettings) -> Discovery {
    let addresses = |all: &[config::MemberAddress]| {
        Discovery::Addresses(all.iter().map(ToString::to_string).collect())
    };
    match &settings.discover {
        Some(config::Discover::Multicast(group)) => Discovery::Multicast(group.address()),
        Some(config::Discover::Servers(servers)) => addresses(servers),
        None if settings.nodes.is_empty() => Discovery::KnownMembers,
        None => addresses(&settings.nodes),
    }
}

/// Once a line says nothing new, nobody is told it again.
fn tell(line: &watch::Sender<Arc<Vec<u8>>>, message: &ToPeer) {
    let message = encode_line(message);
    line.send_if_modified(|line| {
        let is_new = **line != message;
        if is_new {
            *line = Arc::new(message);
        }
        is_new
    });
}

/// Writes the list, unless a later one stands there.
fn write_list(
    file: &MemberFile,
    path: &Path,
    written: &Mutex<Membership>,
) -> Result<(), CredentialError> {
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    if file.membership.is_later_than(&written) {
        file.write(path)?;
        *written = file.membership.clone();
    }
    Ok(())
}

/// Reads them. A key beside another key's certificate is what a crash leaves of a renewal: it is done again.
fn credentials(
    directory: &ClusterDirectory,
    file: &MemberFile,
    address: std::net::SocketAddr,
) -> Result<NodeCredentials, CredentialError> {
    match NodeCredentials::load(directory.path()) {
        Err(CredentialError::Damaged { path, reason }) => {
            warn!(path = %path.display(), reason, "making the node's certificate anew");
            issue(directory, file, address)?;
            NodeCredentials::load(directory.path())
        }
        loaded => loaded,
    }
}

fn issue(
    directory: &ClusterDirectory,
    file: &MemberFile,
    address: std::net::SocketAddr,
) -> Result<(), CredentialError> {
    Authority::load(directory)?.issue(directory, &file.name, address.ip(), unix_time())
}
