//! A batch ⇄ the call of the function that commits it, and what its answer means. Pure.

use std::collections::HashSet;

use redis::{Cmd, Value};

use super::layout::{Layout, Partition};
use super::library::Library;
use super::stored;
use crate::batch::{Batch, Change, Expect};
use crate::error::{CommitError, StoreError};
use crate::key::Key;
use crate::record::Version;
use crate::store::CommitOutcome;
use crate::time::UnixMillis;

/// How much later than a record's end Redis may remove it by itself: nodes differ in time, and a clock that was set wrongly
/// must not end what a frozen one keeps.
const NATIVE_EXPIRY_AFTER: u64 = 3_600_000;
/// Expiries from here on (the year 2527) get no native one: Redis counts in signed milliseconds.
const NATIVE_EXPIRY_MAX: u64 = 1 << 44;

/// By which a commit is recognised in the ledger.
pub(super) type CommitId = [u8; 8];

/// What a call takes beside its batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) id: CommitId,
    /// The version to give, if the partition has given no higher one.
    pub(super) version: Version,
    /// Lifetimes that end until then are over.
    pub(super) now: UnixMillis,
    /// It may have been done already: the ledger is asked first.
    pub(super) in_doubt: bool,
    /// The format level of the records that it writes.
    pub(super) level: u8,
}

/// The call that commits a batch; one without writes only leaves its mark in the ledger.
pub(super) fn encode(
    library: &Library,
    layout: &Layout,
    partition: Partition,
    batch: &Batch,
    call: Call,
) -> Cmd {
    let writes = &batch.writes;
    let mut cmd =
        Cmd::with_capacity(9 + 4 * writes.len(), 160 + batch.weight() + 64 * writes.len());
    cmd.arg("FCALL").arg(library.commit()).arg(writes.len() + 2);
    cmd.arg(layout.ledger(partition)).arg(layout.index(partition));
    for write in writes {
        cmd.arg(layout.record(&write.key));
    }
    cmd.arg(call.now.0).arg(&call.id).arg(&call.version.0.to_be_bytes());
    cmd.arg(if call.in_doubt { "1" } else { "0" });
    let last = is_last_of_its_key(batch);
    for (number, write) in writes.iter().enumerate() {
        match write.expect {
            Expect::Any => cmd.arg(""),
            Expect::Absent => cmd.arg("-"),
            Expect::Version(version) => cmd.arg(&version.0.to_be_bytes()),
        };
        // The state before the batch decides, and what the last write to a record leaves stays.
        match &write.change {
            _ if !last(number) => cmd.arg("").arg(""),
            Change::Delete => cmd.arg("-").arg(""),
            Change::Put { value, expires_at } => {
                cmd.arg(stored::encode(call.level, call.version, *expires_at, value));
                match expires_at {
                    Some(at) if at.0 < NATIVE_EXPIRY_MAX => cmd.arg(at.0 + NATIVE_EXPIRY_AFTER),
                    Some(_) | None => cmd.arg(""),
                }
            }
        };
    }
    cmd
}

fn is_last_of_its_key(batch: &Batch) -> impl Fn(usize) -> bool {
    let mut replaced = HashSet::new();
    if batch.writes.len() > 1 {
        let mut seen: HashSet<&Key> = HashSet::with_capacity(batch.writes.len());
        for (number, write) in batch.writes.iter().enumerate().rev() {
            if !seen.insert(&write.key) {
                replaced.insert(number);
            }
        }
    }
    move |number| !replaced.contains(&number)
}

/// What the function's answer means for its batch.
pub(super) fn outcome(batch: &Batch, answer: Value) -> CommitOutcome {
    match answer {
        Value::BulkString(version) => {
            let version = version_of(&version).ok_or_else(unreadable)?;
            Ok(vec![version; batch.writes.len()])
        }
        Value::Array(conflict) => match conflict.as_slice() {
            [Value::Int(write), Value::BulkString(found)] => {
                let write = usize::try_from(*write).ok().and_then(|at| batch.writes.get(at));
                let key = Box::new(write.ok_or_else(unreadable)?.key.clone());
                Err(CommitError::Conflict { key, found: version_of(found) })
            }
            _ => Err(unreadable()),
        },
        _ => Err(unreadable()),
    }
}

fn version_of(bytes: &[u8]) -> Option<Version> {
    Some(Version(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn unreadable() -> CommitError {
    StoreError::engine("understand what its function of commits answered", "an unexpected form")
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use redis::Arg;

    use super::*;
    use crate::key::Space;

    fn key(id: &'static str) -> Key {
        Key::new(Space::named("space"), "tag", id)
    }

    fn arguments(batch: &Batch) -> Vec<Vec<u8>> {
        let call = Call {
            id: [7; 8],
            version: Version(5),
            now: UnixMillis(1_000),
            in_doubt: false,
            level: stored::LEVEL,
        };
        let partition = Partition::of(b"tag");
        let cmd = encode(&Library::new(), &Layout::new(""), partition, batch, call);
        let bytes = |arg| match arg {
            Arg::Simple(bytes) => Vec::from(bytes),
            Arg::Cursor => panic!("no cursors"),
            _ => panic!("an unknown kind of argument"),
        };
        cmd.args_iter().map(bytes).collect()
    }

    #[test]
    fn only_the_last_write_to_a_record_changes_it_and_all_are_checked() {
        let batch = Batch::new()
            .put(key("a"), Expect::Absent, "first", Some(UnixMillis(2_000)))
            .put(key("b"), Expect::Any, "kept", Some(UnixMillis(2_000)))
            .delete(key("a"), Expect::Version(Version(3)));
        let arguments = arguments(&batch);
        let per_write: Vec<_> = arguments[3 + 5 + 4..].chunks(3).collect();
        let none: &[u8] = b"";
        assert_eq!(per_write[0], [b"-", none, none]);
        let kept = stored::encode(stored::LEVEL, Version(5), Some(UnixMillis(2_000)), b"kept");
        assert_eq!(per_write[1], [none, &kept, b"3602000"]);
        assert_eq!(per_write[2], [&3_u64.to_be_bytes(), &b"-"[..], none]);
    }

    #[test]
    fn an_end_that_redis_cannot_count_is_ours_alone() {
        let batch = Batch::new().put(key("a"), Expect::Any, "", Some(UnixMillis(u64::MAX)));
        assert_eq!(arguments(&batch).last().unwrap(), b"");
    }

    #[test]
    fn a_conflict_names_the_write_and_what_was_found() {
        let batch = Batch::new().delete(key("a"), Expect::Any).delete(key("b"), Expect::Absent);
        let found = Value::BulkString(9_u64.to_be_bytes().to_vec());
        let end = outcome(&batch, Value::Array(vec![Value::Int(1), found.clone()]));
        assert!(
            matches!(end, Err(CommitError::Conflict { key, found: Some(Version(9)) }) if *key == self::key("b"))
        );
        assert_eq!(outcome(&batch, found).unwrap(), [Version(9); 2]);
        for odd in [Value::Nil, Value::Array(vec![Value::Int(7), Value::BulkString(vec![])])] {
            assert!(matches!(outcome(&batch, odd), Err(CommitError::Store(_))));
        }
    }
}
