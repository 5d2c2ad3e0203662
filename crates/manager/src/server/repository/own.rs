//! Looks again and again whether the operator's own etcd answers, and says what is amiss. Who is a member of it, and how it is run,
//! is none of the managers' business; a node that leaves has nothing to give away.

use std::time::Duration;

use repository::member::RepositoryDirectory;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use topology::protocol::Answer;
use tracing::{error, info, warn};

use super::Told;
use super::access::RepositoryAccess;
use super::sharing::{self, ToShare};

/// How often it looks, and how often at the most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long it asks before something is amiss.
const ASK_MAX: Duration = Duration::from_secs(3);

/// For ever.
pub(super) async fn keep(
    access: RepositoryAccess,
    directory: RepositoryDirectory,
    mut told: watch::Receiver<Told>,
    mut leave: mpsc::Receiver<mpsc::Sender<Answer>>,
    to_share: ToShare,
    amiss: watch::Sender<Option<String>>,
) {
    let mut to_share = Some(to_share);
    loop {
        let has_accounts = told.borrow_and_update().has_accounts;
        if has_accounts && let Some((parts, asked)) = to_share.take() {
            let started = directory.make().and_then(|()| sharing::start(parts, asked));
            if let Err(error) = started {
                error!(%error, "this node's copy of the repository cannot be kept; start the node again");
            }
        }
        let found = look(&access, has_accounts).await.err();
        amiss.send_if_modified(|known| {
            let is_news = known.is_some() != found.is_some();
            match &found {
                Some(reason) if is_news => warn!(reason, "about the operator's own etcd"),
                None if is_news => info!("the operator's own etcd answers again"),
                Some(_) | None => {}
            }
            let is_other = *known != found;
            *known = found;
            is_other
        });
        sleep(LOOK_AGAIN_AFTER).await;
        tokio::select! {
            _ = timeout(LOOK_EVERY, told.changed()) => {}
            // Whoever asked may have gone.
            Some(reply) = leave.recv() => drop(reply.try_send(Answer::Done)),
        }
    }
}

/// # Errors
/// What is amiss, and what to do about it.
async fn look(access: &RepositoryAccess, has_accounts: bool) -> Result<(), String> {
    match access.has_something(Instant::now() + ASK_MAX).await {
        Ok(false) if has_accounts => Err(format!(
            "{} has nothing of this cluster: does [cluster] repository in outlast.toml name the same etcd as on the other nodes, and was \
             nothing removed from it?",
            access.client.addresses()
        )),
        Ok(_) => Ok(()),
        Err(error) if error.is_transient() => Err(format!(
            "most members do not answer ({error}); etcdctl endpoint health --cluster tells which"
        )),
        Err(error) => Err(error.to_string()),
    }
}
