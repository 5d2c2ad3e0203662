//! The system calls behind connections, and what their errors mean.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::limits::TcpLimits;
use crate::flow::Flow;

/// The kernel asks an idle peer whether it still lives after this long, and so often: a phone that
/// vanished without a word does not keep its connection for the whole idle time-out.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 4;

/// Sends a connect, and does not wait for the answer. Returns the socket and the local address that
/// the kernel chose.
pub(crate) fn begin_connect(
    local_ip: Option<IpAddr>,
    remote: SocketAddr,
) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(ip) = local_ip {
        // The port is chosen by connect, which knows the remote: else 28,000 connections would use
        // up all ports.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into());
    let local = stream.local_addr()?;
    Ok((stream, local))
}

/// Whether a connect is through (`true`), still under way (`false`), or failed.
pub(super) fn connect_outcome(stream: &TcpStream, flow: &Flow) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        // A connect to a free port of the ephemeral range can meet itself.
        Ok(_) if flow.local == flow.remote => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// What every connection is set to.
pub(super) fn set_options(stream: &TcpStream, limits: &TcpLimits) -> io::Result<()> {
    // A flush writes whole messages; waiting for more only delays them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // What the kernel took and the peer never acknowledged counts like what the kernel did not
    // take.
    socket.set_tcp_user_timeout(Some(limits.write_timeout))
}

/// What an error of accept is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptFailure {
    /// Nobody waits.
    Nobody,
    /// The connection that would have been accepted; the next may do.
    ThatConnection,
    /// Descriptors or memory are short.
    Resources,
    /// The listening socket is unusable.
    Listener,
}

/// Source: accept(2), whose Linux version also passes on what already went wrong with the new
/// connection.
pub(super) fn accept_failure(error: &io::Error) -> AcceptFailure {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) => AcceptFailure::Nobody,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
            AcceptFailure::Resources
        }
        Some(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP) | None => {
            AcceptFailure::Listener
        }
        Some(_) => AcceptFailure::ThatConnection,
    }
}
