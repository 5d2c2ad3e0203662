//! JSON lines over TLS, with a bound on their length and on the silence before them.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Octets that are read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Why nothing more is said on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a message of this protocol: {0}; do all nodes run the same release?")]
    Message(#[from] serde_json::Error),
    #[error("a line of more than {0} octets")]
    TooLong(usize),
    #[error("silent for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the manager is ending")]
    ManagerGone,
}

/// The reading end.
pub(super) struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Octets of `buffer` that hold no line's end.
    searched: usize,
    line_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R, line_bytes_max: usize) -> Reader<R> {
        Reader { stream, buffer: Vec::new(), searched: 0, line_bytes_max }
    }

    /// The next message; the end of the stream is an error, and so is a line that does not come whole `within` a time.
    pub(super) async fn next<T: DeserializeOwned>(
        &mut self,
        within: Duration,
    ) -> Result<T, PeerError> {
        let line = tokio::time::timeout(within, self.line());
        let line = line.await.map_err(|_| PeerError::Silent(within))??;
        Ok(serde_json::from_slice(&line)?)
    }

    async fn line(&mut self) -> Result<Vec<u8>, PeerError> {
        loop {
            let fresh = &self.buffer[self.searched..];
            if let Some(end) = fresh.iter().position(|octet| *octet == b'\n') {
                let end = self.searched + end;
                self.searched = 0;
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.line_bytes_max {
                return Err(PeerError::TooLong(self.line_bytes_max));
            }
            self.buffer.reserve(CHUNK_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Writes a line, or gives the connection up: who does not read is as good as gone.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    stream: &mut W,
    line: &[u8],
    within: Duration,
) -> Result<(), PeerError> {
    let writing = async {
        stream.write_all(line).await?;
        stream.flush().await
    };
    tokio::time::timeout(within, writing).await.map_err(|_| PeerError::Silent(within))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn lines_come_one_by_one_whatever_pieces_they_come_in() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut reader = Reader::new(ours, 1024);
        theirs.write_all(b"1\n2\n3").await.unwrap();
        assert_eq!(reader.next::<u8>(LIMIT).await.unwrap(), 1);
        assert_eq!(reader.next::<u8>(LIMIT).await.unwrap(), 2);
        theirs.write_all(b"4\nx\n").await.unwrap();
        assert_eq!(reader.next::<u8>(LIMIT).await.unwrap(), 34);
        assert!(matches!(reader.next::<u8>(LIMIT).await, Err(PeerError::Message(_))));
        let silent = reader.next::<u8>(Duration::from_millis(1)).await;
        assert!(matches!(silent, Err(PeerError::Silent(_))));
        drop(theirs);
        assert!(matches!(reader.next::<u8>(LIMIT).await, Err(PeerError::Io(_))));
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_collected_for_ever() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut reader = Reader::new(ours, 1024);
        theirs.write_all(&[b'1'; 100_000]).await.unwrap();
        assert!(matches!(reader.next::<u8>(LIMIT).await, Err(PeerError::TooLong(1024))));
    }
}
