//! A machine whose clock is set by an hour under a running node, by libfaketime (Debian package faketime): nothing
//! that is registered is lost at once, and what is registered then lasts as long as it was granted.

use std::time::{Duration, Instant};

use phone::LineTransport;
use testbed::clock::Clock;
use testbed::node::{Node, NodeOptions};
use testbed::wait;

use crate::world;

const LIMIT: Duration = Duration::from_secs(15);
/// How long no lifetime ends after a step.
const FREEZE: Duration = Duration::from_secs(60);

/// A node that goes by this clock.
fn node_by(clock: &Clock) -> Node {
    let options = NodeOptions { config: Some(world::open_config(1, "")), arguments: Vec::new() };
    Node::start_with_environment(&options, &clock.environment())
}

/// Steps the clock and waits until `outlast status` tells it.
fn step(node: &Node, clock: &Clock, offset: &str, by_ms: i64) {
    clock.set(offset);
    wait::until("the step to be noticed", LIMIT, || {
        let status = node.outlast(&["status", "--json"]);
        let status: serde_json::Value =
            serde_json::from_slice(&status.stdout).expect("status --json is JSON");
        match status["clock"]["stepped_by_ms"].as_i64() {
            Some(told) if (told - by_ms).abs() < 2_000 => Ok(()),
            _ => Err(status),
        }
    });
    let shown = node.outlast(&["status"]);
    let shown = String::from_utf8(shown.stdout).expect("status is text");
    assert!(shown.contains("clock set "), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_by_an_hour_costs_no_registration_at_once() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let Some(clock) = Clock::in_directory(home.path()) else { return };
    let node = node_by(&clock);
    let alice = world::phone(&node, "alice", LineTransport::Udp).await;
    alice.register(3_000).await.expect("anybody may register");
    let began = Instant::now();
    step(&node, &clock, "+1h", 3_600_000);

    assert_eq!(alice.registered_contacts(0).await.expect("an answer").len(), 1, "kept");
    let bob = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let ok = bob.register(600).await.expect("anybody may register");
    let contact = ok.values(sip::HeaderName::Contact).next().expect("the binding");
    assert!(contact.ends_with(b";expires=600"), "{}", contact.escape_ascii());

    // Then the clock is believed: alice's time is over, bob's is not.
    loop {
        let contacts = alice.registered_contacts(0).await.expect("an answer");
        if contacts.is_empty() {
            break;
        }
        assert!(began.elapsed() < FREEZE + LIMIT * 2, "still registered: {contacts:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(began.elapsed() >= FREEZE - LIMIT, "ended after {:?}", began.elapsed());
    assert_eq!(bob.registered_contacts(0).await.expect("an answer").len(), 1);
    alice.register(600).await.expect("as usual");
    assert_eq!(alice.registered_contacts(0).await.expect("an answer").len(), 1);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_by_an_hour_ends_nothing_and_grants_no_hour_more() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let Some(clock) = Clock::in_directory(home.path()) else { return };
    let node = node_by(&clock);
    let alice = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    step(&node, &clock, "-1h", -3_600_000);
    assert_eq!(alice.registered_contacts(0).await.expect("an answer").len(), 1, "kept");
    let bob = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    for phone in [&alice, &bob] {
        let ok = phone.register(600).await.expect("anybody may register");
        let contact = ok.values(sip::HeaderName::Contact).next().expect("the binding");
        assert!(contact.ends_with(b";expires=600"), "{}", contact.escape_ascii());
    }
    assert_eq!(bob.registered_contacts(0).await.expect("an answer").len(), 1);
    node.stop();
}
