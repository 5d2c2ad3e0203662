//! Clusters of other sizes than three, and what each of them survives.

use config::{Stores, Vote};

use super::*;

/// Everything that was acknowledged is there, and more is written.
fn goes_on(nodes: &Nodes, store: &ClusterStore, numbers: std::ops::Range<usize>) {
    nodes.must_have(store, 0..numbers.start);
    numbers.for_each(|number| nodes.put(store, number));
}

/// Until the first two nodes share everything, with copies, and the third has a vote.
fn wait_for_the_third(nodes: &Nodes) {
    nodes.wait_until_shared_by(&[1, 2], 1);
    testbed::wait::until("the third to have a vote", LIMIT, || {
        match nodes.report(nodes.store(3, 1)) {
            Some(report) if served(&report) == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn two_hosts_and_a_third_that_only_votes_survive_the_loss_of_any_one() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::found_with(|number, settings| {
        settings.copy_after = Duration::from_secs(3600);
        if number == 3 {
            settings.stores = Stores::Vote(Vote::Vote);
        }
    });
    nodes.join();
    nodes.join();
    wait_for_the_third(&nodes);
    let mut written = 0;
    for lost in [1, 2, 3] {
        let store = nodes.client(1);
        goes_on(&nodes, &store, written..written + 50);
        drop(store);
        let ended = nodes.kill_node(lost);
        // With one big host left nobody has a copy of what that writes now.
        let store = nodes.client(usize::from(lost == 3));
        goes_on(&nodes, &store, written + 50..written + 100);
        written += 100;
        drop(store);
        nodes.start_again(lost, ended);
        wait_for_the_third(&nodes);
    }
    let store = nodes.client(1);
    nodes.must_have(&store, 0..written);
    drop(store);
    nodes.stop();
}

#[test]
fn a_copy_on_its_primarys_host_counts_where_that_is_allowed_and_outlives_a_process() {
    if !are_installed() {
        return;
    }
    let nodes = Nodes::found_with(|_, settings| settings.allow_colocation = true);
    let (first, second) = (nodes.store(1, 1), nodes.store(1, 2));
    testbed::wait::until("a copy on the same host", LIMIT, || match nodes.report(second) {
        Some(report) if report.is_synced => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let before = nodes.report(first).unwrap();
    let quota = WriteQuota { own_host_counts: true, ..Options::default().quota };
    let store = nodes.client_with(quota);
    (0..100).for_each(|number| nodes.put(&store, number));
    nodes.node(1).kill("store1");
    nodes.wait_for_successor(second, 0, &before.id);
    goes_on(&nodes, &store, 100..150);
    nodes.must_have(&store, 0..150);
    drop(store);
    nodes.stop();
}
