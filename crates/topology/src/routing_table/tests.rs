//! What opens and closes a route, in virtual time; and the three witnesses in random order.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::node::{NodeEntry, NodeNumber, NodeState};
use crate::view::{ProcessEntry, ProcessType, WEIGHT_DEFAULT};

mod ejection;

const INTERVAL: Duration = Duration::from_millis(500);
const SETTINGS: HeartbeatSettings = HeartbeatSettings { interval: INTERVAL, allowed_miss_count: 2 };

/// A table under test with a clock of its own.
struct Fixture {
    table: RoutingTable,
    now: Instant,
    version: u64,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { table: RoutingTable::new(SETTINGS), now: Instant::now(), version: 0 }
    }

    fn serving(names: &[&str]) -> Fixture {
        let mut fixture = Fixture::new();
        for name in names {
            fixture.link_up(name, 1);
            fixture.heartbeat(name, 1, Accepting::Accepting);
        }
        fixture
    }

    fn link_up(&mut self, name: &str, incarnation: u64) -> Vec<RoutingChange> {
        let mut changes = Vec::new();
        let name = ProcessName::new(name);
        self.table.link_up(&name, Incarnation(incarnation), self.now, &mut changes);
        changes
    }

    fn link_down(&mut self, name: &str, incarnation: u64) -> Vec<RoutingChange> {
        let mut changes = Vec::new();
        let name = ProcessName::new(name);
        self.table.link_down(&name, Incarnation(incarnation), self.now, &mut changes);
        changes
    }

    fn heartbeat(
        &mut self,
        name: &str,
        incarnation: u64,
        accepting: Accepting,
    ) -> Vec<RoutingChange> {
        let mut changes = Vec::new();
        let name = ProcessName::new(name);
        self.table.heartbeat(&name, Incarnation(incarnation), accepting, 0, self.now, &mut changes);
        changes
    }

    fn notify(&mut self, processes: &[(&str, u64, ProcessState)]) -> Vec<RoutingChange> {
        self.version += 1;
        let mut changes = Vec::new();
        let view = view(self.version, processes);
        self.table.notification(&view, self.now, &mut changes);
        changes
    }

    /// That many questions.
    fn ask(&mut self, name: &str, count: u32) {
        let place = self.table.place(&ProcessName::new(name)).unwrap();
        for _ in 0..count {
            self.table.asked(place, self.now);
        }
    }

    fn answer(&mut self, name: &str, incarnation: u64) -> Vec<RoutingChange> {
        let mut changes = Vec::new();
        let name = ProcessName::new(name);
        self.table.answered(&name, Incarnation(incarnation), self.now, &mut changes);
        changes
    }

    /// All of them go on sending heartbeats while the time passes.
    fn pass_beating(&mut self, time: Duration, names: &[&str]) -> Vec<RoutingChange> {
        let (end, mut changes) = (self.now + time, Vec::new());
        while self.now < end {
            for name in names {
                changes.extend(self.heartbeat(name, 1, Accepting::Accepting));
            }
            changes.extend(self.pass(INTERVAL.min(end - self.now)));
        }
        changes
    }

    fn pass(&mut self, time: Duration) -> Vec<RoutingChange> {
        self.now += time;
        let mut changes = Vec::new();
        self.table.tick(self.now, &mut changes);
        changes
    }

    fn accepting(&self) -> Vec<&str> {
        self.table.buckets().candidates().iter().map(|candidate| candidate.name.as_str()).collect()
    }

    fn owned(&self, incarnation: u64) -> bool {
        self.table.owner(Incarnation(incarnation)).is_some()
    }
}

fn view(version: u64, processes: &[(&str, u64, ProcessState)]) -> TopologyView {
    TopologyView {
        version,
        node: "node1".to_owned(),
        processes: processes
            .iter()
            .map(|(name, incarnation, state)| ProcessEntry {
                name: ProcessName::new(*name),
                process_type: ProcessType::Container,
                incarnation: Incarnation(*incarnation),
                pid: None,
                state: *state,
                restarts: 0,
                link: None,
                link_address: None,
                addresses: Vec::new(),
                weight: WEIGHT_DEFAULT,
                is_silent: false,
                http: None,
            })
            .collect(),
        ..TopologyView::default()
    }
}

fn closed(name: &str, incarnation: u64, reason: ClosedReason) -> RoutingChange {
    RoutingChange::Closed {
        name: ProcessName::new(name),
        incarnation: Incarnation(incarnation),
        reason,
    }
}

#[test]
fn a_container_serves_from_its_first_heartbeat_on() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.link_up("container1", 1), []);
    assert_eq!(fixture.accepting(), [""; 0]);
    fixture.heartbeat("container1", 1, Accepting::Accepting);
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_silent_container_is_removed_after_the_allowed_misses_and_no_earlier() {
    let mut fixture = Fixture::serving(&["container1", "container2"]);
    let deadline = fixture.table.next_deadline().unwrap();
    assert_eq!(deadline - fixture.now, INTERVAL * 3);
    assert_eq!(fixture.pass(INTERVAL * 2), []);
    fixture.heartbeat("container2", 1, Accepting::Accepting);
    assert_eq!(fixture.pass(INTERVAL - Duration::from_millis(1)), []);
    assert_eq!(
        fixture.pass(Duration::from_millis(1)),
        [closed("container1", 1, ClosedReason::Silent)]
    );
    assert_eq!(fixture.accepting(), ["container2"]);
    let owner = fixture.table.owner(Incarnation(1)).unwrap();
    assert_eq!(fixture.table.routes()[owner].name.as_str(), "container2");
}

#[test]
fn who_was_kept_from_looking_takes_nobody_for_silent() {
    let mut fixture = Fixture::serving(&["container1", "container2", "container3"]);
    fixture.ask("container3", 3);
    fixture.now += Duration::from_secs(60);
    // The first that is heard of again tells nothing against the others.
    assert_eq!(fixture.heartbeat("container1", 1, Accepting::Accepting), []);
    assert_eq!(fixture.pass(Duration::ZERO), []);
    assert_eq!(fixture.accepting().len(), 3);
    let at_last = fixture.pass(INTERVAL * 3);
    assert!(at_last.contains(&closed("container2", 1, ClosedReason::Silent)), "{at_last:?}");
}

#[test]
fn who_stood_still_hears_what_waits_before_it_judges() {
    for stands_still in [true, false] {
        let mut fixture = Fixture::serving(&["container1"]);
        // Silent for too long by now, but not by so much that the lateness tells.
        fixture.now += INTERVAL * 4 - Duration::from_millis(1);
        if stands_still {
            fixture.table.stood_still(fixture.now);
        }
        let closed = fixture.notify(&[("container1", 1, ProcessState::Ready)]);
        assert_eq!(closed.is_empty(), stands_still, "{closed:?}");
    }
}

#[test]
fn a_container_that_pings_again_is_taken_back() {
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.pass(INTERVAL * 3);
    assert_eq!(fixture.accepting(), [""; 0]);
    fixture.heartbeat("container1", 1, Accepting::Accepting);
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_notified_death_removes_at_once() {
    let mut fixture = Fixture::serving(&["container1", "container2"]);
    let dead = ("container1", 1, ProcessState::Backoff);
    let alive = ("container2", 1, ProcessState::Ready);
    assert_eq!(fixture.notify(&[dead, alive]), [closed("container1", 1, ClosedReason::Notified)]);
    assert_eq!(fixture.accepting(), ["container2"]);
    // The dead life's last heartbeat, still in the link, does not bring it back.
    assert_eq!(fixture.heartbeat("container1", 1, Accepting::Accepting), []);
    assert_eq!(fixture.accepting(), ["container2"]);
}

#[test]
fn each_state_of_a_notification_has_its_route() {
    for (state, expected) in [
        (ProcessState::Starting, RouteState::Accepting),
        (ProcessState::Ready, RouteState::Accepting),
        (ProcessState::Draining, RouteState::Draining),
        (ProcessState::Hung, RouteState::Closed),
        (ProcessState::Backoff, RouteState::Closed),
        (ProcessState::Stopping, RouteState::Closed),
        (ProcessState::Down, RouteState::Closed),
    ] {
        let mut fixture = Fixture::serving(&["container1"]);
        fixture.notify(&[("container1", 1, state)]);
        let route = fixture.table.route(&ProcessName::new("container1")).unwrap();
        assert_eq!(route.state, expected, "{state}");
    }
}

#[test]
fn a_draining_container_keeps_what_it_owns_and_gets_nothing_new() {
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.heartbeat("container1", 1, Accepting::Draining);
    assert_eq!(fixture.accepting(), [""; 0]);
    assert!(fixture.owned(1));
}

#[test]
fn a_table_that_nobody_accepts_in_any_more_is_vacant_for_a_moment_unless_somebody_drains() {
    let mut fixture = Fixture::new();
    assert!(!fixture.table.is_vacant_for_a_moment(), "nobody was ever there");
    fixture = Fixture::serving(&["a", "b"]);
    fixture.link_down("a", 1);
    assert!(!fixture.table.is_vacant_for_a_moment());
    fixture.link_down("b", 1);
    assert!(fixture.table.is_vacant_for_a_moment());
    fixture.pass(VACANCY_MAX - Duration::from_millis(1));
    assert!(fixture.table.is_vacant_for_a_moment());
    fixture.pass(Duration::from_millis(1));
    assert!(!fixture.table.is_vacant_for_a_moment(), "something else is wrong");
    fixture.link_up("b", 2);
    fixture.heartbeat("b", 2, Accepting::Accepting);
    fixture.link_down("b", 2);
    assert!(fixture.table.is_vacant_for_a_moment());
    fixture.link_up("b", 3);
    fixture.heartbeat("b", 3, Accepting::Accepting);
    assert!(!fixture.table.is_vacant_for_a_moment());
    fixture.heartbeat("b", 3, Accepting::Draining);
    assert!(!fixture.table.is_vacant_for_a_moment(), "it was told to");
}

#[test]
fn an_old_view_is_ignored() {
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.notify(&[("container1", 1, ProcessState::Ready)]);
    fixture.version -= 1;
    assert_eq!(fixture.notify(&[("container1", 1, ProcessState::Down)]), []);
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_later_life_known_by_its_link_first_outlives_the_late_news_of_the_former_death() {
    let mut fixture = Fixture::serving(&["container1"]);
    assert_eq!(fixture.link_up("container1", 2), [closed("container1", 1, ClosedReason::Replaced)]);
    fixture.heartbeat("container1", 2, Accepting::Accepting);
    assert_eq!(fixture.notify(&[("container1", 1, ProcessState::Backoff)]), []);
    assert!(fixture.owned(2) && !fixture.owned(1));
    assert_eq!(fixture.link_down("container1", 1), [], "the former link");
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_broken_link_closes_and_a_new_one_needs_a_heartbeat() {
    let mut fixture = Fixture::serving(&["container1"]);
    assert_eq!(
        fixture.link_down("container1", 1),
        [closed("container1", 1, ClosedReason::LinkDown)]
    );
    assert_eq!(fixture.link_up("container1", 1), []);
    assert_eq!(fixture.accepting(), [""; 0]);
    fixture.heartbeat("container1", 1, Accepting::Accepting);
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_link_to_a_life_that_the_manager_buried_stays_closed() {
    let mut fixture = Fixture::new();
    fixture.notify(&[("container1", 5, ProcessState::Starting)]);
    fixture.link_up("container1", 4);
    fixture.heartbeat("container1", 4, Accepting::Accepting);
    assert_eq!(fixture.accepting(), [""; 0]);
}

#[test]
fn a_link_to_a_buried_life_is_given_up_as_soon_as_there_is_another_one() {
    let outlived = [RoutingChange::Outlived {
        name: ProcessName::new("container1"),
        incarnation: Incarnation(1),
    }];
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.notify(&[("container1", 1, ProcessState::Backoff)]);
    fixture.link_down("container1", 1);
    fixture.link_up("container1", 1); // the next one does not listen yet
    assert_eq!(fixture.notify(&[("container1", 2, ProcessState::Starting)]), outlived);
    // It may be met once more, and is not stayed with.
    assert_eq!(fixture.link_up("container1", 1), outlived);
    fixture.link_down("container1", 1);
    assert_eq!(fixture.link_up("container1", 2), []);
    fixture.heartbeat("container1", 2, Accepting::Accepting);
    assert_eq!(fixture.accepting(), ["container1"]);
}

#[test]
fn a_container_that_left_the_topology_is_removed() {
    let mut fixture = Fixture::serving(&["container1"]);
    fixture.notify(&[("container1", 1, ProcessState::Ready)]);
    assert_eq!(fixture.notify(&[]), [closed("container1", 1, ClosedReason::Notified)]);
}

#[test]
fn a_peer_needs_no_heartbeat_and_leaves_only_when_its_address_fails() {
    let mut fixture = Fixture::new();
    fixture.table.add_peer(ProcessName::new("asterisk"), 100);
    assert_eq!(fixture.accepting(), ["asterisk"]);
    fixture.pass(INTERVAL * 1000);
    fixture.notify(&[]);
    assert_eq!(fixture.accepting(), ["asterisk"]);
    fixture.link_down("asterisk", 0);
    assert_eq!(fixture.accepting(), [""; 0]);
    assert!(!fixture.table.is_vacant_for_a_moment(), "nobody starts it again");
    fixture.link_up("asterisk", 0);
    assert_eq!(fixture.accepting(), ["asterisk"]);
}

#[test]
fn the_table_is_bounded() {
    let mut fixture = Fixture::new();
    for number in 0..ROUTES_MAX + 5 {
        fixture.link_up(&format!("container{number}"), 1);
    }
    assert_eq!(fixture.table.routes().len(), ROUTES_MAX);
}

#[test]
fn choices_are_places_of_routes() {
    let mut fixture = Fixture::serving(&["container2", "container4"]);
    fixture.link_up("container1", 1);
    fixture.link_up("container3", 1);
    for number in 0..50 {
        let call_id = format!("call{number}");
        let key = ChoiceKey::CallId(call_id.as_bytes());
        let (by_name, by_place) = (fixture.table.buckets().choose(key), fixture.table.choose(key));
        for (name, place) in [(by_name.first, by_place.first), (by_name.second, by_place.second)] {
            let name = &fixture.table.buckets().candidates()[name.unwrap()].name;
            assert_eq!(name, &fixture.table.routes()[place.unwrap()].name);
        }
    }
}

/// The table of an edge on the first or second of two nodes, each with the containers 1, 2 and 10.
fn table_of(own: usize) -> RoutingTable {
    let nodes = ["node1", "node2"];
    let life = |node: usize, container: u64| Incarnation((node as u64) << 52 | container);
    let mut view = view(1, &[]);
    view.node = nodes[own].to_owned();
    view.nodes = (0..2)
        .map(|node| NodeEntry {
            name: nodes[node].to_owned(),
            number: NodeNumber::new(node as u16).unwrap(),
            state: NodeState::Up,
            address: "192.0.2.1:6200".parse().unwrap(),
            last_life: Incarnation::NONE,
            runs_with: crate::RunsWith::default(),
        })
        .collect();
    for node in [own, 1 - own] {
        let name = |container| match node == own {
            true => format!("container{container}"),
            false => format!("container{container}@{}", nodes[node]),
        };
        let ours = [1, 2, 10].map(|container| (name(container), container));
        for (name, container) in ours {
            let life = life(node, container).0;
            view.processes.extend(self::view(1, &[(&name, life, ProcessState::Ready)]).processes);
        }
    }
    let (now, mut table) = (Instant::now(), RoutingTable::new(SETTINGS));
    table.notification(&view, now, &mut Vec::new());
    for process in &view.processes {
        let (name, life) = (&process.name, process.incarnation);
        table.link_up(name, life, now, &mut Vec::new());
        table.heartbeat(name, life, Accepting::Accepting, 0, now, &mut Vec::new());
    }
    table
}

#[test]
fn the_edges_of_all_nodes_choose_alike_whatever_they_call_the_containers() {
    let (one, two) = (table_of(0), table_of(1));
    let mut chosen = std::collections::BTreeSet::new();
    for number in 0..200 {
        let call_id = format!("call{number}");
        let choices = [&one, &two].map(|table| {
            let Candidates { first, second } = table.choose(ChoiceKey::CallId(call_id.as_bytes()));
            [first, second].map(|place| table.routes()[place.unwrap()].incarnation)
        });
        assert_eq!(choices[0], choices[1], "{call_id}");
        chosen.insert(choices[0][0]);
    }
    assert_eq!(chosen.len(), 6, "all containers of both nodes take part");
}

#[derive(Debug, Clone)]
enum Step {
    LinkUp(u8, u64),
    LinkDown(u8, u64),
    Heartbeat(u8, u64, bool),
    Notify(Vec<(u8, u64, u8)>),
    Ask(u8),
    Answer(u8, u64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, life) = (0_u8..3, 1_u64..4);
    let step = prop_oneof![
        (who.clone(), life.clone()).prop_map(|(who, life)| Step::LinkUp(who, life)),
        (who.clone(), life.clone()).prop_map(|(who, life)| Step::LinkDown(who, life)),
        (who.clone(), life.clone(), any::<bool>())
            .prop_map(|(who, life, yes)| Step::Heartbeat(who, life, yes)),
        who.clone().prop_map(Step::Ask),
        (who.clone(), life.clone()).prop_map(|(who, life)| Step::Answer(who, life)),
        proptest::collection::vec((who, life, 0_u8..7), 0..3).prop_map(Step::Notify),
        (0_u64..2000).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..60)
}

const STATES: [ProcessState; 7] = [
    ProcessState::Starting,
    ProcessState::Ready,
    ProcessState::Draining,
    ProcessState::Hung,
    ProcessState::Backoff,
    ProcessState::Stopping,
    ProcessState::Down,
];

proptest! {
    #[test]
    fn changes_tell_exactly_what_the_table_holds(steps in steps()) {
        let mut fixture = Fixture::new();
        let mut told = std::collections::BTreeMap::new();
        let mut unresponsive = std::collections::BTreeMap::new();
        for step in steps {
            let name = |who: u8| format!("container{who}");
            let changes = match step {
                Step::LinkUp(who, life) => fixture.link_up(&name(who), life),
                Step::LinkDown(who, life) => fixture.link_down(&name(who), life),
                Step::Heartbeat(who, life, true) => fixture.heartbeat(&name(who), life, Accepting::Accepting),
                Step::Heartbeat(who, life, false) => fixture.heartbeat(&name(who), life, Accepting::Draining),
                Step::Notify(entries) => {
                    let mut named: Vec<(String, u64, ProcessState)> = entries
                        .into_iter()
                        .map(|(who, life, state)| (name(who), life, STATES[usize::from(state)]))
                        .collect();
                    named.sort_by(|a, b| a.0.cmp(&b.0));
                    named.dedup_by(|a, b| a.0 == b.0);
                    let borrowed: Vec<_> = named.iter().map(|(name, life, state)| (name.as_str(), *life, *state)).collect();
                    fixture.notify(&borrowed)
                }
                Step::Ask(who) => {
                    if fixture.table.place(&ProcessName::new(name(who))).is_some() {
                        fixture.ask(&name(who), 3);
                    }
                    Vec::new()
                }
                Step::Answer(who, life) => fixture.answer(&name(who), life),
                Step::Pass(millis) => fixture.pass(Duration::from_millis(millis)),
            };
            for change in changes {
                match change {
                    RoutingChange::Opened { name, incarnation, state } => { told.insert(name, (incarnation, state)); }
                    RoutingChange::Closed { name, incarnation, .. } => {
                        let open = told.remove(&name);
                        prop_assert_eq!(open.map(|(life, _)| life), Some(incarnation), "closed what was not open");
                    }
                    RoutingChange::Outlived { name, incarnation } => {
                        let route = fixture.table.route(&name);
                        prop_assert!(route.is_some_and(|route| route.incarnation > incarnation), "it is not over");
                    }
                    RoutingChange::Unresponsive { name, incarnation } => {
                        prop_assert!(unresponsive.insert(name, incarnation) != Some(incarnation), "said twice");
                    }
                    RoutingChange::Responsive { name, incarnation } => {
                        prop_assert_eq!(unresponsive.remove(&name), Some(incarnation), "answers that it did not owe");
                    }
                }
            }
            let open: std::collections::BTreeMap<_, _> = fixture.table.routes().iter()
                .filter(|route| route.state != RouteState::Closed)
                .map(|route| (route.name.clone(), (route.incarnation, route.state)))
                .collect();
            prop_assert_eq!(&open, &told);
            let accepting: Vec<_> = open.iter()
                .filter(|(_, (_, state))| *state == RouteState::Accepting)
                .map(|(name, _)| name.as_str())
                .collect();
            prop_assert_eq!(fixture.accepting(), accepting);
            for (place, candidate) in fixture.table.accepting.places.iter().zip(fixture.table.buckets().candidates()) {
                prop_assert_eq!(&fixture.table.routes()[*place].name, &candidate.name);
            }
            let would_accept = |route: &&Route| route.witnessed(&SETTINGS, fixture.now) == RouteState::Accepting;
            let group = fixture.table.routes().iter().filter(would_accept).count();
            let ejected = fixture.table.routes().iter().filter(would_accept).filter(|route| route.is_ejected).count();
            prop_assert!(ejected <= group / 2, "{ejected} of {group} are out");
        }
    }
}
