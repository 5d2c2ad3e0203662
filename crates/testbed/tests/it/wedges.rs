//! SIP dead but heartbeats alive: a container that works off no messages, which only probes can tell.

use std::time::Duration;

use phone::{LineTransport, Phone};
use testbed::node::Node;
use testbed::wait;
use tokio::time::Instant;

use crate::hangs::{
    CALLERS, Callee, GRACE, SILENCE, USERS, everybody_calls, everybody_registers, taken_in,
};
use crate::world;

/// Between two probes.
const INTERVAL: Duration = Duration::from_millis(500);
/// The first probe that goes unanswered leaves within an interval.
const NOTICED: Duration = INTERVAL.saturating_add(SILENCE);
/// What is noticed for as long again ends with a kill; then a start, and a busy machine.
const REVIVED: Duration = Duration::from_secs(10);
/// As much work as is left in the machine beside eight other tests.
const BUSY: Duration = Duration::from_secs(1);

async fn callers(node: &Node) -> Vec<Phone> {
    let mut phones = Vec::new();
    for number in 0..CALLERS {
        let user = format!("caller{number}");
        phones.push(world::registered_openly(node, &user, LineTransport::Udp).await);
    }
    phones
}

/// Lines of the edge's log that tell of a container.
fn told(node: &Node, what: &str, container: &str) -> usize {
    let log = node.process_log("edge1");
    log.lines().filter(|line| line.contains(what) && line.contains(container)).count()
}

fn reported(node: &Node, container: &str) -> usize {
    told(node, "container answers no probes", container)
}

fn ejected(node: &Node, container: &str) -> usize {
    told(node, "reason=Unresponsive", container)
}

/// How long until it is so.
fn time_until(what: &str, begun: Instant, limit: Duration, is_so: impl Fn() -> bool) -> Duration {
    wait::until(what, limit, || if is_so() { Ok(()) } else { Err("not yet") });
    begun.elapsed()
}

/// Until the manager has killed it and another life of it serves.
fn time_until_revived(node: &Node, container: &str, begun: Instant) -> Duration {
    time_until(&format!("another life of {container}"), begun, REVIVED, || {
        let process = node.process(container);
        process.restarts == 1 && process.state == "ready"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_sip_is_dead_is_noticed_by_probes_left_out_killed_and_revived() {
    let node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let callee = Callee::register(edge).await;
    let phones = everybody_calls(callers(&node).await, SILENCE).await;
    let workers = taken_in(&node, "container1");

    node.wedge_sip("container1");
    let begun = Instant::now();
    let limit = NOTICED + GRACE;
    let (phones, (), (noticed, left_out)) = tokio::join!(
        everybody_calls(phones, limit),
        everybody_registers(edge, 0..USERS, limit),
        async {
            tokio::task::block_in_place(|| {
                let noticed = time_until("the probes to be missed", begun, REVIVED, || {
                    reported(&node, "container1") == workers
                });
                let left_out = time_until("container1 to be left out", begun, REVIVED, || {
                    ejected(&node, "container1") == workers
                });
                (noticed, left_out)
            })
        }
    );
    println!("served by the other container after {:?}", begun.elapsed());
    assert!(noticed <= NOTICED + BUSY && left_out <= NOTICED + BUSY, "{noticed:?}, {left_out:?}");
    let revived = time_until_revived(&node, "container1", begun);
    println!("noticed after {noticed:?}, left out after {left_out:?}, revived after {revived:?}");
    assert!(node.log().contains("the probes of the edges go unanswered"), "{}", node.log());
    assert_eq!(node.process("container2").restarts, 0);

    time_until("the new life to be taken in", begun, REVIVED, || {
        taken_in(&node, "container1") == 2 * workers
    });
    everybody_calls(phones, GRACE).await;
    everybody_registers(edge, USERS..2 * USERS, GRACE).await;
    assert_eq!(callee.rang_again(), Vec::new(), "a call rang by a second branch");
    assert_eq!(node.registrations().len(), 2 * USERS + CALLERS + 1, "bindings");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_sip_of_all_containers_is_dead_one_stays_in_and_one_after_the_other_is_revived() {
    let node = world::node_of(&world::open_config(1, ""));
    let edge = node.sip("udp");
    let phones = callers(&node).await;
    let _callee = Callee::register(edge).await;
    let workers = taken_in(&node, "container1");

    node.wedge_sip("container1");
    node.wedge_sip("container2");
    let begun = Instant::now();
    let limit = 2 * REVIVED;
    let ((), phones) = tokio::join!(everybody_registers(edge, 0..USERS, limit), async {
        tokio::task::block_in_place(|| {
            time_until("all probes to be missed", begun, REVIVED, || {
                ["container1", "container2"].iter().all(|name| reported(&node, name) == workers)
            });
            // Half of two, in every worker: never nobody.
            let out = ejected(&node, "container1") + ejected(&node, "container2");
            assert_eq!(out, workers, "left out at {:?}", begun.elapsed());
            let revived =
                ["container1", "container2"].map(|name| time_until_revived(&node, name, begun));
            println!("revived after {revived:?}");
        });
        everybody_calls(phones, GRACE).await
    });
    drop(phones);
    assert_eq!(node.registrations().len(), USERS + CALLERS + 1, "bindings");
    node.stop();
}
