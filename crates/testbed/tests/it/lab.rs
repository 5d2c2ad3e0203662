//! Labs: that the network between their hosts is what a test asked for, and that nothing of them stays behind.

mod life;
mod network;
pub(crate) mod nodes;
mod power;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use testbed::lab::Host;

/// How long a packet may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A socket on an address of a host.
fn socket(host: &Host, address: impl Into<IpAddr>) -> UdpSocket {
    let address = SocketAddr::new(address.into(), 0);
    let socket = host.enter(|| UdpSocket::bind(address)).expect("the host has this address");
    socket.set_read_timeout(Some(LIMIT)).expect("a time-out");
    socket
}

/// Says something to the other socket.
fn say(from: &UdpSocket, to: &UdpSocket, word: &str) {
    from.send_to(word.as_bytes(), to.local_addr().expect("bound")).expect("a card");
}

/// The next word that a socket hears.
fn heard(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).expect("a word within the limit");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
