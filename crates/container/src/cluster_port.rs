//! The port of a container for the other nodes of its cluster: edges link to it there, containers forward HTTP to it.
//!
//! ```text
//! edge of another node      ──TLS─┐              ┌─ outlast-link/1 ─▶ server (the shard's loop)
//!                                 ├─▶ handshake ─┤
//! container of another node ──TLS─┘              └─ outlast-http/1 ─▶ http_port
//! ```
//!
//! Both sides show certificates of the cluster's authority; what is spoken says ALPN. Handshakes are made on a thread of
//! their own: they cost a millisecond and may be slow or hostile, and nobody's call waits for them. Only who has proved to be
//! a node comes any further. Anybody else is refused, counted, and told of in the log at a bounded rate.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use topology::credentials::{ALPN_HTTP, ALPN_LINK, peer_node};
use tracing::{debug, info, warn};
use transport::link::stream::prepare;
use transport::tls::TlsStream;

use crate::http_port::HttpHandle;
use crate::server::ServerHandle;

/// What is spoken here.
pub const PROTOCOLS: [&[u8]; 2] = [ALPN_LINK, ALPN_HTTP];

/// A handshake that takes longer is given up.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(3);
/// Handshakes at a time; a further connection is closed at once. An edge tries again.
const HANDSHAKES_MAX: usize = 1_024;
/// Of them from one address: who begins many and ends none takes nobody else's place.
const HANDSHAKES_OF_ONE_MAX: usize = 64;
/// After a failed accept (no descriptors left) the listener rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What was refused is told at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What the port is told at its start.
#[derive(Debug, Clone)]
pub struct ClusterPortSettings {
    /// The address at which the other nodes reach this one.
    pub host: IpAddr,
    /// The first free one of these; `None`: any free one.
    pub ports: Option<RangeInclusive<u16>>,
    /// Where it was in the container's last life: tried first.
    pub last: Option<SocketAddr>,
    /// The node's certificate, and whose are believed; for [`PROTOCOLS`].
    pub tls: Arc<ServerConfig>,
    /// A node that is silent for longer has lost its links.
    pub silence_max: Duration,
}

/// The port of a container for other nodes; it is closed when this is dropped.
#[derive(Debug)]
pub struct ClusterPort {
    address: SocketAddr,
    members: watch::Sender<Vec<String>>,
    _open: oneshot::Sender<()>,
}

impl ClusterPort {
    /// Listens, on a thread of its own.
    ///
    /// # Errors
    /// No port is free there, or there is no thread to be had.
    pub fn start(
        settings: ClusterPortSettings,
        container: ServerHandle,
        http: HttpHandle,
    ) -> io::Result<ClusterPort> {
        let listener = bind(&settings)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (open, is_open) = oneshot::channel();
        let (members, told_members) = watch::channel(Vec::new());
        let door = Door {
            acceptor: TlsAcceptor::from(settings.tls),
            members: told_members,
            silence_max: settings.silence_max,
            container,
            http,
            guests: Guests::default(),
        };
        let run = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => tokio::select! {
                        () = accept(listener, Arc::new(door)) => {}
                        _closed = is_open => {}
                    },
                    Err(error) => warn!(%error, "cannot accept connections of other nodes"),
                }
            });
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("cluster-port".to_owned()).spawn(run)?;
        info!(%address, "open for the other nodes");
        Ok(ClusterPort { address, members, _open: open })
    }

    /// Nobody else is let in from now on, whatever certificate he has: a node that was removed keeps its own. Before that
    /// a certificate is enough.
    pub fn admit_only(&self, members: Vec<String>) {
        self.members.send_replace(members);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bind(settings: &ClusterPortSettings) -> io::Result<TcpListener> {
    let is_allowed = |port: u16| settings.ports.as_ref().is_none_or(|ports| ports.contains(&port));
    let last = settings.last.filter(|last| last.ip() == settings.host && is_allowed(last.port()));
    if let Some(last) = last
        && let Ok(listener) = TcpListener::bind(last)
    {
        return Ok(listener);
    }
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in settings.ports.clone().unwrap_or(0..=0) {
        match TcpListener::bind((settings.host, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What all who come have in common.
struct Door {
    acceptor: TlsAcceptor,
    /// Empty: not told yet.
    members: watch::Receiver<Vec<String>>,
    silence_max: Duration,
    container: ServerHandle,
    http: HttpHandle,
    guests: Guests,
}

async fn accept(listener: tokio::net::TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match door.guests.admit(remote.ip()) {
                Ok(place) => drop(tokio::spawn(receive(stream, Arc::clone(&door), place))),
                Err(error) => door.guests.refused(remote, &error),
            },
            Err(error) => {
                warn!(%error, "cannot accept a connection of another node");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Finds out who has come and what for.
async fn receive(stream: TcpStream, door: Arc<Door>, place: Admitted) {
    let remote = SocketAddr::new(place.from, stream.peer_addr().map_or(0, |remote| remote.port()));
    let shaken = timeout(HANDSHAKE_TIME_MAX, door.acceptor.accept(stream)).await;
    let welcomed = match shaken {
        Ok(Ok(stream)) => {
            let (socket, session) = stream.into_inner();
            let node = session.peer_certificates().and_then(peer_node);
            let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
            let secured = prepare(&socket, door.silence_max)
                .and_then(|()| socket.into_std())
                .map(|socket| TlsStream::server(socket, session));
            (secured, node, protocol)
        }
        Ok(Err(error)) => return door.guests.refused(remote, &error),
        Err(_late) => return door.guests.refused(remote, &"no end of the handshake in time"),
    };
    drop(place);
    let is_removed = |node: &String| {
        let members = door.members.borrow();
        !members.is_empty() && !members.contains(node)
    };
    if let (_, Some(node), _) = &welcomed
        && is_removed(node)
    {
        return door.guests.refused(remote, &format!("{node} is no member"));
    }
    match welcomed {
        (Ok(stream), Some(node), Some(protocol)) if protocol == ALPN_LINK => {
            debug!(node, %remote, "a link from another node");
            door.container.link(stream).await;
        }
        (Ok(stream), Some(_), Some(protocol)) if protocol == ALPN_HTTP => {
            door.http.neighbour(stream)
        }
        (Ok(_), _, _) => door.guests.refused(remote, &"it does not say what it wants"),
        (Err(error), _, _) => door.guests.refused(remote, &error),
    }
}

/// Who is at the door, by address, and what became of those who were not let in.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<GuestBook>>);

#[derive(Default)]
struct GuestBook {
    by_address: HashMap<IpAddr, usize>,
    count: usize,
    refused: u64,
    told_at: Option<Instant>,
}

/// A handshake that is under way.
struct Admitted {
    guests: Guests,
    from: IpAddr,
}

impl Guests {
    fn admit(&self, from: IpAddr) -> Result<Admitted, &'static str> {
        let mut book = self.book();
        let of_one = book.by_address.get(&from).copied().unwrap_or_default();
        if book.count >= HANDSHAKES_MAX || of_one >= HANDSHAKES_OF_ONE_MAX {
            return Err("too many handshakes at a time");
        }
        book.count += 1;
        book.by_address.insert(from, of_one + 1);
        Ok(Admitted { guests: self.clone(), from })
    }

    fn refused(&self, remote: SocketAddr, why: &dyn std::fmt::Display) {
        let mut book = self.book();
        book.refused += 1;
        let is_told = book.told_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL);
        if !is_told {
            book.told_at = Some(Instant::now());
            let count = std::mem::take(&mut book.refused);
            warn!(%remote, %why, count, "refused who is no node of this cluster");
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, GuestBook> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut book = self.guests.book();
        book.count -= 1;
        if let Some(of_one) = book.by_address.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                book.by_address.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_begins_many_handshakes_takes_nobody_elses_place() {
        let guests = Guests::default();
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut admitted: Vec<_> = (0..HANDSHAKES_OF_ONE_MAX)
            .map(|_| guests.admit(one).unwrap_or_else(|_| panic!()))
            .collect();
        assert!(guests.admit(one).is_err());
        assert!(guests.admit(other).is_ok());
        admitted.pop();
        assert!(guests.admit(one).is_ok(), "there is room again");
        drop(admitted);
        assert!(guests.book().by_address.is_empty(), "nothing is kept of those who have gone");
        assert_eq!(guests.book().count, 0);
    }

    #[test]
    fn who_is_refused_is_told_of_once_in_a_while() {
        let guests = Guests::default();
        for _ in 0..5 {
            guests.refused("192.0.2.1:5".parse().unwrap(), &"no reason");
        }
        assert_eq!(guests.book().refused, 4, "to be told with the next one");
    }
}
