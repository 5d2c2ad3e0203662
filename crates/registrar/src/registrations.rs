//! The list of all bindings, for the command line and the console.

use serde::Serialize;
use state::{Key, Prefix, Store, StoreError, UnixMillis};

use crate::bindings::{self, Bindings};
use state::codec::RecordError;

/// One binding, as people and programs want to see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registration {
    /// Address-of-record, `sip:user@domain`.
    pub aor: String,
    /// The contact's URI.
    pub contact: String,
    /// Seconds until it ends.
    pub expires_s: u64,
    /// Path, topmost value first.
    pub path: Vec<String>,
    /// Where it was registered from, `address:port`.
    pub received: String,
    /// Preference, 0 to 1.
    pub q: f64,
    /// Instance id, when the phone has one.
    pub instance: Option<String>,
    /// reg-id of an outbound flow.
    pub reg_id: Option<u32>,
    /// Call-ID of the REGISTER.
    pub call_id: String,
    /// CSeq of the REGISTER.
    pub cseq: u32,
    /// Beginning of the phone's User-Agent.
    pub user_agent: String,
    /// A container keeps the phone's NAT open.
    pub keep_alive: bool,
}

/// Why the list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationsError {
    /// The store failed.
    #[error("the bindings cannot be read")]
    Store(#[from] StoreError),
    /// A record cannot be read.
    #[error("the bindings of {aor} cannot be used")]
    Record {
        /// Whose.
        aor: String,
        /// Why.
        #[source]
        source: RecordError,
    },
}

/// Lists all bindings in the order of their addresses-of-record. Reads page by page: what changes meanwhile may
/// be seen or not.
///
/// # Errors
/// [`RegistrationsError`]; nothing is listed then.
pub async fn registrations(
    store: &dyn Store,
    now: UnixMillis,
) -> Result<Vec<Registration>, RegistrationsError> {
    const PAGE: usize = 1_000;
    let mut list = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&bindings::SPACE, &Prefix::All, after.as_ref(), PAGE).await?;
        let last = page.len() < PAGE;
        for (key, record) in page {
            after = Some(key.clone());
            if !key.id.is_empty() {
                continue; // the mark of a nonce
            }
            let aor = text(&key.tag);
            let record = Bindings::decode(&record.value)
                .map_err(|source| RegistrationsError::Record { aor: aor.clone(), source })?;
            list.extend(record.living(now).map(|binding| Registration {
                aor: aor.clone(),
                contact: text(&binding.contact),
                expires_s: binding.expires_seconds(now),
                path: binding.path.iter().map(|value| text(value)).collect(),
                received: binding.received.to_string(),
                q: f64::from(binding.q.thousandths()) / 1000.0,
                instance: binding.instance.as_ref().map(|instance| text(instance)),
                reg_id: binding.reg_id,
                call_id: text(&binding.call_id),
                cseq: binding.cseq,
                user_agent: text(&binding.user_agent),
                keep_alive: binding.keep_alive,
            }));
        }
        if last {
            return Ok(list);
        }
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
