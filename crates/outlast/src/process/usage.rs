//! Which versions of applications have sessions: looked for in this container and in the store, at a pace that calls do not
//! notice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use container::server::ServerHandle;
use container::shard;
use state::Store;
use tracing::warn;

/// Records read at a time: some milliseconds of one thread.
const PAGE: usize = 500;

/// Between two pages: a million sessions take 200 s.
const PAUSE: Duration = Duration::from_millis(100);

/// Where sessions are looked for.
#[derive(Clone)]
pub(super) struct Usage {
    pub(super) handle: ServerHandle,
    pub(super) store: Arc<dyn Store>,
}

impl Usage {
    /// Those of `sought`, each a `NAME@VERSION`, that have no session, and begin none with the table that the container was
    /// given last. None: not known.
    pub(super) async fn unused(self, mut sought: BTreeSet<String>) -> Option<BTreeSet<String>> {
        // First what is here: what is stored meanwhile is found in the store.
        let mut found = self.handle.applications_at_work().await?;
        let mut after = None;
        loop {
            sought.retain(|application| !found.contains(application));
            if sought.is_empty() {
                return Some(sought);
            }
            let page = shard::stored_applications(&*self.store, after.as_ref(), PAGE, &mut found);
            match page.await {
                Ok(None) => break,
                Ok(next) => after = next,
                Err(error) => {
                    warn!(%error, "cannot see which versions of applications have sessions: all of them stay");
                    return None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        sought.retain(|application| !found.contains(application));
        Some(sought)
    }
}
