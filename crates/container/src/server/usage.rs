//! Which applications have sessions at work in a container.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Command, ServerHandle};
use crate::shard::Shard;

/// Who waits for what was found.
pub(super) type Reply = oneshot::Sender<Option<BTreeSet<String>>>;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    AtWork,
    Beginning,
}

impl Look {
    pub(super) fn at(self, shard: &Shard) -> Option<BTreeSet<String>> {
        match self {
            Look::AtWork => shard.applications_at_work(),
            Look::Beginning => Some(shard.applications_beginning()),
        }
    }
}

impl ServerHandle {
    /// The applications of sessions that begin, of which something is under way, or that are not in the store, as of the
    /// table that was given last. None: it cannot be said.
    pub async fn applications_at_work(&self) -> Option<BTreeSet<String>> {
        self.look(Look::AtWork).await
    }

    /// Those of sessions that begin and are not in the store yet. Answered when the table that was given last is in use.
    /// None: the container has ended.
    pub async fn applications_beginning(&self) -> Option<BTreeSet<String>> {
        self.look(Look::Beginning).await
    }

    async fn look(&self, look: Look) -> Option<BTreeSet<String>> {
        let (reply, found) = oneshot::channel();
        self.send(Command::Usage(look, reply)).await;
        found.await.ok().flatten()
    }
}
