//! Sessions as they are stored, for whoever holds none of them: all of them for the command line and the console, one of
//! them for other sessions of its application.

use state::codec::RecordError;
use state::{Key, Prefix, Store, StoreError};

use super::records;
use crate::session::summary::SessionSummary;
use crate::session::{Session, SessionId, name_of};

/// Why the list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The store failed.
    #[error("sessions cannot be read")]
    Store(#[from] StoreError),
    /// A record cannot be read.
    #[error("the session {id} cannot be used")]
    Record {
        /// Which.
        id: SessionId,
        /// Why.
        #[source]
        source: RecordError,
    },
}

/// Tells `each` all sessions that are not over. Reads page by page: what changes meanwhile may be seen or not.
///
/// # Errors
/// [`SessionsError`]; what was told before stands.
pub async fn sessions(
    store: &dyn Store,
    mut each: impl FnMut(SessionSummary),
) -> Result<(), SessionsError> {
    const PAGE: usize = 1_000;
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&records::SESSION, &Prefix::All, after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        for (key, record) in page {
            if let Ok(id) = key.id.as_ref().try_into().map(SessionId) {
                match Session::decode(id, &record.value) {
                    Ok(session) => session.summary().into_iter().for_each(&mut each),
                    // Of another kind.
                    Err(RecordError::FormatLevel(_)) => {}
                    Err(source) => return Err(SessionsError::Record { id, source }),
                }
            }
            after = Some(key);
        }
        if is_last {
            return Ok(());
        }
    }
}

/// One session of an application of that name, whatever its version, as of its last commit. None: there is none of that
/// id, it is another application's, or it has ended.
///
/// # Errors
/// [`SessionsError`]
pub async fn session(
    store: &dyn Store,
    application: &str,
    id: SessionId,
) -> Result<Option<Session>, SessionsError> {
    let Some(record) = store.read(&records::key(id)).await? else { return Ok(None) };
    match Session::decode(id, &record.value) {
        Ok(session) => {
            let is_seen = name_of(session.application()) == application && !session.is_ending();
            Ok(Some(session).filter(|_| is_seen))
        }
        // Of another kind.
        Err(RecordError::FormatLevel(_)) => Ok(None),
        Err(source) => Err(SessionsError::Record { id, source }),
    }
}
