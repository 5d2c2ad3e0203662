//! A batch on its way to a primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;

use super::commit::CommitId;
use super::layout::Partition;
use crate::batch::Batch;
use crate::error::{CommitError, StoreError};
use crate::store::CommitOutcome;

/// A batch on its way.
pub(super) struct Job {
    pub(super) partition: Partition,
    pub(super) batch: Batch,
    pub(super) bytes: usize,
    pub(super) id: CommitId,
    /// It was sent once, and no answer came: the ledger knows.
    pub(super) in_doubt: bool,
    /// Its slot is being moved, and whoever has it said to ask here, this time.
    pub(super) is_asking: bool,
    /// When its caller is told that there is no answer.
    pub(super) deadline: Instant,
    /// No new attempt before that.
    pub(super) not_before: Instant,
    pub(super) answer: oneshot::Sender<CommitOutcome>,
    /// Given back when the job ends.
    pub(super) _ticket: Ticket,
}

/// How many batches may be under way; one more is answered [`StoreError::Busy`] at once.
const BATCHES_MAX: usize = 16_384;
/// How many octets.
const BYTES_MAX: usize = 256 << 20;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

impl UnderWay {
    /// # Errors
    /// [`StoreError::Busy`] over the bounds.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Ticket, StoreError> {
        let batches = self.batches.fetch_add(1, Ordering::AcqRel);
        let all_bytes = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let ticket = Ticket { under_way: Arc::clone(self), bytes };
        if batches >= BATCHES_MAX || all_bytes >= BYTES_MAX {
            return Err(StoreError::Busy { waiting: batches });
        }
        Ok(ticket)
    }

    pub(super) fn is_none(&self) -> bool {
        self.batches.load(Ordering::Acquire) == 0
    }
}

/// One batch under way.
#[derive(Debug)]
pub(super) struct Ticket {
    under_way: Arc<UnderWay>,
    bytes: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.under_way.batches.fetch_sub(1, Ordering::AcqRel);
        self.under_way.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Job {
    /// A caller that no longer waits is fine: dropping the future does not take the commit back.
    pub(super) fn end(self, outcome: CommitOutcome) {
        let _ = self.answer.send(outcome);
    }

    /// Tells that there is no answer in time.
    pub(super) fn give_up(self, reason: &'static str) {
        let shard = self.partition.to_string();
        let outcome = if self.in_doubt {
            Err(CommitError::Unknown { reason })
        } else {
            Err(StoreError::Unreachable { shard, reason: reason.to_owned() }.into())
        };
        self.end(outcome);
    }
}
