//! An edge: the manager's welcome becomes its settings and sockets, the manager's events become its own.

use std::sync::mpsc;
use std::time::Duration;

use config::{NodeConfig, PeerTransport};
use edge::forward::NatTraversal;
use edge::server::{EdgeSocket, Finding, OnFinding};
use edge::{Peer, Settings};
#[cfg(feature = "faults")]
use topology::protocol::Fault;
use topology::protocol::{Command, ToManager};
use topology::server::{Event, beat};
use topology::{ListenerTransport, ProcessName};
use tracing::{info, warn};
use transport::Transport;
use transport::tcp::TcpLimits;

use super::cluster::Membership;
use super::{Joined, cluster};

/// Events of the manager that wait for the edge; more wait in the socket.
const EVENTS_MAX: usize = 16;

pub(super) fn run(joined: Joined) -> anyhow::Result<()> {
    let told = joined.subscription.reporter();
    let on_finding = OnFinding::new(move |finding| told.report(&to_manager(finding)));
    let mut settings = settings(&joined, on_finding);
    let mut membership = Membership::new(&joined.welcome.directory);
    let begun = membership.begun(&joined.welcome.view);
    settings.credentials = begun.map(|credentials| cluster::of_edge(&credentials)).transpose()?;
    let beat_interval = joined.heartbeat().beat_interval();
    let sockets = joined
        .welcome
        .sockets
        .into_iter()
        .zip(joined.sockets)
        .map(|(passed, socket)| EdgeSocket {
            worker: passed.worker,
            transport: match passed.transport {
                ListenerTransport::Udp => Transport::Udp,
                ListenerTransport::Tcp => Transport::Tcp,
            },
            public: passed.public,
            socket,
        })
        .collect();
    let reporter = joined.subscription.reporter();
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    joined.subscription.spawn(move |event| {
        // An edge that has ended by itself needs no event.
        let tell = |event| drop(sender.send(event));
        if let Event::View(view) = &event
            && let Some(credentials) = membership.begun(view)
        {
            match cluster::of_edge(&credentials) {
                Ok(credentials) => tell(edge::server::Event::Credentials(credentials)),
                Err(error) => warn!(%error, "no links to the other nodes of the cluster"),
            }
        }
        if let Some(event) = edge_event(event) {
            tell(event);
        }
    });
    edge::run(settings, sockets, joined.welcome.view, &events, move |vitals| {
        reporter.ready();
        beat(reporter, beat_interval, vitals.pulses(), move || vitals.streams());
    })?;
    Ok(())
}

fn edge_event(event: Event) -> Option<edge::server::Event> {
    match event {
        Event::View(view) => Some(edge::server::Event::View(view)),
        Event::Command(Command::Drain { deadline_ms }) => {
            Some(edge::server::Event::Drain(Duration::from_millis(deadline_ms)))
        }
        Event::Keys(keys) => {
            info!("took over keys");
            Some(edge::server::Event::Keys(keys))
        }
        // Applications are for containers.
        Event::Applications(_) => None,
        // Its messages pass it in the loop that its heartbeats come from.
        #[cfg(feature = "faults")]
        Event::Command(Command::Fault(Fault::WedgeSip)) => None,
        Event::Command(Command::Stop) | Event::ManagerGone => Some(edge::server::Event::Stop),
    }
}

fn settings(joined: &Joined, on_finding: OnFinding) -> Settings {
    let config = &joined.config;
    Settings {
        name: joined.name.clone(),
        incarnation: joined.welcome.incarnation,
        keys: joined.welcome.keys.clone(),
        nat_traversal: if config.edge.nat_traversal { NatTraversal::On } else { NatTraversal::Off },
        heartbeat: joined.heartbeat(),
        peers: peers(config),
        tcp: tcp_limits(config),
        on_finding,
        credentials: None,
    }
}

fn to_manager(finding: Finding) -> ToManager {
    match finding {
        Finding::Unresponsive { name, incarnation } => {
            ToManager::Unresponsive { name, incarnation }
        }
        Finding::Responsive { name, incarnation } => ToManager::Responsive { name, incarnation },
    }
}

fn peers(config: &NodeConfig) -> Vec<Peer> {
    config
        .peer
        .iter()
        .map(|peer| Peer {
            name: ProcessName::new(&peer.name),
            transport: match peer.transport {
                PeerTransport::Udp => Transport::Udp,
                PeerTransport::Tcp => Transport::Tcp,
            },
            address: peer.address,
            weight: peer.weight,
        })
        .collect()
}

fn tcp_limits(config: &NodeConfig) -> TcpLimits {
    let tcp = config.edge.tcp;
    TcpLimits {
        connections_max: tcp.connections_max as usize,
        connections_per_remote_max: tcp.connections_per_address_max as usize,
        unwritten_bytes_max: tcp.unwritten_bytes_max as usize,
        connect_timeout: tcp.connect_timeout,
        message_timeout: tcp.message_timeout,
        write_timeout: tcp.write_timeout,
        idle_timeout: tcp.idle_timeout,
        ..TcpLimits::default()
    }
}
