//! The application `witness` says all that it does, and phones judge it: its container is killed, or stopped, after every
//! message of a call.
//!
//! Whatever happens to the owner of its session, each note is counted once and told once, its timers fire once each (the one
//! that repeats at most once in a period) and not late, and what is remembered is what the last answered note left.
//!
//! | module | what it is |
//! |---|---|
//! | [`call`] | a phone that calls the witness |
//! | [`judge`] | what a phone says of what it heard |
//!
//! Needs `OUTLAST_APPS` (see [`deployable`](crate::deployable)).

mod call;
mod judge;

use std::time::Duration;

use phone::LineTransport;
use testbed::node::Node;
use testbed::pace::{Pace, Slowness};

use crate::deployable::Deployable;
use crate::matrix::owner::Owner;
use crate::turnstile::{Fault, Running, VICTIM, strike};
use crate::world;
use call::{CallIn, Plot};

/// A timer fires so long after it was due at the latest, when its container died meanwhile.
const LATE_MAX: Duration = Duration::from_secs(1);
/// A container that hangs is noticed after interval × (allowed_miss_count + 1), the default; its timers wait for that.
const SILENCE: Duration = Duration::from_millis(1_500);
const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

#[test]
fn nothing_is_done_twice_or_forgotten_when_the_owner_of_a_call_is_killed() {
    calls_in("witness-kill", Fault::Kill);
}

#[test]
fn nothing_is_done_twice_or_forgotten_when_the_owner_of_a_call_is_stopped() {
    calls_in("witness-stop", Fault::Stop);
}

#[test]
fn the_timer_of_a_call_at_rest_fires_when_its_owner_has_been_killed() {
    const NAME: &str = "witness-rest";
    const CALLS: usize = 30;
    let Some(witness) = Deployable::built("witness") else { return };
    // A while after the calls are at rest, and nothing before.
    let witness = witness.with("once_ms = \"400\"", "once_ms = \"36000\"");
    let node = node_of(witness.with("beat_ms = \"500\"", "beat_ms = \"3600000\""));
    let owner = Owner::of(&node, VICTIM);
    let begin = |number: usize| {
        let id = format!("{NAME}-{number}");
        let call = CallIn::new(&node, BOTH[number % 2], &id, owner.call_id(&id));
        Running::begin(id, 1, |at| call.play(Plot::Rest, at))
    };
    let pace = Pace::watch();
    let lateness = strike(NAME, &node, Fault::Kill, (0..CALLS).map(begin).collect());
    assert_in_time(NAME, Fault::Kill, &lateness, pace.end());
    node.stop();
}

fn node_of(witness: Deployable) -> Node {
    let node = world::node_of(&world::open_config(1, ""));
    witness.deploy(&node);
    node
}

fn calls_in(name: &str, fault: Fault) {
    let Some(witness) = Deployable::built("witness") else { return };
    let node = node_of(witness);
    let rehearsals = BOTH.map(|transport| {
        let id = format!("rehearsal-{}", transport.name().to_lowercase());
        let call = CallIn::new(&node, transport, &id, id.clone());
        (transport, Running::rehearse(id, |at| call.play(Plot::Talk, at)))
    });
    let owner = Owner::of(&node, VICTIM);
    let mut running = Vec::new();
    let pace = Pace::watch();
    for (transport, rehearsal) in rehearsals {
        for message in 1..=rehearsal.count_messages() {
            let id = format!("{name}-{}-{message}", transport.name().to_lowercase());
            let call = CallIn::new(&node, transport, &id, owner.call_id(&id));
            running.push(Running::begin(id, message, |at| call.play(Plot::Talk, at)));
        }
    }
    let lateness = strike(name, &node, fault, running);
    assert_in_time(name, fault, &lateness, pace.end());
    node.stop();
}

/// The longest that a timer was late, of all calls.
fn assert_in_time(name: &str, fault: Fault, lateness: &[Duration], slowness: Slowness) {
    let latest = lateness.iter().max().copied().unwrap_or_default();
    let mut bound = slowness.allows(LATE_MAX);
    if fault == Fault::Stop {
        bound += SILENCE;
    }
    println!("{name}: a timer was {latest:?} late at the most, {bound:?} are allowed");
    assert!(latest <= bound, "{name}: {latest:?} late, {bound:?} are allowed ({slowness:?})");
}
