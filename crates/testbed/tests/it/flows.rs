//! Phones that hold two flows to two edges (RFC 5626): one dies, calls come by the other. Phones with one stream: their
//! calls go on when they are back.

use phone::{LineTransport, Phone};
use testbed::node::Node;

use crate::world::{self, DOMAIN, PASSWORD};

const INSTANCE: &str = "urn:uuid:0c67446e-f1a1-11d9-94d3-000a95a0e128";

async fn two_flows(node: &Node, transport: LineTransport) -> Phone {
    let name = match transport {
        LineTransport::Udp => "udp",
        LineTransport::Tcp => "tcp",
    };
    let flows =
        [(transport, node.sip(name)), (transport, world::edge_address(node, "edge2", name))];
    let phone = Phone::with_flows("bob", DOMAIN, PASSWORD, INSTANCE, &flows).await.unwrap();
    let ok = phone.register(600).await.unwrap();
    let required = ok.field(sip::HeaderName::Require).unwrap_or_default();
    assert!(
        String::from_utf8_lossy(required).contains("outbound"),
        "RFC 5626 §6: Require: outbound in the 200"
    );
    phone
}

#[tokio::test(flavor = "multi_thread")]
async fn two_flows_of_one_instance_ring_once() {
    let node = world::node_of(&world::open_config(2, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = two_flows(&node, LineTransport::Tcp).await;
    assert_eq!(node.registrations().len(), 3, "{:?}", node.registrations());
    let uri = callee.uri();
    let (call, answered) =
        tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
            callee.incoming().await?.answer().await
        });
    let (call, answered) = (call.unwrap(), answered.unwrap());
    let (ended, noticed) = tokio::join!(call.hang_up(), answered.hung_up());
    ended.unwrap();
    noticed.unwrap();
    assert_eq!(callee.invites(), 1, "RFC 5626 §7: never two flows of one instance in parallel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_by_the_other_flow_when_an_edge_died() {
    let node = world::node_of(&world::open_config(2, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = two_flows(&node, LineTransport::Tcp).await;
    // The edge comes back, but its TCP connections do not: that flow is gone (430).
    node.kill_and_wait_ready("edge2");
    testbed::wait::until("the phone to notice", std::time::Duration::from_secs(5), || {
        if callee.lines()[1].is_open() { Err("still open") } else { Ok(()) }
    });
    let uri = callee.uri();
    let (call, answered) =
        tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
            callee.incoming().await?.answer().await
        });
    let (call, answered) =
        (call.expect("the call comes by the flow that lives"), answered.unwrap());
    let (ended, noticed) = tokio::join!(call.hang_up(), answered.hung_up());
    ended.unwrap();
    noticed.unwrap();
}

/// Both connections of a call die with their edge. Neither phone's route set leads to the other any more, so each
/// request asks the registrar for the flow that the other has registered since.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_two_streams_goes_on_from_both_sides_when_both_phones_are_back() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Tcp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Tcp).await;
    for caller_ends in [true, false] {
        let uri = callee.uri();
        let (calling, answering) =
            tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
                callee.incoming().await?.answer().await
            });
        let (mut calling, mut answering) = (calling.unwrap(), answering.unwrap());
        node.kill_and_wait_ready("edge1");
        for phone in [&caller, &callee] {
            phone.lines()[0].lost().await;
            phone.lines()[0].reconnect().await.unwrap();
            phone.register(600).await.unwrap();
        }
        for caller_asks in [caller_ends, !caller_ends] {
            let (asks, answers) = if caller_asks {
                (&mut calling, &mut answering)
            } else {
                (&mut answering, &mut calling)
            };
            let (asked, answered) = tokio::join!(asks.reinvite(), answers.reinvited());
            asked.expect("the re-INVITE finds the other phone");
            answered.expect("so does its ACK");
        }
        let (ends, notices) = if caller_ends { (calling, answering) } else { (answering, calling) };
        let (ended, noticed) = tokio::join!(ends.hang_up(), notices.hung_up());
        ended.expect("the BYE finds the other phone");
        noticed.expect("the other side hears it");
    }
    for phone in [&caller, &callee] {
        assert_eq!(phone.violations(), Vec::<String>::new(), "at {}", phone.user());
    }
    node.stop();
}
