//! One container or peer as an edge sees it: what its witnesses said, and the state that follows.

use std::time::Instant;

use super::unanswered::Unanswered;
use super::{ClosedReason, HeartbeatSettings, RoutingChange};
use crate::view::{Incarnation, ProcessName, ProcessState, WEIGHT_DEFAULT};

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
    /// The name by which the edges of every node know it: the choice falls by it.
    pub(super) cluster_name: ProcessName,
    /// The life the link leads to; [`Incarnation::NONE`] for a plain SIP peer.
    pub incarnation: Incarnation,
    /// What it is good for.
    pub state: RouteState,
    /// Last reported load, 0 to 65,535; informative.
    pub load: u16,
    pub(super) weight: u16,
    pub(super) kind: RouteKind,
    pub(super) linked: bool,
    /// What the last heartbeat of this life said, and when it came.
    pub(super) heard: Option<(Accepting, Instant)>,
    /// What the manager says of this life, if it has said anything.
    pub(super) notified: Option<ProcessState>,
    pub(super) unanswered: Unanswered,
    /// It was over the limits and has not answered since, by whatever link.
    pub(super) is_unresponsive: bool,
    /// Left out for it.
    pub(super) is_ejected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteKind {
    Container,
    /// Sends no heartbeats: serves while its address answers.
    Peer,
}

impl Route {
    pub(super) fn new(name: ProcessName) -> Route {
        Route {
            cluster_name: name.clone(),
            name,
            incarnation: Incarnation::NONE,
            state: RouteState::Closed,
            load: 0,
            weight: WEIGHT_DEFAULT,
            kind: RouteKind::Container,
            linked: false,
            heard: None,
            notified: None,
            unanswered: Unanswered::default(),
            is_unresponsive: false,
            is_ejected: false,
        }
    }

    /// Nobody looked for a while, so its silence until `now` proves nothing.
    pub(super) fn clock_starts_anew(&mut self, now: Instant) {
        if self.state != RouteState::Closed {
            self.heard = self.heard.map(|(accepting, _)| (accepting, now));
            self.unanswered.start_anew(now);
        }
    }

    /// Forgets what is known of the former life, closing it if it was open. A link to a life that the manager had
    /// buried before would keep the edge from this one.
    pub(super) fn begin_life(
        &mut self,
        incarnation: Incarnation,
        reason: ClosedReason,
        changes: &mut Vec<RoutingChange>,
    ) {
        let (name, former) = (self.name.clone(), self.incarnation);
        if self.state != RouteState::Closed {
            changes.push(RoutingChange::Closed { name, incarnation: former, reason });
        } else if self.linked {
            changes.push(RoutingChange::Outlived { name, incarnation: former });
        }
        *self = Route {
            cluster_name: self.cluster_name.clone(),
            weight: self.weight,
            incarnation,
            ..Route::new(self.name.clone())
        };
    }

    /// Finds out whether it has left too much unanswered; only an answer takes that back. One that serves for
    /// another reason no more is not asked.
    pub(super) fn find_unresponsive(
        &mut self,
        settings: &HeartbeatSettings,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        if !self.is_unresponsive
            && self.unanswered.is_over_limits(settings, now)
            && self.witnessed(settings, now) != RouteState::Closed
        {
            self.is_unresponsive = true;
            let (name, incarnation) = (self.name.clone(), self.incarnation);
            changes.push(RoutingChange::Unresponsive { name, incarnation });
        }
    }

    /// Derives the state from the witnesses and tells a change.
    pub(super) fn settle(
        &mut self,
        settings: &HeartbeatSettings,
        now: Instant,
        changes: &mut Vec<RoutingChange>,
    ) {
        let witnessed = self.witnessed(settings, now);
        let state = if self.is_ejected { RouteState::Closed } else { witnessed };
        if state == self.state {
            return;
        }
        self.state = state;
        let (name, incarnation) = (self.name.clone(), self.incarnation);
        changes.push(match state {
            RouteState::Closed => {
                let reason = if witnessed != RouteState::Closed {
                    ClosedReason::Unresponsive
                } else if !self.linked {
                    ClosedReason::LinkDown
                } else if self.notified.is_some_and(|state| !state.may_serve()) {
                    ClosedReason::Notified
                } else {
                    ClosedReason::Silent
                };
                RoutingChange::Closed { name, incarnation, reason }
            }
            RouteState::Accepting | RouteState::Draining => {
                RoutingChange::Opened { name, incarnation, state }
            }
        });
    }

    /// Whether it would take new work if it were not ejected. One that is has lost its link by that and is on its way
    /// back: it takes a place of the half until somebody else says that it serves no more.
    pub(super) fn would_accept(&self, settings: &HeartbeatSettings, now: Instant) -> bool {
        let is_on_its_way_back = self.is_ejected
            && self.heard.is_none()
            && matches!(self.notified, None | Some(ProcessState::Starting | ProcessState::Ready));
        self.weight > 0
            && (is_on_its_way_back || self.witnessed(settings, now) == RouteState::Accepting)
    }

    /// What all witnesses but the answers say.
    pub(super) fn witnessed(&self, settings: &HeartbeatSettings, now: Instant) -> RouteState {
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
