//! Members that were away: for a moment, for long, or for good.

use super::*;

#[test]
fn copies_of_a_member_that_these_managers_never_heard_are_made_elsewhere() {
    if !are_installed() {
        return;
    }
    let mut nodes = Nodes::found_with(|_, settings| settings.copy_after = Duration::from_secs(2));
    nodes.join();
    nodes.join();
    nodes.wait_until_formed();
    let store = nodes.client(1);
    (0..100).for_each(|number| nodes.put(&store, number));
    drop(store);
    // The third goes for good, and is replaced; then all others lose power.
    let before = nodes.report(nodes.store(3, 1)).unwrap();
    drop(nodes.kill_node(3));
    nodes.wait_for_successor(nodes.store(1, 1), *before.slots[0].start(), &before.id);
    let ended: Vec<Ended> = (1..=2).map(|number| nodes.kill_node(number)).collect();
    for (number, ended) in (1..).zip(ended) {
        nodes.start_again(number, ended);
    }
    for number in [1, 2] {
        let spare = nodes.store(number, 3);
        testbed::wait::until("a further copy", LIMIT, || {
            let report = nodes.report(spare).ok_or("no answer")?;
            if report.is_synced { Ok(()) } else { Err("not in step") }
        });
    }
    let store = nodes.client(1);
    nodes.must_have(&store, 0..100);
    (100..150).for_each(|number| nodes.put(&store, number));
    drop(store);
    nodes.stop();
}
