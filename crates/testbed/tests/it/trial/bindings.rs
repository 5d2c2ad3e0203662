//! Bindings that are refreshed all the time, and whether each has at least the lifetime that was acknowledged last.
//!
//! Each round asks for more than the one before, by more than a run takes. So a binding that has less left than its last
//! acknowledged round gave it, whatever has passed of that, tells of a refresh that was lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use testbed::crowd::{Crowd, Outcome};
use testbed::members::Members;
use testbed::wait;
use tokio::task::JoinSet;

use crate::world::{DOMAIN, LIMIT};

/// All are refreshed once in this time.
const ROUND: Duration = Duration::from_secs(600);
/// Between two refreshes of an edge's users.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// So many are refreshed at once, by each edge.
const AT_ONCE: usize = 20;
/// Seconds of the first round.
const EXPIRES: u32 = 28_000;
/// So many seconds more in each further round: longer than a run takes.
const MORE: u32 = 4_000;
/// After so many rounds nothing is refreshed any more: a registrar gives a day at most.
const ROUNDS: u32 = 14;

/// How long a binding is registered for in this round.
fn expires(round: u32) -> u32 {
    EXPIRES + round * MORE
}

/// What became of the refreshes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Refreshes {
    pub(super) acknowledged: usize,
    /// Told to try again.
    pub(super) refused: usize,
    pub(super) unanswered: usize,
}

impl Refreshes {
    fn add(&mut self, outcome: Outcome) {
        self.acknowledged += outcome.registered;
        self.refused += outcome.refused;
        self.unanswered += outcome.unanswered;
    }
}

/// Bindings of a crowd, refreshed until it is over.
pub(super) struct Bindings {
    /// Of each user, the last round that was acknowledged.
    acknowledged: Arc<Mutex<Vec<u32>>>,
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<Refreshes>,
}

impl Bindings {
    /// Registers so many users, each edge its share, and goes on with refreshing them.
    ///
    /// # Panics
    /// When one cannot be registered at first.
    pub(super) async fn begin(edges: &[SocketAddr], count: usize) -> Bindings {
        let acknowledged = Arc::new(Mutex::new(vec![0; count]));
        let is_over = Arc::new(AtomicBool::new(false));
        let of_each = count.div_ceil(edges.len());
        let mut tasks = JoinSet::new();
        for (number, edge) in edges.iter().enumerate() {
            let users = number * of_each..count.min((number + 1) * of_each);
            let mut crowd = Crowd::of(*edge, DOMAIN).await;
            let rounds = register_all(&mut crowd, users.clone()).await;
            acknowledged.lock().expect("no panic under the lock")[users.clone()].fill(rounds);
            let refresher = Refresher {
                crowd,
                rounds,
                users,
                acknowledged: Arc::clone(&acknowledged),
                is_over: Arc::clone(&is_over),
            };
            tasks.spawn(refresher.run());
        }
        Bindings { acknowledged, is_over, tasks }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic under the lock").len()
    }

    /// What a member does not know of them.
    pub(super) fn lost(&self, members: &Members<'_>, member: usize) -> Vec<String> {
        let acknowledged = self.acknowledged.lock().expect("no panic under the lock").clone();
        let left: HashMap<String, u64> = registrations(members, member)
            .iter()
            .filter_map(|it| Some((it["aor"].as_str()?.to_owned(), it["expires_s"].as_u64()?)))
            .collect();
        let of = |user| left.get(&format!("sip:user{user}@{DOMAIN}"));
        let lost = acknowledged.iter().enumerate().filter_map(|(user, round)| match of(user) {
            None => Some(format!("user{user} at member {member}")),
            Some(left) if *left > u64::from(expires(*round - 1)) => None,
            Some(left) => {
                Some(format!("round {round} of user{user} at member {member}: {left} s left"))
            }
        });
        lost.collect()
    }

    /// Refreshes nothing more.
    pub(super) async fn end(&mut self) -> Refreshes {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Refreshes::default();
        while let Some(refreshes) = self.tasks.join_next().await {
            let refreshes = refreshes.expect("a refresher does not panic");
            all.acknowledged += refreshes.acknowledged;
            all.refused += refreshes.refused;
            all.unanswered += refreshes.unanswered;
        }
        all
    }
}

/// What a member knows; a part of the state may move to another store just now, and answer nobody.
fn registrations(members: &Members<'_>, member: usize) -> Vec<Value> {
    let node = members.node(member);
    wait::until("the registrations to be told", LIMIT, || {
        let said = members.host(member).enter(|| node.outlast(&["registrations", "--json"]));
        serde_json::from_slice(&said.stdout).map_err(|_| said)
    })
}

/// Registers all of them, those again that are told to try again; the round in which all were.
async fn register_all(crowd: &mut Crowd, users: Range<usize>) -> u32 {
    for round in 1..ROUNDS / 2 {
        let registered = crowd.register(users.clone(), round, expires(round)).await;
        if registered.registered == users.len() {
            return round;
        }
        println!("not all are registered yet: {registered:?}");
        tokio::time::sleep(PAUSE_MAX).await;
    }
    panic!("users of an edge cannot be registered");
}

/// Who refreshes those of an edge.
struct Refresher {
    crowd: Crowd,
    /// It took so many to register all of them.
    rounds: u32,
    users: Range<usize>,
    acknowledged: Arc<Mutex<Vec<u32>>>,
    is_over: Arc<AtomicBool>,
}

impl Refresher {
    async fn run(mut self) -> Refreshes {
        let mut refreshes = Refreshes::default();
        let parts = self.users.len().div_ceil(AT_ONCE);
        // A few users are not waited for so long.
        let every = (ROUND / u32::try_from(parts.max(1)).expect("few")).min(PAUSE_MAX);
        let mut next = tokio::time::interval(every);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in self.rounds + 1..=ROUNDS {
            for start in self.users.clone().step_by(AT_ONCE) {
                next.tick().await;
                if self.is_over.load(Ordering::Relaxed) {
                    return refreshes;
                }
                let users = start..self.users.end.min(start + AT_ONCE);
                let outcome = self.crowd.register(users.clone(), round, expires(round)).await;
                refreshes.add(outcome);
                // Who was refused or heard nothing may have been refreshed or not.
                if outcome.registered == users.len() {
                    self.acknowledged.lock().expect("no panic under the lock")[users].fill(round);
                }
            }
        }
        refreshes
    }
}

#[test]
fn each_round_asks_for_more_than_the_last_one_has_left() {
    assert!((1..=ROUNDS).all(|round| expires(round) == expires(round - 1) + MORE));
    assert!(expires(ROUNDS) <= 86_400, "a day");
}
