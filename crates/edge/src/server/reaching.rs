//! Where a container's end of a link is, and how an edge gets there: by a Unix socket on its own node, by TLS to another
//! one, whose certificate must be that node's.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};
use rustls::ClientConfig;
use topology::ProcessEntry;
use topology::credentials::server_name;
use transport::link::{LinkStream, stream};
use transport::tls::TlsStream;

/// The stream under a link, on the edge's side.
pub(super) type Stream = LinkStream<UnixStream, TcpStream>;

/// What an edge shows and believes on links to other nodes: its node's certificate, those of the cluster.
#[derive(Clone, Debug)]
pub struct LinkCredentials(pub Arc<ClientConfig>);

/// Where a container is linked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On this node.
    Here(PathBuf),
    /// On another one.
    There {
        /// Where it listens.
        address: SocketAddr,
        /// Who it must be: the name of its node.
        node: String,
    },
}

impl Place {
    /// Where the container is linked to, if it can be at all.
    pub(super) fn of(container: &ProcessEntry) -> Option<Place> {
        match (container.name.parts().1, container.link_address) {
            (None, _) => container.link.clone().map(Place::Here),
            (Some(node), Some(address)) => Some(Place::There { address, node: node.to_owned() }),
            (Some(_), None) => None,
        }
    }
}

/// What a link needs to be begun.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    credentials: Option<LinkCredentials>,
    silence_max: Duration,
}

impl Caller {
    /// `silence_max`: after so long without a word the other end is taken for lost.
    pub(super) fn new(credentials: Option<LinkCredentials>, silence_max: Duration) -> Caller {
        Caller { credentials, silence_max }
    }

    /// These from now on.
    pub(super) fn use_credentials(&mut self, credentials: LinkCredentials) {
        self.credentials = Some(credentials);
    }

    /// Begins a stream; nothing of it waits.
    pub(super) fn begin(&self, place: &Place) -> io::Result<Stream> {
        let (address, node) = match place {
            Place::Here(path) => return UnixStream::connect(path).map(LinkStream::Unix),
            Place::There { address, node } => (*address, node),
        };
        let credentials = self.credentials.as_ref().ok_or_else(|| {
            io::Error::other("no credentials: the node is no member of a cluster yet")
        })?;
        let name = server_name(node).map_err(io::Error::other)?;
        let socket = stream::begin_connect(address, self.silence_max)?;
        let tls = TlsStream::client(socket, Arc::clone(&credentials.0), name);
        tls.map(|tls| LinkStream::Tls(Box::new(tls))).map_err(io::Error::other)
    }
}
