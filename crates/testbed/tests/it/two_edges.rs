//! Two edges, and a load balancer without stickiness: the datagrams of each transaction go over both.

use phone::{LineTransport, Phone};
use sip::Method;

use crate::world::{self, DOMAIN, PASSWORD};

/// A phone whose line 0 leads to the first edge and line 1 to the second; it registers by line 0 only.
async fn sprayed(node: &testbed::node::Node, user: &str) -> Phone {
    let flows = [
        (LineTransport::Udp, node.sip("udp")),
        (LineTransport::Udp, world::edge_address(node, "edge2", "udp")),
    ];
    let instance = format!("urn:uuid:00000000-0000-1000-8000-{:012x}", user.len());
    let phone = Phone::with_flows(user, DOMAIN, PASSWORD, &instance, &flows).await.unwrap();
    let contact = format!("<sip:{user}@{}>", phone.lines()[0].local());
    phone.register_contact(0, &contact, 600).await.unwrap();
    phone
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_by_the_other_edge_finds_its_invite() {
    let node = world::node_of(&world::open_config(2, ""));
    let caller = sprayed(&node, "alice").await;
    let callee = sprayed(&node, "callee").await;
    let uri = callee.uri();
    for by_line in [0, 1] {
        let (outcome, cancelled) = tokio::join!(
            async {
                let mut invitation = caller.call(by_line, &uri).await?;
                invitation.ringing().await?;
                invitation.cancel_by(1 - by_line).await
            },
            async {
                let ringing = callee.incoming().await?;
                ringing.ring().await?;
                ringing.canceled().await
            }
        );
        cancelled.expect("the CANCEL finds its INVITE");
        assert_eq!(outcome.unwrap().status(), Some(487));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retransmissions_over_both_edges_are_one_transaction() {
    let node = world::node_of(&world::open_config(2, ""));
    let caller = sprayed(&node, "alice").await;
    let callee = sprayed(&node, "callee").await;
    let uri = callee.uri();
    let draft = caller
        .request(0, Method::Invite, &uri)
        .header("Contact", &format!("<sip:alice@{}>", caller.lines()[0].local()));
    let octets = draft.build();
    let mut exchange = draft.send().await.unwrap();
    for line in [1, 0, 1] {
        caller.lines()[line].send(octets.clone()).await.unwrap();
    }
    let (refused, outcome) = tokio::join!(
        async { callee.incoming().await?.reject(486).await },
        exchange.final_response()
    );
    refused.unwrap();
    assert_eq!(outcome.unwrap().status(), Some(486));
    assert_eq!(callee.invites(), 1, "the callee rings once");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_call_go_by_either_edge() {
    let node = world::node_of(&world::open_config(2, ""));
    let caller = sprayed(&node, "alice").await;
    let callee = sprayed(&node, "callee").await;
    let uri = callee.uri();
    let (call, answered) =
        tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
            callee.incoming().await?.answer().await
        });
    let (mut call, answered) = (call.unwrap(), answered.unwrap());
    let talking = async {
        for line in [1, 0, 1] {
            let ok = call.request_by(line, Method::Info).await?;
            assert_eq!(ok.status(), Some(200), "INFO by line {line}");
        }
        call.hang_up().await
    };
    let (talking, hung_up) = tokio::join!(talking, answered.hung_up());
    talking.unwrap();
    hung_up.unwrap();
}
