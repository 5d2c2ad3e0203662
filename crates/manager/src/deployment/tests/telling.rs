//! Whoever is told that it is done finds it so in every container; and none of the sessions of what is held begins.

use super::*;

fn hold(node: &mut Node) {
    node.ask(Request::Hold { name: "echo".to_owned() });
}

fn release(node: &mut Node) {
    node.ask(Request::Release { name: "echo".to_owned() });
}

/// An application that is held.
fn held() -> Node {
    let mut node = Node::deployed();
    hold(&mut node);
    node.everybody_reports();
    assert_eq!((node.last(), node.told(1)), (Answer::Done, vec!["1.0.0".to_owned()]));
    node.answers.clear();
    node
}

#[test]
fn it_is_done_when_the_last_container_has_heard_of_it() {
    for request in [
        Request::Remove { name: "echo".to_owned(), version: None },
        Request::Retire { name: "echo".to_owned() },
    ] {
        let mut node = Node::deployed();
        node.answers.clear();
        node.ask(request);
        node.report(&container(1));
        node.report(&container(2));
        assert_eq!(node.answers, [], "the third still begins sessions");
        node.report(&container(3));
        assert_eq!(node.answers, [Answer::Done]);
    }
}

#[test]
fn a_container_that_hears_nothing_is_not_waited_for_without_end() {
    let mut node = Node::deployed();
    node.answers.clear();
    node.ask(Request::Remove { name: "echo".to_owned(), version: None });
    node.report(&container(1));
    node.kill(2);
    assert_eq!(node.answers, [], "the third has not said it");
    node.now = node.deployment.next_deadline().unwrap();
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert_eq!(node.answers, [Answer::Done]);
}

#[test]
fn an_application_is_held_when_nothing_of_it_begins_any_more() {
    let mut node = Node::deployed();
    node.answers.clear();
    node.beginning.insert((container(3), "1.0.0".to_owned()));
    hold(&mut node);
    node.everybody_reports();
    assert_eq!(node.told(1), ["1.0.0"]);
    assert_eq!(node.answers, [], "one that began is not stored yet");
    node.beginning.clear();
    node.report(&container(3));
    assert_eq!(node.answers, [Answer::Done]);
    release(&mut node);
    assert_eq!(node.told(1), ["1.0.0*"]);
    node.everybody_reports();
    assert_eq!((node.last(), node.deployment.next_deadline()), (Answer::Done, None));
}

#[test]
fn what_is_held_is_removed_without_a_session_in_between() {
    let mut node = held();
    node.ask(Request::Remove { name: "echo".to_owned(), version: None });
    assert_eq!(node.told(1), [""; 0]);
    node.everybody_reports();
    assert_eq!(node.answers, [Answer::Done]);
}

#[test]
fn what_is_held_and_not_removed_is_as_it_was() {
    let check = |what: &str, fails: &dyn Fn(&mut Node)| {
        let mut node = held();
        let generation = node.deployment.generation;
        fails(&mut node);
        assert_eq!(node.told(1), ["1.0.0*"], "{what}");
        assert!(node.deployment.generation > generation, "{what}: they hear of it");
        node.settle();
        assert_eq!(node.deployment.next_deadline(), None, "{what}");
    };
    check("nobody says more", &|node| {
        node.now = node.deployment.next_deadline().unwrap();
        node.with(|deployment, now, effects| deployment.tick(now, effects));
    });
    check("the disk is full", &|node| {
        node.disk_is_full = true;
        node.remove(None);
        assert!(node.refused().contains("full"));
    });
    check("there is no such version", &|node| {
        node.remove(Some("7.0.0"));
        assert!(node.refused().contains("no version 7.0.0"));
    });
}

#[test]
fn an_application_that_is_not_held_in_time_is_as_it_was() {
    let mut node = Node::deployed();
    hold(&mut node);
    node.report(&container(1));
    node.now = node.deployment.next_deadline().unwrap();
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert!(node.refused().contains("outlast status"), "{}", node.refused());
    assert_eq!(node.told(1), ["1.0.0*"]);
}

#[test]
fn who_asks_for_something_else_while_it_is_held_waits() {
    let mut node = held();
    node.begin("1.1.0", RolloutPace::AtOnce);
    assert_eq!(node.answers, []);
    node.now = node.deployment.next_deadline().unwrap();
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    node.settle();
    assert_eq!((node.last(), node.told(1)), (Answer::Done, vec!["1.0.0".into(), "1.1.0*".into()]));
}
