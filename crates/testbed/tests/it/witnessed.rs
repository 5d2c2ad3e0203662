//! The application `witness` says all that it does, and phones judge it: its container is killed, or stopped, after every
//! message of a call.
//!
//! Whatever happens to the owner of its session, each note is counted once and told once, its timers fire once each (the one
//! that repeats at most once in a period) and not late, and what is remembered is what the last answered note left.
//!
//! | module | what it is |
//! |---|---|
//! | [`call`] | a phone that calls the witness |
//! | [`converged`] | a browser that has it call a phone |
//! | [`judge`] | what a phone says of what it heard |
//!
//! Needs `OUTLAST_APPS` (see [`deployable`](crate::deployable)).

mod call;
mod converged;
mod judge;

use std::sync::Arc;
use std::time::Duration;

use phone::LineTransport;
use testbed::node::Node;
use testbed::pace::{Pace, Slowness};
use testbed::turn;

use crate::deployable::Deployable;
use crate::matrix::owner::Owner;
use crate::turnstile::{Fault, Running, Turnstile, VICTIM, strike};
use crate::world;
use call::{CallIn, Plot};
use converged::CallOut;

/// A timer fires so long after it was due at the latest, when its container died or was stopped meanwhile.
const LATE_MAX: Duration = Duration::from_secs(1);
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
fn nothing_is_done_twice_or_forgotten_when_the_owner_of_a_browsers_call_is_killed() {
    calls_out("witness-http-kill", Fault::Kill);
}

#[test]
fn nothing_is_done_twice_or_forgotten_when_the_owner_of_a_browsers_call_is_stopped() {
    calls_out("witness-http-stop", Fault::Stop);
}

#[test]
fn the_timer_of_a_call_at_rest_fires_when_its_owner_has_been_killed() {
    const NAME: &str = "witness-rest";
    const CALLS: usize = 30;
    let Some(witness) = Deployable::built("witness") else { return };
    let _turn = turn::take();
    // A while after the calls are at rest, and nothing before.
    let witness = witness.with("once_ms = \"400\"", "once_ms = \"38000\"");
    let node = node_of(witness.with("beat_ms = \"500\"", "beat_ms = \"3600000\""));
    let owner = Owner::of(&node, VICTIM);
    let begin = |number: usize| {
        let id = format!("{NAME}-{number}");
        let call = CallIn::new(&node, BOTH[number % 2], &id, owner.call_id(&id));
        Running::begin(id, 1, |at| call.play(Plot::Rest, at))
    };
    let pace = Pace::watch();
    let lateness = strike(NAME, &node, Fault::Kill, (0..CALLS).map(begin).collect());
    assert_in_time(NAME, &lateness, pace.end());
    node.stop();
}

fn node_of(witness: Deployable) -> Node {
    let http = "[container]\nhttp = \"127.0.0.1:0\"\n";
    let node = world::node_of(&world::open_config(1, http));
    witness.deploy(&node);
    node
}

fn calls_in(name: &str, fault: Fault) {
    let Some(witness) = Deployable::built("witness") else { return };
    let _turn = turn::take();
    let node = node_of(witness);
    let owner = Owner::of(&node, VICTIM);
    after_every_message(name, &node, fault, |transport, id| {
        let call = CallIn::new(&node, transport, id, owner.call_id(id));
        move |at: &Arc<Turnstile>| call.play(Plot::Talk, at)
    });
    node.stop();
}

fn calls_out(name: &str, fault: Fault) {
    let Some(witness) = Deployable::built("witness") else { return };
    let _turn = turn::take();
    let node = node_of(witness);
    after_every_message(name, &node, fault, |transport, id| {
        let call = CallOut::new(&node, transport, id);
        move |at: &Arc<Turnstile>| call.play(at)
    });
    node.stop();
}

/// Plays a call over each transport, as often as it has messages.
fn after_every_message<P>(
    name: &str,
    node: &Node,
    fault: Fault,
    call: impl Fn(LineTransport, &str) -> P,
) where
    P: FnOnce(&Arc<Turnstile>) -> Result<Duration, String> + Send + 'static,
{
    let rehearsals = BOTH.map(|transport| {
        let id = format!("rehearsal-{}", transport.name().to_lowercase());
        let play = call(transport, &id);
        (transport, Running::rehearse(id, play))
    });
    let mut running = Vec::new();
    let pace = Pace::watch();
    for (transport, rehearsal) in rehearsals {
        for message in 1..=rehearsal.count_messages() {
            let id = format!("{name}-{}-{message}", transport.name().to_lowercase());
            let play = call(transport, &id);
            running.push(Running::begin(id, message, play));
        }
    }
    let lateness = strike(name, node, fault, running);
    assert_in_time(name, &lateness, pace.end());
}

/// The longest that a timer was late, of all calls.
fn assert_in_time(name: &str, lateness: &[Duration], slowness: Slowness) {
    let latest = lateness.iter().max().copied().unwrap_or_default();
    let bound = slowness.allows(LATE_MAX);
    println!("{name}: a timer was {latest:?} late at the most, {bound:?} are allowed");
    assert!(latest <= bound, "{name}: {latest:?} late, {bound:?} are allowed ({slowness:?})");
}
