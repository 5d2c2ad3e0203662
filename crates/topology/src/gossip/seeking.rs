//! How members find each other: addresses to ask (discovery servers, a static list, the members last known), or a
//! multicast address where all say that they are there.
//!
//! Whoever is asked tells all that he knows, so one that can be reached is enough, and none is needed once the members
//! know each other. Names are resolved anew each time, in the background, for an address may have another host tomorrow.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::socket::Shared;
use super::word::Word;

/// How often everybody is asked whom this node knows how to ask.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);

/// A name that takes longer to resolve is asked for again later.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// Addresses of one name that are asked.
const ADDRESSES_PER_NAME_MAX: usize = 16;

/// How this node finds the others, beside the members it knew last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Discovery {
    /// By those it knew last, and by being found.
    #[default]
    KnownMembers,
    /// By a multicast address, in the network of the node's own address.
    Multicast(SocketAddrV4),
    /// By asking these, `host:port`: discovery servers, or a static list of all members.
    Addresses(Vec<String>),
}

/// Whom a node asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Whom {
    pub(super) discovery: Discovery,
    pub(super) known: BTreeSet<SocketAddr>,
}

/// Asks as long as somebody hears; what is found goes to `found`.
pub(super) async fn seek(
    shared: Arc<Shared>,
    own: SocketAddr,
    mut whom: watch::Receiver<Whom>,
    found: mpsc::Sender<SocketAddr>,
) {
    loop {
        let Whom { discovery, known } = whom.borrow_and_update().clone();
        let seeking = async {
            match discovery {
                Discovery::KnownMembers => ask(&known, &[], own, &found).await,
                Discovery::Addresses(names) => ask(&known, &names, own, &found).await,
                Discovery::Multicast(group) => {
                    tokio::join!(
                        ask(&known, &[], own, &found),
                        listen(&shared, own, group, &found)
                    );
                }
            }
        };
        tokio::select! {
            () = seeking => return,
            changed = whom.changed() => if changed.is_err() { return },
        }
    }
}

/// Asks addresses and names, again and again; returns when nobody wants to know any more.
async fn ask(
    known: &BTreeSet<SocketAddr>,
    names: &[String],
    own: SocketAddr,
    found: &mpsc::Sender<SocketAddr>,
) {
    let mut interval = tokio::time::interval(SEEK_INTERVAL);
    loop {
        interval.tick().await;
        let mut addresses = known.clone();
        let mut lookups = JoinSet::new();
        for name in names {
            match name.parse::<SocketAddr>() {
                Ok(address) => drop(addresses.insert(address)),
                Err(_) => drop(lookups.spawn(resolve(name.clone()))),
            }
        }
        addresses.remove(&own);
        for address in addresses {
            if found.send(address).await.is_err() {
                return;
            }
        }
        // Those that can be asked without a name are not kept waiting by those with one.
        while let Some(resolved) = lookups.join_next().await {
            for address in resolved.unwrap_or_default() {
                if address != own && found.send(address).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn resolve(name: String) -> Vec<SocketAddr> {
    match timeout(RESOLVE_MAX, tokio::net::lookup_host(&name)).await {
        Ok(Ok(addresses)) => addresses.take(ADDRESSES_PER_NAME_MAX).collect(),
        Ok(Err(error)) => {
            debug!(%error, name, "a name of another member does not resolve");
            Vec::new()
        }
        Err(_) => {
            debug!(name, "a name of another member takes long to resolve");
            Vec::new()
        }
    }
}

/// Says at a multicast address that this node is there, and hears others say it.
async fn listen(
    shared: &Shared,
    own: SocketAddr,
    group: SocketAddrV4,
    found: &mpsc::Sender<SocketAddr>,
) {
    const DATAGRAM_BYTES_MAX: usize = 2_048;
    /// The network may not be there yet.
    const PAUSE: Duration = Duration::from_secs(5);
    let mut has_failed = false;
    let socket = loop {
        match join(own, group) {
            Ok(socket) => break socket,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%error, %group, "no members are found by multicast: is there a network that takes it?");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    info!(%group, "members are found by multicast");
    let mut interval = tokio::time::interval(SEEK_INTERVAL);
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    let group = SocketAddr::V4(group);
    loop {
        tokio::select! {
            _ = interval.tick() => shared.say(Word::Here, group, &socket).await,
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, _)) = received else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                if let Some(spoken) = shared.open(&buffer[..length], group)
                    && found.send(spoken.address).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// A socket bound to a multicast address, which all processes of a host may be, in the network of `own`.
pub(super) fn join(own: SocketAddr, group: SocketAddrV4) -> io::Result<UdpSocket> {
    let IpAddr::V4(interface) = own.ip() else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a node whose [cluster] address is IPv6 cannot use an IPv4 multicast address; name discovery servers",
        ));
    };
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(group))?;
    socket.join_multicast_v4(group.ip(), &interface)?;
    socket.set_multicast_if_v4(&interface)?;
    // Several nodes of one host hear each other.
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(MULTICAST_TTL)?;
    UdpSocket::from_std(socket.into())
}

/// Members are in one site: routers between its networks may pass multicast on.
const MULTICAST_TTL: u32 = 8;
