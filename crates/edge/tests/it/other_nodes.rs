//! Links to containers of other nodes: TLS in the place of a Unix socket, and all else as ever.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use topology::ProcessState;
use transport::link::LinkFrame;

use crate::cluster::{Cluster, listener, view, with_edge};
use crate::container::{FakeContainer, FakeLink};
use crate::phone::Phone;
use crate::running::{DEADLINE, RunningEdge};

/// An edge and a container of another node.
struct Scene {
    cluster: Cluster,
    edge: RunningEdge,
    container: FakeContainer,
}

impl Scene {
    fn new() -> Scene {
        let cluster = Cluster::new();
        let container = FakeContainer::of_node(&cluster, "node2", "container1", 11);
        let edge = RunningEdge::of_cluster(
            view(1, &[], &[("container1", container.address())]),
            cluster.credentials("node1"),
        );
        Scene { cluster, edge, container }
    }
}

/// A request of the phone goes by the link and is answered.
fn is_served(link: &mut FakeLink, phone: &mut Phone, call_id: &str) {
    let request = phone.request("OPTIONS", call_id, "");
    phone.send(&request);
    link.answer(200);
    let response = phone.receive();
    assert_eq!((response.status(), response.call_id()), (Some(200), Ok(call_id.as_bytes())));
}

#[test]
fn a_container_of_another_node_serves_phones() {
    let scene = Scene::new();
    let mut link = scene.container.accept();
    scene.edge.wait_until_it_serves();
    let mut phone = Phone::udp(&scene.edge);
    is_served(&mut link, &mut phone, "small");
    // Longer than a record, and than one write takes.
    for n in 0..20 {
        let request = phone.request(
            "OPTIONS",
            &format!("large{n}"),
            &format!("X-Long: {}\r\n", "x".repeat(30_000)),
        );
        phone.send(&request);
    }
    for n in 0..20 {
        assert_eq!(link.answer(200).call_id().unwrap(), format!("large{n}").as_bytes());
        assert_eq!(phone.receive().status(), Some(200));
    }
}

#[test]
fn what_a_lost_node_did_not_take_is_offered_to_a_container_of_this_one() {
    let (directory, cluster) = (tempfile::tempdir().unwrap(), Cluster::new());
    let there = FakeContainer::of_node(&cluster, "node2", "container1", 11);
    let here = FakeContainer::listen(directory.path(), "container1", 12);
    let view = view(1, &[("container1", &here.path)], &[("container1", there.address())]);
    let edge = RunningEdge::of_cluster(view, cluster.credentials("node1"));
    let mut links = [Some(there.accept()), Some(here.accept())];
    edge.wait_until_it_serves();
    let mut phone = Phone::udp(&edge);
    // Until one goes there.
    let begun = Instant::now();
    let offered = (0..).find_map(|n| {
        assert!(begun.elapsed() < DEADLINE, "nothing is offered to the other node");
        let request = phone.request("OPTIONS", &format!("n{n}"), "");
        phone.send(&request);
        loop {
            let place = links.iter_mut().position(|link| link.as_mut().unwrap().has_incoming());
            let Some(place) = place else { continue };
            let link = links[place].as_mut().unwrap();
            match place {
                0 => return Some(link.incoming().2),
                _ => drop(link.answer(200)),
            }
            phone.receive();
            return None;
        }
    });
    let request = offered.unwrap();
    links[0] = None; // the node is lost: nobody takes it any more
    let again = links[1].as_mut().unwrap().answer(200);
    assert_eq!(again.buffer(), request.buffer());
    assert_eq!(phone.receive().call_id(), request.call_id());
}

#[test]
fn a_message_is_handed_on_to_a_container_of_another_node() {
    let (directory, cluster) = (tempfile::tempdir().unwrap(), Cluster::new());
    let there = FakeContainer::of_node(&cluster, "node2", "container1", 11);
    let here = FakeContainer::listen(directory.path(), "container1", 12);
    let view = view(1, &[("container1", &here.path)], &[("container1", there.address())]);
    let edge = RunningEdge::of_cluster(view, cluster.credentials("node1"));
    let (mut there, mut here) = (there.accept(), here.accept());
    edge.wait_until_it_serves();
    let mut phone = Phone::udp(&edge);
    let request = phone.request("OPTIONS", "handed-on", "");
    phone.send(&request);
    let begun = Instant::now();
    let (from, to, life) = loop {
        assert!(begun.elapsed() < DEADLINE, "the request was not offered");
        if there.has_incoming() {
            break (&mut there, &mut here, 12);
        }
        if here.has_incoming() {
            break (&mut here, &mut there, 11);
        }
    };
    let (sequence, flow, request) = from.incoming();
    from.take(sequence);
    let bytes = request.buffer().clone();
    from.send(&LinkFrame::HandOn { to: life, hops: 0, flow, bytes });
    assert_eq!(to.answer(200).buffer(), request.buffer());
    assert_eq!(phone.receive().status(), Some(200));
}

#[test]
fn who_is_no_node_of_the_cluster_gets_no_link_and_holds_up_nobody() {
    let (directory, cluster, strangers) =
        (tempfile::tempdir().unwrap(), Cluster::new(), Cluster::new());
    let here = FakeContainer::listen(directory.path(), "container1", 12);
    // A stranger, a node under another's name, one that says nothing at all, and one that is not there.
    let stranger = FakeContainer::of_node(&strangers, "node2", "container1", 11);
    let impostor = FakeContainer::of_node(&cluster, "node3", "container2", 13);
    let (mute, mute_address) = listener();
    let nobody = listener().1;
    let there = [
        ("container1", stranger.address()),
        ("container2", impostor.address()),
        ("container3", mute_address),
        ("container4", nobody),
    ];
    let view = view(1, &[("container1", &here.path)], &there);
    let edge = RunningEdge::of_cluster(view, cluster.credentials("node1"));
    let mut link = here.accept();
    assert!(stranger.refuses(), "the edge has no trust in it");
    assert!(impostor.refuses(), "a member, but not the node that is meant");
    edge.wait_until_it_serves();
    let mut phone = Phone::udp(&edge);
    for n in 0..20 {
        is_served(&mut link, &mut phone, &format!("n{n}"));
    }
    drop(mute);
}

#[test]
fn a_container_of_another_node_that_comes_again_elsewhere_is_linked_to_there() {
    let scene = Scene::new();
    let link = scene.container.accept();
    scene.edge.wait_until_it_serves();
    drop((link, scene.container));
    let next = FakeContainer::of_node(&scene.cluster, "node2", "container1", 12);
    scene.edge.notify(view(2, &[], &[("container1", next.address())]));
    let mut link = next.accept();
    let mut phone = Phone::tcp(&scene.edge);
    // Its heartbeat may not be read yet.
    let begun = Instant::now();
    while !link.has_incoming() {
        assert!(begun.elapsed() < DEADLINE, "nothing is offered to the new life");
        let request = phone.request("OPTIONS", "again", "");
        phone.send(&request);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_goes_by_the_edge_of_another_node_that_its_route_names_while_that_node_is_there() {
    let scene = Scene::new();
    let mut link = scene.container.accept();
    scene.edge.wait_until_it_serves();
    let there = UdpSocket::bind("127.0.0.1:0").unwrap();
    there.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let address = there.local_addr().unwrap();
    let containers = [("container1", scene.container.address())];
    let mut phone = Phone::udp(&scene.edge);
    // Who is asked while a worker has not read a view yet goes by the one before: the phone asks again.
    let mut goes = |call_id: &str, by_the_other_edge: bool| {
        let route = format!("Route: <sip:{address};lr>\r\n");
        let request = phone.request("OPTIONS", call_id, &route);
        let (begun, mut datagram) = (Instant::now(), [0; 4_096]);
        loop {
            assert!(begun.elapsed() < DEADLINE, "{call_id}: every request goes the other way");
            phone.send(&request);
            let length = there.recv(&mut datagram);
            let offered = link.has_incoming().then(|| link.answer(200));
            let arrived = match by_the_other_edge {
                true => length
                    .ok()
                    .map(|length| sip::Message::parse(datagram[..length].to_vec().into()).unwrap()),
                false => offered,
            };
            if arrived.is_some_and(|request| request.call_id() == Ok(call_id.as_bytes())) {
                return;
            }
        }
    };
    let named = |version, state| with_edge(view(version, &[], &containers), address, state);
    scene.edge.notify(named(2, ProcessState::Backoff));
    goes("by-the-other-edge", true);
    // The node is lost: who has the session may know another way.
    scene.edge.notify(named(3, ProcessState::Down));
    goes("by-a-container", false);
}

#[test]
fn plain_text_from_a_container_ends_the_link() {
    let cluster = Cluster::new();
    let (plain, address) = listener();
    let edge = RunningEdge::of_cluster(
        view(1, &[], &[("container1", address)]),
        cluster.credentials("node1"),
    );
    for _ in 0..2 {
        let (mut stream, _): (TcpStream, _) = plain.accept().unwrap();
        stream.write_all(&[0; 64]).unwrap();
        // It is given up, and tried again.
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut rest = Vec::new();
        let _reset = std::io::Read::read_to_end(&mut stream, &mut rest);
    }
    drop(edge);
}
