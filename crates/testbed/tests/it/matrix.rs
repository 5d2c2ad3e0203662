//! The owner of a call is killed, or stopped, after every single message of it.
//!
//! A script is a call between phones: set-up, forking, refusal, CANCEL, re-INVITE, teardown. Run once without
//! a fault it says how many messages the phones see; then one call is begun for each of them, and for each transport,
//! and each stands still when its message has passed. When all stand, the container that owns them all (their Call-IDs are
//! chosen so) gets its fault, once, and they go on. Each must end as its script says: the callee rings once, CSeq and tags
//! are right (the phones watch them), and nobody waits for ever.
//!
//! | module | what it is |
//! |---|---|
//! | [`scripts`] | the calls |
//! | [`cell`] | one call that stands still at one message |
//! | [`owner`] | which container a Call-ID belongs to, as the edges choose it |
//!
//! `OUTLAST_MATRIX=direct-kill:fork:udp:7` runs one cell again. Calls through a WebAssembly application need `OUTLAST_APPS`
//! (see [`deployable`](crate::deployable)).

mod cell;
pub(crate) mod owner;
mod scripts;

use std::time::{Duration, Instant};

use phone::LineTransport;
use rustix::process::{Pid, Signal, kill_process};
use testbed::node::Node;
use testbed::wait;

use crate::deployable::{Deployable, assert_has_worked};
use crate::world;
use cell::{Cell, Verdict};
use scripts::{SCRIPTS, Script};

/// What happens to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP: it neither answers nor dies until somebody notices.
    Stop,
}

/// The container that gets the fault.
const VICTIM: &str = "container1";

const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

/// All calls of a matrix stand at their message within this.
const STANDING_LIMIT: Duration = Duration::from_secs(60);

/// By which application the calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Caller, registrar, callee.
    Direct,
    /// Caller, back-to-back agent, registrar, callee.
    BackToBack,
    /// The same with the agent in WebAssembly, a fresh instance for each event.
    Guest,
    /// With one that has lived through earlier events.
    ReusedGuest,
}

impl Route {
    fn callee_domain(self) -> String {
        match self {
            Route::Direct | Route::Guest | Route::ReusedGuest => world::DOMAIN.to_owned(),
            Route::BackToBack => format!("b2b.{}", world::DOMAIN),
        }
    }

    fn config(self) -> String {
        let applications = match self {
            Route::Direct | Route::Guest | Route::ReusedGuest => "",
            Route::BackToBack => "[container]\napplications = [\"back-to-back\", \"registrar\"]\n",
        };
        world::open_config(1, applications)
    }

    /// A node with the application; None: it is not built.
    fn node(self) -> Option<Node> {
        let agent = || Deployable::built("b2bua");
        let deployed: Option<Deployable> = match self {
            Route::Direct | Route::BackToBack => None,
            Route::Guest => Some(agent()?),
            Route::ReusedGuest => Some(agent()?.with_more("[instances]\nreuse = true\n")),
        };
        let node = world::node_of(&self.config());
        if let Some(application) = deployed {
            application.deploy(&node);
        }
        Some(node)
    }
}

#[test]
fn the_owner_is_killed_after_every_message_of_a_direct_call() {
    run(Route::Direct, Fault::Kill, "direct-kill");
}

#[test]
fn the_owner_is_stopped_after_every_message_of_a_direct_call() {
    run(Route::Direct, Fault::Stop, "direct-stop");
}

#[test]
fn the_owner_is_killed_after_every_message_of_a_back_to_back_call() {
    run(Route::BackToBack, Fault::Kill, "back-to-back-kill");
}

#[test]
fn the_owner_is_stopped_after_every_message_of_a_back_to_back_call() {
    run(Route::BackToBack, Fault::Stop, "back-to-back-stop");
}

#[test]
fn the_owner_is_killed_after_every_message_of_a_call_through_a_guest() {
    run(Route::Guest, Fault::Kill, "guest-kill");
}

#[test]
fn the_owner_is_stopped_after_every_message_of_a_call_through_a_guest() {
    run(Route::Guest, Fault::Stop, "guest-stop");
}

#[test]
fn the_owner_is_killed_after_every_message_of_a_call_through_a_reused_guest() {
    run(Route::ReusedGuest, Fault::Kill, "reused-guest-kill");
}

fn run(route: Route, fault: Fault, name: &str) {
    let only = std::env::var("OUTLAST_MATRIX").ok();
    if only.as_ref().is_some_and(|only| !only.starts_with(&format!("{name}:"))) {
        return;
    }
    let Some(node) = route.node() else { return };
    let owner = owner::Owner::of(&node, VICTIM);
    let plays = SCRIPTS.iter().flat_map(|script| BOTH.map(|transport| (script, transport)));
    let rehearsals: Vec<_> =
        plays.map(|(script, transport)| cell::rehearse(&node, route, script, transport)).collect();
    let mut cells = Vec::new();
    for rehearsal in rehearsals {
        let (script, transport) = (rehearsal.script, rehearsal.transport);
        for message in 1..=rehearsal.count_messages() {
            let id = id(name, &script, transport, message);
            if only.as_ref().is_none_or(|only| *only == id) {
                cells.push(Cell { id, script, transport, stands_at: message });
            }
        }
    }
    assert!(!cells.is_empty(), "no cell is called {only:?}");
    let count = cells.len();
    let began = Instant::now();
    let running: Vec<_> =
        cells.into_iter().map(|cell| cell::begin(cell, &node, route, &owner)).collect();
    wait::until("all calls to stand at their message", STANDING_LIMIT, || {
        let late: Vec<_> = running.iter().filter(|cell| !cell.stands()).map(|c| c.id()).collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    });
    let standing_after = began.elapsed();
    let restarts = node.process(VICTIM).restarts;
    let signal = match fault {
        Fault::Kill => Signal::KILL,
        Fault::Stop => Signal::STOP,
    };
    strike(&node, signal);
    let struck = Instant::now();
    for cell in &running {
        cell.go_on();
    }
    let verdicts: Vec<Verdict> = running.into_iter().map(cell::Running::verdict).collect();
    let struck_calls = verdicts.iter().filter(|verdict| verdict.was_struck()).count();
    println!(
        "{name}: {struck_calls} of {count} calls struck, standing after {standing_after:?}, over {:?} after the fault",
        struck.elapsed()
    );
    wait::until("the victim to be back", Duration::from_secs(20), || {
        let process = node.process(VICTIM);
        if process.state == "ready" && process.restarts > restarts { Ok(()) } else { Err(process) }
    });
    assert!(struck_calls * 20 >= count * 19, "only {struck_calls} of {count} calls were struck");
    let bad: Vec<String> = verdicts.iter().filter_map(Verdict::complaint).collect();
    assert!(bad.is_empty(), "{} of {count} calls failed:\n{}", bad.len(), bad.join("\n"));
    if matches!(route, Route::Guest | Route::ReusedGuest) {
        assert_has_worked(&node, "b2bua");
    }
    node.stop();
}

fn strike(node: &Node, signal: Signal) {
    let pid = node.process(VICTIM).pid.expect("the victim runs");
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("the victim runs");
}

fn id(name: &str, script: &Script, transport: LineTransport, message: usize) -> String {
    format!("{name}:{}:{}:{message}", script.name, transport.name().to_lowercase())
}
