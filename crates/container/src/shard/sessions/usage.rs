//! Which applications, of which versions, have sessions. A version may go when none has it; so whatever is not known
//! counts as a session.
//!
//! Two looks find them all, in this order: what is at work here and may not be stored yet ([`Shard::applications_at_work`]),
//! then the records of the store, those of sessions that are over included: a key may begin them anew with their version
//! ([`stored_applications`]).

use std::collections::BTreeSet;

use state::{Key, Prefix, Store};

use super::{SessionsError, records};
use crate::session::{Session, SessionId};
use crate::shard::Shard;
use crate::shard::jobs::Job;

/// Sessions that are here only, and at rest, are read so many at a time: the shard must not stand still for it.
const READ_MAX: usize = 10_000;

impl Shard {
    /// The applications of sessions that begin, of which something is under way, or that are not in the store. None: there
    /// are too many to look through.
    pub fn applications_at_work(&self) -> Option<BTreeSet<String>> {
        let mut found = self.applications_asked();
        let mut read = 0;
        for (id, entry) in &self.sessions.entries {
            let application = match &entry.live {
                Some(live) => live.session.application().to_owned(),
                None if entry.version.is_some() => continue,
                None if read == READ_MAX => return None,
                None => {
                    read += 1;
                    Session::decode(*id, &entry.record).ok()?.application().to_owned()
                }
            };
            found.insert(application);
        }
        Some(found)
    }

    /// The applications of sessions that begin, and are not in the store yet, but will be.
    pub fn applications_beginning(&self) -> BTreeSet<String> {
        let mut found = self.applications_asked();
        let live = self.sessions.entries.values().filter_map(|entry| {
            let begins = entry.version.is_none() && !entry.is_volatile;
            entry.live.as_ref().filter(|_| begins)
        });
        found.extend(live.map(|live| live.session.application().to_owned()));
        found
    }

    /// Those that are being asked for a key, or whose caller is.
    fn applications_asked(&self) -> BTreeSet<String> {
        let asked_for = self.jobs.values().filter_map(Job::wanted_by);
        let asked = self.sessions.keys.applications().chain(asked_for);
        asked.map(|application| application.name().to_owned()).collect()
    }
}

/// Adds the applications that a page of the store's records names to `found`; where the next page begins, if there is one.
///
/// # Errors
/// [`SessionsError`]: a session may be of any application then.
pub async fn stored_applications(
    store: &dyn Store,
    after: Option<&Key>,
    page: usize,
    found: &mut BTreeSet<String>,
) -> Result<Option<Key>, SessionsError> {
    let records = store.scan(&records::SESSION, &Prefix::All, after, page).await?;
    let is_last = records.len() < page;
    let last = records.last().map(|(key, _)| key.clone());
    for (key, record) in records {
        let Ok(id) = key.id.as_ref().try_into().map(SessionId) else { continue };
        match Session::decode(id, &record.value) {
            Ok(session) if found.contains(session.application()) => {}
            Ok(session) => drop(found.insert(session.application().to_owned())),
            // It names no application.
            Err(_) if records::read_alias(&record.value).is_some() => {}
            Err(source) => return Err(SessionsError::Record { id, source }),
        }
    }
    Ok(last.filter(|_| !is_last))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use state::engine::fake::FakeStore;
    use state::{Batch, Expect};

    use super::*;
    use crate::ownership::ID_BYTES;

    #[test]
    fn a_record_that_cannot_be_read_may_be_of_any_application_and_an_alias_is_of_none() {
        let store = FakeStore::default();
        let holds = |octet: u8, record: &[u8]| {
            let key = records::key(SessionId([octet; ID_BYTES]));
            let batch = Batch::new().put(key, Expect::Any, Bytes::copy_from_slice(record), None);
            store.commit(batch).now_or_never().unwrap().unwrap();
            let mut found = BTreeSet::new();
            let page = stored_applications(&store, None, 10, &mut found).now_or_never().unwrap();
            page.map(|_| found)
        };
        let mut alias = vec![0xa1];
        alias.extend([7; ID_BYTES]);
        assert_eq!(holds(1, &alias).unwrap(), BTreeSet::new());
        // Of a release before or after this one.
        holds(2, &[3, 0, 0]).unwrap_err();
    }
}
