//! The way of a message through the decision costs no allocation.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use edge::forward::{
    self, Arrival, Attempt, Decision, Keys, NatTraversal, Source, View, from_outside,
};
use edge::{FellowEdges, Listener, Listeners};
use sip::{Message, ResponseBuilder};
use topology::{Accepting, HeartbeatSettings, Incarnation, KeyRing, ProcessName, RoutingTable};
use transport::link::Destination;
use transport::{Flow, Transport};

use crate::allocations;

const MESSAGES: u64 = 1_000;

/// As a phone sends it: three own headers beside the usual ones and a session description.
const INVITE: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK776asdhds\r\n\
    Max-Forwards: 70\r\n\
    From: \"Alice\" <sip:alice@example.com>;tag=1928301774\r\n\
    To: <sip:bob@example.com>\r\n\
    Call-ID: a84b4c76e66710@10.0.0.1\r\n\
    CSeq: 314159 INVITE\r\n\
    Contact: <sip:alice@10.0.0.1:5060>\r\n\
    Route: <sip:192.0.2.1:5060;lr>\r\n\
    Allow: INVITE, ACK, CANCEL, OPTIONS, BYE\r\n\
    Supported: replaces, outbound, path\r\n\
    User-Agent: phone\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 4\r\n\r\nv=0\n";

#[test]
fn forwarding_a_request_in_and_its_response_out_allocates_nothing() {
    let own = "192.0.2.1:5060".parse().unwrap();
    let listeners = Listeners::new(vec![Listener::direct(Transport::Udp, own)]);
    let heartbeat = HeartbeatSettings { interval: Duration::from_secs(1), allowed_miss_count: 2 };
    let mut routing = RoutingTable::new(heartbeat);
    let (name, incarnation) = (ProcessName::new("container1"), Incarnation(11));
    let (now, mut changes) = (Instant::now(), Vec::new());
    routing.link_up(&name, incarnation, now, &mut changes);
    routing.heartbeat(&name, incarnation, Accepting::Accepting, 0, now, &mut changes);
    let keys = Keys::derive(&KeyRing::new([7; 32]));
    let view = View {
        listeners: &listeners,
        routing: &routing,
        peers: &[],
        fellows: &FellowEdges::default(),
        keys: &keys,
        nat_traversal: NatTraversal::On,
    };
    let flow = Flow::new(Transport::Udp, own, "198.51.100.7:49152".parse().unwrap());
    let received = Bytes::from(INVITE);
    let mut out = BytesMut::with_capacity(256 * 1024);

    let mut forward_in = || {
        let message = Message::parse(received.clone()).unwrap();
        let arrival = Arrival {
            message: &message,
            flow,
            source: Source::Outside,
            attempt: Attempt::First,
            seed: 1,
        };
        match from_outside(&arrival, &view, &mut out) {
            Decision::Offer { bytes, .. } => bytes,
            other => panic!("expected an offer, found {other:?}"),
        }
    };
    // In memory of its own, or the scratch could not be used again while it lives.
    let forwarded = Message::parse(forward_in()).unwrap().detached();
    let requests = allocations::count(|| (0..MESSAGES).for_each(|_| drop(forward_in())));

    let answer = ResponseBuilder::new(&forwarded, 200).to_tag(b"bob").record_route().build();
    drop(forwarded);
    let mut forward_out = || {
        let message = Message::parse(answer.clone()).unwrap();
        match forward::from_link(&message, Destination::Via, &view, &mut out) {
            Ok(Decision::Send { bytes, .. }) => drop(bytes),
            other => panic!("expected a message to be sent, found {other:?}"),
        }
    };
    forward_out();
    let responses = allocations::count(|| (0..MESSAGES).for_each(|_| forward_out()));
    assert_eq!((requests, responses), (0, 0), "allocations of {MESSAGES} messages each");
}
