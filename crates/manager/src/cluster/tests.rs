//! What a member decides about the others, in virtual time: who is lost, who is admitted, who coordinates.

#![allow(clippy::unwrap_used)]
use topology::{Incarnation, NodeState, ProcessEntry, ProcessName, ProcessState, ProcessType};

use super::*;

const INTERVAL: Duration = Duration::from_millis(500);
/// Interval × (2 misses + 1).
const SILENCE: Duration = Duration::from_millis(1500);

fn number(number: u16) -> NodeNumber {
    NodeNumber::new(number).unwrap()
}

fn address(node: u16) -> SocketAddr {
    format!("192.0.2.{}:6200", node + 1).parse().unwrap()
}

/// `count` members: node0, node1, …
fn list(count: u16) -> Membership {
    let mut list = Membership::created("node0", address(0));
    for node in 1..count {
        let name = format!("node{node}");
        list = list.with(Some(&name), address(node), NodeNumber::FIRST).unwrap().0;
    }
    list
}

fn member(own: u16, count: u16, now: Instant) -> Cluster {
    let file = MemberFile {
        cluster: "c".to_owned(),
        name: format!("node{own}"),
        number: number(own),
        membership: list(count),
    };
    let heartbeat = HeartbeatSettings { interval: INTERVAL, allowed_miss_count: 2 };
    Cluster::new(file, address(own), heartbeat, now)
}

fn greeting(of: u16, membership: Membership) -> Greeting {
    let name = format!("node{of}");
    Greeting { cluster: "c".to_owned(), name, number: number(of), membership }
}

fn snapshot(of: u16, version: u64) -> NodeSnapshot {
    NodeSnapshot {
        node: format!("node{of}"),
        number: number(of),
        version,
        address: address(of),
        last_life: topology::Incarnation::NONE,
        runs_with: topology::RunsWith::default(),
        processes: Vec::new(),
    }
}

/// It has a container that serves.
fn with_container(of: u16) -> NodeSnapshot {
    let container = ProcessEntry {
        name: ProcessName::new("container1"),
        process_type: ProcessType::Container,
        incarnation: Incarnation::of_node(number(of), 1),
        state: ProcessState::Ready,
        pid: Some(100),
        restarts: 0,
        link: None,
        link_address: Some(address(of)),
        addresses: Vec::new(),
        weight: 100,
        http: None,
        is_silent: false,
    };
    NodeSnapshot { processes: vec![container], ..snapshot(of, 7) }
}

fn states(cluster: &mut Cluster) -> Vec<NodeState> {
    let own = snapshot(cluster.number().get(), 1);
    cluster.view(&own, topology::FormatLevel::FIRST).nodes.iter().map(|node| node.state).collect()
}

#[test]
fn who_is_silent_for_too_long_is_lost_and_no_earlier_and_comes_back_by_a_word() {
    let start = Instant::now();
    let mut cluster = member(0, 3, start);
    let one = cluster.greeted(greeting(1, list(3)), "node1", false, start).unwrap();
    let mut now = start;
    while now < start + SILENCE {
        assert!(cluster.lost().is_empty());
        now = cluster.next_deadline();
        cluster.heard(number(1), one, now);
        cluster.tick(now);
    }
    assert_eq!(now, start + SILENCE);
    assert_eq!(cluster.lost(), BTreeSet::from([number(2)]));
    assert_eq!(states(&mut cluster), [NodeState::Up, NodeState::Up, NodeState::Lost]);
    let two = cluster.greeted(greeting(2, list(3)), "node2", false, now).unwrap();
    assert!(cluster.heard(number(2), two, now));
    assert_eq!(states(&mut cluster), [NodeState::Up; 3]);
    // A connection that is gone is not silence yet.
    cluster.gone(number(2), two);
    assert!(!cluster.tick(now + INTERVAL));
    assert!(!cluster.heard(number(2), two, now + SILENCE), "an old connection says nothing");
}

#[test]
fn who_stood_still_takes_nobody_for_silent() {
    let start = Instant::now();
    let mut cluster = member(0, 2, start);
    assert!(!cluster.tick(start + 10 * SILENCE));
    assert!(cluster.lost().is_empty());
    let mut now = start + 10 * SILENCE;
    let silent_since = now;
    while cluster.lost().is_empty() {
        now = cluster.next_deadline();
        cluster.tick(now);
    }
    assert_eq!(now, silent_since + SILENCE);
}

#[test]
fn the_living_member_of_the_lowest_number_decides() {
    let start = Instant::now();
    let mut cluster = member(1, 3, start);
    assert_eq!((cluster.coordinator(), cluster.coordinates()), (number(0), false));
    let two = cluster.greeted(greeting(2, list(3)), "node2", false, start).unwrap();
    for step in 1..=3 {
        cluster.heard(number(2), two, start + INTERVAL * step);
        cluster.tick(start + INTERVAL * step);
    }
    assert!(cluster.coordinates());
    // Two of three hear each other: one may be admitted.
    let admitted = cluster.admit(None, address(7), start).unwrap();
    assert_eq!(admitted.number, number(3));
    assert_eq!(cluster.membership().by, number(1));
}

#[test]
fn the_smaller_side_of_a_partition_gives_no_numbers() {
    let start = Instant::now();
    for (own, count, may) in
        [(0, 1, true), (0, 2, true), (1, 2, false), (0, 3, false), (0, 4, false)]
    {
        let mut cluster = member(own, count, start);
        for step in 1..=3 {
            cluster.tick(start + INTERVAL * step);
        }
        assert_eq!(cluster.lost().len(), usize::from(count) - 1);
        let admitted = cluster.admit(None, address(9), start);
        assert_eq!(admitted.is_ok(), may, "node{own} of {count}: {admitted:?}");
    }
}

#[test]
fn a_member_says_who_it_is_and_its_certificate_must_say_the_same() {
    let now = Instant::now();
    let mut cluster = member(0, 2, now);
    let mut refused = |greeting: Greeting, certified: &str, told: &str| {
        let reason = cluster.greeted(greeting, certified, false, now).unwrap_err();
        assert!(reason.contains(told), "{reason}");
    };
    refused(greeting(1, list(2)), "node0", "a certificate of node0");
    refused(
        Greeting { cluster: "d".to_owned(), ..greeting(1, list(2)) },
        "node1",
        "another cluster",
    );
    refused(greeting(2, list(2)), "node2", "was removed");
    // Its name, but the number of another life of that name.
    refused(Greeting { number: number(3), ..greeting(1, list(2)) }, "node1", "was removed");
}

#[test]
fn a_new_member_is_known_by_the_list_that_it_brings() {
    let now = Instant::now();
    let mut cluster = member(0, 2, now);
    assert!(cluster.greeted(greeting(2, list(3)), "node2", false, now).is_ok());
    assert_eq!(cluster.membership().members.len(), 3);
    assert!(!cluster.learn(list(2), now), "an earlier list changes nothing");
}

#[test]
fn a_removed_member_is_dropped_and_a_removed_node_has_no_others() {
    let now = Instant::now();
    let mut cluster = member(0, 3, now);
    let without_two = list(3).without("node2", NodeNumber::FIRST).unwrap();
    assert!(cluster.learn(without_two.clone(), now));
    assert_eq!(states(&mut cluster).len(), 2);
    assert_eq!(cluster.to_dial().count(), 0);
    let mut removed = member(2, 3, now);
    assert_eq!(removed.to_dial().count(), 2);
    assert!(removed.learn(without_two, now) && removed.is_removed());
    assert_eq!((removed.to_dial().count(), states(&mut removed).len()), (0, 1));
}

#[test]
fn only_the_lost_are_removed_by_others_and_the_last_never() {
    let start = Instant::now();
    let mut cluster = member(0, 2, start);
    assert!(cluster.remove("node1", false, start).unwrap_err().contains("is up"));
    for step in 1..=3 {
        cluster.tick(start + INTERVAL * step);
    }
    assert_eq!(cluster.remove("node1", false, start), Ok(()));
    assert!(cluster.remove("node0", true, start).unwrap_err().contains("last member"));
    assert!(cluster.remove("node1", true, start).unwrap_err().contains("no member is named node1"));
}

#[test]
fn of_two_connections_that_of_the_greater_number_stays() {
    let now = Instant::now();
    let mut cluster = member(1, 3, now);
    // We opened it to the greater number, because it seemed lost.
    let first = cluster.greeted(greeting(2, list(3)), "node2", true, now).unwrap();
    assert!(cluster.keeps_dialled(number(2)));
    let second = cluster.greeted(greeting(2, list(3)), "node2", false, now).unwrap();
    assert_ne!(first, second);
    assert!(!cluster.keeps_dialled(number(2)), "nobody dials for what would be refused");
    let third = cluster.greeted(greeting(2, list(3)), "node2", true, now);
    assert!(third.unwrap_err().contains("connected already"));
    // Another one of the same kind is of a later manager.
    assert!(cluster.greeted(greeting(2, list(3)), "node2", false, now).is_ok());
}

#[test]
fn a_snapshot_counts_in_its_connection_and_in_order() {
    let now = Instant::now();
    let mut cluster = member(0, 2, now);
    let first = cluster.greeted(greeting(1, list(2)), "node1", false, now).unwrap();
    assert!(cluster.told(number(1), first, snapshot(1, 10)));
    assert!(!cluster.told(number(1), first, snapshot(1, 9)));
    assert!(!cluster.told(number(1), first, snapshot(0, 11)), "of somebody else");
    let second = cluster.greeted(greeting(1, list(2)), "node1", false, now).unwrap();
    assert!(!cluster.told(number(1), first, snapshot(1, 11)), "of an old connection");
    // A manager whose clock was set back.
    assert!(cluster.told(number(1), second, snapshot(1, 3)));
}

#[test]
fn a_member_that_moves_is_where_it_is_for_all_and_after_a_restart_too() {
    let start = Instant::now();
    let mut first = member(0, 3, start);
    let mut second = member(1, 3, start);
    let moved = NodeSnapshot { address: address(9), ..snapshot(2, 10) };
    for cluster in [&mut first, &mut second] {
        assert!(!cluster.follow_addresses(start), "whoever was not heard is where the list says");
        let two = cluster.greeted(greeting(2, list(3)), "node2", false, start).unwrap();
        assert!(cluster.told(number(2), two, moved.clone()));
    }
    assert!(!second.follow_addresses(start), "that is for the first to say");
    assert!(first.follow_addresses(start) && !first.follow_addresses(start));
    assert!(second.learn(first.membership().clone(), start));
    for cluster in [&first, &second] {
        assert_eq!(cluster.file().membership.member(number(2)).unwrap().address, address(9));
    }
    // Not where somebody else is, and not while most are lost.
    let two = first.greeted(greeting(2, list(3)), "node2", false, start).unwrap();
    first.told(number(2), two, NodeSnapshot { address: address(1), ..snapshot(2, 11) });
    assert!(!first.follow_addresses(start));
    first.told(number(2), two, NodeSnapshot { address: address(8), ..snapshot(2, 12) });
    for step in 1..=3 {
        first.tick(start + INTERVAL * step);
    }
    assert!(!first.follow_addresses(start), "two of three are lost");
}

fn picture(heard: &[NodeSnapshot], lost: &[u16]) -> Picture {
    Picture {
        snapshots: heard.iter().map(|said| (said.number, said.clone())).collect(),
        lost: lost.iter().map(|node| number(*node)).collect(),
    }
}

#[test]
fn who_is_heard_by_gossip_is_not_lost_and_who_is_silent_there_too_is() {
    let start = Instant::now();
    let mut cluster = member(0, 3, start);
    assert!(!cluster.gossiped(&picture(&[], &[])));
    assert!(cluster.gossiped(&picture(&[snapshot(1, 7), snapshot(2, 7)], &[])), "what they are");
    let mut late = start;
    while late < start + SILENCE * 10 {
        late = cluster.next_deadline();
        assert!(!cluster.tick(late));
        assert!(cluster.next_deadline() > late, "nobody looks again and again");
    }
    // Nothing came by a connection for long: gossip's silence is the last.
    assert!(!cluster.gossiped(&picture(&[snapshot(1, 7), snapshot(2, 7)], &[2])));
    assert!(cluster.next_deadline() <= late);
    assert!(cluster.tick(late));
    assert_eq!(states(&mut cluster), [NodeState::Up, NodeState::Up, NodeState::Lost]);
    assert!(cluster.gossiped(&picture(&[snapshot(1, 7), snapshot(2, 7)], &[])));
    assert_eq!(states(&mut cluster), [NodeState::Up; 3]);
    // A connection that speaks is enough, too.
    let one = cluster.greeted(greeting(1, list(3)), "node1", false, late).unwrap();
    cluster.gossiped(&picture(&[snapshot(1, 7), snapshot(2, 7)], &[1]));
    cluster.heard(number(1), one, late);
    assert!(!cluster.tick(late + INTERVAL));
}

#[test]
fn gossip_tells_what_connections_have_not_told_and_where_members_are() {
    let start = Instant::now();
    let mut cluster = member(2, 3, start);
    let one = cluster.greeted(greeting(1, list(3)), "node1", true, start).unwrap();
    assert!(cluster.told(number(1), one, snapshot(1, 9)));
    assert!(!cluster.gossiped(&picture(&[snapshot(1, 8)], &[])), "that is old");
    let mut moved = snapshot(1, 10);
    moved.address = "198.51.100.1:6200".parse().unwrap();
    let mut impostor = snapshot(0, 10);
    impostor.node = "other".to_owned();
    assert!(cluster.gossiped(&picture(&[moved.clone(), impostor, snapshot(7, 1)], &[])));
    let dialled: Vec<SocketAddr> = cluster.to_dial().map(|member| member.address).collect();
    assert_eq!(dialled, [address(0), moved.address]);
    assert_eq!(
        cluster.view(&snapshot(2, 1), topology::FormatLevel::FIRST).nodes.len(),
        3,
        "the list says who is a member"
    );
}

#[test]
fn the_next_manager_begins_with_what_the_one_before_knew_and_finds_out_who_is_lost_meanwhile() {
    let start = Instant::now();
    let mut before = member(0, 3, start);
    for of in [1, 2] {
        let name = format!("node{of}");
        let session = before.greeted(greeting(of, list(3)), &name, false, start).unwrap();
        assert!(before.told(number(of), session, with_container(of)));
    }
    let later = start + SILENCE / 2;
    before.greeted(greeting(2, list(3)), "node2", false, later).unwrap();
    assert!(!before.tick(later));
    assert!(before.tick(start + SILENCE) && before.lost() == BTreeSet::from([number(1)]));

    let now = start + 10 * SILENCE;
    let mut next = member(0, 3, now);
    next.recall(before.known(), now);
    let own = snapshot(0, 1);
    let shown = |cluster: &mut Cluster| {
        let view = cluster.view(&own, topology::FormatLevel::FIRST).clone();
        let states = view.processes.iter().map(|process| (process.name.to_string(), process.state));
        states.collect::<Vec<_>>()
    };
    let one_is_down = ("container1@node1".to_owned(), ProcessState::Down);
    let two_is = |state| ("container1@node2".to_owned(), state);
    assert_eq!(shown(&mut next), [one_is_down.clone(), two_is(ProcessState::Ready)]);
    // Nobody says anything.
    next.tick(now + SILENCE / 2);
    assert!(next.tick(now + SILENCE));
    assert_eq!(shown(&mut next), [one_is_down, two_is(ProcessState::Down)]);
    // What it says itself counts, also if its own manager is another one that has told less.
    let session = next.greeted(greeting(1, list(3)), "node1", false, now + SILENCE).unwrap();
    assert!(next.told(number(1), session, snapshot(1, 1)));
    assert!(next.heard(number(1), session, now + SILENCE));
    assert_eq!(shown(&mut next), [two_is(ProcessState::Down)]);
}

#[test]
fn of_who_is_no_member_any_more_nothing_is_recalled() {
    let start = Instant::now();
    let mut cluster = member(0, 2, start);
    let strange = NodeSnapshot { node: "another".to_owned(), ..with_container(1) };
    for snapshot in [strange, with_container(2)] {
        cluster.recall(vec![KnownMember { snapshot, is_lost: false }], start);
    }
    assert!(cluster.view(&snapshot(0, 1), topology::FormatLevel::FIRST).processes.is_empty());
}
