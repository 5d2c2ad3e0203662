//! A worker's UDP sockets: which of them can be read, which written, and one batch of room for all.

use std::net::SocketAddr;

use bytes::Bytes;
use mio::{Interest, Registry, Token};
use transport::udp::{DatagramBatch, Flushed, Received, UdpCounters, UdpEndpoint};

/// A worker's socket has the token of its place behind this one.
pub(super) const UDP_TOKENS: usize = 0x1_0000;

/// What arrived: by which of our addresses, from where, what.
pub(super) type Datagram = (SocketAddr, SocketAddr, Bytes);

/// A UDP socket and what it still has.
#[derive(Debug)]
struct Udp {
    socket: UdpEndpoint,
    /// A batch ended before the socket was empty.
    readable: bool,
    /// The last flush left datagrams behind.
    blocked: bool,
}

impl Udp {
    fn await_events(&mut self, place: usize, interest: Interest, registry: &Registry) {
        let token = Token(UDP_TOKENS + place);
        if let Err(error) = registry.reregister(&mut self.socket, token, interest) {
            tracing::error!(%error, local = %self.socket.local(), "UDP socket left the poll");
        }
    }
}

/// The UDP sockets of one worker.
#[derive(Debug)]
pub(super) struct Datagrams {
    sockets: Vec<Udp>,
    batch: DatagramBatch,
    arrived: Vec<Datagram>,
}

impl Datagrams {
    /// Sockets that are in the worker's poll already; their place is their place in `sockets`.
    pub(super) fn new(sockets: Vec<UdpEndpoint>) -> Datagrams {
        let fresh = |socket| Udp { socket, readable: true, blocked: false };
        Datagrams {
            sockets: sockets.into_iter().map(fresh).collect(),
            batch: DatagramBatch::new(),
            arrived: Vec::new(),
        }
    }

    /// The poll says that a socket can be read.
    pub(super) fn readable(&mut self, place: usize) {
        self.sockets[place].readable = true;
    }

    /// The poll says that a socket can be written.
    pub(super) fn writable(&mut self, place: usize, registry: &Registry) {
        let udp = &mut self.sockets[place];
        if udp.blocked {
            udp.blocked = false;
            udp.await_events(place, Interest::READABLE, registry);
        }
    }

    /// A batch of each socket that can be read. The list comes back by [`reuse`](Self::reuse), so that
    /// it keeps its memory.
    pub(super) fn receive(&mut self) -> Vec<Datagram> {
        let mut arrived = std::mem::take(&mut self.arrived);
        for Udp { socket, readable, .. } in &mut self.sockets {
            if !*readable {
                continue;
            }
            let local = socket.local();
            let received = socket.receive_batch(&mut self.batch, |bytes, remote| {
                arrived.push((local, remote, bytes))
            });
            match received {
                Ok(Received::More) => {}
                Ok(Received::Drained) => *readable = false,
                Err(error) => {
                    *readable = false;
                    tracing::error!(%error, %local, "UDP socket cannot be read");
                }
            }
        }
        arrived
    }

    /// Takes the list of a [`receive`](Self::receive) back.
    pub(super) fn reuse(&mut self, mut arrived: Vec<Datagram>) {
        arrived.clear();
        self.arrived = arrived;
    }

    /// The socket of that address of ours, if there is one.
    pub(super) fn socket(&mut self, local: SocketAddr) -> Option<&mut UdpEndpoint> {
        self.sockets.iter_mut().map(|udp| &mut udp.socket).find(|socket| socket.local() == local)
    }

    /// Sends what is queued; the numbers of what cannot be sent are pushed to `failed`.
    ///
    /// The poll is asked for room only while there is none: it would tell of every datagram that has left, and wake the
    /// worker once more for each.
    pub(super) fn flush(&mut self, registry: &Registry, failed: &mut Vec<u64>) {
        for (place, udp) in self.sockets.iter_mut().enumerate() {
            if udp.blocked || !udp.socket.has_queued() {
                continue;
            }
            match udp.socket.flush(&mut self.batch, |undelivered| failed.push(undelivered.tag)) {
                Ok(Flushed::Empty) => {}
                Ok(Flushed::Blocked) => {
                    udp.blocked = true;
                    udp.await_events(place, Interest::READABLE | Interest::WRITABLE, registry);
                }
                Err(error) => {
                    tracing::error!(%error, local = %udp.socket.local(), "UDP socket cannot be written")
                }
            }
        }
    }

    /// Whether a socket had more than a batch.
    pub(super) fn has_unread(&self) -> bool {
        self.sockets.iter().any(|udp| udp.readable)
    }

    /// Whether something is queued that the kernel would take.
    pub(super) fn has_unflushed(&self) -> bool {
        self.sockets.iter().any(|udp| udp.socket.has_queued() && !udp.blocked)
    }

    /// What each socket counted.
    pub(super) fn counters(&self) -> impl Iterator<Item = UdpCounters> {
        self.sockets.iter().map(|udp| udp.socket.counters())
    }
}
