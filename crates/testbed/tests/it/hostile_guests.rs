//! An application that loops for ever, takes all memory, floods its container and names what is not its own, called again
//! and again: it fails its own calls, and nobody else's.
//!
//! Needs `OUTLAST_APPS` (see [`deployable`](crate::deployable)).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phone::{LineTransport, Phone};
use serde_json::Value;
use testbed::node::Node;
use testbed::pace::Pace;
use testbed::wait;
use tokio::task::JoinSet;

use crate::deployable::{Deployable, assert_has_worked, back_to_back};
use crate::kills::calls::{Callers, Calls, Way};
use crate::world::{self, DOMAIN};

/// What is done to the node, each by a phone that calls again as soon as it was refused; and the words by which its operator
/// finds the cause in the log: the function in the backtrace, or what the application was told.
const ATTACKS: [(&str, &str); 7] = [
    ("loop", "loop_for_ever"),
    ("memory", "take_all_memory"),
    ("recursion", "recurse"),
    ("effects", "an event has at most"),
    ("attribute", "names and values of a session have at most 65536"),
    ("forged", "waits for an answer"),
    ("panic", "as it was asked to"),
];
/// Pairs of phones that call meanwhile: 20 calls a second.
const PAIRS: usize = 40;
/// How long calls are made without the attacks, and with them.
const LASTS: Duration = Duration::from_secs(5);
/// Between two registrations of a phone whose answers are timed.
const PAUSE: Duration = Duration::from_millis(20);
/// What an attack may add to the time until a phone rings or is registered, in the slowest of a hundred cases. A guest that
/// loops gives way every 2 ms, to each of those that loop beside it.
const DELAY_MAX: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_guest_harms_nobody_elses_calls() {
    let Some(hostile) = Deployable::built("hostile") else { return };
    let agent = back_to_back("{ contains = [\"request.uri.user\", \"agent\"] }").expect("built");
    let node = world::node_of(&world::open_config(1, ""));
    agent.deploy(&node);
    hostile.deploy(&node);

    let way = Way { caller: node.sip("udp"), callee: vec![node.sip("udp")] };
    let calls = Calls::begin(&[way], DOMAIN, PAIRS, Callers::Plain).await;
    let phone = world::registered_openly(&node, "registers", LineTransport::Udp).await;
    let alone = registered(&phone).await;
    let began = Instant::now();
    let pace = Pace::watch();
    let attackers = Attackers::begin(&node).await;
    let beside = registered(&phone).await;
    let tally = calls.end().await;
    let slowness = pace.end();
    let refused = attackers.end().await;
    assert_has_worked(&node, "b2bua");
    assert!(tally.losses.is_empty(), "{tally}: {:?}", tally.losses);
    let (before, after): (Vec<_>, Vec<_>) = tally.rang.iter().partition(|(at, _)| *at < began);
    let rang = |calls: Vec<(Instant, Duration)>| Times::of(calls.into_iter().map(|(_, rang)| rang));
    println!("{tally} whole beside {refused} hostile ones");
    let bound = slowness.allows(DELAY_MAX);
    for (what, beside, alone) in [
        ("calls ring", rang(after), rang(before)),
        ("phones are registered", Times::of(beside), Times::of(alone)),
    ] {
        println!("{what} after {beside}, before the attacks after {alone}");
        assert!(beside.slow <= alone.slow + bound, "{bound:?} more are allowed ({slowness:?})");
    }

    assert!(refused >= ATTACKS.len(), "{} hostile calls", refused);
    // A machine that stands still has containers taken for hung, and their counts begin anew.
    if !node.process_log("edge1").contains("serves no more") {
        wait::until("each failure to be counted, and nothing else", world::LIMIT, || {
            let failures = failures_of(&node, "hostile");
            if failures as usize == refused { Ok(()) } else { Err((failures, refused)) }
        });
    }
    let caller = world::registered_openly(&node, "looks", LineTransport::Udp).await;
    for (attack, words) in ATTACKS {
        // So many failures a second are logged; those before may have used them up.
        while !node.log().contains(words) {
            assert!(began.elapsed() < world::LIMIT, "no {words:?} in the log of {attack}");
            assert_eq!(answer(&caller, attack).await, 500, "{attack}");
        }
    }
    // It has its own calls as ever.
    assert_eq!(answer(&caller, "busy").await, 486);
    node.stop();
}

/// The middle and the slowest of a hundred.
struct Times {
    median: Duration,
    slow: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (slowest of a hundred {:?})", self.median, self.slow)
    }
}

impl Times {
    fn of(times: impl IntoIterator<Item = Duration>) -> Times {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        let slow = times.len() - 1 - times.len() / 100;
        Times { median: times[times.len() / 2], slow: times[slow] }
    }
}

/// How long registering took, again and again for a while.
async fn registered(phone: &Phone) -> Vec<Duration> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < LASTS {
        let asked = Instant::now();
        phone.register(600).await.expect("it is registered");
        times.push(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    times
}

/// Phones that call the hostile application, one for each attack.
struct Attackers {
    is_over: Arc<AtomicBool>,
    phones: JoinSet<usize>,
}

impl Attackers {
    async fn begin(node: &Node) -> Attackers {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut phones = JoinSet::new();
        for (attack, _) in ATTACKS {
            let user = format!("by-{attack}");
            let phone = world::registered_openly(node, &user, LineTransport::Udp).await;
            let is_over = Arc::clone(&is_over);
            phones.spawn(async move {
                let mut refused = 0;
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(answer(&phone, attack).await, 500, "{attack}");
                    refused += 1;
                }
                refused
            });
        }
        Attackers { is_over, phones }
    }

    /// How many calls were refused, all of them with 500.
    async fn end(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let mut refused = 0;
        while let Some(phone) = self.phones.join_next().await {
            refused += phone.expect("each attack is answered 500");
        }
        refused
    }
}

/// What a call to the hostile application is answered.
async fn answer(phone: &Phone, user: &str) -> u16 {
    let invitation = phone.call(0, &format!("sip:hostile-{user}@{DOMAIN}")).await;
    let response = invitation.expect("the call goes out").final_response().await;
    response.expect("it is answered").status().unwrap_or_default()
}

/// How many of an application's events failed, as its operator is shown.
fn failures_of(node: &Node, name: &str) -> u64 {
    let output = node.outlast(&["app", "show", name, "--json"]);
    assert!(output.status.success(), "app show: {output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let versions = shown["versions"].as_array().into_iter().flatten();
    versions.filter_map(|version| version["failures"].as_u64()).sum()
}
