//! Batches of datagrams: one `recvmmsg` into fixed scratch and a copy per datagram into recycled
//! chunks; one `sendmmsg` for many queued datagrams.
//!
//! The scratch has room for the longest datagram in every place, so a length is never guessed; only
//! the pages that datagrams really fill become resident. The copy makes what is handed on as small
//! as the message.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use smallvec::SmallVec;
use socket2::Socket;

use super::send_queue::Queued;
use super::{DATAGRAM_BYTES_MAX, UdpCounters};
use crate::arena::Arena;
use crate::flow::canonical;

/// Most datagrams of one system call.
pub const BATCH_DATAGRAMS: usize = 32;

/// How often in a row a reported ICMP error is skipped before the batch ends; the socket stays
/// readable for more.
const SKIPPED_ERRORS_MAX: usize = 16;

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The socket has nothing more: wait for the next readable event.
    Drained,
    /// Call again before waiting.
    More,
}

/// Scratch, headers and chunks of one worker, for all its UDP sockets. It holds pointers for the
/// kernel, so it stays on the thread that made it.
pub struct DatagramBatch {
    scratch: Box<[u8]>,
    place_bytes: usize,
    // The kernel writes each address's length into its header, and it is the room it has next time:
    // headers that served an IPv4 socket would cut IPv6 addresses short.
    headers_ipv4: MultiHeaders<SockaddrStorage>,
    headers_ipv6: MultiHeaders<SockaddrStorage>,
    headers_out: MultiHeaders<SockaddrStorage>,
    arena: Arena,
}

impl Default for DatagramBatch {
    fn default() -> DatagramBatch {
        DatagramBatch::new()
    }
}

impl DatagramBatch {
    /// Scratch for [`BATCH_DATAGRAMS`] of the longest datagrams: 2 MiB of addresses, resident as
    /// far as used.
    pub fn new() -> DatagramBatch {
        DatagramBatch::for_datagrams_of(DATAGRAM_BYTES_MAX)
    }

    fn for_datagrams_of(place_bytes: usize) -> DatagramBatch {
        DatagramBatch {
            scratch: vec![0; BATCH_DATAGRAMS * place_bytes].into_boxed_slice(),
            place_bytes,
            headers_ipv4: MultiHeaders::preallocate(BATCH_DATAGRAMS, None),
            headers_ipv6: MultiHeaders::preallocate(BATCH_DATAGRAMS, None),
            headers_out: MultiHeaders::preallocate(BATCH_DATAGRAMS, None),
            arena: Arena::new(),
        }
    }

    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        local: SocketAddr,
        counters: &mut UdpCounters,
        mut on_datagram: impl FnMut(Bytes, SocketAddr),
    ) -> io::Result<Received> {
        for _ in 0..SKIPPED_ERRORS_MAX {
            match self.receive_once(socket, local, counters, &mut on_datagram) {
                // Also after a batch that was not filled: it may have ended at an error and not at
                // the end of the queue, and no new event would tell of the rest.
                Ok(_) => return Ok(Received::More),
                Err(Errno::EAGAIN) => return Ok(Received::Drained),
                Err(Errno::EINTR) => {}
                Err(errno) if is_reported_by_peer(errno) => counters.receive_errors += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Received::More)
    }

    fn receive_once(
        &mut self,
        socket: &Socket,
        local: SocketAddr,
        counters: &mut UdpCounters,
        on_datagram: &mut impl FnMut(Bytes, SocketAddr),
    ) -> nix::Result<usize> {
        let headers = if local.is_ipv4() { &mut self.headers_ipv4 } else { &mut self.headers_ipv6 };
        let mut chunks = self.scratch.chunks_exact_mut(self.place_bytes);
        let mut places: [[IoSliceMut<'_>; 1]; BATCH_DATAGRAMS] = std::array::from_fn(|_| {
            [IoSliceMut::new(chunks.next().expect("scratch has a place per datagram"))]
        });
        let received =
            recvmmsg(socket.as_raw_fd(), headers, places.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let mut count = 0;
        for datagram in received {
            count += 1;
            if datagram.flags.contains(MsgFlags::MSG_TRUNC) {
                counters.truncated += 1;
                continue;
            }
            let Some(remote) = datagram.address.as_ref().and_then(socket_address) else { continue };
            counters.received += 1;
            let bytes = datagram.iovs().next().unwrap_or_default();
            on_datagram(self.arena.copy(bytes), canonical(remote));
        }
        Ok(count)
    }

    /// Sends the first [`BATCH_DATAGRAMS`] of a queue with one system call and says how many the
    /// kernel took. An error is about the first one.
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        local: SocketAddr,
        queued: &VecDeque<Queued>,
    ) -> nix::Result<usize> {
        let mut addresses: SmallVec<[Option<SockaddrStorage>; BATCH_DATAGRAMS]> = SmallVec::new();
        let mut slices: SmallVec<[[IoSlice<'_>; 1]; BATCH_DATAGRAMS]> = SmallVec::new();
        for datagram in queued.iter().take(BATCH_DATAGRAMS) {
            addresses.push(Some(kernel_address(datagram.remote, local.is_ipv6())));
            slices.push([IoSlice::new(&datagram.bytes)]);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut self.headers_out,
            slices.iter(),
            &addresses,
            [],
            flags,
        )?;
        Ok(sent.count())
    }
}

impl std::fmt::Debug for DatagramBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramBatch").field("arena", &self.arena).finish_non_exhaustive()
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    ipv4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// The address as the socket's family wants it: an IPv6 socket reaches IPv4 peers by mapped
/// addresses only.
fn kernel_address(remote: SocketAddr, wide: bool) -> SockaddrStorage {
    match (remote.ip(), wide) {
        (IpAddr::V4(ip), true) => {
            SocketAddrV6::new(ip.to_ipv6_mapped(), remote.port(), 0, 0).into()
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => remote.into(),
    }
}

/// What ICMP said about a datagram that was sent earlier. It says nothing about this socket, and a
/// forged ICMP message must not stop an edge.
fn is_reported_by_peer(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EMSGSIZE
            | Errno::EACCES
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::UdpEndpoint;

    #[test]
    fn a_datagram_longer_than_its_place_is_dropped_and_counted() {
        let mut endpoint =
            UdpEndpoint::bind("127.0.0.1:0".parse().expect("address")).expect("bind");
        let phone = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        for length in [100, 101, 99] {
            phone.send_to(&vec![b'x'; length], endpoint.local()).expect("send");
        }
        let (mut batch, mut lengths) = (DatagramBatch::for_datagrams_of(100), Vec::new());
        // Loopback delivers before send returns.
        let received = endpoint
            .receive_batch(&mut batch, |datagram, _| lengths.push(datagram.len()))
            .expect("receive");
        assert_eq!((received, lengths), (Received::More, vec![100, 99]));
        assert_eq!((endpoint.counters().received, endpoint.counters().truncated), (2, 1));
    }
}
