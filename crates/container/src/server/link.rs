//! One link's socket: reads fill the receiver, the sender's bytes are written; no task of its own. To an edge of the
//! own node it is a Unix socket, to another's TLS over TCP.
//!
//! The runtime is asked for room to write only while there is none: it would tell of every frame that the edge reads,
//! and wake the container once more for each answer.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use transport::link::{LinkError, LinkFrame, LinkReceiver, LinkSender, LinkStream, Refused};
use transport::tls::{Received, TlsStream};

use crate::polled::polled;

/// A connection from a worker of an edge.
pub(super) struct Link {
    stream: AsyncFd<LinkStream<UnixStream, TcpStream>>,
    /// The same socket while it has no room for what is to be written.
    full: Option<AsyncFd<OwnedFd>>,
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
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Link> {
        Link::over(LinkStream::Unix(stream.into_std()?))
    }

    /// A link to an edge of another node, which has proved that it is one; what it has said in the same breath is there
    /// to be taken by [`next_frame`](Self::next_frame).
    pub(super) fn secured(stream: TlsStream<TcpStream>, scratch: &mut [u8]) -> io::Result<Link> {
        let mut link = Link::over(LinkStream::Tls(Box::new(stream)))?;
        match link.read(scratch) {
            Ok(_) => Ok(link),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(link),
            Err(error) => Err(error),
        }
    }

    fn over(stream: LinkStream<UnixStream, TcpStream>) -> io::Result<Link> {
        let stream = polled(stream, Interest::READABLE)?;
        Ok(Link { stream, full: None, receiver: LinkReceiver::new(), sender: LinkSender::new() })
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        let receiver = &mut self.receiver;
        let into = |bytes: &[u8]| receiver.read_buffer().extend_from_slice(bytes);
        self.stream.get_mut().read(scratch, into)
    }

    /// Reads once, at most as much as `scratch` holds; then [`next_frame`](Self::next_frame) may have something.
    pub(super) fn poll_read(
        &mut self,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkEnd>> {
        loop {
            let receiver = &mut self.receiver;
            let into = |bytes: &[u8]| receiver.read_buffer().extend_from_slice(bytes);
            let mut ready = ready!(self.stream.poll_read_ready_mut(cx))?;
            match ready.get_inner_mut().read(scratch, into) {
                Ok(Received::Some) => return Poll::Ready(Ok(())),
                Ok(Received::End) => return Poll::Ready(Err(LinkEnd::Closed)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
        while self.stream.get_ref().has_to_write(&self.sender) {
            match self.stream.get_mut().write(self.sender.unwritten()) {
                Ok(count) => self.sender.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_room(cx))?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.full = None;
        Poll::Ready(Ok(()))
    }

    /// Ready when the socket may have room again.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let full = match self.full.take() {
            Some(full) => full,
            None => {
                let socket = match self.stream.get_ref() {
                    LinkStream::Unix(socket) => socket.as_fd(),
                    LinkStream::Tls(stream) => stream.socket().as_fd(),
                };
                polled(socket.try_clone_to_owned()?, Interest::WRITABLE)?
            }
        };
        let full = self.full.insert(full);
        ready!(full.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.sender.unwritten().is_empty() && !self.stream.get_ref().has_to_write(&self.sender)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_full_link_goes_on_when_the_edge_reads() {
        let (own, edge) = tokio::net::UnixStream::pair().unwrap();
        let mut link = Link::new(own).unwrap();
        for _ in 0..3 {
            let mut rendered = 0;
            while poll_fn(|cx| Poll::Ready(link.poll_flush(cx).is_ready())).await {
                link.try_send(&LinkFrame::Taken { up_to: 1 }).unwrap();
                rendered += link.sender.unwritten().len();
            }
            let mut read = 0;
            let mut scratch = vec![0; 65_536];
            let reading = async {
                while read < rendered {
                    edge.readable().await.unwrap();
                    read += edge.try_read(&mut scratch).unwrap_or_default();
                }
            };
            let flushing = async { poll_fn(|cx| link.poll_flush(cx)).await.unwrap() };
            let both = async { tokio::join!(reading, flushing) };
            tokio::time::timeout(DEADLINE, both).await.expect("somebody told of the room");
            assert!(link.full.is_none(), "no longer told of what the edge reads");
        }
    }

    #[tokio::test]
    async fn what_is_left_of_a_closed_link_is_read_before_its_end() {
        let (own, edge) = tokio::net::UnixStream::pair().unwrap();
        let mut link = Link::new(own).unwrap();
        let mut sender = LinkSender::new();
        sender.try_send(&LinkFrame::Taken { up_to: 7 }).unwrap();
        edge.try_write(sender.unwritten()).unwrap();
        drop(edge);
        let mut scratch = [0; 64];
        poll_fn(|cx| link.poll_read(&mut scratch, cx)).await.unwrap();
        assert_eq!(link.next_frame().unwrap(), Some(LinkFrame::Taken { up_to: 7 }));
        let end = poll_fn(|cx| link.poll_read(&mut scratch, cx)).await.unwrap_err();
        assert!(matches!(end, LinkEnd::Closed), "{end}");
    }
}
