//! Random kills of every kind of process under calls all the time and 10,000 bindings: none of either is lost.
//!
//! Every second call goes through a back-to-back agent: the native one or, in a test of its own, one in WebAssembly. There
//! are 50 calls a second, but 25 with guests in a debug build, which runs their host calls at a tenth of their speed.
//! `OUTLAST_KILLS=1000` does more kills, and `OUTLAST_WRITE_DOCS=1` writes what came of it to
//! `docs/reports/kills.md` or `docs/reports/kills-webassembly.md`. `OUTLAST_SEED` runs a sequence again, `OUTLAST_VICTIMS=edge` (or `container`, `manager`,
//! `guardian`) hits that kind only.

pub(crate) mod calls;
pub(crate) mod report;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testbed::crowd;
use testbed::node::Node;

use crate::deployable::{assert_has_worked, back_to_back};
use crate::faults::{Hits, Sequence, Victim, lost_bindings, number, table};
use crate::world::{self, DOMAIN};
use calls::{Callers, Calls, Way};
use report::Report;

const USERS: usize = 10_000;
const KILLS: usize = 20;
/// Fewer for those: the two tests together must not take long.
const KILLS_WITH_GUESTS: usize = 8;
/// So long a process serves before it is hit again. One that dies sooner (`[restart] stable_after`, 2 s) is taken for a
/// process that cannot live, and stays away for up to ten seconds; a phone that knows no other edge cannot wait for
/// several of these.
const SERVES_FOR: Duration = Duration::from_millis(2_500);

/// By which agent every second call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// The native application.
    Native,
    /// The sample in WebAssembly.
    Guest,
}

impl Agent {
    /// A node with it; None: it is not built.
    fn node(self) -> Option<Node> {
        match self {
            Agent::Native => {
                let applications =
                    "[container]\napplications = [\"back-to-back\", \"registrar\"]\n";
                Some(world::node_of(&world::open_config(2, applications)))
            }
            Agent::Guest => {
                let agent = back_to_back("{ contains = [\"request.uri.user\", \"agent\"] }")?;
                let node = world::node_of(&world::open_config(2, ""));
                agent.deploy(&node);
                Some(node)
            }
        }
    }

    /// Pairs of phones that call each other, each every two seconds.
    fn pairs(self) -> usize {
        match self {
            Agent::Guest if cfg!(debug_assertions) => 50,
            Agent::Native | Agent::Guest => 100,
        }
    }

    /// Where a user is called through it.
    fn domain(self) -> String {
        match self {
            Agent::Native => format!("b2b.{DOMAIN}"),
            Agent::Guest => DOMAIN.to_owned(),
        }
    }
}

const VICTIMS: [Victim; 6] = [
    Victim::Process("edge1"),
    Victim::Process("edge2"),
    Victim::Process("container1"),
    Victim::Process("container2"),
    Victim::Manager,
    Victim::Guardian,
];

/// Those of the kind that is asked for, else all.
fn victims() -> Vec<Victim> {
    let kind = std::env::var("OUTLAST_VICTIMS").ok();
    let is_asked_for = |victim: &Victim| kind.as_ref().is_none_or(|kind| victim.kind() == kind);
    let victims: Vec<Victim> = VICTIMS.into_iter().filter(is_asked_for).collect();
    assert!(!victims.is_empty(), "OUTLAST_VICTIMS names no kind of process");
    victims
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_lose_no_call_and_no_binding() {
    lose_nothing(Agent::Native, KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_lose_no_call_through_a_guest() {
    lose_nothing(Agent::Guest, KILLS_WITH_GUESTS).await;
}

async fn lose_nothing(agent: Agent, kills: usize) {
    let seed = number("OUTLAST_SEED").unwrap_or(u64::from(std::process::id()) | 1);
    let kills = number("OUTLAST_KILLS").map_or(kills, |kills| kills as usize);
    println!("seed {seed}; again: OUTLAST_SEED={seed} cargo test -p testbed random_kills");
    // Now, not when it is over: others may go on meanwhile.
    let commit = report::commit();
    let (mut sequence, victims) = (Sequence(seed), victims());
    let Some(mut node) = agent.node() else { return };
    let edges = [node.sip("udp"), world::edge_address(&node, "edge2", "udp")];
    let loaded = crowd::register(edges[0], DOMAIN, 0..USERS, 1, 36_000).await;
    assert_eq!((loaded.registered, loaded.refused, loaded.unanswered), (USERS, 0, 0), "{loaded:?}");

    let began = Instant::now();
    let ways = edges.map(|edge| Way { caller: edge, callee: vec![edge] });
    let calls = Calls::begin(&ways, &agent.domain(), agent.pairs(), Callers::Plain).await;
    let mut hits = Hits::default();
    let mut next_hits = vec![began; victims.len()];
    for _ in 0..kills {
        let choice = sequence.next(victims.len());
        let victim = victims[choice];
        tokio::time::sleep_until(next_hits[choice].into()).await;
        // A guardian that hangs is the operator's to end: it has nobody above it.
        let (signal, way) = match sequence.next(3) {
            0 if victim != Victim::Guardian => (Signal::STOP, "stopped"),
            _ => (Signal::KILL, "killed"),
        };
        let struck = Instant::now();
        tokio::task::block_in_place(|| victim.strike(&mut node, signal));
        next_hits[choice] = Instant::now() + SERVES_FOR;
        hits.entry((victim.kind(), way)).or_default().push(struck.elapsed());
    }
    let tally = calls.end().await;
    let took = began.elapsed();
    if agent == Agent::Guest {
        assert_has_worked(&node, "b2bua");
    }
    let lost = lost_bindings(&node, 0..USERS);
    let bindings_lost = lost.len();
    let report = Report { agent, commit, seed, took, hits, tally: &tally, bindings_lost };
    println!("{kills} kills in {took:?}\n{}", table(&report.hits));
    if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
        report.write();
    }
    assert_eq!(lost, Vec::<usize>::new(), "bindings lost");
    assert!(tally.losses.is_empty(), "{tally}; lost:\n{}", tally.losses.join("\n"));
    node.stop();
}
