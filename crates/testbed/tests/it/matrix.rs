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
//! | [`cell`] | one call of them, which stands still at one message ([`turnstile`](crate::turnstile)) |
//! | [`owner`] | which container a Call-ID belongs to, as the edges choose it |
//!
//! `OUTLAST_MATRIX=direct-kill:fork:udp:7` runs one cell again. Calls through a WebAssembly application need `OUTLAST_APPS`
//! (see [`deployable`](crate::deployable)).

mod cell;
pub(crate) mod owner;
mod scripts;

use phone::LineTransport;
use testbed::node::Node;

use crate::deployable::{Deployable, assert_has_worked};
use crate::turnstile::{Fault, VICTIM, strike};
use crate::world;
use cell::Play;
use owner::Owner;
use scripts::SCRIPTS;

const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

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
    let plays = SCRIPTS
        .iter()
        .flat_map(|script| BOTH.map(|transport| Play { script: *script, transport, route }));
    let rehearsals: Vec<_> = plays.map(|play| (play, play.rehearse(&node))).collect();
    let mut cells = Vec::new();
    for (play, rehearsal) in rehearsals {
        for message in 1..=rehearsal.count_messages() {
            let id = format!("{name}:{}:{message}", play.name());
            if only.as_ref().is_none_or(|only| *only == id) {
                cells.push((play, id, message));
            }
        }
    }
    assert!(!cells.is_empty(), "no cell is called {only:?}");
    let owner = Owner::of(&node, VICTIM);
    let begin = |(play, id, message): (Play, String, usize)| {
        play.begin(&node, id, message, |name| owner.call_id(name))
    };
    strike(name, &node, fault, cells.into_iter().map(begin).collect());
    if matches!(route, Route::Guest | Route::ReusedGuest) {
        assert_has_worked(&node, "b2bua");
    }
    node.stop();
}
