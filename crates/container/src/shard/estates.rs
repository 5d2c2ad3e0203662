//! The calls that dead containers have left behind: finds them by the index of owners, and claims our share.
//!
//! On every death that the topology tells of, when we begin to accept work, and at every round of duties, but not before
//! `reach` lets us. In portions: at most [`CLAIMS_MAX`] are under way, and the index is not read on before most of those found are, so that a
//! container that inherits a hundred thousand calls answers others in between.

use std::collections::VecDeque;
use std::time::Instant;

use state::{Key, Record, StoreError};
use tracing::warn;

use super::{ScanId, Shard, ShardEffect};
use crate::ownership::index::{OWNED, Owned, RecordKind};
use crate::ownership::neighbours::Standing;
use crate::ownership::sweep::{Scan, Sweep};

/// So many claims are under way at a time: as many as a group commit of the store takes together, so that the next group
/// is made while that is written.
const CLAIMS_MAX: usize = 512;

/// As many claims in doubt are looked at again; more are forgotten, the oldest first.
const UNSURE_MAX: usize = 4_096;

/// What is known of the estates of the dead.
#[derive(Debug, Default)]
pub(super) struct Estates {
    /// The pass over the index that is under way.
    sweep: Option<Sweep>,
    scan: Option<ScanId>,
    /// Somebody died while it was.
    is_stale: bool,
    found: VecDeque<Owned>,
    claiming: usize,
    /// Claims that were given up, and of which nobody knows whether they stand: the records may be ours.
    unsure: VecDeque<Owned>,
}

impl Estates {
    /// Whether something that was found, or may be found, is not claimed yet.
    pub(super) fn is_claiming(&self) -> bool {
        self.claiming > 0 || self.scan.is_some() || !self.found.is_empty()
    }

    /// A claim was given up that may stand after all: its record is looked at again with the next sweep.
    pub(super) fn look_again(&mut self, owned: Owned) {
        if self.unsure.len() >= UNSURE_MAX {
            warn!(max = UNSURE_MAX, "too many claims are in doubt; one waits for its next message");
            self.unsure.pop_front();
        }
        self.unsure.push_back(owned);
    }

    /// A record that may be ours to go on with.
    pub(super) fn add(&mut self, owned: Owned) {
        self.found.push_back(owned);
    }
}

impl Shard {
    /// Looks for what the dead have left. A pass that is under way is followed by another one.
    pub(super) fn sweep_estates(&mut self, effects: &mut Vec<ShardEffect>) {
        self.watch_due(effects);
        self.tell_of_inherited();
        let unsure = std::mem::take(&mut self.estates.unsure);
        self.estates.found.extend(unsure);
        if self.estates.sweep.is_some() {
            self.estates.is_stale = true;
            return self.claim_on(effects);
        }
        self.estates.sweep = Some(Sweep::new());
        self.claim_on(effects);
    }

    /// A scan has ended.
    pub fn scanned(
        &mut self,
        scan: ScanId,
        result: Result<Vec<(Key, Record)>, StoreError>,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(result) = self.due_scanned(scan, result, now, effects) else { return };
        if self.estates.scan != Some(scan) {
            return;
        }
        self.estates.scan = None;
        match (result, &mut self.estates.sweep) {
            (Ok(page), Some(sweep)) => {
                let neighbours = &self.neighbours;
                let is_dead = |owner| neighbours.standing(owner) == Standing::Dead;
                let estates = sweep.answered(&page, is_dead);
                let ours = estates.into_iter().filter(|owned| neighbours.inherits(owned.choice));
                self.estates.found.extend(ours);
            }
            (Err(error), _) => {
                warn!(%error, "cannot look for the calls of dead containers; trying again soon");
                self.estates.sweep = None;
            }
            (Ok(_), None) => {}
        }
        self.claim_on(effects);
    }

    /// A claim has come to its end.
    pub(super) fn estate_done(&mut self, effects: &mut Vec<ShardEffect>) {
        self.estates.claiming = self.estates.claiming.saturating_sub(1);
        self.claim_on(effects);
    }

    /// Claims what was found, as far as the bounds allow, and looks for more.
    pub(super) fn claim_on(&mut self, effects: &mut Vec<ShardEffect>) {
        while self.estates.claiming < CLAIMS_MAX
            && let Some(owned) = self.estates.found.pop_front()
        {
            match owned.kind {
                RecordKind::SetUp => {
                    if self.inquire_for_estate(owned, effects) {
                        self.estates.claiming += 1;
                    }
                }
                RecordKind::Session => {
                    if self.inquire_session_for_estate(owned, effects) {
                        self.estates.claiming += 1;
                    }
                }
            }
        }
        if self.estates.scan.is_some() || self.estates.found.len() >= CLAIMS_MAX {
            return;
        }
        let mut next = self.estates.sweep.as_ref().and_then(Sweep::next);
        if next.is_none() {
            let is_stale = std::mem::take(&mut self.estates.is_stale);
            self.estates.sweep = is_stale.then(Sweep::new);
            next = self.estates.sweep.as_ref().and_then(Sweep::next);
        }
        let Some(Scan { prefix, after, limit }) = next else { return };
        let scan = ScanId(self.take_id());
        self.estates.scan = Some(scan);
        effects.push(ShardEffect::Scan { scan, space: OWNED, prefix, after, limit });
    }
}
