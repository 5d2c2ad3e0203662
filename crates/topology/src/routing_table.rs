//! Which containers an edge may send to, fed by heartbeats, notifications and links.
//!
//! Four witnesses, each of which can end a route and none of which alone can open one:
//! - *notification*: the manager's view says the process died, hangs or stops. At once, 10 ms.
//! - *heartbeat*: the container pings every [`HeartbeatSettings::interval`]. It is removed after
//!   `allowed_miss_count` missed pings, that is after interval × (allowed_miss_count + 1) of silence
//!   (the reference's `oc4j-ping`), which also catches a container that lives but hangs.
//! - *link*: the stream to it is open.
//! - *answers*: the container works off what comes by the link (`unanswered.rs`). One that does not is
//!   ejected until it answers again, but at most half of those that would accept new work are: if
//!   everybody seems to be silent, it is more likely the edge that is wrong, and a container that may be
//!   stuck is better than none.
//!
//! A route opens when its link is up and its first heartbeat says *accepting*. A container that hung
//! and pings again is taken back. A draining container keeps what it owns and gets nothing new.
//!
//! Pure: `now` is an argument; the edge calls [`RoutingTable::tick`] at
//! [`RoutingTable::next_deadline`]. One that looks much later was kept from looking (stopped, starved, the machine
//! asleep), and most likely so was everybody else: all clocks start anew. Bounded by [`ROUTES_MAX`].

use std::time::{Duration, Instant};

use crate::choice::{BucketTable, CANDIDATES_MAX, Candidates, ChoiceKey};
use crate::view::{Incarnation, ProcessName, ProcessState, TopologyView};

mod route;
mod selection;
mod unanswered;

use route::RouteKind;
pub use route::{Accepting, Route, RouteState};
use selection::Choice;

/// Most containers (of all nodes) and peers of one table. One more never opens: its events are ignored.
pub const ROUTES_MAX: usize = 1024;
const _: () = assert!(ROUTES_MAX <= CANDIDATES_MAX);

/// A container that died is ready again and linked within this. When none is, something else is wrong.
const VACANCY_MAX: Duration = Duration::from_secs(2);

/// How often containers ping and how many pings they may miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// Time between two pings.
    pub interval: Duration,
    /// Missed pings after which a container is removed.
    pub allowed_miss_count: u32,
}

impl HeartbeatSettings {
    /// The silence after which a container is removed: interval × (allowed_miss_count + 1).
    pub fn silence_max(&self) -> Duration {
        self.interval.saturating_mul(self.allowed_miss_count.saturating_add(1))
    }

    /// The unanswered questions that are too many: as many as probes fit into [`silence_max`](Self::silence_max).
    pub fn unanswered_max(&self) -> u32 {
        self.allowed_miss_count.saturating_add(1)
    }

    /// How often a process tells its manager that it lives: twice an interval, so that a beat that is a little late
    /// is not taken for silence although no beat may be missed.
    pub fn beat_interval(&self) -> Duration {
        self.interval / 2
    }

    /// The silence after which a container is taken for late, but not for hung: interval × 5/4, two beats and half a one. By
    /// default 625 ms: what was due when it stopped happens elsewhere within a second, and a beat that is lost or late by
    /// its whole interval is nothing yet.
    pub fn quiet_max(&self) -> Duration {
        self.interval * 5 / 4
    }

    /// How long a serving loop may take for a round in which nothing happens: two rounds for each beat.
    pub fn round_max(&self) -> Duration {
        self.interval / 4
    }
}

/// A change that the edge acts on (its log line, its open links, its kept frames).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutingChange {
    /// The route opened or changed between accepting and draining.
    Opened {
        /// The container.
        name: ProcessName,
        /// Its life.
        incarnation: Incarnation,
        /// Now.
        state: RouteState,
    },
    /// The route closed: what was sent to it and not taken goes to the next candidate.
    Closed {
        /// The container.
        name: ProcessName,
        /// The life that ended or fell silent.
        incarnation: Incarnation,
        /// The witness.
        reason: ClosedReason,
    },
    /// A link without an open route leads to a life that is over: it is to be given up for one to the later life.
    Outlived {
        /// The container.
        name: ProcessName,
        /// The life that is over.
        incarnation: Incarnation,
    },
    /// It answers nothing, ejected or not: the manager shall know.
    Unresponsive {
        /// The container.
        name: ProcessName,
        /// Its life.
        incarnation: Incarnation,
    },
    /// It answers again.
    Responsive {
        /// The container.
        name: ProcessName,
        /// Its life.
        incarnation: Incarnation,
    },
}

/// Who ended a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedReason {
    /// The manager said so.
    Notified,
    /// Too many missed pings.
    Silent,
    /// The link broke.
    LinkDown,
    /// A later life took its name.
    Replaced,
    /// It answers neither probes nor messages.
    Unresponsive,
}

/// The routes of one edge worker.
#[derive(Debug)]
pub struct RoutingTable {
    settings: HeartbeatSettings,
    view_version: u64,
    /// Sorted by name.
    routes: Vec<Route>,
    accepting: Choice,
    /// Those that finish what they own, while none accepts.
    draining: Choice,
    /// While none accepts: until when that may be an accident.
    vacant_until: Option<Instant>,
}

impl RoutingTable {
    /// A table without routes.
    pub fn new(settings: HeartbeatSettings) -> RoutingTable {
        RoutingTable {
            settings,
            view_version: 0,
            routes: Vec::new(),
            accepting: Choice::empty(),
            draining: Choice::empty(),
            vacant_until: None,
        }
    }

    /// Adds a plain SIP peer in a container's place: it serves from now on, until
    /// [`link_down`](Self::link_down) is told that its address does not answer.
    pub fn add_peer(&mut self, name: ProcessName, weight: u16) {
        if let Some(route) = self.route_or_new(&name) {
            route.kind = RouteKind::Peer;
            route.weight = weight;
            route.linked = true;
            route.state = RouteState::Accepting;
            self.rebuild();
        }
    }

    /// The manager pushed a view. A view that is not newer than the last one changes nothing.
    pub fn notification(
        &mut self,
        view: &TopologyView,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        if view.version <= self.view_version {
            return;
        }
        self.view_version = view.version;
        for entry in view.containers() {
            let Some(route) = self.route_or_new(&entry.name) else {
                continue;
            };
            if route.kind == RouteKind::Peer || entry.incarnation < route.incarnation {
                continue; // a peer is not ours to judge; the link may know a later life first
            }
            if entry.incarnation > route.incarnation {
                route.begin_life(entry.incarnation, ClosedReason::Notified, changes);
            }
            route.cluster_name = view.cluster_name(&entry.name);
            route.weight = entry.weight;
            route.notified = Some(entry.state);
        }
        for route in &mut self.routes {
            if route.kind == RouteKind::Container && view.process(&route.name).is_none() {
                route.notified = Some(ProcessState::Down);
            }
        }
        self.settle(now, changes);
        self.routes.retain(|route| {
            route.linked || route.kind == RouteKind::Peer || view.process(&route.name).is_some()
        });
        self.rebuild();
    }

    /// The link to that life of the container is open. It serves from its first heartbeat on; the
    /// container sends one right after its answer to the hello.
    pub fn link_up(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        let Some(route) = self.route_or_new(name) else {
            return;
        };
        if incarnation < route.incarnation {
            // That life is over, however long it still listens: the link is wanted for the one that there is now.
            return changes.push(RoutingChange::Outlived { name: name.clone(), incarnation });
        }
        if incarnation > route.incarnation {
            route.begin_life(incarnation, ClosedReason::Replaced, changes);
        }
        route.linked = true;
        self.settle(now, changes);
    }

    /// The link to that life broke. What the owner of the link kept untaken goes elsewhere.
    pub fn link_down(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        if let Some(route) = self.life(name, incarnation) {
            route.linked = false;
            route.heard = None; // a new link to the same life starts with a heartbeat of its own
            route.unanswered.answered(); // what was asked by it goes elsewhere
            self.settle(now, changes);
        }
    }

    /// A heartbeat came over the link. One of a former life is ignored.
    pub fn heartbeat(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        accepting: Accepting,
        load: u16,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        if let Some(route) = self.life(name, incarnation) {
            route.heard = Some((accepting, now));
            route.load = load;
            self.settle(now, changes);
        }
    }

    /// The container in that place of [`routes`](Self::routes) was asked something by its link: a probe, or a message
    /// that it has to take.
    pub fn asked(&mut self, place: usize, now: Instant) {
        let route = &mut self.routes[place];
        if route.kind == RouteKind::Container {
            route.unanswered.asked(now);
        }
    }

    /// That life answered a probe, or took a message. An answer of a former life is ignored.
    pub fn answered(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        let Some(route) = self.life(name, incarnation) else {
            return;
        };
        route.unanswered.answered();
        if std::mem::take(&mut route.is_unresponsive) {
            changes.push(RoutingChange::Responsive { name: name.clone(), incarnation });
            self.settle(now, changes);
        }
    }

    /// Whoever keeps this table did nothing until `now`, for longer than an interval: what came meanwhile is still to be
    /// read, and nobody's silence proves anything.
    pub fn stood_still(&mut self, now: Instant) {
        tracing::warn!("was kept from looking; the clocks of all containers start anew");
        for route in &mut self.routes {
            route.clock_starts_anew(now);
        }
    }

    /// Closes what has been silent for too long.
    pub fn tick(&mut self, now: Instant, changes: &mut Vec<RoutingChange>) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.settle(now, changes);
        }
        self.vacant_until = self.vacant_until.filter(|until| now < *until);
    }

    /// Whether nobody accepts, though somebody did a moment ago: the next life is about to come, and what is sent again
    /// anyway need not be refused.
    pub fn is_vacant_for_a_moment(&self) -> bool {
        self.vacant_until.is_some()
    }

    /// When the next route falls silent unless it pings or answers before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let open = self.routes.iter().filter(|route| route.state != RouteState::Closed);
        let deadlines = open.flat_map(|route| {
            let heartbeat = route.heard.map(|(_, heard_at)| heard_at + self.settings.silence_max());
            let answer = match route.is_unresponsive {
                true => None, // noticed already
                false => route.unanswered.deadline(&self.settings),
            };
            heartbeat.into_iter().chain(answer)
        });
        deadlines.min()
    }

    /// The choice over all accepting routes; recomputed on change only.
    pub fn buckets(&self) -> &BucketTable {
        &self.accepting.buckets
    }

    /// The routes that should take what `key` names, as places in [`routes`](Self::routes). No allocation, no lock.
    pub fn choose(&self, key: ChoiceKey<'_>) -> Candidates {
        self.accepting.choose(key)
    }

    /// The same for what is not new (CANCEL, ACK) and names no owner, or is over at once (REGISTER): when no route accepts,
    /// those that drain, each of which has what it was chosen for before.
    pub fn choose_or_draining(&self, key: ChoiceKey<'_>) -> Candidates {
        if self.accepting.is_empty() { self.draining.choose(key) } else { self.choose(key) }
    }

    /// The place in [`routes`](Self::routes) of the life that a token names, draining ones included; `None` once its
    /// route is closed.
    pub fn owner(&self, incarnation: Incarnation) -> Option<usize> {
        self.place_where(|route| {
            route.incarnation == incarnation && route.state != RouteState::Closed
        })
    }

    /// The place in [`routes`](Self::routes) of a life that has a link, whether it serves or not.
    pub fn linked(&self, incarnation: Incarnation) -> Option<usize> {
        self.place_where(|route| route.incarnation == incarnation && route.linked)
    }

    fn place_where(&self, is_it: impl Fn(&Route) -> bool) -> Option<usize> {
        self.routes.iter().position(|route| route.kind == RouteKind::Container && is_it(route))
    }

    /// Who answers nothing at present, ejected or not.
    pub fn unresponsive(&self) -> impl Iterator<Item = (&ProcessName, Incarnation)> {
        let unresponsive = self.routes.iter().filter(|route| route.is_unresponsive);
        unresponsive.map(|route| (&route.name, route.incarnation))
    }

    /// The place of that name in [`routes`](Self::routes), closed ones included.
    pub fn place(&self, name: &ProcessName) -> Option<usize> {
        self.position(name).ok()
    }

    /// The route of that name, closed ones included.
    pub fn route(&self, name: &ProcessName) -> Option<&Route> {
        let at = self.position(name).ok()?;
        Some(&self.routes[at])
    }

    /// All routes, sorted by name, closed ones included.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn position(&self, name: &ProcessName) -> Result<usize, usize> {
        self.routes.binary_search_by(|route| route.name.cmp(name))
    }

    /// `None` at [`ROUTES_MAX`].
    fn route_or_new(&mut self, name: &ProcessName) -> Option<&mut Route> {
        let at = match self.position(name) {
            Ok(at) => at,
            Err(_) if self.routes.len() >= ROUTES_MAX => return None,
            Err(at) => {
                self.routes.insert(at, Route::new(name.clone()));
                at
            }
        };
        Some(&mut self.routes[at])
    }

    /// The route of that name, if it is in that life.
    fn life(&mut self, name: &ProcessName, incarnation: Incarnation) -> Option<&mut Route> {
        let at = self.position(name).ok()?;
        Some(&mut self.routes[at]).filter(|route| route.incarnation == incarnation)
    }

    /// Derives all states from the witnesses and tells what changed.
    fn settle(&mut self, now: Instant, changes: &mut Vec<RoutingChange>) {
        let settings = self.settings;
        if self.next_deadline().is_some_and(|deadline| deadline + settings.interval < now) {
            self.stood_still(now);
        }
        for route in &mut self.routes {
            route.find_unresponsive(&settings, now, changes);
        }
        self.eject(now);
        for route in &mut self.routes {
            route.settle(&settings, now, changes);
        }
        let accepted = !self.accepting.is_empty();
        self.rebuild();
        if !self.accepting.is_empty() {
            self.vacant_until = None;
        } else if accepted
            && self.draining.is_empty()
            && self.routes.iter().any(|route| route.kind == RouteKind::Container)
        {
            // Of a container the next life comes; nobody here starts a peer again.
            self.vacant_until = Some(now + VACANCY_MAX);
        }
    }

    /// Decides who is left out for answering nothing: at most half of those that would take new work, and
    /// who is out already before others. Who takes nothing new anyway does not count.
    fn eject(&mut self, now: Instant) {
        let settings = self.settings;
        let would_accept = |route: &Route| route.would_accept(&settings, now);
        let mut room = self.routes.iter().filter(|route| would_accept(route)).count() / 2;
        for was_ejected in [true, false] {
            for route in self.routes.iter_mut().filter(|route| route.is_ejected == was_ejected) {
                let takes_room = would_accept(route);
                route.is_ejected = route.is_unresponsive && (room > 0 || !takes_room);
                room -= usize::from(route.is_ejected && takes_room);
            }
        }
    }

    fn rebuild(&mut self) {
        let is = |state| move |route: &Route| route.state == state && route.weight > 0;
        self.accepting.rebuild(&self.routes, is(RouteState::Accepting));
        let draining = is(RouteState::Draining);
        let nobody_accepts = self.accepting.is_empty();
        self.draining.rebuild(&self.routes, |route| nobody_accepts && draining(route));
    }
}

#[cfg(test)]
mod tests;
