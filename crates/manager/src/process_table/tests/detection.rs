//! Who hangs, and who only seems to.

use super::super::detection::STARVATION_MAX;
use super::*;

#[test]
fn a_silent_process_is_shown_as_hung_killed_and_started_again() {
    for name in NAMES {
        let mut node = Node::serving();
        node.silent = vec![name];
        node.pass(SILENCE - Duration::from_millis(1));
        assert_eq!(node.state(name), ProcessState::Ready);
        let mut effects = Vec::new();
        node.now += Duration::from_millis(1);
        node.table.tick(node.now, &mut effects);
        let pid = node.entry(name).pid.unwrap();
        let reason = KillReason::Silent { silence: SILENCE, starved: Duration::ZERO };
        let kill = Effect::Kill { name: ProcessName::new(name), pid, reason };
        assert_eq!(effects, [Effect::Publish, kill], "published at once");
        assert_eq!(node.state(name), ProcessState::Hung);
        node.exit(name);
        assert_eq!(node.state(name), ProcessState::Backoff);
        node.pass(RestartPolicy::default().delay_min);
        assert_eq!((node.state(name), node.entry(name).restarts), (ProcessState::Starting, 1));
    }
}

#[test]
fn what_gives_signs_of_life_is_left_alone() {
    let mut node = Node::serving();
    node.pass(Duration::from_secs(3_600));
    assert_eq!(node.take_log(), [""; 0]);
    assert_eq!(node.table.suspects(node.now), [0; 0], "the kernel is not asked about anybody");
}

#[test]
fn who_waits_for_a_processor_may_be_silent_for_longer_but_not_for_ever() {
    for name in NAMES {
        let mut node = Node::serving();
        node.silent = vec![name];
        node.starving = vec![name];
        // Before it is late nobody asks.
        node.pass(SILENCE + STARVATION_MAX - Duration::from_millis(1));
        assert_eq!(node.take_log(), [""; 0]);
        node.pass(Duration::from_millis(1));
        assert_eq!(node.take_log(), [format!("kill {name}")]);
    }
}

#[test]
fn what_was_waited_for_a_processor_before_the_last_sign_of_life_excuses_nothing() {
    let mut node = Node::serving();
    node.silent = vec!["edge1"];
    node.starving = vec!["edge1"];
    node.pass(SILENCE * 2);
    assert_eq!(node.take_log(), [""; 0]);
    node.alive("edge1", 0);
    node.starving.clear();
    node.pass(SILENCE - Duration::from_millis(1));
    assert_eq!(node.take_log(), [""; 0]);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.take_log(), ["kill edge1"]);
}

#[test]
fn probes_may_go_unanswered_for_longer_by_who_waits_for_a_processor() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "container1");
    node.look();
    node.starving = vec!["container1"];
    node.pass(SILENCE + STARVATION_MAX - Duration::from_millis(1));
    assert_eq!(node.take_log(), [""; 0]);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.take_log(), ["kill container1"]);
}

#[test]
fn a_draining_process_that_falls_silent_ends_and_is_not_started_again() {
    let mut node = Node::serving();
    node.request(1, drain, "container1");
    node.silent = vec!["container1"];
    node.pass(SILENCE);
    assert_eq!(node.state("container1"), ProcessState::Hung);
    node.exit("container1");
    assert_eq!(node.state("container1"), ProcessState::Down);
    assert_eq!(node.take_log().last().unwrap(), "1 done");
}

#[test]
fn who_asks_for_a_hung_process_gets_it_without_the_delay() {
    let mut node = Node::serving();
    node.silent = vec!["edge1"];
    node.pass(SILENCE);
    node.silent.clear();
    node.take_log();
    node.request(1, start, "edge1");
    node.exit("edge1");
    assert_eq!(node.state("edge1"), ProcessState::Starting);
    node.ready("edge1");
    assert_eq!(node.take_log(), ["1 done"]);
}

#[test]
fn a_start_may_be_silent_as_long_as_it_may_take() {
    let mut node = Node::new();
    node.silent = NAMES.to_vec();
    node.handle(Event::NodeStarts);
    node.pass(START_LIMIT - Duration::from_millis(1));
    assert_eq!(node.take_log(), [""; 0]);
}

#[test]
fn after_the_manager_was_kept_from_looking_all_clocks_start_anew() {
    let mut node = Node::serving();
    node.request(1, drain, "container2");
    node.pass(INTERVAL);
    node.take_log();
    node.now += Duration::from_secs(60);
    node.look();
    assert_eq!(node.take_log(), [""; 0], "nobody is taken for dead, no drain for overdue");
    // From now on its silence is its own.
    node.silent = vec!["container1"];
    node.pass(SILENCE - Duration::from_millis(1));
    assert_eq!(node.state("container1"), ProcessState::Ready);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.state("container1"), ProcessState::Hung);
    assert_eq!(node.state("edge1"), ProcessState::Ready);
}

#[test]
fn a_look_that_is_a_little_late_excuses_nobody() {
    let mut node = Node::serving();
    node.look();
    for _ in 0..2 {
        node.now += INTERVAL + INTERVAL / 2;
        node.alive("edge1", 0);
        node.alive("container2", 0);
        node.look();
    }
    assert_eq!(node.state("container1"), ProcessState::Hung);
    assert_eq!(node.state("edge1"), ProcessState::Ready);
}

#[test]
fn signs_of_life_of_a_former_life_count_for_nothing() {
    let mut node = Node::serving();
    let former = node.entry("container1").incarnation;
    node.exit("container1");
    node.pass(Duration::from_secs(1));
    node.ready("container1");
    node.silent = vec!["container1"];
    for _ in 0..3 {
        node.pass(INTERVAL);
        let name = ProcessName::new("container1");
        node.handle(Event::Alive { name, incarnation: former, left: 0 });
    }
    assert_eq!(node.state("container1"), ProcessState::Hung);
}

#[test]
fn a_holder_of_the_lock_is_killed_when_another_has_waited_for_long() {
    let mut node = Node::serving();
    for waited in [100, 200] {
        node.lock_held("container2", "container1", waited);
    }
    assert_eq!(node.take_log(), [""; 0]);
    node.lock_held("container2", "container1", 300);
    assert_eq!(node.take_log(), ["kill container1"]);
    assert_eq!(node.state("container1"), ProcessState::Hung);
    node.lock_held("container2", "container1", 400);
    assert_eq!(node.take_log(), [""; 0], "once");
}

#[test]
fn one_report_of_a_long_wait_kills_nobody() {
    let mut node = Node::serving();
    node.lock_held("container2", "container1", 60_000);
    assert_eq!(node.take_log(), [""; 0], "all of us may have been asleep");
    node.lock_held("container2", "container1", 60_100);
    node.lock_held("container2", "container1", 60_200);
    assert_eq!(node.take_log(), ["kill container1"]);
}

#[test]
fn many_short_waits_and_strangers_kill_nobody() {
    let mut node = Node::serving();
    for waited in [200, 300, 150, 250, 600, 700, 1_100] {
        node.lock_held("container2", "container1", waited);
    }
    node.handle(Event::LockHeld {
        reporter: ProcessName::new("container2"),
        holder: 4_711,
        waited: Duration::from_secs(9),
    });
    // Its own name, after its process id came to be used again.
    node.lock_held("container1", "container1", 300);
    node.lock_held("container1", "container1", 400);
    node.lock_held("container1", "container1", 500);
    assert_eq!(node.take_log(), [""; 0]);
}

#[test]
fn a_container_that_answers_no_probes_for_another_silence_is_killed() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "container1");
    node.pass(SILENCE - Duration::from_millis(1));
    node.unresponsive("edge1", "container1");
    assert_eq!(node.take_log(), [""; 0]);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.take_log(), ["kill container1"], "repeating it buys no time");
    assert_eq!(node.state("container1"), ProcessState::Hung);
}

#[test]
fn a_container_that_answers_again_in_time_is_left_alone() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "container1");
    node.pass(SILENCE - Duration::from_millis(1));
    let ProcessEntry { name, incarnation, .. } = node.entry("container1");
    let reporter = ProcessName::new("edge1");
    node.handle(Event::Responsive { reporter, name, incarnation });
    node.pass(SILENCE * 4);
    assert_eq!(node.take_log(), [""; 0]);
}

#[test]
fn a_dead_edge_accuses_nobody() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "container1");
    node.exit("edge1");
    node.pass(SILENCE * 4);
    assert_eq!(node.state("container1"), ProcessState::Ready);
}

#[test]
fn never_are_more_than_half_of_the_containers_killed_for_what_edges_say() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "container1");
    node.unresponsive("edge1", "container2");
    node.pass(SILENCE * 2);
    assert_eq!(node.take_log(), ["kill container1"]);
    node.exit("container1");
    node.pass(SILENCE);
    node.ready("container1");
    assert_eq!(node.state("container2"), ProcessState::Ready, "nobody else was ready");
    node.pass(INTERVAL);
    assert_eq!(node.take_log(), ["kill container2"], "now the other one is");
}

#[test]
fn what_edges_of_other_nodes_say_counts_where_no_edge_of_the_node_serves() {
    let mut node = Node::serving();
    node.unresponsive("edge1@node2", "container1");
    node.pass(SILENCE * 4);
    assert_eq!(node.take_log(), [""; 0], "its own edge has answers");
    node.request(1, |name| Request::Stop { name }, "edge1");
    node.pass(INTERVAL);
    assert_eq!(node.take_log(), ["drain edge1", "kill container1"]);
}

#[test]
fn an_edge_of_another_node_that_serves_no_more_accuses_nobody() {
    let mut node = Node::serving();
    node.request(1, |name| Request::Stop { name }, "edge1");
    node.unresponsive("edge1@node2", "container1");
    let mut view = node.table.view();
    let edge = ProcessEntry { name: ProcessName::new("edge1@node2"), ..node.entry("edge1") };
    view.processes.push(ProcessEntry { state: ProcessState::Ready, ..edge.clone() });
    node.table.keep_witnesses(&view);
    node.pass(SILENCE - INTERVAL);
    view.processes.push(ProcessEntry { state: ProcessState::Down, ..edge });
    view.processes.swap_remove(view.processes.len() - 2);
    node.table.keep_witnesses(&view);
    node.pass(SILENCE * 4);
    assert_eq!(node.state("container1"), ProcessState::Ready);
}

#[test]
fn a_stop_ends_at_its_deadline_also_when_nobody_is_watched_meanwhile() {
    let mut node = Node::serving();
    node.pass(INTERVAL);
    node.handle(Event::NodeStops);
    node.exit("container1");
    node.exit("container2");
    assert_eq!(node.state("edge1"), ProcessState::Stopping);
    let told = node.now;
    node.take_log();
    while node.take_log().is_empty() {
        node.now = node.table.next_deadline().unwrap().max(node.now);
        node.look();
    }
    assert!(node.now - told <= STOP_LIMIT, "killed {:?} after it was told", node.now - told);
}

#[test]
fn an_edge_is_not_judged_by_what_edges_say() {
    let mut node = Node::serving();
    node.unresponsive("edge1", "edge1");
    node.pass(SILENCE * 2);
    assert_eq!(node.take_log(), [""; 0]);
}

#[test]
fn a_container_that_is_late_is_shown_as_silent_until_it_is_heard_of() {
    let mut node = Node::serving();
    let quiet = HEARTBEAT.quiet_max();
    node.silent = vec!["container1"];
    node.pass(quiet - Duration::from_millis(1));
    assert!(!node.entry("container1").is_silent);
    let mut effects = Vec::new();
    node.now += Duration::from_millis(1);
    assert!(node.table.next_deadline().unwrap() <= node.now, "it looks in time");
    node.table.tick(node.now, &mut effects);
    assert_eq!(effects, [Effect::Publish]);
    let shown = node.entry("container1");
    assert!(shown.is_silent && shown.state == ProcessState::Ready, "{shown:?}");
    node.alive("container1", 0);
    assert!(!node.entry("container1").is_silent);
    node.pass(SILENCE);
    assert!(!node.entry("container1").is_silent, "who hangs is not only silent");
    assert_eq!(node.state("container1"), ProcessState::Hung);
}

#[test]
fn containers_that_are_late_all_at_once_are_not_shown_as_silent() {
    let mut node = Node::serving();
    node.silent = vec!["container1", "container2"];
    node.pass(HEARTBEAT.quiet_max());
    assert!(NAMES.iter().all(|name| !node.entry(name).is_silent), "the machine is busy");
    assert!(node.table.next_deadline().unwrap() > node.now, "it does not look again at once");
    node.alive("container2", 0);
    node.silent = vec!["container1"];
    node.pass(Duration::from_millis(1));
    assert!(node.entry("container1").is_silent);
    node.silent = vec!["edge1"];
    node.pass(HEARTBEAT.quiet_max());
    assert!(!node.entry("edge1").is_silent, "an edge keeps no timers");
}
