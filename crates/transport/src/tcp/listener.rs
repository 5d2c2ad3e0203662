//! A listening TCP socket of one worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::flow::canonical;

/// Connections that the kernel completes before they are accepted; beyond, it lets new ones wait
/// and retry.
const BACKLOG: i32 = 1_024;

/// How accepting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Nobody waits: accept again on the next readable event.
    Drained,
    /// The turn's share is used: accept again before waiting.
    More,
    /// Descriptors or memory are short: accept again after a moment. Until then connections wait in
    /// the kernel's backlog.
    Short,
}

/// A listening socket, to be registered in the worker's loop.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Takes over a listening socket, for example one that the manager opened.
    ///
    /// # Errors
    /// When the descriptor is not a bound stream socket, or cannot be made non-blocking; a retry
    /// does not help.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
        }
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket.into());
        let local = canonical(socket.local_addr()?);
        Ok(Listener { socket, local })
    }

    /// Opens a socket with [`bind_listener`] and takes it over.
    ///
    /// # Errors
    /// As [`bind_listener`].
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Listener::from_fd(bind_listener(address)?)
    }

    /// The socket's own address: as bound, with the real port.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept()
    }
}

/// Opens, binds and listens on a TCP socket: SO_REUSEPORT, so that every worker of every edge has
/// its own at the same address; SO_REUSEADDR, so that a restart need not wait for old connections;
/// an IPv6 one takes IPv6 only. Port 0 takes a free one.
///
/// # Errors
/// What the system answers, for example that the address is not this machine's, or taken by a
/// socket without SO_REUSEPORT or of another user.
pub fn bind_listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // See `udp::bind_socket`: a free port is one that nobody has.
    let any_port = address.port() == 0;
    socket.set_reuse_port(!any_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Source for Listener {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
