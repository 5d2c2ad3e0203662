//! Which version of the cluster's configuration holds, as the node's copy of the repository has it: what `outlast status` compares the
//! nodes with.

use state::Store;
use tokio::sync::watch;
use tracing::info;

use crate::configuration;

/// What was said of it.
#[derive(Default)]
pub(super) struct ConfigurationVersion {
    /// Why it could not be read last, said once.
    said: Option<String>,
}

impl ConfigurationVersion {
    /// Tells the version; what cannot be read leaves the one that was told. The result is what is amiss, when that is new.
    pub(super) async fn look(
        &mut self,
        store: &dyn Store,
        to: &watch::Sender<Option<u64>>,
    ) -> Option<String> {
        let current = match configuration::current(store).await {
            Ok(current) => current,
            Err(error) => {
                let error = error.to_string();
                let is_new = self.said.as_ref() != Some(&error);
                self.said = Some(error.clone());
                return is_new.then_some(error);
            }
        };
        self.said = None;
        let version = current.map_or(0, |change| change.version);
        let before = to.send_replace(Some(version));
        if before == Some(version) {
            return None;
        }
        if let Some(before @ 1..) = before
            && version < before
        {
            return Some(format!(
                "the cluster's repository had version {before}, and has {}; was it put back to what it was before?",
                if version == 0 {
                    "none any more".to_owned()
                } else {
                    format!("version {version}")
                }
            ));
        }
        info!(
            version,
            "the cluster's configuration; a node takes it when it is stopped and started"
        );
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use state::clock::SystemClock;
    use state::engine::fake::FakeStore;
    use state::{Batch, Expect, Key, Space};

    use super::*;
    use crate::configuration::{Proposal, apply};

    async fn changed(store: &FakeStore, base: u64) {
        let (by, node) = ("alice".to_owned(), "node1".to_owned());
        let proposal = Proposal { base, at_ms: 1, by, node, comment: None, text: String::new() };
        apply(store, proposal).await.unwrap();
    }

    fn current() -> Key {
        Key::new(Space::named("configuration"), "configuration", "current")
    }

    #[tokio::test]
    async fn what_cannot_be_read_leaves_the_version_that_was_told_and_is_said_once() {
        let store = FakeStore::new(Arc::new(SystemClock::default()));
        let (to, told) = watch::channel(None);
        let mut version = ConfigurationVersion::default();
        assert_eq!(version.look(&store, &to).await, None);
        assert_eq!(*told.borrow(), Some(0));
        changed(&store, 0).await;
        changed(&store, 1).await;
        assert_eq!(version.look(&store, &to).await, None);
        assert_eq!(*told.borrow(), Some(2));

        let damaged = Batch::new().put(current(), Expect::Any, "{}", None);
        store.commit(damaged).await.unwrap();
        let said = version.look(&store, &to).await.unwrap();
        assert!(said.contains("cannot be read"), "{said}");
        assert_eq!(version.look(&store, &to).await, None, "said once");
        assert_eq!(*told.borrow(), Some(2), "what was known");

        // What has gone is told, and that it was there.
        store.commit(Batch::new().delete(current(), Expect::Any)).await.unwrap();
        let said = version.look(&store, &to).await.unwrap();
        assert!(said.contains("had version 2, and has none any more"), "{said}");
        assert_eq!((version.look(&store, &to).await, *told.borrow()), (None, Some(0)));
    }
}
