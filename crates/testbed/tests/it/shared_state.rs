//! A node whose state lies in the stores of a cluster: nothing is lost with a container, and while the stores are away new
//! work is told to try again and calls go on. A node that becomes a cluster carries its state along.

use std::time::Duration;

use phone::{Call, LineTransport, Phone, PhoneError};
use rustix::process::Signal;
use testbed::loopback::Loopback;
use testbed::node::{Node, NodeOptions};
use testbed::stores::Stores;
use testbed::wait;

use crate::back_to_back::go_on_and_end;
use crate::world::{self, DOMAIN, LIMIT};

/// Waits for a call that rings and takes it.
async fn established(caller: &Phone, callee: &Phone, uri: &str) -> (Call, Call) {
    let calling = async {
        let mut invitation = caller.call(0, uri).await?;
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

/// What `outlast status` says of the stores.
fn told_of_stores(node: &Node) -> String {
    let status = node.outlast(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    text.lines().filter(|line| line.starts_with("stores: ")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_ringing_calls_and_sessions_outlast_their_containers() {
    let applications = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n";
    let Some(node) = world::node_on_stores(&world::open_config(1, applications)) else { return };
    assert!(!node.directory().join("state").exists(), "nothing lies in the node's own directory");
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Tcp).await;
    assert_eq!(node.registrations().len(), 2);

    // One through a session, and one that rings; then every container dies.
    let through = format!("sip:bob@b2b.{DOMAIN}");
    let (calling, answering) = established(&caller, &callee, &through).await;
    let listed = node.outlast(&["sessions", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed.len(), 1, "{listed:?}");
    let mut rings = caller.call(0, &callee.uri()).await.expect("the line is open");
    let (heard, ringing) = tokio::join!(rings.ringing(), async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        Ok::<_, PhoneError>(ringing)
    });
    heard.expect("it rings");
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    let (second_calling, second_answering) =
        tokio::join!(rings.answered(), ringing.expect("it rings").answer());
    let second = (second_calling.expect("answered"), second_answering.expect("acknowledged"));
    go_on_and_end(calling, answering, true).await;
    go_on_and_end(second.0, second.1, false).await;
    assert_eq!(callee.invites(), 2, "each rings once");
    assert_eq!(node.registrations().len(), 2);
    assert_eq!(told_of_stores(&node), "");
    for phone in [&caller, &callee] {
        assert_eq!(phone.violations(), Vec::<String>::new(), "{}", phone.user());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_stores_are_away_new_work_is_told_to_try_again_and_calls_go_on() {
    let Some(node) = world::node_on_stores(&world::open_config(1, "")) else { return };
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let (calling, answering) = established(&caller, &callee, &callee.uri()).await;
    let containers = node.status().processes;
    node.stores().signal(Signal::STOP);

    let refused = caller.register(600).await;
    assert!(matches!(refused, Err(PhoneError::Refused { status: 503, .. })), "{refused:?}");
    let refused = match caller.call(0, &callee.uri()).await {
        Ok(invitation) => invitation.answered().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(PhoneError::Refused { status: 503, .. })), "{refused:?}");
    wait::until("the operator to be told", LIMIT, || match told_of_stores(&node) {
        told if told.contains("do not answer") => Ok(()),
        told => Err(told),
    });
    go_on_and_end(calling, answering, true).await;

    node.stores().signal(Signal::CONT);
    wait::until("the stores to be back", LIMIT, || match told_of_stores(&node) {
        told if told.is_empty() => Ok(()),
        told => Err(told),
    });
    let registered = tokio::time::timeout(Duration::from_secs(20), async {
        while caller.register(600).await.is_err() {}
    });
    registered.await.expect("it registers again");
    let (calling, answering) = established(&caller, &callee, &callee.uri()).await;
    go_on_and_end(calling, answering, false).await;
    let same = |before: &testbed::node::ProcessStatus| node.process(&before.name).pid == before.pid;
    assert!(containers.iter().all(same), "nobody was restarted for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_becomes_a_cluster_keeps_its_registrations_and_calls() {
    if !Stores::are_installed() {
        return;
    }
    let applications = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n";
    let node = world::node_of_its_own(&world::open_config(1, applications));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Tcp).await;
    let through = format!("sip:bob@b2b.{DOMAIN}");
    let session = established(&caller, &callee, &through).await;
    let direct = established(&caller, &callee, &callee.uri()).await;

    let created =
        node.outlast(&["cluster", "create", "--address", &Loopback::new().host(1).to_string()]);
    assert!(created.status.success(), "{created:?}");
    let told = String::from_utf8_lossy(&created.stdout).into_owned();
    assert!(told.contains("the state lies in the cluster's stores now"), "{told}");
    assert!(node.directory().join("cluster/stores.json").exists());
    assert!(!node.directory().join("state").exists(), "nobody takes the old one for the state");
    assert!(node.directory().join("state.before-cluster").exists());

    assert_eq!(node.registrations().len(), 2);
    let listed = node.outlast(&["sessions", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed.len(), 1, "{listed:?}");
    go_on_and_end(session.0, session.1, true).await;
    go_on_and_end(direct.0, direct.1, false).await;
    let (calling, answering) = established(&caller, &callee, &callee.uri()).await;
    go_on_and_end(calling, answering, true).await;
    for phone in [&caller, &callee] {
        assert_eq!(phone.violations(), Vec::<String>::new(), "{}", phone.user());
    }

    let status = node.outlast(&["state", "status", "--json"]);
    assert!(status.status.success(), "{status:?}");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!((&status["state"], &status["copies"]), (&"cluster".into(), &0.into()), "{status}");
    assert_eq!(status["shards"][0]["primary"]["name"], "store1@node1", "{status}");
    assert_eq!(status["shards"][0]["slots"], 16_384, "{status}");
    let again = node.outlast(&["cluster", "create"]);
    assert!(!again.status.success(), "it is a member: {again:?}");

    // What the store of the node itself has outlives the node's orderly end.
    let config = node.config_with_its_ports();
    let options = NodeOptions { config: Some(config), arguments: Vec::new() };
    let node = Node::start_in(node.stop(), &options);
    assert_eq!(node.registrations().len(), 2);
}
