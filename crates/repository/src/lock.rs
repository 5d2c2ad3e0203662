//! Chores that one node does at a time: who does them holds a key that ends with a lease.
//!
//! | key in etcd | what |
//! |---|---|
//! | `outlast/x/NAME`, as [`lock`](crate::Namespace::lock) has it | `LEASE HOLDER`, for as long as the holder lives and no longer than the lease |
//!
//! A holder that stands still may be overtaken: the lock keeps two from beginning, not from finishing. So what is done under it is
//! written with its fencing token ([`Fence`], [`RepositoryStore::fenced`](crate::RepositoryStore::fenced),
//! [`Files::fenced`](crate::Files::fenced)), and etcd refuses that from the moment when the lock is not this holder's any more.

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use crate::client::messages::{
    Compare, KeyValue, Operation, Put, Range, RangeResponse, Txn, TxnResponse,
};
use crate::client::{Client, ClientError};

/// A lock that this process holds. Dropped without [`release`](Lock::release), it ends with its lease.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    lease: i64,
    keeping: JoinHandle<()>,
    fence: Fence,
}

/// A lock's fencing token: the change by which its holder took it. Whoever takes it next has a greater one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    key: Bytes,
    token: i64,
}

impl Fence {
    /// Greater than that of all earlier holders.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token.unsigned_abs()
    }

    /// Holds as long as the lock is this holder's.
    pub(crate) fn condition(&self) -> Compare {
        Compare::unchanged_since(self.key.clone(), self.token)
    }

    /// What shows whether it is.
    pub(crate) fn look(&self) -> Operation {
        Operation::Range(Range { key: self.key.clone(), ..Range::default() })
    }

    /// By what that look has found.
    pub(crate) fn is_held(&self, found: Option<&KeyValue>) -> bool {
        found.is_some_and(|found| found.mod_revision == self.token)
    }
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Held(Lock),
    /// It is another's.
    By(String),
}

impl Lock {
    /// Takes the lock with that key, unless somebody has it. The lease lasts `seconds` beyond the holder's end.
    ///
    /// # Errors
    /// [`ClientError`] when a majority does not answer in time; a lock that was taken all the same ends with its lease.
    pub async fn take(
        client: &Client,
        key: &Bytes,
        holder: &str,
        seconds: u64,
        deadline: Instant,
    ) -> Result<Taken, ClientError> {
        let lease = client.lease_grant(seconds, deadline).await?.lease;
        let value: Bytes = format!("{lease} {holder}").into();
        let put = Put { key: key.clone(), value: value.clone(), lease };
        let txn = Txn {
            compare: vec![Compare::unchanged_since(key.clone(), 0)],
            success: vec![Operation::Put(put)],
            failure: vec![Operation::Range(Range { key: key.clone(), ..Range::default() })],
        };
        // Asked twice after an answer that was lost it finds its own lease there.
        let taken: TxnResponse = client.ask("kv/txn", &txn, deadline).await?;
        let found = taken.responses.into_iter().find_map(|response| response.response_range);
        let token = match found.as_ref().and_then(held) {
            Some(by) if by.value != value => {
                // Nobody waits for it; it would end by itself.
                let _ = client.lease_revoke(lease).await;
                return Ok(Taken::By(holder_in(&by.value)));
            }
            Some(own) => own.mod_revision,
            None => taken.header.revision,
        };
        let every = Duration::from_secs(seconds) / 3;
        let keeping = tokio::spawn(keep(client.clone(), lease, every));
        let fence = Fence { key: key.clone(), token };
        Ok(Taken::Held(Lock { client: client.clone(), lease, keeping, fence }))
    }

    /// What everything is written with that is done under it.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Lets others have it.
    pub async fn release(self) {
        self.keeping.abort();
        // Else it ends with its lease.
        let _ = self.client.lease_revoke(self.lease).await;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Who holds the lock with that key.
///
/// # Errors
/// [`ClientError`] when a majority does not answer in time.
pub async fn holder(
    client: &Client,
    key: &Bytes,
    deadline: Instant,
) -> Result<Option<String>, ClientError> {
    let range = Range { key: key.clone(), ..Range::default() };
    let found = client.range(&range, deadline).await?;
    Ok(held(&found).map(|found| holder_in(&found.value)))
}

async fn keep(client: Client, lease: i64, every: Duration) {
    loop {
        sleep(every).await;
        // The lock is another's by now: its holder finds that as soon as it writes with its fence.
        if let Ok(None) = client.lease_keep_alive(lease, Instant::now() + every).await {
            return;
        }
    }
}

fn held(found: &RangeResponse) -> Option<&KeyValue> {
    found.kvs.first()
}

fn holder_in(value: &Bytes) -> String {
    let text = String::from_utf8_lossy(value);
    text.split_once(' ').map_or_else(|| text.to_string(), |(_, holder)| holder.to_owned())
}
