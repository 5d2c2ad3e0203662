//! A connection of a container of another node, as HTTP wants it: octets to be read and written in the runtime's way.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use transport::tls::{Received, TlsStream};

use crate::polled::polled;

/// Octets of one read of the socket.
const READ_BYTES: usize = 16 * 1024;

/// A connection whose handshake is over.
pub(super) struct Secured {
    stream: AsyncFd<TlsStream<TcpStream>>,
    /// What was read and nobody has taken yet: of one read.
    received: BytesMut,
    has_ended: bool,
}

impl Secured {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> io::Result<Secured> {
        let stream = polled(stream, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Secured { stream, received: BytesMut::new(), has_ended: false })
    }

    /// What `write` comes to, once there is room.
    fn poll_room<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut TlsStream<TcpStream>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match write(self.stream.get_mut()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(cx))?.clear_ready();
                }
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Secured { stream, received, has_ended } = &mut *self;
        while received.is_empty() && !*has_ended {
            let mut scratch = [0; READ_BYTES];
            match stream.get_mut().read(&mut scratch, |bytes| received.extend_from_slice(bytes)) {
                Ok(Received::Some) => {}
                Ok(Received::End) => *has_ended = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_read_ready(cx))?.clear_ready();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let count = received.len().min(into.remaining());
        into.put_slice(&received[..count]);
        received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_room(cx, |stream| stream.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(cx, TlsStream::flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx, TlsStream::flush))?;
        Poll::Ready(self.stream.get_ref().socket().shutdown(Shutdown::Write))
    }
}
