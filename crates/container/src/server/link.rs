//! One link's socket: reads fill the receiver, the sender's bytes are written; no task of its own.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::UnixStream;
use transport::link::{LinkError, LinkFrame, LinkReceiver, LinkSender, Refused};

/// A connection from a worker of an edge.
pub(super) struct Link {
    stream: UnixStream,
    receiver: LinkReceiver,
    sender: LinkSender,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("the edge closed it")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frames(#[from] LinkError),
    #[error(transparent)]
    Fault(#[from] crate::shard::LinkFault),
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Link {
        Link { stream, receiver: LinkReceiver::new(), sender: LinkSender::new() }
    }

    /// Reads once; then [`next_frame`](Self::next_frame) may have something.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(self.receiver.read_buffer()) {
                Ok(0) => return Poll::Ready(Err(LinkEnd::Closed)),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<LinkFrame>, LinkError> {
        self.receiver.next_frame()
    }

    pub(super) fn taken(&mut self, sequence: u64) {
        self.receiver.taken(sequence);
    }

    pub(super) fn try_send(&mut self, frame: &LinkFrame) -> Result<(), Refused> {
        self.sender.try_send(frame)
    }

    /// Writes all there is, with one acknowledgement of everything taken since the last turn; pending when
    /// the edge does not read. What piles up meanwhile is bounded by the sender.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        if let Some(up_to) = self.receiver.acknowledgement()
            && let Err(refused) = self.sender.try_send(&LinkFrame::Taken { up_to })
        {
            // 8 MB unread: the edge hangs, and offers what it keeps to another container.
            return Poll::Ready(Err(LinkEnd::Io(io::Error::other(refused))));
        }
        while !self.sender.unwritten().is_empty() {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(self.sender.unwritten()) {
                Ok(count) => self.sender.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.sender.unwritten().is_empty()
    }
}
