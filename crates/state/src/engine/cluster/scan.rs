//! Lists in key order, put together from all partitions.
//!
//! Each partition has its keys in order. Each primary is asked once for the next few of all its partitions; what they
//! answer is merged here (bytes are compared here: Lua would compare by the locale of the server), and those partitions
//! that run out are asked again. Records of one tag lie in one partition and come in one answer, so that a list of a tag
//! is consistent unless it is longer than an answer may be ([`ANSWER_BYTES_MAX`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::layout::Partition;
use super::reader;
use super::routes::{RETRY_AFTER, Shared};
use super::stored::{self, Damage};
use crate::engine::ordered_key;
use crate::error::StoreError;
use crate::key::{Key, Prefix, Space};
use crate::record::Record;
use crate::store::SCAN_RECORDS_MAX;

/// How much one answer may hold, but for one step of 32 records.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What is wanted of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// All of it.
    Whole,
    /// Version and lifetime; the value is empty.
    Header,
}

/// What has come from one partition and is not given out yet.
struct Part {
    partition: Partition,
    /// What to ask for next, as `ZRANGE BYLEX` has it.
    from: Vec<u8>,
    is_at_end: bool,
    /// Encoded key and record; `None`: an entry of the index without one.
    found: VecDeque<(Vec<u8>, Option<Record>)>,
}

/// At most `limit` records that live, in key order, behind `after`.
pub(super) async fn scan(
    shared: &Arc<Shared>,
    space: &Space,
    prefix: &Prefix,
    after: Option<&Key>,
    limit: usize,
    want: Want,
) -> Result<Vec<(Key, Record)>, StoreError> {
    let start = ordered_key::prefix(space, prefix);
    let end = behind(&start);
    let after = after.map(ordered_key::encode).filter(|after| *after >= start);
    let is_beyond = after.as_ref().is_some_and(|after| *after >= end);
    let partitions: Vec<_> = match prefix {
        Prefix::Tag { tag, .. } => vec![Partition::of(tag)],
        Prefix::All | Prefix::TagStart(_) => Partition::all().collect(),
    };
    let from = after.map_or_else(|| [b"[", &start[..]].concat(), |at| [b"(", &at[..]].concat());
    let end = [b"(", end.as_slice()].concat();
    list(shared, partitions, from, &end, is_beyond, limit, want).await
}

/// As [`scan`], of all spaces.
pub(super) async fn page(
    shared: &Arc<Shared>,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<(Key, Record)>, StoreError> {
    let after = after.map(ordered_key::encode);
    let from = after.map_or_else(|| b"-".to_vec(), |at| [b"(", &at[..]].concat());
    list(shared, Partition::all().collect(), from, b"+", false, limit, Want::Whole).await
}

/// What lies in these partitions between two marks, as `ZRANGE BYLEX` has them.
async fn list(
    shared: &Arc<Shared>,
    partitions: Vec<Partition>,
    from: Vec<u8>,
    end: &[u8],
    is_beyond: bool,
    limit: usize,
    want: Want,
) -> Result<Vec<(Key, Record)>, StoreError> {
    let limit = limit.min(SCAN_RECORDS_MAX);
    let mut page = Vec::new();
    if limit == 0 {
        return Ok(page);
    }
    let part = |partition| Part {
        partition,
        from: from.clone(),
        is_at_end: is_beyond,
        found: VecDeque::new(),
    };
    let mut parts: Vec<_> = partitions.into_iter().map(part).collect();
    // Of many partitions each gives about its share; those that give more are asked again.
    let step = if parts.len() == 1 { limit } else { limit.div_ceil(parts.len()) + 2 };
    let now = shared.options.clock.now();
    while page.len() < limit {
        fill(shared, &mut parts, end, step.min(limit), want).await?;
        let next = parts.iter_mut().filter(|part| !part.found.is_empty());
        let Some(part) = next.min_by(|one, other| one.found[0].0.cmp(&other.found[0].0)) else {
            break;
        };
        let Some((name, record)) = part.found.pop_front() else { break };
        let living = record.filter(|record| !record.is_expired(now));
        if living.is_none() {
            shared.sweep_soon(part.partition);
        }
        if let Some(record) = living {
            let key = ordered_key::decode(&name).ok_or_else(|| StoreError::Corrupt {
                key: name.escape_ascii().to_string(),
                reason: "its key has no valid form",
            })?;
            page.push((key, record));
        }
    }
    Ok(page)
}

/// The least bytes behind all that begin with `start`, which begins with a space's name: not all of it is 0xFF.
fn behind(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Asks for more where something may follow and nothing is there.
async fn fill(
    shared: &Arc<Shared>,
    parts: &mut [Part],
    end: &[u8],
    step: usize,
    want: Want,
) -> Result<(), StoreError> {
    let deadline = Instant::now() + shared.options.patience;
    loop {
        let mut by_node: HashMap<Option<_>, Vec<&mut Part>> = HashMap::new();
        for part in parts.iter_mut().filter(|part| part.found.is_empty() && !part.is_at_end) {
            let node = shared.owner(part.partition).map(|node| node.id.clone());
            by_node.entry(node).or_default().push(part);
        }
        if by_node.is_empty() {
            return Ok(());
        }
        let asked = by_node.into_values().map(|parts| async {
            let command = command(shared, &parts, end, step, want);
            let answer = reader::ask_once(shared, parts[0].partition, &command).await;
            (parts, answer)
        });
        let mut reason = None;
        for (parts, answer) in join_all(asked).await {
            match answer? {
                Ok(answer) => take(parts, answer)?,
                Err(why) => reason = Some((parts[0].partition, why)),
            }
        }
        let Some((partition, reason)) = reason else { continue };
        if Instant::now() >= deadline {
            return Err(StoreError::Unreachable { shard: partition.to_string(), reason });
        }
        let mut changes = shared.map_changes.subscribe();
        shared.refresh.notify_one();
        let _ = tokio::time::timeout(RETRY_AFTER, changes.changed()).await;
    }
}

fn command(shared: &Shared, parts: &[&mut Part], end: &[u8], step: usize, want: Want) -> Cmd {
    let mut command = Cmd::with_capacity(5 + 4 * parts.len(), 128 + 128 * parts.len());
    command.arg("FCALL_RO").arg(shared.functions.page());
    // One partition is named as a key, so that its slot's way is told: MOVED, ASK.
    match parts {
        [part] => command.arg(1).arg(shared.layout.index(part.partition)),
        _ => command.arg(0),
    };
    command.arg(ANSWER_BYTES_MAX).arg(if want == Want::Whole { "1" } else { "0" });
    for part in parts {
        command.arg(shared.layout.tag(part.partition)).arg(&part.from).arg(end).arg(step);
    }
    command
}

/// Takes over what a primary has found in some partitions.
fn take(parts: Vec<&mut Part>, answer: Value) -> Result<(), StoreError> {
    let odd = || StoreError::engine("understand a list", "an unexpected form");
    let Value::Array(answers) = answer else { return Err(odd()) };
    if answers.len() != parts.len() {
        return Err(odd());
    }
    for (part, answer) in parts.into_iter().zip(answers) {
        let Value::Array(found) = answer else { return Err(odd()) };
        let mut found = found.into_iter();
        let Some(Value::Int(may_follow)) = found.next() else { return Err(odd()) };
        part.is_at_end = may_follow == 0;
        while let Some(name) = found.next() {
            let Value::BulkString(name) = name else { return Err(odd()) };
            let record = match found.next() {
                Some(Value::BulkString(record)) => Some(decode(&name, record)?),
                Some(Value::Nil) => None,
                _ => return Err(odd()),
            };
            part.found.push_back((name, record));
        }
        if let Some((last, _)) = part.found.back() {
            part.from = [b"(", &last[..]].concat();
        }
    }
    Ok(())
}

/// A record by its encoded key.
fn decode(name: &[u8], record: Vec<u8>) -> Result<Record, StoreError> {
    let shown = || {
        let key = ordered_key::decode(name);
        key.map_or_else(|| name.escape_ascii().to_string(), |key| key.to_string())
    };
    stored::decode(record).map_err(|damage| damaged(shown(), damage))
}

/// What is told of a record that cannot be read.
pub(super) fn damaged(key: String, damage: Damage) -> StoreError {
    match damage {
        Damage::Short => StoreError::Corrupt { key, reason: "it ends early" },
        Damage::Level(found) => StoreError::FormatUnreadable {
            item: format!("the stored record {key}"),
            found,
            oldest: stored::LEVEL,
            newest: stored::LEVEL_NEWEST,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(behind(b"space\0"), b"space\x01");
        assert_eq!(behind(b"space\0\xff\xff"), b"space\x01");
    }
}
