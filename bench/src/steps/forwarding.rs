//! The edge's decisions, on messages that its own decisions made.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use edge::forward::{Arrival, Attempt, Decision, Keys, NatTraversal, Source, View, from_outside};
use edge::{FellowEdges, Listener, Listeners};
use sip::{HeaderName, Message};
use topology::{Accepting, HeartbeatSettings, Incarnation, KeyRing, ProcessName, RoutingTable};
use transport::{Flow, Transport};

use super::Work;
use crate::messages::{self, EDGE, phone_flow};

/// Another phone, where requests in the dialog come from.
const CALLEE: &str = "198.51.100.8:40000";

/// An edge with two containers.
struct Surroundings {
    listeners: Listeners,
    routing: RoutingTable,
    keys: Keys,
}

impl Surroundings {
    fn new() -> Surroundings {
        let own: SocketAddr = EDGE.parse().expect("it is an address");
        let mut routing = RoutingTable::new(HeartbeatSettings {
            interval: Duration::from_millis(500),
            allowed_miss_count: 2,
        });
        let (now, mut changes) = (Instant::now(), Vec::new());
        for number in 1..=2 {
            let name = ProcessName::new(format!("container{number}"));
            let incarnation = Incarnation(number);
            routing.link_up(&name, incarnation, now, &mut changes);
            routing.heartbeat(&name, incarnation, Accepting::Accepting, 0, now, &mut changes);
        }
        Surroundings {
            listeners: Listeners::new(vec![
                Listener::direct(Transport::Udp, own),
                Listener::direct(Transport::Tcp, own),
            ]),
            routing,
            keys: Keys::derive(&KeyRing::new([7; 32])),
        }
    }

    fn decide(&self, message: &Message, flow: Flow, out: &mut BytesMut) -> Decision {
        let view = View {
            listeners: &self.listeners,
            routing: &self.routing,
            peers: &[],
            fellows: &FellowEdges::default(),
            keys: &self.keys,
            nat_traversal: NatTraversal::On,
        };
        let source = Source::Outside;
        let arrival = Arrival { message, flow, source, attempt: Attempt::First, seed: 3 };
        from_outside(&arrival, &view, out)
    }

    /// What a container is offered of a phone's message.
    fn offered(&self, bytes: Bytes) -> Message {
        match self.decide(&messages::parsed(bytes), phone_flow(), &mut BytesMut::new()) {
            Decision::Offer { bytes, .. } => messages::parsed(bytes),
            other => panic!("a container takes it, not {other:?}"),
        }
    }
}

fn callee_flow() -> Flow {
    Flow { remote: CALLEE.parse().expect("it is an address"), ..phone_flow() }
}

fn deciding(bytes: Bytes, flow: Flow) -> Work {
    let surroundings = Surroundings::new();
    let message = messages::parsed(bytes);
    let mut out = BytesMut::new();
    assert!(
        !matches!(
            surroundings.decide(&message, flow, &mut out),
            Decision::Reply { .. } | Decision::Drop(_)
        ),
        "it is forwarded"
    );
    Box::new(move || {
        black_box(surroundings.decide(black_box(&message), flow, &mut out));
    })
}

pub(super) fn register() -> Work {
    deciding(messages::register(1, 1), phone_flow())
}

pub(super) fn invite() -> Work {
    deciding(messages::invite(), phone_flow())
}

/// The callee's INFO, by the route that the edge recorded in the caller's INVITE.
fn info() -> Bytes {
    let offered = Surroundings::new().offered(messages::invite());
    let route = offered.values(HeaderName::RecordRoute).next().expect("the edge records its route");
    Bytes::from(format!(
        "INFO sip:user1@10.0.0.17:5060 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 10.0.0.18:5060;branch=z9hG4bK-1d2c3b4a;rport\r\n\
         Max-Forwards: 70\r\nRoute: {}\r\nFrom: <sip:user2@example.org>;tag=2b3c4d\r\n\
         To: <sip:user1@example.org>;tag=4f5e6d7c\r\nCall-ID: 95Ld1bAl3O4@10.0.0.17\r\n\
         CSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n",
        String::from_utf8_lossy(route)
    ))
}

pub(super) fn in_dialog() -> Work {
    deciding(info(), callee_flow())
}

/// The caller's answer to that INFO, back to the callee.
pub(super) fn response() -> Work {
    let surroundings = Surroundings::new();
    let info = messages::parsed(info());
    let forwarded = match surroundings.decide(&info, callee_flow(), &mut BytesMut::new()) {
        Decision::Send { bytes, .. } => messages::parsed(bytes),
        other => panic!("it goes to the caller, not {other:?}"),
    };
    let mut answer = String::from("SIP/2.0 200 OK\r\n");
    for via in forwarded.values(HeaderName::Via) {
        answer += &format!("Via: {}\r\n", String::from_utf8_lossy(via));
    }
    answer += "From: <sip:user2@example.org>;tag=2b3c4d\r\nTo: <sip:user1@example.org>;tag=4f5e6d7c\r\n\
               Call-ID: 95Ld1bAl3O4@10.0.0.17\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n";
    deciding(Bytes::from(answer), phone_flow())
}

pub(super) fn path() -> Work {
    let surroundings = Surroundings::new();
    let bytes = info();
    let mut out = BytesMut::new();
    Box::new(move || {
        let message = messages::parsed(black_box(bytes.clone()));
        black_box(surroundings.decide(&message, callee_flow(), &mut out));
    })
}
