//! Deployments step by step: versions that come, go and are taken back, by example and by any order of events.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use proptest::prelude::*;
use topology::protocol::{APPLICATIONS_MAX, ApplicationReport, RolloutProgress, VERSIONS_MAX};

use super::*;

mod leaving;
mod telling;

/// A node of three containers; files are read and written at once, and containers answer when the test says so.
struct Node {
    deployment: Deployment,
    now: Instant,
    ready: BTreeSet<ProcessName>,
    ticket_last: u64,
    work: Vec<Work>,
    answers: Vec<Answer>,
    /// What a container cannot load, and what each counts.
    unloadable: Option<(ProcessName, String)>,
    counts: BTreeMap<(ProcessName, String), (u64, u64)>,
    /// What containers are asked by HTTP, and who was.
    http: Option<HttpHealth>,
    asked: Vec<ProcessName>,
    /// Versions of which sessions live.
    used: BTreeSet<String>,
    /// And those of which sessions begin, in which container.
    beginning: BTreeSet<(ProcessName, String)>,
    disk_is_full: bool,
}

/// A version that nobody uses stays for so long.
const KEPT: Duration = Duration::from_secs(60);

fn container(number: u8) -> ProcessName {
    ProcessName::new(format!("container{number}"))
}

impl Node {
    fn new() -> Node {
        let mut node = Node {
            deployment: Deployment::new(DeployedTable::default(), 100, KEPT),
            now: Instant::now(),
            ready: (1..=3).map(container).collect(),
            ticket_last: 0,
            work: Vec::new(),
            answers: Vec::new(),
            unloadable: None,
            counts: BTreeMap::new(),
            http: None,
            asked: Vec::new(),
            used: BTreeSet::new(),
            beginning: BTreeSet::new(),
            disk_is_full: false,
        };
        node.containers_are(true);
        node
    }

    /// With version 1.0.0 of `echo`.
    fn deployed() -> Node {
        let mut node = Node::new();
        node.deploy("1.0.0", RolloutPace::AtOnce);
        assert_eq!(node.last(), Answer::Done);
        node
    }

    fn with(&mut self, event: impl FnOnce(&mut Deployment, Instant, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        event(&mut self.deployment, self.now, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Push => {}
                Effect::Ask { container, health } => {
                    assert_eq!(Some(health), self.http);
                    self.asked.push(container);
                }
                Effect::Answer { ticket, answer } => {
                    assert_eq!(ticket, Ticket(self.ticket_last));
                    self.answers.push(answer);
                }
                Effect::Work(work) => {
                    self.work.push(work.clone());
                    let worked = self.outcome(work);
                    let mut effects = Vec::new();
                    self.deployment.worked(worked, self.now, &mut effects);
                    self.carry_out(effects);
                }
            }
        }
    }

    /// The staging directory is named after the version: `v1x0x0`.
    fn outcome(&self, work: Work) -> Worked {
        let version = match work {
            Work::Store { .. } if self.disk_is_full => {
                return Worked::Stored(Err("the disk is full".to_owned()));
            }
            Work::Store { .. } => return Worked::Stored(Ok(())),
            Work::Examine(Place::Kept { version, .. }) => version,
            Work::Examine(Place::Staged(word)) => {
                word.trim_start_matches('v').replace('x', ".").parse().unwrap()
            }
        };
        let health = HealthSettings { watch: Duration::from_secs(2), ..HealthSettings::default() };
        let http = self.http.clone();
        Worked::Examined(Ok(Examined { name: "echo".to_owned(), version, health, http }))
    }

    fn ask(&mut self, request: Request) {
        self.ticket_last += 1;
        let ticket = Ticket(self.ticket_last);
        self.with(|deployment, now, effects| deployment.requested(ticket, request, now, effects));
    }

    /// Asks, and lets the containers answer whatever they are told until nothing happens any more.
    fn deploy(&mut self, version: &str, pace: RolloutPace) {
        self.begin(version, pace);
        self.settle();
    }

    fn begin(&mut self, version: &str, pace: RolloutPace) {
        let staged = format!("v{}", version.replace('.', "x"));
        self.ask(Request::Deploy { staged, pace });
    }

    fn switch(&mut self, version: &str) {
        let (name, version) = ("echo".to_owned(), version.to_owned());
        self.ask(Request::Switch { name, version, pace: RolloutPace::OneByOne });
        self.settle();
    }

    fn remove(&mut self, version: Option<&str>) {
        let version = version.map(str::to_owned);
        self.ask(Request::Remove { name: "echo".to_owned(), version });
        self.all_hear();
    }

    fn retire(&mut self) {
        self.ask(Request::Retire { name: "echo".to_owned() });
        self.all_hear();
    }

    /// If that is waited for.
    fn all_hear(&mut self) {
        if let Some(Operation::Telling { .. }) = self.deployment.operation {
            self.everybody_reports();
        }
    }

    fn settle(&mut self) {
        while self.deployment.operation.is_some() {
            self.everybody_reports();
            if self.deployment.operation.is_some()
                && let Some(due) = self.deployment.next_deadline()
            {
                self.now = self.now.max(due);
                self.with(|deployment, now, effects| deployment.tick(now, effects));
            }
        }
        self.everybody_reports();
    }

    /// Until what they are told does not change any more.
    fn everybody_reports(&mut self) {
        loop {
            let generation = self.deployment.generation;
            for name in self.ready.clone() {
                self.report(&name);
            }
            if self.deployment.generation == generation {
                return;
            }
        }
    }

    fn report(&mut self, name: &ProcessName) {
        let table = self.deployment.table_of(name);
        let one = |entry: ApplicationEntry| {
            let key = (name.clone(), entry.version.clone());
            let (events, failures) = self.counts.get(&key).copied().unwrap_or_default();
            let is_unloadable = self.unloadable.as_ref() == Some(&key);
            let refused = is_unloadable.then(|| "it imports coffee".to_owned());
            let is_beginning = self.beginning.contains(&key);
            let ApplicationEntry { name, version, is_current } = entry;
            let is_unused = !is_current && !self.used.contains(&version);
            ApplicationReport { name, version, refused, events, failures, is_unused, is_beginning }
        };
        let applications = table.applications.into_iter().map(one).collect();
        let report = ApplicationsReport { generation: table.generation, applications };
        let name = name.clone();
        self.with(|deployment, now, effects| deployment.reported(name, report, now, effects));
    }

    fn kill(&mut self, number: u8) {
        self.ready.remove(&container(number));
        self.containers_are(true);
    }

    fn containers_are(&mut self, all_serve: bool) {
        let ready = self.ready.clone();
        self.with(|deployment, now, effects| {
            deployment.containers(&ready, all_serve, now, effects)
        });
    }

    /// Lets everybody report, and time go by as far as something is due; whether anything was.
    fn wait(&mut self) -> bool {
        self.everybody_reports();
        let Some(due) = self.deployment.next_deadline() else { return false };
        self.now = self.now.max(due);
        self.with(|deployment, now, effects| deployment.tick(now, effects));
        self.everybody_reports();
        true
    }

    fn last(&self) -> Answer {
        self.answers.last().cloned().unwrap()
    }

    fn rolled_back(&self) -> String {
        match self.last() {
            Answer::RolledBack { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self) -> String {
        match self.last() {
            Answer::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The versions that a container has, the current one marked.
    fn told(&self, number: u8) -> Vec<String> {
        let table = self.deployment.table_of(&container(number));
        let told = |entry: &ApplicationEntry| {
            format!("{}{}", entry.version, if entry.is_current { "*" } else { "" })
        };
        table.applications.iter().map(told).collect()
    }

    fn progress(&self) -> Vec<RolloutProgress> {
        let step = |answer: &Answer| match answer {
            Answer::Rollout(step) => Some(step.clone()),
            _ => None,
        };
        self.answers.iter().filter_map(step).collect()
    }
}

#[test]
fn the_first_version_is_loaded_by_all_before_any_begins_sessions_with_it() {
    let mut node = Node::new();
    node.begin("1.0.0", RolloutPace::AtOnce);
    assert_eq!(node.told(1), ["1.0.0"]);
    node.report(&container(1));
    node.report(&container(2));
    assert_eq!(node.told(1), ["1.0.0"], "the third has not loaded it");
    node.report(&container(3));
    assert_eq!(node.told(1), ["1.0.0*"]);
    node.settle();
    assert_eq!(node.last(), Answer::Done);
    assert_eq!(node.progress(), [RolloutProgress::Loaded { containers: 3 }]);
    let status = &node.deployment.status()[0];
    assert_eq!((status.name.as_str(), status.current.as_deref()), ("echo", Some("1.0.0")));
    assert_eq!(status.versions[0].loaded_by.len(), 3);
    // A container that starts later is told the same.
    assert_eq!(node.told(9), ["1.0.0*"]);
}

#[test]
fn an_upgrade_switches_one_container_after_the_other_and_keeps_the_old_version() {
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::OneByOne);
    assert_eq!(node.told(1), ["1.0.0*", "1.1.0"], "loaded first");
    node.everybody_reports();
    assert_eq!(node.told(1), ["1.0.0", "1.1.0*"]);
    assert_eq!(node.told(2), ["1.0.0*", "1.1.0"], "while the first is watched");
    let due = node.deployment.next_deadline().unwrap();
    node.now = due - Duration::from_millis(1);
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert_eq!(node.told(2), ["1.0.0*", "1.1.0"]);
    node.settle();
    assert_eq!(node.last(), Answer::Done);
    for number in [1, 2, 3, 9] {
        assert_eq!(node.told(number), ["1.0.0", "1.1.0*"], "{number}");
    }
    let switched = node.progress().into_iter().filter_map(|step| match step {
        RolloutProgress::Switched { container, number, of, watch_ms } => {
            Some((container, number, of, watch_ms))
        }
        RolloutProgress::Loaded { .. }
        | RolloutProgress::Node { .. }
        | RolloutProgress::NodeAway { .. }
        | RolloutProgress::Healthy { .. } => None,
    });
    let expected: Vec<_> = (1..=3).map(|n| (container(n), usize::from(n), 3, 2_000)).collect();
    assert_eq!(switched.collect::<Vec<_>>(), expected);
}

#[test]
fn a_version_that_one_container_cannot_load_is_as_if_it_had_never_been_deployed() {
    let mut node = Node::deployed();
    node.unloadable = Some((container(2), "1.1.0".to_owned()));
    node.deploy("1.1.0", RolloutPace::OneByOne);
    let reason = node.rolled_back();
    assert!(reason.contains("container2") && reason.contains("coffee"), "{reason}");
    assert_eq!(node.told(1), ["1.0.0*"]);
    let removed = Removed { name: "echo".to_owned(), version: Some("1.1.0".parse().unwrap()) };
    let last = node.work.last().unwrap();
    assert!(
        matches!(last, Work::Store { removed: Some(gone), .. } if *gone == removed),
        "{last:?}"
    );
    node.unloadable = None;
    node.deploy("1.1.0", RolloutPace::OneByOne);
    assert_eq!(node.last(), Answer::Done);
}

#[test]
fn a_version_whose_handlers_fail_is_rolled_back_and_stays_loaded_for_its_sessions() {
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::OneByOne);
    node.everybody_reports();
    let key = (container(1), "1.1.0".to_owned());
    node.counts.insert(key.clone(), (3, 1));
    node.report(&container(1));
    assert_eq!(node.told(1), ["1.0.0", "1.1.0*"], "three events say little yet");
    node.counts.insert(key, (20, 2));
    node.report(&container(1));
    let reason = node.rolled_back();
    assert!(reason.contains("container1") && reason.contains("2 of 20"), "{reason}");
    for number in [1, 2, 3] {
        assert_eq!(node.told(number), ["1.0.0*", "1.1.0"], "{number}");
    }
    // Once repaired outside of it, it can come in again without being deployed again.
    node.switch("1.1.0");
    assert_eq!(node.last(), Answer::Done, "what it counted before does not count");
    assert_eq!(node.told(3), ["1.0.0", "1.1.0*"]);
    node.switch("1.0.0");
    assert_eq!(node.told(3), ["1.0.0*", "1.1.0"]);
}

#[test]
fn a_container_that_is_not_well_by_http_undoes_the_upgrade_and_a_slow_one_is_waited_for() {
    let mut node = Node::deployed();
    node.http = Some(HttpHealth { path: "/echo/health".to_owned(), host: None });
    node.begin("1.1.0", RolloutPace::OneByOne);
    node.everybody_reports();
    assert_eq!(node.asked, [container(1)], "whoever begins sessions with it");
    for _ in 0..3 {
        assert!(node.wait(), "the watch is over, and it has not answered");
        assert_eq!(node.told(2), ["1.0.0*", "1.1.0"]);
    }
    let said = |node: &mut Node, number, outcome| {
        node.with(|all, now, effects| all.asked(&container(number), outcome, now, effects));
    };
    said(&mut node, 2, Err("another one".to_owned()));
    said(&mut node, 1, Ok(()));
    node.wait();
    assert_eq!(node.asked, [container(1), container(2)]);
    assert_eq!(node.told(2), ["1.0.0", "1.1.0*"]);
    said(&mut node, 2, Err("GET /echo/health was answered 500".to_owned()));
    let reason = node.rolled_back();
    assert!(reason.contains("container2 is not well: GET /echo/health"), "{reason}");
    assert_eq!(node.told(1), ["1.0.0*", "1.1.0"]);
}

#[test]
fn few_events_are_judged_at_the_end_of_the_watch() {
    for (failures, is_ill) in [(0, false), (1, true)] {
        let mut node = Node::deployed();
        node.begin("1.1.0", RolloutPace::OneByOne);
        node.everybody_reports();
        node.counts.insert((container(1), "1.1.0".to_owned()), (4, failures));
        node.settle();
        assert_eq!(matches!(node.last(), Answer::RolledBack { .. }), is_ill);
    }
}

#[test]
fn a_container_that_dies_while_it_is_watched_undoes_the_upgrade_and_another_does_not() {
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::OneByOne);
    node.everybody_reports();
    node.kill(2);
    assert!(node.deployment.operation.is_some(), "its turn has not come");
    node.settle();
    assert_eq!(node.last(), Answer::Done);
    assert_eq!(node.told(2), ["1.0.0", "1.1.0*"], "when it is back");
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::OneByOne);
    node.everybody_reports();
    node.kill(1);
    node.settle();
    assert!(node.rolled_back().contains("container1 ended"));
    assert_eq!(node.told(2), ["1.0.0*", "1.1.0"]);
}

#[test]
fn a_container_that_says_nothing_undoes_the_upgrade_in_time() {
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::AtOnce);
    node.report(&container(1));
    node.now = node.deployment.next_deadline().unwrap();
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert!(node.rolled_back().contains("container2"));
    // And one that does not say that it has switched.
    node.begin("1.2.0", RolloutPace::AtOnce);
    for number in 1..=3 {
        node.report(&container(number));
    }
    node.now = node.deployment.next_deadline().unwrap();
    node.with(|deployment, now, effects| deployment.tick(now, effects));
    assert!(node.rolled_back().contains("has not begun"));
    assert_eq!(node.told(1), ["1.0.0*", "1.2.0"], "sessions may have begun with it");
}

#[test]
fn one_change_is_under_way_at_a_time() {
    let mut node = Node::deployed();
    node.begin("1.1.0", RolloutPace::OneByOne);
    node.remove(None);
    assert!(node.refused().contains("under way"));
    assert_eq!(node.told(1), ["1.0.0*", "1.1.0"]);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let mut node = Node::deployed();
    node.deploy("1.0.0", RolloutPace::AtOnce);
    assert!(node.refused().contains("outlast app remove echo@1.0.0"), "{}", node.refused());
    node.switch("1.0.0");
    assert!(node.refused().contains("already"));
    node.switch("7.0.0");
    assert!(node.refused().contains("it has 1.0.0"));
    node.switch("seven");
    assert!(node.refused().contains("1.2.0"));
    node.ask(Request::Remove { name: "ecco".to_owned(), version: None });
    assert!(node.refused().contains("deployed are: echo"));
    let staged = "../../etc".to_owned();
    node.ask(Request::Deploy { staged, pace: RolloutPace::AtOnce });
    assert!(node.refused().contains("staging"));
    node.deploy("1.1.0", RolloutPace::AtOnce);
    node.remove(Some("1.1.0"));
    assert!(node.refused().contains("outlast app upgrade"));
    for number in 1..=3 {
        node.kill(number);
    }
    node.deploy("1.2.0", RolloutPace::AtOnce);
    assert!(node.refused().contains("outlast status"));
    assert_eq!(node.told(1), ["1.0.0", "1.1.0*"]);
}

#[test]
fn a_full_disk_changes_nothing() {
    let mut node = Node::deployed();
    node.disk_is_full = true;
    node.deploy("1.1.0", RolloutPace::AtOnce);
    assert!(node.refused().contains("full"));
    node.remove(None);
    assert!(node.refused().contains("full"));
    assert_eq!(node.told(1), ["1.0.0*"]);
    node.disk_is_full = false;
    node.begin("1.1.0", RolloutPace::AtOnce);
    node.disk_is_full = true;
    node.settle();
    assert!(node.rolled_back().contains("full"));
    assert_eq!(node.told(1), ["1.0.0*", "1.1.0"]);
}

#[test]
fn generations_grow_with_whatever_containers_are_told() {
    let mut node = Node::new();
    let mut last = node.deployment.table_of(&container(1));
    node.begin("1.0.0", RolloutPace::AtOnce);
    for _ in 0..4 {
        let table = node.deployment.table_of(&container(1));
        assert!(table.generation > last.generation || table == last);
        last = table;
        node.everybody_reports();
    }
}

#[test]
fn the_table_is_bounded() {
    let mut table = DeployedTable::default();
    for number in 0..APPLICATIONS_MAX {
        table.begin(&format!("app{number}"), "1.0.0".parse().unwrap()).unwrap();
    }
    let refused = table.begin("more", "1.0.0".parse().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("outlast app remove"), "{refused}");
    table.finish("app0");
    for number in 1..VERSIONS_MAX {
        table.begin("app0", format!("1.{number}.0").parse().unwrap()).unwrap();
        table.abandon("app0", Abandoned::Kept);
    }
    let refused = table.begin("app0", "2.0.0".parse().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("app0@1.1.0"), "the oldest that is not current: {refused}");
}

/// What may be done to a table.
#[derive(Debug, Clone)]
enum Change {
    Begin(u8),
    BeginAgain(u8),
    Finish,
    Abandon(bool),
    Remove(Option<u8>),
    Retire,
    Recover,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0u8..12).prop_map(Change::Begin),
        (0u8..12).prop_map(Change::BeginAgain),
        Just(Change::Finish),
        any::<bool>().prop_map(Change::Abandon),
        proptest::option::of(0u8..12).prop_map(Change::Remove),
        Just(Change::Retire),
        Just(Change::Recover),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_to_it_a_table_names_what_it_keeps(changes in proptest::collection::vec(change(), 0..60)) {
        let version = |minor: u8| Version { major: 1, minor: u32::from(minor), patch: 0 };
        let mut table = DeployedTable::default();
        for change in changes {
            let before = table.clone();
            let is_refused = match change {
                Change::Begin(minor) => table.begin("echo", version(minor)).is_err(),
                Change::BeginAgain(minor) => table.begin_again("echo", version(minor)).is_err(),
                Change::Finish => {
                    table.finish("echo");
                    false
                }
                Change::Abandon(kept) => {
                    table.abandon("echo", if kept { Abandoned::Kept } else { Abandoned::Forgotten });
                    false
                }
                Change::Remove(minor) => {
                    let version = minor.map(|minor| version(minor).to_string());
                    table.remove("echo", version.as_deref()).is_err()
                }
                Change::Recover => {
                    table.recover();
                    prop_assert!(table.applications.values().all(|one| one.rolling_to.is_none()));
                    false
                }
                Change::Retire => table.retire("echo").is_err(),
            };
            prop_assert!(!is_refused || table == before, "a refusal changes nothing");
            for deployed in table.applications.values() {
                prop_assert!((1..=VERSIONS_MAX).contains(&deployed.versions.len()));
                for named in [deployed.current, deployed.rolling_to].into_iter().flatten() {
                    prop_assert!(deployed.versions.contains(&named), "{deployed:?}");
                }
            }
            let written = serde_json::to_string(&table).unwrap();
            prop_assert_eq!(serde_json::from_str::<DeployedTable>(&written).unwrap(), table.clone());
        }
    }
}
