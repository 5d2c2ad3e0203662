//! Who answers nothing is left out, but at most half of those that would take new work.

use super::*;

fn unresponsive(name: &str) -> RoutingChange {
    RoutingChange::Unresponsive { name: ProcessName::new(name), incarnation: Incarnation(1) }
}

fn responsive(name: &str) -> RoutingChange {
    RoutingChange::Responsive { name: ProcessName::new(name), incarnation: Incarnation(1) }
}

fn opened(name: &str) -> RoutingChange {
    let (name, incarnation) = (ProcessName::new(name), Incarnation(1));
    RoutingChange::Opened { name, incarnation, state: RouteState::Accepting }
}

const BOTH: [&str; 2] = ["container1", "container2"];
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn who_answers_nothing_is_ejected_when_both_limits_are_passed_and_no_earlier() {
    for (count, silence, is_ejected) in [
        (2, INTERVAL * 100, false),
        (3, INTERVAL * 3 - MOMENT, false),
        (1000, INTERVAL * 3 - MOMENT, false),
        (3, INTERVAL * 3, true),
    ] {
        let mut fixture = Fixture::serving(&BOTH);
        fixture.ask("container1", count);
        let changes = fixture.pass_beating(silence, &BOTH);
        let told =
            [unresponsive("container1"), closed("container1", 1, ClosedReason::Unresponsive)];
        let expected = if is_ejected { &told[..] } else { &[] };
        assert_eq!(changes, expected, "{count} questions, {silence:?}");
        assert_eq!(fixture.accepting().contains(&"container1"), !is_ejected);
    }
}

#[test]
fn probes_alone_eject_within_the_silence_after_the_first_of_them() {
    let mut fixture = Fixture::serving(&BOTH);
    let begun = fixture.now;
    for _ in 0..SETTINGS.unanswered_max() {
        assert_eq!(fixture.accepting(), BOTH);
        fixture.ask("container1", 1);
        fixture.pass_beating(INTERVAL, &BOTH);
    }
    assert_eq!(fixture.accepting(), ["container2"]);
    assert_eq!(fixture.now - begun, SETTINGS.silence_max());
}

#[test]
fn any_answer_begins_the_count_anew() {
    let mut fixture = Fixture::serving(&BOTH);
    for _ in 0..10 {
        fixture.ask("container1", 5);
        assert_eq!(fixture.pass_beating(INTERVAL * 2, &BOTH), []);
        assert_eq!(fixture.answer("container1", 1), []);
    }
    // A former life's answer is none.
    fixture.ask("container1", 5);
    fixture.pass_beating(INTERVAL * 2, &BOTH);
    fixture.answer("container1", 0);
    assert_eq!(fixture.pass_beating(INTERVAL, &BOTH)[0], unresponsive("container1"));
}

#[test]
fn the_next_deadline_is_the_ejection_once_there_are_enough_questions() {
    let mut fixture = Fixture::serving(&BOTH);
    fixture.ask("container1", 2);
    fixture.pass_beating(INTERVAL, &BOTH);
    let asked_first = fixture.now - INTERVAL;
    fixture.heartbeat("container1", 1, Accepting::Accepting);
    fixture.heartbeat("container2", 1, Accepting::Accepting);
    assert_eq!(fixture.table.next_deadline(), Some(fixture.now + SETTINGS.silence_max()));
    fixture.ask("container1", 1);
    assert_eq!(fixture.table.next_deadline(), Some(asked_first + SETTINGS.silence_max()));
}

#[test]
fn an_ejected_container_comes_back_by_an_answer_and_not_by_a_new_link() {
    let mut fixture = Fixture::serving(&BOTH);
    fixture.ask("container1", 3);
    fixture.pass_beating(INTERVAL * 3, &BOTH);
    // What follows an ejection: its link is given up, the next one is answered and beats.
    assert_eq!(fixture.link_down("container1", 1), []);
    assert_eq!(fixture.link_up("container1", 1), []);
    assert_eq!(fixture.heartbeat("container1", 1, Accepting::Accepting), []);
    assert_eq!(fixture.accepting(), ["container2"]);
    assert_eq!(fixture.table.unresponsive().count(), 1);
    assert!(fixture.table.linked(Incarnation(1)).is_some(), "it can be probed and handed on to");
    let answered = fixture.answer("container1", 1);
    assert_eq!(answered, [responsive("container1"), opened("container1")]);
    assert_eq!(fixture.table.unresponsive().count(), 0);
}

#[test]
fn a_new_life_owes_no_answers() {
    let mut fixture = Fixture::serving(&BOTH);
    fixture.ask("container1", 3);
    fixture.pass_beating(INTERVAL * 3, &BOTH);
    fixture.link_down("container1", 1);
    fixture.link_up("container1", 2);
    fixture.heartbeat("container1", 2, Accepting::Accepting);
    assert_eq!(fixture.accepting(), BOTH);
    assert_eq!(fixture.answer("container1", 1), [], "the former life's");
}

#[test]
fn at_most_half_of_those_that_accept_are_ejected_and_all_are_reported() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let names: Vec<String> = (1..=count).map(|number| format!("container{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut fixture = Fixture::serving(&names);
        names.iter().for_each(|name| fixture.ask(name, 3));
        let changes = fixture.pass_beating(INTERVAL * 3, &names);
        let reported = changes.iter().filter(|c| matches!(c, RoutingChange::Unresponsive { .. }));
        assert_eq!(reported.count(), count);
        assert_eq!(fixture.accepting().len(), count - most, "of {count}");
        // Time does not eject more of them.
        fixture.pass_beating(INTERVAL * 100, &names);
        assert_eq!(fixture.accepting().len(), count - most, "of {count}");
    }
}

#[test]
fn the_links_that_an_ejection_ends_eject_nobody_else() {
    for (count, most) in [(2, 1), (3, 1), (4, 2), (6, 3), (7, 3)] {
        let names: Vec<String> = (1..=count).map(|number| format!("container{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut fixture = Fixture::serving(&names);
        names.iter().for_each(|name| fixture.ask(name, 3));
        // As an edge does: a route that closes takes its link with it.
        let mut changes = fixture.pass_beating(INTERVAL * 3, &names);
        let mut ejected = Vec::new();
        while let Some(change) = changes.pop() {
            if let RoutingChange::Closed { name, .. } = change {
                changes.extend(fixture.link_down(name.as_str(), 1));
                ejected.push(name);
            }
        }
        assert_eq!(ejected.len(), most, "of {count}: {ejected:?}");
        assert_eq!(fixture.accepting().len(), count - most, "of {count}");
        // They come back by new links, and stay out until they answer.
        for name in &ejected {
            fixture.link_up(name.as_str(), 1);
            assert_eq!(fixture.accepting().len(), count - most, "of {count}");
            fixture.heartbeat(name.as_str(), 1, Accepting::Accepting);
        }
        assert_eq!(fixture.accepting().len(), count - most, "of {count}");
        // When the manager has ended them they count no more.
        let dead: Vec<(&str, u64, ProcessState)> = names
            .iter()
            .map(|name| match ejected.iter().any(|ejected| ejected.as_str() == *name) {
                true => (*name, 1, ProcessState::Hung),
                false => (*name, 1, ProcessState::Ready),
            })
            .collect();
        fixture.notify(&dead);
        let left = count - most;
        assert_eq!(fixture.accepting().len(), left - left / 2, "of {left} that are left");
    }
}

#[test]
fn an_ejected_container_is_taken_back_when_too_few_are_left_and_goes_again_when_others_come() {
    let mut fixture = Fixture::serving(&BOTH);
    fixture.ask("container1", 3);
    fixture.pass_beating(INTERVAL * 3, &BOTH);
    let death = fixture.link_down("container2", 1);
    assert_eq!(death, [opened("container1"), closed("container2", 1, ClosedReason::LinkDown)]);
    fixture.link_up("container2", 2);
    fixture.heartbeat("container2", 2, Accepting::Accepting);
    assert_eq!(fixture.accepting(), ["container2"]);
}

#[test]
fn a_draining_container_is_ejected_beyond_the_half() {
    let mut fixture = Fixture::serving(&["container1", "container2", "container3"]);
    for name in ["container1", "container2", "container3"] {
        fixture.ask(name, 3);
    }
    for _ in 0..3 {
        fixture.heartbeat("container1", 1, Accepting::Accepting);
        fixture.heartbeat("container2", 1, Accepting::Accepting);
        fixture.heartbeat("container3", 1, Accepting::Draining);
        fixture.pass(INTERVAL);
    }
    assert_eq!(fixture.accepting(), ["container2"]);
    let draining = fixture.table.route(&ProcessName::new("container3")).unwrap();
    assert_eq!(draining.state, RouteState::Closed, "nothing new goes there anyway");
}

#[test]
fn a_peer_is_asked_nothing_by_a_link_and_counts_among_those_that_are_left() {
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.table.add_peer(ProcessName::new("asterisk"), 100);
    fixture.ask("asterisk", 100);
    fixture.ask("container1", 3);
    fixture.pass_beating(INTERVAL * 3, &["container1"]);
    assert_eq!(fixture.accepting(), ["asterisk"]);
}
