//! Calls of a dead container that were claimed and wait to be gone on with.

use state::Prefix;
use topology::{ProcessEntry, ProcessState, ProcessType};

use super::*;
use crate::ownership::index::{OWNED, owner_of};

const CALLS: usize = 40;

fn view(first: ProcessState, heir: u64) -> TopologyView {
    let entry = |(name, life, state): (&str, u64, ProcessState)| ProcessEntry {
        name: ProcessName::new(name),
        process_type: ProcessType::Container,
        incarnation: Incarnation(life),
        pid: None,
        state,
        restarts: 0,
        link: None,
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    };
    TopologyView {
        processes: [("c1", 7, first), ("c2", heir, ProcessState::Ready)].map(entry).to_vec(),
        ..TopologyView::default()
    }
}

/// As c3 sees it: c2 is dead.
fn three_after_two() -> TopologyView {
    let mut seen = view(ProcessState::Ready, 8);
    seen.processes[0].name = ProcessName::new("c3");
    seen.processes[0].incarnation = Incarnation(9);
    seen.processes[1].state = ProcessState::Backoff;
    seen
}

/// The INVITEs that c1 had sent, and c2, which has claimed all of its calls and has not had another turn since.
fn claimed() -> (Vec<Message>, Bench) {
    let mut one = Bench::new();
    let invites = (0..CALLS).map(|number| {
        one.incoming(request("INVITE", &format!("call{number}"), ""));
        one.done(target("sip:bob@198.51.100.8"));
        one.sent().into_iter().find(|(_, message)| message.is_request()).unwrap().1
    });
    let invites = invites.collect();
    let mut two = Bench::of("c2", 8, &one);
    two.shard.topology(&view(ProcessState::Backoff, 8), two.now, &mut two.effects);
    two.serve();
    (invites, two)
}

fn owners(bench: &Bench) -> Vec<u64> {
    let entries = bench.store.scan(&OWNED, &Prefix::All, None, 1_000).now_or_never().unwrap();
    let mut owners: Vec<u64> =
        entries.unwrap().iter().map(|(key, _)| owner_of(key).unwrap().0).collect();
    owners.dedup();
    owners
}

/// How many INVITEs were sent since the last call.
fn gone_on_with(bench: &mut Bench) -> usize {
    bench.words().iter().filter(|word| word.contains("INVITE")).count()
}

fn turn(bench: &mut Bench) -> usize {
    bench.shard.timeout(bench.now, &mut bench.effects);
    bench.serve();
    gone_on_with(bench)
}

#[test]
fn all_are_claimed_before_any_is_gone_on_with_and_then_some_at_each_turn() {
    let (_, mut bench) = claimed();
    assert_eq!(owners(&bench), [8]);
    assert_eq!(gone_on_with(&mut bench), 0);
    assert_eq!(bench.shard.left(), CALLS as u64);
    assert!(!bench.shard.is_quiet(), "a drain waits for them");
    let turns: Vec<usize> = (0..30).map(|_| turn(&mut bench)).filter(|count| *count > 0).collect();
    assert_eq!(turns.iter().sum::<usize>(), CALLS);
    assert!(turns.iter().all(|count| *count <= 16), "{turns:?}");
    assert_eq!(bench.shard.next_to_go_on(), None);
}

#[test]
fn message_of_a_call_that_waits_brings_it_on_at_once() {
    let (invites, mut bench) = claimed();
    bench.incoming(request("INVITE", "call20", ""));
    assert_eq!(
        bench.words(),
        ["1: 100", "1: INVITE to Udp 198.51.100.8:5060", "1: 100", "taken 1"]
    );
    bench.incoming(request("CANCEL", "call30", ""));
    assert_eq!(
        bench.words(),
        ["1: 100", "1: INVITE to Udp 198.51.100.8:5060", "1: 200", "taken 2"]
    );
    bench.incoming(answer(&invites[35], 200));
    let said = ["1: 100", "1: INVITE to Udp 198.51.100.8:5060", "1: 200", "taken 3"];
    assert_eq!(bench.words(), said);
    let rest: usize = (0..30).map(|_| turn(&mut bench)).sum();
    assert_eq!(rest, CALLS - 3);
}

#[test]
fn calls_wait_while_links_have_not_taken_what_was_sent() {
    let (_, mut bench) = claimed();
    bench.shard.hold_back(true, bench.now);
    assert!(bench.shard.next_timeout().is_none_or(|at| at > bench.now), "nothing to be done now");
    assert_eq!(turn(&mut bench), 0);
    bench.incoming(request("INVITE", "call20", ""));
    assert_eq!(gone_on_with(&mut bench), 1);
    bench.shard.hold_back(false, bench.now);
    let rest: usize = (0..30).map(|_| turn(&mut bench)).sum();
    assert_eq!(rest, CALLS - 1);
}

#[test]
fn link_that_takes_nothing_for_long_holds_up_nobody_elses_calls() {
    let (_, mut bench) = claimed();
    for _ in 0..5 {
        bench.shard.hold_back(true, bench.now);
        assert_eq!(turn(&mut bench), 0);
        bench.now += Duration::from_secs(1);
    }
    bench.shard.hold_back(true, bench.now);
    assert_eq!((0..30).map(|_| turn(&mut bench)).sum::<usize>(), CALLS);
}

#[test]
fn who_meets_a_call_that_another_container_took_looks_all_others_up() {
    let (_, mut two) = claimed();
    let mut three = Bench::of("c3", 9, &two);
    three.topology(&three_after_two());
    assert_eq!(gone_on_with(&mut three), CALLS);
    // It has not stood still, and has heard nothing of its death.
    two.incoming(request("CANCEL", "call30", ""));
    assert_eq!(two.words(), ["1: hand on to 9", "taken 1"]);
    assert_eq!((0..30).map(|_| turn(&mut two)).sum::<usize>(), 0);
    assert_eq!(two.shard.left(), 0);
}

#[test]
fn calls_that_another_container_took_during_a_standstill_are_left_to_it() {
    let (_, mut two) = claimed();
    let mut three = Bench::of("c3", 9, &two);
    three.topology(&three_after_two());
    assert_eq!(gone_on_with(&mut three), CALLS);
    // It goes on where it stood, and has heard nothing of its death.
    two.now += Duration::from_secs(5);
    let wall = std::time::SystemTime::now().into();
    two.shard.tell_time(two.now, wall, wall);
    two.incoming(request("CANCEL", "call30", ""));
    assert_eq!(two.words(), ["1: hand on to 9", "taken 1"]);
    assert_eq!((0..30).map(|_| turn(&mut two)).sum::<usize>(), 0);
    assert_eq!(two.shard.left(), 0);

    // Whose are still its own after a standstill, those it goes on with.
    let (_, mut two) = claimed();
    two.now += Duration::from_secs(5);
    two.shard.tell_time(two.now, wall, wall);
    assert_eq!((0..30).map(|_| turn(&mut two)).sum::<usize>(), CALLS);
}
