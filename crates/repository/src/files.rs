//! Files in pieces: what is too long for a record, and what no node's copy shall hold.
//!
//! A file is found by its hash, and believed by it: what comes back is what was put, or an error. Its pieces lie beside the
//! prefix of the records, so that whoever follows those is told nothing of them.
//!
//! | key in etcd | what |
//! |---|---|
//! | `outlast-files/GROUP/HASH/NUMBER` | a piece of a file that the group has; before GROUP what the [`Namespace`] says |
//!
//! Who puts a file notes it in a record first, and removes it when no record of its group notes it any more. Who dies in between
//! leaves pieces: whoever knows all records, and that nobody puts any meanwhile, finds ([`Files::pieces`]) and removes them. Two that
//! put the same file of one group put the same pieces.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant, sleep};

use crate::client::messages::{Delete, Operation, Put, Range, Txn};
use crate::client::{Client, ClientError};
use crate::lock::Fence;
use crate::namespace::Namespace;

/// A piece; in the gateway's spelling a third longer, and below what etcd takes as it comes (1.5 MiB).
const PIECE_BYTES: usize = 1 << 20;

/// A longer file is refused.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// How long the repository may be away in the middle of a file.
const PATIENCE: Duration = Duration::from_secs(10);

/// etcd takes 128 operations in one transaction.
const REMOVED_AT_ONCE: usize = 100;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// By what a file is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileNote {
    /// Its length in octets.
    pub bytes: u64,
    /// BLAKE3, in hexadecimal digits.
    pub hash: String,
}

/// Why a file cannot be put or had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// Longer than a file may be.
    #[error("it has {bytes} octets, and the repository takes {FILE_BYTES_MAX} at most")]
    TooLong {
        /// So long.
        bytes: u64,
    },
    /// Removed meanwhile, or never put whole.
    #[error("piece {number} of {hash} is not in the repository; bring it in again")]
    Missing {
        /// Of which file.
        hash: String,
        /// Counted from 0.
        number: usize,
    },
    /// What is there is something else.
    #[error("what the repository has as {hash} is something else; bring it in again")]
    Damaged {
        /// Of which file.
        hash: String,
    },
    /// Whoever puts or removes it has lost the lock for it.
    #[error(
        "whoever changes this file has lost the lock for it; see what has become of it, and try again"
    )]
    LockLost,
    /// The repository's.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl FileNote {
    /// Of a file with this content.
    ///
    /// # Errors
    /// [`FileError::TooLong`]
    pub fn of(content: &[u8]) -> Result<FileNote, FileError> {
        let bytes = content.len() as u64;
        if content.len() > FILE_BYTES_MAX {
            return Err(FileError::TooLong { bytes });
        }
        Ok(FileNote { bytes, hash: blake3::hash(content).to_hex().to_string() })
    }

    /// How many pieces it has.
    ///
    /// # Errors
    /// [`FileError::TooLong`]
    fn pieces(&self) -> Result<usize, FileError> {
        let bytes = usize::try_from(self.bytes).ok().filter(|bytes| *bytes <= FILE_BYTES_MAX);
        let bytes = bytes.ok_or(FileError::TooLong { bytes: self.bytes })?;
        Ok(bytes.div_ceil(PIECE_BYTES))
    }
}

/// A piece of a file that is in the repository, whether or not anybody notes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose file.
    pub group: String,
    /// Of which file.
    pub hash: String,
    key: Bytes,
}

impl Piece {
    /// `None` for any other key: one of another cluster, whose prefix is longer, has more parts.
    fn of(prefix: &str, key: &Bytes) -> Option<Piece> {
        let parts: Vec<&str> = str::from_utf8(key).ok()?.strip_prefix(prefix)?.split('/').collect();
        let [group, hash, number] = parts[..] else { return None };
        number.parse::<usize>().ok()?;
        Some(Piece { group: group.to_owned(), hash: hash.to_owned(), key: key.clone() })
    }
}

/// The files in one etcd. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    client: Client,
    /// Before all keys.
    prefix: String,
    /// Under which lock they are changed.
    fence: Option<Fence>,
}

impl Files {
    /// Those that this client reaches there.
    #[must_use]
    pub fn new(client: Client, namespace: &Namespace) -> Files {
        Files { client, prefix: namespace.files(), fence: None }
    }

    /// The same ones; they are changed as long as that lock is held, and not any more ([`FileError::LockLost`]) when it is
    /// another's.
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> Files {
        Files { fence: Some(fence), ..self.clone() }
    }

    /// Puts a file; what is there of it already is put again.
    ///
    /// # Errors
    /// [`FileError`]; some pieces may be there then.
    pub async fn put(&self, group: &str, content: &[u8]) -> Result<FileNote, FileError> {
        let note = FileNote::of(content)?;
        for (number, piece) in content.chunks(PIECE_BYTES).enumerate() {
            let value = Bytes::copy_from_slice(piece);
            let put = Put { key: self.key(group, &note, number), value, lease: 0 };
            self.change(vec![Operation::Put(put)]).await?;
        }
        Ok(note)
    }

    /// A file, whole and as it was put.
    ///
    /// # Errors
    /// [`FileError`]
    pub async fn get(&self, group: &str, note: &FileNote) -> Result<Vec<u8>, FileError> {
        let hash = || note.hash.clone();
        let mut content = Vec::new();
        for number in 0..note.pieces()? {
            let range = Range { key: self.key(group, note, number), ..Range::default() };
            let found = self.client.range(&range, Instant::now() + PATIENCE).await?;
            let piece = found.kvs.into_iter().next();
            let piece = piece.ok_or_else(|| FileError::Missing { hash: hash(), number })?;
            content.extend_from_slice(&piece.value);
            if content.len() as u64 > note.bytes {
                return Err(FileError::Damaged { hash: hash() });
            }
        }
        match FileNote::of(&content)? == *note {
            true => Ok(content),
            false => Err(FileError::Damaged { hash: hash() }),
        }
    }

    /// Removes a file, as far as it is there.
    ///
    /// # Errors
    /// [`FileError`]; some pieces may be there still.
    pub async fn remove(&self, group: &str, note: &FileNote) -> Result<(), FileError> {
        let pieces = (0..note.pieces()?)
            .map(|number| Operation::Delete(Delete { key: self.key(group, note, number) }));
        self.change(pieces.collect()).await
    }

    fn key(&self, group: &str, note: &FileNote, number: usize) -> Bytes {
        format!("{}{group}/{}/{number:08}", self.prefix, note.hash).into()
    }

    /// The pieces of all files of this cluster, from behind that one on, at most `limit`; and whether there are more.
    ///
    /// # Errors
    /// [`FileError::Client`]
    pub async fn pieces(
        &self,
        after: Option<&Piece>,
        limit: u16,
    ) -> Result<(Vec<Piece>, bool), FileError> {
        let key = after.map_or_else(
            || self.prefix.clone().into(),
            // The next key there can be.
            |piece| [&piece.key[..], b"\0"].concat().into(),
        );
        // Behind all that begins so, for `0` comes behind `/`.
        let range_end = format!("{}0", self.prefix.trim_end_matches('/')).into();
        let limit = i64::from(limit);
        let range = Range { key, range_end, limit, keys_only: true, ..Range::default() };
        let found = self.client.range(&range, Instant::now() + PATIENCE).await?;
        Ok((
            found.kvs.iter().filter_map(|kv| Piece::of(&self.prefix, &kv.key)).collect(),
            found.more,
        ))
    }

    /// Removes pieces, at most 100 at a time.
    ///
    /// # Errors
    /// [`FileError::Client`]; some may be there still.
    pub async fn remove_pieces(&self, pieces: &[Piece]) -> Result<(), FileError> {
        for some in pieces.chunks(REMOVED_AT_ONCE) {
            let remove = |piece: &Piece| Operation::Delete(Delete { key: piece.key.clone() });
            self.change(some.iter().map(remove).collect()).await?;
        }
        Ok(())
    }

    /// What may be done twice.
    async fn change(&self, success: Vec<Operation>) -> Result<(), FileError> {
        let compare = self.fence.iter().map(Fence::condition).collect();
        let txn = Txn { compare, success, ..Txn::default() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.client.txn(&txn).await {
                Ok(done) if done.succeeded => return Ok(()),
                Ok(_) => return Err(FileError::LockLost),
                Err(error) if !error.is_transient() || Instant::now() >= deadline => {
                    return Err(error.into());
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}
