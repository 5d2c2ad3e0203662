//! What waits for links: a container serves before all edges have linked to it, each worker a moment after the other.
//!
//! A call whose phones are out of reach is not taken over, neither from the estate of a dead container nor because a
//! message of it came: its INVITE could not be sent again, and would be answered as if the phones were gone. A request
//! by an edge that lives waits for that edge, as its stream does. Both for [`LINK_PATIENCE`] at most, so that an edge that
//! never links strands nobody's calls: then calls are taken over by whoever is asked, and the request has failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use state::Key;

use super::proxying::{Progress, Start};
use super::ways::Found;
use super::{ReadUse, SessionStart, Shard, ShardEffect};
use crate::proxy::{Resumption, TransportFailure};
use crate::transactions::ServerId;

/// An edge links within some tens of milliseconds of the view that names a container; a busy machine takes longer.
pub(super) const LINK_PATIENCE: Duration = Duration::from_secs(2);

/// Names a branch that waits for a link; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AwaitId(u64);

/// A branch whose edge lives and has no link.
#[derive(Debug)]
pub(super) struct AwaitingLink {
    server: ServerId,
    start: Start,
    until: Instant,
}

/// What is known of our links, and what waits for more of them.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Since when an edge that serves has no link.
    short_since: Option<Instant>,
    /// Estates are to be looked for.
    are_estates_due: bool,
    /// Inquiries about calls that are ours to take over; each is one of the shard's, and bounded with those.
    parked: Vec<(ReadUse, Key)>,
    /// In the order of their deadlines; each is a branch of a context, and bounded with those.
    branches: BTreeMap<AwaitId, AwaitingLink>,
    /// Requests of sessions, with their deadlines, in that order; each is one of a session, and bounded with those.
    requests: Vec<(Instant, SessionStart)>,
}

impl Reach {
    /// Whether a call may be taken over: all its phones are within reach, or some edge was waited for long enough.
    fn suffices(&self, now: Instant) -> bool {
        self.short_since.is_none_or(|since| now >= since + LINK_PATIENCE)
    }

    /// When patience with somebody ends.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let is_waited = self.are_estates_due || !self.parked.is_empty();
        let calls = self.short_since.filter(|_| is_waited).map(|since| since + LINK_PATIENCE);
        let branch = self.branches.values().next().map(|awaiting| awaiting.until);
        let request = self.requests.first().map(|(until, _)| *until);
        calls.into_iter().chain(branch).chain(request).min()
    }

    /// A request of a session waits for a link, until then.
    pub(super) fn await_link_for_session(&mut self, until: Instant, start: SessionStart) {
        self.requests.push((until, start));
    }

    /// Nobody waits any more for this branch to leave.
    pub(super) fn forget(&mut self, id: AwaitId) {
        self.branches.remove(&id);
    }
}

impl Shard {
    /// Looks for what the dead have left, as soon as the phones of their calls are within reach.
    pub fn look_for_estates(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        self.reach.are_estates_due = true;
        self.take_over_what_waits(now, effects);
    }

    /// Whether a call may be taken over now; if not, its record is read again when it may.
    pub(super) fn may_take_over(&mut self, of: ReadUse, key: Key, now: Instant) -> bool {
        let may = self.reach.suffices(now);
        if !may {
            self.reach.parked.push((of, key));
        }
        may
    }

    /// Links or edges have come or gone.
    pub(super) fn reach_changed(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.edges.reach_all() {
            self.reach.short_since = None;
        } else {
            self.reach.short_since.get_or_insert(now);
        }
        self.take_over_what_waits(now, effects);
        self.start_what_waits(now, effects);
        self.leave_by_new_doors(effects);
    }

    /// Patience may have come to its end.
    pub(super) fn reach_timeout(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.reach.next_timeout().is_some_and(|at| at <= now) {
            self.take_over_what_waits(now, effects);
            self.start_what_waits(now, effects);
        }
    }

    fn take_over_what_waits(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if !self.reach.suffices(now) {
            return;
        }
        for (of, key) in std::mem::take(&mut self.reach.parked) {
            self.ask(of, key, effects);
        }
        if std::mem::take(&mut self.reach.are_estates_due) {
            self.sweep_estates(effects);
        }
    }

    /// A branch waits for a link.
    pub(super) fn await_link(&mut self, server: ServerId, start: Start, now: Instant) {
        let id = AwaitId(self.take_id());
        if let Some(context) = self.contexts.get_mut(&server) {
            context.is_at(start.branch, Progress::Awaiting(id));
        }
        let until = now + LINK_PATIENCE;
        self.reach.branches.insert(id, AwaitingLink { server, start, until });
    }

    fn start_what_waits(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        for (id, awaiting) in std::mem::take(&mut self.reach.branches) {
            self.start_awaiting(id, awaiting, now, effects);
        }
        for (until, start) in std::mem::take(&mut self.reach.requests) {
            self.start_awaiting_for_session(until, start, now, effects);
        }
    }

    fn start_awaiting(
        &mut self,
        id: AwaitId,
        awaiting: AwaitingLink,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let AwaitingLink { server, ref start, until } = awaiting;
        let Some(context) = self.contexts.get_mut(&server) else { return };
        // The caller may have given up meanwhile; then nobody's phone rings for it.
        let is_wanted = start.resumption.is_some() || context.proxy.is_wanted(start.branch);
        let link = context.link;
        let found = match self.find_way(&start.request, start.decides, link) {
            _ if !is_wanted => Err(TransportFailure::Unreachable),
            Ok(Found::Unlinked) if now < until => {
                self.reach.branches.insert(id, awaiting);
                return;
            }
            Ok(Found::Unlinked) => Err(TransportFailure::FlowGone),
            found => found,
        };
        if let Some(context) = self.contexts.get_mut(&server) {
            context.branches.retain(|(_, progress)| *progress != Progress::Awaiting(id));
        }
        let branch = start.branch;
        let is_pending = matches!(start.resumption, None | Some(Resumption::Cancel));
        let started = found.and_then(|found| {
            let is_started = self.start(server, awaiting.start, found, now, effects);
            is_started.then_some(()).ok_or(TransportFailure::Unreachable)
        });
        if let Err(failure) = started
            && is_pending
        {
            self.branch_failed(server, branch, failure, now, effects);
        }
    }
}
