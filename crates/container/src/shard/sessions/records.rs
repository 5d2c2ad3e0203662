//! Where sessions lie in the store: their records, their entries in the index by owner and in the one by due time.
//!
//! | space | id | value |
//! |---|---|---|
//! | `session` | session id | the session |
//! | `owned` | owner, kind, session id | choice hash: while something of the session would have to go on at once |
//! | `due` | due time in Unix milliseconds, 8 octets big-endian; session id | nothing: its next timer, or its end |
//!
//! All under one bucket, so that one batch writes them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use state::{Batch, Expect, Key, Prefix, Space, UnixMillis, Version};
use topology::{ChoiceKey, Incarnation};

use crate::ownership::index::{Owned, RecordKind};
use crate::ownership::{ID_BYTES, bucket, tag_of};
use crate::session::{Session, SessionId};

const SESSION: Space = Space::named("session");

/// Where the due times lie.
pub(super) const DUE: Space = Space::named("due");

/// How long a record outlives its session's own time: a clock that was set must not end a call.
const LIFETIME_BEYOND: Duration = Duration::from_secs(3_600);

pub(super) fn key(id: SessionId) -> Key {
    Key::new(SESSION, bucket(&id.0), Bytes::copy_from_slice(&id.0))
}

/// The entry of a session in the index by owner.
pub(super) fn owned(id: SessionId, owner: Incarnation) -> Owned {
    let choice = ChoiceKey::Session(&id.0).hash();
    Owned { owner, kind: RecordKind::Session, id: id.0, choice }
}

fn due_key(id: SessionId, due: UnixMillis) -> Key {
    let mut entry = BytesMut::with_capacity(8 + ID_BYTES);
    entry.put_u64(due.0);
    entry.put_slice(&id.0);
    Key::new(DUE, bucket(&id.0), entry.freeze())
}

/// Reads an entry of the index by due time; None for what has another form.
pub(super) fn read_due(key: &Key) -> Option<(UnixMillis, SessionId)> {
    let (due, id) = key.id.split_first_chunk::<8>()?;
    Some((UnixMillis(u64::from_be_bytes(*due)), SessionId(id.try_into().ok()?)))
}

/// The entries of one bucket, the next due first.
pub(super) fn due_in(bucket: u8) -> Prefix {
    Prefix::tag(tag_of(bucket))
}

/// What takes a session from `before` (with its version) to `after`, whose record is `value`; a session of which
/// nothing is left disappears.
pub(super) fn update(before: Option<(&Session, Version)>, after: &Session, value: Bytes) -> Batch {
    let id = after.id;
    let is_gone = after.is_over() && !after.is_open();
    let lifetime = after.expires().saturating_add(LIFETIME_BEYOND);
    let expect = before.map_or(Expect::Absent, |(_, version)| Expect::Version(version));
    let mut batch = match is_gone {
        true => Batch::new().delete(key(id), expect),
        false => Batch::new().put(key(id), expect, value, Some(lifetime)),
    };
    let (was_owned, is_owned) = (
        before.map(|(session, _)| session).filter(|session| session.is_open()),
        Some(after).filter(|session| session.is_open() && !is_gone),
    );
    let owner = |session: &Session| session.owner.incarnation;
    if was_owned.map(owner) != is_owned.map(owner) {
        if let Some(session) = was_owned {
            batch = owned(id, owner(session)).strike(batch);
        }
        if let Some(session) = is_owned {
            batch = owned(id, owner(session)).enter(batch, Some(lifetime));
        }
    }
    let due = |session: &Session| (!session.is_over()).then(|| session.due());
    let (was_due, is_due) = (before.and_then(|(session, _)| due(session)), due(after));
    if was_due != is_due {
        if let Some(was_due) = was_due {
            batch = batch.delete(due_key(id, was_due), Expect::Any);
        }
        if let Some(is_due) = is_due {
            batch = batch.put(due_key(id, is_due), Expect::Any, Bytes::new(), Some(lifetime));
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn due_entries_read_back_and_the_next_due_comes_first() {
        let id = |first| SessionId([first; ID_BYTES]);
        let early = due_key(id(7), UnixMillis(255));
        let late = due_key(id(7), UnixMillis(256));
        assert!(early < late);
        assert_eq!(read_due(&late), Some((UnixMillis(256), id(7))));
        assert!(due_in(7).matches(&late));
        assert_eq!(read_due(&Key::new(DUE, "x", "short")), None);
    }
}
