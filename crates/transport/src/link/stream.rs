//! What the octets of a link go by: a Unix socket on the host, TLS over TCP between hosts.
//!
//! Both ends drive it alike; `U` and `T` are the sockets of their loops.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use super::LinkSender;
use crate::tls::{Received, TlsStream};

/// The stream under a link.
#[derive(Debug)]
pub enum LinkStream<U, T> {
    /// On the host.
    Unix(U),
    /// Between hosts.
    Tls(Box<TlsStream<T>>),
}

impl<U: Read + Write, T: Read + Write> LinkStream<U, T> {
    /// Reads once, at most as much as `scratch` holds, and gives what it brings to `received`.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing. Any other: the stream is broken, or the other side is not who it must be.
    pub fn read(
        &mut self,
        scratch: &mut [u8],
        mut received: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        match self {
            LinkStream::Unix(socket) => match socket.read(scratch)? {
                0 => Ok(Received::End),
                count => {
                    received(&scratch[..count]);
                    Ok(Received::Some)
                }
            },
            LinkStream::Tls(stream) => stream.read(scratch, received),
        }
    }

    /// Writes a part of `bytes`, and says how much: nothing while a handshake is under way.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room. Any other: the stream is broken.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            LinkStream::Unix(socket) => socket.write(bytes),
            LinkStream::Tls(stream) => stream.write(bytes),
        }
    }

    /// Whether something can be [written](Self::write): frames of `sender`, which wait for the end of a handshake, or what
    /// was written already and found no room.
    pub fn has_to_write(&self, sender: &LinkSender) -> bool {
        match self {
            LinkStream::Unix(_) => !sender.unwritten().is_empty(),
            LinkStream::Tls(stream) => {
                stream.has_unwritten()
                    || (!sender.unwritten().is_empty() && !stream.is_handshaking())
            }
        }
    }
}

impl<U: AsRawFd, T: AsRawFd> AsRawFd for LinkStream<U, T> {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            LinkStream::Unix(socket) => socket.as_raw_fd(),
            LinkStream::Tls(stream) => stream.as_raw_fd(),
        }
    }
}

impl<U: Source, T: Source> Source for LinkStream<U, T> {
    fn register(&mut self, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        match self {
            LinkStream::Unix(socket) => socket.register(registry, token, to),
            LinkStream::Tls(stream) => stream.socket_mut().register(registry, token, to),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, to: Interest) -> io::Result<()> {
        match self {
            LinkStream::Unix(socket) => socket.reregister(registry, token, to),
            LinkStream::Tls(stream) => stream.socket_mut().reregister(registry, token, to),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            LinkStream::Unix(socket) => socket.deregister(registry),
            LinkStream::Tls(stream) => stream.socket_mut().deregister(registry),
        }
    }
}

/// Sends a connect to another host, and does not wait for the answer: until it comes, reading and writing would block.
/// `silence_max` is as for [`prepare`].
///
/// # Errors
/// The system has no socket, or knows no way there.
pub fn begin_connect(to: SocketAddr, silence_max: Duration) -> io::Result<TcpStream> {
    let (stream, _) = crate::tcp::begin_connect(None, to)?;
    prepare(&stream, silence_max)?;
    Ok(stream)
}

/// Sets what both ends of a link between hosts need: what is written leaves at once, and a host that is gone ends the
/// stream after so long, whether something waits for it or not.
///
/// # Errors
/// The system refuses.
pub fn prepare(socket: &impl AsFd, silence_max: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // Heartbeats and probes say sooner that the other end is gone. This ends what nobody looks at any more, in whole seconds.
    let patience = silence_max.max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new()
        .with_time(patience)
        .with_interval(Duration::from_secs(1))
        .with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience))
}
