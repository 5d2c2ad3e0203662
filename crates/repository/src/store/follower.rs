//! Keeps a copy up with etcd: where it stands is compared, it is read whole if need be, then a watch tells of every change.
//!
//! The watch begins behind the copy's position, so nothing is left out whoever followed before, on whatever member. Where
//! etcd does not keep those changes any more (compaction), or is another one than before (its number differs, or it stands
//! before the copy), the copy is read whole again. A watch that falls silent because its member hangs is left: the member
//! is asked every [`CHECK_INTERVAL`] what it thinks; one that has lost its leader ends the watch itself.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use state::StoreError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, timeout};

use super::copy::{Changed, CopyError};
use super::{Place, whole};
use crate::client::messages::{EventKind, Range, WatchCreate, WatchResponse};
use crate::client::{ClientError, WatchStream};

/// How often the member that tells of changes is asked whether it lives.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it has to say so.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a request may go from member to member.
pub(super) const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// How long a failed attempt rests before the next; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Changes of others' business are passed by; the copy notes how far it is after so many at the latest.
const UNNOTED_MAX: i64 = 500;

/// A task that follows until this is dropped.
pub(super) struct Following {
    reached: watch::Receiver<i64>,
    task: JoinHandle<Infallible>,
}

/// Why following was interrupted.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// The copy has to be read whole.
    #[error("{0}")]
    Lost(&'static str),
    #[error("{0}")]
    Stopped(String),
}

impl From<StoreError> for FollowError {
    fn from(error: StoreError) -> Self {
        FollowError::Copy(error.into())
    }
}

impl Following {
    pub(super) fn start(place: Place) -> Following {
        let (tell, reached) = watch::channel(0);
        Following { reached, task: tokio::spawn(follow(place, tell)) }
    }

    /// Waits until the copy holds everything up to there.
    pub(super) async fn until(&self, revision: i64) {
        let mut reached = self.reached.clone();
        if reached.wait_for(|reached| *reached >= revision).await.is_err() {
            // The runtime ends.
            pending::<()>().await;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(place: Place, tell: watch::Sender<i64>) -> Infallible {
    let mut pause = PAUSE_MIN;
    let mut is_lost = false;
    loop {
        let began = Instant::now();
        let Err(error) = follow_once(&place, &tell, is_lost).await;
        is_lost = matches!(error, FollowError::Lost(_));
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        match &error {
            FollowError::Lost(reason) => tracing::info!(reason, "reading the repository whole"),
            error if pause >= PAUSE_MAX => tracing::warn!(%error, "the repository is not followed"),
            error => tracing::debug!(%error, "following the repository again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn follow_once(
    place: &Place,
    tell: &watch::Sender<i64>,
    is_lost: bool,
) -> Result<Infallible, FollowError> {
    let (position, _) = place.copy.position().await?;
    // Answered by a majority: a member that lags does not look like one that was set back.
    let (key, _) = place.layout.all();
    let range = Range { key, limit: 1, ..Range::default() };
    let header = place.client.range(&range, Instant::now() + ASK_PATIENCE).await?.header;
    let stands = position.revision.filter(|revision| {
        !is_lost && position.cluster == header.cluster_id && *revision <= header.revision
    });
    let from = match stands {
        Some(revision) => revision,
        None => whole::read(place, position).await?,
    };
    tell.send_replace(from);
    let (key, range_end) = place.layout.all();
    let mut stream =
        place.client.watch(WatchCreate { key, range_end, start_revision: from + 1 }).await?;
    let mut reached = from;
    let mut noted = from;
    let mut check = interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            response = stream.next() => {
                let changes = changes(place, response?)?;
                let Some(last) = changes.last else { continue };
                if !changes.records.is_empty() || last - noted > UNNOTED_MAX {
                    place.copy.advance(noted, last, &changes.records).await?;
                    noted = last;
                }
                reached = reached.max(last);
                tell.send_replace(reached);
            }
            _ = check.tick() => look_at(place, &stream).await?,
        }
    }
}

/// Whether the member still lives; it is not asked for a majority.
async fn look_at(place: &Place, stream: &WatchStream) -> Result<(), FollowError> {
    match timeout(CHECK_PATIENCE, place.client.status(stream.endpoint())).await {
        Ok(Ok(status)) if status.leader != 0 => Ok(()),
        outcome => {
            let reason = match outcome {
                Ok(Ok(_)) => "it has no leader".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            place.client.turn_away_from(stream, &reason);
            Err(FollowError::Stopped(reason))
        }
    }
}

struct Changes {
    records: Vec<Changed>,
    /// The revision of the last change, ours or not; `None`: nothing was told.
    last: Option<i64>,
}

fn changes(place: &Place, response: WatchResponse) -> Result<Changes, FollowError> {
    if response.compact_revision != 0 {
        return Err(FollowError::Lost("the changes since are not kept any more"));
    }
    if response.canceled {
        return Err(FollowError::Stopped(response.cancel_reason));
    }
    let last = response.events.iter().map(|event| event.kv.mod_revision).max();
    let records = response.events.into_iter().filter_map(|event| {
        let key = place.layout.key_of(&event.kv.key)?;
        let held = match event.kind {
            EventKind::Put => Some(event.kv.value),
            EventKind::Delete => None,
        };
        Some(Changed { key, revision: event.kv.mod_revision, held })
    });
    Ok(Changes { records: records.collect(), last })
}
