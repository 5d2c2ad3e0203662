//! Links that die, that are full, and those of several workers.

use transport::link::UNTAKEN_FRAMES_MAX;

use crate::container::FakeContainer;
use crate::phone::Phone;
use crate::running::RunningEdge;

/// A phone's request is offered to one of the links; which one.
fn first_offered(links: &mut [Option<crate::container::FakeLink>; 2], phone: &mut Phone) -> usize {
    // Both heartbeats must have been read, else the choice is between one.
    let begun = std::time::Instant::now();
    let mut seen = [false; 2];
    for n in 0.. {
        assert!(
            begun.elapsed() < crate::running::DEADLINE,
            "only {seen:?} of the links were chosen"
        );
        let request = phone.request("OPTIONS", &format!("warm{n}"), "");
        phone.send(&request);
        let place = loop {
            let place = links.iter_mut().position(|link| link.as_mut().unwrap().has_incoming());
            assert!(begun.elapsed() < crate::running::DEADLINE, "a request was not offered");
            if let Some(place) = place {
                break place;
            }
        };
        links[place].as_mut().unwrap().answer(200);
        seen[place] = true;
        phone.receive();
        if seen == [true, true] {
            break;
        }
    }
    let request = phone.request("INVITE", "the-call", "");
    phone.send(&request);
    loop {
        if let Some(place) = links.iter_mut().position(|link| link.as_mut().unwrap().has_incoming())
        {
            return place;
        }
        assert!(begun.elapsed() < crate::running::DEADLINE, "the request was not offered");
    }
}

#[test]
fn what_a_dying_container_did_not_take_is_offered_to_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let containers = [
        FakeContainer::listen(directory.path(), "container1", 11),
        FakeContainer::listen(directory.path(), "container2", 12),
    ];
    let named =
        [("container1", containers[0].path.clone()), ("container2", containers[1].path.clone())];
    let edge = RunningEdge::start(1, &named, Vec::new());
    let mut links = [Some(containers[0].accept()), Some(containers[1].accept())];
    let mut phone = Phone::udp(&edge);
    let first = first_offered(&mut links, &mut phone);
    let (_, flow, request) = links[first].as_mut().unwrap().incoming();
    links[first] = None; // dies without having taken it

    let second = links[1 - first].as_mut().unwrap();
    let (_, flow_again, again) = second.incoming();
    assert_eq!((flow_again, again.buffer()), (flow, request.buffer()));
    second.respond(&again, 200);
    assert_eq!(phone.receive().status(), Some(200));
}

#[test]
fn a_container_that_takes_nothing_fills_its_link_and_the_next_request_is_answered_503() {
    let directory = tempfile::tempdir().unwrap();
    let container = FakeContainer::listen(directory.path(), "container1", 11);
    let edge = RunningEdge::start(1, &[("container1", container.path.clone())], Vec::new());
    let mut link = container.accept();
    let mut phone = Phone::tcp(&edge);
    edge.wait_until_it_serves();
    let request = phone.request("OPTIONS", "first", "");
    phone.send(&request);
    // It reads, so the socket between never fills; it takes nothing, so the edge's memory of
    // untaken messages does.
    let reader = std::thread::spawn(move || {
        for _ in 0..UNTAKEN_FRAMES_MAX {
            link.incoming();
        }
        link
    });
    for n in 1..UNTAKEN_FRAMES_MAX {
        let request = phone.request("OPTIONS", &format!("n{n}"), "");
        phone.send(&request);
    }
    let link = reader.join().unwrap();
    let request = phone.request("OPTIONS", "over-the-bound", "");
    phone.send(&request);
    let response = phone.receive();
    assert_eq!(response.call_id(), Ok(&b"over-the-bound"[..]));
    assert_eq!(response.status(), Some(503));
    assert!(response.field(sip::HeaderName::RetryAfter).is_some());
    drop(link);
}

#[test]
fn a_response_over_another_workers_link_finds_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let container = FakeContainer::listen(directory.path(), "container1", 11);
    let edge = RunningEdge::start(2, &[("container1", container.path.clone())], Vec::new());
    let mut links = [container.accept(), container.accept()];
    assert_ne!(links[0].worker, links[1].worker);
    let mut phone = Phone::tcp(&edge);
    edge.wait_until_it_serves();
    let request = phone.request("OPTIONS", "call", "");
    phone.send(&request);
    let begun = std::time::Instant::now();
    let place = loop {
        assert!(begun.elapsed() < crate::running::DEADLINE, "the request was not offered");
        if let Some(place) = links.iter_mut().position(|link| link.has_incoming()) {
            break place;
        }
    };
    let (_, _, request) = links[place].incoming();
    links[1 - place].respond(&request, 200);
    assert_eq!(phone.receive().status(), Some(200));
}

#[test]
fn an_edge_serves_as_soon_as_the_last_ready_container_does() {
    let fastest = crate::running::fastest(from_the_last_link_to_serving);
    let limit = std::time::Duration::from_millis(150);
    assert!(fastest < limit, "{fastest:?}, a turn of the loop is 500 ms");
}

fn from_the_last_link_to_serving() -> std::time::Duration {
    let directory = tempfile::tempdir().unwrap();
    let containers = [
        FakeContainer::listen(directory.path(), "container1", 11),
        FakeContainer::listen(directory.path(), "container2", 12),
    ];
    let named =
        [("container1", containers[0].path.clone()), ("container2", containers[1].path.clone())];
    let edge = RunningEdge::start(1, &named, Vec::new());
    let mut phone = Phone::udp(&edge);
    let request = phone.request("OPTIONS", "early", "");
    phone.send(&request);
    let mut links = [containers[0].accept(), containers[1].accept()];
    let begun = std::time::Instant::now();
    edge.wait_until_it_serves();
    let served = begun.elapsed();
    // What came before waited for them.
    while !links.iter_mut().any(|link| link.has_incoming()) {
        assert!(begun.elapsed() < crate::running::DEADLINE, "the request was not offered");
    }
    served
}
