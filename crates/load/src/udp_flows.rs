//! The UDP sockets of a run: one flow each.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bytes::Bytes;
use mio::event::Event;
use mio::{Interest, Registry, Token};
use transport::udp::{DatagramBatch, Flushed, Received, UdpEndpoint};

use crate::outbox::FlowIndex;

/// Batches of one socket in one turn, so that what is due elsewhere does not wait for it.
const BATCHES_PER_TURN: usize = 4;

#[derive(Debug)]
struct Flow {
    socket: UdpEndpoint,
    is_readable: bool,
    is_blocked: bool,
}

/// All sockets, with one batch for all of them.
#[derive(Debug)]
pub(crate) struct UdpFlows {
    flows: Vec<Flow>,
    batch: DatagramBatch,
}

impl UdpFlows {
    /// Opens `count` sockets, spread over the local addresses, each at the next port of its address from `port` on; if
    /// that is 0, at a free one. The index of each is its token.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub(crate) fn open(
        count: u32,
        addresses: &[IpAddr],
        port: u16,
        registry: &Registry,
    ) -> Result<UdpFlows, (SocketAddr, io::Error)> {
        let mut flows = Vec::new();
        for index in 0..count as usize {
            let address = addresses[index % addresses.len()];
            let offset = u16::try_from(index / addresses.len()).unwrap_or(u16::MAX);
            let port = if port == 0 { 0 } else { port.saturating_add(offset) };
            let local = SocketAddr::new(address, port);
            let both = Interest::READABLE | Interest::WRITABLE;
            // Not with SO_REUSEPORT: another run at the same port would get some of our answers.
            let opened = UdpSocket::bind(local).and_then(|socket| {
                let mut socket = UdpEndpoint::from_fd(socket.into())?;
                registry.register(&mut socket, Token(index), both)?;
                Ok(socket)
            });
            let socket = opened.map_err(|error| (local, error))?;
            flows.push(Flow { socket, is_readable: false, is_blocked: false });
        }
        Ok(UdpFlows { flows, batch: DatagramBatch::new() })
    }

    /// The address of each flow.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (FlowIndex, SocketAddr)> + use<'_> {
        self.flows.iter().zip(0..).map(|(flow, index)| (FlowIndex(index), flow.socket.local()))
    }

    /// Takes note of what a socket is ready for.
    pub(crate) fn note(&mut self, event: &Event) {
        let Some(flow) = self.flows.get_mut(event.token().0) else {
            return;
        };
        flow.is_readable |= event.is_readable() || event.is_error();
        flow.is_blocked &= !event.is_writable();
    }

    /// Whether a socket had more to read than a turn's share.
    pub(crate) fn has_unread(&self) -> bool {
        self.flows.iter().any(|flow| flow.is_readable)
    }

    /// Whether a socket takes no more for now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.flows.iter().any(|flow| flow.is_blocked)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// A socket is unusable.
    pub(crate) fn receive(
        &mut self,
        mut on_datagram: impl FnMut(FlowIndex, SocketAddr, Bytes),
    ) -> io::Result<()> {
        for (flow, index) in self.flows.iter_mut().zip(0..) {
            for _ in 0..BATCHES_PER_TURN {
                if !flow.is_readable {
                    break;
                }
                let received = flow.socket.receive_batch(&mut self.batch, |bytes, from| {
                    on_datagram(FlowIndex(index), from, bytes);
                })?;
                flow.is_readable = received == Received::More;
            }
        }
        Ok(())
    }

    /// Queues a datagram.
    pub(crate) fn queue(&mut self, flow: FlowIndex, to: SocketAddr, message: Bytes) {
        self.flows[flow.0 as usize].socket.queue(to, message, 0);
    }

    /// Sends what is queued, as far as the system takes it.
    ///
    /// # Errors
    /// A socket is unusable.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for flow in
            self.flows.iter_mut().filter(|flow| !flow.is_blocked && flow.socket.has_queued())
        {
            // What is refused is counted by the socket, and sent again by its transaction.
            let flushed = flow.socket.flush(&mut self.batch, drop)?;
            flow.is_blocked = flushed == Flushed::Blocked;
        }
        Ok(())
    }

    /// Datagrams that never left.
    pub(crate) fn unsent(&self) -> u64 {
        let counters = self.flows.iter().map(|flow| flow.socket.counters());
        counters.map(|counters| counters.undeliverable + counters.overflowed).sum()
    }
}
