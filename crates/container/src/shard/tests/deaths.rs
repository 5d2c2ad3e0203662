//! Calls whose container dies, or stands still, after every single thing that it does: three shards over one store, an
//! edge that offers what was not taken to another container, phones over UDP that repeat what was not answered.
//!
//! Whatever happens, each phone rings once, the caller gets one final answer that fits what the callees said, nobody
//! waits for ever, and no record is left.

use state::engine::fake::CommitFault;

use super::*;

mod world;

use world::World;

/// What a phone does when it is called.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// 180 at once.
    rings: bool,
    /// After so many milliseconds this final status; None: it rings on.
    then: Option<(u64, u16)>,
}

const fn says(then: u16) -> Manner {
    Manner { rings: true, then: Some((1_000, then)) }
}

const fn says_at_once(status: u16) -> Manner {
    Manner { rings: false, then: Some((0, status)) }
}

const RINGS_ON: Manner = Manner { rings: true, then: None };
const SILENT: Manner = Manner { rings: false, then: None };

/// Who is called how, and what the caller does.
struct Scenario {
    name: &'static str,
    /// As in the scripts of the proxy context: `a b | c` by groups of falling q, `a>b` flows of one phone.
    targets: &'static str,
    manners: &'static [(&'static str, Manner)],
    /// The caller gives up so many milliseconds after it has called, but not before it heard anything.
    cancels_after: Option<u64>,
    /// The final answers that the caller may get.
    finals: &'static [u16],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "answered",
        targets: "a",
        manners: &[("a", says(200))],
        cancels_after: None,
        finals: &[200],
    },
    Scenario {
        name: "answered at once",
        targets: "a",
        manners: &[("a", says_at_once(200))],
        cancels_after: None,
        finals: &[200],
    },
    Scenario {
        name: "busy",
        targets: "a",
        manners: &[("a", says(486))],
        cancels_after: None,
        finals: &[486],
    },
    Scenario {
        name: "busy at once",
        targets: "a",
        manners: &[("a", says_at_once(486))],
        cancels_after: None,
        finals: &[486],
    },
    Scenario {
        name: "one of two busy",
        targets: "a b",
        manners: &[("a", says_at_once(486)), ("b", says(200))],
        cancels_after: None,
        finals: &[200],
    },
    Scenario {
        name: "answered while another rings",
        targets: "a b",
        manners: &[("a", RINGS_ON), ("b", says(200))],
        cancels_after: None,
        finals: &[200],
    },
    Scenario {
        name: "one after the other",
        targets: "a | b",
        manners: &[("a", says(486)), ("b", says(200))],
        cancels_after: None,
        finals: &[200],
    },
    Scenario {
        name: "declined everywhere",
        targets: "a b | c",
        manners: &[("a", RINGS_ON), ("b", says(603)), ("c", says(200))],
        cancels_after: None,
        finals: &[603],
    },
    Scenario {
        name: "cancelled while it rings",
        targets: "a b",
        manners: &[("a", RINGS_ON), ("b", RINGS_ON)],
        cancels_after: Some(700),
        finals: &[487],
    },
    Scenario {
        name: "cancelled before it rings",
        targets: "a",
        manners: &[("a", SILENT)],
        cancels_after: Some(0),
        finals: &[487],
    },
    Scenario {
        name: "cancelled as it is answered",
        targets: "a",
        manners: &[("a", says(200))],
        cancels_after: Some(1_000),
        finals: &[200, 487],
    },
    Scenario {
        name: "rings for too long",
        targets: "a",
        manners: &[("a", RINGS_ON)],
        cancels_after: None,
        finals: &[487, 408],
    },
    Scenario {
        name: "nobody there, then the next flow",
        targets: "a>b",
        manners: &[("a", SILENT), ("b", says(200))],
        cancels_after: None,
        finals: &[200],
    },
];

/// What befalls the container that got the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It dies; the others hear of it before the edge offers them what it had not taken.
    Dies,
    /// It dies; the others hear of it afterwards.
    DiesUnheard,
    /// It is taken for dead, and goes on so many seconds later.
    StandsStill(u64),
}

fn play_all(fate: Fate, transport: Transport) {
    for scenario in SCENARIOS {
        let mut at = 1;
        loop {
            let mut world = World::new(scenario, Some((fate, at)));
            world.transport = transport;
            world.play();
            let what = format!("{}, {fate:?} after {at}, {transport:?}", scenario.name);
            world.check(scenario, &what);
            if world.fate.is_some() {
                break; // there was no so many-th thing to do
            }
            at += 1;
        }
        assert!(at > 16, "{}: only {at} things to do", scenario.name);
    }
}

#[test]
fn calls_come_to_their_end_when_nothing_happens() {
    for scenario in SCENARIOS {
        let mut world = World::new(scenario, None);
        world.play();
        world.check(scenario, scenario.name);
    }
}

#[test]
fn calls_outlast_the_death_of_their_container_after_everything_it_does() {
    for transport in [Transport::Udp, Transport::Tcp] {
        play_all(Fate::Dies, transport);
    }
}

#[test]
fn calls_outlast_a_death_that_the_others_hear_of_late() {
    for transport in [Transport::Udp, Transport::Tcp] {
        play_all(Fate::DiesUnheard, transport);
    }
}

#[test]
fn container_that_was_taken_for_dead_and_comes_back_does_no_harm() {
    // Shorter and longer than phones and records remember a call that failed.
    for (seconds, transport) in [(7, Transport::Udp), (1, Transport::Tcp), (20, Transport::Tcp)] {
        play_all(Fate::StandsStill(seconds), transport);
    }
}

#[test]
fn calls_outlast_commits_of_which_nobody_knows() {
    for scenario in SCENARIOS {
        for at in 0..6 {
            for fault in 0..3 {
                let mut world = World::new(scenario, None);
                for _ in 0..at {
                    // Conflicts that are gone on the next read stand in for commits that nothing happens to.
                    if fault == 2 {
                        world.store.inject_commit_fault(CommitFault::AppliedButUnknown);
                    }
                }
                world.store.inject_commit_fault(match fault {
                    0 => CommitFault::AppliedButUnknown,
                    1 => CommitFault::LostAndUnknown,
                    _ => CommitFault::Conflicts,
                });
                world.play();
                world.check(scenario, &format!("{}, fault {fault} after {at}", scenario.name));
            }
        }
    }
}
