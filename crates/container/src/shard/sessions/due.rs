//! Finds what is due in sessions whose owners do not see to it: dead containers, for whose sessions nothing was open, so that
//! nobody has claimed them; and containers that were stopped, before they count as dead.
//!
//! A living owner keeps its timers itself. At every round of duties, and when somebody has died or fallen silent, each
//! container goes through the index by due time as far as the next rounds reach, notes what falls to it, and asks for each of
//! these sessions shortly after its time: if its owner lives it was dealt with, else it is taken over, and its timer fires.
//!
//! A silent owner may only be slow, and that something is overdue proves nothing against it: its handler may take long, or its
//! application may be away. So the manager's word counts ([`ProcessEntry::is_silent`](topology::ProcessEntry)), and nothing is
//! asked for while nobody is silent; who is silent itself takes nothing over. The former owner, if it goes on after all,
//! fires the same timer, finds its commit refused, and drops its copy. Two kinds of sessions are left to it until it counts as dead:
//! those that speak before their commits, since phones would hear of the timer twice; and those in which an INVITE of theirs has no
//! answer, whose branches it would go on with.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use state::{Key, Record, StoreError, UnixMillis};
use tracing::warn;

use super::super::{ScanId, Shard, ShardEffect};
use super::records::{self, DUE};
use crate::ownership::BUCKETS;
use crate::session::{Session, SessionId};

/// How far ahead is looked: beyond the next round.
const HORIZON: Duration = Duration::from_secs(12);
/// How long a living owner may take for what is due; a dead one's is late by so much.
const GRACE: Duration = Duration::from_millis(200);
/// More are not asked for at once, so that messages and heartbeats are looked after in between, nor while so many questions
/// are open: the store answers as many first.
const ASKED_AT_ONCE: usize = 128;
/// When the store is asked again that has not answered so many.
const STORE_PAUSE: Duration = Duration::from_millis(10);
/// Entries of one page.
const PAGE: usize = 64;
/// More are not noted at a time; the next round finds them.
const NOTED_MAX: usize = 100_000;

/// What is known of due times.
#[derive(Debug, Default)]
pub(super) struct DueWatch {
    /// The page that is being read: its bucket.
    page: Option<(ScanId, u8)>,
    /// Somebody died while a pass was under way.
    is_stale: bool,
    noted: BTreeSet<(UnixMillis, SessionId)>,
    next: Option<Instant>,
}

impl DueWatch {
    /// When what is noted wants to be looked at.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }
}

impl Shard {
    /// Goes through the index; a pass that is under way is followed by another one.
    pub(in super::super) fn watch_due(&mut self, effects: &mut Vec<ShardEffect>) {
        if !self.sessions.are_hosted() {
            return;
        }
        if self.sessions.due.page.is_some() {
            self.sessions.due.is_stale = true;
            return;
        }
        self.read_due_page(0, None, effects);
    }

    fn read_due_page(&mut self, bucket: u8, after: Option<Key>, effects: &mut Vec<ShardEffect>) {
        let scan = ScanId(self.take_id());
        self.sessions.due.page = Some((scan, bucket));
        let prefix = records::due_in(bucket);
        effects.push(ShardEffect::Scan { scan, space: DUE, prefix, after, limit: PAGE });
    }

    /// A scan has ended; handed back if it is another's.
    pub(in super::super) fn due_scanned(
        &mut self,
        scan: ScanId,
        result: Result<Vec<(Key, Record)>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> Option<Result<Vec<(Key, Record)>, StoreError>> {
        let Some((_, bucket)) = self.sessions.due.page.filter(|(page, _)| *page == scan) else {
            return Some(result);
        };
        self.sessions.due.page = None;
        let page = match result {
            Ok(page) => page,
            Err(error) => {
                warn!(%error, "cannot look for timers of dead containers; trying again soon");
                return None;
            }
        };
        let horizon = self.clocks.guarded(now).saturating_add(HORIZON);
        let entries = page.iter().filter_map(|(key, _)| records::read_due(key));
        let soon: Vec<_> = entries.take_while(|(due, _)| *due <= horizon).collect();
        for &(due, id) in &soon {
            let choice = records::owned(id, self.settings.incarnation).choice;
            let is_ours = !self.sessions.has(id) && self.neighbours.inherits(choice);
            if is_ours && self.sessions.due.noted.len() < NOTED_MAX {
                self.sessions.due.noted.insert((due, id));
            }
        }
        self.arm_due(now);
        match page.last() {
            Some((last, _)) if soon.len() == PAGE => {
                self.read_due_page(bucket, Some(last.clone()), effects);
            }
            Some(_) | None => match u8::try_from(u16::from(bucket) + 1) {
                Ok(bucket) => self.read_due_page(bucket, None, effects),
                Err(_) if std::mem::take(&mut self.sessions.due.is_stale) => {
                    self.read_due_page(0, None, effects);
                }
                Err(_) => {}
            },
        }
        None
    }

    fn arm_due(&mut self, now: Instant) {
        let first = self.sessions.due.noted.first().map(|(due, _)| due.saturating_add(GRACE));
        self.sessions.due.next = first.map(|at| self.instant_of(at, now));
    }

    /// Asks for the sessions whose time is over.
    pub(super) fn look_for_due(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        if self.sessions.due.next.is_none_or(|next| next > now) {
            return;
        }
        let past = self.clocks.guarded(now).saturating_sub(GRACE);
        let open = self.sessions.inquiries.len();
        if open >= ASKED_AT_ONCE {
            self.sessions.due.next = Some(now + STORE_PAUSE);
            return;
        }
        for _ in open..ASKED_AT_ONCE {
            let first = self.sessions.due.noted.first().copied();
            let Some((due, id)) = first.filter(|(due, _)| *due <= past) else { break };
            self.sessions.due.noted.remove(&(due, id));
            self.inquire_due_session(id, effects);
        }
        self.arm_due(now);
    }

    /// Whether somebody who is silent, but not dead, leaves undone what is due in this session, and we may do it.
    pub(super) fn is_left_undone(&self, session: &Session, now: Instant) -> bool {
        session.due() <= self.clocks.guarded(now).saturating_sub(GRACE)
            && self.neighbours.is_silent(session.owner.incarnation)
            && !session.has_an_open_invite()
            && !self.sessions.spoke_before_commits(session)
    }
}

// A page is named by its bucket in one octet.
const _: () = assert!(BUCKETS == 256);
