//! How versions and applications go: by themselves, retired, removed.

use super::*;

#[test]
fn a_version_that_nobody_uses_goes_by_itself_and_one_with_a_session_never() {
    let mut node = Node::deployed();
    node.used.insert("1.0.0".to_owned());
    node.deploy("1.1.0", RolloutPace::AtOnce);
    assert!(!node.wait(), "a session of it lives");
    node.used.clear();
    node.report(&container(1));
    node.report(&container(2));
    assert_eq!(node.deployment.next_deadline(), None, "the third has not said it");
    node.report(&container(3));
    assert_eq!(node.deployment.next_deadline(), Some(node.now + KEPT));
    // A container that drains may have one that nobody else can see, and leaves it to the others.
    node.containers_are(false);
    assert_eq!(node.deployment.next_deadline(), None);
    node.containers_are(true);
    assert_eq!(node.deployment.next_deadline(), None, "they have not looked since");
    node.everybody_reports();
    assert!(node.deployment.next_deadline().is_some());
    node.kill(2);
    assert_eq!(node.deployment.next_deadline(), None, "nor since that one died");
    node.everybody_reports();
    let since = node.now;
    assert_eq!(node.deployment.next_deadline(), Some(since + KEPT));
    node.now = since + KEPT - Duration::from_millis(1);
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert_eq!(node.told(1), ["1.0.0", "1.1.0*"]);
    assert!(node.wait());
    assert_eq!(node.told(1), ["1.1.0*"]);
    let removed = Removed { name: "echo".to_owned(), version: Some("1.0.0".parse().unwrap()) };
    assert!(
        matches!(node.work.last(), Some(Work::Store { removed: Some(gone), .. }) if *gone == removed)
    );
    assert!(!node.wait(), "the current one stays");
    // A version that is brought back is not what was found unused before.
    node.deploy("1.2.0", RolloutPace::AtOnce);
    node.everybody_reports();
    assert!(node.deployment.next_deadline().is_some());
    node.switch("1.1.0");
    node.used.insert("1.2.0".to_owned());
    assert!(!node.wait());
}

#[test]
fn a_retired_application_goes_with_its_last_session() {
    let mut node = Node::deployed();
    node.used.insert("1.0.0".to_owned());
    node.retire();
    assert_eq!((node.last(), node.told(1)), (Answer::Done, vec!["1.0.0".to_owned()]));
    assert!(!node.wait());
    node.switch("1.0.0");
    assert_eq!(node.told(1), ["1.0.0*"], "it may come back");
    node.deploy("1.1.0", RolloutPace::AtOnce);
    node.used.clear();
    node.everybody_reports();
    node.ask(Request::Retire { name: "echo".to_owned() });
    assert_eq!(node.deployment.unused_due(), None, "nobody has heard of that yet");
    assert!(node.wait() && node.wait(), "one after the other");
    assert_eq!(node.deployment.status(), Vec::new());
    node.ask(Request::Retire { name: "echo".to_owned() });
    assert!(node.refused().contains("no application is named echo"), "{}", node.refused());
}

#[test]
fn a_version_with_sessions_stays_whatever_becomes_of_its_coming_in() {
    // Retired while a session lives, and brought in again in vain.
    let mut node = Node::deployed();
    node.used.insert("1.0.0".to_owned());
    node.retire();
    node.unloadable = Some((container(2), "1.0.0".to_owned()));
    node.switch("1.0.0");
    assert!(node.rolled_back().contains("coffee"));
    assert!(!node.wait());
    assert_eq!(node.told(1), ["1.0.0"]);
    node.unloadable = None;
    node.used.clear();
    assert!(node.wait() && node.told(1).is_empty(), "behind its last session");
    // The first one, with which sessions have begun when the table cannot be written.
    let mut node = Node::new();
    node.begin("1.0.0", RolloutPace::AtOnce);
    node.used.insert("1.0.0".to_owned());
    node.disk_is_full = true;
    node.settle();
    assert!(node.rolled_back().contains("full"));
    assert_eq!(node.told(1), ["1.0.0"]);
    // And when the manager dies.
    let mut node = Node::new();
    node.begin("1.0.0", RolloutPace::AtOnce);
    let Some(Work::Store { table, .. }) = node.work.last() else { panic!("{:?}", node.work) };
    let mut table = table.clone();
    Deployment::recover(&mut table);
    node.deployment = Deployment::new(table, 1_000, KEPT);
    node.containers_are(true);
    node.used.insert("1.0.0".to_owned());
    assert!(!node.wait());
    assert_eq!(node.told(1), ["1.0.0"]);
    node.used.clear();
    assert!(node.wait() && node.told(1).is_empty());
}

#[test]
fn who_asks_while_a_version_goes_waits_and_a_full_disk_lets_it_stay() {
    let mut node = Node::deployed();
    node.deploy("1.1.0", RolloutPace::AtOnce);
    node.everybody_reports();
    node.now = node.deployment.next_deadline().unwrap();
    let mut effects = Vec::new();
    node.deployment.tick(node.now, &mut effects);
    node.remove(None);
    assert_eq!(node.answers.last(), Some(&Answer::Done), "of the deployment");
    node.disk_is_full = true;
    node.carry_out(effects);
    assert!(node.refused().contains("full"), "both were tried");
    assert_eq!(node.told(1), ["1.0.0", "1.1.0*"]);
    node.disk_is_full = false;
    assert!(node.wait());
    assert_eq!(node.told(1), ["1.1.0*"]);
}

#[test]
fn versions_and_applications_are_removed_with_their_files() {
    let mut node = Node::deployed();
    node.deploy("1.1.0", RolloutPace::AtOnce);
    node.remove(Some("1.0.0"));
    assert_eq!((node.last(), node.told(1)), (Answer::Done, vec!["1.1.0*".to_owned()]));
    node.remove(Some("1.1.0"));
    assert_eq!((node.last(), node.told(1)), (Answer::Done, Vec::new()));
    let gone = Removed { name: "echo".to_owned(), version: None };
    assert!(
        matches!(node.work.last(), Some(Work::Store { removed: Some(all), .. }) if *all == gone)
    );
    assert_eq!(node.deployment.status(), Vec::new());
}
