//! Several applications on one call, on a node with real processes.

use phone::{LineTransport, Phone};
use serde_json::Value;
use testbed::node::Node;
use testbed::wait;

use crate::deployable::{Deployable, assert_has_worked};
use crate::world;

/// The sample `b2bua` under another name and in another place.
fn agent(name: &str, order: &str, region: &str) -> Option<Deployable> {
    let agent = Deployable::built("b2bua")?
        .with("name = \"b2bua\"", &format!("name = \"{name}\""))
        .with("order = 500", order)
        .with("[sip]", &format!("[sip]\nregion = \"{region}\""));
    Some(agent)
}

fn json(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let output = node.outlast(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sessions(node: &Node) -> Vec<Value> {
    json(node, &["sessions", "--json"])
}

async fn phone(node: &Node, user: &str) -> Phone {
    world::registered_openly(node, user, LineTransport::Udp).await
}

#[tokio::test(flavor = "multi_thread")]
async fn call_through_three_applications_in_their_order_outlives_all_containers() {
    // Not deployed in the order in which they are asked.
    let agents = [
        ("for-bob", "order = 1", "terminating"),
        ("for-all", "order = 9", "neutral"),
        ("for-alice", "order = 5", "originating"),
    ];
    let agents = agents.map(|(name, order, region)| agent(name, order, region));
    if agents.iter().any(Option::is_none) {
        return;
    }
    let node = world::node_of(&world::open_config(1, ""));
    agents.iter().flatten().for_each(|agent| agent.deploy(&node));
    let listed = json(&node, &["app", "list", "--json"]);
    let names: Vec<&str> = listed.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["for-alice", "for-all", "for-bob"], "{listed:?}");
    let (alice, bob) = (phone(&node, "alice").await, phone(&node, "bob").await);
    let (calling, answering) = tokio::join!(
        async {
            let mut invitation = alice.call(0, &bob.uri()).await?;
            invitation.ringing().await?;
            invitation.answered().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            ringing.answer().await
        }
    );
    let (mut calling, mut answering) = (calling.unwrap(), answering.unwrap());
    for name in names {
        assert_has_worked(&node, name);
    }
    let standing = sessions(&node);
    assert_eq!(standing.len(), 3, "one of each: {standing:?}");
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    let (refreshed, passed_on) = tokio::join!(calling.reinvite(), answering.reinvited());
    refreshed.unwrap();
    passed_on.unwrap();
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
    for phone in [&alice, &bob] {
        assert_eq!(phone.violations(), Vec::<String>::new(), "at {}", phone.user());
        assert_eq!(phone.rang_again(), Vec::<String>::new(), "at {}", phone.user());
    }
    wait::until("all sessions to be over", world::LIMIT, || match sessions(&node) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
    node.stop();
}
