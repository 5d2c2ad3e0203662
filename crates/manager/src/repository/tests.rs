//! Nodes that decide for themselves, on a model of etcd's list: they come to the members that there should be.

use super::*;
use topology::Incarnation;

fn number(node: u16) -> NodeNumber {
    NodeNumber::new(node).expect("a small number")
}

fn peer(node: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10 + u8::try_from(node).expect("a small number")], 6231))
}

/// A cluster, as all of its nodes see it.
struct World {
    up: Vec<u16>,
    lost: Vec<u16>,
    leaving: BTreeSet<NodeNumber>,
    members: Vec<Member>,
    notes: std::collections::BTreeMap<u16, MemberNote>,
    id_last: u64,
}

impl World {
    fn of(nodes: u16) -> World {
        World {
            up: (0..nodes).collect(),
            lost: Vec::new(),
            leaving: BTreeSet::new(),
            members: Vec::new(),
            notes: std::collections::BTreeMap::new(),
            id_last: 0,
        }
    }

    fn nodes(&self) -> Vec<NodeEntry> {
        let entry = |node: &u16, state| NodeEntry {
            name: format!("node{node}"),
            number: number(*node),
            state,
            address: peer(*node),
            last_life: Incarnation::NONE,
            runs_with: topology::RunsWith::default(),
        };
        let up = self.up.iter().map(|node| entry(node, NodeState::Up));
        up.chain(self.lost.iter().map(|node| entry(node, NodeState::Lost))).collect()
    }

    fn decide(&self, node: u16) -> Option<Act> {
        let nodes = self.nodes();
        let is_new = self.members.is_empty();
        decide(&Situation {
            own: number(node),
            nodes: &nodes,
            leaving: &self.leaving,
            leads: self.up.iter().min() == Some(&node),
            note: self.notes.get(&node),
            peer: peer(node),
            members: (!is_new).then_some(&*self.members),
            is_first: is_new && node == 0,
            is_unstarted_for_long: false,
        })
    }

    fn note(&self, id: Option<u64>, node: u16) -> MemberNote {
        let members = described(&self.members, number(node));
        MemberNote { id, peer: peer(node), client: peer(node), members }
    }

    /// A member as it is listed before it was started.
    fn add(&mut self, node: u16) -> u64 {
        assert!(self.members.iter().all(|member| !member.is_learner), "etcd has one learner");
        self.id_last += 1;
        let peer_urls = vec![format!("https://{}", peer(node))];
        self.members.push(Member {
            id: self.id_last,
            name: String::new(),
            peer_urls,
            client_urls: Vec::new(),
            is_learner: true,
        });
        self.id_last
    }

    fn start(&mut self, node: u16, id: u64) {
        let note = self.note(Some(id), node);
        assert!(
            note.members
                .contains(&MemberSettings::described(&member_name(number(node)), peer(node)))
        );
        self.notes.insert(node, note);
        let member = self.members.iter_mut().find(|member| member.id == id);
        member.expect("it was added").name = member_name(number(node));
    }

    fn carry_out(&mut self, node: u16, act: Act) {
        match act {
            Act::Found => {
                let id = self.add(node);
                self.start(node, id);
                self.members[0].is_learner = false;
                let note = self.note(None, node);
                self.notes.insert(node, note);
            }
            Act::Add => {
                let id = self.add(node);
                self.start(node, id);
            }
            Act::Start { id, .. } => self.start(node, id),
            Act::Learned { id } => {
                let note = self.note(Some(id), node);
                self.notes.insert(node, note);
            }
            Act::Promote { id } => {
                let member = self.members.iter_mut().find(|member| member.id == id);
                member.expect("it is listed").is_learner = false;
            }
            Act::Remove { id } => self.members.retain(|member| member.id != id),
            Act::Forget => drop(self.notes.remove(&node)),
        }
    }

    /// Until nobody does anything; who has a member then.
    fn settle(&mut self) -> Vec<u16> {
        for _ in 0..100 {
            let decided = self.up.iter().find_map(|node| Some((*node, self.decide(*node)?)));
            let Some((node, act)) = decided else {
                let mut members: Vec<u16> = self.members.iter().filter_map(node_of).collect();
                members.sort_unstable();
                return members;
            };
            self.carry_out(node, act);
        }
        panic!("they come to no end: {:?}", self.members);
    }
}

#[test]
fn a_cluster_grows_member_by_member() {
    let mut world = World::of(1);
    assert_eq!(world.settle(), [0]);
    assert_eq!(world.notes[&0].id, Some(1), "the first has learned its number");
    world.up.push(1);
    assert_eq!(world.settle(), [0], "two survive no more than one");
    world.up.push(2);
    assert_eq!(world.settle(), [0, 1, 2]);
    world.up.extend([3, 4]);
    assert_eq!(world.settle(), [0, 1, 2, 3, 4]);
    assert!(world.members.iter().all(|member| !member.is_learner));
}

#[test]
fn nobody_begins_a_second_etcd() {
    let mut world = World::of(3);
    assert_eq!((world.decide(1), world.decide(2)), (None, None));
    assert_eq!(world.decide(0), Some(Act::Found));
    world.settle();
    // Nobody answers: the member waits for the others.
    let nodes = world.nodes();
    let waiting = Situation {
        own: number(0),
        nodes: &nodes,
        leaving: &BTreeSet::new(),
        leads: true,
        note: world.notes.get(&0),
        peer: peer(0),
        members: None,
        is_first: true,
        is_unstarted_for_long: false,
    };
    assert_eq!(decide(&waiting), None);
    assert_eq!(decide(&Situation { note: None, is_first: false, ..waiting }), None);
}

#[test]
fn a_manager_that_died_is_followed_by_one_that_goes_on() {
    let mut world = World::of(3);
    world.settle();
    world.members.retain(|member| node_of(member) != Some(2));
    world.notes.remove(&2);
    // Added, and not noted.
    let id = world.add(2);
    assert!(matches!(world.decide(2), Some(Act::Start { id: own, .. }) if own == id));
    assert_eq!(world.decide(1), None);
    assert_eq!(world.settle(), [0, 1, 2]);
}

#[test]
fn one_that_is_never_started_is_taken_away() {
    let mut world = World::of(4);
    world.settle();
    let id = world.add(9);
    let nodes = world.nodes();
    let decide_as = |node: u16, is_unstarted_for_long| {
        decide(&Situation {
            own: number(node),
            nodes: &nodes,
            leaving: &BTreeSet::new(),
            leads: node == 0,
            note: world.notes.get(&node),
            peer: peer(node),
            members: Some(&world.members),
            is_first: false,
            is_unstarted_for_long,
        })
    };
    assert_eq!(decide_as(0, false), None);
    assert_eq!(decide_as(0, true), Some(Act::Remove { id }));
    assert_eq!(decide_as(1, true), None, "one decides");
}

#[test]
fn a_member_without_its_data_is_made_anew() {
    let mut world = World::of(3);
    world.settle();
    let before =
        world.members.iter().find(|member| node_of(member) == Some(1)).map(|member| member.id);
    world.notes.remove(&1);
    assert_eq!(world.decide(1), before.map(|id| Act::Remove { id }));
    assert_eq!(world.settle(), [0, 1, 2]);
    assert_ne!(world.notes[&1].id, before);
}

#[test]
fn a_lost_node_gives_way_and_forgets_when_it_is_back() {
    let mut world = World::of(4);
    world.settle();
    world.up.retain(|node| *node != 1);
    world.lost.push(1);
    assert_eq!(world.settle(), [0, 2, 3]);
    world.lost.clear();
    world.up.push(1);
    assert_eq!(world.decide(1), Some(Act::Forget));
    assert_eq!(world.settle(), [0, 2, 3]);
    assert!(!world.notes.contains_key(&1));
}

#[test]
fn members_of_nodes_that_were_removed_are_taken_away() {
    let mut world = World::of(4);
    world.settle();
    world.up.retain(|node| *node != 2);
    assert_eq!(world.settle(), [0, 1, 3]);
}

#[test]
fn the_only_member_of_two_nodes_moves_before_its_node_leaves() {
    let mut world = World::of(2);
    assert_eq!(world.settle(), [0]);
    world.leaving.insert(number(0));
    assert_eq!(world.settle(), [1]);
    let mut alone = World::of(1);
    alone.settle();
    alone.leaving.insert(number(0));
    assert_eq!(alone.settle(), [0], "nobody is there to take it");
}
