//! Removes what is over: records whose lifetime ended, and entries of the index whose record Redis has removed.
//!
//! Every client looks at a partition every now and then; a mark in Redis says when it was swept last, by whomever, so that
//! each is swept about once in [`SWEEP_INTERVAL`], and sooner where a list met something that is over. A step looks at [`STEP`] records, so that it holds up nobody. Until
//! then an ended record is invisible, and takes room.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Value, cmd};
use tracing::debug;

use super::layout::{PARTITIONS, Partition};
use super::reader;
use super::routes::Shared;
use crate::error::StoreError;

/// How old a partition's last sweep must be.
const SWEEP_INTERVAL: Duration = Duration::from_secs(120);
/// The same where a list met something that is over.
const MET_INTERVAL: Duration = Duration::from_secs(10);
/// How often a client looks at the next partition.
const TURN: Duration = SWEEP_INTERVAL.checked_div(PARTITIONS as u32).expect("there are partitions");
/// How many entries one call looks at: some hundred microseconds of the node's time.
const STEP: usize = 256;
/// Between two calls for one partition.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Nodes differ in time, and what has just ended for one may be refreshed by another.
const GRACE: Duration = Duration::from_secs(5);

/// Sweeps as long as the client lives.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut turn = RandomState::new().hash_one(0) as usize;
    let mut next_at = Instant::now() + TURN;
    loop {
        let met = tokio::time::timeout_at(next_at.into(), shared.sweeping.notified()).await.is_ok();
        let mut left = Vec::new();
        while let Some(partition) = shared.next_to_sweep() {
            let swept = sweep(&shared, partition, MET_INTERVAL).await;
            if swept.is_err() {
                left.push(partition);
            }
            report(partition, swept);
        }
        shared.sweep_later(left);
        if !met {
            next_at = Instant::now() + TURN;
            turn = turn.wrapping_add(1);
            let Some(partition) = Partition::all().nth(turn % PARTITIONS) else { continue };
            report(partition, sweep(&shared, partition, SWEEP_INTERVAL).await);
        }
    }
}

fn report(partition: Partition, swept: Result<u64, StoreError>) {
    match swept {
        Ok(0) => {}
        Ok(removed) => debug!(%partition, removed, "swept"),
        Err(error) => debug!(%partition, %error, "not swept"),
    }
}

/// Sweeps a partition unless somebody has within `interval`; how many entries were removed.
pub(super) async fn sweep(
    shared: &Arc<Shared>,
    partition: Partition,
    interval: Duration,
) -> Result<u64, StoreError> {
    let mut removed = 0;
    let mut from = b"-".to_vec();
    let mut age = interval.as_millis().to_string();
    loop {
        let now = shared.options.clock.now().saturating_sub(GRACE);
        let mut sweep = cmd("FCALL");
        sweep.arg(shared.functions.sweep()).arg(2);
        sweep.arg(shared.layout.index(partition)).arg(shared.layout.swept(partition));
        sweep.arg(now.0).arg(&age).arg(&from).arg(STEP);
        let answer = reader::ask(shared, partition, sweep).await?;
        let Some((looked_at, gone, last)) = taken_apart(answer) else { return Ok(removed) };
        removed += gone;
        if looked_at < STEP as u64 {
            return Ok(removed);
        }
        age.clear();
        from = [b"(", last.as_slice()].concat();
        tokio::time::sleep(STEP_PAUSE).await;
    }
}

/// `None`: somebody else has swept.
fn taken_apart(answer: Value) -> Option<(u64, u64, Vec<u8>)> {
    let Value::Array(fields) = answer else { return None };
    match <[Value; 3]>::try_from(fields) {
        Ok([Value::Int(looked_at), Value::Int(removed), Value::BulkString(last)]) => {
            Some((looked_at.unsigned_abs(), removed.unsigned_abs(), last))
        }
        _ => None,
    }
}
