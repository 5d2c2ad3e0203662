//! Who calls an application: strangers who name one of our users in From are challenged before any of its handlers runs,
//! and what an application sends on is not challenged again.

use std::sync::Arc;

use phone::{Direction, Invitation, LineTransport, Phone};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sip::{HeaderName, Message, Method};
use testbed::node::Node;
use testbed::wait;

use crate::deployable::{Deployable, assert_has_worked, back_to_back};
use crate::world::{self, DOMAIN};

const CONTAINERS: [&str; 2] = ["container1", "container2"];

/// A node that asks for passwords, with the native agent.
fn node() -> Node {
    let agent = "[container]\napplications = [\"back-to-back\", \"registrar\"]\n";
    world::node_of(&world::guarded_config(1, agent))
}

/// A node that asks for passwords, with the sample agent as this makes it; None: it is not built.
fn node_with(agent: impl FnOnce(Deployable) -> Deployable) -> Option<Node> {
    let agent = agent(back_to_back("{ contains = [\"request.uri.user\", \"bob\"] }")?);
    let node = world::node_of(&world::guarded_config(1, ""));
    agent.deploy(&node);
    Some(node)
}

/// A phone that says it is that user's, and does not know the password.
async fn stranger(node: &Node, user: &str, transport: LineTransport) -> Phone {
    let edge = world::address(node, transport);
    Phone::new(user, DOMAIN, "a guess", transport, edge).await.unwrap()
}

fn sessions(node: &Node) -> Vec<Value> {
    let output = node.outlast(&["sessions", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn events(node: &Node, name: &str) -> u64 {
    let output = node.outlast(&["app", "list", "--json"]);
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let its = all.iter().filter(|one| one["name"] == name);
    let versions = its.flat_map(|one| one["versions"].as_array().into_iter().flatten());
    versions.filter_map(|version| version["events"].as_u64()).sum()
}

/// The call is answered, goes on and is hung up; the callee rang once.
async fn assert_goes_through(invitation: Invitation, callee: &Phone) {
    let mut invitation = invitation;
    let (calling, answering) = tokio::join!(
        async {
            invitation.ringing().await?;
            invitation.answered().await
        },
        async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            ringing.answer().await
        }
    );
    let (mut calling, mut answering) = (calling.unwrap(), answering.unwrap());
    // Within the dialog nobody is asked.
    let (asked, answered) = tokio::join!(calling.reinvite(), answering.reinvited());
    asked.unwrap();
    answered.unwrap();
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
    assert_eq!(callee.rang_again(), Vec::<String>::new());
    assert_eq!(callee.violations(), Vec::<String>::new());
}

fn challenges(response: &Message) -> usize {
    response.fields(HeaderName::ProxyAuthenticate).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_reaches_no_phone_through_the_native_agent_and_its_user_does() {
    let node = node();
    let bob = world::registered(&node, "bob", LineTransport::Udp).await;
    node.add_user(&format!("alice@{DOMAIN}"), world::PASSWORD);
    let agent = format!("sip:bob@b2b.{DOMAIN}");
    for transport in [LineTransport::Udp, LineTransport::Tcp] {
        let rang = bob.invites();
        let stranger = stranger(&node, "alice", transport).await;
        let without = stranger.request(0, Method::Invite, &agent);
        let refused = without.send().await.unwrap().final_response().await.unwrap();
        assert_eq!((refused.status(), challenges(&refused)), (Some(407), 3), "{transport:?}");
        // With a wrong password.
        let mut invitation = stranger.call(0, &agent).await.unwrap();
        assert_eq!(invitation.final_response().await.unwrap().status(), Some(407));
        let mallory =
            stranger.request(0, Method::Invite, &agent).from(&format!("<sip:{DOMAIN}>;tag=m"));
        let refused = mallory.send().await.unwrap().final_response().await.unwrap();
        assert_eq!(refused.status(), Some(403));
        assert_eq!((bob.invites(), sessions(&node)), (rang, Vec::new()), "{transport:?}");
        let alice = world::phone(&node, "alice", transport).await;
        assert_goes_through(alice.call(0, &agent).await.unwrap(), &bob).await;
        wait::until("the session to be over", world::LIMIT, || match sessions(&node) {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handler_runs_for_a_stranger_and_agents_send_on_what_was_proven() {
    let Some(node) = node_with(|agent| agent) else { return };
    let second = back_to_back("{ contains = [\"request.uri.user\", \"bob\"] }").expect("built");
    let second = second.with("name = \"b2bua\"", "name = \"second\"");
    second.with("order = 500", "order = 600").deploy(&node);
    let bob = world::registered(&node, "bob", LineTransport::Udp).await;
    node.add_user(&format!("alice@{DOMAIN}"), world::PASSWORD);
    let stranger = stranger(&node, "alice", LineTransport::Udp).await;
    let mut invitation = stranger.call(0, &bob.uri()).await.unwrap();
    assert_eq!(invitation.final_response().await.unwrap().status(), Some(407));
    assert_eq!((bob.invites(), sessions(&node), events(&node, "b2bua")), (0, Vec::new(), 0));
    // What the agents send names alice as well: the next one and the registrar take their word.
    let alice = world::phone(&node, "alice", LineTransport::Udp).await;
    assert_goes_through(alice.call(0, &bob.uri()).await.unwrap(), &bob).await;
    assert_has_worked(&node, "b2bua");
    assert_has_worked(&node, "second");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn application_that_wants_it_takes_everybody() {
    let open = |agent: Deployable| agent.with("[sip]", "[sip]\nauthenticate = false");
    let Some(node) = node_with(open) else { return };
    let shown = node.outlast(&["app", "show", "b2bua"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("takes everybody's requests"), "{shown}");
    let bob = world::registered(&node, "bob", LineTransport::Udp).await;
    let carol = world::registered(&node, "carol", LineTransport::Udp).await;
    let stranger = stranger(&node, "alice", LineTransport::Udp).await;
    let invitation = stranger.call(0, &bob.uri()).await.unwrap();
    assert_eq!(invitation.invite().field(HeaderName::ProxyAuthorization), None);
    assert_goes_through(invitation, &bob).await;
    // Nobody else is open.
    let mut invitation = stranger.call(0, &carol.uri()).await.unwrap();
    assert_eq!(invitation.final_response().await.unwrap().status(), Some(407));
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn challenge_outlives_its_container() {
    let node = node();
    let bob = world::registered(&node, "bob", LineTransport::Udp).await;
    node.add_user(&format!("alice@{DOMAIN}"), world::PASSWORD);
    let alice = world::phone(&node, "alice", LineTransport::Udp).await;
    let pids = CONTAINERS.map(|name| node.process(name).pid.unwrap());
    alice.watch(Arc::new(move |passed| {
        let is_challenge = passed.message.status() == Some(407) && !passed.repeated;
        if passed.direction == Direction::Received && is_challenge {
            for pid in pids {
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            }
        }
    }));
    let invitation = alice.call(0, &format!("sip:bob@b2b.{DOMAIN}")).await.unwrap();
    assert_goes_through(invitation, &bob).await;
    for (name, pid) in CONTAINERS.into_iter().zip(pids) {
        assert_ne!(node.process(name).pid, Some(pid), "{name} was killed");
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_given_up_behind_its_challenge() {
    let node = node();
    let bob = world::registered(&node, "bob", LineTransport::Udp).await;
    let alice = world::registered(&node, "alice", LineTransport::Udp).await;
    let mut invitation = alice.call(0, &format!("sip:bob@b2b.{DOMAIN}")).await.unwrap();
    let (cancelled, noticed) = tokio::join!(
        async {
            invitation.ringing().await?;
            invitation.cancel().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            ringing.canceled().await
        }
    );
    assert_eq!(cancelled.unwrap().status(), Some(487));
    noticed.unwrap();
    node.stop();
}
