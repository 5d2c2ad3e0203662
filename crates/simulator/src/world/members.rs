//! The managers of several nodes among each other: what they tell, whom they take for lost, and what their own processes
//! are shown.
//!
//! `manager::cluster` decides; this carries its messages. By a session, opened anew with each manager, what is said comes
//! in order and needs both directions; by gossip each says all it knows, overtakes itself, and is heard in one direction.

use std::sync::Arc;

use manager::cluster::{Cluster, Greeting, Session};
use topology::{FormatLevel, MemberFile, Membership, NodeNumber, NodeSnapshot, Picture};

use super::*;

/// How long after the silence that is allowed a node is lost at the latest.
const NOTICED_IN: Duration = Duration::from_secs(1);
/// How long gossip takes.
const GOSSIP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));

/// What a manager knows of the others, as long as it lives.
pub(super) struct Membered {
    cluster: Cluster,
    sessions: BTreeMap<NodeId, (Reign, Session)>,
    /// What gossip has brought, and when it brought something last.
    said: BTreeMap<NodeNumber, NodeSnapshot>,
    heard: BTreeMap<NodeNumber, Instant>,
    /// When anything came from whom last, for those who watch.
    words: BTreeMap<NodeNumber, Instant>,
    began: Instant,
    shown: Option<TopologyView>,
}

/// What one manager tells another.
#[derive(Debug)]
pub(super) struct Telling {
    to: NodeId,
    from: NodeId,
    reign: Reign,
    keys: KeyRing,
    what: What,
}

#[derive(Debug)]
enum What {
    Session(NodeSnapshot),
    Gossip(BTreeMap<NodeNumber, NodeSnapshot>),
}

pub(super) fn number(node: NodeId) -> NodeNumber {
    NodeNumber::new(node.0 as u16).expect("there are few nodes")
}

/// Where the others reach a node.
pub(super) fn address(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, node.0 as u8, 100], 6200))
}

fn list(nodes: usize) -> Membership {
    let first = Membership::created("node1", address(NodeId(0)));
    (1..nodes).map(NodeId).fold(first, |list, node| {
        let name = format!("node{}", node.0 + 1);
        let with = list.with(Some(&name), address(node), NodeNumber::FIRST);
        with.expect("the node is new").0
    })
}

impl Membered {
    /// A manager that has heard nobody yet.
    pub(super) fn new(node: NodeId, name: String, nodes: usize, now: Instant) -> Membered {
        let file = MemberFile {
            cluster: "simulated".to_owned(),
            name,
            number: number(node),
            membership: list(nodes),
        };
        Membered {
            cluster: Cluster::new(file, address(node), HEARTBEAT, now),
            sessions: BTreeMap::new(),
            said: BTreeMap::new(),
            heard: BTreeMap::new(),
            words: BTreeMap::new(),
            began: now,
            shown: None,
        }
    }

    /// What the node's processes are shown, with that table.
    pub(super) fn view(&mut self, table: &ProcessTable, node: NodeId) -> TopologyView {
        self.cluster.view(&table.snapshot(address(node)), FormatLevel::FIRST).clone()
    }

    fn in_session(
        &mut self,
        from: NodeId,
        reign: Reign,
        greeting: Greeting,
        now: Instant,
    ) -> Option<Session> {
        match self.sessions.get(&from) {
            Some((known, _)) if reign < *known => return None,
            Some((known, session)) if reign == *known => return Some(*session),
            Some(_) | None => {}
        }
        let is_dialled = self.cluster.number() > greeting.number;
        let name = greeting.name.clone();
        let session = self.cluster.greeted(greeting, &name, is_dialled, now).ok()?;
        self.sessions.insert(from, (reign, session));
        Some(session)
    }

    /// Gossip is looked through: who said what, and who has said nothing for too long.
    fn look(&mut self, now: Instant) -> bool {
        let is_silent = |number: &&NodeNumber| {
            let heard = self.heard.get(number);
            heard.is_none_or(|heard| now.duration_since(*heard) >= HEARTBEAT.silence_max())
        };
        let lost = self.said.keys().filter(is_silent).copied().collect();
        let picture = Picture { snapshots: self.said.clone(), lost };
        let has_changed = self.cluster.gossiped(&picture);
        let has_changed = self.cluster.tick(now) || has_changed;
        // Their connections have been given up, too.
        let lost = self.cluster.lost();
        self.sessions.retain(|node, _| !lost.contains(&number(*node)));
        has_changed
    }
}

impl World {
    /// The manager's processes see what it knows now, if that is new.
    pub(super) fn show(&mut self, node: NodeId) {
        let Some(view) = self.view(node) else { return };
        if let Some(member) = &mut self.nodes[node.0].member {
            if member.shown.as_ref() == Some(&*view) {
                return;
            }
            member.shown = Some((*view).clone());
        }
        let shown = self.nodes[node.0].process_name(&ProcessName::new("manager"));
        let states =
            view.processes.iter().map(|process| format!(" {}={}", process.name, process.state));
        let states: String = states.collect();
        let lost = view.nodes.iter().filter(|entry| entry.state == topology::NodeState::Lost);
        let lost: String = lost.map(|entry| format!(" {} is lost", entry.name)).collect();
        self.trace.note(shown, format_args!("publishes{states}{lost}"));
        for place in self.lives_of(node) {
            self.say(place, Word::View(Arc::clone(&view)));
        }
        self.judges_justly(node);
    }

    /// The manager tells every other one what it is now, and goes on to do so.
    pub(super) fn speaks(&mut self, node: NodeId, reign: Reign) {
        if self.nodes[node.0].reign != reign || self.nodes[node.0].member.is_none() {
            return;
        }
        self.tell_members(node);
        self.look_at_members(node);
        self.schedule.at(self.now + HEARTBEAT.beat_interval(), Happening::Speaks(node, reign));
    }

    pub(super) fn tell_members(&mut self, from: NodeId) {
        let node = &self.nodes[from.0];
        let (Some(table), Some(member)) = (&node.table, &node.member) else { return };
        let own = table.snapshot(address(from));
        let mut said = member.said.clone();
        said.insert(number(from), own.clone());
        let (reign, keys) = (node.reign, node.keys.clone());
        for to in (0..self.nodes.len()).map(NodeId).filter(|to| *to != from) {
            let cables = &self.streams.cables;
            if cables.join(Net::Nodes, from.0, to.0) {
                let delay = self.members_random.between(NEWS.0, NEWS.1.max(self.snapshots_late));
                let last = self.last_told.entry((from, to)).or_default();
                *last = (self.now + delay).max(*last);
                let what = What::Session(own.clone());
                let telling = Telling { to, from, reign, keys: keys.clone(), what };
                self.schedule.at(*last, Happening::Told(Box::new(telling)));
            }
            if cables.carry(Net::Nodes, from.0, to.0) && !self.members_random.chance(50) {
                let most = GOSSIP.1.max(self.snapshots_late);
                let at = self.now + self.members_random.between(GOSSIP.0, most);
                let what = What::Gossip(said.clone());
                let telling = Telling { to, from, reign, keys: keys.clone(), what };
                self.schedule.at(at, Happening::Told(Box::new(telling)));
            }
        }
    }

    pub(super) fn told(&mut self, telling: Telling) {
        let Telling { to, from, reign, keys, what } = telling;
        let now = self.instant();
        let greeting = Greeting {
            cluster: "simulated".to_owned(),
            name: self.nodes[from.0].name(),
            number: number(from),
            membership: list(self.nodes.len()),
        };
        let node = &mut self.nodes[to.0];
        let Some(member) = &mut node.member else { return };
        let has_changed = match what {
            What::Session(snapshot) => {
                let Some(session) = member.in_session(from, reign, greeting, now) else { return };
                let was_lost = member.cluster.heard(number(from), session, now);
                member.cluster.told(number(from), session, snapshot) || was_lost
            }
            What::Gossip(said) => {
                member.heard.insert(number(from), now);
                for (of, snapshot) in said.into_iter().filter(|(of, _)| *of != number(to)) {
                    let known = member.said.get(&of).map_or(0, |known| known.version);
                    if snapshot.version > known {
                        member.said.insert(of, snapshot);
                    }
                }
                member.look(now)
            }
        };
        member.words.insert(number(from), now);
        if keys.current_since() > node.keys.current_since() {
            self.use_keys(to, keys);
        }
        if has_changed {
            self.show(to);
        }
    }

    /// The manager looks who was silent for too long.
    fn look_at_members(&mut self, node: NodeId) {
        let now = self.instant();
        let Some(member) = &mut self.nodes[node.0].member else { return };
        if member.look(now) {
            self.show(node);
        }
        self.judges_justly(node);
    }

    /// Who was heard is not lost, and who was not for too long is.
    fn judges_justly(&mut self, node: NodeId) {
        let now = self.instant();
        let Some(member) = &self.nodes[node.0].member else { return };
        let lost = member.cluster.lost();
        let others = (0..self.nodes.len()).map(NodeId).filter(|other| *other != node);
        for other in others {
            let heard = member.words.get(&number(other)).copied().unwrap_or(member.began);
            let silent_for = now.duration_since(heard);
            let wrong = match lost.contains(&number(other)) {
                true if silent_for < HEARTBEAT.silence_max() => "is lost, and has been heard",
                false if silent_for > HEARTBEAT.silence_max() + NOTICED_IN => {
                    "is not lost, and has been silent"
                }
                true | false => continue,
            };
            let [by, about] = [node, other].map(|node| self.nodes[node.0].name());
            self.invariants.violated(self.now, format!("to {by}, {about} {wrong}: {silent_for:?}"));
        }
    }

    /// The node has these keys from now on, and its processes hear so.
    pub(super) fn use_keys(&mut self, node: NodeId, keys: KeyRing) {
        self.nodes[node.0].keys = keys.clone();
        let shown = self.nodes[node.0].process_name(&ProcessName::new("manager"));
        self.trace.note(shown, "rotates the keys");
        for life in self.lives_of(node) {
            self.say(life, Word::Keys(keys.clone()));
        }
    }
}
