//! How evenly the work is spread, how little of it moves, and that every release chooses alike.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn candidate(name: &str, weight: u16) -> Candidate {
    Candidate { name: ProcessName::new(name), incarnation: Incarnation(1), weight }
}

fn name_of(table: &BucketTable, index: Option<usize>) -> Option<String> {
    index.map(|index| table.candidates()[index].name.to_string())
}

fn winners(table: &BucketTable) -> Vec<[Option<String>; 2]> {
    table
        .buckets
        .iter()
        .map(|bucket| bucket.map(|index| name_of(table, (index != NOBODY).then_some(index.into()))))
        .collect()
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::btree_map("[a-z]{1,8}[0-9]{1,2}", 1_u16..=1000, 1..12)
        .prop_map(|map| map.into_iter().map(|(name, weight)| candidate(&name, weight)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_edge_chooses_alike_whatever_the_order(
        (sorted, shuffled) in candidates().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        call_id in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let (one, other) = (BucketTable::build(&sorted), BucketTable::build(&shuffled));
        prop_assert_eq!(winners(&one), winners(&other));
        prop_assert_eq!(one.candidates(), other.candidates());
        let key = ChoiceKey::CallId(&call_id);
        prop_assert_eq!(
            name_of(&one, one.choose(key).first),
            name_of(&other, other.choose(key).first)
        );
    }

    #[test]
    fn a_death_moves_only_the_buckets_of_the_dead(all in candidates(), at in any::<prop::sample::Index>()) {
        let dead = all[at.index(all.len())].name.to_string();
        let rest: Vec<_> = all.iter().filter(|candidate| candidate.name.as_str() != dead).cloned().collect();
        let (before, after) = (winners(&BucketTable::build(&all)), winners(&BucketTable::build(&rest)));
        for ([first, second], [first_after, second_after]) in before.into_iter().zip(after) {
            if first.as_ref() == Some(&dead) {
                prop_assert_eq!(second, first_after, "the second candidate takes over");
            } else {
                prop_assert_eq!(first, first_after, "a living container keeps its bucket");
                if second.as_ref() != Some(&dead) {
                    prop_assert_eq!(second, second_after);
                }
            }
        }
    }

    #[test]
    fn weights_are_respected(weights in proptest::collection::vec(50_u16..=400, 2..6)) {
        let all: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(number, weight)| candidate(&format!("container{number}"), *weight))
            .collect();
        let table = BucketTable::build(&all);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (index, weight) in weights.iter().enumerate() {
            let expected = BUCKETS as f64 * f64::from(*weight) / total;
            let won = table.buckets.iter().filter(|bucket| usize::from(bucket[0]) == index).count() as f64;
            // Five standard deviations of a binomial: the hash is fixed, but the cases are not.
            let tolerance = 5.0 * (expected * (1.0 - f64::from(*weight) / total)).sqrt();
            prop_assert!((won - expected).abs() <= tolerance, "{won} of {expected} for {weight}");
        }
    }

    #[test]
    fn first_and_second_are_two_containers(all in candidates(), aor in ".{0,30}") {
        let chosen = BucketTable::build(&all).choose(ChoiceKey::AddressOfRecord(aor.as_bytes()));
        prop_assert!(chosen.first.is_some());
        prop_assert_eq!(chosen.second.is_some(), all.len() > 1);
        prop_assert_ne!(chosen.first, chosen.second);
    }

    #[test]
    fn the_integer_logarithm_is_right(value in 1_u64..) {
        let exact = 64.0 - (value as f64).log2();
        let ours = negative_log2(value) as f64 / (1_u64 << FRACTION_BITS) as f64;
        prop_assert!((exact - ours).abs() < 1e-6 || value < 8, "{exact} {ours}");
    }
}

#[test]
fn keys_of_real_call_ids_spread_evenly() {
    let all: Vec<_> = (0..4).map(|n| candidate(&format!("container{n}"), 100)).collect();
    let table = BucketTable::build(&all);
    let mut won = [0_u32; 4];
    for number in 0..40_000 {
        let call_id = format!("{number}-4711@192.0.2.1");
        let chosen = table.choose(ChoiceKey::CallId(call_id.as_bytes()));
        won[chosen.first.unwrap()] += 1;
    }
    for count in won {
        assert!((7_500..12_500).contains(&count), "{won:?}");
    }
}

#[test]
fn a_restarted_container_wins_its_buckets_again() {
    let before = [candidate("container1", 100), candidate("container2", 100)];
    let mut after = before.clone();
    after[0].incarnation = Incarnation(99);
    assert_eq!(winners(&BucketTable::build(&before)), winners(&BucketTable::build(&after)));
}

#[test]
fn the_choice_is_the_same_in_every_release() {
    // Two releases serve side by side during an upgrade: a change of these values needs a new
    // format level, not a new expectation.
    let table = BucketTable::build(&[
        candidate("container1", 100),
        candidate("container2", 100),
        candidate("container3", 50),
    ]);
    let chosen: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .map(|text| table.choose(ChoiceKey::CallId(text.as_bytes())).first.unwrap())
        .collect();
    assert_eq!(chosen, PINNED);
}

const PINNED: [usize; 8] = [2, 0, 1, 0, 2, 0, 1, 2];

#[test]
fn a_kept_hash_chooses_as_its_key_does_and_is_the_same_in_every_release() {
    let all: Vec<_> = (0..4).map(|n| candidate(&format!("container{n}"), 100)).collect();
    let table = BucketTable::build(&all);
    for number in 0..200 {
        let text = format!("{number}@192.0.2.1");
        for key in [
            ChoiceKey::Session(text.as_bytes()),
            ChoiceKey::AddressOfRecord(text.as_bytes()),
            ChoiceKey::CallId(text.as_bytes()),
        ] {
            assert_eq!(table.choose_hash(ChoiceHash(key.hash().0)), table.choose(key));
        }
    }
    let hashes = [
        ChoiceKey::Session(b"s").hash().0,
        ChoiceKey::AddressOfRecord(b"s").hash().0,
        ChoiceKey::CallId(b"s").hash().0,
    ];
    assert_eq!(hashes, PINNED_HASHES);
}

const PINNED_HASHES: [u64; 3] =
    [15_634_014_843_102_811_644, 11_782_046_442_334_950_381, 11_507_918_724_548_098_588];

#[test]
fn nothing_is_chosen_when_nothing_serves() {
    for table in [BucketTable::empty(), BucketTable::build(&[candidate("container1", 0)])] {
        assert!(table.is_empty());
        let chosen = table.choose(ChoiceKey::Session(b"s"));
        assert_eq!((chosen.first, chosen.second), (None, None));
    }
}

#[test]
fn kinds_of_keys_do_not_collide() {
    assert_ne!(ChoiceKey::CallId(b"x").hash(), ChoiceKey::AddressOfRecord(b"x").hash());
    assert_ne!(ChoiceKey::CallId(b"x").hash(), ChoiceKey::Session(b"x").hash());
}
