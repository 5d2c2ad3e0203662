//! Pictures of servers that do at once what they are told, from a cluster's first store to the loss of its nodes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::chores::{Chore, Plan};
use super::failover::{LastLife, Orders};
use super::*;

mod leaving;
mod losses;

const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_secs(5);
/// No record lies in these.
const VACANT: [u16; 3] = [0, 7, 16_000];

#[derive(Debug, Clone)]
struct Server {
    node: u16,
    ordinal: u8,
    holds_data: bool,
    leaves: bool,
    id: String,
    presence: Presence,
    answers: bool,
    slots: BTreeSet<u16>,
    replica_of: Option<String>,
    epoch: u64,
    knows: BTreeSet<String>,
    offset: u64,
    /// Of whose stream; else of that of whom it follows.
    stream_of: Option<String>,
}

impl Server {
    fn new(node: u16, ordinal: u8) -> Server {
        let id = format!("n{node}s{ordinal}");
        Server {
            node,
            ordinal,
            holds_data: true,
            leaves: false,
            knows: BTreeSet::from([id.clone()]),
            id,
            presence: Presence::Runs { since: MOMENT },
            answers: true,
            slots: BTreeSet::new(),
            replica_of: None,
            epoch: 0,
            offset: 100,
            stream_of: None,
        }
    }

    fn address(&self) -> SocketAddr {
        let host = u8::try_from(self.node + 1).unwrap();
        SocketAddr::from(([192, 0, 2, host], 6218 + 2 * u16::from(self.ordinal)))
    }
}

#[derive(Clone, Default)]
struct World {
    servers: Vec<Server>,
    epoch: u64,
    is_incomplete: bool,
    allow_colocation: bool,
}

impl World {
    /// So many nodes of two stores each, settled.
    fn of(nodes: u16) -> World {
        let mut world = World::default();
        for node in 0..nodes {
            world.join(node, 2);
            world.settle();
        }
        world
    }

    fn join(&mut self, node: u16, stores: u8) {
        self.servers.extend((1..=stores).map(|ordinal| Server::new(node, ordinal)));
    }

    fn server(&mut self, id: &str) -> &mut Server {
        self.servers.iter_mut().find(|server| server.id == id).unwrap()
    }

    fn at(&mut self, address: SocketAddr) -> &mut Server {
        self.servers.iter_mut().find(|server| server.address() == address).unwrap()
    }

    fn node(&mut self, node: u16, presence: Presence) {
        for server in self.servers.iter_mut().filter(|server| server.node == node) {
            server.presence = presence;
            server.answers = matches!(presence, Presence::Runs { .. });
        }
    }

    /// `slots`: of all servers, by name.
    fn report(
        &self,
        server: &Server,
        slots: &BTreeMap<&String, Vec<RangeInclusive<u16>>>,
    ) -> Report {
        let answers = |id: &str| self.servers.iter().any(|it| it.id == id && it.answers);
        let of_id = |id: &String| self.servers.iter().find(|other| &other.id == id);
        let known = server.knows.iter().map(|id| (id, of_id(id)));
        let followers = self
            .servers
            .iter()
            .filter(|other| other.answers && other.replica_of.as_ref() == Some(&server.id));
        Report {
            id: server.id.clone(),
            replica_of: server.replica_of.clone(),
            slots: slots[&server.id].clone(),
            offset: server.offset,
            stream: server
                .stream_of
                .as_ref()
                .or(server.replica_of.as_ref())
                .unwrap_or(&server.id)
                .clone(),
            is_synced: server.replica_of.as_deref().is_some_and(answers),
            followers: followers.map(|other| (other.address(), true)).collect(),
            known: known
                .map(|(id, other)| Known {
                    id: id.clone(),
                    address: other.map(Server::address),
                    is_failed: other.is_none_or(|other| !other.answers),
                    replica_of: other.and_then(|other| other.replica_of.clone()),
                    slots: other.map(|other| slots[&other.id].clone()).unwrap_or_default(),
                    epoch: other.map_or(0, |other| other.epoch),
                })
                .collect(),
            ..Report::default()
        }
    }

    fn picture(&self) -> Picture {
        let slots = self.servers.iter().map(|server| (&server.id, ranges(&server.slots))).collect();
        let store = |server: &Server| Store {
            node: NodeNumber::new(server.node).unwrap(),
            ordinal: server.ordinal,
            address: server.address(),
            holds_data: server.holds_data && !server.leaves,
            leaves: server.leaves,
            presence: server.presence,
            report: server.answers.then(|| self.report(server, &slots)),
            was_in_step: false,
        };
        let mut stores: Vec<Store> = self.servers.iter().map(store).collect();
        stores.sort_by_key(|store| (store.node, store.ordinal));
        Picture {
            stores,
            is_complete: !self.is_incomplete,
            allow_colocation: self.allow_colocation,
        }
    }

    fn carry_out(&mut self, chore: Chore) {
        match chore {
            Chore::Meet { at, other } => {
                let (a, b) = (self.at(at).knows.clone(), self.at(other).knows.clone());
                let all: BTreeSet<String> = a.union(&b).cloned().collect();
                for server in &mut self.servers {
                    if all.contains(&server.id) {
                        server.knows.extend(all.iter().cloned());
                    }
                }
            }
            Chore::ClaimAll { at } => self.at(at).slots = (0..SLOTS).collect(),
            Chore::Follow { replica, primary } => {
                let replica = self.at(replica);
                assert!(replica.slots.is_empty() && replica.knows.contains(&primary));
                replica.replica_of = Some(primary);
            }
            Chore::Move { from, to, slots } => {
                self.epoch += 1;
                let epoch = self.epoch;
                for slot in &slots {
                    assert!(self.server(&from.id).slots.remove(slot));
                }
                let to = self.server(&to.id);
                assert_eq!(to.replica_of, None);
                to.slots.extend(slots);
                to.epoch = epoch;
            }
            Chore::Settle { .. } => unreachable!("moves of this world are done at once"),
            Chore::HandOver { to } => {
                let id = self.at(to).id.clone();
                self.promote(&id);
            }
            Chore::Forget { at, id } => {
                for at in at {
                    self.at(at).knows.remove(&id);
                }
            }
        }
    }

    /// It takes over from its primary, which becomes its replica as soon as it hears of it.
    fn promote(&mut self, id: &str) {
        self.epoch += 1;
        let epoch = self.epoch;
        let before = self.server(id).replica_of.take().unwrap();
        let slots = std::mem::take(&mut self.server(&before).slots);
        let promoted = self.server(id);
        promoted.slots = slots;
        promoted.epoch = epoch;
        let follow = |server: &&mut Server| {
            server.id == before || server.replica_of.as_ref() == Some(&before)
        };
        for server in self.servers.iter_mut().filter(follow) {
            server.replica_of = Some(id.to_owned());
        }
    }

    /// How many shards have a copy on another host.
    fn copies(&self) -> usize {
        let has_copy = |primary: &&Server| {
            self.servers.iter().any(|other| {
                other.answers
                    && other.node != primary.node
                    && other.replica_of.as_ref() == Some(&primary.id)
            })
        };
        let serving = self.servers.iter().filter(|server| server.slots.len() > 1);
        serving.filter(has_copy).count()
    }

    /// Slots that have no copy on another host.
    fn unprotected(&self) -> usize {
        let has_copy = |primary: &Server| {
            self.servers.iter().any(|other| {
                other.answers
                    && other.node != primary.node
                    && other.replica_of.as_ref() == Some(&primary.id)
            })
        };
        let alone = self.servers.iter().filter(|server| server.holds_data && !has_copy(server));
        alone.map(|server| server.slots.len()).sum()
    }

    /// Does what is to be done until nothing is. At no time does anything lose its last copy.
    fn settle(&mut self) {
        let plan = Plan { long: LONG, vacant: VACANT.to_vec() };
        let all = |world: &World| world.servers.iter().map(|it| it.slots.len()).sum::<usize>();
        for _ in 0..400 {
            let chores = self.picture().chores(&plan);
            if chores.is_empty() {
                return;
            }
            for chore in chores {
                let (alone, served) = (self.unprotected(), all(self));
                let is_first = matches!(chore, Chore::ClaimAll { .. });
                self.carry_out(chore.clone());
                assert!(
                    self.unprotected() <= alone || is_first,
                    "{chore:?} takes the last copy of something"
                );
                assert!(all(self) >= served);
            }
        }
        panic!("it never comes to rest: {:?}", self.picture().chores(&plan));
    }

    /// What each server serves, or whose copy it has.
    fn roles(&self) -> Vec<(String, String)> {
        let role = |server: &Server| match &server.replica_of {
            Some(primary) => format!("of {primary}"),
            None => server.slots.len().to_string(),
        };
        self.servers.iter().map(|server| (server.id.clone(), role(server))).collect()
    }

    fn role(&self, id: &str) -> String {
        self.roles().into_iter().find(|(of, _)| of == id).unwrap().1
    }
}

fn ranges(slots: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == *slot => *last = *last.start()..=*slot,
            Some(_) | None => ranges.push(*slot..=*slot),
        }
    }
    ranges
}

fn number(node: u16) -> NodeNumber {
    NodeNumber::new(node).unwrap()
}

fn dead(world: &World, own: u16, orders: Orders) -> Vec<(String, Vec<SocketAddr>, bool)> {
    let dead = world.picture().dead(number(own), orders).into_iter();
    dead.map(|dead| (dead.id, dead.replicas, dead.has_voters)).collect()
}

const ALL: Orders = Orders::All { after: Duration::from_millis(500) };

#[test]
fn one_node_serves_everything_and_has_no_copy_of_it_on_its_own_host() {
    let world = World::of(1);
    assert_eq!((world.role("n0s1"), world.role("n0s2")), ("16384".into(), "0".into()));
    let mut allowing = World { allow_colocation: true, ..World::default() };
    allowing.join(0, 2);
    allowing.settle();
    assert_eq!(allowing.role("n0s2"), "of n0s1");
}

#[test]
fn every_size_serves_fair_shares_with_a_copy_at_the_next_node() {
    for nodes in 2..=8 {
        let world = World::of(nodes);
        for node in 0..nodes {
            let share: u16 = world.role(&format!("n{node}s1")).parse().unwrap();
            assert!((SLOTS / nodes..=SLOTS / nodes + 1).contains(&share), "{nodes}: {share}");
            let next = (node + 1) % nodes;
            assert_eq!(world.role(&format!("n{node}s2")), format!("of n{next}s1"), "{nodes}");
        }
    }
}

#[test]
fn a_cluster_that_starts_all_at_once_comes_to_the_same() {
    let mut world = World::default();
    (0..3).for_each(|node| world.join(node, 2));
    world.settle();
    assert_eq!(world.copies(), 3);
    assert_eq!(world.role("n2s2"), "of n0s1");
}

#[test]
fn nobody_takes_everything_while_somebody_is_away_who_may_have_it() {
    let mut world = World::default();
    (0..3).for_each(|node| world.join(node, 2));
    world.node(0, Presence::Lost { since: LONG * 9 });
    world.settle();
    assert!(world.servers.iter().all(|server| server.slots.is_empty()));
    world.node(0, Presence::Runs { since: MOMENT });
    world.is_incomplete = true;
    world.settle();
    assert!(world.servers.iter().all(|server| server.slots.is_empty()));
}

#[test]
fn two_clusters_are_never_mixed() {
    let mut world = World::of(1);
    let mut other = Server::new(1, 1);
    other.slots = (0..SLOTS).collect();
    world.servers.push(other);
    let plan = Plan { long: LONG, vacant: Vec::new() };
    let meets = |chore: &Chore| matches!(chore, Chore::Meet { .. });
    assert!(!world.picture().chores(&plan).iter().any(meets));
}

#[test]
fn what_has_ended_is_replaced_by_its_own_manager_and_by_the_coordinator_only_if_that_does_not() {
    let mut world = World::of(3);
    world.server("n1s1").answers = false;
    world.server("n1s1").presence = Presence::Ended { since: Duration::ZERO };
    let replica = world.server("n0s2").address();
    let expected = vec![("n1s1".to_owned(), vec![replica], true)];
    assert_eq!(dead(&world, 1, Orders::OwnNode), expected);
    assert_eq!(dead(&world, 0, Orders::OwnNode), []);
    assert_eq!(dead(&world, 0, ALL), []);
    world.server("n1s1").presence = Presence::Ended { since: MOMENT };
    assert_eq!(dead(&world, 0, ALL), expected);
    world.promote("n0s2");
    assert_eq!(dead(&world, 0, ALL), []);
}

#[test]
fn a_lost_node_is_replaced_when_it_has_stopped_and_only_if_its_store_does_not_answer() {
    let mut world = World::of(3);
    world.node(2, Presence::Lost { since: Duration::from_millis(400) });
    assert_eq!(dead(&world, 0, ALL), []);
    world.node(2, Presence::Lost { since: Duration::from_millis(500) });
    assert_eq!(dead(&world, 0, ALL).len(), 1);
    assert_eq!(dead(&world, 0, Orders::OwnNode), []);
    world.server("n2s1").answers = true;
    assert_eq!(dead(&world, 0, ALL), [], "its manager is gone, and it serves");
}

#[test]
fn without_most_of_the_primaries_nobody_votes() {
    let mut world = World::of(2);
    world.server("n1s1").answers = false;
    world.server("n1s1").presence = Presence::Ended { since: Duration::ZERO };
    assert!(!dead(&world, 1, Orders::OwnNode)[0].2);
}

#[test]
fn a_replica_that_never_had_everything_takes_nobodys_place() {
    let mut world = World::of(3);
    world.server("n1s1").answers = false;
    world.server("n1s1").presence = Presence::Ended { since: MOMENT };
    world.server("n0s2").offset = 0;
    assert_eq!(dead(&world, 1, Orders::OwnNode), []);
    let mut picture = world.picture();
    let replica = picture.stores.iter_mut().find(|it| it.address == world.servers[1].address());
    replica.unwrap().was_in_step = true;
    assert_eq!(picture.dead(number(1), Orders::OwnNode).len(), 1, "nothing was written since");
}

#[test]
fn a_replica_that_has_only_been_told_to_follow_takes_nobodys_place() {
    let mut world = World::of(3);
    world.server("n1s1").answers = false;
    world.server("n1s1").presence = Presence::Ended { since: MOMENT };
    // It followed that one until a moment ago, and shows its offset still.
    world.server("n0s2").stream_of = Some("n2s1".to_owned());
    assert_eq!(dead(&world, 1, Orders::OwnNode), []);
    let last = LastLife { id: "n1s1".to_owned(), replicas: vec![world.server("n0s2").address()] };
    assert!(world.picture().may_start(Some(&last), Duration::ZERO), "with what it has itself");
    world.server("n0s2").stream_of = Some("n1s1".to_owned());
    assert_eq!(dead(&world, 1, Orders::OwnNode).len(), 1);
    assert!(!world.picture().may_start(Some(&last), Duration::ZERO));
}

#[test]
fn a_dead_primary_starts_again_when_another_one_has_its_place_or_nobody_could() {
    let mut world = World::of(3);
    world.server("n1s1").answers = false;
    world.server("n1s1").presence = Presence::Ended { since: MOMENT };
    let replica = world.server("n0s2").address();
    let last = LastLife { id: "n1s1".to_owned(), replicas: vec![replica] };
    let may = |world: &World, waited| world.picture().may_start(Some(&last), waited);
    assert!(world.picture().may_start(None, Duration::ZERO), "a replica, or a new one");
    assert!(!may(&world, Duration::ZERO));
    assert!(!may(&world, LONG), "its replica may have more than it");
    world.server("n0s2").offset = 0;
    assert!(may(&world, Duration::ZERO), "its replica has nothing that is newer");
    world.server("n0s2").answers = false;
    assert!(!may(&world, Duration::ZERO));
    assert!(may(&world, failover::ALONE_AFTER));
    world.server("n0s2").answers = true;
    world.promote("n0s2");
    assert!(may(&world, Duration::ZERO));
    world.servers.iter_mut().for_each(|server| server.answers = false);
    assert!(!may(&world, Duration::ZERO), "nobody else is there yet");
    assert!(may(&world, failover::ALONE_AFTER));
}

#[test]
fn a_primary_moves_home_when_that_is_up_for_a_while() {
    let mut world = World::of(3);
    world.promote("n0s2");
    world.server("n1s1").presence = Presence::Runs { since: Duration::ZERO };
    world.settle();
    assert_eq!(world.role("n1s1"), "of n0s2");
    world.server("n1s1").presence = Presence::Runs { since: MOMENT };
    world.settle();
    assert_eq!((world.role("n0s2"), world.copies()), ("of n1s1".to_owned(), 3));
}

#[test]
fn a_home_that_has_lost_its_files_gets_everything_before_it_serves() {
    let mut world = World::of(3);
    world.promote("n0s2");
    let home = world.server("n1s1");
    *home = Server {
        id: "new".to_owned(),
        knows: BTreeSet::from(["new".to_owned()]),
        ..Server::new(1, 1)
    };
    world.settle();
    assert_eq!((world.role("new"), world.role("n0s2")), ("5461".into(), "of new".into()));
    assert_eq!(world.copies(), 3);
    assert!(world.servers.iter().all(|server| !server.knows.contains("n1s1")));
}

#[test]
fn copies_of_a_node_that_is_lost_for_long_are_made_elsewhere_and_dropped_when_it_is_back() {
    let mut world = World::of(3);
    world.node(2, Presence::Lost { since: MOMENT });
    world.promote("n1s2");
    world.settle();
    let spares = |world: &World| {
        let picture = world.picture();
        [0, 1, 2].map(|node| picture.spares(number(node), 2, LONG))
    };
    assert_eq!((world.copies(), spares(&world)), (1, [0, 0, 0]), "it may be back in a moment");
    world.node(2, Presence::Lost { since: LONG });
    assert_eq!(spares(&world)[..2], [1, 1]);
    world.servers.extend([Server::new(0, 3), Server::new(1, 3)]);
    world.settle();
    assert_eq!(world.copies(), 3, "{:?}", world.roles());
    assert_eq!(spares(&world)[..2], [1, 1], "as long as it is away");
    let slots: Vec<usize> = world.servers.iter().map(|server| server.slots.len()).collect();
    assert_eq!(slots.iter().filter(|slots| **slots > 5_000).count(), 3, "no slot has moved");

    let is_away = |world: &mut World, answers: bool| {
        world.node(2, Presence::Runs { since: MOMENT });
        for id in ["n2s1", "n2s2"] {
            world.server(id).answers = answers;
        }
    };
    is_away(&mut world, false);
    assert_eq!(spares(&world)[..2], [1, 1], "as long as nobody else has their copies");
    is_away(&mut world, true);
    world.settle();
    assert_eq!(spares(&world), [0, 0, 0], "{:?}", world.roles());
    world.servers.retain(|server| server.ordinal < 3);
    world.settle();
    assert_eq!((world.copies(), world.role("n1s2")), (3, "of n2s1".to_owned()));
    assert!(world.servers.iter().all(|server| server.knows.len() == 6), "the others are forgotten");
}

#[test]
fn a_node_that_was_removed_leaves_its_share_to_the_others() {
    let mut world = World::of(3);
    world.node(2, Presence::Lost { since: MOMENT });
    world.promote("n1s2");
    world.servers.retain(|server| server.node != 2);
    world.settle();
    assert_eq!((world.role("n0s1"), world.role("n1s1")), ("8192".into(), "8192".into()));
    assert_eq!((world.role("n0s2"), world.role("n1s2")), ("of n1s1".into(), "of n0s1".into()));
}

#[test]
fn a_store_that_only_votes_has_one_slot_without_records() {
    let mut world = World::of(2);
    world.servers.push(Server { holds_data: false, ..Server::new(2, 1) });
    world.settle();
    assert_eq!((world.role("n2s1"), world.copies()), ("1".into(), 2));
    assert!(world.server("n2s1").slots.iter().all(|slot| VACANT.contains(slot)));
    // Two of three vote when a big host is gone.
    world.node(0, Presence::Lost { since: MOMENT });
    let dead = dead(&world, 1, ALL);
    assert!(dead.len() == 1 && dead[0].2);
}

#[test]
fn a_primary_of_no_member_is_replaced_when_it_does_not_answer() {
    let world = World::of(3);
    let mut picture = world.picture();
    let gone = picture.stores.iter().position(|store| store.node == number(2)).unwrap();
    let gone = picture.stores.remove(gone);
    picture.stores.retain(|store| store.node != number(2));
    assert_eq!(picture.strangers(), [gone.address]);
    picture.stores.push(Store {
        ordinal: 0,
        holds_data: false,
        presence: Presence::Lost { since: MOMENT },
        ..gone
    });
    assert_eq!(picture.strangers(), []);
    assert_eq!(picture.dead(number(0), ALL), [], "it leaves, and hands over");
    picture.stores.last_mut().unwrap().report = None;
    assert_eq!(picture.dead(number(0), ALL).len(), 1);
    let plan = Plan { long: LONG, vacant: Vec::new() };
    let is_haste = |chore: &Chore| match chore {
        Chore::Move { .. } => true,
        Chore::Forget { id, .. } => id == "n2s1",
        _ => false,
    };
    assert!(!picture.chores(&plan).iter().any(is_haste));
}

#[test]
fn a_node_gets_its_share_when_somebody_has_a_copy_of_it() {
    let mut world = World::of(2);
    world.join(2, 2);
    // Who should have the copy.
    world.server("n1s2").answers = false;
    world.settle();
    assert_eq!(world.role("n2s1"), "0");
    world.server("n1s2").answers = true;
    world.settle();
    assert_eq!((world.role("n2s1"), world.role("n1s2")), ("5461".into(), "of n2s1".into()));
}

#[test]
fn a_move_that_was_interrupted_goes_on_where_it_was() {
    let picture = World::of(2).picture();
    let plan = Plan { long: LONG, vacant: Vec::new() };
    let slots = |at: usize| picture.stores[at].report.as_ref().unwrap().slots.clone();
    let first = picture.stores.iter().position(|it| it.address == address(0)).unwrap();
    let second = picture.stores.iter().position(|it| it.address == address(1)).unwrap();
    let (own, others) = (*slots(first)[0].start(), *slots(second)[0].start());
    let chores = |leaving: &[u16]| {
        let mut picture = picture.clone();
        let leaving = leaving.iter().map(|slot| (*slot, "n1s1".to_owned())).collect();
        picture.stores[first].report.as_mut().unwrap().leaving = leaving;
        picture.chores(&plan)
    };
    assert_eq!(
        chores(&[own, others]),
        [Chore::Settle { at: address(0), slots: vec![others] }],
        "that one has arrived"
    );
    let moved = chores(&[own]);
    assert!(matches!(&moved[..], [Chore::Move { slots, .. }] if slots == &[own]), "{moved:?}");
    // Who serves now was promoted, and does not know that they were on their way.
    let awaiting = |coming: &[u16]| {
        let mut picture = picture.clone();
        let coming = coming.iter().map(|slot| (*slot, "gone".to_owned())).collect();
        picture.stores[second].report.as_mut().unwrap().coming = coming;
        picture.chores(&plan)
    };
    let moved = awaiting(&[own]);
    let is_from_owner = |it: &Chore| matches!(it, Chore::Move { from, to, slots } if from.address == address(0) && to.address == address(1) && slots == &[own]);
    assert!(moved.len() == 1 && is_from_owner(&moved[0]), "{moved:?}");
    assert_eq!(awaiting(&[others]), [Chore::Settle { at: address(1), slots: vec![others] }]);
}

fn address(node: u16) -> SocketAddr {
    Server::new(node, 1).address()
}
