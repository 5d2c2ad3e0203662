//! Which containers an edge may send to, fed by heartbeats, notifications and links.
//!
//! Three witnesses, each of which can end a route and none of which alone can open one:
//! - *notification*: the manager's view says the process died, hangs or stops. At once, 10 ms.
//! - *heartbeat*: the container pings every [`HeartbeatSettings::interval`]. It is removed after
//!   `allowed_miss_count` missed pings, that is after interval × (allowed_miss_count + 1) of silence
//!   (the reference's `oc4j-ping`), which also catches a container that lives but hangs.
//! - *link*: the stream to it is open.
//!
//! A route opens when its link is up and its first heartbeat says *accepting*. A container that hung
//! and pings again is taken back. A draining container keeps what it owns and gets nothing new.
//!
//! Pure: `now` is an argument; the edge calls [`RoutingTable::tick`] at
//! [`RoutingTable::next_deadline`]. Bounded by [`ROUTES_MAX`].

use std::time::{Duration, Instant};

use crate::choice::{BucketTable, CANDIDATES_MAX, Candidate};
use crate::view::{Incarnation, ProcessName, ProcessState, TopologyView, WEIGHT_DEFAULT};

/// Most containers and peers of one table. One more never opens: its events are ignored.
pub const ROUTES_MAX: usize = 1024;
const _: () = assert!(ROUTES_MAX <= CANDIDATES_MAX);

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
}

/// What a container says of itself in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accepting {
    /// Takes new work.
    Accepting,
    /// Finishes what it owns.
    Draining,
}

/// What a route is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteState {
    /// New work and what it owns.
    Accepting,
    /// What it owns only.
    Draining,
    /// Nothing: no link, silent, or dead.
    Closed,
}

/// A container (or plain SIP peer) as this edge sees it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: ProcessName,
    /// The life the link leads to; [`Incarnation::NONE`] for a plain SIP peer.
    pub incarnation: Incarnation,
    /// What it is good for.
    pub state: RouteState,
    /// Last reported load, 0 to 65,535; informative.
    pub load: u16,
    weight: u16,
    kind: RouteKind,
    linked: bool,
    /// What the last heartbeat of this life said, and when it came.
    heard: Option<(Accepting, Instant)>,
    /// What the manager says of this life, if it has said anything.
    notified: Option<ProcessState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteKind {
    Container,
    /// Sends no heartbeats: serves while its address answers.
    Peer,
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
}

/// The routes of one edge worker.
#[derive(Debug)]
pub struct RoutingTable {
    settings: HeartbeatSettings,
    view_version: u64,
    /// Sorted by name.
    routes: Vec<Route>,
    buckets: BucketTable,
}

impl RoutingTable {
    /// A table without routes.
    pub fn new(settings: HeartbeatSettings) -> RoutingTable {
        RoutingTable {
            settings,
            view_version: 0,
            routes: Vec::new(),
            buckets: BucketTable::empty(),
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
        let settings = self.settings;
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
            route.weight = entry.weight;
            route.notified = Some(entry.state);
            route.settle(&settings, now, ClosedReason::Notified, changes);
        }
        for route in &mut self.routes {
            if route.kind == RouteKind::Container && view.process(&route.name).is_none() {
                route.notified = Some(ProcessState::Down);
                route.settle(&settings, now, ClosedReason::Notified, changes);
            }
        }
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
        let settings = self.settings;
        let Some(route) = self.route_or_new(name) else {
            return;
        };
        if incarnation < route.incarnation {
            return; // that life is over
        }
        if incarnation > route.incarnation {
            route.begin_life(incarnation, ClosedReason::Replaced, changes);
        }
        route.linked = true;
        route.settle(&settings, now, ClosedReason::Silent, changes);
        self.rebuild();
    }

    /// The link to that life broke. What the owner of the link kept untaken goes elsewhere.
    pub fn link_down(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        self.with_life(name, incarnation, |route, settings| {
            route.linked = false;
            route.heard = None; // a new link to the same life starts with a heartbeat of its own
            route.settle(settings, now, ClosedReason::LinkDown, changes);
        });
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
        self.with_life(name, incarnation, |route, settings| {
            route.heard = Some((accepting, now));
            route.load = load;
            route.settle(settings, now, ClosedReason::Silent, changes);
        });
    }

    /// Closes what has been silent for too long.
    pub fn tick(&mut self, now: Instant, changes: &mut Vec<RoutingChange>) {
        let settings = self.settings;
        let before = changes.len();
        for route in &mut self.routes {
            route.settle(&settings, now, ClosedReason::Silent, changes);
        }
        if changes.len() > before {
            self.rebuild();
        }
    }

    /// When the next route falls silent unless it pings before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.routes
            .iter()
            .filter(|route| route.state != RouteState::Closed)
            .filter_map(|route| route.heard)
            .map(|(_, heard_at)| heard_at + self.settings.silence_max())
            .min()
    }

    /// The choice over all accepting routes; recomputed on change only.
    pub fn buckets(&self) -> &BucketTable {
        &self.buckets
    }

    /// The route to the life that a token names, draining ones included; `None` once it is closed.
    pub fn owner(&self, incarnation: Incarnation) -> Option<&Route> {
        self.routes.iter().find(|route| {
            route.kind == RouteKind::Container
                && route.incarnation == incarnation
                && route.state != RouteState::Closed
        })
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

    fn with_life(
        &mut self,
        name: &ProcessName,
        incarnation: Incarnation,
        change: impl FnOnce(&mut Route, &HeartbeatSettings),
    ) {
        let Ok(at) = self.position(name) else {
            return;
        };
        let route = &mut self.routes[at];
        if route.incarnation != incarnation {
            return;
        }
        let before = route.state;
        change(route, &self.settings);
        if route.state != before {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        let candidates: Vec<Candidate> = self
            .routes
            .iter()
            .filter(|route| route.state == RouteState::Accepting && route.weight > 0)
            .map(|route| Candidate {
                name: route.name.clone(),
                incarnation: route.incarnation,
                weight: route.weight,
            })
            .collect();
        if candidates != self.buckets.candidates() {
            self.buckets = BucketTable::build(&candidates);
        }
    }
}

impl Route {
    fn new(name: ProcessName) -> Route {
        Route {
            name,
            incarnation: Incarnation::NONE,
            state: RouteState::Closed,
            load: 0,
            weight: WEIGHT_DEFAULT,
            kind: RouteKind::Container,
            linked: false,
            heard: None,
            notified: None,
        }
    }

    /// Forgets what is known of the former life, closing it if it was open.
    fn begin_life(
        &mut self,
        incarnation: Incarnation,
        reason: ClosedReason,
        changes: &mut Vec<RoutingChange>,
    ) {
        if self.state != RouteState::Closed {
            changes.push(RoutingChange::Closed {
                name: self.name.clone(),
                incarnation: self.incarnation,
                reason,
            });
        }
        *self = Route { weight: self.weight, incarnation, ..Route::new(self.name.clone()) };
    }

    /// Derives the state from the witnesses and tells a change.
    fn settle(
        &mut self,
        settings: &HeartbeatSettings,
        now: Instant,
        reason: ClosedReason,
        changes: &mut Vec<RoutingChange>,
    ) {
        let state = self.judge(settings, now);
        if state == self.state {
            return;
        }
        self.state = state;
        let (name, incarnation) = (self.name.clone(), self.incarnation);
        changes.push(match state {
            RouteState::Closed => RoutingChange::Closed { name, incarnation, reason },
            RouteState::Accepting | RouteState::Draining => {
                RoutingChange::Opened { name, incarnation, state }
            }
        });
    }

    fn judge(&self, settings: &HeartbeatSettings, now: Instant) -> RouteState {
        if !self.linked {
            return RouteState::Closed;
        }
        if self.kind == RouteKind::Peer {
            return RouteState::Accepting;
        }
        let Some((accepting, heard_at)) = self.heard else {
            return RouteState::Closed;
        };
        if now.saturating_duration_since(heard_at) >= settings.silence_max() {
            return RouteState::Closed;
        }
        match self.notified {
            Some(state) if !state.may_serve() => RouteState::Closed,
            Some(ProcessState::Draining) => RouteState::Draining,
            Some(_) | None => match accepting {
                Accepting::Accepting => RouteState::Accepting,
                Accepting::Draining => RouteState::Draining,
            },
        }
    }
}

#[cfg(test)]
mod tests;
