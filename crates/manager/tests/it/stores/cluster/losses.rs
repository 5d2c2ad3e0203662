//! Nodes of five that are lost one after the other; of as many as `OUTLAST_STORES_NODES` says, 8 at most.

use super::*;

/// Stores that the ports of a node are enough for.
const STORES_MAX: u16 = 4;

/// Everything is served by those that live, and each part has a copy on another one of their hosts.
fn wait_until_whole(nodes: &Nodes) {
    let lives = (1..=nodes.nodes.len()).filter(|number| nodes.nodes[number - 1].is_some());
    let stores: Vec<SocketAddr> = lives
        .flat_map(|number| (1..=STORES_MAX).map(move |ordinal| (number, ordinal)))
        .map(|(number, ordinal)| nodes.store(number, ordinal))
        .collect();
    testbed::wait::until("a copy of everything", LIMIT, || {
        let reports = stores.iter().filter_map(|store| Some((*store, nodes.report(*store)?)));
        let serves = |report: &Report| report.replica_of.is_none() && served(report) > 0;
        let primaries: Vec<(SocketAddr, Report)> =
            reports.filter(|(_, report)| serves(report)).collect();
        let slots: usize = primaries.iter().map(|(_, report)| served(report)).sum();
        let alone = primaries.iter().filter(|(store, report)| {
            let is_copy = |(at, is_online): &(SocketAddr, bool)| {
                *is_online && at.ip() != store.ip() && stores.contains(at)
            };
            !report.followers.iter().any(is_copy)
        });
        let alone: Vec<SocketAddr> = alone.map(|(store, _)| *store).collect();
        if slots == 16_384 && alone.is_empty() {
            return Ok(());
        }
        Err(format!("{slots} slots are served; without a copy: {alone:?}\n{}", nodes.shown()))
    });
}

#[test]
fn the_next_that_is_lost_may_be_any_when_everything_has_a_copy_again() {
    if !are_installed() {
        return;
    }
    let count = std::env::var("OUTLAST_STORES_NODES").ok().and_then(|count| count.parse().ok());
    let count: usize = count.unwrap_or(5);
    assert!((5..=8).contains(&count), "OUTLAST_STORES_NODES is 5 to 8");
    let mut nodes = Nodes::found_with(|_, settings| settings.copy_after = Duration::ZERO);
    (2..=count).for_each(|_| nodes.join());
    nodes.wait_until_formed();
    let store = nodes.client(1);
    (0..200).for_each(|number| nodes.put(&store, number));
    // The second is the neighbour, whose copy the first had; the third serves what the first did.
    let mut written = 200;
    let begun = Instant::now();
    // Most remain.
    for lost in [4, 5, 3].into_iter().take((count - 1) / 2) {
        let before = nodes.report(nodes.store(lost, 1)).unwrap();
        drop(nodes.kill_node(lost));
        nodes.wait_for_successor(nodes.store(1, 1), *before.slots[0].start(), &before.id);
        wait_until_whole(&nodes);
        println!("everything has a copy again {:?} after the beginning", begun.elapsed());
        nodes.must_have(&store, 0..written);
        (written..written + 100).for_each(|number| nodes.put(&store, number));
        written += 100;
    }
    drop(store);
    nodes.stop();
}
