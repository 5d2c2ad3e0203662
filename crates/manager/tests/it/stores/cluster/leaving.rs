//! Nodes whose stores are emptied before they leave, and who stay after all.

use super::*;

/// Asks whether a node may leave until it may.
fn wait_until_it_may_leave(nodes: &Nodes, number: usize) {
    testbed::wait::until("the node to have nothing left", LIMIT, || {
        match nodes.node(number).request(Request::StoresLeave) {
            Answer::Done => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_node_may_leave_when_others_have_what_it_had_and_has_its_share_again_if_it_stays() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::three();
    let store = nodes.client(1);
    (0..100).for_each(|number| nodes.put(&store, number));
    let first = nodes.node(1).request(Request::StoresLeave);
    assert!(matches!(first, Answer::StoresHold(_)), "{first:?}");
    wait_until_it_may_leave(&nodes, 1);
    let left = nodes.report(nodes.store(1, 1)).unwrap();
    assert_eq!(served(&left), 0);
    nodes.must_have(&store, 0..100);
    // Nobody asks any more.
    nodes.wait_until_formed();
    (100..150).for_each(|number| nodes.put(&store, number));

    wait_until_it_may_leave(&nodes, 1);
    let leave = Request::ClusterRemove { node: "node1".to_owned(), is_leaving: true };
    assert_eq!(nodes.node(1).request(leave), Answer::Done);
    drop(nodes.kill_node(1));
    nodes.wait_until_shared_by(&[2, 3], 1);
    nodes.must_have(&store, 0..150);
    (150..200).for_each(|number| nodes.put(&store, number));
    drop(store);
    nodes.stop();
}

#[test]
fn nobody_leaves_while_nobody_is_there_who_could_have_what_he_has() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::found();
    let refused = |nodes: &Nodes, number: usize, why: &str| {
        testbed::wait::until("a refusal", LIMIT, || {
            match nodes.node(number).request(Request::StoresLeave) {
                Answer::Refused { reason } if reason.contains(why) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    nodes.wait_until_formed();
    refused(&nodes, 1, "no other node has stores");
    nodes.join();
    nodes.wait_until_formed();
    let ended = nodes.kill_node(2);
    nodes.wait_for_lost(1, "node2");
    refused(&nodes, 1, "are lost; bring them up");
    nodes.start_again(2, ended);
    nodes.wait_until_formed();
    drop(nodes.kill_node(1));
    nodes.wait_for_lost(2, "node1");
    refused(&nodes, 2, "most members of the cluster are lost");
    nodes.stop();
}
