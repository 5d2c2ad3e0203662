//! A bare echo: every datagram goes back as it is. What a batch of datagrams costs on this machine, with nothing done
//! to them, and the peer for measuring this generator itself.

use std::io;
use std::net::SocketAddr;

use mio::{Events, Interest, Poll, Token};
use transport::udp::{DatagramBatch, Received, UdpEndpoint};

/// Echoes until the process is ended; `on_bound` is told the address.
///
/// # Errors
/// The address cannot be bound, or the socket is unusable.
pub(crate) fn run(listen: SocketAddr, on_bound: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut socket = UdpEndpoint::bind(listen)?;
    poll.registry().register(&mut socket, Token(0), Interest::READABLE | Interest::WRITABLE)?;
    on_bound(socket.local());
    let (mut batch, mut arrived) = (DatagramBatch::new(), Vec::new());
    let mut events = Events::with_capacity(8);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        loop {
            let received =
                socket.receive_batch(&mut batch, |bytes, from| arrived.push((from, bytes)))?;
            for (from, bytes) in arrived.drain(..) {
                socket.queue(from, bytes, 0);
            }
            // What the kernel refuses or has no room for is the sender's loss, as on a wire.
            socket.flush(&mut batch, drop)?;
            if received == Received::Drained {
                break;
            }
        }
    }
}
