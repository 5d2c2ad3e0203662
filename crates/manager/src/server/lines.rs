//! JSON lines and descriptors over a Unix socket, as the manager and the guardian speak them.
//!
//! Descriptors come with the octets of the line that names them; when they are more than one message carries,
//! empty lines after it carry the rest. A reader takes as many as the line says, in their order.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use config::NODE_SOCKETS_MAX;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use topology::protocol::{DESCRIPTORS_PER_MESSAGE_MAX, next_line};

use super::UpError;

/// Descriptors that one line may announce: those of all edges, of which a node does not open more.
const DESCRIPTORS_MAX: usize = NODE_SOCKETS_MAX;

/// Octets that are read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Why nothing more can be said on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    TooLong(#[from] topology::protocol::LineTooLong),
    #[error("not a message of this protocol: {0}")]
    Message(#[from] serde_json::Error),
    #[error("{0} descriptors, more than can be passed")]
    TooManyDescriptors(usize),
}

/// Opens the socket for its owner alone. The lock is the caller's: what lies there is a dead one's.
pub(crate) fn open_socket(path: &Path) -> Result<UnixListener, UpError> {
    let failed = |source| UpError::Directory { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// One end of a connection.
pub(crate) struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Received and not taken; more than [`DESCRIPTORS_MAX`] are closed at once.
    descriptors: VecDeque<OwnedFd>,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream) -> Lines {
        Lines { stream, buffer: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The process id of the other end, as the kernel knows it.
    pub(crate) fn peer_pid(&self) -> io::Result<u32> {
        let pid = self.stream.peer_cred()?.pid();
        Ok(pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0))
    }

    /// The next message; `None` at the end. May be dropped while it waits: what was read stays in the buffer.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        loop {
            match next_line(&mut self.buffer)? {
                Some(line) if line.is_empty() => {}
                Some(line) => return Ok(Some(serde_json::from_slice(&line)?)),
                None if self.fill().await? == 0 => return Ok(None),
                None => {}
            }
        }
    }

    /// As many descriptors as the last message announced.
    pub(crate) async fn take_descriptors(
        &mut self,
        count: usize,
    ) -> Result<Vec<OwnedFd>, LineError> {
        if count > DESCRIPTORS_MAX {
            return Err(LineError::TooManyDescriptors(count));
        }
        while self.descriptors.len() < count {
            if self.fill().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(self.descriptors.drain(..count).collect())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The line with the first descriptors, then an empty line for each further handful.
    pub(crate) async fn write_with(
        &mut self,
        mut line: Vec<u8>,
        descriptors: &[impl AsFd],
    ) -> Result<(), LineError> {
        for handful in descriptors.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
            let handful: Vec<BorrowedFd<'_>> = handful.iter().map(AsFd::as_fd).collect();
            let send = || send_with(&self.stream, &line, &handful);
            let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
            self.write(&line[sent..]).await?;
            line = b"\n".to_vec();
        }
        if descriptors.is_empty() {
            self.write(&line).await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let (buffer, descriptors) = (&mut self.buffer, &mut self.descriptors);
        let receive = || receive_with(&self.stream, buffer, descriptors);
        self.stream.async_io(Interest::READABLE, receive).await
    }
}

/// The descriptors go with the first octets, however many of those the kernel takes.
fn send_with(
    stream: &UnixStream,
    line: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than the buffer was made for"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[IoSlice::new(line)], &mut control, flags)?)
}

fn receive_with(
    stream: &UnixStream,
    buffer: &mut Vec<u8>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut chunk = [0; CHUNK_BYTES];
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // A descriptor that an exec inherits would keep a port taken.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            let room = DESCRIPTORS_MAX - descriptors.len();
            descriptors.extend(passed.take(room));
        }
    }
    buffer.extend_from_slice(&chunk[..received.bytes]);
    Ok(received.bytes)
}
