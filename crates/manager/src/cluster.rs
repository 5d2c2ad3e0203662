//! What a member knows of the others, and what follows: who is lost, who decides, what its own processes are shown. Pure.
//!
//! Every two members have one connection, opened by the one with the greater number (by the other one only when nothing
//! was heard for too long, as of a node that was removed while it was away). Each tells the other its processes at every
//! change, and at every heartbeat interval that it is there. Gossip hears them, too, and tells where they are. Who was not
//! heard in either way for interval × (misses + 1) is lost: all its lives count as over, until it is heard again. In a
//! partition both sides take the other for lost; what both would change is refused by the side without a majority
//! ([`Cluster::admit`]), or decided by the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use topology::protocol::ClusterStatus;
use topology::{
    ClockOffset, ClockOffsets, FormatLevel, HeartbeatSettings, Member, MemberFile, Membership,
    NodeNumber, NodeSnapshot, Picture, TopologyView, cluster_view,
};

pub mod clock;
#[cfg(test)]
mod tests;

use clock::Verdict;

/// One connection to another member, numbered by this manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(pub u64);

/// How a member greets another one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Greeting {
    /// Which cluster.
    pub cluster: String,
    /// Who it is; the certificate must say the same.
    pub name: String,
    /// Its number.
    pub number: NodeNumber,
    /// Everybody, as far as it knows.
    pub membership: Membership,
}

/// What a manager knew of another member: the next one of the same node begins with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownMember {
    /// As it was last heard.
    pub snapshot: NodeSnapshot,
    /// It was silent for too long.
    pub is_lost: bool,
}

/// What a member knows.
#[derive(Debug)]
pub struct Cluster {
    file: MemberFile,
    address: SocketAddr,
    heartbeat: HeartbeatSettings,
    others: BTreeMap<NodeNumber, Other>,
    /// As the connections tell.
    clocks: ClockOffsets,
    session_last: u64,
    looked: Instant,
    view: TopologyView,
}

#[derive(Debug)]
struct Other {
    snapshot: NodeSnapshot,
    heard: Instant,
    /// And whether the greater number opened it.
    session: Option<(Session, bool)>,
    /// Gossip hears it, as far as it has told.
    is_gossiped: bool,
    is_lost: bool,
}

impl Cluster {
    /// A member that has heard nobody yet. `address` is where others reach it.
    pub fn new(
        file: MemberFile,
        address: SocketAddr,
        heartbeat: HeartbeatSettings,
        now: Instant,
    ) -> Cluster {
        let mut cluster = Cluster {
            file,
            address,
            heartbeat,
            others: BTreeMap::new(),
            clocks: ClockOffsets::default(),
            session_last: 0,
            looked: now,
            view: TopologyView::default(),
        };
        cluster.follow_list(now);
        cluster
    }

    /// Begins with what the manager before this one knew. Its node's processes go on with it: a view without the others' would
    /// part edges from containers that serve. Whoever was not lost has to be heard within the usual time from now.
    pub fn recall(&mut self, known: Vec<KnownMember>, now: Instant) {
        for KnownMember { snapshot, is_lost } in known {
            if let Some(other) = self.others.get_mut(&snapshot.number)
                && other.snapshot.node == snapshot.node
            {
                (other.snapshot, other.is_lost, other.heard) = (snapshot, is_lost, now);
            }
        }
    }

    /// What another manager of this node would have to know of the others.
    pub fn known(&self) -> Vec<KnownMember> {
        let known = |other: &Other| KnownMember {
            snapshot: other.snapshot.clone(),
            is_lost: other.is_lost,
        };
        self.others.values().map(known).collect()
    }

    /// What is to be kept on the disk.
    pub fn file(&self) -> &MemberFile {
        &self.file
    }

    /// Who belongs to the cluster, as far as is known.
    pub fn membership(&self) -> &Membership {
        &self.file.membership
    }

    /// This node's number.
    pub fn number(&self) -> NodeNumber {
        self.file.number
    }

    /// Which cluster it is.
    pub fn id(&self) -> &str {
        &self.file.cluster
    }

    /// Where others reach this node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How this node greets others.
    pub fn greeting(&self) -> Greeting {
        Greeting {
            cluster: self.file.cluster.clone(),
            name: self.file.name.clone(),
            number: self.file.number,
            membership: self.file.membership.clone(),
        }
    }

    /// Whether the list of members has this node no more.
    pub fn is_removed(&self) -> bool {
        self.file.membership.member(self.file.number).is_none()
    }

    /// The silence after which a node is lost.
    pub fn silence_max(&self) -> Duration {
        self.heartbeat.interval * (self.heartbeat.allowed_miss_count + 1)
    }

    /// Somebody whose certificate names `certified` greets on a new connection, which `is_dialled` by this node or came in.
    ///
    /// # Errors
    /// Why nothing more is said to him.
    pub fn greeted(
        &mut self,
        greeting: Greeting,
        certified: &str,
        is_dialled: bool,
        now: Instant,
    ) -> Result<Session, String> {
        let Greeting { cluster, name, number, membership } = greeting;
        if cluster != self.file.cluster {
            return Err(format!("{name} is of another cluster"));
        }
        if certified != name {
            return Err(format!("a certificate of {certified} says that it is {name}"));
        }
        self.learn(membership, now);
        let own = self.file.number;
        let Some(other) = self.others.get_mut(&number).filter(|other| other.snapshot.node == name)
        else {
            return Err(format!(
                "{name} (number {number}) is no member of this cluster: it was removed; to come back it leaves \
                 (outlast cluster leave) and joins anew"
            ));
        };
        let is_regular = is_dialled == (own > number);
        if let Some((_, true)) = other.session
            && !is_regular
        {
            return Err(format!("{} is connected already", other.snapshot.node));
        }
        self.session_last += 1;
        let session = Session(self.session_last);
        other.session = Some((session, is_regular));
        other.heard = now;
        // What it was before, another manager of it may have forgotten.
        other.snapshot.version = 0;
        Ok(session)
    }

    /// That member said something. Whether the view may be another one.
    pub fn heard(&mut self, number: NodeNumber, session: Session, now: Instant) -> bool {
        let Some(other) = self.in_session(number, session) else { return false };
        other.heard = now;
        std::mem::replace(&mut other.is_lost, false)
    }

    /// It answered at `answered_at` by its clock a question of `asked_at`, and that came at `now`, by ours: Unix
    /// microseconds.
    pub fn told_the_time(
        &mut self,
        number: NodeNumber,
        session: Session,
        (asked_at, answered_at, now): (u64, u64, u64),
    ) {
        if self.in_session(number, session).is_some() {
            self.clocks.answered(number, asked_at, answered_at, now);
        }
    }

    /// How far the clocks of the others are from this node's, as far as they were read; gossip reads them, too.
    pub fn clocks(
        &self,
        gossiped: BTreeMap<NodeNumber, ClockOffset>,
    ) -> BTreeMap<NodeNumber, ClockOffset> {
        let mut clocks = gossiped;
        clocks.extend(self.clocks.best());
        clocks.retain(|number, _| self.others.contains_key(number));
        clocks
    }

    /// Whether this node's clock is the cluster's.
    pub fn judge_clock(&self, gossiped: BTreeMap<NodeNumber, ClockOffset>) -> Verdict {
        let clocks = self.clocks(gossiped);
        let living = self.others.iter().filter(|(_, other)| !other.is_lost);
        let living = living.map(|(number, _)| (*number, clocks.get(number).copied()));
        clock::judge(self.file.number, &living.collect(), self.file.membership.members.len())
    }

    /// It told its processes. Whether the view may be another one.
    pub fn told(&mut self, number: NodeNumber, session: Session, told: NodeSnapshot) -> bool {
        let Some(other) = self.in_session(number, session) else { return false };
        let is_its_own = told.number == number && told.node == other.snapshot.node;
        if !is_its_own || told.version <= other.snapshot.version {
            return false;
        }
        other.snapshot = told;
        true
    }

    /// What gossip knows of the others. Whether the view may be another one, or where somebody is.
    pub fn gossiped(&mut self, picture: &Picture) -> bool {
        let mut has_changed = false;
        for (number, other) in &mut self.others {
            let said =
                picture.snapshots.get(number).filter(|said| said.node == other.snapshot.node);
            other.is_gossiped = said.is_some() && !picture.lost.contains(number);
            if other.is_gossiped {
                has_changed |= std::mem::replace(&mut other.is_lost, false);
            }
            if let Some(said) = said.filter(|said| said.version > other.snapshot.version) {
                other.snapshot = said.clone();
                has_changed = true;
            }
        }
        has_changed
    }

    /// Its connection is gone. It may have another one, and is lost by its silence only.
    pub fn gone(&mut self, number: NodeNumber, session: Session) {
        if let Some(other) = self.in_session(number, session) {
            other.session = None;
        }
    }

    /// A list of members came in. Whether it is a later one than the present.
    pub fn learn(&mut self, membership: Membership, now: Instant) -> bool {
        if !membership.is_later_than(&self.file.membership) {
            return false;
        }
        self.file.membership = membership;
        self.follow_list(now);
        true
    }

    /// Those to whom this node opens a connection now: members of lower numbers, and those who should have opened one. One
    /// that says itself that it is elsewhere is there.
    pub fn to_dial(&self) -> impl Iterator<Item = Member> {
        let own = self.file.number;
        self.file.membership.members.iter().filter_map(move |member| {
            let other = self.others.get(&member.number)?;
            let address = other.snapshot.address;
            (member.number < own || other.is_lost).then(|| Member { address, ..member.clone() })
        })
    }

    /// Whether that member is spoken with by a connection that this node opened though it is the lower one.
    pub fn keeps_dialled(&self, number: NodeNumber) -> bool {
        let session = self.others.get(&number).and_then(|other| other.session);
        number > self.file.number && session.is_some_and(|(_, is_regular)| !is_regular)
    }

    /// Where the others say that they are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.others.values().map(|other| other.snapshot.address)
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub fn next_deadline(&self) -> Instant {
        let silence = self.silence_max();
        let listened_to = self.others.values().filter(|other| !other.is_lost && !other.is_gossiped);
        let due = listened_to.map(|other| other.heard + silence);
        due.fold(self.looked + self.heartbeat.interval, Instant::min)
    }

    /// Looks who was silent for too long. Whether the view is another one. What waits to be read must be handled before.
    pub fn tick(&mut self, now: Instant) -> bool {
        let stood_still = now.duration_since(self.looked) > self.heartbeat.interval * 2;
        self.looked = now;
        let silence = self.silence_max();
        let mut has_changed = false;
        for other in self.others.values_mut() {
            if stood_still {
                // Others may have spoken all the while.
                other.heard = now;
            }
            if !other.is_lost && !other.is_gossiped && now.duration_since(other.heard) >= silence {
                other.is_lost = true;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Who is lost.
    pub fn lost(&self) -> BTreeSet<NodeNumber> {
        let lost = self.others.iter().filter(|(_, other)| other.is_lost);
        lost.map(|(number, _)| *number).collect()
    }

    /// The living member with the lowest number: it changes the list and rotates the keys.
    pub fn coordinator(&self) -> NodeNumber {
        let living = self.others.iter().filter(|(_, other)| !other.is_lost);
        living.map(|(number, _)| *number).fold(self.file.number, NodeNumber::min)
    }

    /// Whether that is this node.
    pub fn coordinates(&self) -> bool {
        self.coordinator() == self.file.number
    }

    /// Whether this node is on the only side that may decide for all: it hears most of the members, or half of them, the one
    /// with the lowest number among them.
    pub fn hears_most(&self) -> bool {
        let (members, lost) = (&self.file.membership.members, self.lost());
        let heard = members.len() - lost.len();
        let has_first = members.first().is_some_and(|first| !lost.contains(&first.number));
        !self.is_removed()
            && (2 * heard > members.len() || (2 * heard == members.len() && has_first))
    }

    /// Admits a node. In a partition two sides would give the same number: only the one that hears most of the members
    /// (or half of them, the one with the lowest number among them) gives any.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn admit(
        &mut self,
        name: Option<&str>,
        address: SocketAddr,
        now: Instant,
    ) -> Result<Member, String> {
        let list = &self.file.membership;
        let (all, lost) = (list.members.len(), self.lost().len());
        if !self.hears_most() {
            return Err(format!(
                "{lost} of {all} members are lost: nobody is admitted while most are; bring them up, or remove those \
                 that will not come back (outlast cluster remove NODE)"
            ));
        }
        let (changed, member) =
            list.with(name, address, self.file.number).map_err(|error| error.to_string())?;
        self.file.membership = changed;
        self.follow_list(now);
        Ok(member)
    }

    /// Brings the list up to where members say that they are, if that is this node's to do. Whether it is another one now.
    pub fn follow_addresses(&mut self, now: Instant) -> bool {
        if !self.coordinates() || !self.hears_most() {
            return false;
        }
        let own = (self.file.number, self.address);
        let heard = self.others.values().map(|other| &other.snapshot);
        // One that was not heard yet is where the list says.
        let heard = heard.filter(|snapshot| snapshot.version > 0);
        let are: Vec<_> =
            heard.map(|snapshot| (snapshot.number, snapshot.address)).chain([own]).collect();
        let mut has_changed = false;
        for (number, address) in are {
            let list = &self.file.membership;
            if let Some(changed) = list.moved(number, address, self.file.number) {
                self.file.membership = changed;
                has_changed = true;
            }
        }
        if has_changed {
            self.follow_list(now);
        }
        has_changed
    }

    /// Takes a member out that is lost or wants to leave.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn remove(&mut self, name: &str, is_leaving: bool, now: Instant) -> Result<(), String> {
        let list = &self.file.membership;
        let changed = list.without(name, self.file.number).map_err(|error| error.to_string())?;
        if changed.members.is_empty() {
            return Err(format!(
                "{name} is the last member; to be a single node again it leaves: outlast cluster leave"
            ));
        }
        let number = list.named(name).map(|member| member.number);
        let is_lost = number.is_some_and(|number| self.lost().contains(&number));
        if !is_lost && !is_leaving {
            return Err(format!(
                "{name} is up; there, run: outlast cluster leave. Only a node that is lost is removed by others"
            ));
        }
        self.file.membership = changed;
        self.follow_list(now);
        Ok(())
    }

    /// What the node's own processes are shown, with `own` as it is now.
    pub fn view(&mut self, own: &NodeSnapshot, format_level: FormatLevel) -> &TopologyView {
        let others = self.others.iter();
        let others = others.map(|(number, other)| (*number, other.snapshot.clone())).collect();
        let cluster = topology::Cluster {
            own,
            others: &others,
            lost: &self.lost(),
            numbers_given: self.file.membership.numbers_given,
            format_level,
        };
        self.view = cluster_view(&cluster, &self.view);
        &self.view
    }

    /// The greatest version that a view of the cluster has had.
    pub fn version(&self) -> u64 {
        self.view.version
    }

    /// For `outlast status`; of gossip and configuration it says nothing.
    pub fn status(&self, refused: u64) -> ClusterStatus {
        let coordinator = self.file.membership.member(self.coordinator());
        ClusterStatus {
            cluster: self.file.cluster.clone(),
            members_version: self.file.membership.version,
            coordinator: coordinator.map_or_else(String::new, |member| member.name.clone()),
            refused,
            is_removed: self.is_removed(),
            clocks: BTreeMap::new(),
            waits: None,
            gossip: topology::GossipCounters::default(),
            configuration: topology::protocol::ConfigurationStatus::default(),
            formats: topology::protocol::FormatsStatus::default(),
        }
    }

    /// The members without this node; whoever is new counts as heard now.
    fn follow_list(&mut self, now: Instant) {
        let own = self.file.number;
        let is_removed = self.is_removed();
        let listed: Vec<Member> = self.file.membership.members.clone();
        let belongs = |number: &NodeNumber| listed.iter().any(|member| &member.number == number);
        self.others.retain(|number, _| !is_removed && belongs(number));
        for member in listed.iter().filter(|member| member.number != own && !is_removed) {
            self.others.entry(member.number).or_insert_with(|| Other {
                snapshot: NodeSnapshot {
                    node: member.name.clone(),
                    number: member.number,
                    version: 0,
                    address: member.address,
                    last_life: topology::Incarnation::NONE,
                    runs_with: topology::RunsWith::default(),
                    processes: Vec::new(),
                },
                heard: now,
                session: None,
                is_gossiped: false,
                is_lost: false,
            });
        }
    }

    fn in_session(&mut self, number: NodeNumber, session: Session) -> Option<&mut Other> {
        let other = self.others.get_mut(&number)?;
        (other.session.map(|(present, _)| present) == Some(session)).then_some(other)
    }
}
