//! Phones that hold two flows to two edges (RFC 5626): one dies, calls come by the other.

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
