//! On what conditions a batch is applied, given what is known of its records. Pure.

use std::collections::BTreeMap;

use state::{Batch, Expect, Key, UnixMillis, Version};

/// What lies under a key; nothing is revision zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The change that wrote it.
    pub(super) revision: i64,
    /// When its lifetime ends.
    pub(super) expires_at: Option<UnixMillis>,
}

/// What follows from the batch's expectations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It applies if each of these records is still of that revision.
    If(Vec<(Key, i64)>),
    /// It does not apply.
    Conflict {
        /// The first write whose expectation does not hold.
        key: Key,
        /// What is there.
        found: Option<Version>,
    },
}

/// What follows from the batch's expectations at `now`. A record whose lifetime is over counts as absent, but is still
/// there for etcd.
pub(super) fn plan(batch: &Batch, known: &BTreeMap<Key, Found>, now: UnixMillis) -> Plan {
    let mut conditions = BTreeMap::new();
    for write in &batch.writes {
        let found = known.get(&write.key).copied().unwrap_or_default();
        let is_over = found.expires_at.is_some_and(|end| end <= now);
        let version =
            (found.revision > 0 && !is_over).then(|| Version(found.revision.unsigned_abs()));
        let holds = match write.expect {
            Expect::Any => continue,
            Expect::Absent => version.is_none(),
            Expect::Version(expected) => version == Some(expected),
        };
        if !holds {
            return Plan::Conflict { key: write.key.clone(), found: version };
        }
        conditions.insert(write.key.clone(), found.revision);
    }
    Plan::If(conditions.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::Space;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn key(id: &'static str) -> Key {
        Key::new(Space::named("account"), "tag", id)
    }

    fn known(found: &[(&'static str, i64, Option<u64>)]) -> BTreeMap<Key, Found> {
        let of = |&(id, revision, end): &(&'static str, i64, Option<u64>)| {
            (key(id), Found { revision, expires_at: end.map(UnixMillis) })
        };
        found.iter().map(of).collect()
    }

    #[test]
    fn what_is_expected_becomes_a_condition() {
        let batch = Batch::new()
            .put(key("a"), Expect::Absent, "", None)
            .put(key("b"), Expect::Version(Version(7)), "", None)
            .delete(key("c"), Expect::Any);
        let known = known(&[("b", 7, None), ("c", 5, None)]);
        assert_eq!(plan(&batch, &known, NOW), Plan::If(vec![(key("a"), 0), (key("b"), 7)]));
    }

    #[test]
    fn the_first_that_is_not_as_expected_is_named() {
        let batch = Batch::new().put(key("a"), Expect::Version(Version(7)), "", None).put(
            key("b"),
            Expect::Absent,
            "",
            None,
        );
        let absent = Plan::Conflict { key: key("a"), found: None };
        assert_eq!(plan(&batch, &known(&[("b", 3, None)]), NOW), absent);
        let there = Plan::Conflict { key: key("b"), found: Some(Version(3)) };
        assert_eq!(plan(&batch, &known(&[("a", 7, None), ("b", 3, None)]), NOW), there);
    }

    #[test]
    fn an_ended_record_is_absent_and_yet_in_the_way() {
        let known = known(&[("a", 7, Some(1_000))]);
        let create = Batch::new().put(key("a"), Expect::Absent, "", None);
        assert_eq!(plan(&create, &known, NOW), Plan::If(vec![(key("a"), 7)]));
        let replace = Batch::new().put(key("a"), Expect::Version(Version(7)), "", None);
        let absent = Plan::Conflict { key: key("a"), found: None };
        assert_eq!(plan(&replace, &known, NOW), absent);
        assert_eq!(plan(&replace, &known, UnixMillis(999)), Plan::If(vec![(key("a"), 7)]));
    }
}
