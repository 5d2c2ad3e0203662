//! The cluster's configuration in its repository: the version that holds, and the last ones before it.
//!
//! | id, under one tag | what |
//! |---|---|
//! | `current` | the [`Change`] that holds |
//! | `v/NUMBER` | each of the last [`HISTORY_MAX`] changes, that one among them |
//!
//! A change is one commit, on the condition that `current` is still the version that it was made from: of two operators who
//! change the same version one is told ([`ConfigurationError::Overtaken`]). What a document means is [`config::document`]'s business.

use config::NodeConfig;
use serde::{Deserialize, Serialize};
use state::{Batch, CommitError, Expect, Key, Prefix, Record, Space, Store, StoreError};
use topology::RunsWith;
use topology::protocol::ConfigurationStatus;

/// Changes that can be looked at and gone back to; older ones are forgotten.
pub const HISTORY_MAX: u64 = 100;

/// Octets of what its author says of a change; more are cut.
pub const COMMENT_BYTES_MAX: usize = 1_000;

const SPACE: Space = Space::named("configuration");
const TAG: &str = "configuration";
const CURRENT: &str = "current";
const VERSIONS: &str = "v/";

/// One change of the cluster's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The version that it made, from 1.
    pub version: u64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Who made it, as the host names him.
    pub by: String,
    /// On which node.
    pub node: String,
    /// What he says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The whole document from then on.
    pub text: String,
}

/// A change that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The version that it was made from.
    pub base: u64,
    /// See [`Change`].
    pub at_ms: u64,
    /// See [`Change`].
    pub by: String,
    /// See [`Change`].
    pub node: String,
    /// See [`Change`].
    pub comment: Option<String>,
    /// See [`Change`].
    pub text: String,
}

/// Why the configuration cannot be had, or was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Somebody else has changed it since the version that a change was made from.
    #[error(
        "the cluster's configuration is version {current} by now, and this was made from version {base}"
    )]
    Overtaken {
        /// The version that it was made from.
        base: u64,
        /// The version that holds.
        current: u64,
    },
    /// What lies there is none; perhaps a later release has written it.
    #[error("the record {key} of the cluster's configuration cannot be read: {reason}")]
    Unreadable {
        /// Which.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository takes no change; or whether it has taken it is not known.
    #[error(transparent)]
    Commit(CommitError),
}

/// How the node that was started with that configuration stands to what holds in its cluster, of which it may have become a member
/// since.
pub fn standing(config: &NodeConfig, cluster: &str, current: Option<u64>) -> ConfigurationStatus {
    let is_of_another = config.cluster_version != 0 && config.cluster_id != cluster;
    ConfigurationStatus { runs_with: config.cluster_version, is_of_another, current }
}

/// What the others of the cluster are told of that.
pub fn runs_with(config: &NodeConfig, cluster: &str) -> RunsWith {
    let ConfigurationStatus { runs_with, is_of_another, .. } = standing(config, cluster, None);
    // Of this cluster's it runs with none.
    RunsWith { configuration: if is_of_another { 0 } else { runs_with }, ..RunsWith::default() }
}

/// The change that holds; `None`: nobody has made any, and the document is empty.
///
/// # Errors
/// [`ConfigurationError`].
pub async fn current(store: &dyn Store) -> Result<Option<Change>, ConfigurationError> {
    Ok(held(store).await?.map(|(change, _)| change))
}

/// The change that made that version; `None`: it was never made, or is forgotten.
///
/// # Errors
/// [`ConfigurationError`].
pub async fn version(
    store: &dyn Store,
    version: u64,
) -> Result<Option<Change>, ConfigurationError> {
    let key = key_of(version);
    store.read(&key).await?.map(|record| change(&key, &record)).transpose()
}

/// The last changes, the latest first.
///
/// # Errors
/// [`ConfigurationError`].
pub async fn history(store: &dyn Store) -> Result<Vec<Change>, ConfigurationError> {
    let prefix = Prefix::Tag { tag: TAG.into(), id_start: VERSIONS.into() };
    let limit = usize::try_from(HISTORY_MAX).unwrap_or(usize::MAX);
    let records = store.scan(&SPACE, &prefix, None, limit).await?;
    records.iter().rev().map(|(key, record)| change(key, record)).collect()
}

/// Makes a change, if the version that it was made from holds.
///
/// # Errors
/// [`ConfigurationError`]; nothing has changed then, except after [`CommitError::Unknown`].
pub async fn apply(store: &dyn Store, proposal: Proposal) -> Result<Change, ConfigurationError> {
    let Proposal { base, at_ms, by, node, mut comment, text } = proposal;
    if let Some(comment) = &mut comment {
        comment.truncate(comment.floor_char_boundary(COMMENT_BYTES_MAX));
    }
    let (current, expect) = match held(store).await? {
        Some((current, record)) => (current.version, Expect::Version(record.version)),
        None => (0, Expect::Absent),
    };
    if current != base {
        return Err(ConfigurationError::Overtaken { base, current });
    }
    let change = Change { version: base + 1, at_ms, by, node, comment, text };
    let value = serde_json::to_vec(&change).expect("a change has texts and numbers only");
    let mut batch = Batch::new().put(current_key(), expect, value.clone(), None);
    batch = batch.put(key_of(change.version), Expect::Any, value, None);
    if let Some(forgotten) = change.version.checked_sub(HISTORY_MAX) {
        batch = batch.delete(key_of(forgotten), Expect::Any);
    }
    match store.commit(batch).await {
        Ok(_) => Ok(change),
        Err(CommitError::Conflict { .. }) => {
            let current = held(store).await?.map_or(0, |(current, _)| current.version);
            Err(ConfigurationError::Overtaken { base, current })
        }
        Err(error) => Err(ConfigurationError::Commit(error)),
    }
}

async fn held(store: &dyn Store) -> Result<Option<(Change, Record)>, ConfigurationError> {
    let key = current_key();
    let Some(record) = store.read(&key).await? else { return Ok(None) };
    Ok(Some((change(&key, &record)?, record)))
}

fn change(key: &Key, record: &Record) -> Result<Change, ConfigurationError> {
    serde_json::from_slice(&record.value).map_err(|error| ConfigurationError::Unreadable {
        key: key.to_string(),
        reason: error.to_string(),
    })
}

fn current_key() -> Key {
    Key::new(SPACE, TAG, CURRENT)
}

/// In the order of the versions.
fn key_of(version: u64) -> Key {
    Key::new(SPACE, TAG, format!("{VERSIONS}{version:020}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use state::clock::SystemClock;
    use state::engine::fake::{CommitFault, FakeStore};

    use super::*;

    fn store() -> FakeStore {
        FakeStore::new(Arc::new(SystemClock::default()))
    }

    fn proposal(base: u64, text: &str) -> Proposal {
        Proposal {
            base,
            at_ms: 1_000 + base,
            by: "alice".to_owned(),
            node: "node1".to_owned(),
            comment: None,
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_version_of_another_cluster_is_none_of_this_one() {
        let config = NodeConfig {
            cluster_version: 7,
            cluster_id: "one".to_owned(),
            ..NodeConfig::default()
        };
        let status =
            |is_of_another| ConfigurationStatus { runs_with: 7, is_of_another, current: Some(3) };
        assert_eq!(standing(&config, "one", Some(3)), status(false));
        assert_eq!(standing(&config, "two", Some(3)), status(true));
        assert_eq!(runs_with(&config, "one").configuration, 7);
        assert_eq!(runs_with(&config, "two").configuration, 0);
        // Before it was a member of any.
        assert!(!standing(&NodeConfig::default(), "one", Some(3)).is_of_another);
    }

    #[tokio::test]
    async fn versions_follow_one_another_and_are_remembered() {
        let store = store();
        assert_eq!(current(&store).await.unwrap(), None);
        assert_eq!(history(&store).await.unwrap(), []);
        let first = apply(&store, proposal(0, "a")).await.unwrap();
        let second = apply(&store, proposal(1, "b")).await.unwrap();
        assert_eq!((first.version, second.version), (1, 2));
        assert_eq!(current(&store).await.unwrap().as_ref(), Some(&second));
        assert_eq!(version(&store, 1).await.unwrap().as_ref(), Some(&first));
        assert_eq!(version(&store, 3).await.unwrap(), None);
        assert_eq!(history(&store).await.unwrap(), [second, first]);
    }

    #[tokio::test]
    async fn who_changes_what_was_changed_meanwhile_is_told() {
        let store = store();
        apply(&store, proposal(0, "a")).await.unwrap();
        let told = apply(&store, proposal(0, "b")).await.unwrap_err().to_string();
        assert_eq!(
            told,
            "the cluster's configuration is version 1 by now, and this was made from version 0"
        );
        apply(&store, proposal(1, "b")).await.unwrap();
        assert!(apply(&store, proposal(1, "c")).await.is_err());
        // Between the look and the commit.
        store.inject_commit_fault(CommitFault::Conflicts);
        let error = apply(&store, proposal(2, "c")).await.unwrap_err();
        assert!(matches!(error, ConfigurationError::Overtaken { base: 2, .. }), "{error:?}");
        assert_eq!(current(&store).await.unwrap().unwrap().text, "b");
    }

    #[tokio::test]
    async fn only_so_many_versions_are_remembered() {
        let store = store();
        for base in 0..HISTORY_MAX + 5 {
            apply(&store, proposal(base, &base.to_string())).await.unwrap();
        }
        let all = history(&store).await.unwrap();
        let versions: Vec<u64> = all.iter().map(|change| change.version).collect();
        let expected: Vec<u64> = (6..=HISTORY_MAX + 5).rev().collect();
        assert_eq!(versions, expected);
        assert_eq!(version(&store, 5).await.unwrap(), None);
        // An operator whose version is forgotten changes nothing by it either.
        assert!(apply(&store, proposal(3, "old")).await.is_err());
    }

    #[tokio::test]
    async fn what_a_later_release_has_written_otherwise_is_told() {
        let store = store();
        let batch = Batch::new().put(current_key(), Expect::Any, "{}", None);
        store.commit(batch).await.unwrap();
        let told = current(&store).await.unwrap_err().to_string();
        assert!(
            told.contains("configuration/configuration/current") && told.contains("cannot be read"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_comment_is_cut_at_its_bound() {
        let store = store();
        let long = Proposal { comment: Some("ü".repeat(COMMENT_BYTES_MAX)), ..proposal(0, "") };
        let comment = apply(&store, long).await.unwrap().comment.unwrap();
        assert_eq!(comment.len(), COMMENT_BYTES_MAX);
    }
}
