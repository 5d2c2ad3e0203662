//! The SIP listening sockets of the edges: bound by the node's first manager before anything else, kept by the
//! guardian for the next one, passed to each life of their edge. They stay open between two lives, so that what
//! arrives meanwhile waits in the kernel. When guardian and manager are gone, the edges have them.
//!
//! One socket per address, transport and worker, joined by SO_REUSEPORT. The first of each group is
//! bound *without* it, which fails if anybody at all listens there already (with it, a second node
//! of the same user would silently get half of the datagrams), and joins the group afterwards.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use config::{EDGE_SOCKETS_MAX, EdgeInstance, Listen, NODE_SOCKETS_MAX, NodeConfig};
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use topology::protocol::{PassedSocket, SOCKETS_MAX};
use topology::view::{EdgeAddress, ListenerTransport, ProcessName};

use super::UpError;
use crate::guardian::protocol::{EdgeSockets, SocketGroup};

/// Connections that wait to be accepted; beyond, the kernel lets the phone retry.
const BACKLOG: i32 = 1024;

/// Ports to try for one that is free on all addresses for both transports.
const PORT_ATTEMPTS: usize = 64;

/// Descriptors that a manager cannot do without beside the sockets: connections, logs, a handle on each process.
const OTHER_DESCRIPTORS: usize = 256;

// An edge's end of the manager's socket takes no more of them.
const _: () = assert!(EDGE_SOCKETS_MAX <= SOCKETS_MAX);

/// The sockets of one edge.
pub(crate) struct EdgeListeners {
    pub(crate) name: ProcessName,
    workers: u16,
    groups: Vec<Group>,
    as_configured: Vec<String>,
}

/// The sockets of one address and transport.
struct Group {
    transport: ListenerTransport,
    local: SocketAddr,
    public: String,
    /// One per worker; none after [`EdgeListeners::close`].
    sockets: Vec<OwnedFd>,
}

/// Binds the sockets of every edge.
pub(crate) fn bind_all(config: &NodeConfig) -> Result<Vec<EdgeListeners>, UpError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = config.edge.workers.unwrap_or_else(|| u16::try_from(cores.min(64)).unwrap_or(64));
    let edges: Vec<EdgePlan<'_>> = config
        .edge
        .instances
        .iter()
        .map(|edge| EdgePlan::new(edge, workers))
        .collect::<Result<_, _>>()?;
    check_count(&edges, getrlimit(Resource::Nofile).current)?;
    edges.into_iter().map(|edge| bind_edge(config, edge, workers)).collect()
}

/// What one edge is to listen on.
struct EdgePlan<'c> {
    edge: &'c EdgeInstance,
    /// With the addresses that each entry stands for.
    listen: Vec<(&'c Listen, Vec<IpAddr>)>,
    sockets: usize,
}

impl<'c> EdgePlan<'c> {
    fn new(edge: &'c EdgeInstance, workers: u16) -> Result<EdgePlan<'c>, UpError> {
        let with_addresses =
            |listen: &'c Listen| Ok((listen, concrete(&edge.name, listen.address.ip())?));
        let listen: Vec<(&Listen, Vec<IpAddr>)> =
            edge.listen.iter().map(with_addresses).collect::<Result<_, UpError>>()?;
        let groups =
            listen.iter().map(|(listen, addresses)| transports(listen).count() * addresses.len());
        let sockets = groups.sum::<usize>() * usize::from(workers.max(1));
        Ok(EdgePlan { edge, listen, sockets })
    }
}

/// Whether so many sockets can be opened here and handed over, before the first of them is opened.
fn check_count(edges: &[EdgePlan<'_>], descriptors: Option<u64>) -> Result<(), UpError> {
    for EdgePlan { edge, sockets, .. } in edges {
        if *sockets > EDGE_SOCKETS_MAX {
            let (edge, sockets, max) = (edge.name.clone(), *sockets, EDGE_SOCKETS_MAX);
            return Err(UpError::TooManySockets { edge, sockets, max });
        }
    }
    let sockets: usize = edges.iter().map(|edge| edge.sockets).sum();
    if sockets > NODE_SOCKETS_MAX {
        return Err(UpError::TooManySocketsInAll { sockets, max: NODE_SOCKETS_MAX });
    }
    // Each once for itself, once on its way to the guardian.
    let needed = sockets * 2 + OTHER_DESCRIPTORS;
    match descriptors {
        Some(limit) if limit < needed as u64 => {
            Err(UpError::TooFewDescriptors { sockets, needed, limit })
        }
        Some(_) | None => Ok(()),
    }
}

fn bind_edge(
    config: &NodeConfig,
    plan: EdgePlan<'_>,
    workers: u16,
) -> Result<EdgeListeners, UpError> {
    let edge = plan.edge;
    let mut listeners = EdgeListeners {
        name: ProcessName::new(&edge.name),
        workers,
        groups: Vec::new(),
        as_configured: Vec::new(),
    };
    for (listen, addresses) in &plan.listen {
        let (port, bound) = bind_listen(&edge.name, listen, addresses, workers)?;
        for transport in transports(listen) {
            let address = SocketAddr::new(listen.address.ip(), port);
            listeners.as_configured.push(format!("{transport}:{address}"));
        }
        for (transport, local, sockets) in bound {
            let public =
                config.public_address(edge).map_or_else(|| local.to_string(), ToString::to_string);
            listeners.groups.push(Group { transport, local, public, sockets });
        }
    }
    Ok(listeners)
}

impl EdgeListeners {
    /// As another manager left them; `descriptors` are in the order of what is said, or none where none is there.
    pub(crate) fn restore(edges: &[EdgeSockets], descriptors: Vec<OwnedFd>) -> Vec<EdgeListeners> {
        let mut descriptors = descriptors.into_iter();
        let mut restore_group = |group: &SocketGroup| Group {
            transport: group.transport,
            local: group.local,
            public: group.public.clone(),
            sockets: descriptors.by_ref().take(usize::from(group.sockets)).collect(),
        };
        edges
            .iter()
            .map(|edge| EdgeListeners {
                name: edge.name.clone(),
                workers: edge.workers,
                groups: edge.groups.iter().map(&mut restore_group).collect(),
                as_configured: edge.as_configured.clone(),
            })
            .collect()
    }

    /// What these sockets are.
    pub(crate) fn describe(&self) -> EdgeSockets {
        let group = |group: &Group| SocketGroup {
            transport: group.transport,
            local: group.local,
            public: group.public.clone(),
            sockets: u16::try_from(group.sockets.len()).unwrap_or(u16::MAX),
        };
        EdgeSockets {
            name: self.name.clone(),
            workers: self.workers,
            as_configured: self.as_configured.clone(),
            groups: self.groups.iter().map(group).collect(),
        }
    }

    /// Duplicates of all sockets, in the order of [`describe`](Self::describe).
    pub(crate) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        self.groups.iter().flat_map(|group| &group.sockets).map(OwnedFd::try_clone).collect()
    }

    /// Takes what an edge that comes back hands over, for each group of which nothing is there.
    /// Says whether there was any.
    pub(crate) fn take_over(&mut self, passed: &[PassedSocket], descriptors: Vec<OwnedFd>) -> bool {
        let mut taken = false;
        let mut sockets: Vec<(&PassedSocket, OwnedFd)> = passed.iter().zip(descriptors).collect();
        sockets.sort_by_key(|(passed, _)| passed.worker);
        let closed: Vec<bool> = self.groups.iter().map(|group| group.sockets.is_empty()).collect();
        for (passed, socket) in sockets {
            let same =
                |group: &Group| group.transport == passed.transport && group.local == passed.local;
            if let Some(at) = self.groups.iter().position(same)
                && closed[at]
                // One for each worker: an edge that brings more is not believed.
                && self.groups[at].sockets.len() < usize::from(self.workers)
            {
                self.groups[at].sockets.push(socket);
                taken = true;
            }
        }
        taken
    }

    /// What was configured, wildcards included, with real ports: `udp:0.0.0.0:5060`.
    pub(crate) fn as_configured(&self) -> &[String] {
        &self.as_configured
    }

    /// The address of each group.
    pub(crate) fn addresses(&self) -> Vec<EdgeAddress> {
        let address = |group: &Group| EdgeAddress {
            transport: group.transport,
            own: group.local,
            public: group.public.clone(),
        };
        self.groups.iter().map(address).collect()
    }

    /// Duplicates of all sockets, and what each is.
    pub(crate) fn to_pass(&self) -> io::Result<(Vec<PassedSocket>, Vec<OwnedFd>)> {
        let mut passed = Vec::new();
        let mut descriptors = Vec::new();
        for (listener, group) in (0..).zip(&self.groups) {
            for (worker, socket) in (0..).zip(&group.sockets) {
                passed.push(PassedSocket {
                    listener,
                    worker,
                    transport: group.transport,
                    local: group.local,
                    public: group.public.clone(),
                });
                descriptors.push(socket.try_clone()?);
            }
        }
        Ok((passed, descriptors))
    }

    /// Closes the sockets, and says whether there were any; the ports may be lost to others.
    pub(crate) fn close(&mut self) -> bool {
        let mut closed = false;
        for group in &mut self.groups {
            closed |= !group.sockets.is_empty();
            group.sockets.clear();
        }
        closed
    }

    /// Binds again what was closed, and says whether there was any.
    pub(crate) fn reopen(&mut self) -> Result<bool, UpError> {
        let mut opened = false;
        for group in &mut self.groups {
            if group.sockets.is_empty() {
                group.sockets =
                    bind_group(group.transport, group.local, self.workers).map_err(|source| {
                        refused(self.name.as_str(), group.transport, group.local, source)
                    })?;
                opened = true;
            }
        }
        Ok(opened)
    }
}

fn transports(listen: &Listen) -> impl Iterator<Item = ListenerTransport> + use<> {
    let udp = listen.transports.udp().then_some(ListenerTransport::Udp);
    let tcp = listen.transports.tcp().then_some(ListenerTransport::Tcp);
    udp.into_iter().chain(tcp)
}

type Bound = Vec<(ListenerTransport, SocketAddr, Vec<OwnedFd>)>;

/// All sockets of one `listen` entry, and the port they share.
fn bind_listen(
    edge: &str,
    listen: &Listen,
    addresses: &[IpAddr],
    workers: u16,
) -> Result<(u16, Bound), UpError> {
    if listen.address.port() != 0 {
        let port = listen.address.port();
        return Ok((port, bind_port(edge, listen, addresses, port, workers)?));
    }
    for _ in 0..PORT_ATTEMPTS {
        let first = SocketAddr::new(addresses[0], 0);
        let transport = transports(listen).next().unwrap_or(ListenerTransport::Udp);
        let port = free_port(transport, first)
            .map_err(|source| refused(edge, transport, first, source))?;
        match bind_port(edge, listen, addresses, port, workers) {
            // Free for the first transport and address does not mean free for all.
            Err(UpError::AddressInUse { .. }) => {}
            other => return Ok((port, other?)),
        }
    }
    Err(UpError::NoFreePort { edge: edge.to_owned(), address: listen.address.ip() })
}

fn bind_port(
    edge: &str,
    listen: &Listen,
    addresses: &[IpAddr],
    port: u16,
    workers: u16,
) -> Result<Bound, UpError> {
    let mut bound = Vec::new();
    for address in addresses {
        for transport in transports(listen) {
            let local = SocketAddr::new(*address, port);
            match bind_group(transport, local, workers) {
                Ok(sockets) => bound.push((transport, local, sockets)),
                // An address that came with a wildcard and is just going away, or not usable yet.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrNotAvailable && addresses.len() > 1 =>
                {
                    tracing::warn!(edge, %local, "not listening there: {error}");
                }
                Err(source) => return Err(refused(edge, transport, local, source)),
            }
        }
    }
    Ok(bound)
}

/// The addresses that `address` stands for: itself, or those of all interfaces.
fn concrete(edge: &str, address: IpAddr) -> Result<Vec<IpAddr>, UpError> {
    if !address.is_unspecified() {
        return Ok(vec![address]);
    }
    let mut addresses = transport::local_addresses()?;
    addresses.retain(|local| local.is_ipv4() == address.is_ipv4());
    if addresses.is_empty() {
        return Err(UpError::NoAddress { edge: edge.to_owned(), address });
    }
    Ok(addresses)
}

fn refused(
    edge: &str,
    transport: ListenerTransport,
    address: SocketAddr,
    source: io::Error,
) -> UpError {
    let edge = edge.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => UpError::AddressInUse { edge, transport, address },
        _ => UpError::Bind { edge, transport, address, source },
    }
}

fn free_port(transport: ListenerTransport, address: SocketAddr) -> io::Result<u16> {
    let socket = open(transport, address)?;
    socket.bind(&address.into())?;
    let local = socket.local_addr()?.as_socket();
    Ok(local.map_or(0, |local| local.port()))
}

fn bind_group(
    transport: ListenerTransport,
    local: SocketAddr,
    workers: u16,
) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for worker in 0..workers.max(1) {
        let socket = open(transport, local)?;
        if worker > 0 {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&local.into())?;
        socket.set_reuse_port(true)?;
        sockets.push(socket);
    }
    if transport == ListenerTransport::Tcp {
        for socket in &sockets {
            socket.listen(BACKLOG)?;
        }
    }
    Ok(sockets.into_iter().map(OwnedFd::from).collect())
}

fn open(transport: ListenerTransport, address: SocketAddr) -> io::Result<Socket> {
    let (socket_type, protocol) = match transport {
        ListenerTransport::Udp => (Type::DGRAM, Protocol::UDP),
        ListenerTransport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), socket_type, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transport == ListenerTransport::Tcp {
        // Connections of the last run that linger in TIME_WAIT are no listeners.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
