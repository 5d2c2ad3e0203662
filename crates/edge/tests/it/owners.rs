//! Containers that pass messages on to each other, and one that lives and works nothing off.

use std::time::{Duration, Instant};

use edge::server::Finding;
use topology::{HeartbeatSettings, Incarnation, ProcessName};
use transport::link::{HOPS_MAX, Incoming, LinkFrame};

use crate::container::{FakeContainer, FakeLink};
use crate::phone::Phone;
use crate::running::{DEADLINE, RunningEdge};

fn incoming(link: &mut FakeLink) -> Incoming {
    match link.next() {
        LinkFrame::Incoming(incoming) => incoming,
        other => panic!("expected a message, found {other:?}"),
    }
}

fn hand_on(link: &mut FakeLink, to: u64, incoming: Incoming) {
    let Incoming { sequence, hops, flow, bytes } = incoming;
    link.send(&LinkFrame::HandOn { to, hops, flow, bytes });
    link.send(&LinkFrame::Taken { up_to: sequence });
}

#[test]
fn a_message_is_handed_on_twice_with_its_flow_and_then_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let container1 = FakeContainer::listen(directory.path(), "container1", 11);
    let container2 = FakeContainer::listen(directory.path(), "container2", 12);
    let named = [("container1", container1.path.clone()), ("container2", container2.path.clone())];
    let edge = RunningEdge::start(1, &named, Vec::new());
    let mut links = [container1.accept(), container2.accept()];
    edge.wait_until_it_serves();
    let mut phone = Phone::udp(&edge);
    let request = phone.request("OPTIONS", "owned-by-nobody", "");
    phone.send(&request);
    let begun = Instant::now();
    let mut at = loop {
        assert!(begun.elapsed() < DEADLINE, "the request was not offered");
        if let Some(place) = links.iter_mut().position(|link| link.has_incoming()) {
            break place;
        }
    };
    let first = incoming(&mut links[at]);
    let (flow, bytes) = (first.flow, first.bytes.clone());
    let mut held = first;
    for hops in 0..HOPS_MAX {
        assert_eq!(held.hops, hops);
        hand_on(&mut links[at], [12, 11][at], held);
        at = 1 - at;
        held = incoming(&mut links[at]);
        assert_eq!((held.flow, &held.bytes), (flow, &bytes));
    }
    // Neither the third hop nor one to a life that nobody has leads anywhere; what comes behind them does.
    hand_on(&mut links[at], [12, 11][at], held.clone());
    hand_on(&mut links[at], 99, Incoming { hops: 0, ..held.clone() });
    hand_on(&mut links[at], [12, 11][at], Incoming { hops: 1, ..held });
    at = 1 - at;
    let last = incoming(&mut links[at]);
    assert_eq!((last.hops, &last.bytes), (2, &bytes));
}

#[test]
fn what_is_handed_on_to_a_life_that_has_no_link_yet_is_offered_when_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let container1 = FakeContainer::listen(directory.path(), "container1", 11);
    let path = FakeContainer::path(directory.path(), "container2");
    let named = [("container1", container1.path.clone()), ("container2", path)];
    let edge = RunningEdge::start(1, &named, Vec::new());
    let mut first = container1.accept();
    edge.wait_until_it_serves();
    let mut phone = Phone::udp(&edge);
    let mut offered = Vec::new();
    for n in 0..3 {
        let request = phone.request("OPTIONS", &format!("call{n}"), "");
        phone.send(&request);
        let message = incoming(&mut first);
        // One of them is another life's, which never comes.
        hand_on(&mut first, [12, 13, 12][n], message.clone());
        offered.push(message);
    }
    let container2 = FakeContainer::listen(directory.path(), "container2", 12);
    let mut second = container2.accept();
    for message in [&offered[0], &offered[2]] {
        let Incoming { hops, flow, bytes, .. } = incoming(&mut second);
        assert_eq!((hops, flow, bytes), (1, message.flow, message.bytes.clone()));
    }
    assert!(!second.has_incoming());
}

#[test]
fn a_container_that_answers_nothing_is_left_out_until_it_answers_a_probe() {
    let heartbeat =
        HeartbeatSettings { interval: Duration::from_millis(100), allowed_miss_count: 9 };
    let directory = tempfile::tempdir().unwrap();
    let container1 = FakeContainer::listen(directory.path(), "container1", 11);
    let container2 = FakeContainer::listen(directory.path(), "container2", 12);
    let named = [("container1", container1.path.clone()), ("container2", container2.path.clone())];
    let edge = RunningEdge::start_with(heartbeat, 1, &named, Vec::new());
    let (mut stuck, mut well) = (container1.accept(), container2.accept());
    edge.wait_until_it_serves();
    stuck.answers_probes = false;
    let mut phone = Phone::udp(&edge);
    // One that the stuck container gets and does not take.
    let begun = Instant::now();
    for n in 0.. {
        assert!(begun.elapsed() < DEADLINE, "no request was offered to container1");
        let request = phone.request("OPTIONS", &format!("call{n}"), "");
        phone.send(&request);
        let offered = loop {
            stuck.heartbeat(11);
            well.heartbeat(12);
            match (stuck.has_incoming(), well.has_incoming()) {
                (false, false) => assert!(begun.elapsed() < DEADLINE, "nobody was offered it"),
                (to_stuck, _) => break to_stuck,
            }
        };
        if offered {
            break;
        }
        well.answer(200);
        phone.receive();
    }
    let (_, _, kept) = stuck.incoming();
    // Its heartbeats go on, and do not help it.
    while !well.has_incoming() {
        stuck.heartbeat(11);
        well.heartbeat(12);
        assert!(begun.elapsed() < DEADLINE, "the request stays with the stuck container");
    }
    let (name, incarnation) = (ProcessName::new("container1"), Incarnation(11));
    let silent = Finding::Unresponsive { name: name.clone(), incarnation };
    assert_eq!(edge.findings.recv_timeout(DEADLINE), Ok(silent.clone()));
    assert_eq!(well.answer(200).buffer(), kept.buffer());
    assert_eq!(phone.receive().status(), Some(200));

    // The edge gave that link up and opened another; the finding is repeated until a probe is answered by it.
    let mut again = container1.accept();
    assert_eq!(edge.findings.recv_timeout(DEADLINE), Ok(silent.clone()));
    let answers = Finding::Responsive { name, incarnation };
    loop {
        assert!(begun.elapsed() < 2 * DEADLINE, "the answer was not noticed");
        again.heartbeat(11);
        well.heartbeat(12);
        again.has_incoming(); // reads, and so answers
        match edge.findings.try_recv() {
            Ok(found) if found == answers => return,
            Ok(found) => assert_eq!(found, silent),
            Err(_) => {}
        }
    }
}
