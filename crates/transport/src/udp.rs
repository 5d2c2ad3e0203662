//! UDP: datagrams in batches into `Bytes`, and rendered messages in batches out.
//!
//! First and last station of a message that comes or goes by UDP (RFC 3261 §18). A worker has one
//! [`UdpEndpoint`] per listening address, each a socket of its own in the address's SO_REUSEPORT
//! group, and one [`DatagramBatch`] for all of them. Registered in the worker's mio loop, an
//! endpoint is read when readable and flushed at the end of a turn:
//!
//! ```text
//! readable ─▶ receive_batch ─▶ the edge decides ─▶ queue … queue ─▶ flush
//! writable ─▶ flush what was blocked
//! ```
//!
//! Keep-alives (CRLF, STUN) are datagrams like others here: `sip::framer::datagram` tells them
//! apart. No message is ever moved to TCP from here, whatever its size: that is the sender's
//! transaction's choice (RFC 3261 §18.1.1), and never for a NATed flow.

mod batch;
mod send_queue;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bytes::Bytes;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

pub use batch::{BATCH_DATAGRAMS, DatagramBatch, Received};
use send_queue::SendQueue;
pub use send_queue::{Flushed, QUEUED_BYTES_MAX, QUEUED_DATAGRAMS_MAX, Undelivered};

use crate::flow::canonical;

/// Longest datagram that is received whole; RFC 3261 §18.1.1 asks for what the datagram's length
/// field can say.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Receive buffer asked of the kernel: some thousand messages, for the time that a killed edge
/// needs to come back. The kernel gives less where `net.core.rmem_max` is lower and the process may
/// not force it.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Send buffer asked of the kernel.
const SEND_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// What an endpoint could not deliver; monotonic since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Datagrams received whole.
    pub received: u64,
    /// Datagrams dropped because they were longer than [`DATAGRAM_BYTES_MAX`].
    pub truncated: u64,
    /// Errors of earlier sends (ICMP) that the kernel reported while receiving; nothing to do about
    /// them.
    pub receive_errors: u64,
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams that the kernel refused, each reported as [`Undelivered`].
    pub undeliverable: u64,
    /// Datagrams dropped, oldest first, because the send queue was at its bound.
    pub overflowed: u64,
}

/// One UDP socket with its send queue.
#[derive(Debug)]
pub struct UdpEndpoint {
    socket: Socket,
    local: SocketAddr,
    queue: SendQueue,
    counters: UdpCounters,
}

impl UdpEndpoint {
    /// Takes over a bound socket, for example one that the manager opened.
    ///
    /// # Errors
    /// When the descriptor is not a bound UDP socket, or cannot be made non-blocking; a retry does
    /// not help.
    pub fn from_fd(fd: OwnedFd) -> io::Result<UdpEndpoint> {
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::DGRAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a datagram socket"));
        }
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))?;
        socket.set_nonblocking(true)?;
        widen_buffers(&socket);
        Ok(UdpEndpoint {
            socket,
            local,
            queue: SendQueue::default(),
            counters: UdpCounters::default(),
        })
    }

    /// Opens a socket with [`bind_socket`] and takes it over.
    ///
    /// # Errors
    /// As [`bind_socket`].
    pub fn bind(address: SocketAddr) -> io::Result<UdpEndpoint> {
        UdpEndpoint::from_fd(bind_socket(address)?)
    }

    /// The socket's own address: as bound, with the real port.
    pub fn local(&self) -> SocketAddr {
        canonical(self.local)
    }

    /// What was received, sent and lost so far.
    pub fn counters(&self) -> UdpCounters {
        self.counters
    }

    /// Receives up to [`BATCH_DATAGRAMS`] datagrams with one system call and hands each to
    /// `on_datagram` with the address it came from. Call it again (after other work, for fairness)
    /// while it answers [`Received::More`]: readiness is edge-triggered.
    ///
    /// # Errors
    /// When the socket itself is unusable. What ICMP reported about earlier sends is counted, not
    /// an error.
    pub fn receive_batch(
        &mut self,
        batch: &mut DatagramBatch,
        on_datagram: impl FnMut(Bytes, SocketAddr),
    ) -> io::Result<Received> {
        batch.receive(&self.socket, self.local, &mut self.counters, on_datagram)
    }

    /// Queues a datagram; nothing is sent before [`flush`](Self::flush). `tag` comes back if it
    /// cannot be delivered.
    ///
    /// At the bound ([`QUEUED_DATAGRAMS_MAX`], [`QUEUED_BYTES_MAX`]) the oldest are dropped and
    /// counted: they are the ones that their sender has given up on or sends again soonest.
    pub fn queue(&mut self, remote: SocketAddr, bytes: Bytes, tag: u64) {
        self.counters.overflowed += self.queue.push(remote, bytes, tag);
    }

    /// Whether datagrams wait to be sent.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends what is queued, in order, in batches. What the kernel refuses (no route, too long, not
    /// permitted) goes to `on_undelivered` and the rest goes on. On [`Flushed::Blocked`] the rest
    /// stays queued: flush again when writable.
    ///
    /// # Errors
    /// When the socket itself is unusable; the queue stays as it is.
    pub fn flush(
        &mut self,
        batch: &mut DatagramBatch,
        on_undelivered: impl FnMut(Undelivered),
    ) -> io::Result<Flushed> {
        let send = |queued: &_| batch.send(&self.socket, self.local, queued);
        self.queue.flush(send, &mut self.counters, on_undelivered)
    }
}

/// Opens, binds and does not yet use a UDP socket: SO_REUSEPORT, so that every worker of every edge
/// has its own at the same address; an IPv6 one takes IPv6 only. Port 0 takes a free one.
///
/// # Errors
/// What the system answers, for example that the address is not this machine's, or taken by a
/// socket without SO_REUSEPORT or of another user.
pub fn bind_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A free port is one that nobody has: with SO_REUSEPORT before bind the kernel also gives ports
    // of the same user's other groups.
    let any_port = address.port() == 0;
    socket.set_reuse_port(!any_port)?;
    socket.set_nonblocking(true)?;
    // Before bind, so that the first datagrams already find room.
    widen_buffers(&socket);
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// A smaller buffer than asked for costs datagrams in a burst, not correctness: errors are not the
/// caller's.
fn widen_buffers(socket: &Socket) {
    use nix::sys::socket::{setsockopt, sockopt};
    // The forced option passes net.core.rmem_max where the process may; else take what the limit
    // gives.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err()
        && let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)
    {
        tracing::warn!(%error, "receive buffer stays at the system's default");
    }
    if let Err(error) = socket.set_send_buffer_size(SEND_BUFFER_BYTES) {
        tracing::warn!(%error, "send buffer stays at the system's default");
    }
}

impl AsFd for UdpEndpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpEndpoint {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Source for UdpEndpoint {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}
