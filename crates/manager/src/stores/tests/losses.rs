//! Nodes that are lost one after the other, and come back: the copies that they had are made elsewhere each time.

use super::*;

/// How many stores each node has anyway.
const REGULAR: u8 = 2;

impl World {
    /// The node is lost for long. Whoever has a copy of what it served serves that, and all run what they should.
    fn lose(&mut self, node: u16) {
        self.node(node, Presence::Lost { since: LONG });
        self.come_to_rest();
    }

    /// The node is back, with the spares that it ran before if it was cut off only.
    fn is_back(&mut self, node: u16, with_spares: bool) {
        self.servers.retain(|it| it.node != node || it.ordinal <= REGULAR || with_spares);
        self.node(node, Presence::Runs { since: MOMENT });
        self.come_to_rest();
    }

    /// Most live, or half of them and the first.
    fn has_coordinator(&self) -> bool {
        let members: BTreeSet<u16> = self.servers.iter().map(|it| it.node).collect();
        let lives = self.lives();
        2 * lives.len() > members.len() || 2 * lives.len() == members.len() && lives.contains(&0)
    }

    fn lives(&self) -> BTreeSet<u16> {
        self.servers.iter().filter(|it| it.answers).map(|it| it.node).collect()
    }

    /// Promotions, spares and chores until none is left.
    fn come_to_rest(&mut self) {
        for _ in 0..30 {
            let before = self.roles();
            if self.has_coordinator() {
                for (_, replicas, _) in dead(self, 0, ALL) {
                    let replica = self.at(replicas[0]).id.clone();
                    self.promote(&replica);
                }
            }
            // Each manager has done what it found before the next one looks.
            for node in self.lives() {
                self.follow_spares(node);
                self.settle();
            }
            if self.roles() == before {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.roles());
    }

    fn follow_spares(&mut self, node: u16) {
        let highest = REGULAR + self.picture().spares(number(node), REGULAR, LONG);
        let is_dropped = |it: &Server| it.node == node && it.ordinal > highest;
        assert!(self.servers.iter().all(|it| !is_dropped(it) || it.slots.is_empty()));
        self.servers.retain(|it| !is_dropped(it));
        for ordinal in REGULAR + 1..=highest {
            if !self.servers.iter().any(|it| it.node == node && it.ordinal == ordinal) {
                self.servers.push(Server::new(node, ordinal));
            }
        }
    }

    /// Everything is served by nodes that live, and has one copy on another one of them, as far as there is one.
    fn assert_whole(&self, why: &str) {
        let lives = self.lives();
        let is_alive = |it: &&Server| lives.contains(&it.node);
        let served: usize = self.servers.iter().filter(is_alive).map(|it| it.slots.len()).sum();
        assert_eq!(served, usize::from(SLOTS), "{why}: {:?}", self.roles());
        if lives.len() > 1 {
            assert_eq!(self.unprotected(), 0, "{why}: {:?}", self.roles());
        }
    }

    /// The spares that run and serve nothing, and of them those that only have what another store has, too.
    fn spares(&self) -> (usize, usize) {
        let is_spare = |it: &&Server| it.answers && it.ordinal > REGULAR && it.slots.is_empty();
        let is_second = |it: &&Server| {
            let same = |other: &Server| {
                other.answers && other.id != it.id && other.replica_of == it.replica_of
            };
            it.replica_of.is_none() || self.servers.iter().any(same)
        };
        let spares = self.servers.iter().filter(is_spare);
        (spares.clone().count(), spares.filter(is_second).count())
    }

    fn assert_as_in_the_beginning(&self, nodes: u16, why: &str) {
        self.assert_whole(why);
        assert_eq!(self.servers.len(), usize::from(nodes * 2), "{why}: {:?}", self.roles());
        for node in 0..nodes {
            let share: u16 = self.role(&format!("n{node}s1")).parse().unwrap_or_default();
            assert!((SLOTS / nodes..=SLOTS / nodes + 1).contains(&share), "{why}: {share}");
        }
    }
}

/// Of so many nodes each pair, one after the other and back: everything is whole each time.
fn lose_every_pair(nodes: u16) {
    let whole = World::of(nodes);
    for first in 0..nodes {
        let mut world = whole.clone();
        world.lose(first);
        world.assert_whole(&format!("of {nodes} without {first}"));
        assert!(world.spares().0 <= 2, "{:?}", world.roles());
        for second in (0..nodes).filter(|second| *second != first) {
            let mut world = world.clone();
            world.lose(second);
            if !world.has_coordinator() {
                continue;
            }
            let why = format!("of {nodes} without {first}, then {second}");
            world.assert_whole(&why);
            assert!(world.spares().0 <= 4, "{why}: {:?}", world.roles());
            // By half of the pairs in the order in which they went.
            let back = if first < second { [first, second] } else { [second, first] };
            for node in back {
                world.is_back(node, node == first);
                world.assert_whole(&format!("{why}, {node} is back"));
            }
            world.assert_as_in_the_beginning(nodes, &why);
        }
    }
}

#[test]
fn of_eight_any_two_may_be_lost_one_after_the_other_and_everything_has_a_copy() {
    lose_every_pair(8);
}

#[test]
fn of_five_any_two_may_be_lost_and_of_four_those_that_leave_the_first_one() {
    lose_every_pair(5);
    lose_every_pair(4);
}

#[test]
fn of_three_any_one_may_be_lost() {
    for lost in 0..3 {
        let mut world = World::of(3);
        world.lose(lost);
        world.assert_whole(&format!("without {lost}"));
        let lives: Vec<u16> = world.lives().into_iter().collect();
        let spares = lives.iter().map(|node| world.picture().spares(number(*node), REGULAR, LONG));
        assert_eq!(spares.collect::<Vec<_>>(), [1, 1]);
        world.is_back(lost, false);
        world.assert_as_in_the_beginning(3, &format!("{lost} is back"));
    }
}

#[test]
fn one_of_two_that_is_left_alone_runs_no_spare_that_could_have_nothing() {
    let mut world = World::of(2);
    world.node(1, Presence::Lost { since: LONG });
    assert_eq!(world.picture().spares(number(0), REGULAR, LONG), 0);
    world.promote("n0s2");
    assert_eq!(world.picture().spares(number(0), REGULAR, LONG), 0);
    world.is_back(1, false);
    world.assert_as_in_the_beginning(2, "it is back");
}

#[test]
fn a_spare_that_has_a_copy_keeps_it_when_another_node_could_have_it() {
    let mut world = World::of(5);
    world.lose(0);
    let is_spare = |it: &&Server| it.answers && it.ordinal > REGULAR;
    let found = world.servers.iter().find(is_spare).unwrap().clone();
    // As if its manager alone had seen the loss at first: another node has the spare.
    let others = (1..5).filter(|node| {
        let of_it = world.servers.iter().filter(|it| it.node == *node);
        let followed = found.replica_of.clone().unwrap();
        of_it.clone().all(|it| it.id != followed && it.ordinal <= REGULAR)
    });
    for other in others.collect::<Vec<u16>>() {
        let mut world = world.clone();
        world.servers.retain(|it| it.id != found.id);
        let replica_of = found.replica_of.clone();
        let knows = found.knows.clone();
        world.servers.push(Server { replica_of, knows, ..Server::new(other, 3) });
        let spares = |world: &World, node| world.picture().spares(number(node), REGULAR, LONG);
        assert_eq!((spares(&world, other), spares(&world, found.node)), (1, 0), "{other}");
    }
}

#[test]
fn whatever_is_lost_and_comes_back_in_whatever_order_everything_has_a_copy() {
    let seed = std::env::var("OUTLAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    let mut state: u64 = seed;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for nodes in [3, 4, 5, 6, 8] {
        let mut world = World::of(nodes);
        let mut lost: Vec<u16> = Vec::new();
        let mut story = format!("seed {seed}, {nodes} nodes");
        for _ in 0..12 {
            // Most remain.
            let may_lose = world.lives().len() > usize::from(nodes / 2 + 1);
            if may_lose && (lost.is_empty() || random(3) > 0) {
                let lives: Vec<u16> = world.lives().into_iter().collect();
                let node = lives[random(lives.len())];
                story += &format!(", {node} is lost");
                lost.push(node);
                world.lose(node);
            } else {
                let node = lost.swap_remove(random(lost.len()));
                story += &format!(", {node} is back");
                world.is_back(node, random(2) == 0);
            }
            world.assert_whole(&story);
        }
        for node in lost {
            world.is_back(node, random(2) == 0);
        }
        world.assert_as_in_the_beginning(nodes, &story);
    }
}

#[test]
fn of_three_stores_each_the_two_copies_lie_on_two_hosts() {
    for nodes in [3, 4, 5] {
        let mut world = World::default();
        for node in 0..nodes {
            world.join(node, 3);
            world.settle();
        }
        for primary in world.servers.iter().filter(|it| it.slots.len() > 1) {
            let copies =
                world.servers.iter().filter(|it| it.replica_of.as_ref() == Some(&primary.id));
            let hosts: BTreeSet<u16> = copies.map(|it| it.node).collect();
            assert_eq!(hosts.len(), 2, "of {nodes}, {}: {:?}", primary.id, world.roles());
        }
        // So each part has a copy still when any node is gone.
        for lost in 0..nodes {
            let mut world = world.clone();
            world.node(lost, Presence::Lost { since: MOMENT });
            for (_, replicas, _) in dead(&world, 0, ALL) {
                let replica = world.at(replicas[0]).id.clone();
                world.promote(&replica);
            }
            assert_eq!(world.unprotected(), 0, "of {nodes} without {lost}: {:?}", world.roles());
        }
    }
}
