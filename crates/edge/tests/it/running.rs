//! An edge in this process, on free ports, with the topology that a test gives it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::Duration;

use edge::Peer;
use edge::forward::NatTraversal;
use edge::server::{Edge, EdgeError, EdgeSocket, Finding, LinkCredentials, OnFinding, Settings};
use topology::{
    HeartbeatSettings, Incarnation, KeyRing, ProcessEntry, ProcessName, ProcessState, ProcessType,
    TopologyView,
};
use transport::Transport;
use transport::tcp::TcpLimits;

/// How long any step of a test may take before it counts as failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct RunningEdge {
    edge: Option<Edge>,
    serving: Receiver<()>,
    pub(crate) findings: Receiver<Finding>,
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

impl RunningEdge {
    pub(crate) fn start(
        workers: u16,
        containers: &[(&str, PathBuf)],
        peers: Vec<Peer>,
    ) -> RunningEdge {
        // So patient that a slow machine ends no route.
        let patient =
            HeartbeatSettings { interval: Duration::from_millis(100), allowed_miss_count: 100 };
        RunningEdge::start_with(patient, workers, containers, peers)
    }

    pub(crate) fn start_with(
        heartbeat: HeartbeatSettings,
        workers: u16,
        containers: &[(&str, PathBuf)],
        peers: Vec<Peer>,
    ) -> RunningEdge {
        let settings = Settings { heartbeat, ..settings(peers) };
        RunningEdge::launch(settings, workers, view(1, containers))
    }

    /// An edge of a cluster.
    pub(crate) fn of_cluster(view: TopologyView, credentials: LinkCredentials) -> RunningEdge {
        let settings = Settings { credentials: Some(credentials), ..settings(Vec::new()) };
        RunningEdge::launch(settings, 1, view)
    }

    fn launch(settings: Settings, workers: u16, view: TopologyView) -> RunningEdge {
        let (sockets, udp, tcp) = sockets(workers);
        let (found, findings) = channel();
        let on_finding = OnFinding::new(move |finding| {
            // The last ones come when nobody listens any more.
            let _ = found.send(finding);
        });
        let settings = Settings { on_finding, ..settings };
        let (told, serving) = sync_channel(1);
        let edge = Edge::start(settings, sockets, view, move |_| {
            told.send(()).expect("announced once, and there is room for it");
        });
        RunningEdge { edge: Some(edge.unwrap()), serving, findings, udp, tcp }
    }

    pub(crate) fn notify(&self, view: TopologyView) {
        self.edge.as_ref().expect("it runs until it is dropped").notify(view);
    }

    pub(crate) fn use_keys(&self, ring: &KeyRing) {
        self.edge.as_ref().expect("it runs until it is dropped").use_keys(ring);
    }

    /// Waits until every worker reads its sockets: each has a container that serves.
    pub(crate) fn wait_until_it_serves(&self) {
        self.serving.recv_timeout(DEADLINE).expect("every worker can reach a container");
    }
}

/// The sockets of an edge on free ports, and its addresses over UDP and TCP.
pub(crate) fn sockets(workers: u16) -> (Vec<EdgeSocket>, SocketAddr, SocketAddr) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let first = transport::udp::bind_socket(any).unwrap();
    let udp = SocketAddr::try_from(rustix::net::getsockname(&first).unwrap()).unwrap();
    let listening = transport::tcp::bind_listener(any).unwrap();
    let tcp = SocketAddr::try_from(rustix::net::getsockname(&listening).unwrap()).unwrap();
    let socket = |worker, transport, local: SocketAddr, socket| EdgeSocket {
        worker,
        transport,
        public: local.to_string(),
        socket,
    };
    let mut sockets =
        vec![socket(0, Transport::Udp, udp, first), socket(0, Transport::Tcp, tcp, listening)];
    for worker in 1..workers {
        sockets.push(socket(
            worker,
            Transport::Udp,
            udp,
            transport::udp::bind_socket(udp).unwrap(),
        ));
        sockets.push(socket(
            worker,
            Transport::Tcp,
            tcp,
            transport::tcp::bind_listener(tcp).unwrap(),
        ));
    }
    (sockets, udp, tcp)
}

/// The secrets that an edge starts with.
pub(crate) fn first_keys() -> KeyRing {
    KeyRing::new([7; 32])
}

pub(crate) fn settings(peers: Vec<Peer>) -> Settings {
    Settings {
        name: ProcessName::new("edge1"),
        incarnation: Incarnation(1),
        keys: first_keys(),
        nat_traversal: NatTraversal::On,
        heartbeat: HeartbeatSettings {
            interval: Duration::from_millis(100),
            allowed_miss_count: 100,
        },
        peers,
        tcp: TcpLimits::default(),
        on_finding: OnFinding::new(|_| {}),
        credentials: None,
    }
}

#[test]
fn an_edge_with_more_addresses_than_a_hello_names_does_not_start() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sockets = (0..=transport::link::ADDRESSES_MAX).map(|_| EdgeSocket {
        worker: 0,
        transport: Transport::Udp,
        public: "sip.example.com".to_owned(),
        socket: transport::udp::bind_socket(any).unwrap(),
    });
    let refused = Edge::start(settings(Vec::new()), sockets.collect(), view(1, &[]), |_| {});
    assert!(matches!(refused, Err(EdgeError::TooManyAddresses { count: 257, max: 256, .. })));
}

impl Drop for RunningEdge {
    fn drop(&mut self) {
        let stopped = self.edge.take().map(Edge::stop);
        if !std::thread::panicking() {
            stopped.unwrap().unwrap();
        }
    }
}

pub(crate) fn view(version: u64, containers: &[(&str, PathBuf)]) -> TopologyView {
    let entry = |(name, path): &(&str, PathBuf)| ProcessEntry {
        name: ProcessName::new(*name),
        process_type: ProcessType::Container,
        incarnation: Incarnation(0),
        pid: None,
        state: ProcessState::Ready,
        restarts: 0,
        link: Some(path.clone()),
        link_address: None,
        addresses: Vec::new(),
        weight: 100,
        is_silent: false,
        http: None,
    };
    TopologyView {
        version,
        node: "node".to_owned(),
        processes: containers.iter().map(entry).collect(),
        ..TopologyView::default()
    }
}

/// The fastest of three: what the edge does by itself is fast each time, a busy machine is not.
pub(crate) fn fastest(run: fn() -> Duration) -> Duration {
    (0..3).map(|_| run()).min().expect("three runs")
}
