//! The list of all sessions, for the command line and the console.

use state::codec::RecordError;
use state::{Key, Prefix, Store, StoreError};

use super::records;
use crate::session::summary::SessionSummary;
use crate::session::{Session, SessionId};

/// Why the list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The store failed.
    #[error("the sessions cannot be read")]
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
