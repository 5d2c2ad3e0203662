//! What lies in the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::FutureExt;
use state::{Key, Prefix, Space, Store};

use super::World;
use crate::session::{Session, SessionId};
use crate::shard::sessions::records;

impl World {
    /// Sessions that are stored.
    pub(in super::super) fn stored_sessions(&self) -> Vec<Session> {
        let records = self.stored("session").into_iter();
        records
            .filter(|(_, record)| records::read_alias(record).is_none())
            .map(|(key, record)| {
                Session::decode(SessionId(key.id[..].try_into().unwrap()), &record).unwrap()
            })
            .collect()
    }

    /// The only record of a session.
    pub(in super::super) fn record(&self) -> Bytes {
        self.stored("session").pop().unwrap().1
    }

    /// The indexes hold what follows from the records, and nothing else.
    pub(in super::super) fn check_indexes(&self) {
        let entries = |space| self.stored(space).into_iter().map(|(key, _)| key);
        let found: BTreeSet<Key> = entries("owned").chain(entries("due")).collect();
        let mut expected = BTreeSet::new();
        let records = self.stored("session").into_iter();
        for (key, record) in records.filter(|(_, record)| records::read_alias(record).is_none()) {
            let session =
                Session::decode(SessionId(key.id[..].try_into().unwrap()), &record).unwrap();
            let writes = records::update(None, &session, record).writes;
            expected
                .extend(writes.into_iter().map(|write| write.key).filter(|other| *other != key));
        }
        let told = format!("{:?}:\n{}", self.trouble, self.log.join("\n"));
        assert_eq!(found, expected, "{told}");
    }

    pub(in super::super) fn stored(&self, space: &'static str) -> Vec<(Key, Bytes)> {
        let space = Space::named(space);
        let page = self.store.scan(&space, &Prefix::All, None, 100);
        let page = page.now_or_never().unwrap().unwrap();
        page.into_iter().map(|(key, record)| (key, record.value)).collect()
    }

    pub(in super::super) fn stored_octets(&self) -> usize {
        self.record().len()
    }
}
