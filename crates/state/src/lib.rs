//! One store interface and its engines: versioned records in named spaces.
//!
//! What must outlive a process lies here: bindings, nonce marks and accounts; set-up records and sessions, when
//! later issues bring them. On a message's way this is the last stop before anything is answered: a handler's [`Batch`] is committed
//! first, and only then do messages leave.
//!
//! - [`key`], [`record`], [`batch`]: what is stored, and how a change is asked for.
//! - [`store`]: the [`Store`] trait, the same for every engine; [`watch`]: news of changes.
//! - [`engine::embedded`]: LMDB, shared by all processes of one node. [`engine::fake`]: in memory, with
//!   faults on demand, for the tests of whoever uses a store.
//! - [`carry`]: everything of one store into another.
//! - [`codec`]: numbers and octets in records, for whoever writes them.
//! - `contract` (feature of that name): what every engine must do, as functions that tests run on each of them.
//!
//! Deliberately absent: any meaning of keys and values. Applications bring their own records; the store sees
//! bytes, versions and lifetimes.

pub mod batch;
pub mod carry;
pub mod clock;
pub mod codec;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod engine;
pub mod error;
pub mod key;
pub mod record;
pub mod store;
pub mod time;
pub mod watch;

pub use batch::{Batch, Change, Expect, Write};
pub use error::{CommitError, StoreError};
pub use key::{Key, Prefix, Space};
pub use record::{Record, Version};
pub use store::{BoxFuture, CommitOutcome, Store};
pub use time::UnixMillis;
pub use watch::{Event, Watch};
