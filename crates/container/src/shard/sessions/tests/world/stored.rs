//! What lies in the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::FutureExt;
use state::{Key, Prefix, Space, Store};

use super::World;
use crate::session::{Session, SessionId};
use crate::shard::sessions::{records, stored_applications};

impl World {
    /// Whether anybody says that there are sessions of it: the containers, then the store.
    pub(in super::super) fn has_sessions(&self, application: &str) -> bool {
        let containers = self.containers.iter().flatten();
        let mut at_work = containers.flat_map(|container| container.shard.applications_at_work());
        at_work.any(|found| found.contains(application)) || self.stores(application)
    }

    /// Whether the store has one, or a container says that one begins.
    pub(in super::super) fn has_begun(&self, application: &str) -> bool {
        let containers = self.containers.iter().flatten();
        let mut beginning = containers.map(|container| container.shard.applications_beginning());
        beginning.any(|found| found.contains(application)) || self.stores(application)
    }

    fn stores(&self, application: &str) -> bool {
        let mut found = BTreeSet::new();
        let mut after = None;
        loop {
            let page = stored_applications(&*self.store, after.as_ref(), 1, &mut found);
            after = page.now_or_never().unwrap().unwrap();
            if after.is_none() {
                break;
            }
        }
        found.contains(application)
    }

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
