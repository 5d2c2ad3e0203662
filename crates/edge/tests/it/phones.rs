//! Phones and one container.

use std::time::{Duration, Instant};

use sip::HeaderName;
use transport::link::{Destination, LinkFrame, SendError};

use crate::container::{FakeContainer, FakeLink, container_request, path_of};
use crate::phone::Phone;
use crate::running::{DEADLINE, RunningEdge, first_keys};

struct Scene {
    edge: RunningEdge,
    link: FakeLink,
    _directory: tempfile::TempDir,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let container = FakeContainer::listen(directory.path(), "container1", 11);
    let edge = RunningEdge::start(1, &[("container1", container.path.clone())], Vec::new());
    let link = container.accept();
    edge.wait_until_it_serves();
    Scene { edge, link, _directory: directory }
}

#[test]
fn a_request_comes_in_and_its_response_goes_out_by_udp_and_tcp() {
    let mut scene = scene();
    for mut phone in [Phone::udp(&scene.edge), Phone::tcp(&scene.edge)] {
        let request = phone.request("INVITE", "call1", "");
        phone.send(&request);
        let forwarded = scene.link.answer(486);
        assert_eq!(forwarded.values(HeaderName::Via).count(), 2);
        let response = phone.receive();
        assert_eq!(response.status(), Some(486));
        assert_eq!(response.values(HeaderName::Via).count(), 1);
        assert_eq!(response.top_via().unwrap().rport(), Some(Some(phone.local().port())));
    }
}

#[test]
fn a_containers_request_reaches_the_flow_of_the_path() {
    let mut scene = scene();
    for mut phone in [Phone::udp(&scene.edge), Phone::tcp(&scene.edge)] {
        let request = phone.request("REGISTER", "reg1", "Contact: <sip:alice@10.0.0.1>\r\n");
        phone.send(&request);
        let path = path_of(&scene.link.answer(200));
        assert_eq!(phone.receive().status(), Some(200));

        scene.link.outgoing(7, Destination::Route, container_request("OPTIONS", &path));
        let at_phone = phone.receive();
        assert_eq!(at_phone.method(), Some(sip::Method::Options));
        let response = sip::ResponseBuilder::new(&at_phone, 200).to_tag(b"p").build();
        phone.send(&response);
        // The container's Via of this test has no owner token, so its response is nobody's.
        assert!(phone.hears_nothing());
    }
}

#[test]
fn keys_are_taken_over_while_serving_and_tokens_outlive_one_rotation() {
    let mut scene = scene();
    let mut phone = Phone::udp(&scene.edge);
    let register = |scene: &mut Scene, phone: &mut Phone, call: String| {
        let request = phone.request("REGISTER", &call, "Contact: <sip:alice@10.0.0.1>\r\n");
        phone.send(&request);
        let path = path_of(&scene.link.answer(200));
        assert_eq!(phone.receive().status(), Some(200));
        path
    };
    let first = register(&mut scene, &mut phone, "first".to_owned());
    let rotated = first_keys().rotated([8; 32], 1);
    for (ring, is_accepted) in [(rotated.clone(), true), (rotated.rotated([9; 32], 2), false)] {
        let before = register(&mut scene, &mut phone, "before".to_owned());
        scene.edge.use_keys(&ring);
        let begun = Instant::now();
        // The worker takes them over in a turn of its own; the flow, and so the token, is the same but for that.
        while register(&mut scene, &mut phone, "after".to_owned()) == before {
            assert!(begun.elapsed() < DEADLINE, "new tokens are made with the former key");
        }
        scene.link.outgoing(7, Destination::Route, container_request("OPTIONS", &first));
        if is_accepted {
            assert_eq!(phone.receive().method(), Some(sip::Method::Options));
        } else {
            // As if the flow had ended: the phone registers again.
            let refused = LinkFrame::SendFailed { id: 7, error: SendError::FlowGone };
            assert_eq!(scene.link.next(), refused);
        }
    }
}

// RFC 5626 §5.3
#[test]
fn a_flow_that_is_gone_is_reported_to_the_container_and_answered_430_to_a_phone() {
    let mut scene = scene();
    let mut gone = Phone::tcp(&scene.edge);
    let request = gone.request("REGISTER", "reg1", "Contact: <sip:alice@10.0.0.1>\r\n");
    gone.send(&request);
    let path = path_of(&scene.link.answer(200));
    gone.receive();
    drop(gone);

    let mut phone = Phone::udp(&scene.edge);
    let route = format!("Route: {path}\r\n");
    // The end of the connection is noticed in its own time: until then messages vanish into it.
    let begun = Instant::now();
    for n in 0.. {
        let request = phone.request("MESSAGE", &format!("m{n}"), &route);
        phone.send(&request);
        scene.link.outgoing(n, Destination::Route, container_request("MESSAGE", &path));
        match scene.link.next() {
            LinkFrame::SendFailed { id, error: SendError::FlowGone } => {
                assert_eq!(id, n);
                break;
            }
            LinkFrame::SendFailed { .. } => {
                assert!(begun.elapsed() < crate::running::DEADLINE, "the flow lives on")
            }
            other => panic!("expected a failure, found {other:?}"),
        }
    }
    let request = phone.request("MESSAGE", "last", &route);
    phone.send(&request);
    loop {
        let response = phone.receive();
        if response.call_id() == Ok(b"last") {
            assert_eq!(response.status(), Some(430));
            break;
        }
    }
}

// RFC 5626 §4.4.1, §8
#[test]
fn keep_alives_are_answered_and_ordered_ones_are_sent() {
    let mut scene = scene();
    for mut phone in [Phone::udp(&scene.edge), Phone::tcp(&scene.edge)] {
        phone.send(b"\r\n\r\n");
        assert_eq!(&phone.receive_raw()[..], b"\r\n");
    }
    let mut phone = Phone::udp(&scene.edge);
    phone.send(&sip::stun::binding_request([9; 12]));
    let mapped = sip::stun::mapped_address(&phone.receive_raw());
    assert_eq!(mapped, Some(([9; 12], phone.local())));

    let request = phone.request("REGISTER", "reg1", "");
    phone.send(&request);
    let path = path_of(&scene.link.answer(200));
    phone.receive();
    let token = path.split(['<', ':', '@']).nth(2).unwrap().to_owned();
    scene.link.send(&LinkFrame::KeepAlive { flow_token: token.into() });
    assert_eq!(&phone.receive_raw()[..], b"\r\n\r\n");
}

#[test]
fn garbage_is_survived() {
    let mut scene = scene();
    let mut phone = Phone::udp(&scene.edge);
    for garbage in [&b"\0\0\0\0"[..], b"INVITE", b"SIP/2.0 200 OK\r\n\r\n", &[b'a'; 65_000]] {
        phone.send(garbage);
    }
    let request = phone.request("OPTIONS", "after", "");
    phone.send(&request);
    scene.link.answer(200);
    assert_eq!(phone.receive().status(), Some(200));
}

/// What the end of a slow reader's connection brings about is not left for a later turn of the loop.
#[test]
fn senders_to_a_phone_that_does_not_read_are_answered_as_soon_as_it_is_given_up() {
    let fastest = crate::running::fastest(from_giving_up_to_the_last_answer);
    assert!(fastest < Duration::from_millis(350), "{fastest:?}, a turn of the loop is 500 ms");
}

fn from_giving_up_to_the_last_answer() -> Duration {
    let mut scene = scene();
    let mut slow = Phone::tcp(&scene.edge);
    let request = slow.request("REGISTER", "reg1", "Contact: <sip:alice@10.0.0.1>\r\n");
    slow.send(&request);
    let path = path_of(&scene.link.answer(200));
    slow.receive();

    let mut sender = Phone::tcp(&scene.edge);
    let extra = format!("Route: {path}\r\nX-Padding: {}\r\n", "x".repeat(60_000));
    let begun = Instant::now();
    for n in 0.. {
        assert!(begun.elapsed() < crate::running::DEADLINE, "the edge keeps whatever is sent");
        let request = sender.request("MESSAGE", &format!("m{n}"), &extra);
        sender.send(&request);
        if sender.receive_within(Duration::from_millis(5)).is_some() {
            break;
        }
    }
    let given_up = Instant::now();
    // About a megabyte had waited for it (TcpLimits::unwritten_bytes_max).
    for _ in 0..12 {
        assert_eq!(sender.receive().status(), Some(503));
    }
    given_up.elapsed()
}
