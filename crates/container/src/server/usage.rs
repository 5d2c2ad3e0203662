//! Which applications have sessions at work in a container.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Command, ServerHandle};

/// Who waits for what was found.
pub(super) type Reply = oneshot::Sender<Option<BTreeSet<String>>>;

impl ServerHandle {
    /// The applications of sessions that begin, of which something is under way, or that are not in the store, as of the
    /// table that was given last. None: it cannot be said.
    pub async fn applications_at_work(&self) -> Option<BTreeSet<String>> {
        let (reply, found) = oneshot::channel();
        self.send(Command::Usage(reply)).await;
        found.await.ok().flatten()
    }
}
