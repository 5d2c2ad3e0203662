//! What a running edge costs its allocator once it has what it needs: nothing, by whatever way messages come and go.
//!
//! A binary of its own, with one test, because all threads of the process are counted but the test's.
#![allow(clippy::unwrap_used, missing_docs)]

mod allocations;
#[allow(dead_code, reason = "other tests need all of it")]
#[path = "../it/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "other tests need all of it")]
#[path = "../it/container.rs"]
mod container;
#[allow(dead_code, reason = "other tests need all of it")]
#[path = "../it/phone.rs"]
mod phone;
#[allow(dead_code, reason = "other tests need all of it")]
#[path = "../it/running.rs"]
mod running;

use bytes::Bytes;
use sip::{BRANCH_COOKIE, Message, Method, ResponseBuilder};
use topology::{Incarnation, OwnerToken};
use transport::link::Destination;

use container::{FakeContainer, FakeLink, path_of};
use phone::Phone;
use running::{RunningEdge, first_keys};

/// Messages that are under way at once: more than one system call carries.
const AT_ONCE: usize = 48;
/// Rounds before the count begins: queues and rings have the length that they need then.
const ROUNDS_BEFORE: usize = 60;
const ROUNDS: usize = 60;
const COUNTS_MAX: usize = 5;

const CONTAINER: &str = "container1";
const LIFE: u64 = 11;

struct Scene {
    edge: RunningEdge,
    link: FakeLink,
    _directory: tempfile::TempDir,
}

#[test]
fn forwarding_allocates_nothing_from_socket_to_link_and_back() {
    allocations::this_thread_is_the_tests();
    let directory = tempfile::tempdir().unwrap();
    let container = FakeContainer::listen(directory.path(), CONTAINER, LIFE);
    let edge = RunningEdge::start(1, &[(CONTAINER, container.path.clone())], Vec::new());
    let link = container.accept();
    edge.wait_until_it_serves();
    let mut scene = Scene { edge, link, _directory: directory };

    let (udp, tcp) = (Phone::udp(&scene.edge), Phone::tcp(&scene.edge));
    for (mut phone, transport) in [(udp, "UDP"), (tcp, "TCP")] {
        let register = phone.request("REGISTER", "reg1", "Contact: <sip:alice@10.0.0.1>\r\n");
        phone.send(&register);
        let path = path_of(&scene.link.answer(200));
        assert_eq!(phone.receive().status(), Some(200));
        let answered = phone.request("MESSAGE", "m1", "");
        let asked = request_of_container(&path);

        let counts = [
            steadily(|| scene.answer_all(&mut phone, &register)),
            steadily(|| scene.answer_all(&mut phone, &answered)),
            steadily(|| scene.ask_all(&mut phone, &asked)),
        ];
        assert_eq!(
            counts, [0; 3],
            "allocations of {ROUNDS} times {AT_ONCE} messages each over {transport}: REGISTER, MESSAGE and their \
             answers, a container's request and its answer"
        );
    }
}

/// The allocations of the edge after it has seen the same often enough: the least of some counts. On a busy machine
/// more piles up in one turn than ever before, and a queue grows once for it; what is allocated for messages or turns
/// is in each count.
fn steadily(mut round: impl FnMut()) -> u64 {
    (0..ROUNDS_BEFORE).for_each(|_| round());
    let mut least = u64::MAX;
    for _ in 0..COUNTS_MAX {
        least = least.min(allocations::of_others(|| (0..ROUNDS).for_each(|_| round())));
        if least == 0 {
            break;
        }
    }
    least
}

impl Scene {
    /// The phone asks, the container answers.
    fn answer_all(&mut self, phone: &mut Phone, request: &Bytes) {
        (0..AT_ONCE).for_each(|_| phone.send(request));
        for _ in 0..AT_ONCE {
            self.link.answer(200);
        }
        for _ in 0..AT_ONCE {
            assert_eq!(phone.receive().status(), Some(200));
        }
    }

    /// The container asks, the phone answers.
    fn ask_all(&mut self, phone: &mut Phone, request: &Bytes) {
        for id in 1..=AT_ONCE as u64 {
            self.link.outgoing(id, Destination::Route, request.clone());
        }
        for _ in 0..AT_ONCE {
            let request = phone.receive();
            assert_eq!(request.method(), Some(Method::Options));
            phone.send(&ResponseBuilder::new(&request, 200).to_tag(b"phone").build());
        }
        for _ in 0..AT_ONCE {
            let (sequence, _, response) = self.link.incoming();
            assert_eq!(response.status(), Some(200));
            self.link.take(sequence);
        }
    }
}

/// A request to the phone behind `path`, whose answer finds its way back to the container.
fn request_of_container(path: &str) -> Bytes {
    let owner = OwnerToken { incarnation: Incarnation(LIFE), shard: 0 };
    let owner = owner.encode(&first_keys().derive("owner"));
    let branch = [BRANCH_COOKIE, &owner[..], b"branch"].concat();
    let branch = String::from_utf8(branch).unwrap();
    let text = format!(
        "OPTIONS sip:bob@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/TCP {CONTAINER}.node.outlast.invalid;branch={branch}\r\n\
         From: <sip:alice@example.com>;tag=c\r\n\
         To: <sip:bob@example.com>\r\n\
         Call-ID: from-container\r\n\
         CSeq: 1 OPTIONS\r\n\
         Max-Forwards: 69\r\n\
         Route: {path}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let message = Message::parse(Bytes::from(text)).unwrap();
    message.buffer().clone()
}
