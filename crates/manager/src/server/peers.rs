//! The peer port: managers of a cluster speak with each other, and nodes ask to be admitted.
//!
//! TLS on one TCP port. The ALPN says what is spoken: `outlast-peer/1` between members, with a certificate on both sides
//! ([`connection`]); `outlast-join/1` with whoever has a token ([`admission`]). All else is refused and counted. Who is no
//! member gets a place among few, for a short time, so that strangers keep no member out.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use topology::HeartbeatSettings;
use topology::credentials::{
    ALPN_JOIN, ALPN_PEER, ClusterSecret, CredentialError, NodeCredentials, peer_node, server_name,
};
use tracing::{debug, info, warn};

use super::Input;
use connection::Dialled;
use lines::PeerError;

pub(super) mod admission;
pub(super) mod connection;
mod lines;
pub(super) mod protocol;

/// Connections of hosts that are members': each has one, and a second for a moment.
const MEMBER_CONNECTIONS_MAX: usize = 256;

/// Connections of other hosts at one time: nodes that join. More are closed at once.
const STRANGER_CONNECTIONS_MAX: usize = 16;

/// From the first octet until both know each other.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two attempts to reach a member, or to open the port.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Who was told why he does not come in need not hear it again soon.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A port that is taken, and strangers that come, are told once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What all connections share.
pub(super) struct Port {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) cluster: String,
    pub(super) secret: ClusterSecret,
    pub(super) credentials: NodeCredentials,
    pub(super) heartbeat: HeartbeatSettings,
    /// What is said to every member, latest first.
    pub(super) said: Said,
    member_server: Arc<ServerConfig>,
    join_server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Hosts of members.
    hosts: RwLock<BTreeSet<IpAddr>>,
    refused: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// Lines of [`protocol::ToPeer`] that every member is told when they change.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) greeting: watch::Receiver<Arc<Vec<u8>>>,
    pub(super) snapshot: watch::Receiver<Arc<Vec<u8>>>,
    pub(super) membership: watch::Receiver<Arc<Vec<u8>>>,
    pub(super) keys: watch::Receiver<Arc<Vec<u8>>>,
}

impl Port {
    pub(super) fn new(
        inputs: mpsc::Sender<Input>,
        cluster: String,
        secret: ClusterSecret,
        credentials: NodeCredentials,
        heartbeat: HeartbeatSettings,
        said: Said,
    ) -> Result<Port, CredentialError> {
        Ok(Port {
            inputs,
            cluster,
            secret,
            heartbeat,
            said,
            member_server: credentials.server_config(&[ALPN_PEER])?,
            join_server: credentials.join_server_config()?,
            client: credentials.client_config(ALPN_PEER)?,
            credentials,
            hosts: RwLock::default(),
            refused: AtomicU64::new(0),
            told: Mutex::new(None),
        })
    }

    /// Who connects from there has a place.
    pub(super) fn set_hosts(&self, hosts: BTreeSet<IpAddr>) {
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The silence after which the other end of a connection is given up.
    pub(super) fn silence_max(&self) -> Duration {
        self.heartbeat.interval * (self.heartbeat.allowed_miss_count + 1)
    }

    /// Somebody who is not to come in. Told now and then, so that nobody fills the log from outside.
    fn refuse(&self, remote: SocketAddr, reason: &dyn std::fmt::Display) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            warn!(%remote, %reason, refused, "refused a connection to the peer port");
        }
    }

    fn is_members(&self, host: IpAddr) -> bool {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).contains(&host)
    }
}

/// Accepts at that address as long as it is polled. A port that cannot be had is tried again: the node serves its phones
/// meanwhile.
pub(super) async fn accept(port: Arc<Port>, address: SocketAddr) {
    let listener = open(address).await;
    info!(%address, "other members of the cluster may come");
    let members = Arc::new(Semaphore::new(MEMBER_CONNECTIONS_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGER_CONNECTIONS_MAX));
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: going on at once would only spin.
                warn!(%error, "the peer port accepts nobody for a moment");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        };
        let places = if port.is_members(remote.ip()) { &members } else { &strangers };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            port.refuse(remote, &"too many connections at one time");
            continue;
        };
        let port = Arc::clone(&port);
        tokio::spawn(async move {
            serve(&port, stream, remote).await;
            drop(place);
        });
    }
}

async fn open(address: SocketAddr) -> TcpListener {
    let mut told: Option<Instant> = None;
    loop {
        match listen(address) {
            Ok(listener) => return listener,
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                    told = Some(Instant::now());
                    warn!(%address, %error, "the cluster's address cannot be opened: trying again. Is it this host's? See [cluster] in outlast.toml");
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A manager that follows another one finds its connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

async fn serve(port: &Arc<Port>, stream: TcpStream, remote: SocketAddr) {
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(port, stream)).await;
    let (stream, protocol) = match shaken {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return port.refuse(remote, &error),
        Err(_) => return port.refuse(remote, &"no TLS handshake in time"),
    };
    match protocol {
        Protocol::Join => {
            if let Err(error) = admission::serve(port, stream).await {
                port.refuse(remote, &error);
            }
        }
        Protocol::Peer { node } => {
            if let Err(error) = connection::accepted(port, stream, &node).await {
                debug!(%remote, node, %error, "the connection of a member ended");
            }
        }
    }
}

enum Protocol {
    Join,
    Peer { node: String },
}

type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn shake_hands(port: &Port, stream: TcpStream) -> io::Result<(ServerStream, Protocol)> {
    stream.set_nodelay(true)?;
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let joins = start
        .client_hello()
        .alpn()
        .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_JOIN));
    if joins {
        let stream = start.into_stream(Arc::clone(&port.join_server)).await?;
        return Ok((stream, Protocol::Join));
    }
    let stream = start.into_stream(Arc::clone(&port.member_server)).await?;
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(ALPN_PEER) {
        return Err(io::Error::other("neither a member nor a node that joins"));
    }
    let node = connection.peer_certificates().and_then(peer_node);
    let node = node.ok_or_else(|| io::Error::other("a certificate of no node"))?;
    Ok((stream, Protocol::Peer { node }))
}

/// Keeps a connection to a member, as long as it is polled.
pub(super) async fn dial(port: Arc<Port>, member: topology::Member) {
    loop {
        let talked = match connect(&port, &member).await {
            Ok(stream) => Dialled { port: &port, member: &member }.talk(stream).await,
            Err(error) => Err(error.into()),
        };
        let again_after = match talked {
            Err(PeerError::Refused(_)) => REFUSED_AGAIN_AFTER,
            Ok(()) | Err(_) => AGAIN_AFTER,
        };
        if let Err(error) = talked {
            debug!(node = member.name, address = %member.address, %error, "no connection to a member");
        }
        tokio::time::sleep(again_after).await;
    }
}

async fn connect(
    port: &Port,
    member: &topology::Member,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect(member.address).await?;
        stream.set_nodelay(true)?;
        let name = server_name(&member.name).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&port.client)).connect(name, stream).await
    };
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The machine's clock, as certificates and tokens are dated.
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
