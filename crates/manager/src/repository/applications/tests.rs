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
fn the_room_in_the_repository_is_bounded() {
    let note = |bytes| FileNote { bytes, hash: "x".to_owned() };
    let of = |bytes| BTreeMap::from([("component.wasm".to_owned(), note(bytes))]);
    let other = Shared { files: of(BYTES_MAX - 7), ..Shared::default() };
    assert_eq!(has_room([&other].into_iter(), &of(7)), Ok(()));
    let refused = has_room([&other].into_iter(), &of(8)).expect_err("one too many");
    assert!(refused.contains("outlast app remove"), "{refused}");
    assert!(has_room([&other].into_iter(), &of(u64::MAX)).is_err());
}
