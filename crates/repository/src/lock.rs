//! Chores that one node does at a time: who does them holds a key that ends with a lease.
//!
//! | key in etcd | what |
//! |---|---|
//! | `outlast/x/NAME`, as [`lock`](crate::Namespace::lock) has it | `LEASE HOLDER`, for as long as the holder lives and no longer than the lease |
//!
//! A holder that stands still may be overtaken, so what it writes must expect the records as it has read them; the lock keeps
//! two from beginning, not from finishing.

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use crate::client::messages::{Compare, Operation, Put, Range, RangeResponse, Txn};
use crate::client::{Client, ClientError};

/// A lock that this process holds. Dropped without [`release`](Lock::release), it ends with its lease.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    lease: i64,
    keeping: JoinHandle<()>,
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
        let taken: crate::client::messages::TxnResponse =
            client.ask("kv/txn", &txn, deadline).await?;
        let found = taken.responses.into_iter().find_map(|response| response.response_range);
        match found.as_ref().and_then(held) {
            Some(by) if !taken.succeeded && *by != value => {
                // Nobody waits for it; it would end by itself.
                let _ = client.lease_revoke(lease).await;
                Ok(Taken::By(holder_in(by)))
            }
            Some(_) | None => {
                let every = Duration::from_secs(seconds) / 3;
                let keeping = tokio::spawn(keep(client.clone(), lease, every));
                Ok(Taken::Held(Lock { client: client.clone(), lease, keeping }))
            }
        }
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
    Ok(held(&found).map(holder_in))
}

async fn keep(client: Client, lease: i64, every: Duration) {
    loop {
        sleep(every).await;
        // A lease that has ended is another's by now: who holds it finds that by what it expects of records.
        if let Ok(None) = client.lease_keep_alive(lease, Instant::now() + every).await {
            return;
        }
    }
}

fn held(found: &RangeResponse) -> Option<&Bytes> {
    found.kvs.first().map(|kv| &kv.value)
}

fn holder_in(value: &Bytes) -> String {
    let text = String::from_utf8_lossy(value);
    text.split_once(' ').map_or_else(|| text.to_string(), |(_, holder)| holder.to_owned())
}
