//! A plain SIP peer: any third-party application server that stands in a container's place.
//!
//! It is chosen like a container and recognised by its source address, so its network must be one
//! where nobody else can send from that address. It sends no heartbeats: the edge probes it.

use std::net::SocketAddr;

use topology::ProcessName;
use transport::Transport;

/// A configured peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name among the containers.
    pub name: ProcessName,
    /// How it is spoken to.
    pub transport: Transport,
    /// Where it listens, and by UDP where it sends from.
    pub address: SocketAddr,
    /// Its share of new work; see [`topology::ProcessEntry::weight`].
    pub weight: u16,
}
