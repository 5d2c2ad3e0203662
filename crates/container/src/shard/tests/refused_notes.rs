//! The store refuses what has happened to a call.

use state::engine::fake::CommitFault;

use super::*;
use crate::setup::SetUp;

fn refuse(bench: &Bench, times: usize) {
    for _ in 0..times {
        let primary = ([10, 0, 0, 1], 6220).into();
        let error = StoreError::BelowQuota { primary, copies: 1, found: 0 };
        bench.store.inject_commit_fault(CommitFault::Fails(error));
    }
}

/// A call that rang is answered, and that is refused so often.
fn answered(times: usize) -> Bench {
    let mut bench = Bench::new();
    let (_, invite) = bench.proxied("sip:bob@198.51.100.8");
    bench.incoming(answer(&invite, 180));
    bench.words();
    refuse(&bench, times);
    bench.incoming(answer(&invite, 200));
    bench
}

/// Whether the record of the one call says that it is answered.
fn is_answered(bench: &Bench) -> bool {
    let ids: Vec<_> = bench.shard.set_ups.iter().map(|(id, _)| *id).collect();
    let record = bench.store.read(&SetUp::key(ids[0])).now_or_never().unwrap().unwrap().unwrap();
    SetUp::decode(&record.value).unwrap().is_answered()
}

#[test]
fn answer_waits_until_there_are_copies_enough_again() {
    let mut bench = answered(5);
    assert!(
        bench.words().is_empty(),
        "it leaves when it is stored, and keeps its place in the link until then"
    );
    bench.pass(Duration::from_millis(300));
    assert!(bench.words().is_empty());
    bench.pass(Duration::from_millis(400));
    assert_eq!(bench.words(), ["1: 200", "taken 3"]);
    assert!(is_answered(&bench));
}

#[test]
fn answer_leaves_after_a_while_all_the_same_and_its_record_catches_up() {
    let mut bench = answered(10);
    bench.pass(Duration::from_millis(2_500));
    assert!(bench.words().is_empty());
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.words(), ["1: 200", "taken 3"]);
    bench.pass(Duration::from_millis(1_500));
    assert!(!is_answered(&bench), "two more tries are refused, a second apart");
    bench.pass(Duration::from_millis(1_500));
    assert!(is_answered(&bench));
    let commits = bench.store.commits();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.store.commits(), commits, "then there is nothing to catch up with");
}

#[test]
fn record_of_a_call_that_is_over_is_not_caught_up_with() {
    let mut bench = answered(10_000);
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.shard.set_ups.len(), bench.shard.tries.next()), (0, None));
}
