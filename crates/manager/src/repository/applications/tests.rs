//! What a node does to have what its cluster has.

use super::*;

fn local(versions: &[&str], current: Option<&str>) -> Local {
    let versions = versions.iter().map(|version| (*version).to_owned()).collect();
    Local { versions, current: current.map(str::to_owned), is_coming_in: false }
}

fn files(hash: &str) -> BTreeMap<String, FileNote> {
    let note = FileNote { bytes: 7, hash: hash.to_owned() };
    BTreeMap::from([("component.wasm".to_owned(), note)])
}

fn shared(current: Option<&str>) -> Shared {
    let files = current.map(files).unwrap_or_default();
    Shared { current: current.map(str::to_owned), files, ..Shared::default() }
}

fn fetch() -> Option<Step> {
    Some(Step::Fetch { version: "2.0.0".to_owned() })
}

fn switch() -> Option<Step> {
    Some(Step::Switch { version: "2.0.0".to_owned() })
}

#[test]
fn a_node_comes_to_what_the_cluster_has() {
    let new = shared(Some("2.0.0"));
    for (here, expected) in [
        (None, fetch()),
        (Some(local(&["1.0.0"], Some("1.0.0"))), fetch()),
        (Some(local(&["1.0.0", "2.0.0"], Some("1.0.0"))), switch()),
        (Some(local(&["2.0.0"], None)), switch()),
        (Some(local(&["1.0.0", "2.0.0"], Some("2.0.0"))), None),
    ] {
        assert_eq!(step(&new, here.as_ref(), Kept::Same), expected, "{here:?}");
    }
    let retired = shared(None);
    let here = local(&["1.0.0"], Some("1.0.0"));
    assert_eq!(step(&retired, Some(&here), Kept::Same), Some(Step::Retire));
    assert_eq!(step(&retired, Some(&local(&["1.0.0"], None)), Kept::Same), None);
    assert_eq!(step(&retired, None, Kept::Same), None);
    let removed = Shared { is_removed: true, ..shared(None) };
    assert_eq!(step(&removed, Some(&local(&["1.0.0"], None)), Kept::Same), Some(Step::Remove));
    assert_eq!(step(&removed, None, Kept::Same), None);
}

#[test]
fn a_version_of_the_same_name_with_other_files_makes_room() {
    let new = shared(Some("2.0.0"));
    let kept = local(&["1.0.0", "2.0.0"], Some("1.0.0"));
    let version = Some("2.0.0".to_owned());
    assert_eq!(step(&new, Some(&kept), Kept::Other), Some(Step::Drop { version }));
    let current = local(&["2.0.0"], Some("2.0.0"));
    assert_eq!(step(&new, Some(&current), Kept::Other), Some(Step::Drop { version: None }));
}

#[test]
fn what_comes_in_is_taken_when_asked_and_not_before() {
    let coming = Coming { version: "2.0.0".to_owned(), files: files("2.0.0") };
    let before = Shared { coming: Some(coming.clone()), ..shared(Some("1.0.0")) };
    let here = local(&["1.0.0"], Some("1.0.0"));
    assert_eq!(step(&before, Some(&here), Kept::Same), None);
    assert_eq!(take(&coming, Some(&here), Kept::Same), fetch());
    let there = local(&["1.0.0", "2.0.0"], Some("2.0.0"));
    assert_eq!(take(&coming, Some(&there), Kept::Same), None);
    // It never counts: back.
    let back = Some(Step::Switch { version: "1.0.0".to_owned() });
    assert_eq!(step(&given_up(&before), Some(&there), Kept::Same), back);
    let busy = Local { is_coming_in: true, ..here };
    assert_eq!(step(&shared(Some("2.0.0")), Some(&busy), Kept::Same), None);
}

#[test]
fn a_change_is_told_by_what_is_current() {
    let one = |current| BTreeMap::from([("echo".to_owned(), local(&["1.0.0"], current))]);
    let nothing = BTreeMap::new();
    assert_eq!(changed(&nothing, &one(Some("1.0.0"))), ["echo"]);
    assert_eq!(changed(&one(Some("1.0.0")), &one(None)), ["echo"]);
    assert_eq!(changed(&one(Some("1.0.0")), &nothing), ["echo"]);
    assert_eq!(changed(&one(Some("1.0.0")), &one(Some("1.0.0"))), Vec::<String>::new());
}

#[test]
fn files_go_when_no_version_needs_them() {
    let coming = |hash| Some(Coming { version: "2.0.0".to_owned(), files: files(hash) });
    let before = Shared { coming: coming("2.0.0"), ..shared(Some("1.0.0")) };
    let note = |hash| files(hash).into_values().next().unwrap_or_else(|| unreachable!());
    assert_eq!(unneeded(&before, &given_up(&before)), [note("2.0.0")]);
    assert_eq!(unneeded(&before, &shared(Some("2.0.0"))), [note("1.0.0")]);
    // The same component under another version.
    let same = Shared { coming: coming("1.0.0"), ..shared(Some("1.0.0")) };
    assert_eq!(unneeded(&same, &given_up(&same)), []);
    assert_eq!(unneeded(&shared(Some("1.0.0")), &shared(None)), [note("1.0.0")]);
}

#[test]
fn a_file_is_noted_by_the_version_that_is_current_and_by_the_one_that_comes_in() {
    let coming = Some(Coming { version: "2.0.0".to_owned(), files: files("2.0.0") });
    let all = BTreeMap::from([("echo".to_owned(), Shared { coming, ..shared(Some("1.0.0")) })]);
    assert!(is_noted(&all, "echo", "1.0.0") && is_noted(&all, "echo", "2.0.0"));
    assert!(!is_noted(&all, "echo", "0.9.0") && !is_noted(&all, "menu", "1.0.0"));
}

#[test]
fn the_room_in_the_repository_is_bounded() {
    let note = |bytes| FileNote { bytes, hash: "x".to_owned() };
    let of = |bytes| BTreeMap::from([("component.wasm".to_owned(), note(bytes))]);
    let other = |bytes| Shared { files: of(bytes), ..Shared::default() };
    let all = |sizes: &[(&str, u64)]| -> BTreeMap<String, Shared> {
        sizes.iter().map(|(name, bytes)| ((*name).to_owned(), other(*bytes))).collect()
    };
    let others = all(&[("echo", 3 << 20), ("gone", 0), ("menu", BYTES_MAX - (3 << 20) - 7)]);
    assert_eq!(has_room(&others, &of(7)), Ok(()));
    let refused = has_room(&others, &of(8)).expect_err("one too many");
    // Who has how much, the largest first, and what to do.
    assert!(refused.contains("(menu 509.0 MiB, echo 3.0 MiB)"), "{refused}");
    assert!(refused.contains("outlast app remove NAME"), "{refused}");
    assert!(has_room(&others, &of(u64::MAX)).is_err());
}

#[test]
fn a_record_that_cannot_be_read_keeps_no_other_one_from_being_read() {
    let good = serde_json::to_vec(&shared(Some("1.0.0"))).unwrap_or_default();
    let record = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let (all, unreadable) =
        read([record("bad", b"{"), record("echo", &good), (vec![0xff], good.clone())]);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["echo"]);
    assert!(unreadable.contains_key("bad") && unreadable.len() == 2, "{unreadable:?}");
}

#[test]
fn one_name_more_than_the_cluster_knows_is_refused() {
    let all = |count: usize| (0..count).map(|it| (format!("app{it}"), shared(None))).collect();
    assert_eq!(has_place(&all(APPLICATIONS_MAX - 1), "new"), Ok(()));
    let all = all(APPLICATIONS_MAX);
    assert_eq!(has_place(&all, "app7"), Ok(()));
    assert!(has_place(&all, "new").expect_err("too many").contains("use one of these again"));
}

#[test]
fn what_came_of_a_change_of_unknown_outcome_is_what_the_record_says() {
    let before = Shared {
        coming: Some(Coming { version: "2.0.0".to_owned(), files: files("2.0.0") }),
        ..shared(Some("1.0.0"))
    };
    let wanted = shared(Some("2.0.0"));
    assert_eq!(came(Some(&before), &wanted, Some(&wanted)), Came::Made);
    // It may be on its way.
    assert_eq!(came(Some(&before), &wanted, Some(&before)), Came::NotYet);
    assert_eq!(came(None, &wanted, None), Came::NotYet);
    // Whoever made another one of it expected another version: it cannot be made any more.
    assert_eq!(came(Some(&before), &wanted, Some(&given_up(&before))), Came::Not);
    assert_eq!(came(Some(&before), &wanted, None), Came::Not);
}
