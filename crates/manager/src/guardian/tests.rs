//! The guardian's decisions, with a clock that the test turns.

use super::*;

struct World {
    guardian: Guardian,
    now: Instant,
    /// What a look finds.
    found: Found,
    /// Of each interval the manager waits so long for a processor.
    starved: Duration,
}

impl World {
    fn begins(found: Found) -> (World, Vec<Effect>) {
        let now = Instant::now();
        let mut world = World { guardian: Guardian::new(now), now, found, starved: Duration::ZERO };
        let mut effects = Vec::new();
        world.tick(&mut effects);
        world.found = Found::Nobody;
        (world, effects)
    }

    /// With a manager that beats, and a node that serves.
    fn serving() -> World {
        let (mut world, effects) = World::begins(Found::Nobody);
        assert_eq!(effects, [Effect::Spawn]);
        assert_eq!(world.handle(Event::Hello), []);
        assert_eq!(world.handle(Event::Beat), []);
        assert_eq!(world.handle(Event::Serving), [Effect::ShowReady]);
        world
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.guardian.handle(event, self.now, &mut effects);
        effects
    }

    fn gone(&mut self) -> Vec<Effect> {
        self.handle(Event::Gone { how: "was killed".to_owned() })
    }

    /// Time passes and the guardian looks at the clock as often as it should.
    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + BEAT_INTERVAL);
            self.tick(&mut effects);
        }
        effects
    }

    /// Looks at the clock, and for whom the guardian wants to know of.
    fn tick(&mut self, effects: &mut Vec<Effect>) {
        self.guardian.tick(self.now, self.starved, effects);
        if effects.last() == Some(&Effect::Look) {
            effects.pop();
            effects.append(&mut self.handle(Event::Looked { found: self.found.clone() }));
        }
    }
}

const KILLED: Effect = Effect::Kill { reason: "it hangs" };

#[test]
fn a_manager_that_waits_for_a_processor_is_not_taken_for_hung_by_that() {
    let mut world = World::serving();
    world.starved = BEAT_INTERVAL * 3 / 4;
    assert_eq!(world.pass(SILENCE_MAX * 4), [], "it had a quarter of the time");
    assert_eq!(world.pass(SILENCE_MAX), [KILLED]);
    // What it waited before a beat does not count any more.
    let mut world = World::serving();
    world.starved = BEAT_INTERVAL;
    assert_eq!(world.pass(STARVATION_MAX), []);
    assert_eq!(world.handle(Event::Beat), []);
    world.starved = Duration::ZERO;
    assert_eq!(world.pass(SILENCE_MAX), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [KILLED]);
    // Several threads may wait at a time, and patience has an end.
    let mut world = World::serving();
    world.starved = BEAT_INTERVAL * 5;
    assert_eq!(world.pass(STARVATION_MAX + SILENCE_MAX), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [KILLED]);
}

#[test]
fn a_manager_that_dies_is_followed_by_another_at_once() {
    let mut world = World::serving();
    assert_eq!(world.gone(), []);
    let next = world.guardian.next_start().map(|at| at - world.now);
    assert!(next.is_some_and(|delay| delay <= Duration::from_millis(10)), "{next:?}");
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
    assert_eq!(world.handle(Event::Hello), []);
    assert_eq!(world.handle(Event::Serving), [], "the ready line is printed once");
}

#[test]
fn a_manager_that_stops_beating_is_killed_and_followed_by_another_when_it_has_gone() {
    let mut world = World::serving();
    assert_eq!(world.pass(SILENCE_MAX), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [KILLED]);
    assert_eq!(world.pass(SILENCE_MAX * 3), [], "two managers at a time would fight for the node");
    assert_eq!(world.gone(), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
}

#[test]
fn a_manager_is_not_watched_before_it_beats() {
    let (mut world, _) = World::begins(Found::Nobody);
    assert_eq!(world.pass(SILENCE_MAX * 10), []);
    world.handle(Event::Hello);
    assert_eq!(world.pass(SILENCE_MAX * 1_000), [], "it verifies");
    world.handle(Event::Beat);
    assert_eq!(world.pass(SILENCE_MAX * 2), [KILLED]);
}

#[test]
fn a_guardian_that_slept_itself_blames_nobody() {
    let mut world = World::serving();
    world.now += Duration::from_secs(3600);
    let mut effects = Vec::new();
    world.guardian.tick(world.now, Duration::ZERO, &mut effects);
    assert_eq!(effects, []);
    assert_eq!(world.pass(SILENCE_MAX), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [KILLED], "but now it is silent");
}

#[test]
fn a_manager_on_its_last_steps_is_not_watched_and_its_end_is_the_nodes() {
    let mut world = World::serving();
    assert_eq!(world.handle(Event::Signal), [Effect::TellStop]);
    assert_eq!(world.handle(Event::Ending), []);
    assert_eq!(world.pass(SILENCE_MAX * 10), []);
    world.handle(Event::Ended);
    assert_eq!(world.gone(), [Effect::End(Outcome::Stopped)]);
}

#[test]
fn a_manager_that_dies_while_it_stops_the_node_is_followed_by_one_that_goes_on_with_it() {
    let mut world = World::serving();
    world.handle(Event::Signal);
    assert_eq!(world.gone(), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
    assert!(world.guardian.is_stopping(), "its welcome says so");
    world.handle(Event::Hello);
    world.handle(Event::Beat);
    assert_eq!(world.handle(Event::Signal), [Effect::TellStopNow]);
    world.handle(Event::Ended);
    assert_eq!(world.gone(), [Effect::End(Outcome::Stopped)]);
}

#[test]
fn the_second_signal_does_not_wait_for_a_manager_that_is_not_watched() {
    let (mut world, _) = World::begins(Found::Nobody);
    world.handle(Event::Hello);
    assert_eq!(world.handle(Event::Signal), [Effect::TellStop]);
    assert_eq!(world.handle(Event::Signal), [Effect::Kill { reason: "told to stop at once" }]);
    world.gone();
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
    assert_eq!(world.handle(Event::Hello), [Effect::TellStopNow]);
}

#[test]
fn a_manager_that_was_started_and_says_nothing_is_followed_by_another() {
    let (mut world, _) = World::begins(Found::Nobody);
    assert_eq!(world.pass(HELLO_LIMIT - BEAT_INTERVAL), []);
    let effects = world.pass(BEAT_INTERVAL);
    assert!(matches!(effects[..], [Effect::Kill { .. }]), "{effects:?}");
    world.gone();
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
    // Nor does a second signal wait for it.
    assert_eq!(world.handle(Event::Signal), []);
    assert_eq!(world.handle(Event::Signal), [Effect::Kill { reason: "told to stop at once" }]);
}

#[test]
fn what_failed_is_told_when_the_manager_has_gone() {
    let (mut world, _) = World::begins(Found::Nobody);
    world.handle(Event::Hello);
    let reason = "port taken".to_owned();
    assert_eq!(world.handle(Event::Failed { reason: reason.clone() }), []);
    assert_eq!(world.gone(), [Effect::End(Outcome::Failed { reason })]);
}

#[test]
fn a_node_whose_managers_die_before_it_serves_does_not_come_up() {
    let (mut world, _) = World::begins(Found::Nobody);
    for _ in 1..DEATHS_BEFORE_SERVING_MAX {
        assert_eq!(world.gone(), []);
        assert_eq!(world.pass(Duration::from_secs(1)), [Effect::Spawn]);
    }
    let ended = world.gone();
    assert!(
        matches!(&ended[..], [Effect::End(Outcome::Failed { reason })] if reason.contains("manager.log")),
        "{ended:?}"
    );
}

#[test]
fn a_node_that_served_is_never_given_up() {
    let mut world = World::serving();
    for _ in 0..DEATHS_BEFORE_SERVING_MAX * 10 {
        assert_eq!(world.gone(), []);
        assert_eq!(world.pass(Duration::from_secs(1)), [Effect::Spawn]);
    }
}

#[test]
fn another_guardians_manager_is_waited_for_and_watched_at_once() {
    let (mut world, effects) = World::begins(Found::Manager);
    assert_eq!(effects, []);
    assert_eq!(world.pass(RETURN_LIMIT - BEAT_INTERVAL), []);
    assert_eq!(world.handle(Event::Hello), []);
    assert_eq!(world.handle(Event::Serving), [Effect::ShowReady]);
    assert_eq!(world.pass(SILENCE_MAX * 2), [KILLED]);
}

#[test]
fn a_stop_that_another_guardian_began_is_followed_by_a_start() {
    let (mut world, _) = World::begins(Found::Manager);
    world.handle(Event::Hello);
    world.handle(Event::Ending);
    world.handle(Event::Ended);
    assert_eq!(world.gone(), []);
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
}

#[test]
fn another_guardians_manager_that_says_nothing_is_killed() {
    let (mut world, _) = World::begins(Found::Manager);
    let effects = world.pass(RETURN_LIMIT);
    assert!(matches!(effects[..], [Effect::Kill { .. }]), "{effects:?}");
    world.gone();
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
}

#[test]
fn a_manager_that_took_the_lock_since_the_last_look_is_found_by_the_next() {
    let (mut world, _) = World::begins(Found::Nobody);
    world.handle(Event::Hello);
    // The one that was started cannot have the lock, and ends.
    assert_eq!(world.gone(), []);
    world.found = Found::Manager;
    let effects = world.pass(BEAT_INTERVAL + RETURN_LIMIT);
    assert!(matches!(effects[..], [Effect::Kill { .. }]), "{effects:?}");
    world.gone();
    world.found = Found::Nobody;
    assert_eq!(world.pass(BEAT_INTERVAL), [Effect::Spawn]);
}

#[test]
fn a_stranger_with_the_lock_is_told_and_waited_for_only_by_a_node_that_serves() {
    let who = "a stranger".to_owned();
    let (_, effects) = World::begins(Found::Stranger { who: who.clone() });
    assert_eq!(effects, [Effect::End(Outcome::Failed { reason: who.clone() })]);
    let mut world = World::serving();
    world.gone();
    world.found = Found::Stranger { who: who.clone() };
    assert_eq!(world.pass(Duration::from_secs(60)), []);
    world.found = Found::Nobody;
    assert_eq!(world.pass(Duration::from_secs(1)), [Effect::Spawn], "when it has let go");
    world.gone();
    world.found = Found::Stranger { who: who.clone() };
    world.handle(Event::Signal);
    let effects = world.pass(Duration::from_secs(1));
    assert_eq!(effects, [Effect::End(Outcome::Failed { reason: who })], "nobody can stop it");
}
