//! Calls between our phones: over every pair of transports, hung up by either side, cancelled, refused.

use phone::{LineTransport, Phone, PhoneError};
use sip::{HeaderName, Method};
use testbed::node::Node;

use crate::world;

const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

/// Runs a call to its established state and gives both ends.
async fn established(caller: &Phone, callee: &Phone) -> (phone::Call, phone::Call) {
    let uri = callee.uri();
    let calling = async {
        let mut invitation = caller.call(0, &uri).await?;
        invitation.ringing().await?;
        invitation.answered().await
    };
    let answering = async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        ringing.answer().await
    };
    let (calling, answering) = tokio::join!(calling, answering);
    (calling.expect("the call is answered"), answering.expect("the answer is acknowledged"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_come_up_and_end_over_every_pair_of_transports() {
    let node = world::node();
    for (number, (from, to)) in
        BOTH.into_iter().flat_map(|from| BOTH.map(|to| (from, to))).enumerate()
    {
        let caller = world::registered(&node, &format!("caller{number}"), from).await;
        let callee = world::registered(&node, &format!("callee{number}"), to).await;
        let (calling, answering) = established(&caller, &callee).await;
        let (ended, noticed) = if number % 2 == 0 {
            tokio::join!(calling.hang_up(), answering.hung_up())
        } else {
            tokio::join!(answering.hang_up(), async { calling.hung_up().await })
        };
        ended.unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
        noticed.unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
        assert_eq!(callee.invites(), 1, "the callee rings once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_established_call_needs_the_edge_only() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let (mut calling, answering) = established(&caller, &callee).await;
    for container in ["container1", "container2"] {
        assert!(node.outlast(&["stop", container]).status.success());
    }
    let again = async {
        let ok = calling.request_by(0, Method::Info).await?;
        assert_eq!(ok.status(), Some(200));
        calling.hang_up().await
    };
    let (again, hung_up) = tokio::join!(again, answering.hung_up());
    again.expect("the call goes on without containers");
    hung_up.expect("the BYE reaches the callee");
    // A new call finds nobody who serves: 503 with a Retry-After (RFC 3261 §21.5.4).
    let refused = caller.call(0, &callee.uri()).await.unwrap().final_response().await.unwrap();
    assert_eq!(refused.status(), Some(503));
    assert!(refused.field(HeaderName::RetryAfter).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_work_over_ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let node = Node::start(&testbed::node::NodeOptions {
        config: None,
        arguments: ["--sip", "[::1]:0", "--domain", world::DOMAIN].map(str::to_owned).to_vec(),
    });
    for transport in BOTH {
        let name = format!("{transport:?}").to_lowercase();
        let caller = world::registered(&node, &format!("caller-{name}"), transport).await;
        let callee = world::registered(&node, &format!("callee-{name}"), transport).await;
        let (calling, answering) = established(&caller, &callee).await;
        let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
        ended.unwrap();
        noticed.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_stops_ringing() {
    let node = world::node();
    for transport in BOTH {
        let name = format!("{transport:?}").to_lowercase();
        let caller = world::registered(&node, &format!("caller-{name}"), transport).await;
        let callee = world::registered(&node, &format!("callee-{name}"), transport).await;
        let uri = callee.uri();
        let calling = async {
            let mut invitation = caller.call(0, &uri).await?;
            invitation.ringing().await?;
            invitation.cancel().await
        };
        let answering = async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            ringing.canceled().await
        };
        let (calling, answering) = tokio::join!(calling, answering);
        answering.expect("the CANCEL reaches the callee");
        assert_eq!(calling.expect("the INVITE ends").status(), Some(487));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_caller() {
    let node = world::node();
    let caller = world::registered(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered(&node, "bob", LineTransport::Tcp).await;
    let uri = callee.uri();
    let (calling, answering) =
        tokio::join!(async { caller.call(0, &uri).await?.answered().await.map(drop) }, async {
            callee.incoming().await?.reject(486).await
        });
    answering.unwrap();
    assert!(matches!(calling, Err(PhoneError::Refused { status: 486, .. })), "{calling:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callees_that_are_not_there_are_told_apart() {
    let node = world::node();
    let caller = world::registered(&node, "alice", LineTransport::Udp).await;
    node.add_user(&format!("bob@{}", world::DOMAIN), world::PASSWORD);
    for (uri, status) in [
        (format!("sip:bob@{}", world::DOMAIN), 480),
        (format!("sip:nobody@{}", world::DOMAIN), 404),
    ] {
        let outcome = caller.call(0, &uri).await.unwrap().final_response().await.unwrap();
        assert_eq!(outcome.status(), Some(status), "{uri}");
    }
}
