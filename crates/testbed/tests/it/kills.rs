//! Random kills of containers and edges under 10,000 bindings: none is lost.

use std::collections::HashSet;

use testbed::crowd::{self, Outcome};

use crate::world::{self, DOMAIN};

const USERS: usize = 10_000;
const KILLS: usize = 20;

/// A small deterministic sequence (xorshift), so that a failing run can be run again by its seed.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_none_of_ten_thousand_bindings() {
    let seed = std::env::var("OUTLAST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(u64::from(std::process::id()) | 1);
    println!("seed {seed}; again: OUTLAST_SEED={seed} cargo test -p testbed twenty_kills");
    let mut sequence = Sequence(seed);
    let node = world::node_of(&world::open_config(2, ""));
    let edges = [node.sip("udp"), world::edge_address(&node, "edge2", "udp")];
    let names = ["edge1", "edge2", "container1", "container2"];

    let loaded = crowd::register(edges[0], DOMAIN, 0..USERS, 1, 3_600).await;
    assert_eq!((loaded.registered, loaded.refused, loaded.unanswered), (USERS, 0, 0), "{loaded:?}");

    let mut newcomers = Outcome::default();
    for kill in 0..KILLS {
        let victim = names[sequence.next(names.len())];
        // While the victim dies and comes back, others register through both edges.
        let first = USERS + kill * 100;
        let (one, two, ()) = tokio::join!(
            crowd::register(edges[0], DOMAIN, first..first + 50, 1, 3_600),
            crowd::register(edges[1], DOMAIN, first + 50..first + 100, 1, 3_600),
            async { tokio::task::block_in_place(|| node.kill_and_wait_ready(victim)) }
        );
        for outcome in [one, two] {
            assert_eq!(
                (outcome.registered, outcome.refused, outcome.unanswered),
                (50, 0, 0),
                "kill {kill} of {victim}: {outcome:?}"
            );
            newcomers.registered += outcome.registered;
            newcomers.retransmissions += outcome.retransmissions;
        }
    }

    let there: HashSet<String> = node
        .registrations()
        .iter()
        .filter_map(|binding| binding["aor"].as_str().map(str::to_owned))
        .collect();
    let expected = USERS + newcomers.registered;
    let lost = (0..expected).filter(|user| !there.contains(&format!("sip:user{user}@{DOMAIN}")));
    assert_eq!(lost.collect::<Vec<_>>(), Vec::<usize>::new(), "bindings lost");
    println!("{expected} bindings, {KILLS} kills, none lost; {newcomers:?}");
}
