//! Where sessions lie in the store: their records, their entries in the index by owner and in the one by due time.
//!
//! | space | id | value |
//! |---|---|---|
//! | `session` | session id | the session |
//! | `session` | id of the set-up that an INVITE would begin | alias: the session that a key led the INVITE to |
//! | `owned` | owner, kind, session id | choice hash: while something of the session would have to go on at once |
//! | `due` | due time in Unix milliseconds, 8 octets big-endian; session id | nothing: its next timer, or its end |
//!
//! All under one bucket, so that one batch writes them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use state::codec::{Reader, Writer};
use state::{Batch, Expect, Key, Prefix, Space, UnixMillis, Version};
use topology::{ChoiceKey, Incarnation};

use crate::ownership::index::{Owned, RecordKind};
use crate::ownership::{ID_BYTES, bucket, tag_of};
use crate::session::{Session, SessionId, limits};

/// Where the sessions lie.
pub(super) const SESSION: Space = Space::named("session");

/// Where the due times lie.
pub(super) const DUE: Space = Space::named("due");

/// How long a record outlives its session's own time: a clock that was set must not end a call.
const LIFETIME_BEYOND: Duration = Duration::from_secs(3_600);

/// For so long a CANCEL or an ACK finds the session of its INVITE by the alias: as long as an INVITE of ours may wait.
const ALIAS_LIFETIME: Duration = limits::INVITE_TIME_MAX;

/// What an alias begins with: no format level of a session.
const ALIAS_LEVEL: u8 = 0xa1;

/// Says that what is looked for under `alias` is in the session `id`. Under the same id as a session that the INVITE began
/// would have, so that one read finds either.
pub(super) fn write_alias(alias: SessionId, id: SessionId, wall: UnixMillis) -> Batch {
    let mut writer = Writer::new(ALIAS_LEVEL, 1 + ID_BYTES);
    writer.fixed(&id.0);
    let expires_at = Some(wall.saturating_add(ALIAS_LIFETIME));
    Batch::new().put(key(alias), Expect::Any, writer.finish(), expires_at)
}

/// The session that an alias leads to; None for what is no alias.
pub(super) fn read_alias(record: &Bytes) -> Option<SessionId> {
    Reader::new(record, ALIAS_LEVEL).and_then(|mut reader| reader.fixed()).map(SessionId).ok()
}

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

/// Where a session stands in the indexes: a function of its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entered {
    owner: Option<Incarnation>,
    due: Option<UnixMillis>,
    /// Of the entries, too.
    lifetime: UnixMillis,
}

impl Entered {
    pub(super) fn of(session: &Session) -> Entered {
        Entered {
            owner: session.is_open().then_some(session.owner.incarnation),
            due: (!session.is_over()).then(|| session.due()),
            lifetime: session.expires().saturating_add(LIFETIME_BEYOND),
        }
    }

    /// The entries that go, and those that come or live for another time.
    fn changed_to(self, is: Entered) -> (Entered, Entered) {
        let is_refreshed = self.lifetime != is.lifetime;
        let lost = Entered {
            owner: self.owner.filter(|_| self.owner != is.owner),
            due: self.due.filter(|_| self.due != is.due),
            ..self
        };
        let new = Entered {
            owner: is.owner.filter(|_| is_refreshed || self.owner != is.owner),
            due: is.due.filter(|_| is_refreshed || self.due != is.due),
            ..is
        };
        (lost, new)
    }

    fn strike(self, id: SessionId, mut batch: Batch) -> Batch {
        if let Some(owner) = self.owner {
            batch = owned(id, owner).strike(batch);
        }
        match self.due {
            Some(due) => batch.delete(due_key(id, due), Expect::Any),
            None => batch,
        }
    }

    fn enter(self, id: SessionId, mut batch: Batch) -> Batch {
        let lifetime = Some(self.lifetime);
        if let Some(owner) = self.owner {
            batch = owned(id, owner).enter(batch, lifetime);
        }
        match self.due {
            Some(due) => batch.put(due_key(id, due), Expect::Any, Bytes::new(), lifetime),
            None => batch,
        }
    }
}

/// What takes a session from `before` (with its version) to `after`, whose record is `value`; a session of which
/// nothing is left disappears.
///
/// `before` is of the record as it is stored: a commit of which nothing is known may have come about, and what is
/// remembered would leave entries behind.
pub(super) fn update(before: Option<(Entered, Version)>, after: &Session, value: Bytes) -> Batch {
    let id = after.id;
    let is_gone = after.is_over() && !after.is_open();
    let is = Entered::of(after);
    let expect = before.map_or(Expect::Absent, |(_, version)| Expect::Version(version));
    let mut batch = match is_gone {
        true => Batch::new().delete(key(id), expect),
        false => Batch::new().put(key(id), expect, value, Some(is.lifetime)),
    };
    let was = before.map(|(entered, _)| entered).unwrap_or_default();
    // An entry that stays and lives longer is written anew.
    let (lost, new) = was.changed_to(is);
    batch = lost.strike(id, batch);
    new.enter(id, batch)
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
