//! Keeping the NATs of phones open that do not do it themselves: each by exactly one container.
//!
//! A binding made over UDP through a NAT, without outbound, has an entry in an index record of its
//! address-of-record. The records lie in a fixed number of buckets, each a space of its own, so that they share
//! the hash tag (and so the commit) of the bindings and a bucket can still be listed. The bucket's owner is the first
//! candidate of the topology's choice for it: every container computes the same one, so each NAT is refreshed once
//! per interval, whoever took the REGISTER (kamailio#1299: N nodes that ping N times).
//!
//! Source: RFC 5626 §4.4 and RFC 6223 for why; DESIGN §3, registrar. Pure: reading is application.rs's.

use std::time::Duration;

use bytes::Bytes;
use state::{Batch, Expect, Key, Space, UnixMillis};

use crate::bindings::Bindings;
use state::codec::{Reader, RecordError, Writer};

/// Buckets: many more than containers, so that shares are even; few enough to list them all in one interval.
pub const BUCKETS: u64 = 64;

const FORMAT_LEVEL: u8 = 1;

/// The bucket of an address-of-record.
fn bucket_of(aor: &str) -> u64 {
    u64::from(blake3::hash(aor.as_bytes()).as_bytes()[0]) % BUCKETS
}

/// The space that holds a bucket.
pub fn space(bucket: u64) -> Space {
    Space::parse(&format!("keep-alive.{bucket}")).expect("letters, a dot and a small number")
}

fn key(aor: &str) -> Key {
    Key::new(space(bucket_of(aor)), aor.as_bytes().to_vec(), Bytes::new())
}

/// One flow to keep open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Topmost Path value of the binding: names the edge and the flow.
    pub path: Bytes,
    /// When the binding ends.
    pub expires_at: UnixMillis,
}

fn entries(bindings: &Bindings, now: UnixMillis) -> Vec<Entry> {
    bindings
        .living(now)
        .filter(|binding| binding.keep_alive)
        .filter_map(|binding| {
            let path = binding.path.first()?.clone();
            Some(Entry { path, expires_at: binding.expires_at })
        })
        .collect()
}

/// Adds to `batch` what the index needs when bindings change. An address-of-record that never had such a binding
/// costs nothing.
pub fn index(
    batch: Batch,
    aor: &str,
    before: &Bindings,
    after: &Bindings,
    now: UnixMillis,
) -> Batch {
    let (old, new) = (entries(before, now), entries(after, now));
    if old == new {
        return batch;
    }
    // The bindings' own expectation in the same batch guards this record too.
    match new.iter().map(|entry| entry.expires_at).max() {
        Some(last) => batch.put(key(aor), Expect::Any, encode(&new), Some(last)),
        None => batch.delete(key(aor), Expect::Any),
    }
}

fn encode(entries: &[Entry]) -> Bytes {
    let mut writer = Writer::new(FORMAT_LEVEL, 128 * entries.len());
    writer.number(entries.len() as u64);
    for entry in entries {
        writer.octets(&entry.path);
        writer.number(entry.expires_at.0);
    }
    writer.finish()
}

/// Reads an index record.
///
/// # Errors
/// [`RecordError`] when it is of another release or damaged.
pub fn decode(record: &Bytes) -> Result<Vec<Entry>, RecordError> {
    let mut reader = Reader::new(record, FORMAT_LEVEL)?;
    let count: usize = reader.small()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let path = reader.octets()?;
        entries.push(Entry { path, expires_at: UnixMillis(reader.number()?) });
    }
    reader.finish()?;
    Ok(entries)
}

/// The buckets whose turn came after `previous` and up to `now`: each once per interval, spread evenly over it.
///
/// A pause longer than an interval makes every bucket due once, not several times.
pub fn due(previous: UnixMillis, now: UnixMillis, interval: Duration) -> impl Iterator<Item = u64> {
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    (0..BUCKETS).filter(move |bucket| {
        let offset = interval / BUCKETS * bucket;
        let turn = |at: UnixMillis| (at.0 + interval - offset) / interval;
        turn(now) > turn(previous)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_is_due_once_per_interval_however_ticks_fall() {
        let interval = Duration::from_secs(25);
        for tick in [1_u64, 700, 3_000, 24_999, 25_000] {
            let mut counts = [0; BUCKETS as usize];
            let start = UnixMillis(1_700_000_000_000);
            let mut at = start;
            while at.0 < start.0 + 100_000 {
                let next = UnixMillis((at.0 + tick).min(start.0 + 100_000));
                for bucket in due(at, next, interval) {
                    counts[bucket as usize] += 1;
                }
                at = next;
            }
            assert_eq!(counts, [4; BUCKETS as usize], "ticks of {tick} ms");
        }
    }

    #[test]
    fn a_long_pause_makes_each_bucket_due_once() {
        let due: Vec<u64> =
            due(UnixMillis(0), UnixMillis(10_000_000), Duration::from_secs(25)).collect();
        assert_eq!(due, (0..BUCKETS).collect::<Vec<_>>());
    }

    #[test]
    fn entries_come_back_from_their_record() {
        let entries = vec![
            Entry { path: Bytes::from_static(b"<sip:t@192.0.2.1;lr>"), expires_at: UnixMillis(7) },
            Entry { path: Bytes::from_static(b"<sip:u@192.0.2.1;lr>"), expires_at: UnixMillis(8) },
        ];
        assert_eq!(decode(&encode(&entries)), Ok(entries));
    }
}
