//! Nodes that leave: what they have goes to others before they may go.

use super::*;
use crate::stores::leaving::Leave;

fn leave(world: &World, node: u16) -> Leave {
    world.picture().leave(number(node), 1)
}

fn holds(world: &World, node: u16, why: &str) {
    match leave(world, node) {
        Leave::Holds(told) => assert!(told.contains(why), "{told}: {:?}", world.roles()),
        Leave::Alone(told) => assert!(told.contains(why), "{told}"),
        Leave::Free => panic!("it may leave, though: {why}"),
    }
}

/// Its manager shows that it wants to leave.
fn wants_to_leave(world: &mut World, node: u16) {
    world.servers.iter_mut().filter(|it| it.node == node).for_each(|it| it.leaves = true);
}

#[test]
fn whoever_leaves_goes_when_others_have_its_share_and_the_copies_that_it_had() {
    for nodes in 2..=4 {
        for leaver in 0..nodes {
            let mut world = World::of(nodes);
            assert_ne!(leave(&world, leaver), Leave::Free);
            wants_to_leave(&mut world, leaver);
            world.settle();
            assert_eq!(leave(&world, leaver), Leave::Free, "{nodes}: {:?}", world.roles());
            world.servers.retain(|server| server.node != leaver);
            world.settle();
            let expected = if nodes == 2 { 0 } else { usize::from(nodes) - 1 };
            assert_eq!(world.copies(), expected, "{:?}", world.roles());
        }
    }
}

#[test]
fn the_only_one_that_has_data_holds_it() {
    let mut world = World::of(1);
    wants_to_leave(&mut world, 0);
    world.settle();
    holds(&world, 0, "no other node has stores");
    world.servers.push(Server { holds_data: false, ..Server::new(1, 1) });
    world.settle();
    holds(&world, 0, "no other node has stores");
}

#[test]
fn a_store_that_only_votes_is_let_go_and_gets_no_slot_again() {
    let mut world = World::of(2);
    world.servers.push(Server { holds_data: false, ..Server::new(2, 1) });
    world.settle();
    wants_to_leave(&mut world, 2);
    holds(&world, 2, "1 of 16384 slots");
    world.settle();
    assert_eq!(leave(&world, 2), Leave::Free, "{:?}", world.roles());
}

#[test]
fn nobody_leaves_while_what_stays_would_have_no_copy_or_a_part_is_served_by_nobody() {
    let mut world = World::of(3);
    world.node(0, Presence::Lost { since: MOMENT });
    world.promote("n2s2");
    world.settle();
    wants_to_leave(&mut world, 2);
    world.settle();
    holds(&world, 2, "0 of 1 copies");

    let mut world = World::of(3);
    wants_to_leave(&mut world, 2);
    world.server("n1s1").answers = false;
    world.settle();
    holds(&world, 2, "does not answer");
    world.server("n1s1").answers = true;
    world.server("n1s1").slots.clear();
    holds(&world, 2, "served by nobody");
}

#[test]
fn who_stays_after_all_has_its_share_again() {
    let mut world = World::of(3);
    wants_to_leave(&mut world, 1);
    world.settle();
    assert_eq!((world.role("n1s1"), world.role("n1s2")), ("0".into(), world.role("n1s2")));
    world.servers.iter_mut().for_each(|it| it.leaves = false);
    world.settle();
    assert_eq!((world.role("n1s1").as_str(), world.copies()), ("5461", 3), "{:?}", world.roles());
}
